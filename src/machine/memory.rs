//! Guest RAM: the one shared object. Lazily backed, addressed by guest-physical address, safe for
//! devices; the hart's fast path takes raw host addresses from it.

pub mod host;

use std::ops::Range;
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use memmap2::{MmapMut, MmapOptions};

use super::dirty_log::DirtyMap;
use super::message::VmError;
use super::presence::PresenceMap;
use host::{HostMemory, HostMemoryError, MemoryRequest};

/// Bytes in a page of guest memory.
pub const PAGE_SIZE: u64 = 4096;
/// Where RAM starts on `virt`.
pub const RAM_BASE: u64 = 0x8000_0000;

/// An access outside RAM, or no memory to be had from the host.
#[derive(Debug, thiserror::Error)]
pub enum RamError {
    #[error("guest address {addr:#x} (length {len:#x}) is outside RAM")]
    OutOfRange { addr: u64, len: u64 },
    /// Not all of these bytes are here: see `presence`.
    #[error(
        "guest address {addr:#x} (length {len:#x}) has not arrived yet from a migration's source"
    )]
    Missing { addr: u64, len: u64 },
    #[error("guest memory of {size} bytes: {source}")]
    Host { size: u64, source: std::io::Error },
    #[error(transparent)]
    Memory(#[from] HostMemoryError),
}

/// The bit of a hart in the masks of translated pages. Harts whose numbers are eight apart share
/// one, and hear of each other's writes.
pub fn code_bit(hart: usize) -> u8 {
    1 << (hart % 8)
}

/// Told when bytes of a page from which some hart has translated code were written.
pub trait CodeObserver: Send + Sync {
    /// `page` is the page's index from the start of RAM; `harts` has the `code_bit` of every hart
    /// that has translations of it.
    fn code_written(&self, page: u64, harts: u8);
}

/// The guest's RAM.
pub struct GuestRam {
    base: u64,
    size: u64,
    map: Arc<HostMemory>,
    /// One byte a page: which harts hold translations of code in it.
    code: MmapMut,
    observer: OnceLock<Arc<dyn CodeObserver>>,
    dirty: DirtyMap,
    presence: PresenceMap,
}

impl std::fmt::Debug for GuestRam {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "GuestRam({:#x}, {:#x} bytes)", self.base, self.size)
    }
}

macro_rules! scalar {
    ($load:ident, $store:ident, $ty:ty, $atomic:ty) => {
        /// Load a naturally aligned little-endian value with acquire order (unaligned addresses
        /// are read bytewise).
        pub fn $load(&self, addr: u64) -> Result<$ty, RamError> {
            const LEN: u64 = size_of::<$ty>() as u64;
            let host = self.host(addr, LEN)?;
            if !addr.is_multiple_of(LEN) {
                let mut bytes = [0; LEN as usize];
                self.read(addr, &mut bytes)?;
                return Ok(<$ty>::from_le_bytes(bytes));
            }
            // SAFETY: `host` checked that the whole value is inside the mapping, which is
            // page-aligned, so guest alignment is host alignment; the guest may write
            // concurrently, hence the atomic.
            let value = unsafe { &*host.cast::<$atomic>() }.load(Ordering::Acquire);
            Ok(<$ty>::from_le(value))
        }

        /// Store a naturally aligned little-endian value with release order (unaligned addresses
        /// are written bytewise).
        pub fn $store(&self, addr: u64, value: $ty) -> Result<(), RamError> {
            const LEN: u64 = size_of::<$ty>() as u64;
            let host = self.host(addr, LEN)?;
            if !addr.is_multiple_of(LEN) {
                return self.write(addr, &value.to_le_bytes());
            }
            // SAFETY: as for the load.
            unsafe { &*host.cast::<$atomic>() }.store(value.to_le(), Ordering::Release);
            self.written(addr, LEN);
            Ok(())
        }
    };
}

impl GuestRam {
    /// Map `size` bytes (a multiple of the page size) of lazily backed zeroes at guest address
    /// `base`.
    pub fn new(base: u64, size: u64) -> Result<Self, RamError> {
        let memory = HostMemory::new(&MemoryRequest::anonymous("ram", size))?;
        Self::over(base, size, Arc::new(memory))
    }

    /// Have the first `size` bytes (a multiple of the page size) of `memory` at guest address
    /// `base`.
    pub fn over(base: u64, size: u64, memory: Arc<HostMemory>) -> Result<Self, RamError> {
        if size > memory.len() as u64 {
            return Err(RamError::OutOfRange { addr: base, len: size });
        }
        let pages = (size / PAGE_SIZE).max(1);
        let code = MmapOptions::new().len(pages as usize).no_reserve_swap().map_anon();
        Ok(Self {
            base,
            size,
            map: memory,
            code: code.map_err(|source| RamError::Host { size: pages, source })?,
            observer: OnceLock::new(),
            dirty: DirtyMap::default(),
            presence: PresenceMap::default(),
        })
    }

    /// First guest-physical address.
    pub fn base(&self) -> u64 {
        self.base
    }

    /// Size in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// True when `addr..addr+len` is RAM.
    pub fn contains(&self, addr: u64, len: u64) -> bool {
        addr >= self.base && len <= self.size && addr - self.base <= self.size - len
    }

    /// Host address of guest bytes `addr..addr+len`, all of which are here; they stay mapped as
    /// long as `self` lives and may be written by others at any time.
    pub fn host(&self, addr: u64, len: u64) -> Result<*mut u8, RamError> {
        let host = self.host_of_any(addr, len)?;
        if self.presence.is_on() && self.presence.any_missing(self.pages(addr, len)) {
            return Err(RamError::Missing { addr, len });
        }
        Ok(host)
    }

    /// Indices, from the start of RAM, of the pages that `addr..addr+len` touches. It is in RAM.
    pub fn pages(&self, addr: u64, len: u64) -> Range<u64> {
        let offset = addr.saturating_sub(self.base);
        offset / PAGE_SIZE..offset.saturating_add(len).div_ceil(PAGE_SIZE)
    }

    /// `host`, of bytes that may be missing still.
    fn host_of_any(&self, addr: u64, len: u64) -> Result<*mut u8, RamError> {
        if !self.contains(addr, len) {
            return Err(RamError::OutOfRange { addr, len });
        }
        Ok(self.map.as_ptr().wrapping_add((addr - self.base) as usize))
    }

    /// Why a monitor cannot read at `at`. What has not arrived is asked for, so that a later try
    /// may find it.
    pub fn unreadable(&self, error: &RamError, at: u64) -> VmError {
        let denied = format!("Cannot access memory at address {at:#x}");
        let &RamError::Missing { addr, len } = error else { return VmError(denied) };
        VmError(match self.presence.request(self.pages(addr, len), None) {
            Ok(_) => format!("{denied}: it has not arrived yet from the migration's source"),
            Err(lost) => format!("{denied}: {lost}"),
        })
    }

    /// Copy guest bytes out.
    pub fn read(&self, addr: u64, into: &mut [u8]) -> Result<(), RamError> {
        let host = self.host(addr, into.len() as u64)?;
        // SAFETY: in range by `host`; `into` is ours. The guest may race: any byte value is valid.
        unsafe { std::ptr::copy_nonoverlapping(host, into.as_mut_ptr(), into.len()) };
        Ok(())
    }

    /// Copy bytes into the guest.
    pub fn write(&self, addr: u64, from: &[u8]) -> Result<(), RamError> {
        let host = self.host(addr, from.len() as u64)?;
        // SAFETY: as for `read`.
        unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), host, from.len()) };
        self.written(addr, from.len() as u64);
        Ok(())
    }

    /// Fill guest bytes.
    pub fn fill(&self, addr: u64, len: u64, byte: u8) -> Result<(), RamError> {
        let host = self.host(addr, len)?;
        // SAFETY: as for `read`.
        unsafe { std::ptr::write_bytes(host, byte, len as usize) };
        self.written(addr, len);
        Ok(())
    }

    /// True when all of these bytes (8-byte aligned, a multiple of 64) are zero at this moment.
    pub fn is_zero(&self, addr: u64, len: u64) -> Result<bool, RamError> {
        const WORDS: usize = 8;
        let host = self.host(addr, len)?;
        if !addr.is_multiple_of(8) || !len.is_multiple_of(8 * WORDS as u64) {
            return Err(RamError::OutOfRange { addr, len });
        }
        // SAFETY: in range by `host`, aligned as checked; the guest may write concurrently, hence
        // the atomics.
        let words: &[[AtomicU64; WORDS]] =
            unsafe { std::slice::from_raw_parts(host.cast(), len as usize / 8 / WORDS) };
        let set = |group: &[AtomicU64; WORDS]| {
            group.iter().fold(0, |bits, word| bits | word.load(Ordering::Relaxed)) != 0
        };
        Ok(!words.iter().any(set))
    }

    /// Make the page at `addr` present, with these bytes or, without any, as the zeroes that it is;
    /// false when it was present already, and is left as it is.
    pub fn place(&self, addr: u64, page: Option<&[u8]>) -> Result<bool, RamError> {
        let host = self.host_of_any(addr, PAGE_SIZE)?;
        if !addr.is_multiple_of(PAGE_SIZE) || page.is_some_and(|p| p.len() as u64 != PAGE_SIZE) {
            return Err(RamError::OutOfRange { addr, len: PAGE_SIZE });
        }
        let placed = self.presence.place(self.pages(addr, 1).start, || {
            if let Some(bytes) = page {
                // SAFETY: in range by `host_of_any`, and as long as a page, as checked. Nobody else
                // accesses a page that is missing.
                unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), host, bytes.len()) };
            }
        });
        if placed {
            self.written(addr, PAGE_SIZE);
        }
        Ok(placed)
    }

    /// These bytes are about to be overwritten, by a reset during a postcopy: what is missing of
    /// their pages counts as zeroes that have arrived.
    pub fn forgo(&self, addr: u64, len: u64) -> Result<(), RamError> {
        self.host_of_any(addr, len)?;
        if self.presence.is_on() {
            for page in self.pages(addr, len) {
                self.place(self.base + page * PAGE_SIZE, None)?;
            }
        }
        Ok(())
    }

    /// Give these bytes' memory (whole pages) back to the host; they read as zero from then on.
    pub fn discard(&self, addr: u64, len: u64) -> Result<(), RamError> {
        self.host(addr, len)?;
        if !addr.is_multiple_of(PAGE_SIZE) || !len.is_multiple_of(PAGE_SIZE) {
            return Err(RamError::OutOfRange { addr, len });
        }
        let (start, length) = ((addr - self.base) as usize, len as usize);
        self.map.release(start, length).map_err(|source| RamError::Host { size: len, source })?;
        self.written(addr, len);
        Ok(())
    }

    scalar!(load_u16, store_u16, u16, AtomicU16);
    scalar!(load_u32, store_u32, u32, AtomicU32);
    scalar!(load_u64, store_u64, u64, AtomicU64);

    /// Replace the value at `addr` by `new` if it is `old`; false when it is not. `addr` must be
    /// naturally aligned (a misaligned one counts as out of range).
    pub fn compare_exchange_u64(&self, addr: u64, old: u64, new: u64) -> Result<bool, RamError> {
        const LEN: u64 = size_of::<u64>() as u64;
        let host = self.host(addr, LEN)?;
        if !addr.is_multiple_of(LEN) {
            return Err(RamError::OutOfRange { addr, len: LEN });
        }
        // SAFETY: in range and aligned; concurrent access is atomic.
        let cell = unsafe { &*host.cast::<AtomicU64>() };
        let done = cell
            .compare_exchange(old.to_le(), new.to_le(), Ordering::AcqRel, Ordering::Acquire)
            .is_ok();
        self.written(addr, LEN);
        Ok(done)
    }

    /// The `code_bit`s of the harts that hold translations from the page `page` (index from the
    /// base).
    pub fn code_mask(&self, page: u64) -> &AtomicU8 {
        assert!(page < self.size / PAGE_SIZE, "page index out of range");
        // SAFETY: `code` has one byte a page and `page` was checked; all access is atomic.
        unsafe { &*self.code.as_ptr().add(page as usize).cast::<AtomicU8>() }
    }

    /// Whom to tell about writes to translated code (once, by `machine::build`).
    pub fn observe_code(&self, observer: Arc<dyn CodeObserver>) {
        let _ = self.observer.set(observer);
    }

    /// Which pages were written, when somebody wants to know.
    #[inline]
    pub fn dirty_map(&self) -> &DirtyMap {
        &self.dirty
    }

    /// Which pages have not arrived yet, during a postcopy.
    #[inline]
    pub fn presence(&self) -> &PresenceMap {
        &self.presence
    }

    /// Bytes were written, by a device or by a hart's slow path: drop translations made from them,
    /// and log them if that is wanted.
    pub fn written(&self, addr: u64, len: u64) {
        if len == 0 {
            return;
        }
        let first = (addr - self.base) / PAGE_SIZE;
        let last = (addr - self.base + len - 1) / PAGE_SIZE;
        for page in first..=last {
            if self.code_mask(page).load(Ordering::Acquire) != 0 {
                let harts = self.code_mask(page).swap(0, Ordering::AcqRel);
                if let Some(observer) = self.observer.get() {
                    observer.code_written(page, harts);
                }
            }
        }
        if self.dirty.is_on() {
            self.dirty.mark(first, last);
        }
    }
}
