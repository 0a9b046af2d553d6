//! The lines of a guest agent's channel: bytes in, replies out.
//!
//! The channel has no beginning: replies to whoever used it before may still come, or half of one.
//! So a session begins with `guest-sync-delimited`, whose reply follows a byte 0xFF that is in no
//! JSON, and bears a number that we chose. What comes before that is passed over.
//!
//! Pure. Fails only on what is no JSON or has no end, and only once it is in step.

use serde_json::{Value, json};

/// What has come so far.
#[derive(Debug, Default)]
pub(super) struct Session {
    buffer: Vec<u8>,
    /// So much of it holds no end of a line.
    searched: usize,
    step: Step,
}

/// Whether what comes is the answer to what was asked.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
enum Step {
    /// In step.
    #[default]
    In,
    /// Waits for the reply with this number.
    Out { number: u64 },
}

/// A reply.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Reply {
    /// We are in step.
    InStep,
    /// The answer.
    Return(Value),
    /// The agent says no.
    Refused(String),
}

/// The other end does not speak JSON lines, or without end.
#[derive(Debug, Eq, PartialEq)]
pub(super) struct NotJson;

/// A reply that is larger is not for us: so much output of a command in base64, and its frame.
pub(super) const LINE_BYTES: usize = 1536 * 1024;

const SENTINEL: u8 = 0xff;

impl Session {
    /// How a session begins. The first byte ends whatever somebody left half said.
    pub(super) fn begin(&mut self, number: u64) -> Vec<u8> {
        self.step = Step::Out { number };
        let mut line = vec![SENTINEL];
        line.extend(command("guest-sync-delimited", &json!({ "id": number })));
        line
    }

    /// Takes bytes that came.
    pub(super) fn feed(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole reply, if it is there.
    pub(super) fn next_reply(&mut self) -> Result<Option<Reply>, NotJson> {
        loop {
            if matches!(self.step, Step::Out { .. }) && !self.skip_to_sentinel() {
                return Ok(None);
            }
            let Some(line) = self.take_line()? else { return Ok(None) };
            let value: Option<Value> = serde_json::from_slice(&line).ok();
            match (self.step, value) {
                (Step::Out { number }, Some(value)) if value["return"] == number => {
                    self.step = Step::In;
                    return Ok(Some(Reply::InStep));
                }
                // Of an earlier session.
                (Step::Out { .. }, _) => {}
                (Step::In, Some(value)) => return Ok(Some(Reply::of(value))),
                (Step::In, None) => return Err(NotJson),
            }
        }
    }

    /// Whether a line begins here. The sentinel stays until the line is whole.
    fn skip_to_sentinel(&mut self) -> bool {
        let place = self.buffer.iter().position(|byte| *byte == SENTINEL);
        if place != Some(0) {
            self.searched = 0;
            self.buffer.drain(..place.unwrap_or(self.buffer.len()));
        }
        place.is_some()
    }

    fn take_line(&mut self) -> Result<Option<Vec<u8>>, NotJson> {
        loop {
            let fresh = &self.buffer[self.searched..];
            let Some(end) = fresh.iter().position(|byte| *byte == b'\n') else {
                self.searched = self.buffer.len();
                if self.buffer.len() <= LINE_BYTES {
                    return Ok(None);
                }
                self.searched = 0;
                self.buffer.clear();
                return if self.step == Step::In { Err(NotJson) } else { Ok(None) };
            };
            let line: Vec<u8> = self.buffer.drain(..=self.searched + end).collect();
            self.searched = 0;
            // Of several sentinels the last one counts.
            let line = line.rsplit(|byte| *byte == SENTINEL).next().unwrap_or_default();
            if !line.trim_ascii().is_empty() {
                return Ok(Some(line.to_vec()));
            }
            if self.step != Step::In {
                return Ok(Some(Vec::new()));
            }
        }
    }
}

impl Reply {
    fn of(mut value: Value) -> Self {
        match (value.get_mut("return").map(Value::take), value.pointer("/error/desc")) {
            (Some(value), _) => Self::Return(value),
            (None, Some(reason)) => Self::Refused(reason.as_str().unwrap_or_default().to_owned()),
            (None, None) => Self::Refused("neither an answer nor an error".to_owned()),
        }
    }
}

/// A command as it goes over the channel.
pub(super) fn command(name: &str, arguments: &Value) -> Vec<u8> {
    let command = json!({ "execute": name, "arguments": arguments });
    let mut line = command.to_string().into_bytes();
    line.push(b'\n');
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_session_begins_with_a_sentinel() {
        let mut session = Session::default();
        let line = session.begin(7);
        assert_eq!(line, b"\xff{\"arguments\":{\"id\":7},\"execute\":\"guest-sync-delimited\"}\n");
    }

    #[test]
    fn what_was_meant_for_others_is_passed_over() {
        let mut session = Session::default();
        session.begin(7);
        session.feed(b"old\"}\n{\"return\": {}}\n\xff{\"return\": 6}\n{\"return\": 7}\n");
        assert_eq!(session.next_reply(), Ok(None));
        session.feed(b"\xff{\"retu");
        assert_eq!(session.next_reply(), Ok(None));
        session.feed(b"rn\": 7}\n{\"return\": {\"pid\": 1}}\n");
        assert_eq!(session.next_reply(), Ok(Some(Reply::InStep)));
        assert_eq!(session.next_reply(), Ok(Some(Reply::Return(json!({"pid": 1})))));
        session.feed(b"{\"error\": {\"class\": \"X\", \"desc\": \"disabled\"}}\n");
        assert_eq!(session.next_reply(), Ok(Some(Reply::Refused("disabled".to_owned()))));
        session.feed(b"nonsense\n");
        assert_eq!(session.next_reply(), Err(NotJson));
    }

    proptest! {
        #[test]
        fn any_bytes_are_taken_and_the_answer_is_found_behind_them(chunks: Vec<Vec<u8>>) {
            let mut session = Session::default();
            session.begin(7);
            for chunk in chunks {
                session.feed(&chunk);
                prop_assert_eq!(session.next_reply(), Ok(None));
            }
            session.feed(b"\n\xff{\"return\": 7}\n");
            prop_assert_eq!(session.next_reply(), Ok(Some(Reply::InStep)));
        }
    }

    #[test]
    fn rubbish_without_end_is_not_kept() {
        let mut session = Session::default();
        session.begin(7);
        session.feed(&[SENTINEL]);
        for _ in 0..500 {
            session.feed(&[b'x'; 4096]);
            assert_eq!(session.next_reply(), Ok(None));
            assert!(session.buffer.len() <= LINE_BYTES + 4096);
        }
    }
}
