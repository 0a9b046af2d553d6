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

use super::store::{Bindings, Published, StoreError};
use super::worker::Vitals;
use crate::base::id::DeviceId;
use crate::base::topic::Prefix;
use rumqttc::v5::AsyncClient;
use rumqttc::v5::mqttbytes::QoS;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::spawn_blocking;

/// How long what was published may wait. A look reads one number a device.
const LOOK: Duration = Duration::from_secs(1);

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
        mut link: watch::Receiver<Option<AsyncClient>>,
        mut stop: watch::Receiver<bool>,
    ) {
        tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => {}
            () = self.announce(&mut link) => {}
        }
    }

    /// Ends with the link.
    async fn announce(&mut self, link: &mut watch::Receiver<Option<AsyncClient>>) {
        loop {
            let client = link.borrow_and_update().clone();
            if let Some(client) = &client {
                self.say_news(client).await;
            }
            tokio::select! {
                biased;
                changed = link.changed() => match changed {
                    Ok(()) => self.said.clear(),
                    Err(_) => return,
                },
                () = tokio::time::sleep(LOOK), if client.is_some() => {}
            }
        }
    }

    async fn say_news(&mut self, client: &AsyncClient) {
        for device in self.news().await {
            let wanted = device.clone();
            let found = self.look(move |bindings| bindings.of(&wanted)).await.flatten();
            let Some(Published { sequence, sealed, .. }) = found else { continue };
            let topic = self.prefix.bindings(&device);
            // An error is a connection that is gone, and all is said again on the next one.
            if client.publish(topic, QoS::AtLeastOnce, true, sealed).await.is_err() {
                return;
            }
            tracing::info!(%device, sequence, "bindings were said to the broker");
            self.said.insert(device, sequence);
        }
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
