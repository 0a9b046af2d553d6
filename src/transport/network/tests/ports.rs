//! Ports.

use super::*;
use crate::transport::network::tcp::{Question, ask};
use tokio::io::AsyncReadExt;

async fn banner(target: &Target<'_>, send: &[u8], ms: u64) -> String {
    let ssh = has("SSH-");
    let question = Question::Banner { send, expect: containing("SSH-", &ssh) };
    told(target, &ask(target, &question, within(ms)).await)
}

#[tokio::test]
async fn a_banner_proves_the_service() {
    let server = Server::start(|mut stream| async move {
        stream.write_all(b"SSH-2.0-OpenSSH_9.2\r\n").await.unwrap();
        silent(stream).await;
    })
    .await;
    let told = banner(&server.target(), b"", 5_000).await;
    insta::assert_snapshot!(told, @"alive service: APP says `SSH-2.0-OpenSSH_9.2`");
    let nat = Target { nat: true, ..server.target() };
    assert_eq!(banner(&nat, b"", 5_000).await, told);
}

#[tokio::test]
async fn a_server_that_wants_to_be_asked_is_asked() {
    let server = Server::start(|mut stream| async move {
        let mut asked = [0; 6];
        stream.read_exact(&mut asked).await.unwrap();
        assert_eq!(&asked, b"PING\r\n");
        stream.write_all(b"SSH-PONG\r\n").await.unwrap();
    })
    .await;
    let told = banner(&server.target(), b"PING\r\n", 5_000).await;
    insta::assert_snapshot!(told, @"alive service: APP says `SSH-PONG`");
}

#[tokio::test]
async fn a_kernel_completes_connects_for_a_dead_server() {
    // Nobody ever accepts.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let target = at(listener.local_addr().unwrap());
    let open = ask(&target, &Question::Open, within(5_000)).await;
    insta::assert_snapshot!(told(&target, &open), @"alive kernel: its kernel completed the connection to APP, which it does for a dead server, too: expect a banner to prove the service");
    insta::assert_snapshot!(banner(&target, b"", 100).await, @"dead service: APP takes connections and says nothing; `SSH-` was expected; beside it alive kernel: its kernel completed the connection to APP");
}

#[tokio::test]
async fn through_a_nat_a_connect_proves_nothing() {
    let server = Server::start(silent).await;
    let target = Target { nat: true, ..server.target() };
    for question in [Question::Open, Question::Answer] {
        let asked = ask(&target, &question, within(5_000)).await;
        assert_eq!((asked.finding.answer, &asked.beside), (Answer::Unknown, &None), "{asked:?}");
    }
    insta::assert_snapshot!(banner(&target, b"", 100).await, @"dead service: APP takes connections and says nothing; `SSH-` was expected");
    let nothing = Target { nat: true, ..closed().await };
    insta::assert_snapshot!(banner(&nothing, b"", 100).await, @"unknown service: nothing is forwarded from APP to the guest");
}

#[tokio::test]
async fn a_reset_proves_the_kernel_and_refutes_the_service() {
    let target = closed().await;
    let answer = ask(&target, &Question::Answer, within(5_000)).await;
    insta::assert_snapshot!(told(&target, &answer), @"alive kernel: APP was answered with a reset, which its kernel does by itself");
    let open = ask(&target, &Question::Open, within(5_000)).await;
    insta::assert_snapshot!(told(&target, &open), @"dead service: nobody listens at APP; beside it alive kernel: APP was answered with a reset, which its kernel does by itself");
}

#[tokio::test]
async fn a_full_backlog_refutes_the_service_alone() {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&"127.0.0.1:0".parse::<SocketAddr>().unwrap().into()).unwrap();
    socket.listen(0).unwrap();
    let target = at(socket.local_addr().unwrap().as_socket().unwrap());
    let _first = std::net::TcpStream::connect(target.address).unwrap();
    let asked = ask(&target, &Question::Open, within(200)).await;
    insta::assert_snapshot!(told(&target, &asked), @"dead service: nobody took the connection to APP in time");
}

#[tokio::test]
async fn a_flood_is_cut_and_shown_harmless() {
    let server = Server::start(|mut stream| async move {
        let _ = stream.write_all(b"\x1b[2J\xff\n").await;
        flood(stream).await;
    })
    .await;
    let started = Instant::now();
    insta::assert_snapshot!(banner(&server.target(), b"", 5_000).await, @r"dead service: APP says `\u{1b}[2J\xff` and so on, 4096 bytes of it, but not `SSH-`; beside it alive userspace: a process answered at APP");
    assert!(started.elapsed() < Duration::from_secs(1), "it is cut by size, not by time");
}

#[tokio::test]
async fn a_drip_does_not_move_the_deadline() {
    let server = Server::start(|mut stream| async move {
        while stream.write_all(b".").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    let started = Instant::now();
    let told = banner(&server.target(), b"", 300).await;
    assert!(started.elapsed() < Duration::from_secs(2));
    assert!(told.starts_with("dead service: APP says `..."), "{told}");
}

#[tokio::test]
async fn one_that_hangs_up() {
    let server = Server::start(|stream| async move { drop(stream) }).await;
    insta::assert_snapshot!(banner(&server.target(), b"", 5_000).await, @"dead service: APP closes the connection without a word; `SSH-` was expected; beside it alive kernel: its kernel completed the connection to APP");
}

#[tokio::test]
async fn one_that_takes_nothing_is_not_waited_for() {
    let server = Server::start(silent).await;
    let told = banner(&server.target(), &[b'x'; 8 << 20], 300).await;
    assert!(told.starts_with("dead service: APP takes connections and says nothing"), "{told}");
}

#[tokio::test]
async fn what_this_host_cannot_do_is_unknown() {
    let target = Target { interface: Some("no-such-bridge"), ..closed().await };
    for question in [Question::Open, Question::Answer] {
        let asked = ask(&target, &question, within(5_000)).await;
        assert_eq!(asked.finding.answer, Answer::Unknown, "{asked:?}");
        assert_eq!(asked.finding.reason, "this host has no interface `no-such-bridge`");
    }
    let loopback = Target { interface: Some("lo"), ..closed().await };
    let asked = ask(&loopback, &Question::Answer, within(5_000)).await;
    assert_eq!(asked.finding.answer, Answer::Alive, "{asked:?}");
}
