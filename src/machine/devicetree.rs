//! A flattened device tree (Devicetree spec 0.4, chapter 5) as a plain tree: parsed from a file
//! that nobody vouches for, changed, and written back as version 17. Also the only writer of the
//! tree that the machine makes itself (`fdt`), so that both go through the same code.
//!
//! Not vm-fdt, as it only writes, and refuses names that `dtc -@` gives out (`__symbols__`).

use std::collections::HashMap;

/// Node nesting that is accepted; libfdt's `FDT_MAX_DEPTH` is of the same size.
const MAX_DEPTH: usize = 64;
/// The largest blob that is read: QEMU's `FDT_MAX_SIZE`.
pub const MAX_SIZE: usize = 0x10_0000;

const MAGIC: u32 = 0xd00d_feed;
const HEADER_BYTES: usize = 40;
const VERSION: u32 = 17;
/// Version 16 has the same structure block; below it, names and alignment differ.
const LAST_COMPATIBLE: u32 = 16;

const BEGIN_NODE: u32 = 1;
const END_NODE: u32 = 2;
const PROP: u32 = 3;
const NOP: u32 = 4;
const END: u32 = 9;

/// What is wrong with a blob, by libfdt's names, which QEMU prints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DtbError {
    #[error("FDT_ERR_BADMAGIC")]
    BadMagic,
    #[error("FDT_ERR_BADVERSION")]
    BadVersion,
    #[error("FDT_ERR_TRUNCATED")]
    Truncated,
    #[error("FDT_ERR_BADSTRUCTURE")]
    BadStructure,
    #[error("FDT_ERR_NOSPACE")]
    TooLarge,
}

/// A node: properties and children in the order they are written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Node {
    /// Name with unit address; empty for the root.
    pub name: String,
    pub properties: Vec<(String, Vec<u8>)>,
    pub children: Vec<Node>,
}

impl Node {
    /// A node without properties.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), ..Self::default() }
    }

    /// Set a property, replacing its value where it exists.
    pub fn set(&mut self, name: &str, value: impl Into<Vec<u8>>) -> &mut Self {
        let value = value.into();
        match self.properties.iter_mut().find(|(n, _)| n == name) {
            Some((_, old)) => *old = value,
            None => self.properties.push((name.into(), value)),
        }
        self
    }

    /// Set a property without a value.
    pub fn set_flag(&mut self, name: &str) -> &mut Self {
        self.set(name, [])
    }

    /// Set a property of 32-bit cells.
    pub fn set_cells(&mut self, name: &str, cells: &[u32]) -> &mut Self {
        self.set(name, cells.iter().flat_map(|c| c.to_be_bytes()).collect::<Vec<_>>())
    }

    /// Set a property of two cells.
    pub fn set_u64(&mut self, name: &str, value: u64) -> &mut Self {
        self.set(name, value.to_be_bytes())
    }

    /// Set a `reg`-like property of (address, size) pairs, two cells each.
    pub fn set_ranges(&mut self, name: &str, ranges: &[(u64, u64)]) -> &mut Self {
        let bytes = ranges.iter().flat_map(|(a, s)| [a.to_be_bytes(), s.to_be_bytes()]);
        self.set(name, bytes.flatten().collect::<Vec<_>>())
    }

    /// Set a property that is a list of strings (one or more). A NUL ends a string early, as it
    /// would in C.
    pub fn set_strings(&mut self, name: &str, strings: &[&str]) -> &mut Self {
        let mut value = Vec::new();
        for s in strings {
            value.extend(s.bytes().take_while(|&b| b != 0));
            value.push(0);
        }
        self.set(name, value)
    }

    /// The value of a property.
    pub fn property(&self, name: &str) -> Option<&[u8]> {
        self.properties.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_slice())
    }

    /// The child of that name.
    pub fn child(&self, name: &str) -> Option<&Node> {
        self.children.iter().find(|c| c.name == name)
    }

    /// The child of that name, made when there is none.
    pub fn child_mut(&mut self, name: &str) -> &mut Node {
        let at = match self.children.iter().position(|c| c.name == name) {
            Some(at) => at,
            None => {
                self.children.push(Node::new(name));
                self.children.len() - 1
            }
        };
        &mut self.children[at]
    }

    /// Append a child and return it.
    pub fn add(&mut self, name: impl Into<String>) -> &mut Node {
        let at = self.children.len();
        self.children.push(Node::new(name));
        &mut self.children[at]
    }
}

/// A whole tree with what its header says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeviceTree {
    pub root: Node,
    /// Reserved memory: (address, size).
    pub reservations: Vec<(u64, u64)>,
    pub boot_cpuid: u32,
}

impl DeviceTree {
    /// Read a blob. Anything may be in it; what follows its `totalsize` is ignored.
    pub fn parse(blob: &[u8]) -> Result<Self, DtbError> {
        if blob.len() < 4 || Cursor::new(blob).u32()? != MAGIC {
            return Err(DtbError::BadMagic);
        }
        let mut header = Cursor::new(blob.get(..HEADER_BYTES).ok_or(DtbError::Truncated)?);
        let mut field = || header.u32();
        let (_magic, total) = (field()?, field()? as usize);
        let (off_struct, off_strings, off_reserve) =
            (field()? as usize, field()? as usize, field()? as usize);
        let (version, last_compatible, boot_cpuid) = (field()?, field()?, field()?);
        let (size_strings, size_struct) = (field()? as usize, field()? as usize);
        if version < LAST_COMPATIBLE || last_compatible > VERSION {
            return Err(DtbError::BadVersion);
        }
        if total > MAX_SIZE {
            return Err(DtbError::TooLarge);
        }
        let blob = blob.get(..total).ok_or(DtbError::Truncated)?;
        let part = |offset: usize, size: usize| {
            let end = offset.checked_add(size).ok_or(DtbError::Truncated)?;
            blob.get(offset..end).ok_or(DtbError::Truncated)
        };
        let strings = part(off_strings, size_strings)?;
        // Version 16 does not know the size of the structure block.
        let structure = if version >= 17 {
            part(off_struct, size_struct)?
        } else {
            blob.get(off_struct..).ok_or(DtbError::Truncated)?
        };

        let mut reservations = Vec::new();
        let mut cursor = Cursor::new(blob.get(off_reserve..).ok_or(DtbError::Truncated)?);
        loop {
            match (cursor.u64()?, cursor.u64()?) {
                (0, 0) => break,
                entry => reservations.push(entry),
            }
        }
        Ok(Self { root: parse_nodes(structure, strings)?, reservations, boot_cpuid })
    }

    /// The blob, packed.
    pub fn to_blob(&self) -> Vec<u8> {
        let mut structure = Vec::new();
        let mut strings = Strings::default();
        write_node(&self.root, &mut structure, &mut strings);
        structure.extend(END.to_be_bytes());

        let off_reserve = HEADER_BYTES;
        let off_struct = off_reserve + 16 * (self.reservations.len() + 1);
        let off_strings = off_struct + structure.len();
        let total = off_strings + strings.bytes.len();

        let mut blob = Vec::with_capacity(total);
        let header = [
            MAGIC,
            total as u32,
            off_struct as u32,
            off_strings as u32,
            off_reserve as u32,
            VERSION,
            LAST_COMPATIBLE,
            self.boot_cpuid,
            strings.bytes.len() as u32,
            structure.len() as u32,
        ];
        blob.extend(header.iter().flat_map(|word| word.to_be_bytes()));
        for (address, size) in self.reservations.iter().chain(&[(0, 0)]) {
            blob.extend(address.to_be_bytes());
            blob.extend(size.to_be_bytes());
        }
        blob.extend(structure);
        blob.extend(strings.bytes);
        blob
    }
}

/// The strings block; each name is there once.
#[derive(Default)]
struct Strings {
    bytes: Vec<u8>,
    offsets: HashMap<String, u32>,
}

impl Strings {
    fn offset(&mut self, name: &str) -> u32 {
        if let Some(&offset) = self.offsets.get(name) {
            return offset;
        }
        let offset = self.bytes.len() as u32;
        self.bytes.extend(name.bytes());
        self.bytes.push(0);
        self.offsets.insert(name.into(), offset);
        offset
    }
}

/// Depth is bounded: parsed trees by `MAX_DEPTH`, ours by being written in `fdt`.
fn write_node(node: &Node, out: &mut Vec<u8>, strings: &mut Strings) {
    let pad = |out: &mut Vec<u8>| out.resize(out.len().next_multiple_of(4), 0);
    out.extend(BEGIN_NODE.to_be_bytes());
    out.extend(node.name.bytes());
    out.push(0);
    pad(out);
    for (name, value) in &node.properties {
        out.extend(PROP.to_be_bytes());
        out.extend((value.len() as u32).to_be_bytes());
        out.extend(strings.offset(name).to_be_bytes());
        out.extend(value);
        pad(out);
    }
    for child in &node.children {
        write_node(child, out, strings);
    }
    out.extend(END_NODE.to_be_bytes());
}

fn parse_nodes(structure: &[u8], strings: &[u8]) -> Result<Node, DtbError> {
    let mut cursor = Cursor::new(structure);
    // Open nodes, outermost first.
    let mut open: Vec<Node> = Vec::new();
    let root = loop {
        match cursor.u32()? {
            NOP => {}
            BEGIN_NODE => {
                let name = cursor.c_string()?;
                if open.len() == MAX_DEPTH || (open.is_empty() && !name.is_empty()) {
                    return Err(DtbError::BadStructure);
                }
                open.push(Node::new(name));
            }
            PROP => {
                let length = cursor.u32()? as usize;
                let offset = cursor.u32()? as usize;
                let value = cursor.bytes(length)?.to_vec();
                cursor.align();
                let name =
                    Cursor::new(strings.get(offset..).ok_or(DtbError::Truncated)?).c_string()?;
                let node = open.last_mut().ok_or(DtbError::BadStructure)?;
                // The spec wants properties before children.
                if !node.children.is_empty() {
                    return Err(DtbError::BadStructure);
                }
                node.properties.push((name, value));
            }
            END_NODE => {
                let node = open.pop().ok_or(DtbError::BadStructure)?;
                match open.last_mut() {
                    Some(parent) => parent.children.push(node),
                    None => break node,
                }
            }
            _ => return Err(DtbError::BadStructure),
        }
    };
    loop {
        match cursor.u32()? {
            NOP => {}
            END => return Ok(root),
            _ => return Err(DtbError::BadStructure),
        }
    }
}

/// Reads big-endian values; past the end is an error.
struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    fn bytes(&mut self, count: usize) -> Result<&'a [u8], DtbError> {
        let end = self.at.checked_add(count).ok_or(DtbError::Truncated)?;
        let bytes = self.bytes.get(self.at..end).ok_or(DtbError::Truncated)?;
        self.at = end;
        Ok(bytes)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], DtbError> {
        let mut array = [0; N];
        array.copy_from_slice(self.bytes(N)?);
        Ok(array)
    }

    fn u32(&mut self) -> Result<u32, DtbError> {
        self.array().map(u32::from_be_bytes)
    }

    fn u64(&mut self) -> Result<u64, DtbError> {
        self.array().map(u64::from_be_bytes)
    }

    /// A NUL-terminated name, and the padding after it.
    fn c_string(&mut self) -> Result<String, DtbError> {
        let rest = self.bytes.get(self.at..).ok_or(DtbError::Truncated)?;
        let length = rest.iter().position(|&b| b == 0).ok_or(DtbError::Truncated)?;
        let name = std::str::from_utf8(&rest[..length]).map_err(|_| DtbError::BadStructure)?;
        self.at += length + 1;
        self.align();
        Ok(name.into())
    }

    fn align(&mut self) {
        self.at = self.at.next_multiple_of(4);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> DeviceTree {
        let mut root = Node::new("");
        root.set_cells("#address-cells", &[2]).set_strings("compatible", &["a", "bc"]);
        let child = root.add("soc@1000");
        child.set_flag("ranges").set("odd", [1, 2, 3]);
        child.add("leaf").set_u64("x", 7);
        root.add("__symbols__").set_cells("#address-cells", &[1]);
        DeviceTree { root, reservations: vec![(0x1000, 0x20)], boot_cpuid: 3 }
    }

    #[test]
    fn round_trip() {
        let tree = sample();
        let mut blob = tree.to_blob();
        assert_eq!(DeviceTree::parse(&blob).unwrap(), tree);
        blob.extend([0xff; 9]);
        assert_eq!(DeviceTree::parse(&blob).unwrap(), tree, "bytes after totalsize are ignored");
    }

    #[test]
    fn set_replaces_and_child_mut_finds() {
        let mut tree = sample();
        tree.root.child_mut("soc@1000").set("odd", [9]);
        assert_eq!(tree.root.child("soc@1000").unwrap().property("odd"), Some(&[9][..]));
        assert_eq!(tree.root.children.len(), 2);
        tree.root.child_mut("chosen").set_strings("bootargs", &["a\0b"]);
        assert_eq!(tree.root.child("chosen").unwrap().property("bootargs"), Some(&b"a\0"[..]));
    }

    #[test]
    fn hostile_blobs_are_errors() {
        let good = sample().to_blob();
        for cut in 0..good.len() {
            assert!(DeviceTree::parse(&good[..cut]).is_err(), "cut at {cut}");
        }
        let patched = |at: usize, word: u32| {
            let mut blob = good.clone();
            blob[at..at + 4].copy_from_slice(&word.to_be_bytes());
            DeviceTree::parse(&blob)
        };
        assert_eq!(patched(0, 1), Err(DtbError::BadMagic));
        assert_eq!(patched(4, u32::MAX), Err(DtbError::TooLarge));
        assert_eq!(patched(20, 3), Err(DtbError::BadVersion));
        for field in [8, 12, 16, 32, 36] {
            assert!(patched(field, u32::MAX - 3).is_err(), "header field {field}");
        }
        // Every word of the structure block, replaced by each tag and by a huge number.
        for at in (HEADER_BYTES..good.len() - 3).step_by(4) {
            for word in [0, BEGIN_NODE, END_NODE, PROP, NOP, END, u32::MAX] {
                if let Ok(tree) = patched(at, word) {
                    assert_eq!(DeviceTree::parse(&tree.to_blob()), Ok(tree));
                }
            }
        }
        let mut deep = DeviceTree::default();
        let mut node = &mut deep.root;
        for _ in 0..MAX_DEPTH {
            node = node.add("n");
        }
        assert_eq!(DeviceTree::parse(&deep.to_blob()), Err(DtbError::BadStructure));
    }
}
