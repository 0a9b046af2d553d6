//! The task that owns the state: inputs in turn, actions carried out, time once a second.
//!
//! Dull. Never waits for a client: whose link is full has stopped reading, and is ended.

use crate::base::time::Clock;
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use rumqttc::v5::mqttbytes::v5::{DisconnectReasonCode, Packet};
use tokio::sync::{mpsc, watch};

use super::connection::Input;
use super::core::{Action, Core, Ending, Event};
use super::{ConnectionId, Counts, wire};

pub(super) struct Owner {
    pub(super) core: Core,
    pub(super) links: BTreeMap<ConnectionId, mpsc::Sender<Packet>>,
    pub(super) report: watch::Sender<Counts>,
}

impl Owner {
    pub(super) async fn run(
        mut self,
        mut inputs: mpsc::Receiver<(ConnectionId, Input)>,
        mut stop: watch::Receiver<bool>,
    ) {
        let mut ticks = tokio::time::interval(Duration::from_secs(1));
        let mut congested = 0;
        loop {
            // Time before packets: a flood of them must not keep wills and sessions alive.
            let actions = tokio::select! {
                biased;
                _ = stop.changed() => break,
                _ = ticks.tick() => self.tick(),
                input = inputs.recv() => match input {
                    Some((id, Input::Opened(link))) => {
                        self.links.insert(id, link);
                        continue;
                    }
                    Some((id, Input::Happened(event))) => {
                        if matches!(event, Event::Ended(_)) {
                            self.links.remove(&id);
                        }
                        self.core.handle(id, event, Clock::now())
                    }
                    None => break,
                },
            };
            congested += self.perform(actions);
            let counts = Counts { congested, ..self.core.counts() };
            self.report.send_if_modified(|last| std::mem::replace(last, counts) != counts);
        }
        for link in self.links.values() {
            let goodbye = wire::disconnect(DisconnectReasonCode::ServerShuttingDown);
            if link.try_send(goodbye).is_err() {
                tracing::debug!("a client does not hear that we stop");
            }
        }
    }

    /// Also finds connections whose task failed before it could say so.
    fn tick(&mut self) -> Vec<Action> {
        let closed = self.links.iter().filter(|(_, link)| link.is_closed());
        let closed: Vec<_> = closed.map(|(id, _)| *id).collect();
        let mut actions = Vec::new();
        for id in closed {
            self.links.remove(&id);
            actions.extend(self.core.handle(id, Event::Ended(Ending::Lost), Clock::now()));
        }
        actions.extend(self.core.tick(Clock::now()));
        actions
    }

    /// Ends, because each congested link is removed. Says how many there were.
    fn perform(&mut self, actions: Vec<Action>) -> u64 {
        let mut actions = VecDeque::from(actions);
        let mut congested = 0;
        while let Some(action) = actions.pop_front() {
            let (id, packet) = match action {
                Action::Send(id, packet) => (id, packet),
                Action::Close(id) => {
                    self.links.remove(&id);
                    continue;
                }
            };
            let Some(link) = self.links.get(&id) else {
                continue;
            };
            let droppable = matches!(&packet, Packet::Publish(publish) if publish.pkid == 0);
            match link.try_send(packet) {
                Ok(()) => {}
                Err(mpsc::error::TrySendError::Full(_)) if droppable => {}
                Err(error) => {
                    congested += u64::from(matches!(error, mpsc::error::TrySendError::Full(_)));
                    self.links.remove(&id);
                    actions.extend(self.core.handle(id, Event::Ended(Ending::Lost), Clock::now()));
                }
            }
        }
        congested
    }
}
