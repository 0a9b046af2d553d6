//! QEMU's debugger stub, attached to: as long as the connection is there, the guest stands still.
//!
//! Whoever lets go without a word leaves it so. The word is said once: QEMU 7.2 falls over one that comes
//! to a stub from which somebody has already detached.

use super::packet::{Packets, framed, hex, unhex};
use std::io;
use std::path::Path;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::{Instant, timeout_at};

/// What one packet may ask for: twice as many digits are what QEMU's packets hold.
const CHUNK: usize = 2048;

/// Questions on their way at once. QEMU does nothing else while it writes, so all answers must fit into
/// the socket (208 KiB on Linux) even if nobody takes them.
const WINDOW: usize = 16;

/// What is taken of a socket at once: the answers of a window.
const TAKEN: usize = 2 * CHUNK * (WINDOW + 1);

/// The registers of a hundred CPUs are 250 KiB.
const TEXT_BYTES: usize = 512 * 1024;

/// Packets that answer nothing: one comes when a guest stops. More of them are no guest.
const UNASKED: usize = 64;

/// From the word that lets the guest go until the answer.
const LETTING_GO: Duration = Duration::from_millis(300);

/// A connection to a stub.
#[derive(Debug)]
pub(super) struct Stub {
    stream: UnixStream,
    packets: Packets,
    /// Where what comes is taken to: as much as a window brings.
    taken: Vec<u8>,
    /// When the guest must go on.
    deadline: Instant,
}

/// Why a stub is of no use.
#[derive(Debug, thiserror::Error)]
pub(super) enum StubError {
    /// Nobody is there, or it went away.
    #[error("the debugger stub went away")]
    Gone(#[source] io::Error),
    /// It is not the only one that is asked, or hangs.
    #[error("the guest may not stand still for longer")]
    Late,
    /// It is none.
    #[error("the debugger stub does not speak its protocol")]
    Garbled,
    /// It does not do what it is asked for.
    #[error("the debugger stub refuses `{0}`")]
    Refused(String),
}

impl Stub {
    /// Attaches: the guest stands still from now on.
    pub(super) async fn attach(path: &Path, deadline: Instant) -> Result<Self, StubError> {
        let stream = timeout_at(deadline, UnixStream::connect(path)).await;
        let stream = stream.map_err(|_| StubError::Late)?.map_err(StubError::Gone)?;
        Ok(Self { stream, packets: Packets::default(), taken: vec![0; TAKEN], deadline })
    }

    /// Wants addresses to be the machine's and not those of a process.
    pub(super) async fn physical(&mut self) -> Result<(), StubError> {
        const PHYSICAL: &str = "Qqemu.PhyMemMode:1";
        self.send(&framed(PHYSICAL)).await?;
        match &self.reply().await?[..] {
            b"OK" => Ok(()),
            _ => Err(StubError::Refused(PHYSICAL.to_owned())),
        }
    }

    /// What the monitor for people says, which is asked through the stub.
    pub(super) async fn ask_human(&mut self, line: &str) -> Result<String, StubError> {
        self.send(&framed(&format!("qRcmd,{}", hex(line)))).await?;
        let mut told = Vec::new();
        loop {
            let reply = self.reply().await?;
            match &reply[..] {
                b"OK" => return Ok(String::from_utf8_lossy(&told).into_owned()),
                [b'O', digits @ ..] => told.extend(unhex(digits).ok_or(StubError::Garbled)?),
                _ => return Err(StubError::Refused(line.to_owned())),
            }
            if told.len() > TEXT_BYTES {
                return Err(StubError::Garbled);
            }
        }
    }

    /// The guest's memory.
    pub(super) async fn read(&mut self, at: u64, bytes: usize) -> Result<Vec<u8>, StubError> {
        let mut read = Vec::with_capacity(bytes);
        while read.len() < bytes {
            let mut wanted = Vec::with_capacity(WINDOW);
            let mut questions = Vec::new();
            let mut from = read.len();
            while wanted.len() < WINDOW && from < bytes {
                let chunk = CHUNK.min(bytes - from);
                let start = at.wrapping_add(from as u64);
                questions.extend(framed(&format!("m{start:x},{chunk:x}")));
                wanted.push((start, chunk));
                from += chunk;
            }
            self.send(&questions).await?;
            for (start, chunk) in wanted {
                let reply = self.reply().await?;
                let bytes = unhex(&reply).filter(|bytes| bytes.len() == chunk);
                read.extend(bytes.ok_or_else(|| StubError::Refused(format!("m{start:x}")))?);
            }
        }
        Ok(read)
    }

    /// Lets the guest go. Without an answer nobody knows whether it does.
    pub(super) async fn detach(mut self) -> Result<(), StubError> {
        self.deadline = Instant::now() + LETTING_GO;
        self.send(&framed("D")).await?;
        // Answers to what was asked before may come first.
        for _ in 0..2 * WINDOW {
            if self.reply().await? == b"OK" {
                return Ok(());
            }
        }
        Err(StubError::Garbled)
    }

    async fn send(&mut self, bytes: &[u8]) -> Result<(), StubError> {
        let sent = timeout_at(self.deadline, self.stream.write_all(bytes)).await;
        sent.map_err(|_| StubError::Late)?.map_err(StubError::Gone)
    }

    /// The next packet that answers.
    async fn reply(&mut self) -> Result<Vec<u8>, StubError> {
        for _ in 0..UNASKED {
            let packet = loop {
                match self.packets.next_packet() {
                    Ok(Some(packet)) => break packet,
                    Ok(None) => {}
                    Err(_) => return Err(StubError::Garbled),
                }
                let read = timeout_at(self.deadline, self.stream.read(&mut self.taken)).await;
                match read.map_err(|_| StubError::Late)?.map_err(StubError::Gone)? {
                    0 => return Err(StubError::Gone(io::ErrorKind::UnexpectedEof.into())),
                    count => self.packets.feed(&self.taken[..count]),
                }
            };
            // That the guest has stopped.
            if !matches!(packet[..], [b'T' | b'S', ..]) {
                return Ok(packet);
            }
        }
        Err(StubError::Garbled)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A stub that says one of `replies` to each packet, and goes away after the last.
    async fn answer(mut stream: UnixStream, replies: Vec<Vec<u8>>) {
        let mut heard = Packets::default();
        let mut chunk = [0; 4096];
        let mut replies = replies.into_iter().peekable();
        while let Ok(count @ 1..) = stream.read(&mut chunk).await {
            heard.feed(&chunk[..count]);
            while let Ok(Some(_)) = heard.next_packet() {
                let Some(reply) = replies.next() else { return };
                stream.write_all(&reply).await.ok();
            }
            if replies.peek().is_none() {
                return;
            }
        }
    }

    fn stub(stream: UnixStream) -> Stub {
        let deadline = Instant::now() + Duration::from_secs(10);
        Stub { stream, packets: Packets::default(), taken: vec![0; TAKEN], deadline }
    }

    fn with<T>(replies: &[Vec<u8>], ask: impl AsyncFnOnce(Stub) -> T) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (ours, theirs) = UnixStream::pair().unwrap();
            tokio::join!(ask(stub(ours)), answer(theirs, replies.to_vec())).0
        })
    }

    fn all(bodies: &[&str]) -> Vec<u8> {
        let framed = |body: &&str| [b"+".to_vec(), framed(body)].concat();
        bodies.iter().flat_map(framed).collect()
    }

    #[test]
    fn memory_comes_in_pieces() {
        let half = "5a".repeat(CHUNK);
        let replies = [all(&["T02thread:p01.01;", &half]), all(&["a5"])];
        let read = with(&replies, async |mut stub| stub.read(0x1000, CHUNK + 1).await.unwrap());
        assert_eq!(read, [vec![0x5a; CHUNK], vec![0xa5]].concat());
    }

    #[test]
    fn what_people_read_comes_in_pieces() {
        let replies = [all(&["O4350", "O550a", "OK"])];
        let told = with(&replies, async |mut stub| stub.ask_human("info cpus").await.unwrap());
        assert_eq!(told, "CPU\n");
    }

    #[test]
    fn a_guest_is_let_go_of_after_what_was_asked_before() {
        let detached = |replies: &[Vec<u8>]| with(replies, async |stub| stub.detach().await);
        assert!(detached(&[all(&["00", "OK"])]).is_ok());
        assert!(matches!(detached(&[all(&["00"])]), Err(StubError::Gone(_))));
        assert!(matches!(detached(&[all(&["00"; 40])]), Err(StubError::Garbled)));
    }

    #[test]
    fn a_stub_that_is_none_is_told() {
        let told = |reply: &[u8]| {
            let read = with(&[reply.to_vec()], async |mut stub| stub.read(0, 4).await);
            read.unwrap_err().to_string()
        };
        assert_eq!(told(b"$E14#aa"), "the debugger stub refuses `m0`");
        assert_eq!(told(b"$00#60"), "the debugger stub refuses `m0`");
        assert_eq!(told(b"$00000000#00"), "the debugger stub does not speak its protocol");
        assert_eq!(told(b"SSH-2.0"), "the debugger stub does not speak its protocol");
        assert_eq!(told(b"$0000"), "the debugger stub went away");
        assert_eq!(told(&all(&["T02"; 65])), "the debugger stub does not speak its protocol");
    }

    #[tokio::test]
    async fn a_stub_that_is_silent_is_not_waited_for() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let deadline = Instant::now() + Duration::from_millis(20);
        let silent = Stub { deadline, ..stub(ours) }.read(0, 4).await;
        assert!(matches!(silent, Err(StubError::Late)));
    }

    proptest! {
        /// Whatever it says: all ends, and nothing is taken for memory that is longer or shorter.
        #[test]
        fn any_stub_is_survived(said in proptest::collection::vec(any::<u8>(), 0..400), packets in proptest::collection::vec("(O[0-9a-f]{0,8}|OK|E01|T02|[0-9a-f]{0,16}|)", 0..8)) {
            for replies in [said, packets.iter().flat_map(|body| framed(body)).collect()] {
                let ask = async |mut stub: Stub| {
                    stub.physical().await.ok();
                    let told = stub.ask_human("info registers -a").await.map_or(0, |told| told.len());
                    let read = stub.read(0, 4).await.map_or(4, |read| read.len());
                    stub.detach().await.ok();
                    (told, read)
                };
                let (told, read) = with(&[replies], ask);
                prop_assert!(told <= 4 * packets.len() && read == 4);
            }
        }
    }
}
