//! Where a QEMU keeps what its guest's kernel leaves behind when it dies, by what it was started with.
//! Pure.
//!
//! `acpi-erst` writes into the file of a memory object, and the firmware into flash memory that it may
//! write to. Both are said by arguments, by JSON in arguments (libvirt) or in a file for `-readconfig`
//! (EVE).

use serde_json::Value;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Nodes of a block device that stand on one another; libvirt's flash has two.
const NODES: usize = 4;

/// The files.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Stores {
    /// That behind `acpi-erst`.
    pub erst: Option<PathBuf>,
    /// The image of the flash memory.
    pub flash: Option<PathBuf>,
}

/// One thing that the machine has: `device`, `object`, `drive`, `blockdev`, `machine`.
#[derive(Debug)]
struct Part {
    kind: String,
    says: BTreeMap<String, String>,
}

impl Stores {
    /// Of the arguments of a process, and what is in a file that one of them names.
    #[must_use]
    pub fn read(arguments: &[&str], file: impl Fn(&str) -> Option<String>) -> Self {
        let mut parts = Vec::new();
        for pair in arguments.windows(2) {
            let kind = pair[0].trim_start_matches('-');
            match kind {
                "readconfig" => parts.extend(file(pair[1]).iter().flat_map(|text| config(text))),
                "device" | "object" | "drive" | "blockdev" | "machine" | "M" => {
                    let kind = if kind == "M" { "machine" } else { kind };
                    parts.push(Part { kind: kind.to_owned(), says: options(pair[1]) });
                }
                _ => {}
            }
        }
        Self { erst: erst(&parts), flash: flash(&parts) }
    }
}

impl Part {
    fn get(&self, key: &str) -> Option<&str> {
        self.says.get(key).map(String::as_str)
    }

    fn is(&self, kind: &str, key: &str, value: &str) -> bool {
        self.kind == kind && self.get(key) == Some(value)
    }

    fn may_be_written(&self) -> bool {
        let says = |key| matches!(self.get(key), Some("on" | "true" | "yes"));
        !says("readonly") && !says("read-only")
    }
}

fn erst(parts: &[Part]) -> Option<PathBuf> {
    let device = parts.iter().find(|part| part.is("device", "driver", "acpi-erst"))?;
    let memory = device.get("memdev")?;
    let object = parts.iter().find(|part| part.is("object", "id", memory))?;
    object.get("mem-path").map(PathBuf::from)
}

fn flash(parts: &[Part]) -> Option<PathBuf> {
    let mut drives = parts.iter().filter(|part| part.is("drive", "if", "pflash"));
    let drive = drives.find(|drive| drive.may_be_written());
    let file = drive.and_then(|drive| drive.get("file"));
    let nodes = || {
        let machines = parts.iter().filter(|part| part.kind == "machine");
        machines.flat_map(|part| ["pflash1", "pflash0"].map(|key| part.get(key))).flatten()
    };
    let file = file.or_else(|| nodes().find_map(|node| file_of(node, parts)))?;
    Some(PathBuf::from(file))
}

/// The file at the bottom of a block device that may be written to.
fn file_of<'a>(mut name: &'a str, parts: &'a [Part]) -> Option<&'a str> {
    for _ in 0..NODES {
        let node = parts.iter().find(|part| part.is("blockdev", "node-name", name))?;
        if !node.may_be_written() {
            return None;
        }
        match node.get("filename") {
            Some(file) => return Some(file),
            None => name = node.get("file")?,
        }
    }
    None
}

/// `driver,key=value,key=value`, with commas doubled in a value; or a map in JSON.
fn options(text: &str) -> BTreeMap<String, String> {
    if text.starts_with('{') {
        return json(text);
    }
    let mut says = BTreeMap::new();
    for (index, option) in text.replace(",,", "\0").split(',').enumerate() {
        let option = option.replace('\0', ",");
        match option.split_once('=') {
            Some((key, value)) => says.insert(key.to_owned(), value.to_owned()),
            // What comes first is mostly said without its key.
            None if index == 0 => says.insert("driver".to_owned(), option),
            None => None,
        };
    }
    says
}

fn json(text: &str) -> BTreeMap<String, String> {
    let map: serde_json::Map<String, Value> = serde_json::from_str(text).unwrap_or_default();
    let said = map.into_iter().map(|(key, value)| {
        let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        (key, value)
    });
    said.collect()
}

/// `[device "name"]` and lines `key = "value"` below it.
fn config(text: &str) -> Vec<Part> {
    let mut parts: Vec<Part> = Vec::new();
    for line in text.lines().map(str::trim) {
        if let Some(head) = line.strip_prefix('[').and_then(|head| head.strip_suffix(']')) {
            let (kind, name) = head.split_once(' ').unwrap_or((head, ""));
            let id = ("id".to_owned(), name.trim().trim_matches('"').to_owned());
            parts.push(Part { kind: kind.to_owned(), says: BTreeMap::from([id]) });
        } else if let (Some(part), Some((key, value))) = (parts.last_mut(), line.split_once('=')) {
            let value = value.trim().trim_matches('"').to_owned();
            part.says.insert(key.trim().to_owned(), value);
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn stores(arguments: &str) -> (Option<String>, Option<String>) {
        let arguments: Vec<&str> = arguments.split_whitespace().collect();
        let file = |name: &str| {
            (name == "/run/vm.cfg").then(|| {
                "# made by hand\n[object \"last\"]\n  qom-type = \"memory-backend-file\"\n  \
                 mem-path = \"/run/erst\"\n[device \"e\"]\n  driver = \"acpi-erst\"\n  memdev = \"last\"\n\
                 [drive]\n  if = \"pflash\"\n  format = \"raw\"\n  readonly = \"on\"\n  file = \"/fw/CODE.fd\"\n\
                 [drive]\n  if = \"pflash\"\n  file = \"/run/VARS.fd\"\n"
                    .to_owned()
            })
        };
        let Stores { erst, flash } = Stores::read(&arguments, file);
        let text = |path: Option<PathBuf>| path.map(|path| path.display().to_string());
        (text(erst), text(flash))
    }

    fn both(erst: &str, flash: &str) -> (Option<String>, Option<String>) {
        let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        (some(erst), some(flash))
    }

    #[test]
    fn the_files_are_found_however_they_are_said() {
        let by_hand = "qemu -object memory-backend-file,id=m,mem-path=/a,,b,size=64K,share=on \
                       -device acpi-erst,memdev=m -drive if=pflash,file=/code,readonly=on \
                       -drive if=pflash,format=raw,file=/vars";
        assert_eq!(stores(by_hand), both("/a,b", "/vars"));
        assert_eq!(
            stores("qemu -nodefaults -readconfig /run/vm.cfg"),
            both("/run/erst", "/run/VARS.fd")
        );
        let libvirt = "qemu -machine pc-q35-7.2,usb=off,pflash0=code,pflash1=vars \
             -blockdev {\"driver\":\"file\",\"filename\":\"/fw/code.fd\",\"node-name\":\"code-file\"} \
             -blockdev {\"node-name\":\"code\",\"read-only\":true,\"driver\":\"raw\",\"file\":\"code-file\"} \
             -blockdev {\"driver\":\"file\",\"filename\":\"/nvram/web.fd\",\"node-name\":\"vars-file\"} \
             -blockdev {\"node-name\":\"vars\",\"read-only\":false,\"driver\":\"raw\",\"file\":\"vars-file\"} \
             -object {\"qom-type\":\"memory-backend-file\",\"id\":\"m\",\"mem-path\":\"/erst\",\"size\":65536} \
             -device {\"driver\":\"acpi-erst\",\"memdev\":\"m\"}";
        assert_eq!(stores(libvirt), both("/erst", "/nvram/web.fd"));
    }

    #[test]
    fn what_is_not_there_is_not_found() {
        assert_eq!(stores("qemu -device acpi-erst,memdev=m -readconfig /gone"), both("", ""));
        assert_eq!(
            stores("qemu -drive if=pflash,file=/code,readonly=on -drive file=/disk"),
            both("", "")
        );
        let ring = "-machine pflash1=a -blockdev {\"node-name\":\"a\",\"file\":\"a\"}";
        assert_eq!(stores(ring), both("", ""));
        assert_eq!(stores("-device"), both("", ""));
    }

    proptest! {
        #[test]
        fn any_arguments_are_taken(words in prop::collection::vec("-device|-readconfig|-drive|[a-z=,{}\"\\[\\]]{0,20}", 0..12)) {
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            let found = Stores::read(&words, |text| Some(text.replace(',', "\n")));
            prop_assert!(found.erst.is_none_or(|path| path.as_os_str().len() <= 20));
        }
    }
}
