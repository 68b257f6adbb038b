//! The contents of a bank: the chips read and change them, a migration sends and loads them.
//!
//! They are kept by sector, so that an empty bank costs no memory.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use parking_lot::Mutex;

use super::{BANK_SIZE, FlashChanged, FlashSizeError, SECTOR_SIZE};
use crate::machine::memory::{PAGE_SIZE, RamError};
use crate::migration::ram::bitmap::PageBitmap;
use crate::migration::ram::block::{BlockMemory, DirtyPages};

/// The bytes of a bank. A lock is held for one access only.
#[derive(Debug)]
pub struct FlashArray(Mutex<Content>);

#[derive(Debug)]
struct Content {
    /// `None` is a sector of zeroes.
    sectors: Vec<Option<Box<[u8]>>>,
    /// Pages written since a migration last asked.
    written: PageBitmap,
    /// Sectors that a migration has changed: the bank's backing has them otherwise.
    loaded: BTreeSet<usize>,
}

impl FlashArray {
    /// `None`: zeroes, as QEMU's bank without a drive.
    pub fn new(contents: Option<&[u8]>) -> Result<Self, FlashSizeError> {
        let mut sectors = vec![None; (BANK_SIZE / SECTOR_SIZE) as usize];
        if let Some(contents) = contents {
            let len = contents.len() as u64;
            if len != BANK_SIZE {
                return Err(FlashSizeError { len });
            }
            for (sector, bytes) in sectors.iter_mut().zip(contents.chunks(SECTOR_SIZE as usize)) {
                *sector = bytes.iter().any(|b| *b != 0).then(|| bytes.into());
            }
        }
        let written = PageBitmap::new(BANK_SIZE / PAGE_SIZE);
        Ok(Self(Mutex::new(Content { sectors, written, loaded: BTreeSet::new() })))
    }

    /// A little-endian value of `width` bytes at an aligned offset.
    pub(super) fn word(&self, offset: u64, width: u8) -> u64 {
        let mut bytes = [0; 8];
        let word = &mut bytes[..usize::from(width.min(8))];
        match self.0.lock().copy(offset, word) {
            Some(()) => u64::from_le_bytes(bytes),
            None => 0,
        }
    }

    /// Bytes of the bank; zeroes outside of it.
    pub(super) fn bytes(&self, range: Range<u64>) -> Vec<u8> {
        let mut bytes = vec![0; (range.end - range.start) as usize];
        // What is outside stays zero.
        let _ = self.0.lock().copy(range.start, &mut bytes);
        bytes
    }

    /// Change bytes; false if they are outside of the bank.
    pub(super) fn store(&self, offset: u64, bytes: &[u8]) -> bool {
        self.0.lock().store(offset, bytes).is_some()
    }

    /// What a migration has changed since this was last asked, as changes.
    pub(super) fn take_loaded(&self) -> Vec<FlashChanged> {
        let mut content = self.0.lock();
        let loaded = std::mem::take(&mut content.loaded);
        let change = |sector: usize| {
            let mut bytes = vec![0; SECTOR_SIZE as usize];
            let offset = sector as u64 * SECTOR_SIZE;
            content.copy(offset, &mut bytes).map(|()| FlashChanged { offset, bytes })
        };
        loaded.into_iter().filter_map(change).collect()
    }
}

/// Where `len` bytes at `offset` are: by sector, the range within it and within the bytes.
fn pieces(
    offset: u64,
    len: usize,
) -> Option<impl Iterator<Item = (usize, Range<usize>, Range<usize>)>> {
    let end = offset.checked_add(len as u64).filter(|&end| end <= BANK_SIZE)?;
    let mut at = offset;
    Some(std::iter::from_fn(move || {
        if at >= end {
            return None;
        }
        let next = (at - at % SECTOR_SIZE + SECTOR_SIZE).min(end);
        let within = (at % SECTOR_SIZE) as usize;
        let of = (at - offset) as usize..(next - offset) as usize;
        let piece = ((at / SECTOR_SIZE) as usize, within..within + of.len(), of);
        at = next;
        Some(piece)
    }))
}

impl Content {
    fn copy(&self, offset: u64, into: &mut [u8]) -> Option<()> {
        for (sector, range, of) in pieces(offset, into.len())? {
            match &self.sectors[sector] {
                Some(bytes) => into[of].copy_from_slice(&bytes[range]),
                None => into[of].fill(0),
            }
        }
        Some(())
    }

    fn is_same(&self, offset: u64, as_these: &[u8]) -> Option<bool> {
        let mut pieces = pieces(offset, as_these.len())?;
        Some(pieces.all(|(sector, range, of)| match &self.sectors[sector] {
            Some(bytes) => bytes[range] == as_these[of],
            None => as_these[of].iter().all(|&byte| byte == 0),
        }))
    }

    fn store(&mut self, offset: u64, from: &[u8]) -> Option<()> {
        for (sector, range, of) in pieces(offset, from.len())? {
            let empty = || vec![0; SECTOR_SIZE as usize].into_boxed_slice();
            let bytes = self.sectors[sector].get_or_insert_with(empty);
            bytes[range].copy_from_slice(&from[of]);
        }
        let end = offset + from.len() as u64;
        self.written.set_range(offset / PAGE_SIZE..end.div_ceil(PAGE_SIZE));
        Some(())
    }
}

fn out_of_range(addr: u64, len: usize) -> RamError {
    RamError::OutOfRange { addr, len: len as u64 }
}

impl BlockMemory for FlashArray {
    fn size(&self) -> u64 {
        BANK_SIZE
    }

    fn read(&self, offset: u64, into: &mut [u8]) -> Result<(), RamError> {
        self.0.lock().copy(offset, into).ok_or_else(|| out_of_range(offset, into.len()))
    }

    fn is_zero(&self, offset: u64) -> Result<bool, RamError> {
        const ZEROES: &[u8] = &[0; PAGE_SIZE as usize];
        let same = self.0.lock().is_same(offset, ZEROES);
        same.ok_or_else(|| out_of_range(offset, ZEROES.len()))
    }

    fn write(&self, offset: u64, from: &[u8]) -> Result<(), RamError> {
        let refused = || out_of_range(offset, from.len());
        let mut content = self.0.lock();
        if !content.is_same(offset, from).ok_or_else(refused)? {
            content.store(offset, from).ok_or_else(refused)?;
            let sectors = pieces(offset, from.len()).ok_or_else(refused)?;
            content.loaded.extend(sectors.map(|(sector, ..)| sector));
        }
        Ok(())
    }

    fn discard(&self, offset: u64, len: u64) -> Result<(), RamError> {
        const ZEROES: &[u8] = &[0; PAGE_SIZE as usize];
        let end = offset.checked_add(len).filter(|&end| end <= BANK_SIZE);
        let end = end.ok_or_else(|| out_of_range(offset, len as usize))?;
        let mut pages = (offset..end).step_by(ZEROES.len());
        pages.try_for_each(|page| self.write(page, ZEROES))
    }

    /// The machine runs only when all of it is here.
    fn place(&self, offset: u64, page: Option<&[u8]>) -> Result<(), RamError> {
        self.write(offset, page.unwrap_or(&[0; PAGE_SIZE as usize]))
    }

    fn clear(&self) -> Result<(), RamError> {
        let mut content = self.0.lock();
        for sector in 0..content.sectors.len() {
            if content.sectors[sector].take().is_some() {
                content.loaded.insert(sector);
                let first = sector as u64 * (SECTOR_SIZE / PAGE_SIZE);
                content.written.set_range(first..first + SECTOR_SIZE / PAGE_SIZE);
            }
        }
        Ok(())
    }
}

impl DirtyPages for Arc<FlashArray> {
    fn take(&self, found: &mut dyn FnMut(Range<u64>)) -> u64 {
        let clean = PageBitmap::new(BANK_SIZE / PAGE_SIZE);
        let written = std::mem::replace(&mut self.0.lock().written, clean);
        let mut from = 0;
        while let Some(page) = written.next(from) {
            let run = written.run(page);
            from = run.end;
            found(run);
        }
        written.ones()
    }
}
