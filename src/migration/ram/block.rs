//! The blocks that a machine's memory consists of, as the stream names them, and where their bytes
//! are.

use std::ops::Range;
use std::sync::Arc;

use parking_lot::Mutex;

use super::PAGE;
use super::bitmap::PageBitmap;
use crate::machine::dirty_log::DirtyLog;
use crate::machine::memory::{GuestRam, PAGE_SIZE, RamError};

/// Bytes of a block, by offset. Whoever else writes them may do so at any time.
pub trait BlockMemory: Send + Sync + std::fmt::Debug {
    /// Size in bytes, a multiple of the page size.
    fn size(&self) -> u64;
    /// Copy out.
    fn read(&self, offset: u64, into: &mut [u8]) -> Result<(), RamError>;
    /// True when the page at `offset` is all zero.
    fn is_zero(&self, offset: u64) -> Result<bool, RamError>;
    /// Copy in.
    fn write(&self, offset: u64, from: &[u8]) -> Result<(), RamError>;
    /// Make these bytes, whole pages, zero.
    fn discard(&self, offset: u64, len: u64) -> Result<(), RamError>;
    /// Make everything zero.
    fn clear(&self) -> Result<(), RamError> {
        self.discard(0, self.size())
    }
    /// The page at `offset`, which was discarded or never there, arrives while the machine may run;
    /// `None` is a page of zeroes. One that is there already is left as it is.
    fn place(&self, offset: u64, page: Option<&[u8]>) -> Result<(), RamError>;
}

/// Tells which pages of a block were written since it was last asked.
pub trait DirtyPages: Send + std::fmt::Debug {
    /// Tell `found` their runs; how many pages they are. What is copied afterwards holds every
    /// write up to now.
    fn take(&self, found: &mut dyn FnMut(Range<u64>)) -> u64;
}

/// One block of memory.
#[derive(Debug, Clone)]
pub struct RamBlock {
    /// What QEMU calls it, e.g. `riscv_virt_board.ram`; at most 255 bytes.
    pub name: String,
    /// Where the guest sees it.
    pub address: u64,
    pub memory: Arc<dyn BlockMemory>,
}

impl RamBlock {
    /// Size in bytes.
    pub fn size(&self) -> u64 {
        self.memory.size()
    }

    /// How many pages it has.
    pub fn pages(&self) -> u64 {
        self.size() / PAGE as u64
    }
}

impl BlockMemory for GuestRam {
    fn size(&self) -> u64 {
        GuestRam::size(self)
    }

    fn read(&self, offset: u64, into: &mut [u8]) -> Result<(), RamError> {
        GuestRam::read(self, self.base().saturating_add(offset), into)
    }

    fn is_zero(&self, offset: u64) -> Result<bool, RamError> {
        GuestRam::is_zero(self, self.base().saturating_add(offset), PAGE_SIZE)
    }

    fn write(&self, offset: u64, from: &[u8]) -> Result<(), RamError> {
        GuestRam::write(self, self.base().saturating_add(offset), from)
    }

    fn discard(&self, offset: u64, len: u64) -> Result<(), RamError> {
        GuestRam::discard(self, self.base().saturating_add(offset), len)
    }

    fn place(&self, offset: u64, page: Option<&[u8]>) -> Result<(), RamError> {
        GuestRam::place(self, self.base().saturating_add(offset), page).map(drop)
    }
}

impl DirtyPages for DirtyLog {
    fn take(&self, found: &mut dyn FnMut(Range<u64>)) -> u64 {
        let pages = self.ram().size() / PAGE_SIZE;
        DirtyLog::take(self, 0..pages, found)
    }
}

/// A block that no hart writes directly: a ROM, a flash bank. Its owner keeps the bytes here, or
/// brings them up to date here.
#[derive(Debug)]
pub struct Bytes {
    content: Mutex<Content>,
}

#[derive(Debug)]
struct Content {
    bytes: Vec<u8>,
    dirty: PageBitmap,
}

impl Bytes {
    /// `bytes`, followed by zeroes up to `size`, a multiple of the page size.
    pub fn new(mut bytes: Vec<u8>, size: u64) -> Self {
        bytes.resize(size as usize, 0);
        let dirty = PageBitmap::new(size / PAGE as u64);
        Self { content: Mutex::new(Content { bytes, dirty }) }
    }

    /// A copy of everything.
    pub fn to_vec(&self) -> Vec<u8> {
        self.content.lock().bytes.clone()
    }
}

fn out_of_range(addr: u64, len: usize) -> RamError {
    RamError::OutOfRange { addr, len: len as u64 }
}

fn slice(offset: u64, len: usize) -> Option<Range<usize>> {
    let start = usize::try_from(offset).ok()?;
    Some(start..start.checked_add(len)?)
}

impl BlockMemory for Bytes {
    fn size(&self) -> u64 {
        self.content.lock().bytes.len() as u64
    }

    fn read(&self, offset: u64, into: &mut [u8]) -> Result<(), RamError> {
        let content = self.content.lock();
        let range = slice(offset, into.len());
        let from = range.and_then(|range| content.bytes.get(range));
        into.copy_from_slice(from.ok_or_else(|| out_of_range(offset, into.len()))?);
        Ok(())
    }

    fn is_zero(&self, offset: u64) -> Result<bool, RamError> {
        let content = self.content.lock();
        let page = slice(offset, PAGE).and_then(|range| content.bytes.get(range));
        Ok(page.ok_or_else(|| out_of_range(offset, PAGE))?.iter().all(|&b| b == 0))
    }

    fn write(&self, offset: u64, from: &[u8]) -> Result<(), RamError> {
        let mut content = self.content.lock();
        let range = slice(offset, from.len());
        let into = range.and_then(|range| content.bytes.get_mut(range));
        into.ok_or_else(|| out_of_range(offset, from.len()))?.copy_from_slice(from);
        let page = PAGE as u64;
        content.dirty.set_range(offset / page..(offset + from.len() as u64).div_ceil(page));
        Ok(())
    }

    fn discard(&self, offset: u64, len: u64) -> Result<(), RamError> {
        let mut content = self.content.lock();
        let range = usize::try_from(len).ok().and_then(|len| slice(offset, len));
        let into = range.and_then(|range| content.bytes.get_mut(range));
        into.ok_or_else(|| out_of_range(offset, len as usize))?.fill(0);
        let page = PAGE as u64;
        content.dirty.set_range(offset / page..(offset + len).div_ceil(page));
        Ok(())
    }

    /// Its owner runs only when all of it is here.
    fn place(&self, offset: u64, page: Option<&[u8]>) -> Result<(), RamError> {
        self.write(offset, page.unwrap_or(&[0; PAGE]))
    }
}

impl DirtyPages for Arc<Bytes> {
    fn take(&self, found: &mut dyn FnMut(Range<u64>)) -> u64 {
        let mut content = self.content.lock();
        let clean = PageBitmap::new(content.dirty.pages());
        let dirty = std::mem::replace(&mut content.dirty, clean);
        drop(content);
        let mut from = 0;
        while let Some(page) = dirty.next(from) {
            let run = dirty.run(page);
            from = run.end;
            found(run);
        }
        dirty.ones()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::memory::RAM_BASE;

    /// Both kinds of memory keep the same promises.
    #[test]
    fn bytes_and_guest_ram_behave_alike() {
        let ram = Arc::new(GuestRam::new(RAM_BASE, 4 * PAGE_SIZE).unwrap());
        let bytes = Arc::new(Bytes::new(Vec::new(), 4 * PAGE_SIZE));
        for memory in [ram as Arc<dyn BlockMemory>, bytes] {
            assert_eq!(memory.size(), 4 * PAGE_SIZE);
            memory.write(PAGE_SIZE + 4095, &[7]).unwrap();
            let zero: Vec<bool> = (0..4).map(|p| memory.is_zero(p * PAGE_SIZE).unwrap()).collect();
            assert_eq!(zero, [true, false, true, true]);
            let mut read = [1; 2];
            memory.read(PAGE_SIZE + 4094, &mut read).unwrap();
            assert_eq!(read, [0, 7]);
            for offset in [4 * PAGE_SIZE, 4 * PAGE_SIZE - 1, u64::MAX - 1, !4095] {
                assert!(memory.read(offset, &mut read).is_err(), "{memory:?} {offset:#x}");
                assert!(memory.write(offset, &read).is_err());
            }
            assert!(memory.is_zero(4 * PAGE_SIZE).is_err());
            memory.clear().unwrap();
            assert!(memory.is_zero(PAGE_SIZE).unwrap());
        }
    }

    #[test]
    fn bytes_tell_which_pages_were_written() {
        let bytes = Arc::new(Bytes::new(vec![1], 4 * PAGE_SIZE));
        let taken = || {
            let mut runs = Vec::new();
            bytes.take(&mut |run| runs.push(run));
            runs
        };
        assert!(taken().is_empty());
        bytes.write(PAGE_SIZE - 1, &[1, 2]).unwrap();
        bytes.write(3 * PAGE_SIZE, &[1]).unwrap();
        assert_eq!(taken(), [0..2, 3..4]);
        assert!(taken().is_empty());
        assert_eq!(bytes.to_vec()[4095..4097], [1, 2]);
    }
}
