//! What a process has open: the files of its disks and its network devices, from `/proc/PID/fd`.

use super::root::Root;
use crate::base::limits;
use crate::evidence::host::Image;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;

/// File systems in memory: what lies there is no disk, but a lock or the guest's RAM.
const IN_MEMORY: [&str; 7] =
    ["tmpfs", "devtmpfs", "ramfs", "hugetlbfs", "proc", "sysfs", "securityfs"];

/// File systems that tell at once how much they have left. Others may ask another machine, which may
/// never answer, and nobody can end that wait.
const LOCAL: [&str; 9] = ["ext2", "ext3", "ext4", "xfs", "btrfs", "f2fs", "zfs", "overlay", "vfat"];

/// What a process has open.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Descriptors {
    pub(super) images: Vec<Image>,
    pub(super) taps: BTreeSet<String>,
}

/// All that a process has open.
pub(super) fn look(root: &Root, pid: u32) -> io::Result<Descriptors> {
    let mountinfo = root.text(&format!("/proc/{pid}/mountinfo")).unwrap_or_default();
    let mounts = mounts(&mountinfo);
    let mut found = Descriptors::default();
    let mut paths = BTreeSet::new();
    for number in root.names(&format!("/proc/{pid}/fd"), limits::HOST_DESCRIPTORS)? {
        let link = format!("/proc/{pid}/fd/{number}");
        let Ok(target) = fs::read_link(root.path(&link)) else { continue };
        let Some(path) = target.to_str().filter(|path| path.starts_with('/')) else { continue };
        let info = root.text(&format!("/proc/{pid}/fdinfo/{number}")).unwrap_or_default();
        if let Some(tap) = value(&info, "iff:") {
            found.taps.insert(tap.to_owned());
        } else if !is_written_only(&info) && !paths.contains(path) {
            let mount = value(&info, "mnt_id:").and_then(|id| mounts.get(id));
            let image = device(root, path).or_else(|| file(root, &link, path, mount?));
            paths.extend(image.as_ref().map(|image| image.path.clone()));
            found.images.extend(image.filter(|_| found.images.len() < limits::DISKS));
        }
    }
    Ok(found)
}

/// A disk of the host that the guest has as its own.
fn device(root: &Root, path: &str) -> Option<Image> {
    let disk = path.strip_prefix("/dev/")?.replace('/', "!");
    let is_disk = root.path(&format!("/sys/class/block/{disk}")).exists();
    is_disk.then(|| Image { path: path.to_owned(), disk, ..Image::default() })
}

fn file(root: &Root, link: &str, path: &str, mount: &Mount) -> Option<Image> {
    if IN_MEMORY.contains(&&*mount.file_system) {
        return None;
    }
    let left = || nix::sys::statvfs::statvfs(&root.path(link)).ok();
    let left = LOCAL.contains(&&*mount.file_system).then(left).flatten();
    let bytes = |left: nix::sys::statvfs::Statvfs| {
        left.blocks_available().saturating_mul(left.fragment_size())
    };
    Some(Image {
        path: path.to_owned(),
        file_system: mount.file_system.clone(),
        disk: mount.disk(root).unwrap_or_default(),
        available_bytes: left.map(bytes),
    })
}

/// Logs are; disks never are.
fn is_written_only(info: &str) -> bool {
    value(info, "flags:").is_none_or(|octal| octal.ends_with('1') || octal.ends_with('5'))
}

fn value<'a>(info: &'a str, word: &str) -> Option<&'a str> {
    info.lines().find_map(|line| Some(line.strip_prefix(word)?.trim()))
}

struct Mount {
    /// `254:0`
    number: String,
    file_system: String,
    /// What was mounted: `/dev/vda`
    source: String,
}

/// By their ids: `27 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw`
fn mounts(mountinfo: &str) -> BTreeMap<&str, Mount> {
    let mount = |line| {
        let (front, back) = str::split_once(line, " - ")?;
        let mut front = front.split(' ');
        let (id, number) = (front.next()?, front.nth(1)?.to_owned());
        let mut back = back.split(' ').map(str::to_owned);
        let (file_system, source) = (back.next()?, back.next()?);
        Some((id, Mount { number, file_system, source }))
    };
    mountinfo.lines().filter_map(mount).collect()
}

impl Mount {
    /// The disk below. Some file systems have a number of their own and tell only what was mounted.
    fn disk(&self, root: &Root) -> Option<String> {
        let by_number = root.link_name(&format!("/sys/dev/block/{}", self.number));
        by_number.or_else(|| Some(device(root, &self.source)?.disk))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;
    use std::path::Path;

    struct Tree(tempfile::TempDir);

    impl Tree {
        fn write(&self, path: &str, text: &str) {
            let path = self.0.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }

        fn link(&self, path: &str, target: impl AsRef<Path>) {
            let path = self.0.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            symlink(target, path).unwrap();
        }

        /// A descriptor with its flags in the mount of this id.
        fn open(&self, number: u32, target: impl AsRef<Path>, flags: &str, mount: u32) {
            self.link(&format!("proc/7/fd/{number}"), target);
            let info = format!("pos:\t0\nflags:\t{flags}\nmnt_id:\t{mount}\nino:\t1\n");
            self.write(&format!("proc/7/fdinfo/{number}"), &info);
        }
    }

    #[test]
    fn disks_are_told_from_all_else() {
        let tree = Tree(tempfile::tempdir().unwrap());
        let real = tree.0.path().join("disk.qcow2");
        tree.write("disk.qcow2", "x");
        tree.write(
            "proc/7/mountinfo",
            "27 1 254:0 / / rw shared:1 - ext4 /dev/vda rw\n\
            28 1 0:44 / /pool rw - btrfs /dev/mapper/pool rw\n29 1 0:9 / /run rw - tmpfs none rw\n\
            30 1 0:50 / /far rw - nfs4 far:/x rw\n24 1 0:6 / /dev rw - devtmpfs d rw\n",
        );
        tree.link("sys/dev/block/254:0", "../../devices/virtio1/block/vda");
        for disk in ["mapper!pool", "zd0", "vda"] {
            tree.write(&format!("sys/class/block/{disk}/stat"), "");
        }
        tree.open(1, "/var/log/out", "0100001", 27);
        tree.open(2, "/var/log/qemu", "02101", 27);
        tree.open(3, "socket:[1]", "02", 10);
        tree.open(4, "/run/pid", "02", 29);
        tree.open(5, &real, "02100002", 27);
        tree.open(6, &real, "02100002", 27);
        tree.open(7, "/pool/data.raw", "02100002", 28);
        tree.open(8, "/far/away.raw", "02100002", 30);
        tree.open(9, "/dev/zd0", "02100002", 24);
        tree.open(10, "/dev/null", "0100000", 24);
        tree.open(11, "/dev/net/tun", "0104002", 24);
        tree.write(
            "proc/7/fdinfo/11",
            "pos:\t100\nflags:\t0104002\nmnt_id:\t24\nino:\t5\niff:\tnbu1x1\n",
        );
        let found = look(&Root::new(tree.0.path()), 7).unwrap();
        assert_eq!(found.taps, BTreeSet::from(["nbu1x1".to_owned()]));
        let told: Vec<(&str, &str, &str, bool)> = found
            .images
            .iter()
            .map(|i| (&*i.path, &*i.file_system, &*i.disk, i.available_bytes.is_some()))
            .collect();
        assert_eq!(
            told,
            [
                (real.to_str().unwrap(), "ext4", "vda", true),
                ("/pool/data.raw", "btrfs", "mapper!pool", false),
                ("/far/away.raw", "nfs4", "", false),
                ("/dev/zd0", "", "zd0", false),
            ]
        );
        assert!(look(&Root::new(tree.0.path()), 8).is_err());
    }
}
