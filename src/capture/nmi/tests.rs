//! Against a guest that answers on its console, one that does not, and one that must not be asked.

use super::*;
use crate::capture::Target;
use crate::capture::fake::{Fake, Manner};
use crate::evidence::Evidence;
use crate::evidence::report::StepReport;

const LONG: Duration = Duration::from_secs(60);

const ANSWER: &str = "\
login: \r\n[   12.3] Uhhuh. NMI received for unknown reason 21 on CPU 1.\r\n\
[   12.4] Dazed and confused, but trying to continue\r\n";

async fn sent_to(fake: &Fake, patience: Duration) -> (Capture, StepReport) {
    let (console, qmp) = (Some(fake.path("cons")), Some(fake.path("qmp")));
    let target = Target { console, qmp, ..Target::default() };
    let deadline = Instant::now() + patience;
    let mut capture = send(&target, &[], deadline, &Meter::new(1, &|_| {})).await;
    let step = capture.steps.remove(0);
    (capture, step)
}

#[tokio::test]
async fn what_the_console_says_is_taken() {
    let fake = Fake::new(Manner { says: ANSWER, ..Manner::GOOD });
    let (capture, step) = sent_to(&fake, LONG).await;
    assert_eq!(step.reason, "the kernel's console answered: CPU 1 executes and took it");
    assert_eq!(step.outcome, Outcome::Done);
    assert_eq!(capture.artifacts[0].data, ANSWER.as_bytes());
    let evidence = Evidence::read(&capture.artifacts);
    let after = evidence.after_nmi.unwrap().cpus.remove(0);
    assert!(!after.samples[0].interrupts_on() && evidence.qmp.is_none());
    assert_eq!(fake.did(), ["inject-nmi"], "once");
}

#[tokio::test]
async fn other_words_are_no_answer() {
    let fake = Fake::new(Manner { says: "login: ", ..Manner::GOOD });
    let (capture, step) = sent_to(&fake, Duration::from_secs(2)).await;
    assert_eq!(step.outcome, Outcome::Silent);
    assert!(step.reason.starts_with("nothing: its console has no word of it"), "{}", step.reason);
    assert_eq!(capture.artifacts[0].data, b"login: ");
}

#[tokio::test]
async fn a_guest_that_does_not_run_and_one_that_a_person_uses_get_none() {
    for manner in [
        Manner { state: "paused", ..Manner::GOOD },
        Manner { state: "save-vm", ..Manner::GOOD },
        Manner { held: true, ..Manner::GOOD },
    ] {
        let fake = Fake::new(manner);
        let (capture, step) = sent_to(&fake, LONG).await;
        assert_eq!((step.outcome, capture.artifacts.len()), (Outcome::Skipped, 0), "{step:?}");
        assert_eq!(fake.did(), Vec::<String>::new(), "{manner:?}");
    }
}
