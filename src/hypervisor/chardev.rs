//! Which character device of a guest is its console, and how it is wired.
//!
//! Pure: reads the reply to `query-chardev`.

use serde_json::Value;
use std::path::Path;

/// The device behind a console socket.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ConsoleDevice {
    /// The label by which the monitor knows its front end, for `chardev-send-break`.
    pub label: String,
    /// Whether a multiplexer sits between the socket and the guest.
    pub muxed: bool,
    /// Whether a client holds the socket.
    pub held: bool,
    /// Whether the guest has the other end open; of a multiplexer nothing is told.
    pub open: Option<bool>,
}

impl ConsoleDevice {
    /// Finds the device whose socket is `path`.
    #[must_use]
    pub fn find(reply: &Value, path: &Path) -> Option<Self> {
        let file = path.file_name()?.to_str()?;
        let devices = reply.as_array()?;
        let text = |device: &Value, key: &str| device.get(key)?.as_str().map(str::to_owned);
        let (label, filename, open) = devices.iter().find_map(|device| {
            let filename = text(device, "filename")?;
            // QEMU may know the directory by another name than we do (a container's mount).
            let socket = filename.split("unix:").nth(1)?.split(',').next()?;
            (Path::new(socket).file_name()?.to_str()? == file).then(|| {
                let open = device.get("frontend-open").and_then(Value::as_bool);
                Some((text(device, "label")?, filename, open))
            })?
        })?;
        let held = !filename.starts_with("disconnected:");
        Some(match label.strip_suffix("-base") {
            Some(front) => Self { label: front.to_owned(), muxed: true, held, open: None },
            None => Self { label, muxed: false, held, open },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn eves_console_is_a_multiplexer() {
        let reply = json!([
            {"frontend-open": true, "filename": "mux", "label": "charserial0"},
            {"frontend-open": true, "filename": "disconnected:unix:/run/x/cons,server=on", "label": "charserial0-base"},
            {"frontend-open": true, "filename": "unix:/run/x/qmp,server=on", "label": "charmonitor"}
        ]);
        let device = ConsoleDevice::find(&reply, Path::new("/other/mount/cons")).unwrap();
        assert_eq!(
            device,
            ConsoleDevice { label: "charserial0".to_owned(), muxed: true, held: false, open: None }
        );
        assert_eq!(ConsoleDevice::find(&reply, Path::new("/run/x/serial")), None);
        assert_eq!(ConsoleDevice::find(&json!({"rubbish": 1}), Path::new("/run/x/cons")), None);
    }

    #[test]
    fn a_held_plain_line() {
        let reply =
            json!([{"filename": "unix:/tmp/cons,server=on <-> (null)", "label": "serial0"}]);
        let device = ConsoleDevice::find(&reply, Path::new("/tmp/cons")).unwrap();
        assert_eq!(
            device,
            ConsoleDevice { label: "serial0".to_owned(), muxed: false, held: true, open: None }
        );
    }
}
