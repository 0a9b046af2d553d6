//! What disks were asked for and did not answer yet.
//!
//! What a disk has bears a tag, by which its driver knows it; each request says of itself whether the
//! disk has it. Disks are found by the file systems on them.

use super::Kernel;
use super::files::FileSystem;
use super::memory::Fault;
use super::space::Space;
use super::types::layout::{self, Layout, View};
use super::types::{Types, TypesError};
use std::collections::BTreeSet;

/// `MQ_RQ_IN_FLIGHT`.
const IN_FLIGHT: u64 = 1;

/// What a request is for is in the lowest bits of its flags.
const OPERATION: u64 = 0xff;

/// Hardware queues of one disk, and tags of one queue: `BLK_MQ_MAX_DEPTH` is 10,240.
const QUEUES: u64 = 64;
const TAGS: u64 = 10_240;

/// Requests that are looked at, of all disks.
const REQUESTS: usize = 20_480;

const NAME_BYTES: usize = 32;

/// The structures on the way from a file system to requests.
#[derive(Clone, Copy, Debug)]
pub(super) struct Layouts {
    device: layout::BlockDevice,
    disk: layout::Disk,
    queue: layout::RequestQueue,
    set: layout::TagSet,
    tags: layout::Tags,
    request: layout::Request,
}

/// A request that a disk has.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Request {
    pub(super) disk: String,
    pub(super) operation: &'static str,
    pub(super) sector: u64,
    pub(super) bytes: u64,
    /// By the clock that starts at boot; 0 where the kernel does not keep account.
    pub(super) started_ns: u64,
}

impl Layouts {
    pub(super) fn of(types: &Types, space: &Space<'_>) -> Result<Self, TypesError> {
        Ok(Self {
            device: layout::BlockDevice::of(types, space)?,
            disk: layout::Disk::of(types, space)?,
            queue: layout::RequestQueue::of(types, space)?,
            set: layout::TagSet::of(types, space)?,
            tags: layout::Tags::of(types, space)?,
            request: layout::Request::of(types, space)?,
        })
    }
}

/// Requests in flight of all disks with file systems, the oldest first.
pub(super) fn in_flight(
    kernel: &Kernel<'_>,
    file_systems: &[FileSystem],
) -> Result<Vec<Request>, Fault> {
    let Some(layouts) = &kernel.layouts.requests else { return Ok(Vec::new()) };
    let mut seen = BTreeSet::new();
    let mut found = Vec::new();
    for device in file_systems.iter().map(|it| it.device).filter(|device| *device != 0) {
        match of_disk(kernel, layouts, device, &mut seen) {
            Ok(requests) => found.extend(requests),
            Err(Fault::Spent) => return Err(Fault::Spent),
            // It was unplugged this moment.
            Err(_) => {}
        }
    }
    found.sort_by_key(|request| request.started_ns);
    Ok(found)
}

fn of_disk(
    kernel: &Kernel<'_>,
    layouts: &Layouts,
    device: u64,
    seen: &mut BTreeSet<u64>,
) -> Result<Vec<Request>, Fault> {
    let space = &kernel.space;
    let device = layouts.device.read(space, device)?;
    let disk = layouts.disk.read(space, device.word(layouts.device.disk))?;
    let queue = disk.word(layouts.disk.queue);
    let name = String::from_utf8_lossy(disk.text(layouts.disk.name))
        .chars()
        .take(NAME_BYTES)
        .collect::<String>();
    let set = layouts.queue.read(space, queue)?.word(layouts.queue.set);
    let set = layouts.set.read(space, set)?;
    let (all, count) = (set.word(layouts.set.tags), set.word(layouts.set.queues).min(QUEUES));
    let mut found = Vec::new();
    for number in 0..count {
        let tags = layouts.tags.read(space, space.u64(all.wrapping_add(number * 8))?)?;
        let requests = tags.word(layouts.tags.requests);
        let pointers =
            space.bytes(requests, tags.word(layouts.tags.count).min(TAGS) as usize * 8)?;
        for (tag, pointer) in (0_u32..).zip(pointers.chunks_exact(8)) {
            let at = u64::from_le_bytes(pointer.first_chunk().copied().unwrap_or_default());
            if at == 0 || seen.len() >= REQUESTS || !seen.insert(at) {
                continue;
            }
            // What had the tag before may lie there yet, or have gone.
            let request = match layouts.request.read(space, at) {
                Err(Fault::Spent) => return Err(Fault::Spent),
                Err(_) => continue,
                Ok(request) => request,
            };
            let is_ours = request.word(layouts.request.queue) == queue
                && request.u32(layouts.request.tag) == tag;
            if is_ours && request.word(layouts.request.state) == IN_FLIGHT {
                found.push(told(layouts, &request, name.clone()));
            }
        }
    }
    Ok(found)
}

fn told(layouts: &Layouts, request: &View<'_>, disk: String) -> Request {
    let operation = match request.word(layouts.request.flags) & OPERATION {
        0 => "read",
        1 => "write",
        2 => "flush",
        3 => "discard",
        _ => "request",
    };
    Request {
        disk,
        operation,
        sector: request.word(layouts.request.sector),
        bytes: request.word(layouts.request.bytes),
        started_ns: request.word(layouts.request.started),
    }
}
