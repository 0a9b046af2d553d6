//! A page over HTTP or HTTPS: its status, what it says, and how long its certificate holds.
//!
//! Redirections are answers, not errands: they are not followed, for they would lead the device
//! wherever a guest says.

use super::dial::{connected, dial, service_without};
use super::tcp::{excerpt, spoke};
use super::tls::{Ends, ends, shake};
use super::{Asked, Expect, Target, Tls};
use crate::base::chain::Chain;
use crate::base::limits;
use crate::base::rung::{Finding, Rung};
use crate::base::text::harmless_line;
use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::header::{ACCEPT, CONNECTION, HOST, USER_AGENT};
use hyper::{Request, Response, Version};
use hyper_util::rt::TokioIo;
use std::io;
use std::ops::RangeInclusive;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, timeout_at};

/// What is asked of a server.
#[derive(Clone)]
pub struct Question<'a> {
    /// The path and query, beginning with a slash.
    pub path: &'a str,
    /// The name of the server, if it goes by one; else its address.
    pub host: Option<&'a str>,
    /// TLS, if it is HTTPS.
    pub tls: Option<&'a Tls>,
    /// Any of these is well.
    pub status: &'a [RangeInclusive<u16>],
    /// What the page must say, in its first [`limits::PAGE_BYTES`].
    pub body: Option<Expect<'a>>,
}

/// How far a conversation got.
enum Page {
    /// As it was asked for, in words.
    Well(String),
    /// An answer, but another; in words.
    Badly(String),
    /// No answer, or none that is HTTP; in words.
    None(String),
}

/// Asks.
pub async fn ask(target: &Target<'_>, question: &Question<'_>, deadline: Instant) -> Asked {
    let Some(request) = request(target, question) else {
        let reason = format!(
            "`{}` cannot be asked of a web server",
            harmless_line(question.path.as_bytes())
        );
        return Finding::unknown(Rung::Service, reason).into();
    };
    let stream = match dial(target, deadline).await {
        Ok(stream) => stream,
        Err(refusal) => return service_without(target, refusal),
    };
    let Some(tls) = question.tls else {
        return judge(target, get(stream, request, question, deadline).await);
    };
    let shaken = shake(stream, tls, question.host, target.address.ip());
    let stream = match timeout_at(deadline, shaken).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            // It may name whom the certificate is for, in words of the guest's choice.
            let why = harmless_line(error.to_string().as_bytes());
            let why = format!("does not speak TLS with us: {why}");
            let spoke = error.kind() == io::ErrorKind::InvalidData;
            return judge(target, if spoke { Page::Badly(why) } else { Page::None(why) });
        }
        Err(_) => {
            return judge(target, Page::None("did not begin to speak TLS in time".to_owned()));
        }
    };
    let ends = ends(&stream, tls);
    let page = get(stream, request, question, deadline).await;
    judge(target, with_certificate(page, ends))
}

fn request(target: &Target<'_>, question: &Question<'_>) -> Option<Request<Empty<Bytes>>> {
    if !question.path.starts_with('/') {
        return None;
    }
    let address = target.address.to_string();
    Request::get(question.path)
        .version(Version::HTTP_11)
        .header(HOST, question.host.unwrap_or(&address))
        .header(USER_AGENT, concat!("lifesign/", env!("CARGO_PKG_VERSION")))
        .header(ACCEPT, "*/*")
        .header(CONNECTION, "close")
        .body(Empty::new())
        .ok()
}

async fn get<S>(
    stream: S,
    request: Request<Empty<Bytes>>,
    question: &Question<'_>,
    deadline: Instant,
) -> Page
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let shaken = hyper::client::conn::http1::Builder::new()
        .max_buf_size(limits::PAGE_HEAD_BYTES)
        .handshake(TokioIo::new(stream))
        .await;
    let (mut sender, connection) = match shaken {
        Ok(both) => both,
        Err(error) => return not_http(&error),
    };
    // Both in this one task: when the answer is there or time is up, the connection goes with it.
    let connection = async {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a web server broke the connection");
        }
        std::future::pending::<Page>().await
    };
    let conversation = async {
        match timeout_at(deadline, sender.send_request(request)).await {
            Ok(Ok(response)) => read(response, question, deadline).await,
            Ok(Err(error)) => not_http(&error),
            Err(_) => Page::None("takes connections and does not answer".to_owned()),
        }
    };
    tokio::select! {
        biased;
        page = conversation => page,
        page = connection => page,
    }
}

fn not_http(error: &hyper::Error) -> Page {
    if error.is_parse() || error.is_parse_too_large() {
        return Page::Badly(format!("does not speak HTTP: {}", Chain(error)));
    }
    Page::None(format!("gives no answer: {}", Chain(error)))
}

async fn read(response: Response<Incoming>, question: &Question<'_>, deadline: Instant) -> Page {
    let status = response.status().as_u16();
    if !question.status.iter().any(|range| range.contains(&status)) {
        return Page::Badly(format!("answers with status {status}"));
    }
    let Some(expect) = &question.body else {
        return Page::Well(format!("answers with status {status}"));
    };
    let (body, found) = body(response.into_body(), expect, deadline).await;
    if found {
        return Page::Well(format!("answers with status {status} and says `{}`", expect.said));
    }
    Page::Badly(format!(
        "answers with status {status} and says `{}` ({} bytes), but not `{}`",
        excerpt(&body),
        body.len(),
        expect.said
    ))
}

/// Reads until it says what is expected, ends, is too long or time is up. What has come is looked at
/// whenever it has grown by a quarter, or a server that drips would make us look at every byte of it
/// as often as it has bytes.
async fn body(mut body: Incoming, expect: &Expect<'_>, deadline: Instant) -> (Vec<u8>, bool) {
    let mut page = Vec::new();
    let mut look_at = 0;
    while page.len() < limits::PAGE_BYTES {
        let Ok(Some(Ok(frame))) = timeout_at(deadline, body.frame()).await else { break };
        let data = frame.into_data().unwrap_or_default();
        let room = limits::PAGE_BYTES - page.len();
        page.extend_from_slice(&data[..data.len().min(room)]);
        if page.len() > look_at {
            if (expect.matches)(&page) {
                return (page, true);
            }
            look_at = page.len() + page.len() / 4;
        }
    }
    let found = (expect.matches)(&page);
    (page, found)
}

fn with_certificate(page: Page, ends: Ends) -> Page {
    match (page, ends) {
        (Page::Well(said), Ends::Well(holds)) => Page::Well(format!("{said}, with {holds}")),
        (Page::Well(said), Ends::Badly(why)) => Page::Badly(format!("{said}, but {why}")),
        (page @ (Page::Badly(_) | Page::None(_)), _) => page,
    }
}

fn judge(target: &Target<'_>, page: Page) -> Asked {
    let at = target.address;
    match page {
        Page::Well(said) => Finding::alive(Rung::Service, format!("{at} {said}")).into(),
        Page::Badly(said) => Asked {
            finding: Finding::dead(Rung::Service, format!("{at} {said}")),
            beside: Some(spoke(target)),
        },
        Page::None(said) => Asked {
            finding: Finding::dead(Rung::Service, format!("{at} {said}")),
            beside: connected(target),
        },
    }
}
