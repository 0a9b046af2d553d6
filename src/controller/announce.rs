//! Says to the broker what is published for devices.
//!
//! ```text
//!   bindings publish --> a row --(looked at once a second)--> retained message
//!   connection       --> all rows -------------------------->        "
//! ```
//!
//! The rows are the truth, and what a broker holds is a copy that nobody relies on: with every
//! connection all of it is said again, which a device that has it takes for what it is. Nothing is
//! said twice on one connection.

use super::link::Line;
use super::store::{Bindings, Published, StoreError};
use super::worker::Vitals;
use crate::base::id::DeviceId;
use crate::base::topic::Prefix;
use rumqttc::v5::mqttbytes::QoS;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::spawn_blocking;

/// How long what was published may wait. A look reads one number a device.
const LOOK: Duration = Duration::from_secs(1);

/// What surrounds a message in its packet, and some room.
const FRAME_BYTES: usize = 64;

/// The part of health that is spoken of here.
const PART: &str = "bindings";

/// Says what is published.
pub struct Announcer {
    prefix: Prefix,
    vitals: Vitals,
    /// Away while it is looked into.
    bindings: Option<Bindings>,
    /// What was said on this connection.
    said: BTreeMap<DeviceId, u64>,
}

impl Announcer {
    /// Will say what is in `bindings`, under `prefix`.
    #[must_use]
    pub fn new(prefix: Prefix, bindings: Bindings, vitals: Vitals) -> Self {
        Self { prefix, vitals, bindings: Some(bindings), said: BTreeMap::new() }
    }

    /// Says it until it is told to stop. Whatever is dropped midway then is said after the next
    /// start.
    pub async fn run(
        mut self,
        mut link: watch::Receiver<Option<Line>>,
        mut stop: watch::Receiver<bool>,
    ) {
        tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => {}
            () = self.announce(&mut link) => {}
        }
    }

    /// Ends with the link.
    async fn announce(&mut self, link: &mut watch::Receiver<Option<Line>>) {
        loop {
            let line = link.borrow_and_update().clone();
            if let Some(line) = &line {
                self.say_news(line).await;
            }
            tokio::select! {
                biased;
                changed = link.changed() => match changed {
                    Ok(()) => self.said.clear(),
                    Err(_) => return,
                },
                () = tokio::time::sleep(LOOK), if line.is_some() => {}
            }
        }
    }

    async fn say_news(&mut self, line: &Line) {
        for device in self.news().await {
            let wanted = device.clone();
            let found = self.look(move |bindings| bindings.of(&wanted)).await.flatten();
            let Some(Published { sequence, sealed, .. }) = found else { continue };
            let topic = self.prefix.bindings(&device);
            self.said.insert(device.clone(), sequence);
            if topic.len() + sealed.len() + FRAME_BYTES > line.packet_bytes_max {
                self.too_large(&device, sealed.len());
                continue;
            }
            // An error is a connection that is gone, and all is said again on the next one.
            if line.client.publish(topic, QoS::AtLeastOnce, true, sealed).await.is_err() {
                return;
            }
            tracing::info!(%device, sequence, "bindings were said to the broker");
            self.vitals.health.ok(PART);
        }
    }

    fn too_large(&self, device: &DeviceId, bytes: usize) {
        let why = format!(
            "the broker takes no packets of the {bytes} bytes that the bindings for {device} have: \
             allow it larger ones, or bind less"
        );
        tracing::error!("{why}");
        self.vitals.health.degraded(PART, why);
    }

    /// The devices for which something is to be said.
    async fn news(&mut self) -> Vec<DeviceId> {
        let numbers = self.look(Bindings::numbers).await.unwrap_or_default();
        let new = numbers.into_iter().filter(|(device, n)| self.said.get(device) != Some(n));
        new.map(|(device, _)| device).collect()
    }

    /// Reads the table where waiting for the disk holds up nobody.
    async fn look<T: Send + 'static>(
        &mut self,
        read: impl FnOnce(&Bindings) -> Result<T, StoreError> + Send + 'static,
    ) -> Option<T> {
        let bindings = self.bindings.take()?;
        let looked = spawn_blocking(move || {
            let found = read(&bindings);
            (bindings, found)
        });
        match looked.await {
            Ok((bindings, found)) => {
                self.bindings = Some(bindings);
                self.vitals.report(found)
            }
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }
}
