//! The page that tells how the program does.
//!
//! `/health` says `healthy`, or `degraded` and why (503); `/healthz` says whether the program is up
//! and running its loop; `/livez` whether it runs at all; `/metrics` has the numbers. A program may add documents of
//! its own.

use super::health::Health;
use super::metrics::Registry;
use super::signal;
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::CONTENT_TYPE;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// A scraper or two and a person: more at once is somebody else.
const CONNECTIONS: usize = 32;

/// Nobody takes longer to send a request of one line.
const REQUEST_TIME: Duration = Duration::from_secs(5);

/// What the page shows.
#[derive(Clone)]
pub struct Page {
    /// The numbers.
    pub registry: Arc<Registry>,
    /// The health.
    pub health: Health,
    /// What else the program tells, as JSON, by its path.
    pub more: Vec<(&'static str, Show)>,
}

/// Makes a JSON document of what is so at this moment.
pub type Show = Arc<dyn Fn() -> String + Send + Sync>;

/// Serves the page until `stop` turns true.
pub async fn serve(listener: TcpListener, page: Page, mut stop: watch::Receiver<bool>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            () = signal::told(&mut stop) => break,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept(), if connections.len() < CONNECTIONS => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(connection(stream, page.clone()));
                }
                // Out of descriptors: the next ones will be served when there are some again.
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            },
        }
    }
}

async fn connection(stream: TcpStream, page: Page) {
    let answer = service_fn(move |request| {
        let page = page.clone();
        async move { Ok::<_, Infallible>(respond(&request, &page)) }
    });
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(REQUEST_TIME)
        .serve_connection(TokioIo::new(stream), answer)
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "a client of the status page went away");
    }
}

fn respond(request: &Request<Incoming>, page: &Page) -> Response<Full<Bytes>> {
    if request.method() != Method::GET && request.method() != Method::HEAD {
        return text(StatusCode::METHOD_NOT_ALLOWED, "only GET\n".to_owned());
    }
    match request.uri().path() {
        "/health" => {
            let report = page.health.report();
            let healthy = report.starts_with("healthy");
            text(if healthy { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, report)
        }
        "/healthz" | "/livez" => text(StatusCode::OK, "ok\n".to_owned()),
        "/metrics" => metrics(page),
        path => match page.more.iter().find(|(own, _)| *own == path) {
            Some((_, show)) => response(StatusCode::OK, "application/json", show()),
            None => text(StatusCode::NOT_FOUND, not_found(page)),
        },
    }
}

fn not_found(page: &Page) -> String {
    let more = page.more.iter().map(|(path, _)| *path);
    let all: Vec<&str> =
        ["/health", "/healthz", "/livez", "/metrics"].into_iter().chain(more).collect();
    format!("there are {}\n", all.join(", "))
}

fn metrics(page: &Page) -> Response<Full<Bytes>> {
    let mut body = String::new();
    match prometheus_client::encoding::text::encode(&mut body, &page.registry) {
        Ok(()) => {
            let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            response(StatusCode::OK, kind, body)
        }
        Err(_) => {
            text(StatusCode::INTERNAL_SERVER_ERROR, "a metric cannot be written\n".to_owned())
        }
    }
}

fn text(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    response(status, "text/plain; charset=utf-8", body)
}

fn response(status: StatusCode, kind: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static(kind));
    response
}
