//! Asks over the network, at the addresses at which the app was found.

use crate::base::rung::{Answer, Finding};
use crate::binding::App;
use crate::scenario::{HttpProbe, NetworkProbe, Pattern, Probe};
use crate::transport::network::{Asked, Expect, Target, Tls, Trust, arp, http, ping, tcp, uplink};
use std::net::SocketAddr;
use tokio::time::Instant;

/// Any of these is well where a scenario says nothing.
const WELL: std::ops::RangeInclusive<u16> = 200..=399;

/// Asks at each address until one answers. What the first one said stands if none does.
pub(super) async fn ask(app: &App, probe: &NetworkProbe, deadline: Instant) -> Asked {
    let mut first = None;
    for address in &app.addresses {
        let target = Target {
            address: SocketAddr::new(*address, port(probe)),
            interface: app.interfaces.iter().find_map(|interface| interface.bridge.as_deref()),
            // An app of ours can be at this host's own address only by forwarding.
            nat: address.is_loopback(),
        };
        let asked = ask_one(&target, probe, deadline).await;
        if asked.finding.answer == Answer::Alive {
            return asked;
        }
        first.get_or_insert(asked);
    }
    first.unwrap_or_else(|| {
        let reason = "no address of the app is known: bind `addresses`, or let it be discovered";
        Finding::unknown(Probe::Network(probe.clone()).rung(), reason).into()
    })
}

/// Whether a link of this device's own keeps the app's answers away. None is in between where the app
/// hangs on an interface of this device.
pub(super) fn is_cut_off(app: &App) -> bool {
    let is_here = app.interfaces.iter().any(|one| one.bridge.is_some() || one.vif.is_some());
    let all_down = || app.addresses.iter().all(|address| uplink::is_down(*address));
    !is_here && !app.addresses.is_empty() && all_down()
}

/// The port that is asked; 0 where the question knows none.
fn port(probe: &NetworkProbe) -> u16 {
    match probe {
        NetworkProbe::Ping | NetworkProbe::Arp => 0,
        NetworkProbe::Tcp { port, .. } | NetworkProbe::Closed { port } => *port,
        NetworkProbe::Http(page) => page.port,
    }
}

async fn ask_one(target: &Target<'_>, probe: &NetworkProbe, deadline: Instant) -> Asked {
    match probe {
        NetworkProbe::Ping => ping::ask(target, deadline).await.into(),
        NetworkProbe::Arp => arp::ask(target, deadline).await.into(),
        NetworkProbe::Closed { .. } => tcp::ask(target, &tcp::Question::Answer, deadline).await,
        NetworkProbe::Tcp { expect: None, .. } => {
            tcp::ask(target, &tcp::Question::Open, deadline).await
        }
        NetworkProbe::Tcp { send, expect: Some(pattern), .. } => {
            let send = send.as_deref().unwrap_or_default().as_bytes();
            let said = pattern.as_str().to_owned();
            let matches = |bytes: &[u8]| pattern.find(bytes).is_some();
            let expect = Expect { said: &said, matches: &matches };
            tcp::ask(target, &tcp::Question::Banner { send, expect }, deadline).await
        }
        NetworkProbe::Http(page) => ask_page(target, page, deadline).await,
    }
}

async fn ask_page(target: &Target<'_>, page: &HttpProbe, deadline: Instant) -> Asked {
    let tls =
        page.tls.then_some(Tls { trust: Trust::Anyone, valid_for: page.certificate_valid_for });
    let said = page.expect.as_ref().map(Pattern::as_str).unwrap_or_default().to_owned();
    let matches =
        |bytes: &[u8]| page.expect.as_ref().is_none_or(|pattern| pattern.find(bytes).is_some());
    let question = http::Question {
        path: &page.path,
        host: page.host.as_deref(),
        tls: tls.as_ref(),
        status: &[page.status.map_or(WELL, |status| status..=status)],
        body: page.expect.is_some().then_some(Expect { said: &said, matches: &matches }),
    };
    http::ask(target, &question, deadline).await
}
