//! QMP's lines: bytes in, messages out.
//!
//! Pure. Never fails on what it does not know; only on what is no JSON or has no end.

use crate::base::limits;
use serde_json::{Value, json};

/// The lines of one connection.
#[derive(Debug, Default)]
pub(super) struct Session {
    buffer: Vec<u8>,
    last_id: u64,
}

/// One message of the monitor.
#[derive(Debug, PartialEq)]
pub(super) enum Message {
    /// The first one.
    Greeting,
    /// The answer to a command.
    Return { id: u64, value: Value },
    /// The refusal of a command.
    Error { id: u64, reason: String },
    /// Something happened; `value` is the whole message.
    Event { name: String, value: Value },
    /// What a later version says.
    Other,
}

/// The other end does not speak JSON lines.
#[derive(Debug)]
pub(super) struct NotJson;

impl Session {
    /// Takes bytes that came.
    pub(super) fn feed(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole message, if it is there.
    pub(super) fn next_message(&mut self) -> Result<Option<Message>, NotJson> {
        loop {
            let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') else {
                return if self.buffer.len() > limits::QMP_LINE_BYTES {
                    Err(NotJson)
                } else {
                    Ok(None)
                };
            };
            let line: Vec<u8> = self.buffer.drain(..=end).collect();
            if line.iter().all(u8::is_ascii_whitespace) {
                continue;
            }
            let value: Value = serde_json::from_slice(&line).map_err(|_| NotJson)?;
            return Ok(Some(Message::of(value)));
        }
    }

    /// A command as it goes over the line, and the id that its answer will bear.
    pub(super) fn command(&mut self, name: &str, arguments: &Value) -> (u64, Vec<u8>) {
        self.last_id += 1;
        let command = json!({ "execute": name, "arguments": arguments, "id": self.last_id });
        let mut line = command.to_string().into_bytes();
        line.push(b'\n');
        (self.last_id, line)
    }
}

impl Message {
    fn of(mut value: Value) -> Self {
        let id = value.get("id").and_then(Value::as_u64);
        match (id, value.get_mut("return").map(Value::take), value.pointer("/error/desc")) {
            (Some(id), Some(value), _) => Self::Return { id, value },
            (Some(id), None, Some(reason)) => {
                Self::Error { id, reason: reason.as_str().unwrap_or_default().to_owned() }
            }
            _ if value.get("QMP").is_some() => Self::Greeting,
            _ => match value.get("event").and_then(Value::as_str) {
                Some(name) => Self::Event { name: name.to_owned(), value },
                None => Self::Other,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn answers_find_their_questions_between_events() {
        let mut session = Session::default();
        let (id, line) = session.command("query-status", &json!({}));
        assert_eq!(line, b"{\"arguments\":{},\"execute\":\"query-status\",\"id\":1}\n");
        session.feed(
            b"{\"QMP\": {\"version\": {}}}\r\n{\"event\": \"NEW_IN_11\", \"x\": 1}\r\n{\"ret",
        );
        assert_eq!(session.next_message().unwrap(), Some(Message::Greeting));
        let event = Message::Event {
            name: "NEW_IN_11".to_owned(),
            value: json!({"event": "NEW_IN_11", "x": 1}),
        };
        assert_eq!(session.next_message().unwrap(), Some(event));
        assert_eq!(session.next_message().unwrap(), None);
        session.feed(b"urn\": {\"status\": \"running\"}, \"id\": 1}\r\n");
        let value = json!({"status": "running"});
        assert_eq!(session.next_message().unwrap(), Some(Message::Return { id, value }));
        session.feed(b"{\"error\": {\"class\": \"X\", \"desc\": \"no\"}, \"id\": 1}\n");
        let reason = "no".to_owned();
        assert_eq!(session.next_message().unwrap(), Some(Message::Error { id, reason }));
    }

    proptest! {
        #[test]
        fn any_bytes_are_taken(chunks: Vec<Vec<u8>>) {
            let mut session = Session::default();
            for chunk in chunks {
                session.feed(&chunk);
                while let Ok(Some(_)) = session.next_message() {}
            }
        }
    }
}
