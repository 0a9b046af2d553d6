//! Asks on a console.

use super::vmm::{self, Vmm};
use super::{Answer, App, BTreeMap, Chain, Finding, Instant, Rung, Secret};
use crate::scenario::{Credential, Exchange, Login, Port};
use crate::transport::console::{self, Console, Focus, Outcome, Script, converse};
use crate::transport::mux::Wiring;

/// What is asked, and where.
#[derive(Clone, Copy, Debug)]
pub(super) struct Question<'a> {
    /// Which console.
    pub(super) port: Port,
    /// Who logs in, if the console asks for it.
    pub(super) login: Option<&'a Login>,
    /// Whether a shell listens.
    pub(super) shell: bool,
    /// What is said.
    pub(super) dialogue: &'a [Exchange],
    /// What a login may need.
    pub(super) secrets: &'a BTreeMap<String, Secret>,
}

impl Question<'_> {
    fn word(&self, credential: &Credential) -> Result<String, String> {
        match credential {
            Credential::Plain(word) => Ok(word.clone()),
            Credential::Secret(name) => match self.secrets.get(name.as_str()) {
                Some(secret) => Ok(secret.reveal().to_owned()),
                None => Err(format!("the binding gives no secret `{name}`")),
            },
        }
    }
}

/// Asks. The first finding is the probe's own; the others are what it proves beside. Where nobody
/// answered, the hypervisor was looked at.
pub(super) async fn ask(
    app: &App,
    question: Question<'_>,
    deadline: Instant,
) -> (Vec<Finding>, Option<Vmm>) {
    let unknown = |reason: String| (vec![Finding::unknown(Rung::Userspace, reason)], None);
    let (path, missing) = match question.port {
        Port::App => (&app.console, "the app's console is not known: bind `console`"),
        Port::Shim => (&app.shim_console, "the app has no shim console"),
    };
    let Some(path) = path else { return unknown(missing.to_owned()) };
    let script = match script(question) {
        Ok(script) => script,
        Err(reason) => return unknown(reason),
    };
    // Which wiring it is would take the monitor to tell. What is typed holds no 0x01, so it is the
    // same on either.
    let talked = match Console::open(path, Wiring::Mux).await {
        Ok(console) => converse(console, &script, Focus::AS_FOUND, deadline).await,
        Err(error) => Err(error),
    };
    let (mut findings, heard) = match talked {
        Ok(report) => {
            let heard = !matches!(report.outcome, Outcome::Silent);
            (report.findings(), heard)
        }
        Err(error @ (console::Error::NotTaken { .. } | console::Error::Crowded { .. })) => {
            (vec![Finding::dead(Rung::Userspace, Chain(&error).to_string())], false)
        }
        Err(error) => return unknown(Chain(&error).to_string()),
    };
    if findings[0].answer != Answer::Dead {
        return (findings, None);
    }
    let look = vmm::look(app, Some(path)).await;
    let silence = findings.remove(0);
    findings.insert(0, look.interpret(silence, heard));
    (findings, Some(look))
}

fn script(question: Question<'_>) -> Result<Script, String> {
    let login = match question.login {
        Some(login) => Some(console::Login {
            user: question.word(&login.user)?,
            password: login
                .password
                .as_ref()
                .map_or(Ok(String::new()), |password| question.word(password))?,
        }),
        None => None,
    };
    let exchanges = question.dialogue.iter().map(|exchange| console::Exchange {
        send: exchange.send.clone(),
        expect: exchange.expect.clone(),
    });
    Ok(Script { login, exchanges: exchanges.collect(), shell: question.shell })
}
