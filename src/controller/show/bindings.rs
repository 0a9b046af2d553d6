//! What is published for a device, and what the device makes of it.

use super::{ShowError, Style};
use crate::base::id::DeviceId;
use crate::base::text::{Harmless, harmless_line};
use crate::base::time::Timestamp;
use crate::bundle::{Bindings, OpenError, PublicKey, Text, open_bindings};
use crate::controller::store::{Published, Reader};
use crate::pb::v1;
use crate::report::section;
use prost::Message;
use std::path::Path;

/// All that is known of a device and its bindings.
struct Known {
    device: DeviceId,
    published: Option<Published>,
    told: Told,
}

/// What the device says.
enum Told {
    /// It was never heard of, or is away and took its word with it.
    Nothing { since: Option<Timestamp> },
    /// What is in force, and why the last message was refused.
    Status { at: Timestamp, in_force: Option<u64>, refused: Option<String> },
}

/// A report on one device. What is published is opened with `key`, the controller's own.
///
/// # Errors
///
/// When the store cannot be read.
pub fn bindings(
    data: &Path,
    device: &DeviceId,
    key: &PublicKey,
    style: Style,
) -> Result<String, ShowError> {
    let reader = Reader::open(data)?;
    let published = reader.published(device)?;
    let told = told(reader.status(device)?);
    let known = Known { device: device.clone(), published, told };
    let mut sections = vec![format!("{}\n", known.verdict(style)), known.rows()];
    if let Some(published) = &known.published {
        match open_bindings(&published.sealed, key) {
            Ok(bindings) => sections.extend(texts(&bindings, style)),
            Err(error) => sections.push(unopened(&error)),
        }
    }
    Ok(sections.join("\n"))
}

fn told(status: Option<(Timestamp, Vec<u8>)>) -> Told {
    let Some((at, status)) = status else { return Told::Nothing { since: None } };
    match v1::Status::decode(&*status) {
        Ok(status) if status.up => {
            let in_force = Some(status.bindings_sequence).filter(|sequence| *sequence > 0);
            let refused = Some(status.bindings_error).filter(|error| !error.is_empty());
            Told::Status { at, in_force, refused }
        }
        Ok(_) | Err(_) => Told::Nothing { since: Some(at) },
    }
}

impl Known {
    fn verdict(&self, style: Style) -> String {
        let device = &self.device;
        let Some(Published { sequence, .. }) = &self.published else {
            return style.text().bold(&format!("nothing is published for {device}"));
        };
        let Told::Status { in_force, refused, .. } = &self.told else {
            return style.text().bold(&format!("bindings {sequence} wait for {device}"));
        };
        match (*in_force == Some(*sequence), refused) {
            (true, None) => {
                style.text().bold(&format!("bindings {sequence} are in force on {device}"))
            }
            (true, Some(_)) => style.text().alarming(&format!(
                "bindings {sequence} are in force on {device}, which refused others since"
            )),
            (false, Some(_)) => style
                .text()
                .alarming(&format!("bindings {sequence} are not in force: {device} refuses them")),
            (false, None) => {
                style.text().alarming(&format!("bindings {sequence} are not in force on {device}"))
            }
        }
    }

    fn rows(&self) -> String {
        let number =
            |number: Option<u64>| number.map_or_else(|| "none".to_owned(), |n| n.to_string());
        let published = self.published.as_ref();
        let mut rows = vec![(
            "published",
            published.map_or_else(|| "none".to_owned(), |p| format!("{} at {}", p.sequence, p.at)),
        )];
        match &self.told {
            Told::Nothing { since: None } => {
                rows.push(("in force", "unknown: the device was never heard of".to_owned()));
            }
            Told::Nothing { since: Some(since) } => {
                rows.push(("in force", format!("unknown: the device is away since {since}")));
            }
            Told::Status { at, in_force, refused } => {
                rows.push(("in force", format!("{}, it said at {at}", number(*in_force))));
                rows.extend(refused.iter().map(|why| ("refused", indented(why))));
                if published.is_some() && in_force.is_none() && refused.is_none() {
                    let hint = "if it stays so, look whether the device's config names our \
                                certificate: `controller: { certificate: FILE }`";
                    rows.push(("", hint.to_owned()));
                }
            }
        }
        rows.iter().map(|(name, value)| format!("{name:<10} {value}\n")).collect()
    }
}

/// Under its own first line. A device wrote it.
fn indented(text: &str) -> String {
    let text = Harmless(text.trim_end().as_bytes()).to_string();
    let lines: Vec<&str> = text.lines().collect();
    lines.join(&format!("\n{:11}", "")).lines().map(str::trim_end).collect::<Vec<_>>().join("\n")
}

fn texts(bindings: &Bindings, style: Style) -> Vec<String> {
    let mut sections = Vec::new();
    if !bindings.scenarios.is_empty() {
        let name = |text: &Text| format!("{}\n", harmless_line(text.name.as_bytes()));
        let names: String = bindings.scenarios.iter().map(name).collect();
        sections.extend(section("Scenarios that come with it", names, style.text()));
    }
    let Text { name, text } = &bindings.bindings;
    let text = format!("{}\n", Harmless(text.trim_end().as_bytes()));
    sections.extend(section(&harmless_line(name.as_bytes()), text, style.text()));
    sections
}

fn unopened(error: &OpenError) -> String {
    format!(
        "what is published does not open with the controller's certificate of today ({error}): \
         publish it again, and enrol that certificate on the device\n"
    )
}
