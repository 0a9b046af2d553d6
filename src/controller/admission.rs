//! Who may do what at our own broker.
//!
//! A device is known by the certificate that it was enrolled with, bears its own name as client id,
//! and may write its own topics and read its own receipts and bindings, nothing else. Whoever is on the private
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
    let heard = [prefix.receipt(device), prefix.bindings(device)];
    Rights::new(topics.iter().map(String::as_str), heard.iter().map(String::as_str))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controller::tests::device::{Device, Validity};
    use rustls_pki_types::CertificateDer;
    use rustls_pki_types::pem::PemObject;

    #[test]
    fn a_device_reads_its_own_bindings_and_nobody_else_writes_them() {
        let devices = tempfile::tempdir().unwrap();
        let peer = |name: &str| {
            Device::new(name, Validity::Today).enrol(devices.path());
            let pem = devices.path().join(format!("{name}.pem"));
            Peer::Certificate(CertificateDer::from_pem_file(pem).unwrap())
        };
        let (one, two) = (peer("d-1"), peer("d-2"));
        let admit = by_enrolment(Prefix::default(), devices.path().to_owned());
        assert!(admit(&one, "d-2").is_none(), "it is not its name");
        for (peer, name, other) in [(one, "d-1", "d-2"), (two, "d-2", "d-1")] {
            let rights = admit(&peer, name).unwrap();
            assert!(rights.may_subscribe(&format!("lifesign/{name}/bindings")));
            assert!(!rights.may_subscribe(&format!("lifesign/{other}/bindings")));
            assert!(!rights.may_subscribe("lifesign/+/bindings"));
            for device in [name, other] {
                assert!(!rights.may_publish(&format!("lifesign/{device}/bindings")));
            }
        }
        let controller = admit(&Peer::Local, "lifesign-controller").unwrap();
        assert!(controller.may_publish("lifesign/d-1/bindings"));
    }
}
