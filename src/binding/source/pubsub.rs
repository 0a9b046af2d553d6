//! What EVE's services publish, as far as it is read here. Pure.
//!
//! The field names are those of EVE's `pkg/pillar/types`. Everything may be missing: a field that
//! is renamed one day costs what it told and nothing else. What is not named here, such as the
//! password of the screen, is passed over by the parser and kept nowhere.

use crate::base::base64;
use crate::base::id::AppId;
use crate::base::time::Timestamp;
use crate::rules::{Disk, Interface, Mac};
use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny};
use std::net::IpAddr;

/// `DomainStatus`: one machine, as EVE's manager of machines sees it.
#[derive(Debug, Eq, PartialEq)]
pub(super) struct Domain {
    pub(super) id: AppId,
    pub(super) name: String,
    pub(super) domain: String,
    pub(super) pid: Option<u32>,
    pub(super) booted: Option<Timestamp>,
    pub(super) mode: Mode,
    pub(super) runs: bool,
    pub(super) disks: Vec<Disk>,
    pub(super) interfaces: Vec<Interface>,
}

/// How a machine is run.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Mode {
    Pv,
    Hvm,
    Fml,
    Legacy,
    /// A plain container: there is no machine.
    NoHypervisor,
    Unknown,
}

/// `AppNetworkStatus`: where an app can be reached.
#[derive(Debug, Eq, PartialEq)]
pub(super) struct Network {
    pub(super) id: AppId,
    pub(super) interfaces: Vec<Interface>,
    pub(super) addresses: Vec<IpAddr>,
}

/// `DomainMetric`: what a machine uses, as the manager last measured it.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Usage {
    /// Time on the CPU, of all its vCPUs together.
    pub cpu_ns: u64,
    /// Memory in use, MiB.
    pub memory_mib: u64,
    /// Memory that is left, MiB.
    pub memory_free_mib: u64,
    /// When that was.
    pub measured: Option<Timestamp>,
}

// === on the wire ===

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[derive(Default)]
struct RawDomain {
    #[serde(rename = "UUIDandVersion")]
    key: RawKey,
    #[serde(deserialize_with = "lenient")]
    display_name: String,
    #[serde(deserialize_with = "lenient")]
    state: i64,
    #[serde(deserialize_with = "lenient")]
    activated: bool,
    #[serde(deserialize_with = "lenient")]
    domain_name: String,
    #[serde(deserialize_with = "lenient")]
    domain_id: i64,
    #[serde(deserialize_with = "lenient")]
    boot_time: String,
    #[serde(deserialize_with = "lenient")]
    virtualization_mode: Option<i64>,
    #[serde(deserialize_with = "lenient")]
    disk_status_list: Vec<RawDisk>,
    #[serde(deserialize_with = "lenient")]
    vif_list: Vec<RawAdapter>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawKey {
    #[serde(rename = "UUID")]
    uuid: String,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct RawDisk {
    #[serde(deserialize_with = "lenient")]
    file_location: String,
    #[serde(deserialize_with = "lenient")]
    format: RawFormat,
    #[serde(deserialize_with = "lenient")]
    read_only: bool,
}

/// A number in some versions, a word in others.
#[derive(Deserialize)]
#[serde(untagged)]
enum RawFormat {
    Number(i64),
    Word(String),
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct RawNetwork {
    #[serde(rename = "UUIDandVersion")]
    key: RawKey,
    #[serde(deserialize_with = "lenient")]
    app_net_adapter_list: Vec<RawAdapter>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct RawAdapter {
    #[serde(deserialize_with = "lenient")]
    bridge: String,
    #[serde(deserialize_with = "lenient")]
    vif: String,
    #[serde(deserialize_with = "lenient")]
    vif_used: String,
    #[serde(deserialize_with = "lenient")]
    mac: String,
    #[serde(deserialize_with = "lenient")]
    assigned_addresses: RawAssigned,
    #[serde(rename = "AllocatedIPv4Addr", deserialize_with = "lenient")]
    allocated: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawAssigned {
    #[serde(rename = "IPv4Addrs", deserialize_with = "lenient")]
    v4: Vec<RawAddress>,
    #[serde(rename = "IPv6Addrs", deserialize_with = "lenient")]
    v6: Vec<RawAddress>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct RawAddress {
    #[serde(deserialize_with = "lenient")]
    address: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawUsage {
    #[serde(rename = "CPUTotalNs", deserialize_with = "lenient")]
    cpu_ns: u64,
    #[serde(rename = "UsedMemory", deserialize_with = "lenient")]
    used: u64,
    #[serde(rename = "AvailableMemory", deserialize_with = "lenient")]
    free: u64,
    #[serde(rename = "LastHeard", deserialize_with = "lenient")]
    heard: String,
}

impl Default for RawFormat {
    fn default() -> Self {
        Self::Number(0)
    }
}

/// Go writes an empty list as `null`, and a type may change from one version to the next: what is
/// not what we expect is as good as missing.
fn lenient<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(
    deserializer: D,
) -> Result<T, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Either<T> {
        Expected(T),
        Other(IgnoredAny),
    }
    Ok(match Either::deserialize(deserializer)? {
        Either::Expected(value) => value,
        Either::Other(IgnoredAny) => T::default(),
    })
}

// === what it means ===

pub(super) fn domain(bytes: &[u8]) -> Result<Domain, String> {
    let raw: RawDomain = parse(bytes)?;
    let pid = u32::try_from(raw.domain_id).ok().filter(|pid| *pid != 0);
    let disks = raw.disk_status_list.into_iter().filter(|disk| !disk.file_location.is_empty());
    Ok(Domain {
        id: key(&raw.key)?,
        name: raw.display_name,
        domain: domain_name(raw.domain_name)?,
        pid,
        booted: timestamp(&raw.boot_time),
        mode: mode(raw.virtualization_mode),
        runs: raw.activated && pid.is_some() && is_run(raw.state),
        disks: disks.map(disk).collect(),
        interfaces: raw.vif_list.iter().map(interface).collect(),
    })
}

pub(super) fn network(bytes: &[u8]) -> Result<Network, String> {
    let raw: RawNetwork = parse(bytes)?;
    let mut addresses: Vec<IpAddr> = Vec::new();
    for adapter in &raw.app_net_adapter_list {
        let assigned = adapter.assigned_addresses.v4.iter().chain(&adapter.assigned_addresses.v6);
        let texts = assigned.map(|address| &address.address).chain([&adapter.allocated]);
        for address in texts.filter_map(|text| text.parse().ok()) {
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
    }
    // The kernel takes no connection to an address of a link without the link's name.
    addresses.retain(|address| !matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local()));
    let interfaces = raw.app_net_adapter_list.iter().map(interface).collect();
    Ok(Network { id: key(&raw.key)?, interfaces, addresses })
}

pub(super) fn usage(bytes: &[u8]) -> Result<Usage, String> {
    let raw: RawUsage = parse(bytes)?;
    Ok(Usage {
        cpu_ns: raw.cpu_ns,
        memory_mib: raw.used,
        memory_free_mib: raw.free,
        measured: timestamp(&raw.heard),
    })
}

/// The parser's own words may quote the content: only the place is told.
fn parse<T: for<'de> Deserialize<'de>>(bytes: &[u8]) -> Result<T, String> {
    serde_json::from_slice(bytes).map_err(|error| {
        let what = if error.is_eof() { "ends too early" } else { "is not what EVE publishes" };
        format!("{what} (line {}, column {})", error.line(), error.column())
    })
}

fn key(raw: &RawKey) -> Result<AppId, String> {
    raw.uuid.parse().map_err(|_| "names no app: UUIDandVersion.UUID is no UUID".to_owned())
}

/// The name becomes a part of a path: letters, digits and what EVE puts between.
fn domain_name(name: String) -> Result<String, String> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    if name.len() <= 255 && !name.starts_with('.') && name.bytes().all(plain) {
        Ok(name)
    } else {
        Err("has a DomainName that is none".to_owned())
    }
}

/// The `SwState` of a machine that is there: from booting to paused. Unknown to EVE is not gone.
fn is_run(state: i64) -> bool {
    const BOOTING: i64 = 114;
    const PAUSED: i64 = 117;
    const UNKNOWN: i64 = 121;
    (BOOTING..=PAUSED).contains(&state) || state == UNKNOWN
}

fn mode(raw: Option<i64>) -> Mode {
    match raw {
        Some(0) => Mode::Pv,
        Some(1) => Mode::Hvm,
        Some(3) => Mode::Fml,
        Some(4) => Mode::NoHypervisor,
        Some(5) => Mode::Legacy,
        _ => Mode::Unknown,
    }
}

impl Mode {
    /// The word for it in a label.
    pub(super) fn word(self) -> Option<&'static str> {
        match self {
            Self::Pv => Some("pv"),
            Self::Hvm => Some("hvm"),
            Self::Fml => Some("fml"),
            Self::Legacy => Some("legacy"),
            Self::NoHypervisor => Some("none"),
            Self::Unknown => None,
        }
    }
}

fn disk(raw: RawDisk) -> Disk {
    // `zconfig.Format`.
    const FORMATS: [&str; 9] =
        ["", "raw", "qcow", "qcow2", "vhd", "vmdk", "ova", "vhdx", "container"];
    let format = match raw.format {
        RawFormat::Word(word) => word,
        RawFormat::Number(number) => {
            let word = usize::try_from(number).ok().and_then(|at| FORMATS.get(at).copied());
            word.unwrap_or_default().to_owned()
        }
    };
    Disk { path: raw.file_location.into(), format, read_only: raw.read_only }
}

fn interface(raw: &RawAdapter) -> Interface {
    let some = |text: &String| (!text.is_empty()).then(|| text.clone());
    Interface {
        mac: raw.mac.parse().ok().or_else(|| mac_of_base64(&raw.mac)),
        bridge: some(&raw.bridge),
        vif: some(&raw.vif_used).or_else(|| some(&raw.vif)),
    }
}

/// Go writes bytes in base64: six of them are eight letters.
fn mac_of_base64(text: &str) -> Option<Mac> {
    let bytes = (text.len() == 8).then(|| base64::decode(text))??;
    bytes.try_into().ok().map(Mac)
}

/// Go's zero time means that it never was.
fn timestamp(text: &str) -> Option<Timestamp> {
    let at: jiff::Timestamp = text.parse().ok()?;
    (at.as_second() > 0).then(|| Timestamp::from_millis(at.as_millisecond()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_hardware_address_in_base64_is_six_bytes() {
        let mac = mac_of_base64("ABY+M2WT").unwrap();
        assert_eq!(mac.to_string(), "00:16:3e:33:65:93");
        assert_eq!(mac_of_base64("ABY+M2W="), None);
        assert_eq!(mac_of_base64(""), None);
    }

    #[test]
    fn a_field_of_another_type_costs_no_more_than_itself() {
        let text =
            br#"{"UUIDandVersion": {"UUID": "0f8fad5b-d9cb-469f-a165-70867728950e", "Version": 3},
            "DisplayName": "web", "State": 115, "Activated": true, "DomainName": "a.3.1",
            "DomainId": 77, "BootTime": {"sec": 7}, "DiskStatusList": null, "VifList": "none"}"#;
        let domain = domain(text).unwrap();
        assert_eq!((domain.name.as_str(), domain.pid, domain.runs), ("web", Some(77), true));
        assert_eq!((domain.booted, domain.disks.len()), (None, 0));
    }

    #[test]
    fn a_name_of_a_domain_is_no_path() {
        for bad in ["../../tmp/x", "a/b", ".", ".hidden", "a b", "\u{e9}"] {
            let text = format!(
                r#"{{"UUIDandVersion": {{"UUID": "0f8fad5b-d9cb-469f-a165-70867728950e"}}, "DomainName": "{bad}"}}"#
            );
            assert_eq!(domain(text.as_bytes()), Err("has a DomainName that is none".to_owned()));
        }
    }

    #[test]
    fn what_is_wrong_is_told_without_a_word_of_the_content() {
        let torn = br#"{"VncPasswd": "hunter2", "DisplayName": "w"#;
        assert_eq!(domain(torn).unwrap_err(), "ends too early (line 1, column 42)");
        let other = br#"["hunter2"]"#;
        assert!(!domain(other).unwrap_err().contains("hunter2"));
    }

    proptest! {
        #[test]
        fn any_bytes_are_taken(bytes: Vec<u8>) {
            domain(&bytes).ok();
            network(&bytes).ok();
            usage(&bytes).ok();
        }

        #[test]
        fn any_json_is_taken(text in r#"[\[\]{}:,"a-zUID0-9]{0,80}"#) {
            domain(text.as_bytes()).ok();
            network(text.as_bytes()).ok();
        }
    }
}
