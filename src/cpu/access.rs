//! Guest memory accesses of a hart: TLB hit, walk and fill, device access, atomics.
//!
//! `unsafe` here dereferences host addresses that come from TLB entries; an entry is only ever
//! made from `GuestRam::host` for a whole page that is RAM, and RAM stays mapped as long as the
//! hart's `Arc<GuestRam>`.

use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};

use super::hart::{Hart, Trap};
use super::mmu::{self, Access, Mapping};
use super::pmp;
use super::state::{NO_RESERVATION, Privilege};
use super::tlb::{INVALID_TAG, PAGE_MASK, TlbEntry};
use super::writes::WriteAccount;
use crate::machine::dirty_log::Grant;
use crate::machine::memory::{PAGE_SIZE, RamError};

const LOAD_MISALIGNED: u64 = 4;
const STORE_MISALIGNED: u64 = 6;
const MSTATUS_SUM: u64 = 1 << 18;
const MSTATUS_MXR: u64 = 1 << 19;

/// Where one access inside one page goes.
enum Place {
    /// Host address of RAM, and the guest-physical address.
    Ram(*mut u8, u64),
    /// Guest-physical address of something that is not RAM.
    Device(u64),
}

impl Hart {
    /// Fetch the instruction at `pc`: the upper half counts only when the low two bits are 3.
    pub fn fetch(&mut self, pc: u64) -> Result<u32, Trap> {
        if pc.is_multiple_of(4) {
            // Neither a page nor a PMP region ends inside an aligned word.
            let (pa, _) = self.fetch_address(pc)?;
            if let Ok(word) = self.env.ram.load_u32(pa) {
                return Ok(if word & 3 == 3 { word } else { word & 0xffff });
            }
        }
        let low = self.fetch_half(pc)?;
        if low & 3 != 3 {
            return Ok(u32::from(low));
        }
        let next = pc.wrapping_add(2);
        let high = self.fetch_half(next).map_err(|t| Trap { cause: t.cause, tval: next })?;
        Ok(u32::from(low) | u32::from(high) << 16)
    }

    fn fetch_half(&mut self, pc: u64) -> Result<u16, Trap> {
        let (pa, _) = self.fetch_address(pc)?;
        match self.env.ram.load_u16(pa) {
            Ok(half) => Ok(half),
            Err(RamError::Missing { addr, len }) => Err(self.misses(addr, len)),
            Err(_) => match self.env.bus.read(pa, 2) {
                Ok(value) => Ok(value as u16),
                Err(_) => Err(Trap { cause: Access::Fetch.access_fault(), tval: pc }),
            },
        }
    }

    /// The physical address of `pc`, and whether all of its page may be executed alike.
    #[inline]
    pub fn fetch_address(&mut self, pc: u64) -> Result<(u64, bool), Trap> {
        match self.tlb.jump_cache().fetch(pc) {
            Some(pa) => Ok((pa, true)),
            None => self.fetch_address_slow(pc),
        }
    }

    #[cold]
    #[inline(never)]
    fn fetch_address_slow(&mut self, pc: u64) -> Result<(u64, bool), Trap> {
        let m = self.fetch_place(pc)?;
        if m.pmp_uniform {
            // What is fetched from must be here, as what a TLB entry permits access to.
            if let Err(RamError::Missing { addr, len }) =
                self.env.ram.host(m.pa & PAGE_MASK, PAGE_SIZE)
            {
                return Err(self.misses(addr, len));
            }
            self.tlb.jump_cache_mut().insert_fetch(pc, m.pa, m.page_size);
        }
        Ok((m.pa, m.pmp_uniform))
    }

    /// The mapping that fetches at `pc` go through, with execute permission checked.
    fn fetch_place(&mut self, pc: u64) -> Result<Mapping, Trap> {
        let privilege = self.state.privilege;
        let m = mmu::translate(self, pc, Access::Fetch, privilege, false, false)?;
        if !m.pmp_uniform && !self.pmp_allows(m.pa, 2, Access::Fetch, privilege) {
            return Err(Trap { cause: Access::Fetch.access_fault(), tval: pc });
        }
        Ok(m)
    }

    fn pmp_allows(&self, pa: u64, len: u64, access: Access, privilege: Privilege) -> bool {
        pmp::check(&self.state, self.env.isa.pmp_entries, pa, len, access, privilege)
    }

    /// Load `width` (1, 2, 4, 8) bytes, zero-extended. Misaligned accesses work.
    #[inline]
    pub fn load(&mut self, va: u64, width: u8) -> Result<u64, Trap> {
        let entry = self.tlb.table().entry(va);
        if entry.read == va.wrapping_add(u64::from(width) - 1) & PAGE_MASK
            && entry.read == va & PAGE_MASK
        {
            let host = va.wrapping_add(entry.addend) as *const u8;
            return Ok(read_host(host, width));
        }
        self.load_slow(va, width)
    }

    #[cold]
    #[inline(never)]
    fn load_slow(&mut self, va: u64, width: u8) -> Result<u64, Trap> {
        if crosses_page(va, width) {
            let mut value = 0;
            for i in 0..width {
                let byte = self.load_in_page(va.wrapping_add(u64::from(i)), 1)?;
                value |= byte << (8 * i);
            }
            return Ok(value);
        }
        self.load_in_page(va, width)
    }

    fn load_in_page(&mut self, va: u64, width: u8) -> Result<u64, Trap> {
        match self.place(va, width, Access::Load)? {
            Place::Ram(host, _) => Ok(read_host(host, width)),
            Place::Device(pa) => self.load_device(va, pa, width),
        }
    }

    /// Load from a device. What is not naturally aligned reaches it as accesses that are.
    fn load_device(&self, va: u64, pa: u64, width: u8) -> Result<u64, Trap> {
        let (mut value, mut done) = (0, 0);
        while done < width {
            let piece = aligned_piece(pa + u64::from(done), width - done);
            let fault = |_| Trap {
                cause: Access::Load.access_fault(),
                tval: va.wrapping_add(u64::from(done)),
            };
            let read = self.env.bus.read(pa + u64::from(done), piece).map_err(fault)?;
            value |= read << (8 * done);
            done += piece;
        }
        Ok(value)
    }

    /// Store the low `width` (1, 2, 4, 8) bytes of `value`. Misaligned accesses work.
    #[inline]
    pub fn store(&mut self, va: u64, width: u8, value: u64) -> Result<(), Trap> {
        let entry = self.tlb.table().entry(va);
        if entry.write == va.wrapping_add(u64::from(width) - 1) & PAGE_MASK
            && entry.write == va & PAGE_MASK
        {
            write_host(va.wrapping_add(entry.addend) as *mut u8, width, value);
            return Ok(());
        }
        self.store_slow(va, width, value)
    }

    #[cold]
    #[inline(never)]
    fn store_slow(&mut self, va: u64, width: u8, value: u64) -> Result<(), Trap> {
        if crosses_page(va, width) {
            // Both pages must be writable before either is written.
            let second = va.wrapping_add(u64::from(width) - 1) & PAGE_MASK;
            self.place(va, 1, Access::Store)?;
            self.place(second, 1, Access::Store)?;
            for i in 0..width {
                let byte = value >> (8 * i) & 0xff;
                self.store_in_page(va.wrapping_add(u64::from(i)), 1, byte)?;
            }
            return Ok(());
        }
        self.store_in_page(va, width, value)
    }

    fn store_in_page(&mut self, va: u64, width: u8, value: u64) -> Result<(), Trap> {
        match self.place(va, width, Access::Store)? {
            Place::Ram(host, pa) => {
                write_host(host, width, value);
                self.env.ram.written(pa, u64::from(width));
                Ok(())
            }
            Place::Device(pa) => self.store_device(va, pa, width, value),
        }
    }

    /// `load_device`'s counterpart; what comes before a refused piece has been stored.
    fn store_device(&self, va: u64, pa: u64, width: u8, value: u64) -> Result<(), Trap> {
        let mut done = 0;
        while done < width {
            let piece = aligned_piece(pa + u64::from(done), width - done);
            let fault = |_| Trap {
                cause: Access::Store.access_fault(),
                tval: va.wrapping_add(u64::from(done)),
            };
            let bytes = value >> (8 * done);
            self.env.bus.write(pa + u64::from(done), piece, bytes).map_err(fault)?;
            done += piece;
        }
        Ok(())
    }

    /// Translate an access that stays in one page, filling the TLB.
    fn place(&mut self, va: u64, width: u8, access: Access) -> Result<Place, Trap> {
        let write = access == Access::Store;
        if let Some(pa) = self.tlb.mmio(va, write) {
            return Ok(Place::Device(pa));
        }
        let privilege = self.data_privilege();
        let sum = self.state.mstatus & MSTATUS_SUM != 0;
        let mxr = self.state.mstatus & MSTATUS_MXR != 0;
        let m = mmu::translate(self, va, access, privilege, sum, mxr)?;
        let page = m.pa & PAGE_MASK;
        if !m.pmp_uniform {
            if !self.pmp_allows(m.pa, u64::from(width), access, privilege) {
                return Err(Trap { cause: access.access_fault(), tval: va });
            }
            return Ok(match self.env.ram.host(m.pa, u64::from(width)) {
                Ok(host) => Place::Ram(host, m.pa),
                Err(RamError::Missing { addr, len }) => return Err(self.misses(addr, len)),
                Err(_) => Place::Device(m.pa),
            });
        }
        let host = match self.env.ram.host(page, PAGE_SIZE) {
            Ok(host) => host,
            Err(RamError::Missing { addr, len }) => return Err(self.misses(addr, len)),
            Err(_) => {
                self.tlb.insert_mmio(va, m.pa, m.read, m.write);
                return Ok(Place::Device(m.pa));
            }
        };
        let ram_page = (page - self.env.ram.base()) / PAGE_SIZE;
        let mut writable = m.write;
        if writable && self.env.ram.dirty_map().is_on() {
            let grant = self.env.ram.dirty_map().grant(ram_page, write);
            writable = grant != Grant::Refused;
            if grant == Grant::First {
                self.wrote_a_page();
            }
        }
        if writable && self.env.ram.code_mask(ram_page).load(Ordering::SeqCst) != 0 {
            if write {
                // The caller is about to store: the translations go, and stores are fast again.
                self.env.ram.written(page, PAGE_SIZE);
            } else {
                writable = false;
            }
        }
        let tag = va & PAGE_MASK;
        let entry = TlbEntry {
            read: if m.read { tag } else { INVALID_TAG },
            write: if writable { tag } else { INVALID_TAG },
            addend: (host as u64).wrapping_sub(tag),
            pa: page,
        };
        if self.tlb.insert(va, m.page_size, entry, ram_page) {
            self.refresh_links();
        }
        let offset = (va & !PAGE_MASK) as usize;
        Ok(Place::Ram(host.wrapping_add(offset), m.pa))
    }

    /// Count a page, and rest soon if that was one too many.
    #[cold]
    fn wrote_a_page(&self) {
        if self.writes().is_some_and(WriteAccount::count) {
            self.env.irq.request_exit();
        }
    }

    /// `place` of an access that the TLB may know.
    fn cached_place(&mut self, va: u64, width: u8, access: Access) -> Result<Place, Trap> {
        let entry = self.tlb.table().entry(va);
        let tag = if access == Access::Store { entry.write } else { entry.read };
        if tag == va & PAGE_MASK {
            let pa = entry.pa | (va & !PAGE_MASK);
            return Ok(Place::Ram(va.wrapping_add(entry.addend) as *mut u8, pa));
        }
        self.place(va, width, access)
    }

    /// The host address of a naturally aligned atomic access of `width` bytes.
    fn atomic_place(&mut self, va: u64, width: u8) -> Result<Place, Trap> {
        if !va.is_multiple_of(u64::from(width)) {
            return Err(Trap { cause: STORE_MISALIGNED, tval: va });
        }
        let entry = self.tlb.table().entry(va);
        if entry.write == va & PAGE_MASK && entry.read == entry.write {
            let pa = entry.pa | (va & !PAGE_MASK);
            return Ok(Place::Ram(va.wrapping_add(entry.addend) as *mut u8, pa));
        }
        // An AMO needs both permissions, and reports a missing one as a store's.
        match self.place(va, width, Access::Store)? {
            Place::Ram(host, pa) => {
                let entry = self.tlb.table().entry(va);
                if entry.write == va & PAGE_MASK && entry.read != entry.write {
                    return Err(Trap { cause: 15, tval: va });
                }
                Ok(Place::Ram(host, pa))
            }
            device => Ok(device),
        }
    }

    /// Atomically replace the value at `va` by `f` of it; the old value, zero-extended.
    pub fn amo(&mut self, va: u64, width: u8, f: &mut dyn FnMut(u64) -> u64) -> Result<u64, Trap> {
        match self.atomic_place(va, width)? {
            Place::Ram(host, pa) => {
                let old = update_host(host, width, f);
                self.env.ram.written(pa, u64::from(width));
                Ok(old)
            }
            Place::Device(_) => Err(Trap { cause: Access::Store.access_fault(), tval: va }),
        }
    }

    /// `lr`: load and reserve.
    pub fn load_reserved(&mut self, va: u64, width: u8) -> Result<u64, Trap> {
        if !va.is_multiple_of(u64::from(width)) {
            return Err(Trap { cause: LOAD_MISALIGNED, tval: va });
        }
        match self.cached_place(va, width, Access::Load)? {
            Place::Ram(host, pa) => {
                let value = read_host(host, width);
                self.state.reservation = pa;
                self.state.reservation_value = value;
                Ok(value)
            }
            Place::Device(_) => Err(Trap { cause: Access::Load.access_fault(), tval: va }),
        }
    }

    /// `sc`: store if the reservation holds. Like QEMU's, a reservation is the address and the
    /// value seen there, so a store of the same value by another hart goes unnoticed.
    pub fn store_conditional(&mut self, va: u64, width: u8, value: u64) -> Result<bool, Trap> {
        if !va.is_multiple_of(u64::from(width)) {
            return Err(Trap { cause: STORE_MISALIGNED, tval: va });
        }
        let reservation = std::mem::replace(&mut self.state.reservation, NO_RESERVATION);
        if reservation == NO_RESERVATION {
            return Ok(false);
        }
        let expected = self.state.reservation_value;
        match self.cached_place(va, width, Access::Store)? {
            Place::Ram(_, pa) if pa != reservation => Ok(false),
            Place::Ram(host, pa) => {
                let stored = exchange_host(host, width, expected, value).is_ok();
                self.env.ram.written(pa, u64::from(width));
                Ok(stored)
            }
            Place::Device(_) => Err(Trap { cause: Access::Store.access_fault(), tval: va }),
        }
    }

    /// Zacas: store `new` if `width` (4, 8, 16) bytes equal `expected`; the old value.
    pub fn compare_exchange(
        &mut self,
        va: u64,
        width: u8,
        expected: u128,
        new: u128,
    ) -> Result<u128, Trap> {
        match self.atomic_place(va, width)? {
            Place::Ram(host, pa) => {
                let old = if width == 16 {
                    exchange_host_16(host, expected, new)
                } else {
                    let result = exchange_host(host, width, expected as u64, new as u64);
                    u128::from(result.unwrap_or_else(|found| found))
                };
                self.env.ram.written(pa, u64::from(width));
                Ok(old)
            }
            Place::Device(_) => Err(Trap { cause: Access::Store.access_fault(), tval: va }),
        }
    }

    /// `cbo.zero`: zero the cache block that holds `va`.
    pub fn cbo_zero(&mut self, va: u64) -> Result<(), Trap> {
        let size = self.env.isa.cbo_size;
        let start = va & !(size - 1);
        let fault = |t: Trap| Trap { cause: t.cause, tval: va };
        self.cached_place(start, 1, Access::Store).map_err(fault)?;
        for offset in (0..size).step_by(8) {
            self.store(start + offset, 8, 0).map_err(fault)?;
        }
        Ok(())
    }

    /// `cbo.inval`, `.clean`, `.flush`: nothing to do but the permission check, which passes when
    /// a load or a store would (CMO spec 2.5.2).
    pub fn cbo_management(&mut self, va: u64) -> Result<(), Trap> {
        let start = va & !(self.env.isa.cbo_size - 1);
        match self.place(start, 1, Access::Load) {
            Ok(_) => Ok(()),
            // Whether it faults shows when the page is there.
            Err(load) if load.cause == Trap::MISSING => Err(load),
            Err(load) => match self.place(start, 1, Access::Store) {
                Ok(_) => Ok(()),
                // Faults are reported as a store's (cause 15 or 7).
                Err(_) if load.cause == 5 => Err(Trap { cause: 7, tval: va }),
                Err(store) => Err(Trap { cause: store.cause, tval: va }),
            },
        }
    }
}

fn crosses_page(va: u64, width: u8) -> bool {
    (va & !PAGE_MASK) + u64::from(width) > PAGE_SIZE
}

/// The widest naturally aligned access that begins at `addr` and has at most `left` bytes.
fn aligned_piece(addr: u64, left: u8) -> u8 {
    1 << (addr | u64::from(left)).trailing_zeros().min(3)
}

fn read_host(host: *const u8, width: u8) -> u64 {
    let aligned = (host as usize).is_multiple_of(usize::from(width));
    // SAFETY: `host..host+width` lies in one RAM page (module comment). Aligned accesses are
    // atomic because other harts may write; misaligned ones need not be single-copy atomic in
    // RVWMO and any mix of bytes is a valid value.
    unsafe {
        match (width, aligned) {
            (1, _) => u64::from((*host.cast::<AtomicU8>()).load(Ordering::Relaxed)),
            (2, true) => u64::from((*host.cast::<AtomicU16>()).load(Ordering::Relaxed)),
            (4, true) => u64::from((*host.cast::<AtomicU32>()).load(Ordering::Relaxed)),
            (_, true) => (*host.cast::<AtomicU64>()).load(Ordering::Relaxed),
            (2, false) => u64::from(host.cast::<u16>().read_unaligned()),
            (4, false) => u64::from(host.cast::<u32>().read_unaligned()),
            (_, false) => host.cast::<u64>().read_unaligned(),
        }
    }
}

fn write_host(host: *mut u8, width: u8, value: u64) {
    let aligned = (host as usize).is_multiple_of(usize::from(width));
    // SAFETY: as in `read_host`.
    unsafe {
        match (width, aligned) {
            (1, _) => (*host.cast::<AtomicU8>()).store(value as u8, Ordering::Relaxed),
            (2, true) => (*host.cast::<AtomicU16>()).store(value as u16, Ordering::Relaxed),
            (4, true) => (*host.cast::<AtomicU32>()).store(value as u32, Ordering::Relaxed),
            (_, true) => (*host.cast::<AtomicU64>()).store(value, Ordering::Relaxed),
            (2, false) => host.cast::<u16>().write_unaligned(value as u16),
            (4, false) => host.cast::<u32>().write_unaligned(value as u32),
            (_, false) => host.cast::<u64>().write_unaligned(value),
        }
    }
}

fn update_host(host: *mut u8, width: u8, f: &mut dyn FnMut(u64) -> u64) -> u64 {
    // SAFETY: as in `read_host`; callers checked alignment.
    unsafe {
        if width == 4 {
            let cell = &*host.cast::<AtomicU32>();
            let mut old = cell.load(Ordering::Relaxed);
            loop {
                let new = f(u64::from(old)) as u32;
                match cell.compare_exchange_weak(old, new, Ordering::SeqCst, Ordering::Relaxed) {
                    Ok(_) => return u64::from(old),
                    Err(found) => old = found,
                }
            }
        } else {
            let cell = &*host.cast::<AtomicU64>();
            let mut old = cell.load(Ordering::Relaxed);
            loop {
                let new = f(old);
                match cell.compare_exchange_weak(old, new, Ordering::SeqCst, Ordering::Relaxed) {
                    Ok(_) => return old,
                    Err(found) => old = found,
                }
            }
        }
    }
}

fn exchange_host(host: *mut u8, width: u8, expected: u64, new: u64) -> Result<u64, u64> {
    // SAFETY: as in `read_host`; callers checked alignment.
    unsafe {
        if width == 4 {
            (*host.cast::<AtomicU32>())
                .compare_exchange(expected as u32, new as u32, Ordering::SeqCst, Ordering::SeqCst)
                .map(u64::from)
                .map_err(u64::from)
        } else {
            (*host.cast::<AtomicU64>()).compare_exchange(
                expected,
                new,
                Ordering::SeqCst,
                Ordering::SeqCst,
            )
        }
    }
}

fn exchange_host_16(host: *mut u8, expected: u128, new: u128) -> u128 {
    let (mut low, mut high) = (expected as u64, (expected >> 64) as u64);
    // SAFETY: 16-byte aligned and inside one RAM page (as in `read_host`); every x86-64 host that
    // the JIT supports has CMPXCHG16B. rbx is reserved by LLVM, hence the exchange.
    unsafe {
        std::arch::asm!(
            "xchg rsi, rbx",
            "lock cmpxchg16b [rdi]",
            "mov rbx, rsi",
            in("rdi") host,
            inout("rsi") new as u64 => _,
            in("rcx") (new >> 64) as u64,
            inout("rax") low,
            inout("rdx") high,
            options(nostack),
        );
    }
    u128::from(low) | u128::from(high) << 64
}
