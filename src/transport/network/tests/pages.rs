//! Pages.

use super::*;
use crate::base::time::Clock;
use crate::transport::network::http::{Question, ask};
use rustls::{RootCertStore, ServerConfig};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use std::ops::RangeInclusive;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio_rustls::TlsAcceptor;

const FINE: &[RangeInclusive<u16>] = &[200..=399];
const PAGE: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\nall is well\n";

fn plain(body: Option<Expect<'_>>) -> Question<'_> {
    Question { path: "/health", host: None, tls: None, status: FINE, body }
}

async fn asked(target: &Target<'_>, question: &Question<'_>, ms: u64) -> String {
    told(target, &ask(target, question, within(ms)).await)
}

/// Reads a request, and answers with this.
async fn answering(answer: &'static [u8]) -> Server {
    Server::start(move |stream| respond(stream, answer)).await
}

async fn respond<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S, answer: &'static [u8]) {
    let mut request = [0; 1024];
    let _ = stream.read(&mut request).await;
    let _ = stream.write_all(answer).await;
    let _ = stream.flush().await;
    let _ = stream.read(&mut request).await;
}

#[tokio::test]
async fn a_page_is_judged_by_status_and_text() {
    let well = has("all is well");
    let ill = has("all is lost");
    let server = answering(PAGE).await;
    let target = server.target();
    let nat = Target { nat: true, ..target };
    let failing = answering(b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n").await;
    let all = [
        asked(&target, &plain(None), 5_000).await,
        asked(&nat, &plain(Some(containing("all is well", &well))), 5_000).await,
        asked(&target, &plain(Some(containing("all is lost", &ill))), 5_000).await,
        asked(&failing.target(), &plain(None), 5_000).await,
    ];
    insta::assert_snapshot!(all.join("\n"), @"
    alive service: APP answers with status 200
    alive service: APP answers with status 200 and says `all is well`
    dead service: APP answers with status 200 and says `all is well` (12 bytes), but not `all is lost`; beside it alive userspace: a process answered at APP
    dead service: APP answers with status 503; beside it alive userspace: a process answered at APP
    ");
}

#[tokio::test]
async fn the_request_names_the_host() {
    let server = Server::start(|mut stream| async move {
        let mut request = [0; 1024];
        let count = stream.read(&mut request).await.unwrap();
        let named = has("host: app.example")(&request[..count]);
        let answer: &[u8] = if named { PAGE } else { b"HTTP/1.1 421 No\r\n\r\n" };
        stream.write_all(answer).await.unwrap();
    })
    .await;
    let question = Question { host: Some("app.example"), ..plain(None) };
    let asked = ask(&server.target(), &question, within(5_000)).await;
    assert_eq!(asked.finding.answer, Answer::Alive, "{asked:?}");
}

#[tokio::test]
async fn servers_that_are_none() {
    let rubbish = answering(b"\x1b[31mSSH-2.0\xff\r\n\r\n").await;
    let mute = Server::start(silent).await;
    let gone = Server::start(|mut stream| async move {
        let _ = stream.read(&mut [0; 1024]).await;
    })
    .await;
    let all = [
        asked(&rubbish.target(), &plain(None), 5_000).await,
        asked(&mute.target(), &plain(None), 100).await,
        asked(&gone.target(), &plain(None), 5_000).await,
        asked(&closed().await, &plain(None), 5_000).await,
        asked(&closed().await, &Question { path: "no slash", ..plain(None) }, 5_000).await,
        asked(&closed().await, &Question { path: "/a b\r\nX: y", ..plain(None) }, 5_000).await,
    ];
    insta::assert_snapshot!(all.join("\n"), @r"
    dead service: APP does not speak HTTP: invalid HTTP version parsed; beside it alive userspace: a process answered at APP
    dead service: APP takes connections and does not answer; beside it alive kernel: its kernel completed the connection to APP
    dead service: APP gives no answer: connection closed before message completed; beside it alive kernel: its kernel completed the connection to APP
    dead service: nobody listens at APP; beside it alive kernel: APP was answered with a reset, which its kernel does by itself
    unknown service: `no slash` cannot be asked of a web server
    unknown service: `/a b\u{d} X: y` cannot be asked of a web server
    ");
}

#[tokio::test]
async fn pages_and_headers_without_end_are_cut() {
    let ill = has("all is lost");
    let question = plain(Some(containing("all is lost", &ill)));
    let page = Server::start(|mut stream| async move {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await;
        flood(stream).await;
    })
    .await;
    let headers = Server::start(|mut stream| async move {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nX: ").await;
        flood(stream).await;
    })
    .await;
    let started = Instant::now();
    let all = [
        asked(&page.target(), &question, 5_000).await,
        asked(&headers.target(), &question, 5_000).await,
    ];
    assert!(started.elapsed() < Duration::from_secs(4), "cut by size, not by time");
    insta::assert_snapshot!(all.join("\n"), @"
    dead service: APP answers with status 200 and says `xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx` (65536 bytes), but not `all is lost`; beside it alive userspace: a process answered at APP
    dead service: APP does not speak HTTP: message head is too large; beside it alive userspace: a process answered at APP
    ");
}

#[tokio::test]
async fn a_page_that_drips_is_judged_by_what_came() {
    let well = has("all is well");
    let question = plain(Some(containing("all is well", &well)));
    let server = Server::start(|mut stream| async move {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\nall is well").await;
        while stream.write_all(b".").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    let asked = ask(&server.target(), &question, within(500)).await;
    assert_eq!(asked.finding.answer, Answer::Alive, "{asked:?}");
    let ill = has("all is lost");
    let question = plain(Some(containing("all is lost", &ill)));
    let started = Instant::now();
    let asked = ask(&server.target(), &question, within(300)).await;
    assert_eq!(asked.finding.answer, Answer::Dead, "{asked:?}");
    assert!(started.elapsed() < Duration::from_secs(2));
}

// === TLS ===

const DAY: Duration = Duration::from_hours(24);

/// A server with a certificate for 127.0.0.1 that ends so many days from now.
async fn secure(days: i64) -> (Server, CertificateDer<'static>) {
    let mut params = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    let today = Clock::wall().as_millis();
    let day = |days: i64| {
        let at = jiff::Timestamp::from_millisecond(today).unwrap()
            + jiff::SignedDuration::from_hours(24 * days);
        let date = at.to_zoned(jiff::tz::TimeZone::UTC).date();
        rcgen::date_time_ymd(
            date.year().into(),
            date.month().unsigned_abs(),
            date.day().unsigned_abs(),
        )
    };
    params.not_before = day(-100);
    params.not_after = day(days);
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate: CertificateDer<'static> = params.self_signed(&key).unwrap().into();
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let config =
        ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.clone()], key)
            .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let server = Server::start(move |stream| {
        let acceptor = acceptor.clone();
        async move {
            if let Ok(stream) = acceptor.accept(stream).await {
                respond(stream, PAGE).await;
            }
        }
    })
    .await;
    (server, certificate)
}

async fn over(tls: &Tls, server: &Server) -> String {
    let question = Question { tls: Some(tls), ..plain(None) };
    let told = asked(&server.target(), &question, 5_000).await;
    // The day of the test does not matter.
    let words = told.split(' ').map(|word| match word.split_once(":00:00Z") {
        Some((_, rest)) => format!("THEN{rest}"),
        None => word.to_owned(),
    });
    words.collect::<Vec<_>>().join(" ")
}

#[tokio::test]
async fn a_certificate_is_read_though_nobody_vouches_for_it() {
    let (server, _) = secure(10).await;
    let (ended, _) = secure(-10).await;
    let anyone = |valid_for| Tls { trust: Trust::Anyone, valid_for };
    let all = [
        over(&anyone(None), &server).await,
        over(&anyone(Some(DAY)), &server).await,
        over(&anyone(Some(30 * DAY)), &server).await,
        over(&anyone(None), &ended).await,
        over(&anyone(Some(Duration::ZERO)), &ended).await,
    ];
    insta::assert_snapshot!(all.join("\n"), @"
    alive service: APP answers with status 200, with a certificate until THEN
    alive service: APP answers with status 200, with a certificate until THEN
    dead service: APP answers with status 200, but its certificate ends at THEN, in 9 days, and 30 days were asked for; beside it alive userspace: a process answered at APP
    alive service: APP answers with status 200, with a certificate that ended at THEN
    dead service: APP answers with status 200, but its certificate ended at THEN; beside it alive userspace: a process answered at APP
    ");
}

#[tokio::test]
async fn who_is_not_vouched_for_is_refused() {
    let (server, certificate) = secure(10).await;
    let (other, _) = secure(10).await;
    let mut roots = RootCertStore::empty();
    roots.add(certificate).unwrap();
    let tls = Tls { trust: Trust::Roots(Arc::new(roots)), valid_for: None };
    let all = [over(&tls, &server).await, over(&tls, &other).await];
    insta::assert_snapshot!(all.join("\n"), @"
    alive service: APP answers with status 200, with a certificate until THEN
    dead service: APP does not speak TLS with us: invalid peer certificate: BadSignature; beside it alive userspace: a process answered at APP
    ");
}

#[tokio::test]
async fn what_does_not_speak_tls() {
    let tls = Tls { trust: Trust::Anyone, valid_for: None };
    let page = answering(PAGE).await;
    let flooding = Server::start(flood).await;
    let mute = Server::start(silent).await;
    let question = Question { tls: Some(&tls), ..plain(None) };
    let all = [
        over(&tls, &page).await,
        over(&tls, &flooding).await,
        asked(&mute.target(), &question, 100).await,
    ];
    insta::assert_snapshot!(all.join("\n"), @"
    dead service: APP does not speak TLS with us: received corrupt message of type InvalidContentType; beside it alive userspace: a process answered at APP
    dead service: APP does not speak TLS with us: received corrupt message of type InvalidContentType; beside it alive userspace: a process answered at APP
    dead service: APP did not begin to speak TLS in time; beside it alive kernel: its kernel completed the connection to APP
    ");
}
