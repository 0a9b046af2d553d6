//! Who may do what at our own broker.
//!
//! A device is known by the certificate that it was enrolled with, bears its own name as client id,
//! and may write its own topics and read its own receipts, nothing else. Whoever is on the private
//! socket is this process.

use super::broker::{Admit, Peer, Rights};
use super::identity::Enrolled;
use crate::base::chain::Chain;
use crate::base::id::{DeviceId, Digest};
use crate::base::time::Clock;
use crate::base::topic::{Kind, Prefix};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

/// The rule for a broker under `prefix`, by the certificates in `devices`.
#[must_use]
pub fn by_enrolment(prefix: Prefix, devices: PathBuf) -> Admit {
    let enrolled = Mutex::new(Enrolled::new(devices));
    Arc::new(move |peer, client| {
        let all = format!("{prefix}/#");
        match peer {
            Peer::Local => Some(Rights::new([all.as_str()], [all.as_str()])),
            // Without TLS there is nothing to tell devices apart by; only this machine is served.
            Peer::Plain(_) => Some(Rights::new([all.as_str()], [all.as_str()])),
            Peer::Certificate(der) => {
                let mut enrolled = enrolled.lock().unwrap_or_else(PoisonError::into_inner);
                match enrolled.sender(Digest::of(der), Clock::now(), Clock::wall()) {
                    Ok(sender) if sender.device.as_str() == client => {
                        Some(rights(&prefix, &sender.device))
                    }
                    Ok(sender) => {
                        tracing::warn!(device = %sender.device, claims = ?client, "turned away: the client id is not the name of the device");
                        None
                    }
                    Err(stranger) => {
                        tracing::warn!(claims = ?client, why = %Chain(&stranger), "turned away");
                        None
                    }
                }
            }
        }
    })
}

fn rights(prefix: &Prefix, device: &DeviceId) -> Rights {
    let topics = Kind::ALL.map(|kind| prefix.topic(device, kind));
    let receipt = prefix.receipt(device);
    Rights::new(topics.iter().map(String::as_str), [receipt.as_str()])
}
