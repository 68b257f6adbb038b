//! Software TLBs and jump caches, kept per address space so that an address-space switch under
//! ASIDs flushes nothing.
//!
//! A `Space` belongs to one `satp` value and holds one table a mode of data access (U, S, S with
//! SUM, M) and one jump cache a mode of fetch. Translated code looks entries up inline: an entry
//! whose tag equals the page of the *last* byte of the access hits, so an access that crosses a
//! page misses.

use super::state::Privilege;

/// Low bits of an address that are the offset in a page.
pub const PAGE_MASK: u64 = !0xfff;
/// A tag no page address equals.
pub const INVALID_TAG: u64 = u64::MAX;

const MIN_ENTRIES: usize = 256;
const MAX_ENTRIES: usize = 8192;
const SPACES: usize = 16;
/// Slots of a jump cache.
pub const JUMP_SLOTS: usize = 4096;
/// 64-bit words of a jump cache's page filter: as many bits as slots, so that it stays sparse.
const PAGE_FILTER_WORDS: usize = JUMP_SLOTS / 64;
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

    fn protect(&mut self, pa: u64) {
        if self.used {
            for e in &mut self.entries {
                if e.pa == pa {
                    e.write = INVALID_TAG;
                }
            }
        }
    }
}

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
    fn new() -> Self {
        Self {
            slots: vec![NO_JUMP; JUMP_SLOTS].into_boxed_slice(),
            fetches: vec![NO_FETCH; FETCH_SLOTS].into_boxed_slice(),
            large: (u64::MAX, 0),
            pages: Box::new([0; PAGE_FILTER_WORDS]),
            used: false,
        }
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
    fn flush(&mut self) {
        if self.used {
            self.slots.fill(NO_JUMP);
            self.fetches.fill(NO_FETCH);
            self.large = (u64::MAX, 0);
            self.pages.fill(0);
            self.used = false;
        }
    }

    /// Forget where code is, but not which pages it comes from.
    fn flush_code(&mut self) {
        self.slots.fill(NO_JUMP);
    }

    fn flush_page(&mut self, va: u64) {
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
        self.jump_cache().slots.as_ptr() as usize
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

    /// Drop write permission to the RAM page at physical address `pa` (index `ram_page`), which
    /// from now on holds translated code.
    pub fn protect(&mut self, pa: u64, ram_page: u64) {
        let (word, bit) = (ram_page as usize / 64, 1 << (ram_page % 64));
        if self.writable[word] & bit != 0 {
            self.writable[word] &= !bit;
            for space in &mut self.spaces {
                space.tables.iter_mut().for_each(|t| t.protect(pa));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(page: u64, pa: u64) -> TlbEntry {
        TlbEntry { read: page, write: page, addend: 0, pa }
    }

    #[test]
    fn spaces_keep_their_entries_across_switches_and_fences_are_selective() {
        let mut t = TlbSet::new(1024);
        let (a, b) = (8 << 60 | 1 << 44, 8 << 60 | 2 << 44);
        for satp in [a, b] {
            t.select(satp, DataMode::User, Privilege::User);
            t.insert(0x5000, 4096, entry(0x5000, 0x8000_0000), 0);
        }
        t.select(a, DataMode::User, Privilege::User);
        assert_eq!(t.table().entry(0x5123).read, 0x5000);
        t.fence(None, Some(2));
        assert_eq!(t.table().entry(0x5123).read, 0x5000);
        t.select(b, DataMode::User, Privilege::User);
        assert_eq!(t.table().entry(0x5123).read, INVALID_TAG);
        t.select(a, DataMode::User, Privilege::User);
        t.fence(Some(0x5fff), None);
        assert_eq!(t.table().entry(0x5123).read, INVALID_TAG);
    }

    #[test]
    fn a_page_fence_inside_a_superpage_drops_all_its_pieces() {
        let mut t = TlbSet::new(1024);
        t.select(8 << 60, DataMode::Supervisor, Privilege::Supervisor);
        t.insert(0x20_0000, 0x20_0000, entry(0x20_0000, 0x8000_0000), 0);
        t.insert(0x20_1000, 0x20_0000, entry(0x20_1000, 0x8000_1000), 1);
        t.fence(Some(0x20_1000), None);
        assert_eq!(t.table().entry(0x20_0000).read, INVALID_TAG);
    }

    #[test]
    fn protecting_a_page_leaves_it_readable() {
        let mut t = TlbSet::new(1024);
        t.insert(0x8000_3000, 4096, entry(0x8000_3000, 0x8000_3000), 3);
        t.protect(0x8000_3000, 3);
        let e = t.table().entry(0x8000_3000);
        assert_eq!((e.read, e.write), (0x8000_3000, INVALID_TAG));
    }

    #[test]
    fn a_thrashing_table_grows_and_keeps_what_it_holds() {
        let mut t = TlbSet::new(1 << 20);
        let mut moved = false;
        for round in 0..4u64 {
            for page in 0..512u64 {
                let va = page << 12;
                moved |= t.insert(va, 4096, entry(va, va + (round << 40)), page);
            }
        }
        assert!(moved);
        assert_eq!(t.table().entry(511 << 12).read, 511 << 12);
        assert_eq!(t.table().entry(0).read, 0);
    }

    #[test]
    fn a_space_applies_the_fences_it_missed() {
        let mut t = TlbSet::new(1024);
        let (a, b) = (8 << 60 | 1 << 44, 8 << 60 | 2 << 44);
        let user = |t: &mut TlbSet, satp| t.select(satp, DataMode::User, Privilege::User);
        user(&mut t, a);
        for page in [0x5000, 0x6000, 0x7000] {
            t.insert(page, 4096, entry(page, 0x8000_0000), 0);
        }
        t.jump_cache_mut().insert_fetch(0x6010, 0x8000_0000, 4096);
        user(&mut t, b);
        t.fence(Some(0x5000), None);
        t.fence(Some(0x6000), Some(1));
        t.fence(Some(0x7000), Some(9));
        user(&mut t, a);
        let hits = |t: &TlbSet, va: u64| t.table().entry(va).read == va;
        assert_eq!((hits(&t, 0x5000), hits(&t, 0x6000), hits(&t, 0x7000)), (false, false, true));
        assert_eq!(t.jump_cache().fetch(0x6010), None);
        user(&mut t, b);
        for i in 0..1000u64 {
            t.fence(Some(i << 20), Some(9));
        }
        user(&mut t, a);
        assert!(!hits(&t, 0x7000), "a space that missed too many fences is flushed");
        user(&mut t, b);
        t.fence(None, Some(1));
        t.insert(0x5000, 4096, entry(0x5000, 0x8000_0000), 0);
        user(&mut t, a);
        assert!(!hits(&t, 0x5000));
        user(&mut t, b);
        assert!(hits(&t, 0x5000));
    }

    #[test]
    fn jump_caches_forget_flushed_pages_only() {
        let mut t = TlbSet::new(16);
        t.jump_cache_mut().insert(0x8000_0004, 7);
        t.jump_cache_mut().insert(0x8000_1004, 8);
        t.fence(Some(0x8000_0000), None);
        let slot = |t: &TlbSet, pc| t.jump_cache().slots[jump_index(pc)];
        assert_ne!(slot(&t, 0x8000_0004).pc, 0x8000_0004);
        assert_eq!(slot(&t, 0x8000_1004).code, 8);
    }
}
