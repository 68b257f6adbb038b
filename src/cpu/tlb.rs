//! Software TLBs and jump caches, kept per address space so that an address-space switch under
//! ASIDs flushes nothing.
//!
//! A `Space` belongs to one `satp` value and holds one table a mode of data access (U, S, S with
//! SUM, M) and one jump cache a mode of fetch. Translated code looks entries up inline: an entry
//! whose tag equals the page of the *last* byte of the access hits, so an access that crosses a
//! page misses.

use std::ops::Range;

use super::jump_cache::JumpCache;
use super::state::Privilege;

/// Low bits of an address that are the offset in a page.
pub const PAGE_MASK: u64 = !0xfff;
/// A tag no page address equals.
pub const INVALID_TAG: u64 = u64::MAX;

const MIN_ENTRIES: usize = 256;
const MAX_ENTRIES: usize = 8192;
const SPACES: usize = 16;
const MMIO_SLOTS: usize = 8;

/// One cached translation of a RAM page. 32 bytes; translated code depends on the layout.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct TlbEntry {
    /// Virtual page for which loads hit, or `INVALID_TAG`.
    pub read: u64,
    /// Virtual page for which stores hit, or `INVALID_TAG`.
    pub write: u64,
    /// Host address minus guest virtual address.
    pub addend: u64,
    /// Physical page.
    pub pa: u64,
}

const EMPTY: TlbEntry =
    TlbEntry { read: INVALID_TAG, write: INVALID_TAG, addend: 0, pa: INVALID_TAG };

/// A cached translation of a device page: never hit inline.
#[derive(Debug, Clone, Copy)]
struct MmioEntry {
    va: u64,
    pa: u64,
    read: bool,
    write: bool,
}

const NO_MMIO: MmioEntry = MmioEntry { va: INVALID_TAG, pa: 0, read: false, write: false };

/// A direct-mapped table that doubles while it thrashes.
#[derive(Debug)]
pub struct Table {
    entries: Box<[TlbEntry]>,
    mmio: [MmioEntry; MMIO_SLOTS],
    used: bool,
    conflicts: usize,
    /// Bounds of virtual addresses mapped by superpages: a flush of one page in there must drop
    /// the whole superpage, of which any number of 4 KiB pieces may be cached.
    large: (u64, u64),
}

impl Table {
    fn new() -> Self {
        Self {
            entries: vec![EMPTY; MIN_ENTRIES].into_boxed_slice(),
            mmio: [NO_MMIO; MMIO_SLOTS],
            used: false,
            conflicts: 0,
            large: (u64::MAX, 0),
        }
    }

    /// Address of the first entry and the byte mask that translated code applies to `va >> 7`.
    pub fn inline_view(&self) -> (usize, u64) {
        (self.entries.as_ptr() as usize, ((self.entries.len() - 1) * size_of::<TlbEntry>()) as u64)
    }

    fn index(&self, va: u64) -> usize {
        (va >> 12) as usize & (self.entries.len() - 1)
    }

    /// The entry that `va` would hit.
    #[inline]
    pub fn entry(&self, va: u64) -> &TlbEntry {
        &self.entries[self.index(va)]
    }

    fn flush(&mut self) {
        if self.used {
            self.entries.fill(EMPTY);
            self.mmio = [NO_MMIO; MMIO_SLOTS];
            self.used = false;
            self.conflicts = 0;
            self.large = (u64::MAX, 0);
        }
    }

    fn flush_page(&mut self, va: u64) {
        let page = va & PAGE_MASK;
        if page >= self.large.0 && page <= self.large.1 {
            self.flush();
            return;
        }
        let i = self.index(va);
        let e = &mut self.entries[i];
        if e.read == page || e.write == page {
            *e = EMPTY;
        }
        for m in &mut self.mmio {
            if m.va == page {
                *m = NO_MMIO;
            }
        }
    }

    /// Insert; true when the table has moved (it grew).
    fn insert(&mut self, entry: TlbEntry, va: u64, page_size: u64) -> bool {
        self.used = true;
        if page_size > 4096 {
            let start = va & !(page_size - 1);
            self.large.0 = self.large.0.min(start);
            self.large.1 = self.large.1.max(start | (page_size - 1));
        }
        let i = self.index(va);
        let page = va & PAGE_MASK;
        let old = &self.entries[i];
        let taken = old.read.min(old.write) != INVALID_TAG && old.read != page && old.write != page;
        self.entries[i] = entry;
        if taken {
            self.conflicts += 1;
            if self.conflicts > self.entries.len() && self.entries.len() < MAX_ENTRIES {
                self.grow();
                return true;
            }
        }
        false
    }

    fn grow(&mut self) {
        let bigger = vec![EMPTY; self.entries.len() * 2].into_boxed_slice();
        let old = std::mem::replace(&mut self.entries, bigger);
        for e in old {
            let page = e.read.min(e.write);
            if page != INVALID_TAG {
                let i = self.index(page);
                self.entries[i] = e;
            }
        }
        self.conflicts = 0;
    }

    fn protect(&mut self, pages: &Range<u64>) {
        if self.used {
            for e in &mut self.entries {
                if pages.contains(&e.pa) {
                    e.write = INVALID_TAG;
                }
            }
        }
    }
}

/// How data is accessed: which table of a space applies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DataMode {
    User = 0,
    Supervisor = 1,
    /// Supervisor with `mstatus.SUM`.
    SupervisorSum = 2,
    Machine = 3,
}

#[derive(Debug)]
struct Space {
    satp: u64,
    last_used: u64,
    /// How many entries of the fence log have been applied.
    fences_seen: u64,
    /// Everything must go before this space is used again.
    stale: bool,
    tables: [Table; 4],
    jumps: [JumpCache; 3],
}

/// A `sfence.vma` of one page, for the spaces that are not in use: they apply it when they are
/// selected, so that a fence costs the same however many spaces there are.
#[derive(Debug, Clone, Copy)]
struct PageFence {
    va: u64,
    asid: Option<u16>,
}

/// Page fences after which a space that has not applied them is flushed whole.
const FENCE_LOG: usize = 128;

impl Space {
    fn new(satp: u64) -> Self {
        Self {
            satp,
            last_used: 0,
            fences_seen: 0,
            stale: false,
            tables: std::array::from_fn(|_| Table::new()),
            jumps: std::array::from_fn(|_| JumpCache::new()),
        }
    }

    fn flush(&mut self) {
        self.tables.iter_mut().for_each(Table::flush);
        self.jumps.iter_mut().for_each(JumpCache::flush);
        self.stale = false;
    }

    fn flush_page(&mut self, va: u64) {
        self.tables.iter_mut().filter(|t| t.used).for_each(|t| t.flush_page(va));
        self.jumps.iter_mut().for_each(|j| j.flush_page(va));
    }

    fn asid(&self) -> u16 {
        (self.satp >> 44) as u16
    }
}

/// Counters for `info jit` and the benches.
#[derive(Debug, Default, Clone, Copy)]
pub struct TlbStats {
    pub fills: u64,
    pub flushes: u64,
    pub page_flushes: u64,
    pub space_switches: u64,
    pub space_evictions: u64,
}

/// All TLBs of one hart.
#[derive(Debug)]
pub struct TlbSet {
    spaces: Vec<Space>,
    current: usize,
    mode: DataMode,
    fetch: usize,
    clock: u64,
    /// One bit a RAM page: a write entry for it may exist.
    writable: Vec<u64>,
    fences: Vec<PageFence>,
    /// Fences that were in the log before it was last emptied.
    fences_before: u64,
    pub stats: TlbStats,
}

impl TlbSet {
    /// TLBs for a machine with `ram_pages` pages of RAM.
    pub fn new(ram_pages: u64) -> Self {
        Self {
            spaces: vec![Space::new(0)],
            current: 0,
            mode: DataMode::Machine,
            fetch: 2,
            clock: 0,
            writable: vec![0; ram_pages.div_ceil(64) as usize],
            fences: Vec::with_capacity(FENCE_LOG),
            fences_before: 0,
            stats: TlbStats::default(),
        }
    }

    /// Select the tables for `satp` (0 when translation is off) and the modes of data and fetch.
    pub fn select(&mut self, satp: u64, mode: DataMode, fetch: Privilege) {
        self.mode = mode;
        self.fetch = match fetch {
            Privilege::User => 0,
            Privilege::Supervisor => 1,
            Privilege::Machine => 2,
        };
        if self.spaces[self.current].satp == satp {
            return;
        }
        self.stats.space_switches += 1;
        self.clock += 1;
        self.current = match self.spaces.iter().position(|s| s.satp == satp) {
            Some(i) => i,
            None if self.spaces.len() < SPACES => {
                self.spaces.push(Space::new(satp));
                let last = self.spaces.len() - 1;
                self.spaces[last].fences_seen = self.fences_before + self.fences.len() as u64;
                last
            }
            None => {
                self.stats.space_evictions += 1;
                let oldest = (0..self.spaces.len())
                    .min_by_key(|&i| self.spaces[i].last_used)
                    .unwrap_or_default();
                self.spaces[oldest].stale = true;
                self.spaces[oldest].satp = satp;
                oldest
            }
        };
        self.spaces[self.current].last_used = self.clock;
        self.catch_up();
    }

    /// Apply to the current space the fences it missed.
    fn catch_up(&mut self) {
        let space = &mut self.spaces[self.current];
        let missed_all = space.fences_seen < self.fences_before;
        if space.stale || missed_all {
            space.flush();
        } else {
            let from = (space.fences_seen - self.fences_before) as usize;
            for fence in self.fences.get(from..).unwrap_or_default() {
                if fence.asid.is_none_or(|a| a == space.asid()) {
                    space.flush_page(fence.va);
                }
            }
        }
        space.fences_seen = self.fences_before + self.fences.len() as u64;
    }

    /// The table data accesses use now.
    #[inline]
    pub fn table(&self) -> &Table {
        &self.spaces[self.current].tables[self.mode as usize]
    }

    /// The jump cache in use now.
    pub fn jump_cache(&self) -> &JumpCache {
        &self.spaces[self.current].jumps[self.fetch]
    }

    /// The jump cache in use now.
    pub fn jump_cache_mut(&mut self) -> &mut JumpCache {
        &mut self.spaces[self.current].jumps[self.fetch]
    }

    /// Address of the current jump cache's first slot.
    pub fn jump_view(&self) -> usize {
        self.jump_cache().first_slot()
    }

    /// Cache a translation of the RAM page that holds `va`; true when the table has moved.
    pub fn insert(&mut self, va: u64, page_size: u64, entry: TlbEntry, ram_page: u64) -> bool {
        self.stats.fills += 1;
        if entry.write != INVALID_TAG {
            self.writable[ram_page as usize / 64] |= 1 << (ram_page % 64);
        }
        self.spaces[self.current].tables[self.mode as usize].insert(entry, va, page_size)
    }

    /// Cache a translation of a device page.
    pub fn insert_mmio(&mut self, va: u64, pa: u64, read: bool, write: bool) {
        let table = &mut self.spaces[self.current].tables[self.mode as usize];
        table.used = true;
        let page = va & PAGE_MASK;
        table.mmio[(va >> 12) as usize % MMIO_SLOTS] =
            MmioEntry { va: page, pa: pa & PAGE_MASK, read, write };
    }

    /// The physical address of `va` if its device page is cached for this kind of access.
    pub fn mmio(&self, va: u64, write: bool) -> Option<u64> {
        let m = &self.table().mmio[(va >> 12) as usize % MMIO_SLOTS];
        (m.va == va & PAGE_MASK && if write { m.write } else { m.read })
            .then_some(m.pa | (va & !PAGE_MASK))
    }

    /// Drop everything.
    pub fn flush_all(&mut self) {
        self.stats.flushes += 1;
        self.spaces.iter_mut().for_each(|s| s.stale = true);
        self.spaces[self.current].flush();
    }

    /// Drop every jump-cache entry (translated code is about to go).
    pub fn flush_jumps(&mut self) {
        self.spaces.iter_mut().flat_map(|s| &mut s.jumps).for_each(JumpCache::flush_code);
    }

    /// `sfence.vma`: drop translations of one page or of all, of one address space or of all.
    pub fn fence(&mut self, va: Option<u64>, asid: Option<u16>) {
        let concerned = |space: &Space| asid.is_none_or(|a| space.asid() == a);
        let Some(va) = va else {
            self.stats.flushes += 1;
            let concerned = self.spaces.iter_mut().filter(|s| concerned(s));
            concerned.for_each(|s| s.stale = true);
            let current = &mut self.spaces[self.current];
            if current.stale {
                current.flush();
            }
            return;
        };
        self.stats.page_flushes += 1;
        if self.fences.len() == FENCE_LOG {
            self.fences_before += FENCE_LOG as u64;
            self.fences.clear();
        }
        self.fences.push(PageFence { va, asid });
        let seen = self.fences_before + self.fences.len() as u64;
        let current = &mut self.spaces[self.current];
        current.fences_seen = seen;
        if concerned(current) {
            current.flush_page(va);
        }
    }

    /// Drop write permission to all RAM pages at these physical addresses.
    pub fn protect_range(&mut self, pages: Range<u64>) {
        for space in &mut self.spaces {
            space.tables.iter_mut().for_each(|t| t.protect(&pages));
        }
    }

    /// Drop write permission to the RAM page at physical address `pa` (index `ram_page`), which
    /// from now on holds translated code.
    pub fn protect(&mut self, pa: u64, ram_page: u64) {
        let (word, bit) = (ram_page as usize / 64, 1 << (ram_page % 64));
        if self.writable[word] & bit != 0 {
            self.writable[word] &= !bit;
            self.protect_range(pa..pa + 1);
        }
    }
}

#[cfg(test)]
mod tests;
