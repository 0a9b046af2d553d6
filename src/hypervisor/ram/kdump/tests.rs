//! Small dumps made by hand, whole and damaged.

use super::super::elf::tests::notes;
use super::super::flat::tests::flattened;
use super::*;
use miniz_oxide::deflate::compress_to_vec_zlib;
use proptest::prelude::*;
use std::io::Write;

/// How a page of an image is packed.
#[derive(Clone, Copy, Debug)]
enum Packed {
    Not,
    Zlib,
    Zstd,
}

/// A dump that is written down.
struct Image {
    page: usize,
    /// The number of each page that is here, ascending, and its bytes, filled up with zeros.
    pages: Vec<(usize, Vec<u8>, Packed)>,
    /// The numbers of pages that are RAM.
    ram: Vec<Range<usize>>,
    version: u32,
    status: u32,
    split: u32,
}

impl Default for Image {
    fn default() -> Self {
        Self {
            page: 4096,
            pages: vec![
                (0, b"not packed".to_vec(), Packed::Not),
                (2, b"by zlib".to_vec(), Packed::Zlib),
                (3, b"by zstd".to_vec(), Packed::Zstd),
                (40, b"behind a hole".to_vec(), Packed::Zlib),
            ],
            ram: vec![0..4, 40..41],
            version: 6,
            status: 1,
            split: 0,
        }
    }
}

/// A dump with one CPU and one page, at 1 MiB.
pub(crate) fn sample(ram: &[u8]) -> Vec<u8> {
    let pages = vec![(256, ram.to_vec(), Packed::Zlib)];
    Image { pages, ram: std::iter::once(256..257).collect(), ..Image::default() }.bytes()
}

/// One whose header says so.
pub(crate) fn refused(status: u32, split: u32) -> Vec<u8> {
    Image { status, split, ..Image::default() }.bytes()
}

impl Image {
    fn bytes(&self) -> Vec<u8> {
        let blocks = |bytes: usize| bytes.div_ceil(self.page);
        let notes = notes();
        let end = self.ram.last().map_or(0, |last| last.end);
        let second_blocks = 1 + blocks(notes.len());
        let map_blocks = blocks(end.div_ceil(8));
        let here: Vec<Range<usize>> = self.pages.iter().map(|(page, ..)| *page..page + 1).collect();
        let mut file = self.first(second_blocks, 2 * map_blocks, end);
        file.extend(self.second(notes.len(), end));
        file.extend(notes);
        for (block, map) in
            [(1 + second_blocks, &self.ram), (1 + second_blocks + map_blocks, &here)]
        {
            file.resize(block * self.page, 0);
            let mut bits = vec![0_u8; map_blocks * self.page];
            map.iter().cloned().flatten().for_each(|page| bits[page / 8] |= 1 << (page % 8));
            file.extend(bits);
        }
        let (mut descriptors, mut data) = (Vec::new(), Vec::new());
        let start = file.len() + self.pages.len() * 24;
        for (_, bytes, packed) in &self.pages {
            let mut page = bytes.clone();
            page.resize(self.page, 0);
            let (method, bytes) = match packed {
                Packed::Not => (0_u32, page),
                Packed::Zlib => (1, compress_to_vec_zlib(&page, 6)),
                Packed::Zstd => (0x20, zstd::bulk::compress(&page, 3).unwrap()),
            };
            descriptors.extend(((start + data.len()) as u64).to_le_bytes());
            descriptors.extend((bytes.len() as u32).to_le_bytes());
            descriptors.extend(method.to_le_bytes());
            descriptors.extend([0; 8]);
            data.extend(bytes);
        }
        [file, descriptors, data].concat()
    }

    fn first(&self, second_blocks: usize, map_blocks: usize, pages: usize) -> Vec<u8> {
        let mut block = [head::SIGNATURE, &self.version.to_le_bytes()].concat();
        block.resize(424, 0);
        let pages = if self.version >= 6 { 0 } else { pages };
        for field in [self.status as usize, self.page, second_blocks, map_blocks, pages] {
            block.extend((field as u32).to_le_bytes());
        }
        block.resize(self.page, 0);
        block
    }

    /// Notes follow in the next block.
    fn second(&self, notes: usize, pages: usize) -> Vec<u8> {
        let mut block = vec![0; 12];
        block.extend(self.split.to_le_bytes());
        block.resize(48, 0);
        block.extend((2 * self.page as u64).to_le_bytes());
        block.extend((notes as u64).to_le_bytes());
        block.resize(96, 0);
        block.extend((pages as u64).to_le_bytes());
        block.resize(self.page, 0);
        block
    }
}

fn open(bytes: &[u8]) -> Result<(Kdump, Vec<Registers>), KdumpError> {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    Kdump::open(Flat::open(file, bytes).unwrap())
}

fn text(kdump: &Kdump, at: u64, bytes: usize) -> Result<String, Fault> {
    let mut into = vec![0; bytes];
    kdump.read(at, &mut into).map(|()| String::from_utf8(into).unwrap())
}

#[test]
fn pages_are_where_they_were_however_they_are_packed() {
    for (page, version) in [(4096, 6), (4096, 5), (64 * 1024, 6)] {
        let bytes = Image { page, version, ..Image::default() }.bytes();
        for file in [flattened(&[(0, &bytes)]), bytes] {
            let (kdump, cpus) = open(&file).unwrap();
            let page = page as u64;
            assert_eq!((cpus.len(), kdump.is_whole()), (1, true));
            assert_eq!(kdump.ranges(), [0..4 * page, 40 * page..41 * page]);
            let seen = |number, bytes| text(&kdump, number * page, bytes);
            assert_eq!(seen(0, 10), Ok("not packed".to_owned()));
            assert_eq!(seen(2, 7), Ok("by zlib".to_owned()));
            assert_eq!(seen(3, 7), Ok("by zstd".to_owned()));
            assert_eq!(seen(40, 13), Ok("behind a hole".to_owned()));
            assert_eq!(text(&kdump, 2 * page - 3, 10), Ok("\0\0\0by zlib".to_owned()));
            assert_eq!(text(&kdump, page + 7, 4), Ok("\0\0\0\0".to_owned()), "left out");
            assert_eq!(seen(4, 1), Err(Fault::NoRam(4 * page)));
            assert_eq!(text(&kdump, 41 * page - 1, 2), Err(Fault::NoRam(41 * page)));
        }
    }
}

#[test]
fn a_page_that_is_damaged_is_no_page_and_the_others_are() {
    let image = Image::default().bytes();
    let packed = image.windows(2).rposition(|bytes| bytes == [0x78, 0x9c]).unwrap();
    let mut damaged = image.clone();
    damaged[packed + 9] ^= 0x40;
    let (kdump, _) = open(&damaged).unwrap();
    for _ in 0..2 {
        assert_eq!(text(&kdump, 40 * 4096, 1), Err(DAMAGED));
        assert_eq!(text(&kdump, 2 * 4096, 2), Ok("by".to_owned()));
    }
    let (kdump, _) = open(&image[..packed + 1]).unwrap();
    assert_eq!(text(&kdump, 40 * 4096, 1), Err(Fault::Source(ErrorKind::UnexpectedEof)));
    assert_eq!(text(&kdump, 2 * 4096, 2), Ok("by".to_owned()));
    assert!(!kdump.is_whole());
}

#[test]
fn ram_in_too_many_pieces_is_refused() {
    let ram = |pieces: usize| (0..pieces).map(|number| number * 2..number * 2 + 1).collect();
    let image = |pieces| Image { pages: Vec::new(), ram: ram(pieces), ..Image::default() }.bytes();
    let (kdump, _) = open(&image(PIECES)).unwrap();
    assert_eq!((kdump.ranges().len(), kdump.is_whole()), (PIECES, true));
    assert!(matches!(open(&image(PIECES + 1)), Err(KdumpError::Odd(_))));
}

#[test]
fn pages_that_push_each_other_out_stay_themselves() {
    let pages = (0..1500_usize).map(|number| (number, number.to_le_bytes().to_vec(), Packed::Zlib));
    let image = Image {
        pages: pages.collect(),
        ram: std::iter::once(0..1500).collect(),
        ..Image::default()
    };
    let (kdump, _) = open(&image.bytes()).unwrap();
    for round in 0..2 {
        for number in (0..1500_u64).step_by(1 + round) {
            let mut word = [0; 8];
            kdump.read(number * 4096, &mut word).unwrap();
            assert_eq!(u64::from_le_bytes(word), number);
        }
    }
}

proptest! {
    #[test]
    fn any_damage_is_taken(at in 0_usize..24_000, garbage: [u8; 8], cut in 0_usize..24_000, page in 0_u64..45, is_flat: bool) {
        let mut file = Image::default().bytes();
        for (byte, value) in file.iter_mut().skip(at).zip(garbage) {
            *byte = value;
        }
        file.truncate(cut.max(10));
        if is_flat {
            let (first, rest) = file.split_at(file.len() / 2);
            file = flattened(&[(first.len() as u64, rest), (0, first)]);
        }
        if let Ok((kdump, cpus)) = open(&file) {
            prop_assert!(cpus.len() <= 1 && kdump.ranges().len() <= PIECES);
            _ = kdump.is_whole();
            _ = kdump.read(page * 4096 + 4000, &mut [0; 200]);
        }
    }

    #[test]
    fn any_head_is_taken(first: Vec<u8>, fields: [u32; 5], second in proptest::collection::vec(any::<u8>(), 0..120), version in 0_u32..8) {
        let second = |_| Ok(second);
        _ = Head::read(&[head::SIGNATURE, &first].concat(), second.clone());
        let mut block = [head::SIGNATURE, &version.to_le_bytes()].concat();
        block.resize(424, 0);
        fields.iter().for_each(|field| block.extend(field.to_le_bytes()));
        if let Ok(head) = Head::read(&block, second) {
            prop_assert!(head.here_map >= head.ram_map && head.descriptors >= head.here_map);
        }
    }
}
