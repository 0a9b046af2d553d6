//! One connection: handshake, CONNECT, then packets in both directions until either side ends it.
//!
//! Dull: it decides nothing about sessions or topics. Never waits without a bound: the handshake
//! and CONNECT have one together, each write has one, and silence ends by the keep-alive.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use rumqttc::v5::mqttbytes::v5::{
    Connect, ConnectReturnCode, Disconnect, DisconnectReasonCode, LastWill, Packet, PingResp,
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use super::core::{Ending, Event, Hello};
use super::wire::{self, Malformed};
use super::{Admit, ConnectionId, Limits, Peer};

/// How much is read, and how many packets are written, at a time.
const READ_BYTES: usize = 16 * 1024;
const WRITE_PACKETS: usize = 64;

/// Waiting for the owner of the state, from all connections together. Full, it slows reading.
pub(super) const INBOX_MAX: usize = 256;

/// To the owner of the state.
#[expect(clippy::large_enum_variant, reason = "nearly all are the large one")]
pub(super) enum Input {
    /// Comes before any event of that connection.
    Opened(mpsc::Sender<Packet>),
    Happened(Event),
}

/// What all connections share.
#[derive(Clone)]
pub(super) struct Place {
    pub(super) inbox: mpsc::Sender<(ConnectionId, Input)>,
    pub(super) stop: watch::Receiver<bool>,
    pub(super) tls: Option<TlsAcceptor>,
    pub(super) admit: Admit,
    pub(super) limits: Arc<Limits>,
}

#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("read or write")]
    Io(#[from] io::Error),
    #[error("understand the client")]
    Malformed(#[from] Malformed),
    #[error("wait any longer")]
    Silent,
    #[error("begin with a CONNECT")]
    NoConnect,
    #[error("reach the owner of the state")]
    Stopped,
}

/// A stream with what was read of it but not yet understood.
struct Wire<S> {
    stream: S,
    buffer: BytesMut,
    limits: Arc<Limits>,
}

/// A connection from the network.
pub(super) async fn serve_tcp(place: Place, id: ConnectionId, tcp: TcpStream) {
    let limit = place.limits.connect_timeout;
    let Ok(address) = tcp.peer_addr() else { return };
    if let Err(error) = tcp.set_nodelay(true) {
        tracing::debug!(%address, %error, "failed to set nodelay");
    }
    let Some(acceptor) = place.tls.clone() else {
        return serve(place, id, tcp, Peer::Plain(address)).await;
    };
    let mut stop = place.stop.clone();
    let handshake = tokio::select! {
        biased;
        _ = stop.changed() => return,
        handshake = timeout(limit, acceptor.accept(tcp)) => handshake,
    };
    let stream = match handshake {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return tracing::info!(%address, %error, "refused a TLS handshake"),
        Err(_) => return tracing::info!(%address, "gave up on a TLS handshake"),
    };
    let certificates = stream.get_ref().1.peer_certificates().unwrap_or_default();
    let peer = match certificates.first() {
        Some(certificate) => Peer::Certificate(certificate.clone().into_owned()),
        None => Peer::Plain(address),
    };
    serve(place, id, stream, peer).await;
}

/// A connection whose peer is known.
pub(super) async fn serve<S>(mut place: Place, id: ConnectionId, stream: S, peer: Peer)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let limits = place.limits.clone();
    let mut wire = Wire { stream, buffer: BytesMut::new(), limits };
    let greeting = tokio::select! {
        biased;
        _ = place.stop.changed() => return,
        greeting = wire.greeting() => greeting,
    };
    let (connect, will) = match greeting {
        Ok(greeting) => greeting,
        Err(error) => return tracing::info!(id, %error, "refused a connection"),
    };
    let (client, keep_alive) = (connect.client_id.clone(), connect.keep_alive);
    let Some(rights) = (place.admit)(&peer, &client) else {
        tracing::warn!(id, ?client, "not admitted");
        let _ = wire.write(&[wire::refusal(ConnectReturnCode::NotAuthorized)]).await;
        return;
    };
    // Room for an answer to each packet of its own that can wait for the owner, and for a window.
    let room = INBOX_MAX + usize::from(place.limits.in_flight_max) + WRITE_PACKETS;
    let (outgoing, packets) = mpsc::channel(room);
    let hello = Hello { connect, will, rights };
    let opened = [Input::Opened(outgoing), Input::Happened(Event::Connected(hello))];
    for input in opened {
        if place.inbox.send((id, input)).await.is_err() {
            return;
        }
    }
    tracing::debug!(id, ?client, "connected");
    let ending = match wire.relay(&place.inbox, id, keep_alive, packets).await {
        Ok(ending) => ending,
        Err(error) => {
            tracing::info!(id, ?client, %error, "lost a connection");
            if let Error::Malformed(malformed) = &error {
                let _ = wire.write(&[wire::disconnect(reason(malformed))]).await;
            }
            Ending::Lost
        }
    };
    let _ = place.inbox.send((id, Input::Happened(Event::Ended(ending)))).await;
    // The other side may still be reading what was written last.
    let _ = timeout(wire.limits.write_timeout, wire.stream.shutdown()).await;
}

impl<S: AsyncRead + AsyncWrite + Unpin> Wire<S> {
    /// The CONNECT, within its time.
    async fn greeting(&mut self) -> Result<(Connect, Option<LastWill>), Error> {
        let limit = self.limits.connect_timeout;
        let refusal = match timeout(limit, self.read()).await.map_err(|_| Error::Silent)? {
            Ok(Some(Packet::Connect(connect, will, _))) => return Ok((connect, will)),
            Ok(Some(_) | None) => return Err(Error::NoConnect),
            Err(refusal) => refusal,
        };
        if matches!(refusal, Error::Malformed(Malformed::Level(3..=4))) {
            timeout(limit, self.stream.write_all(&wire::REFUSAL_OF_MQTT_3))
                .await
                .map_err(|_| Error::Silent)??;
        }
        Err(refusal)
    }

    /// Carries packets both ways. Neither direction comes first: a flood in one of them must not
    /// keep the other from its turn.
    async fn relay(
        &mut self,
        inbox: &mpsc::Sender<(ConnectionId, Input)>,
        id: ConnectionId,
        keep_alive: u16,
        mut packets: mpsc::Receiver<Packet>,
    ) -> Result<Ending, Error> {
        let patience = match keep_alive {
            0 => self.limits.keep_alive_max,
            seconds => Duration::from_millis(u64::from(seconds) * 1500),
        };
        let patience = patience.min(self.limits.keep_alive_max);
        let mut batch = Vec::with_capacity(WRITE_PACKETS);
        loop {
            let received = tokio::select! {
                count = packets.recv_many(&mut batch, WRITE_PACKETS) => match count {
                    0 => return Ok(Ending::Lost),
                    _ => {
                        self.write(&batch).await?;
                        batch.clear();
                        continue;
                    }
                },
                // Dropping it midway loses nothing: what was read stays in the buffer.
                received = timeout(patience, self.read()) => received,
            };
            match received.map_err(|_| Error::Silent)?? {
                None => return Ok(Ending::Lost),
                Some(Packet::Disconnect(disconnect)) => return Ok(farewell(&disconnect)),
                Some(Packet::PingReq(_)) => self.write(&[Packet::PingResp(PingResp)]).await?,
                Some(packet) => {
                    let event = Input::Happened(Event::Received(packet));
                    inbox.send((id, event)).await.map_err(|_| Error::Stopped)?;
                }
            }
        }
    }

    /// The next packet, or none at the end. May be dropped midway.
    async fn read(&mut self) -> Result<Option<Packet>, Error> {
        loop {
            if let Some(packet) = wire::decode(&mut self.buffer, self.limits.packet_bytes_max)? {
                return Ok(Some(packet));
            }
            self.buffer.reserve(READ_BYTES);
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return Ok(None);
            }
        }
    }

    async fn write(&mut self, packets: &[Packet]) -> Result<(), Error> {
        let mut bytes = BytesMut::new();
        for packet in packets {
            packet.write(&mut bytes, None).map_err(Malformed::Packet)?;
        }
        let write = async {
            self.stream.write_all(&bytes).await?;
            self.stream.flush().await
        };
        timeout(self.limits.write_timeout, write).await.map_err(|_| Error::Silent)??;
        Ok(())
    }
}

fn farewell(disconnect: &Disconnect) -> Ending {
    let properties = disconnect.properties.as_ref();
    let expiry_seconds = properties.and_then(|properties| properties.session_expiry_interval);
    let will = disconnect.reason_code != DisconnectReasonCode::NormalDisconnection;
    Ending::Clean { will, expiry_seconds }
}

fn reason(malformed: &Malformed) -> DisconnectReasonCode {
    match malformed {
        Malformed::TooLarge => DisconnectReasonCode::PacketTooLarge,
        Malformed::Level(_) => DisconnectReasonCode::ProtocolError,
        Malformed::Packet(_) => DisconnectReasonCode::MalformedPacket,
    }
}
