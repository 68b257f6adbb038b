//! Memory of the host, as guest memory is made of it: anonymous, of a file or of a memory file;
//! shared or not, bound to NUMA nodes, allocated ahead. What QEMU's memory back ends do.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{MemfdFlags, Mode, OFlags, SealFlags};
use rustix::mm::{Advice, MapFlags, ProtFlags};

/// Granularity of mappings that are not of huge pages.
const PAGE: u64 = 4096;
/// `f_type` of hugetlbfs.
const HUGETLBFS_MAGIC: u64 = 0x9584_58f6;
/// Host nodes are numbered below this.
pub const NODES: u16 = 128;

/// QAPI `HostMemPolicy`, in the order of Linux' `MPOL_*`.
#[derive(
    Debug,
    Clone,
    Copy,
    Default,
    PartialEq,
    Eq,
    serde::Serialize,
    serde::Deserialize,
    schemars::JsonSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum HostMemPolicy {
    #[default]
    Default,
    Preferred,
    Bind,
    Interleave,
}

impl HostMemPolicy {
    /// As QAPI writes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::Preferred => "preferred",
            Self::Bind => "bind",
            Self::Interleave => "interleave",
        }
    }
}

/// Where memory is from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MemorySource {
    Anonymous,
    File(FileSource),
    /// A file in memory that has no name any more; to be shared.
    Shm,
    /// An unnamed file in memory, perhaps of huge pages (of this size, if not the default one),
    /// whose size cannot be changed if it is sealed.
    Memfd {
        huge: Option<Option<u64>>,
        seal: bool,
    },
}

/// A file, or an unnamed one in a directory.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FileSource {
    pub path: PathBuf,
    /// Bytes.
    pub offset: u64,
    /// Of the place where it is mapped, in bytes; zero is the page size.
    pub align: u64,
    /// Its content is given up at the end.
    pub discard_data: bool,
    /// It is not opened for writing.
    pub readonly: bool,
    /// Nor is the memory for writing.
    pub rom: bool,
}

/// Memory to be had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemoryRequest {
    /// What it is called in messages.
    pub name: String,
    /// Bytes, at least one.
    pub size: u64,
    pub source: MemorySource,
    /// Others who have the file see what is written.
    pub share: bool,
    /// The host sets swap (or huge pages) aside for all of it.
    pub reserve: bool,
    /// Allocate all of it now, with so many threads.
    pub prealloc: Option<u32>,
    /// The host may merge pages with equal ones.
    pub merge: bool,
    /// Part of a core dump of the process.
    pub dump: bool,
    pub policy: HostMemPolicy,
    /// Below [`NODES`].
    pub host_nodes: Vec<u16>,
}

impl MemoryRequest {
    /// Anonymous memory of which pages are set aside when they are touched.
    pub fn anonymous(name: &str, size: u64) -> Self {
        Self {
            name: name.to_owned(),
            size,
            source: MemorySource::Anonymous,
            share: false,
            reserve: false,
            prealloc: None,
            merge: false,
            dump: true,
            policy: HostMemPolicy::Default,
            host_nodes: Vec::new(),
        }
    }
}

/// Memory that cannot be had. The sentences are QEMU's.
#[derive(Debug, thiserror::Error)]
pub enum HostMemoryError {
    #[error("cannot set up guest memory '{name}': {}", words(source))]
    Map { name: String, source: io::Error },
    #[error("can't open backing store {path} for guest RAM: {}", words(source))]
    Open { path: String, source: io::Error },
    #[error(
        "{name} backing store size {found:#x} is too small for 'size' option {size:#x} plus \
         'offset' option {offset:#x}"
    )]
    FileTooSmall { name: String, found: u64, size: u64, offset: u64 },
    #[error("offset {offset:#x} must be multiples of page size {page:#x}")]
    Offset { offset: u64, page: u64 },
    #[error("alignment {align:#x} must be multiples of page size {page:#x}")]
    Alignment { align: u64, page: u64 },
    #[error("alignment {0:#x} must be a power of two")]
    NotAPower(u64),
    #[error("memory size {size:#x} must be equal to or larger than page size {page:#x}")]
    SmallerThanPage { size: u64, page: u64 },
    #[error("failed to create memfd: {}", words(.0))]
    Memfd(io::Error),
    #[error("failed to resize memfd to {size}: {}", words(source))]
    Resize { size: u64, source: io::Error },
    #[error("failed to add seals {seals}: {}", words(source))]
    Seal { seals: u32, source: io::Error },
    #[error("cannot bind memory to host NUMA nodes: {}", words(.0))]
    Bind(io::Error),
    #[error("qemu_prealloc_mem: preallocating memory failed: {}", words(.0))]
    Allocate(io::Error),
}

fn words(error: &io::Error) -> String {
    crate::qmp::error::os_words(error)
}

/// Memory of the host, mapped for as long as this lives.
#[derive(Debug)]
pub struct HostMemory {
    base: *mut u8,
    len: usize,
    /// Granularity.
    page: u64,
    kind: Kind,
    /// Give the file's content up at the end.
    discard_data: AtomicBool,
    /// It cannot be written to.
    rom: bool,
}

/// How pages are given back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Anonymous,
    Shared,
    /// Without its own copy of a page, the file's shows through.
    PrivateFile,
}

// SAFETY: it is an address range that belongs to this value alone; what is in it is accessed by
// `GuestRam`, through atomics and raw copies.
unsafe impl Send for HostMemory {}
// SAFETY: as above; no method here accesses the bytes but `release`, of pages of which every value
// is valid at any time.
unsafe impl Sync for HostMemory {}

impl HostMemory {
    /// Set memory up as requested.
    pub fn new(request: &MemoryRequest) -> Result<Self, HostMemoryError> {
        let memory = Self::map(request)?;
        // A host without the feature goes without: it is a hint, as on QEMU.
        if request.merge {
            let _ = memory.advise(Advice::LinuxMergeable);
        }
        if !request.dump {
            let failed = |source| HostMemoryError::Map { name: request.name.clone(), source };
            memory.advise(Advice::LinuxDontDump).map_err(failed)?;
        }
        if request.policy != HostMemPolicy::Default {
            memory.bind(request.policy, &request.host_nodes).map_err(HostMemoryError::Bind)?;
        }
        if let Some(threads) = request.prealloc {
            memory.allocate(threads).map_err(HostMemoryError::Allocate)?;
        }
        Ok(memory)
    }

    fn map(request: &MemoryRequest) -> Result<Self, HostMemoryError> {
        let mut flags = match request.share {
            true => MapFlags::SHARED,
            false => MapFlags::PRIVATE,
        };
        if !request.reserve {
            flags |= MapFlags::NORESERVE;
        }
        let (page, discard_data, backing) = match &request.source {
            MemorySource::Anonymous => (PAGE, false, None),
            MemorySource::File(source) => {
                let (file, page) = open_store(request, source)?;
                (page, source.discard_data, Some((OwnedFd::from(file), source.offset)))
            }
            MemorySource::Shm => {
                let (file, page) = memory_file(request, None, false)?;
                (page, false, Some((file, 0)))
            }
            MemorySource::Memfd { huge, seal } => {
                let (file, page) = memory_file(request, *huge, *seal)?;
                (page, false, Some((file, 0)))
            }
        };
        let failed = |source| HostMemoryError::Map { name: request.name.clone(), source };
        let whole = request.size.max(1).checked_next_multiple_of(page);
        let len = whole.and_then(|len| isize::try_from(len).ok());
        let len = len.ok_or_else(|| failed(rustix::io::Errno::NOMEM.into()))? as usize;
        let (align, rom) = match &request.source {
            MemorySource::File(source) => (source.align, source.rom),
            _ => (0, false),
        };
        let protection = match rom {
            true => ProtFlags::READ,
            false => ProtFlags::READ | ProtFlags::WRITE,
        };
        let reserved = (align > page).then(|| Reservation::new(len, align)).transpose();
        let reserved = reserved.map_err(failed)?;
        if reserved.is_some() {
            flags |= MapFlags::FIXED;
        }
        let none = reserved.as_ref().map_or(std::ptr::null_mut(), |reserved| reserved.place);
        let base = match &backing {
            // SAFETY: a new mapping, where the kernel finds room for it or where room is reserved.
            None => unsafe { rustix::mm::mmap_anonymous(none, len, protection, flags) },
            // SAFETY: as above. Others may change the file, as the guest may its memory; one that
            // becomes shorter takes pages away, which its owner has been asked not to do.
            Some((file, offset)) => unsafe {
                rustix::mm::mmap(none, len, protection, flags, file.as_fd(), *offset)
            },
        };
        if let Some(reserved) = reserved {
            reserved.leave(if base.is_ok() { len } else { 0 });
        }
        let base = base.map_err(|errno| failed(errno.into()))?.cast();
        let kind = match (backing.is_some(), request.share) {
            (_, true) => Kind::Shared,
            (true, false) => Kind::PrivateFile,
            (false, false) => Kind::Anonymous,
        };
        Ok(Self { base, len, page, kind, discard_data: AtomicBool::new(discard_data), rom })
    }

    /// The first byte.
    pub fn as_ptr(&self) -> *mut u8 {
        self.base
    }

    /// Bytes mapped, at least as many as were asked for.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Never: there is at least one page.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether it cannot be written to.
    pub fn is_rom(&self) -> bool {
        self.rom
    }

    /// Whether the file's content is to be given up at the end.
    pub fn set_discard_data(&self, discard: bool) {
        self.discard_data.store(discard, Ordering::Relaxed);
    }

    fn advise(&self, advice: Advice) -> io::Result<()> {
        // SAFETY: our mapping; these pieces of advice leave its content as it is.
        unsafe { rustix::mm::madvise(self.base.cast(), self.len, advice) }.map_err(Into::into)
    }

    /// Give these bytes' memory (whole pages) back to the host; they read as zero from then on.
    /// A private view of a file has no other way to zeroes than to keep its own.
    pub fn release(&self, start: usize, len: usize) -> io::Result<()> {
        let end = start.checked_add(len).filter(|end| *end <= self.len);
        if end.is_none() {
            return Err(rustix::io::Errno::INVAL.into());
        }
        let first = self.base.wrapping_add(start);
        let advice = match self.kind {
            Kind::Anonymous => Advice::LinuxDontNeed,
            Kind::Shared => Advice::LinuxRemove,
            Kind::PrivateFile => {
                // SAFETY: in range as checked; concurrent access by the guest is a race whose
                // every outcome is a valid value.
                unsafe { std::ptr::write_bytes(first, 0, len) };
                return Ok(());
            }
        };
        // SAFETY: in range as checked, and all access to the bytes is through atomics or raw
        // copies, for which bytes that turn zero are a concurrent write like any other.
        unsafe { rustix::mm::madvise(first.cast(), len, advice) }.map_err(Into::into)
    }

    /// Linux' mbind(2).
    fn bind(&self, policy: HostMemPolicy, nodes: &[u16]) -> io::Result<()> {
        const MOVE_STRICT: libc::c_ulong = 3;
        const BITS: usize = libc::c_ulong::BITS as usize;
        let mut mask: [libc::c_ulong; NODES as usize / BITS] = [0; NODES as usize / BITS];
        for node in nodes {
            if let Some(word) = mask.get_mut(usize::from(*node) / BITS) {
                *word |= 1 << (usize::from(*node) % BITS);
            }
        }
        let highest = nodes.iter().max().map_or(0, |node| libc::c_ulong::from(*node) + 1);
        // SAFETY: our mapping, and a mask that is as long as is said (the kernel takes one bit
        // less than the number it is told).
        let bound = unsafe {
            libc::syscall(
                libc::SYS_mbind,
                self.base,
                self.len,
                policy as libc::c_int,
                mask.as_ptr(),
                highest + 1,
                MOVE_STRICT,
            )
        };
        if bound == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// Have every page there, made by so many threads.
    fn allocate(&self, threads: u32) -> io::Result<()> {
        // A thread for less than this is not worth it.
        const LEAST: usize = 64 << 20;
        let threads = (threads as usize).clamp(1, self.len.div_ceil(LEAST));
        let share = self.len.div_ceil(threads).next_multiple_of(self.page as usize);
        let populate = |start: usize| -> io::Result<()> {
            let len = share.min(self.len - start);
            let first = self.base.wrapping_add(start);
            // SAFETY: in our mapping, whose content stays as it is.
            let done =
                unsafe { rustix::mm::madvise(first.cast(), len, Advice::LinuxPopulateWrite) };
            done.map_err(Into::into)
        };
        std::thread::scope(|scope| {
            let starts = (0..self.len).step_by(share);
            let running: Vec<_> =
                starts.map(|start| scope.spawn(move || populate(start))).collect();
            running.into_iter().try_for_each(|thread| {
                thread.join().unwrap_or_else(|_| Err(io::Error::other("a thread has failed")))
            })
        })
    }
}

impl Drop for HostMemory {
    fn drop(&mut self) {
        if self.discard_data.load(Ordering::Relaxed) {
            // A file system that cannot keeps the content.
            let _ = self.advise(Advice::LinuxRemove);
        }
        // SAFETY: our mapping; whoever has its addresses holds this value.
        let _ = unsafe { rustix::mm::munmap(self.base.cast(), self.len) };
    }
}

/// Addresses that nobody else is given, among them a multiple of an alignment with room behind it.
struct Reservation {
    first: *mut libc::c_void,
    whole: usize,
    place: *mut libc::c_void,
}

impl Reservation {
    fn new(len: usize, align: u64) -> io::Result<Self> {
        let too_much = || io::Error::from(rustix::io::Errno::NOMEM);
        let align = usize::try_from(align).map_err(|_| too_much())?;
        let whole = len.checked_add(align).filter(|whole| isize::try_from(*whole).is_ok());
        let whole = whole.ok_or_else(too_much)?;
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        let (none, protection) = (std::ptr::null_mut(), ProtFlags::empty());
        // SAFETY: a new mapping, where the kernel finds room for it, that nobody can access.
        let first = unsafe { rustix::mm::mmap_anonymous(none, whole, protection, flags) }?;
        Ok(Self { first, whole, place: first.map_addr(|addr| addr.next_multiple_of(align)) })
    }

    /// Give back all but the first bytes from `place` on, which somebody else has now.
    fn leave(self, len: usize) {
        let before = self.place.addr() - self.first.addr();
        let pieces = match len {
            0 => [(0, self.whole), (0, 0)],
            len => [(0, before), (before + len, self.whole - before - len)],
        };
        for (start, len) in pieces.into_iter().filter(|(_, len)| *len > 0) {
            // SAFETY: in the reservation, and not in what is mapped in its place.
            let _ = unsafe { rustix::mm::munmap(self.first.wrapping_byte_add(start), len) };
        }
    }
}

/// The file of memory in a file, long enough, and its page size.
fn open_store(
    request: &MemoryRequest,
    source: &FileSource,
) -> Result<(File, u64), HostMemoryError> {
    let FileSource { path, offset, align, readonly, .. } = source;
    let (offset, align) = (*offset, *align);
    let failed = |source: rustix::io::Errno| HostMemoryError::Open {
        path: path.display().to_string(),
        source: source.into(),
    };
    let mode = Mode::RUSR | Mode::WUSR | Mode::RGRP | Mode::ROTH;
    let access = OFlags::CLOEXEC | if *readonly { OFlags::RDONLY } else { OFlags::RDWR };
    let file = match rustix::fs::open(path, access, mode) {
        opened if *readonly => opened,
        Err(rustix::io::Errno::NOENT) => {
            rustix::fs::open(path, access | OFlags::CREATE | OFlags::EXCL, mode)
        }
        Err(rustix::io::Errno::ISDIR) => rustix::fs::open(path, access | OFlags::TMPFILE, mode),
        opened => opened,
    };
    let file = file.map_err(failed)?;
    let system = rustix::fs::fstatfs(&file).map_err(failed)?;
    let page = match system.f_type as u64 == HUGETLBFS_MAGIC {
        true => system.f_bsize as u64,
        false => PAGE,
    };
    if align != 0 && !align.is_multiple_of(page) {
        return Err(HostMemoryError::Alignment { align, page });
    }
    if align != 0 && !align.is_power_of_two() {
        return Err(HostMemoryError::NotAPower(align));
    }
    if !offset.is_multiple_of(page) {
        return Err(HostMemoryError::Offset { offset, page });
    }
    let size = request.size;
    if size < page && page != PAGE {
        return Err(HostMemoryError::SmallerThanPage { size, page });
    }
    let file = File::from(file);
    let found = file
        .metadata()
        .map_err(|source| HostMemoryError::Open { path: path.display().to_string(), source })?;
    if found.is_dir() {
        return Err(failed(rustix::io::Errno::ISDIR));
    }
    let too_small = || HostMemoryError::FileTooSmall {
        name: request.name.clone(),
        found: found.len(),
        size,
        offset,
    };
    let end = size.checked_next_multiple_of(page).and_then(|size| size.checked_add(offset));
    let end = end.ok_or_else(too_small)?;
    match found.len() {
        0 if !*readonly => rustix::fs::ftruncate(&file, end).map_err(failed)?,
        // Beyond the file's last page there is nothing.
        len if len.next_multiple_of(page) < end => return Err(too_small()),
        _ => {}
    }
    Ok((file, page))
}

/// A file in memory, and its page size.
fn memory_file(
    request: &MemoryRequest,
    huge: Option<Option<u64>>,
    seal: bool,
) -> Result<(OwnedFd, u64), HostMemoryError> {
    let mut flags = MemfdFlags::CLOEXEC;
    let seals = SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL;
    if seal {
        flags |= MemfdFlags::ALLOW_SEALING;
    }
    if let Some(size) = huge {
        flags |= MemfdFlags::HUGETLB;
        // The logarithm of the size, in the place that memfd_create(2) has for it.
        let log = size.filter(|size| size.is_power_of_two()).map_or(0, u64::ilog2);
        flags |= MemfdFlags::from_bits_retain(log << 26);
    }
    let file = rustix::fs::memfd_create(format!("memory-backend-memfd-{}", request.name), flags);
    let file = file.map_err(|errno| HostMemoryError::Memfd(errno.into()))?;
    let failed = |errno: rustix::io::Errno| HostMemoryError::Resize {
        size: request.size,
        source: errno.into(),
    };
    rustix::fs::ftruncate(&file, request.size).map_err(failed)?;
    if seal {
        let failed = |errno: rustix::io::Errno| HostMemoryError::Seal {
            seals: seals.bits(),
            source: errno.into(),
        };
        rustix::fs::fcntl_add_seals(&file, seals).map_err(failed)?;
    }
    let page = rustix::fs::fstatfs(&file).map_err(failed)?.f_bsize as u64;
    Ok((file, page.max(PAGE)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn byte(memory: &HostMemory, at: usize) -> u8 {
        assert!(at < memory.len());
        // SAFETY: in range; nobody else has this memory.
        unsafe { *memory.as_ptr().add(at) }
    }

    fn set(memory: &HostMemory, at: usize, value: u8) {
        assert!(at < memory.len());
        // SAFETY: as above.
        unsafe { *memory.as_ptr().add(at) = value };
    }

    #[test]
    fn every_kind_is_zero_writable_and_can_be_given_back() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str| {
            MemorySource::File(FileSource { path: dir.path().join(name), ..FileSource::default() })
        };
        for (source, share) in [
            (MemorySource::Anonymous, false),
            (MemorySource::Anonymous, true),
            (file("private"), false),
            (file("shared"), true),
            (file(""), true),
            (MemorySource::Shm, true),
            (MemorySource::Memfd { huge: None, seal: true }, true),
            (MemorySource::Memfd { huge: None, seal: false }, false),
        ] {
            let request = MemoryRequest {
                share,
                source: source.clone(),
                prealloc: Some(3),
                merge: true,
                dump: false,
                ..MemoryRequest::anonymous("m", 3 * PAGE - 5)
            };
            let memory = HostMemory::new(&request).unwrap_or_else(|e| panic!("{source:?}: {e}"));
            assert_eq!(memory.len() as u64, 3 * PAGE, "{source:?}");
            for at in [0, 4096, 12287] {
                assert_eq!(byte(&memory, at), 0, "{source:?}");
                set(&memory, at, 7);
            }
            memory.release(4096, 4096).unwrap();
            assert_eq!([0, 4096, 12287].map(|at| byte(&memory, at)), [7, 0, 7], "{source:?}");
            memory.release(4096, 12288).unwrap_err();
        }
        let shown = |name: &str| std::fs::read(dir.path().join(name)).unwrap();
        assert_eq!((shown("shared")[0], shown("shared").len()), (7, 12288));
        assert_eq!(shown("private"), [0; 12288], "what is private is not written back");
    }

    #[test]
    fn a_file_is_as_long_as_is_needed_or_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store");
        std::fs::write(&path, [1; 8192]).unwrap();
        let request = |size, offset, discard_data| MemoryRequest {
            source: MemorySource::File(FileSource {
                path: path.clone(),
                offset,
                discard_data,
                ..FileSource::default()
            }),
            share: true,
            ..MemoryRequest::anonymous("f", size)
        };
        let refusal = |size, offset| {
            HostMemory::new(&request(size, offset, false)).map(drop).unwrap_err().to_string()
        };
        assert_eq!(
            refusal(16384, 0),
            "f backing store size 0x2000 is too small for 'size' option 0x4000 plus 'offset' \
             option 0x0"
        );
        assert!(refusal(4096, 8192).contains("is too small"));
        assert!(refusal(u64::MAX, 4096).contains("is too small"));
        assert_eq!(refusal(4096, 1), "offset 0x1 must be multiples of page size 0x1000");
        let second = HostMemory::new(&request(4096, 4096, true)).unwrap();
        assert_eq!(byte(&second, 0), 1);
        drop(second);
        let left = std::fs::read(&path).unwrap();
        assert_eq!((left[4095], left[4096], left.len()), (1, 0, 8192), "given up, and not cut");
        let missing = MemoryRequest {
            source: MemorySource::File(FileSource {
                path: "/no/such/dir".into(),
                ..FileSource::default()
            }),
            ..MemoryRequest::anonymous("f", 4096)
        };
        assert_eq!(
            HostMemory::new(&missing).unwrap_err().to_string(),
            "can't open backing store /no/such/dir for guest RAM: No such file or directory"
        );
    }

    #[test]
    fn a_file_is_read_only_or_aligned_as_is_wanted() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store");
        std::fs::write(&path, [1; 8192]).unwrap();
        let of = |source: FileSource| MemoryRequest {
            source: MemorySource::File(FileSource { path: path.clone(), ..source }),
            ..MemoryRequest::anonymous("f", 8192)
        };
        let aligned = |align| of(FileSource { align, ..FileSource::default() });
        let refusal = |align| HostMemory::new(&aligned(align)).unwrap_err().to_string();
        assert_eq!(refusal(3), "alignment 0x3 must be multiples of page size 0x1000");
        assert_eq!(refusal(0x3000), "alignment 0x3000 must be a power of two");
        assert!(refusal(1 << 63).contains("Cannot allocate memory"));
        for align in [4096, 1 << 21, 1 << 30] {
            let memory = HostMemory::new(&aligned(align)).unwrap();
            assert!((memory.as_ptr() as u64).is_multiple_of(align), "{align:#x}");
            assert_eq!(byte(&memory, 8191), 1);
        }
        for rom in [true, false] {
            let readonly = FileSource { readonly: true, rom, ..FileSource::default() };
            let memory = HostMemory::new(&of(readonly)).unwrap();
            assert_eq!((memory.is_rom(), byte(&memory, 0)), (rom, 1));
            if !rom {
                set(&memory, 0, 2);
            }
        }
        assert_eq!(std::fs::read(&path).unwrap(), [1; 8192]);
        let readonly = FileSource { readonly: true, ..FileSource::default() };
        for (path, says) in [("gone", "No such file or directory"), ("", "Is a directory")] {
            let path = dir.path().join(path);
            let source = MemorySource::File(FileSource { path, ..readonly.clone() });
            let request = MemoryRequest { source, ..MemoryRequest::anonymous("f", 8192) };
            let refused = HostMemory::new(&request).unwrap_err().to_string();
            assert!(refused.ends_with(says), "{refused}");
        }
        assert!(!dir.path().join("gone").exists());
    }

    #[test]
    fn what_cannot_be_had_is_refused() {
        let huge = MemoryRequest { reserve: true, ..MemoryRequest::anonymous("m7", 1000 << 40) };
        assert_eq!(
            HostMemory::new(&huge).unwrap_err().to_string(),
            "cannot set up guest memory 'm7': Cannot allocate memory"
        );
        for size in [u64::MAX, i64::MAX as u64] {
            let endless = MemoryRequest::anonymous("m", size);
            assert!(matches!(HostMemory::new(&endless), Err(HostMemoryError::Map { .. })));
        }
        let far = MemoryRequest {
            policy: HostMemPolicy::Bind,
            host_nodes: vec![NODES - 1],
            ..MemoryRequest::anonymous("m", 4096)
        };
        assert!(matches!(HostMemory::new(&far), Err(HostMemoryError::Bind(_))));
    }
}
