//! Where translated code finds the code of a virtual pc, and the page of a pc that it does not know:
//! looked up inline by indirect jumps, one cache a mode of fetch of each address space.

use super::tlb::{INVALID_TAG, PAGE_MASK};

/// Slots of a jump cache.
pub const JUMP_SLOTS: usize = 4096;
/// 64-bit words of a jump cache's page filter: as many bits as slots, so that it stays sparse.
const PAGE_FILTER_WORDS: usize = JUMP_SLOTS / 64;

/// One slot of a jump cache: guest virtual pc → address of translated code.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct JumpSlot {
    pub pc: u64,
    pub code: u64,
}

/// No pc is odd.
const NO_JUMP: JumpSlot = JumpSlot { pc: 1, code: 0 };

/// The slot of a pc. Translated code computes the same.
pub fn jump_index(pc: u64) -> usize {
    ((pc >> 1) ^ (pc >> 12)) as usize & (JUMP_SLOTS - 1)
}

/// A cached translation of a page that code is fetched from.
#[derive(Debug, Clone, Copy)]
struct FetchEntry {
    va: u64,
    pa: u64,
}

const NO_FETCH: FetchEntry = FetchEntry { va: INVALID_TAG, pa: 0 };
const FETCH_SLOTS: usize = 256;

/// A direct-mapped cache from virtual pc to translated code, and from page to physical page for
/// the pcs it does not know.
#[derive(Debug)]
pub struct JumpCache {
    slots: Box<[JumpSlot]>,
    fetches: Box<[FetchEntry]>,
    /// As `Table::large`.
    large: (u64, u64),
    /// One bit for each hash of a page that has slots, so that most page flushes cost nothing.
    pages: Box<[u64; PAGE_FILTER_WORDS]>,
    used: bool,
}

impl JumpCache {
    pub(super) fn new() -> Self {
        Self {
            slots: vec![NO_JUMP; JUMP_SLOTS].into_boxed_slice(),
            fetches: vec![NO_FETCH; FETCH_SLOTS].into_boxed_slice(),
            large: (u64::MAX, 0),
            pages: Box::new([0; PAGE_FILTER_WORDS]),
            used: false,
        }
    }

    /// Address of the first slot.
    pub(super) fn first_slot(&self) -> usize {
        self.slots.as_ptr() as usize
    }

    /// The physical address of `pc`, if its page is cached.
    pub fn fetch(&self, pc: u64) -> Option<u64> {
        let e = &self.fetches[(pc >> 12) as usize % FETCH_SLOTS];
        (e.va == pc & PAGE_MASK).then_some(e.pa | (pc & !PAGE_MASK))
    }

    /// Remember that all of the page of `pc` may be executed, and where it is.
    pub fn insert_fetch(&mut self, pc: u64, pa: u64, page_size: u64) {
        if page_size > 4096 {
            let start = pc & !(page_size - 1);
            self.large.0 = self.large.0.min(start);
            self.large.1 = self.large.1.max(start | (page_size - 1));
        }
        self.mark(pc);
        self.fetches[(pc >> 12) as usize % FETCH_SLOTS] =
            FetchEntry { va: pc & PAGE_MASK, pa: pa & PAGE_MASK };
    }

    fn mark(&mut self, pc: u64) {
        let (word, bit) = Self::page_bit(pc);
        self.pages[word] |= bit;
        self.used = true;
    }

    /// Word and bit of `pc`'s page in `pages`.
    fn page_bit(pc: u64) -> (usize, u64) {
        let hash = (pc >> 12).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (hash as usize >> 32 & (PAGE_FILTER_WORDS - 1), 1 << (hash >> 58))
    }

    /// Where `pc` is translated, if it is remembered.
    pub fn get(&self, pc: u64) -> Option<u64> {
        let slot = &self.slots[jump_index(pc)];
        (slot.pc == pc).then_some(slot.code)
    }

    /// Remember where `pc` is translated.
    pub fn insert(&mut self, pc: u64, code: u64) {
        self.mark(pc);
        self.slots[jump_index(pc)] = JumpSlot { pc, code };
    }

    /// Forget everything.
    pub(super) fn flush(&mut self) {
        if self.used {
            self.slots.fill(NO_JUMP);
            self.fetches.fill(NO_FETCH);
            self.large = (u64::MAX, 0);
            self.pages.fill(0);
            self.used = false;
        }
    }

    /// Forget where code is, but not which pages it comes from.
    pub(super) fn flush_code(&mut self) {
        self.slots.fill(NO_JUMP);
    }

    pub(super) fn flush_page(&mut self, va: u64) {
        if va >= self.large.0 && va <= self.large.1 {
            self.flush();
            return;
        }
        let (word, bit) = Self::page_bit(va);
        if self.pages[word] & bit != 0 {
            let fetch = &mut self.fetches[(va >> 12) as usize % FETCH_SLOTS];
            if fetch.va == va & PAGE_MASK {
                *fetch = NO_FETCH;
            }
            for offset in (0..4096).step_by(2) {
                let pc = (va & PAGE_MASK) | offset;
                let slot = &mut self.slots[jump_index(pc)];
                if slot.pc == pc {
                    *slot = NO_JUMP;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flushed_pages_only_are_forgotten() {
        let mut jumps = JumpCache::new();
        jumps.insert(0x8000_0004, 7);
        jumps.insert(0x8000_1004, 8);
        jumps.flush_page(0x8000_0000);
        assert_eq!((jumps.get(0x8000_0004), jumps.get(0x8000_1004)), (None, Some(8)));
    }
}
