//! A reader of migration streams that shares nothing with the program: the format as QEMU 10.0
//! writes it, checked as strictly as it can be. The description at the end says how long sections
//! are; everything else has to agree with it.

use std::collections::BTreeMap;

use serde_json::Value;

const PAGE: usize = 4096;

/// A stream, read.
#[derive(Debug)]
pub struct Stream {
    /// The machine's type.
    pub machine: String,
    pub description: Value,
    /// Contents of each block of memory, by its name, in the stream's order of names.
    pub memory: Vec<(String, Vec<u8>)>,
    /// Whole sections: name, instance, version, bytes.
    pub sections: Vec<Section>,
    /// Pieces that memory came in.
    pub pieces: usize,
}

#[derive(Debug, PartialEq, Eq)]
pub struct Section {
    pub name: String,
    pub instance: u32,
    pub version: u32,
    pub bytes: Vec<u8>,
}

impl Stream {
    pub fn section(&self, name: &str, instance: u32) -> &Section {
        let mut all = self.sections.iter();
        let found = all.find(|s| s.name == name && s.instance == instance);
        found.unwrap_or_else(|| panic!("no section {name} {instance}"))
    }
}

/// Bytes and a place among them.
struct Bytes<'a> {
    all: &'a [u8],
    at: usize,
}

impl<'a> Bytes<'a> {
    fn take(&mut self, count: usize) -> &'a [u8] {
        let taken = self.all.get(self.at..self.at + count);
        self.at += count;
        taken.unwrap_or_else(|| panic!("{count} bytes before {:#x} are not there", self.at))
    }

    fn u8(&mut self) -> u8 {
        self.take(1)[0]
    }

    fn u16(&mut self) -> u16 {
        u16::from_be_bytes(self.take(2).try_into().expect("two bytes"))
    }

    fn u32(&mut self) -> u32 {
        u32::from_be_bytes(self.take(4).try_into().expect("four bytes"))
    }

    fn u64(&mut self) -> u64 {
        u64::from_be_bytes(self.take(8).try_into().expect("eight bytes"))
    }

    fn name(&mut self) -> String {
        let length = self.u8().into();
        String::from_utf8(self.take(length).to_vec()).expect("a name")
    }

    fn footer(&mut self, id: u32) {
        assert_eq!((self.u8(), self.u32()), (0x7e, id), "the footer before {:#x}", self.at);
    }
}

fn number(value: &Value) -> usize {
    value.as_u64().unwrap_or_else(|| panic!("{value} is no number")) as usize
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("{value} is no name"))
}

/// Go past what `description` describes: fields, then subsections with their heads.
fn skip(bytes: &mut Bytes<'_>, description: &Value) {
    for field in description["fields"].as_array().into_iter().flatten() {
        let count = field.get("array_len").map_or(1, number);
        let begun = bytes.at;
        for _ in 0..count {
            match field.get("struct") {
                Some(structure) => skip(bytes, structure),
                None => drop(bytes.take(number(&field["size"]))),
            }
        }
        let (length, size) = (bytes.at - begun, number(&field["size"]));
        assert_eq!(length, count * size, "{field}");
    }
    for subsection in description["subsections"].as_array().into_iter().flatten() {
        assert_eq!(bytes.u8(), 5, "the subsection at {:#x}", bytes.at);
        assert_eq!(bytes.name(), text(&subsection["vmsd_name"]));
        assert_eq!(bytes.u32() as usize, number(&subsection["version"]));
        skip(bytes, subsection);
    }
}

/// The description at the end, and where the record of it begins.
fn description(all: &[u8]) -> (Value, usize) {
    let starts = (0..all.len().saturating_sub(5)).rev().find(|&at| {
        let length = u32::from_be_bytes([all[at + 1], all[at + 2], all[at + 3], all[at + 4]]);
        all[at] == 6 && at + 5 + length as usize == all.len()
    });
    let start = starts.expect("a description at the end");
    let json = serde_json::from_slice(&all[start + 5..]).expect("the description is JSON");
    (json, start)
}

/// Pieces of memory.
#[derive(Default)]
struct Memory {
    blocks: Vec<(String, Vec<u8>)>,
    /// Pages that have come, by block.
    come: BTreeMap<String, Vec<bool>>,
    /// The block of the last page; a page of the same need not name it, in another piece either.
    last: String,
    /// Pages are at places of their own (`mapped-ram`).
    mapped: bool,
}

impl Memory {
    fn piece(&mut self, bytes: &mut Bytes<'_>) {
        loop {
            let word = bytes.u64();
            let (flags, offset) = (word & 0xfff, (word & !0xfff) as usize);
            match flags & !0x20 {
                // The list of blocks.
                0x04 => {
                    let mut left = offset;
                    while left > 0 {
                        let name = bytes.name();
                        let size = bytes.u64() as usize;
                        left = left.checked_sub(size).expect("blocks are as large as all memory");
                        assert_eq!(size % PAGE, 0, "{name}");
                        let (come, contents) = match self.mapped {
                            true => (true, in_place(bytes, size)),
                            false => (false, vec![0; size]),
                        };
                        self.come.insert(name.clone(), vec![come; size / PAGE]);
                        self.blocks.push((name, contents));
                    }
                    continue;
                }
                0x10 => return,
                // All channels up to here; there is one.
                0x200 if !self.mapped => continue,
                0x02 | 0x08 if !self.mapped => {}
                other => panic!("page flags {other:#x} before {:#x}", bytes.at),
            }
            if flags & 0x20 == 0 {
                self.last = bytes.name();
            }
            let block = &self.last;
            let page = match flags & 0x08 {
                0 => {
                    assert_eq!(bytes.u8(), 0, "what a page is filled with");
                    &[0; PAGE]
                }
                _ => bytes.take(PAGE),
            };
            let found = self.blocks.iter_mut().find(|(name, _)| name == block);
            let (_, contents) = found.unwrap_or_else(|| panic!("no block {block}"));
            contents[offset..offset + PAGE].copy_from_slice(page);
            self.come.get_mut(block).expect("known above")[offset / PAGE] = true;
        }
    }
}

/// A block whose pages are in the file behind its entry in the list.
fn in_place(bytes: &mut Bytes<'_>, size: usize) -> Vec<u8> {
    assert_eq!((bytes.u32(), bytes.u64() as usize), (1, PAGE), "version and page size");
    let (bitmap, pages) = (bytes.u64() as usize, bytes.u64() as usize);
    assert_eq!(bitmap, bytes.at, "the bitmap follows the header");
    let bits = bytes.take((size / PAGE).div_ceil(64) * 8);
    assert_eq!(pages, bytes.at.next_multiple_of(1 << 20), "then come the pages");
    bytes.at = pages;
    let all = bytes.take(size);
    let mut contents = vec![0; size];
    for page in (0..size / PAGE).filter(|page| bits[page / 8] >> (page % 8) & 1 == 1) {
        let place = page * PAGE..(page + 1) * PAGE;
        contents[place.clone()].copy_from_slice(&all[place]);
    }
    contents
}

/// Read a whole stream; whatever is wrong with it is a panic that says so.
pub fn read(all: &[u8]) -> Stream {
    let (description, end) = description(all);
    let mut devices = description["devices"].as_array().expect("devices").iter();
    assert_eq!(description["page_size"], PAGE);
    let mut bytes = Bytes { all, at: 0 };
    assert_eq!((bytes.u32(), bytes.u32()), (0x5145_564d, 3), "QEVM, version 3");

    assert_eq!(bytes.u8(), 7, "the configuration");
    let begun = bytes.at;
    let length = bytes.u32() as usize;
    let machine = String::from_utf8(bytes.take(length).to_vec()).expect("a name");
    bytes.at = begun;
    skip(&mut bytes, &description["configuration"]);

    let name = "mapped-ram".as_bytes();
    let mapped = all[begun..bytes.at].windows(name.len()).any(|window| window == name);
    let (mut memory, mut sections, mut pieces, mut ids) =
        (Memory { mapped, ..Memory::default() }, Vec::new(), 0, BTreeMap::new());
    loop {
        match bytes.u8() {
            0 => break,
            kind @ (1 | 4) => {
                let id = bytes.u32();
                let (name, instance) = (bytes.name(), bytes.u32());
                let version = bytes.u32();
                let first = ids.insert(id, name.clone()).is_none();
                assert!(first, "section {id} begins twice");
                if kind == 1 {
                    assert_eq!((name.as_str(), instance, version), ("ram", 0, 4));
                    memory.piece(&mut bytes);
                    pieces += 1;
                } else {
                    let device = devices.next().unwrap_or_else(|| panic!("{name}: not described"));
                    let described = (text(&device["name"]), number(&device["instance_id"]));
                    assert_eq!(described, (name.as_str(), instance as usize));
                    assert_eq!(number(&device["version"]), version as usize, "{name}");
                    let begun = bytes.at;
                    skip(&mut bytes, device);
                    let bytes = all[begun..bytes.at].to_vec();
                    sections.push(Section { name, instance, version, bytes });
                }
                bytes.footer(id);
            }
            kind @ (2 | 3) => {
                let id = bytes.u32();
                assert_eq!(ids.get(&id).map(String::as_str), Some("ram"), "a piece of {id}");
                memory.piece(&mut bytes);
                bytes.footer(id);
                pieces += 1;
                if kind == 3 {
                    ids.insert(id, "ram, which has ended".to_owned());
                }
            }
            8 => {
                bytes.u16();
                let length = bytes.u16().into();
                bytes.take(length);
            }
            other => panic!("record {other} before {:#x}", bytes.at),
        }
    }
    assert_eq!(bytes.at, end, "the description follows the sections");
    assert!(devices.next().is_none(), "all that is described is there");
    assert!(ids.values().any(|name| name == "ram, which has ended"));
    for (name, come) in &memory.come {
        let missing = come.iter().position(|come| !come);
        assert_eq!(missing, None, "a page of {name} that has never come");
    }
    Stream { machine, description, memory: memory.blocks, sections, pieces }
}
