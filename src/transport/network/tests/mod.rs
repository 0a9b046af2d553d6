//! Real sockets: servers of all kinds on the loopback, neighbours in namespaces of their own.

mod neighbours;
mod pages;
mod ports;

use super::*;
use crate::base::rung::Answer;
use std::future::Future;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::Instant;

/// A server that treats every connection in the same way, for as long as it is kept.
struct Server {
    address: SocketAddr,
    _tasks: JoinSet<()>,
}

impl Server {
    async fn start<F, Served>(serve: F) -> Self
    where
        F: Fn(TcpStream) -> Served + Send + 'static,
        Served: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(serve(stream));
            }
        });
        Self { address, _tasks: tasks }
    }

    fn target(&self) -> Target<'static> {
        at(self.address)
    }
}

fn at(address: SocketAddr) -> Target<'static> {
    Target { address, interface: None, nat: false }
}

/// A port at which nobody listens.
async fn closed() -> Target<'static> {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    at(listener.local_addr().unwrap())
}

fn within(ms: u64) -> Instant {
    Instant::now() + Duration::from_millis(ms)
}

fn containing<'a>(said: &'a str, matches: &'a (dyn Fn(&[u8]) -> bool + Sync)) -> Expect<'a> {
    Expect { said, matches }
}

fn has(text: &'static str) -> impl Fn(&[u8]) -> bool + Sync {
    move |heard| heard.windows(text.len()).any(|window| window == text.as_bytes())
}

/// `alive service: why; beside it alive kernel: why`, without the port.
fn told(target: &Target<'_>, asked: &Asked) -> String {
    let one = |f: &Finding| format!("{} {}: {}", f.answer, f.rung, f.reason);
    let beside = asked.beside.as_ref().map(|beside| format!("; beside it {}", one(beside)));
    let told = one(&asked.finding) + &beside.unwrap_or_default();
    told.replace(&target.address.to_string(), "APP")
}

/// Writes for ever.
async fn flood(mut stream: TcpStream) {
    while stream.write_all(&[b'x'; 65536]).await.is_ok() {}
}

/// Keeps silent for ever.
async fn silent(stream: TcpStream) {
    std::future::pending::<()>().await;
    drop(stream);
}
