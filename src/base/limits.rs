//! Every bound of the program, each with its reason.

use std::time::Duration;

/// A headline must fit the smallest message that any MQTT service takes, and be worth sending on
/// any link.
pub const HEADLINE_BYTES: usize = 4096;

/// Payload of one chunk: cloud brokers take 128 KiB, every intermediary 64 KiB.
pub const CHUNK_BYTES: usize = 32 * 1024;

/// The largest MQTT packet that is sent or accepted: a chunk and its frame, with room.
pub const PACKET_BYTES: u32 = 256 * 1024;

/// A sealed bundle may be this large; the default budget of a scenario is 4 MiB before compression.
pub const BUNDLE_BYTES: u64 = 8 * 1024 * 1024;

/// No bundle is decompressed further than this, whatever it declares.
pub const BODY_BYTES: u64 = 64 * 1024 * 1024;

/// Evidence of one capture step. A full SysRq-t of a large guest is some 300 KiB.
pub const STEP_BYTES: usize = 1024 * 1024;

/// How much of the console's past goes into a bundle: four times what the longest report needs.
pub const CONSOLE_TAIL_BYTES: usize = 128 * 1024;

/// A QMP reply larger than this is not for us.
pub const QMP_LINE_BYTES: usize = 1024 * 1024;

/// EVE's own monitor client waits behind us without a deadline, so the socket is never held longer.
pub const QMP_HOLD: Duration = Duration::from_secs(1);

/// A picture of the guest's screen. Half the budget of a capture: more is not worth the uplink.
pub const SCREEN_BYTES: usize = 2 * 1024 * 1024;

/// Events that one connection to a monitor remembers; in its second a storm of errors may come.
pub const QMP_EVENTS: usize = 32;

/// Of one kind of event the latest, where they are listened to all the time: a guest can cause some kinds at
/// will, and must not push out the others.
pub const QMP_EVENTS_ALIKE: usize = 8;

/// Kinds of events. QEMU 10 has some sixty, of which a VM may see a dozen.
pub const QMP_EVENT_KINDS: usize = 24;

/// Events that are read out of a bundle.
pub const QMP_EVENTS_READ: usize = QMP_EVENTS + QMP_EVENTS_ALIKE * QMP_EVENT_KINDS;

/// What an event may tell. A guest that panics says in its event where.
pub const QMP_EVENT_BYTES: usize = 1024;

/// Devices, channels and the like that are read out of one list. A large VM has some fifty.
pub const QMP_LISTED: usize = 256;

/// Rounds of an app that are remembered as evidence.
pub const ROUNDS_KEPT: usize = 16;

/// The spool: all parcels together, and their number.
pub const SPOOL_BYTES: u64 = 100 * 1024 * 1024;
/// See [`SPOOL_BYTES`].
pub const SPOOL_PARCELS: usize = 1000;

/// What says again what an older bundle says is of no use to anybody after a season.
pub const SPOOL_AGE: Duration = Duration::from_secs(90 * 24 * 3600);

/// A bundle is worth sealing in full while the budget of the uplink carries one more of this size: the
/// default budget of a scenario, as if nothing could be compressed.
pub const FULL_BYTES: u64 = 4 * 1024 * 1024;

/// First evidence is small enough for any link.
pub const FIRST_BYTES: u64 = 64 * 1024;

/// How long the same signature of an app is counted and not sent in full: it comes in full some times a day.
pub const COOLDOWN: Duration = Duration::from_secs(6 * 3600);

/// Incidents of an app under a scenario that are looked into within an hour. Each takes a second of a core and
/// some 2 KB of headlines.
pub const HOURLY: usize = 6;

/// Signatures of apps that are remembered, the latest.
pub const REPEATS: usize = 1000;

/// Dropped bundles that are told by name: as many as fit into a page of the disk.
pub const EVICTED_TOLD: usize = 60;

/// Sealed parcels that are kept in memory while the disk takes none: two bundles of the usual size.
pub const HELD_BYTES: u64 = 8 * 1024 * 1024;

/// Bundles leave this much of the disk free for the device's own work.
pub const DISK_FREE_PERCENT: u8 = 10;

/// Dumps of guests' memory on a device, unless its config says otherwise: one of a large guest, some of
/// small ones.
pub const KEPT_BYTES: u64 = 4 * 1024 * 1024 * 1024;
/// See [`KEPT_BYTES`]. A person has yet to see through the list.
pub const KEPT_DUMPS: usize = 16;

/// Damaged parcels that are kept for a person to look at, and as many refused ones. Of the
/// largest size they take as much again as the spool itself.
pub const ASIDE_PARCELS: usize = 8;

/// QoS 1 messages on their way at once.
pub const INFLIGHT: u16 = 10;

/// How long a stopping program waits for what it has begun.
pub const DRAIN: Duration = Duration::from_secs(5);

/// A scenario, a binding or a config file that is larger was not written by hand.
pub const DOCUMENT_BYTES: usize = 1024 * 1024;

/// What a server says first is a line or two; nobody needs more to know it again.
pub const BANNER_BYTES: usize = 4 * 1024;

/// What of a page is looked at: a health page says what it has to say at its top.
pub const PAGE_BYTES: usize = 64 * 1024;

/// A server's status line and headers; hyper takes no less than 8 KiB.
pub const PAGE_HEAD_BYTES: usize = 16 * 1024;
/// How deep a document may be nested: twice what any of ours needs, and little of a stack.
pub const DOCUMENT_DEPTH: usize = 16;

/// Values in a document, when its aliases are unfolded: a config of 500 apps has some 10,000.
pub const DOCUMENT_NODES: usize = 100_000;

/// Mistakes of one text that are shown; whoever has repaired these asks again.
pub const PROBLEMS_SHOWN: usize = 50;

/// Disks of one guest that are counted. EVE gives a guest a handful.
pub const DISKS: usize = 64;

/// Queues of one disk that are asked: QEMU gives a disk one for each vCPU.
pub const DISK_QUEUES: usize = 16;

/// Queues of any other device that are asked: those of a network card come in pairs.
pub const VIRTIO_QUEUES: usize = 4;

/// Queues that are asked of one monitor in a row: a fifth of the time for which it may be held, at the
/// 0.6 ms that each takes.
pub const QMP_QUEUES: usize = 300;

/// Apps on one device: twice what the largest one is expected to run.
pub const APPS: usize = 1000;

/// The controller's bindings for one device, sealed: one retained message, and cloud brokers take
/// 128 KiB.
pub const BINDINGS_BYTES: usize = 120 * 1024;

/// The same unpacked: as much as one file may have.
pub const BINDINGS_BODY_BYTES: u64 = DOCUMENT_BYTES as u64;

/// Why bindings were refused, as the controller is told: a handful of mistakes with their lines. It is
/// sent again with every status, and the device's log has all of it.
pub const BINDINGS_ERROR_BYTES: usize = 2 * 1024;

/// The list of the dumps that a device keeps, sealed. It is sent again with every status; a dump takes
/// some 80 bytes of it.
pub const KEPT_LIST_BYTES: usize = 4 * 1024;

/// A dump is asked for in slices of this size, and each is on the disk before the next: what is sent in
/// vain after a power cut is no more than this.
pub const DUMP_SLICE_BYTES: u64 = 1024 * 1024;

/// Chunks of a dump on their way at once. Whatever is said meanwhile waits behind these.
pub const DUMP_INFLIGHT: usize = 2;

/// What a controller keeps of dumps, unless its config says otherwise.
pub const DUMPS_BYTES: u64 = 16 * 1024 * 1024 * 1024;

/// How much of a dump is read again for one message, after a restart of the controller: at most a
/// second of the one thread that serves all devices.
pub const DUMP_REREAD_BYTES: u64 = 256 * 1024 * 1024;

/// Scenarios in one directory, or in one message of the controller.
pub const SCENARIOS: usize = 256;

/// Pauses of operators on one device: a pattern of names stands for many apps.
pub const PAUSES: usize = 1000;

/// What is kept in memory of how a guest's console began: the kernel's own boot log is mostly longer,
/// but its first lines say which kernel and which command line.
pub const LOG_FIRST_BYTES: usize = 16 * 1024;

/// What is kept in memory of what it said last. With 100 guests this is 6 MiB if all of them talk.
pub const LOG_RECENT_BYTES: usize = 64 * 1024;

/// Captures on one device at once: each takes a second of a core, and a dump is read as fast as a guest
/// prints it.
pub const CAPTURES: usize = 2;

/// What a look at a guest's memory may read, without the search for its kernel: a kernel's own tables
/// are some 25 MiB at the first look, and 2,000 tasks some 20.
pub const LOOK_BYTES: u64 = 64 * 1024 * 1024;

/// A read takes a microsecond or two of a CPU: no look lasts much longer than a second, whatever the
/// guest's pointers lead to.
pub const LOOK_READS: u64 = 500_000;

/// What is kept of a kernel's build: a distribution's takes 11 KiB, most of it where its names are.
pub const LEARNT_BYTES: usize = 64 * 1024;

/// Guests of whose kernels something is kept. Beyond that the oldest is learnt anew when it is looked at,
/// which takes 50 ms of a core.
pub const LEARNT_KERNELS: usize = 256;

/// How long a look takes at most, also where all of a large guest's RAM is searched: a third of the usual
/// budget of a capture, for the keys need the rest.
pub const LOOK_TIME: Duration = Duration::from_secs(20);

/// How long a guest may stand still for a debugger. To let it go takes 300 ms at most where its
/// hypervisor answers at all, so that clocks and peers miss two seconds, which all of them bear.
pub const STANDSTILL: Duration = Duration::from_millis(1_500);

/// How much of the kernel's log a look takes: as much as of the console.
pub const LOOK_LOG_BYTES: usize = CONSOLE_TAIL_BYTES;

/// How long a dump is waited for, while its guest stands still. Whoever writes longer does so without anybody
/// who keeps it: nobody has a use for evidence of a guest that stood still for ten minutes.
pub const DUMP_TIME: Duration = Duration::from_secs(600);

/// How much is read of a file that kernels leave records in: QEMU's own example of such a store has
/// 64 KiB, and the variables of a firmware are within the first 768 KiB of its image.
pub const STORE_BYTES: usize = 2 * 1024 * 1024;

/// Records of a store that are taken, the latest: one boot leaves some oopses and a panic.
pub const RECORDS: usize = 8;

/// How much of one record is taken. A kernel packs some 30 KiB of its log into one.
pub const RECORD_BYTES: usize = 64 * 1024;

/// A look at the host's own files takes milliseconds, but those of a sick host may never answer. Twice
/// that and the second between the looks fit into the budget of any capture.
pub const HOST_LOOK: Duration = Duration::from_secs(3);

/// The longest file that is read of the host: the mounts of one that runs hundreds of containers.
pub const HOST_FILE_BYTES: u64 = 256 * 1024;

/// Threads of a hypervisor: one a vCPU, and 64 or so that serve disks.
pub const HOST_THREADS: usize = 512;

/// Threads whose stack in the host's kernel is kept: at half a KiB each they leave room in first evidence.
pub const HOST_STACKS: usize = 32;

/// Descriptors of a hypervisor that are looked at: 1024 is where most systems end.
pub const HOST_DESCRIPTORS: usize = 4096;

/// Control groups of one hypervisor: libvirt makes one a vCPU.
pub const HOST_CGROUPS: usize = 64;

/// What is kept of the host's kernel log: a quarter of first evidence, some 150 lines.
pub const HOST_LOG_BYTES: usize = 16 * 1024;

/// How far back it is read. What made a guest fail stands in the minutes before: a hung task is told
/// after two, and until an app has failed three rounds go by.
pub const HOST_LOG_WINDOW: Duration = Duration::from_secs(600);

/// Records of the host's kernel log that are read for that: its ring mostly holds some thousands.
pub const HOST_LOG_RECORDS: usize = 100_000;
