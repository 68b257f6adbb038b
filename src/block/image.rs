//! A raw image: a regular file or a block device, read and written at offsets. Its calls block, so
//! only the worker threads make them.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek as _, SeekFrom};
use std::os::unix::fs::{FileExt as _, FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use rustix::fs::{Advice, FallocateFlags, OFlags, fadvise, fallocate};
use rustix::io::Errno;

use super::lock::{self, LockError, Permissions};
use super::message::{BlockOp, IoFailed};
use crate::devices::dma::{DmaError, GuestBuffer};
use crate::machine::spec::{CacheMode, DriveSpec};
use crate::net::descriptors::{DescriptorError, Descriptors};

/// Bytes moved at once between an image and guest memory.
const CHUNK: usize = 256 << 10;
/// Alignment that `O_DIRECT` asks for at most.
const DIRECT_ALIGN: usize = 4096;
const SECTOR: u64 = 512;

/// Why an image cannot be used; the text is QEMU's.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    #[error("Could not open '{path}': {reason}")]
    Open { path: String, reason: IoFailed },
    /// Of a set of descriptors in place of a file.
    #[error(transparent)]
    Given(#[from] DescriptorError),
    #[error("'file' driver requires '{path}' to be a regular file")]
    NotAFile { path: String },
    #[error("Could not read '{path}': {reason}")]
    Read { path: String, reason: IoFailed },
    #[error("Could not get the size of '{path}': {reason}")]
    Size { path: String, reason: IoFailed },
    #[error("{lock}\nIs another process using the image [{path}]?")]
    Locked { path: String, lock: LockError },
    #[error("Could not write to '{path}': {reason}")]
    Write { path: String, reason: IoFailed },
    #[error("The size of '{path}' has changed from {known} to {found} bytes")]
    Resized { path: String, known: u64, found: u64 },
    #[error("Could not start a thread for '{path}': {reason}")]
    Thread { path: String, reason: IoFailed },
}

/// The error number of an I/O error of the host.
fn errno(error: &io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::IO, Errno::from_raw_os_error)
}

/// An open raw image.
#[derive(Debug)]
pub struct RawImage {
    path: PathBuf,
    file: File,
    /// The same image past the page cache (`cache.direct`), for aligned transfers.
    direct: Option<File>,
    size: u64,
    read_only: bool,
    /// Why it is open for reading only, although who uses it may write (`auto-read-only`).
    denied: Option<IoFailed>,
    cache: CacheMode,
    discard: bool,
    /// What its user does to it.
    wanted: Permissions,
    /// What is locked.
    held: Mutex<Permissions>,
    /// False while somebody else may have the image: nothing is locked, nothing is written.
    active: AtomicBool,
}

/// A worker's buffer between image and guest memory.
pub(super) struct Bounce {
    raw: Vec<u8>,
    start: usize,
}

impl Bounce {
    pub(super) fn new() -> Self {
        let raw = vec![0; CHUNK + DIRECT_ALIGN];
        let start = raw.as_ptr().align_offset(DIRECT_ALIGN).min(DIRECT_ALIGN);
        Self { raw, start }
    }

    fn bytes(&mut self, len: usize) -> &mut [u8] {
        let end = self.raw.len().min(self.start + len.min(CHUNK));
        &mut self.raw[self.start..end]
    }
}

impl RawImage {
    /// Open the image of `spec`, holding the locks of a drive that no device uses; or, while
    /// somebody else is to have it, none.
    pub fn open(
        spec: &DriveSpec,
        active: bool,
        descriptors: &Descriptors,
    ) -> Result<Self, ImageError> {
        match Self::open_for(spec, spec.read_only, active, descriptors) {
            Err(ImageError::Open { reason, .. })
                if spec.auto_read_only && !spec.read_only && reason.is_no_permission() =>
            {
                let opened = Self::open_for(spec, true, active, descriptors)?;
                Ok(Self { denied: Some(reason), ..opened })
            }
            opened => opened,
        }
    }

    fn open_for(
        spec: &DriveSpec,
        read_only: bool,
        active: bool,
        descriptors: &Descriptors,
    ) -> Result<Self, ImageError> {
        let path = spec.file.display().to_string();
        let cannot =
            |error: &io::Error| ImageError::Open { path: path.clone(), reason: error.into() };
        let access = if read_only { OFlags::RDONLY } else { OFlags::RDWR };
        let open = |more: OFlags| match descriptors.open(&spec.file, access | more) {
            Some(given) => Ok(File::from(given?)),
            None => OpenOptions::new()
                .read(true)
                .write(!read_only)
                .custom_flags(more.bits().cast_signed())
                .open(&spec.file)
                .map_err(|e| cannot(&e)),
        };
        // A directory opened for writing fails with EISDIR; QEMU names its kind instead, and does
        // not open a pipe or terminal, which could block. One that is open already cannot.
        let given = match descriptors.open(&spec.file, access) {
            Some(given) => File::from(given?).metadata(),
            None => std::fs::metadata(&spec.file),
        };
        let kind = given.map_err(|e| cannot(&e))?.file_type();
        if !kind.is_file() && !kind.is_block_device() {
            return Err(ImageError::NotAFile { path });
        }
        let mut file = open(OFlags::empty())?;
        let direct = if spec.cache.direct { Some(open(OFlags::DIRECT)?) } else { None };
        let size = file
            .seek(SeekFrom::End(0))
            .map_err(|e| ImageError::Size { path: path.clone(), reason: (&e).into() })?;
        let mut image = Self {
            path: spec.file.clone(),
            file,
            direct,
            size: size.next_multiple_of(SECTOR),
            read_only: spec.read_only,
            denied: None,
            cache: spec.cache,
            discard: spec.discard,
            wanted: Permissions::default(),
            held: Mutex::default(),
            active: AtomicBool::new(active),
        };
        image.use_for(Permissions::idle())?;
        Ok(image)
    }

    /// Why it cannot be written to, if somebody is to.
    pub(super) fn writable(&self) -> Result<(), ImageError> {
        match self.denied {
            Some(reason) => Err(ImageError::Open { path: self.name(), reason }),
            None => Ok(()),
        }
    }

    /// From now on do `wanted` to the image, with the locks for it if it is active.
    pub fn use_for(&mut self, wanted: Permissions) -> Result<(), ImageError> {
        if self.is_active() {
            self.lock(wanted)?;
        }
        self.wanted = wanted;
        Ok(())
    }

    /// Exchange the locks held on the image for those of `wanted`.
    fn lock(&self, wanted: Permissions) -> Result<(), ImageError> {
        let mut held = self.held.lock();
        lock::exchange(&self.file, *held, wanted)
            .map_err(|lock| ImageError::Locked { path: self.name(), lock })?;
        *held = wanted;
        Ok(())
    }

    fn name(&self) -> String {
        self.path.display().to_string()
    }

    /// Bytes that the image takes up on the host.
    pub(super) fn allocated(&self) -> Option<u64> {
        self.file.metadata().ok().map(|metadata| metadata.blocks() * SECTOR)
    }

    pub(super) fn is_active(&self) -> bool {
        self.active.load(Ordering::Acquire)
    }

    /// Leave the image to somebody else. Nothing may be in flight.
    pub(super) fn inactivate(&self) -> Result<(), ImageError> {
        if !self.is_active() {
            return Ok(());
        }
        self.flush().map_err(|errno| ImageError::Write {
            path: self.name(),
            reason: IoFailed(errno.raw_os_error()),
        })?;
        self.active.store(false, Ordering::Release);
        let unlocked = self.lock(Permissions::default());
        if unlocked.is_err() {
            self.active.store(true, Ordering::Release);
        }
        unlocked
    }

    /// Have the image, as somebody else has left it.
    pub(super) fn activate(&self) -> Result<(), ImageError> {
        if self.is_active() {
            return Ok(());
        }
        self.lock(self.wanted)?;
        let usable = self.unchanged();
        match usable {
            Ok(()) => self.active.store(true, Ordering::Release),
            // What is to be told is why the image is not taken.
            Err(_) => drop(self.lock(Permissions::default())),
        }
        usable
    }

    /// The guest has been told the size; and what the host has cached of a file on another host may
    /// be old.
    fn unchanged(&self) -> Result<(), ImageError> {
        let size = (&self.file)
            .seek(SeekFrom::End(0))
            .map_err(|e| ImageError::Size { path: self.name(), reason: (&e).into() })?;
        let found = size.next_multiple_of(SECTOR);
        if found != self.size {
            return Err(ImageError::Resized { path: self.name(), known: self.size, found });
        }
        // Advice: a file system that cannot take it has nothing cached.
        let _ = fadvise(&self.file, 0, None, Advice::DontNeed);
        Ok(())
    }

    /// Size in bytes, rounded up to whole sectors; what lies beyond the file's end reads as zero.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Where the image is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// True when writes are refused.
    pub fn read_only(&self) -> bool {
        self.read_only
    }

    /// How the host's caches are used.
    pub fn cache(&self) -> CacheMode {
        self.cache
    }

    /// All of the image, which must be small.
    pub fn contents(&self) -> Result<Vec<u8>, ImageError> {
        let mut bytes = vec![0; usize::try_from(self.size).unwrap_or_default()];
        self.read_chunk(0, &mut bytes).map_err(|errno| ImageError::Read {
            path: self.name(),
            reason: IoFailed(errno.raw_os_error()),
        })?;
        Ok(bytes)
    }

    /// Carry a request out.
    pub(super) fn run(&self, op: &BlockOp, bounce: &mut Bounce) -> Result<(), IoFailed> {
        let result = match op {
            BlockOp::Read { offset, into } => self.read(*offset, into, bounce),
            BlockOp::Flush => self.flush(),
            _ if !self.is_active() => Err(Errno::BUSY),
            _ if self.read_only => Err(Errno::PERM),
            BlockOp::Write { offset, from, fua } => self
                .write(*offset, from, bounce)
                .and_then(|()| if *fua { self.flush() } else { Ok(()) }),
            BlockOp::Store { offset, bytes } => {
                self.file.write_all_at(bytes, *offset).map_err(|e| errno(&e))
            }
            BlockOp::Discard { offset, len } => self.discard(*offset, *len),
            BlockOp::WriteZeroes { offset, len, may_unmap } => {
                self.write_zeroes(*offset, *len, *may_unmap, bounce)
            }
        };
        result.map_err(|errno| IoFailed(errno.raw_os_error()))
    }

    fn file_for(&self, offset: u64, len: usize) -> &File {
        let aligned =
            offset.is_multiple_of(DIRECT_ALIGN as u64) && len.is_multiple_of(DIRECT_ALIGN);
        self.direct.as_ref().filter(|_| aligned).unwrap_or(&self.file)
    }

    fn read(&self, offset: u64, into: &GuestBuffer, bounce: &mut Bounce) -> Result<(), Errno> {
        let len = into.len();
        let mut done = 0;
        while done < len {
            let chunk = bounce.bytes((len - done).min(CHUNK as u64) as usize);
            self.read_chunk(offset + done, chunk)?;
            into.scatter(done, chunk).map_err(|e| dma_errno(&e))?;
            done += chunk.len() as u64;
        }
        Ok(())
    }

    fn read_chunk(&self, offset: u64, chunk: &mut [u8]) -> Result<(), Errno> {
        let file = self.file_for(offset, chunk.len());
        let mut done = 0;
        while let Some(rest) = chunk.get_mut(done..).filter(|rest| !rest.is_empty()) {
            match file.read_at(rest, offset + done as u64) {
                // Past the end of the file.
                Ok(0) => {
                    rest.fill(0);
                    break;
                }
                Ok(n) => done += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => (),
                Err(e) => return Err(errno(&e)),
            }
        }
        Ok(())
    }

    fn write(&self, offset: u64, from: &GuestBuffer, bounce: &mut Bounce) -> Result<(), Errno> {
        let len = from.len();
        let mut done = 0;
        while done < len {
            let at = offset + done;
            let chunk = bounce.bytes((len - done).min(CHUNK as u64) as usize);
            from.gather(done, chunk).map_err(|e| dma_errno(&e))?;
            done += chunk.len() as u64;
            self.file_for(at, chunk.len()).write_all_at(chunk, at).map_err(|e| errno(&e))?;
        }
        Ok(())
    }

    fn flush(&self) -> Result<(), Errno> {
        if self.cache.no_flush || self.read_only {
            return Ok(());
        }
        self.file.sync_data().map_err(|e| errno(&e))
    }

    /// A hint: without `discard=unmap` it is not taken, and neither if the file system cannot.
    fn discard(&self, offset: u64, len: u64) -> Result<(), Errno> {
        if !self.discard || len == 0 {
            return Ok(());
        }
        let mode = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        match fallocate(&self.file, mode, offset, len) {
            Err(Errno::OPNOTSUPP | Errno::INVAL) => Ok(()),
            other => other,
        }
    }

    fn write_zeroes(
        &self,
        offset: u64,
        len: u64,
        may_unmap: bool,
        bounce: &mut Bounce,
    ) -> Result<(), Errno> {
        if len == 0 {
            return Ok(());
        }
        let mode = if may_unmap && self.discard {
            FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE
        } else {
            FallocateFlags::ZERO_RANGE
        };
        match fallocate(&self.file, mode, offset, len) {
            Err(Errno::OPNOTSUPP | Errno::INVAL) => (),
            other => return other,
        }
        let mut done = 0;
        while done < len {
            let chunk = bounce.bytes((len - done).min(CHUNK as u64) as usize);
            chunk.fill(0);
            self.file_for(offset + done, chunk.len())
                .write_all_at(chunk, offset + done)
                .map_err(|e| errno(&e))?;
            done += chunk.len() as u64;
        }
        Ok(())
    }
}

fn dma_errno(error: &DmaError) -> Errno {
    match error {
        DmaError::Revoked => Errno::CANCELED,
        DmaError::Ram(_) => Errno::FAULT,
    }
}
