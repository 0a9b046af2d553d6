//! The rules of a console that can kill its guest.

use super::lab::Guest;
use lifesign::hypervisor::qmp::Monitor;
use lifesign::transport::console::{Console, Exchange, Focus, Outcome, Script, converse};
use lifesign::transport::mux::Wiring;
use serde_json::json;
use std::time::Duration;
use tokio::time::Instant;

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

#[test]
fn no_byte_that_is_typed_harms_the_hypervisor() {
    let guest = Guest::up("bytes", &["--wiring", "eve"]);
    block_on(async {
        let mut console = Console::open(&guest.file("cons"), Wiring::Mux).await.unwrap();
        let mut heard = Vec::new();
        for byte in 0..=u8::MAX {
            // Alone, behind the multiplexer's escape, and behind an escape of the text itself.
            for text in [&[byte][..], &[0x01, byte], &[0x01, 0x01, byte]] {
                console.type_text(text).await.unwrap();
            }
            heard.clear();
            let soon = Instant::now() + Duration::from_millis(100);
            console.listen_until_quiet(&mut heard, Duration::from_millis(2), soon).await.unwrap();
            assert!(guest.lives(), "QEMU died of byte {byte:#04x}");
        }
        drop(console);
        let mut monitor = Monitor::connect(&guest.file("qmp")).await.unwrap();
        let status = monitor.ask("query-status", json!({})).await.unwrap();
        assert_eq!(status["status"], "running");
    });
    // What was typed ended the shell more than once (^D); the next one answers on the same front end,
    // as soon as it is done with the rest.
    let report = block_on(async {
        let console = Console::open(&guest.file("cons"), Wiring::Mux).await.unwrap();
        let (send, expect) = ("uptime".to_owned(), "load average".to_owned());
        let exchanges = vec![Exchange { send, expect: expect.as_str().into() }];
        let script = Script { login: None, exchanges, shell: true };
        let deadline = Instant::now() + Duration::from_secs(20);
        converse(console, &script, Focus::AS_FOUND, deadline).await.unwrap()
    });
    assert_eq!(report.outcome, Outcome::Answered, "{report:?}");
}

#[test]
fn the_same_bytes_unescaped_would_have_ended_it() {
    use std::io::Write;
    use std::os::unix::net::UnixStream;

    let guest = Guest::up("raw", &["--wiring", "eve"]);
    let mut raw = UnixStream::connect(guest.file("cons")).unwrap();
    raw.write_all(&[0x01, b'x']).unwrap();
    for _ in 0..100 {
        if !guest.lives() {
            return;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    panic!(
        "QEMU outlived `01 78`: the guest is not wired as EVE wires it, so the test above proves nothing"
    );
}
