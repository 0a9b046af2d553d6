//! Stores as QEMU, Linux and EDK II would write them, for tests: made by the specifications, and of
//! nothing that reads them.

use miniz_oxide::deflate::compress_to_vec;

/// One part that a kernel writes.
#[derive(Clone, Debug)]
pub(crate) struct Dump<'a> {
    pub(crate) seconds: u64,
    pub(crate) reason: &'a str,
    pub(crate) count: u32,
    /// The end of the log first.
    pub(crate) parts: &'a [&'a str],
    pub(crate) deflated: bool,
    pub(crate) cleared: bool,
}

impl Dump<'_> {
    /// What stands in a store for each part, and when it was written.
    fn data(&self) -> impl Iterator<Item = (usize, u64, Vec<u8>)> {
        self.parts.iter().enumerate().map(|(index, text)| {
            let number = index + 1;
            let text = format!("{}#{} Part{number}\n{text}", self.reason, self.count);
            let data =
                if self.deflated { compress_to_vec(text.as_bytes(), 6) } else { text.into_bytes() };
            (number, self.seconds + index as u64, data)
        })
    }
}

/// A panic a thousand seconds after the year 2026 began, or so.
pub(crate) fn panic<'a>(parts: &'a [&'a str]) -> Dump<'a> {
    Dump {
        seconds: 1_767_226_600,
        reason: "Panic",
        count: 1,
        parts,
        deflated: true,
        cleared: false,
    }
}

/// What 6.12 says of itself when it dies at the console's request, and some lines before.
pub(crate) const LAST_WORDS: [&str; 2] = [
    "<6>[   12.000001] sysrq: Trigger a crash\n\
     <0>[   12.000002] Kernel panic - not syncing: sysrq triggered crash\n\
     <4>[   12.000003] CPU: 1 UID: 0 PID: 77 Comm: sh Not tainted 6.12.0-amd64 #1\n\
     <4>[   12.000004] Call Trace:\n\
     <4>[   12.000005]  <TASK>\n\
     <4>[   12.000006]  panic+0x10/0x20\n\
     <4>[   12.000007]  sysrq_handle_crash+0x1a/0x20\n\
     <4>[   12.000008]  write_sysrq_trigger+0x5f/0x80\n\
     <4>[   12.000009]  </TASK>\n",
    "<5>[    0.000000] Linux version 6.12.0-amd64 (x@y) #1\n<6>[    1.000000] early\n",
];

/// `acpi-erst`, with slots of 8 KiB in a file of 64.
pub(crate) fn erst(dumps: &[Dump<'_>]) -> Vec<u8> {
    const SLOT: usize = 8192;
    let mut file = vec![0; 8 * SLOT];
    file[..8].copy_from_slice(b"ERSTSTOR");
    file[8..12].copy_from_slice(&8192_u32.to_le_bytes());
    file[12..16].copy_from_slice(&8192_u32.to_le_bytes());
    file[16..18].copy_from_slice(&0x0100_u16.to_le_bytes());
    let all = dumps.iter().flat_map(|dump| dump.data().map(move |data| (dump, data)));
    for (index, (dump, (_, seconds, data))) in all.enumerate().take(7) {
        let (slot, name) = (1 + index, (dump.seconds << 32) + 1 + index as u64);
        let known = if dump.cleared { 0 } else { name };
        file[24 + 8 * slot..][..8].copy_from_slice(&known.to_le_bytes());
        let record = record(seconds, name, dump.deflated, &data);
        file[slot * SLOT..][..record.len()].copy_from_slice(&record);
    }
    let live =
        dumps.iter().filter(|dump| !dump.cleared).map(|dump| dump.parts.len()).sum::<usize>();
    file[20..24].copy_from_slice(&u32::try_from(live).unwrap().to_le_bytes());
    file
}

/// A CPER record with one section.
fn record(seconds: u64, name: u64, deflated: bool, data: &[u8]) -> Vec<u8> {
    let length = u32::try_from(data.len()).unwrap();
    let mut record = Vec::new();
    record.extend(b"CPER");
    record.extend(0x0100_u16.to_le_bytes());
    record.extend([0xff; 4]);
    record.extend(1_u16.to_le_bytes());
    record.extend(1_u32.to_le_bytes());
    record.extend(2_u32.to_le_bytes());
    record.extend((200 + length).to_le_bytes());
    record.extend(seconds.to_le_bytes());
    record.extend([0; 32]);
    record.extend(b"\xe3\x74\xa5\x75\x52\x50\x29\x4b\x8a\x8e\xbe\x2c\x64\x90\xb8\x9d");
    record.extend([0; 16]);
    record.extend(name.to_le_bytes());
    record.extend([0; 24]);
    assert_eq!(record.len(), 128);
    record.extend(200_u32.to_le_bytes());
    record.extend(length.to_le_bytes());
    record.extend([0; 8]);
    record.extend(if deflated {
        b"\x07\x87\x11\x4f\xdd\x04\x55\x40\xb5\xdd\x95\x6d\x34\xdd\xfa\xc6"
    } else {
        b"\x4e\xe0\x97\xc1\x45\xd5\x70\x4a\x9c\x17\xa5\x54\x94\x19\xeb\x12"
    });
    record.extend([0; 40]);
    assert_eq!(record.len(), 200);
    record.extend(data);
    record
}

/// The flash image of a firmware whose variables have signatures, or of an old one.
pub(crate) fn flash(dumps: &[Dump<'_>], authenticated: bool) -> Vec<u8> {
    const VOLUME: usize = 0x84000;
    let mut image = vec![0; 16];
    image.extend(b"\x8d\x2b\xf1\xff\x96\x76\x8b\x4c\xa9\x85\x27\x47\x07\x5b\x4f\x50");
    image.extend((VOLUME as u64).to_le_bytes());
    image.extend(b"_FVH");
    image.extend(0x0004_feff_u32.to_le_bytes());
    image.extend(72_u16.to_le_bytes());
    image.extend([0, 0, 0, 0, 0, 2]);
    image.extend([0x84_u32, 0x1000, 0, 0].iter().flat_map(|word| word.to_le_bytes()));
    assert_eq!(image.len(), 72);
    image.extend(if authenticated {
        b"\x78\x2c\xf3\xaa\x7b\x94\x9a\x43\xa1\x80\x2e\x14\x4e\xc3\x77\x92"
    } else {
        b"\x16\x36\xcf\xdd\x75\x32\x64\x41\x98\xb6\xfe\x85\x70\x7f\xfe\x7d"
    });
    image.extend((0x40000_u32 - 72).to_le_bytes());
    image.extend([0x5a, 0xfe, 0, 0, 0, 0, 0, 0]);
    let global = b"\x61\xdf\xe4\x8b\xca\x93\xd2\x11\xaa\x0d\x00\xe0\x98\x03\x2b\x8c";
    let crash = b"\x79\xfc\xc8\xcf\x2e\xbe\xdc\x4d\x97\xf0\x9f\x98\xbf\xe2\x98\xa0";
    let mut add = |name: &str, vendor: &[u8], state: u8, data: &[u8]| {
        image.resize(72 + (image.len() - 72).next_multiple_of(4), 0xff);
        let name: Vec<u8> =
            name.encode_utf16().chain([0]).flat_map(|letter| letter.to_le_bytes()).collect();
        image.extend([0xaa, 0x55, state, 0, 7, 0, 0, 0]);
        image.extend(vec![0; if authenticated { 28 } else { 0 }]);
        image.extend(u32::try_from(name.len()).unwrap().to_le_bytes());
        image.extend(u32::try_from(data.len()).unwrap().to_le_bytes());
        image.extend(vendor);
        image.extend(name);
        image.extend(data);
    };
    add("BootOrder", global, 0x3f, &[0, 0, 1]);
    for dump in dumps {
        let (state, kind) =
            (if dump.cleared { 0x3c } else { 0x3f }, if dump.deflated { 'C' } else { 'D' });
        for (number, seconds, data) in dump.data() {
            let name = format!("dump-type0-{number}-{}-{seconds}-{kind}", dump.count);
            add(&name, crash, state, &data);
        }
    }
    add("Timeout", global, 0x3f, &[5, 0]);
    image.resize(VOLUME, 0xff);
    image
}
