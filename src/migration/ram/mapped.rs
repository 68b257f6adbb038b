//! Guest memory in a file, each page at a place of its own (capability `mapped-ram`). Behind each
//! entry of the list of blocks come a header, the bitmap of the pages that the file holds (the
//! others are zero), and the pages themselves, from the next whole MiB on. The bitmaps are written
//! last. Offsets are from the beginning of the file, not of the stream.
//!
//! Everything here blocks for as long as the disk does, and may be called from several threads.

use std::io::{self, Read};
use std::os::unix::fs::FileExt;

use parking_lot::Mutex;

use super::bitmap::PageBitmap;
use super::block::RamBlock;
use super::loader::{Incoming, Listed, RamLoader, check_address, subtract, unknown_flags};
use super::multifd::PacketPages;
use super::saver::{PageBatch, RamSaver, put_end};
use super::{PAGE, flag};
use crate::machine::memory::RamError;
use crate::migration::stream::{Input, LoadError};
use crate::threads;

/// Version of the header.
const HEADER_VERSION: u32 = 1;
/// Bytes of the header: version, page size, offsets of bitmap and pages.
const HEADER: u64 = 4 + 3 * 8;
/// Pages begin at a multiple of this.
const ALIGNMENT: u64 = 1 << 20;
/// Most bytes written or read at a time.
const PIECE: usize = 1 << 20;

/// Why memory could not be written to a file.
#[derive(Debug, thiserror::Error)]
pub enum MappedError {
    #[error(transparent)]
    File(#[from] io::Error),
    #[error(transparent)]
    Ram(#[from] RamError),
}

/// Where in the file one block is.
#[derive(Debug)]
struct Place {
    block: RamBlock,
    bitmap: u64,
    pages: u64,
    /// The pages that the file holds.
    filled: Mutex<PageBitmap>,
}

/// Writes guest memory into a file.
#[derive(Debug)]
pub struct MappedSaver {
    places: Box<[Place]>,
    find_zero: bool,
    /// The list of blocks in its pieces, and where each goes.
    list: Vec<(u64, Vec<u8>)>,
}

/// Memory for some pages that begins at a multiple of one, as direct I/O wants it.
#[derive(Debug)]
pub struct PageBuffer {
    bytes: Vec<u8>,
    start: usize,
}

impl PageBuffer {
    pub fn new() -> Self {
        let bytes = vec![0; PIECE + PAGE];
        let start = bytes.as_ptr().align_offset(PAGE).min(PAGE);
        Self { bytes, start }
    }

    /// All of it: `PIECE` bytes.
    fn pages(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..self.start + PIECE]
    }
}

impl Default for PageBuffer {
    fn default() -> Self {
        Self::new()
    }
}

/// Bytes of the bitmap of `pages` pages: whole 64-bit words.
fn bitmap_bytes(pages: u64) -> u64 {
    pages.div_ceil(64) * 8
}

impl MappedSaver {
    /// Where everything of `saver` goes in a file in which the section's head ends at `position`;
    /// where the stream goes on. With `find_zero`, pages of zeroes are found and left out.
    pub fn new(saver: &RamSaver, mut position: u64, find_zero: bool) -> (Self, u64) {
        let mut out = Vec::new();
        saver.put_total(&mut out);
        let (mut places, mut list) = (Vec::new(), Vec::new());
        for (number, block) in saver.blocks().enumerate() {
            saver.put_block(number, &mut out);
            let bitmap = position + out.len() as u64 + HEADER;
            let pages = (bitmap + bitmap_bytes(block.pages())).next_multiple_of(ALIGNMENT);
            out.extend(HEADER_VERSION.to_be_bytes());
            for value in [PAGE as u64, bitmap, pages] {
                out.extend(value.to_be_bytes());
            }
            list.push((position, std::mem::take(&mut out)));
            position = pages + block.size();
            let filled = Mutex::new(PageBitmap::new(block.pages()));
            places.push(Place { block: block.clone(), bitmap, pages, filled });
        }
        put_end(&mut out);
        let end = position + out.len() as u64;
        list.push((position, out));
        (Self { places: places.into(), find_zero, list }, end)
    }

    /// Write the first piece of the section.
    pub fn begin(&self, file: &dyn FileExt) -> Result<(), MappedError> {
        for (position, bytes) in &self.list {
            file.write_all_at(bytes, *position)?;
        }
        Ok(())
    }

    /// Write pages that `RamSaver::next_batch` gave; what they were, and the bytes written.
    pub fn save(
        &self,
        batch: &PageBatch,
        file: &dyn FileExt,
        buffer: &mut PageBuffer,
    ) -> Result<(PacketPages, usize), MappedError> {
        let mut sent = PacketPages { normal: 0, zero: 0 };
        let Some(place) = self.places.get(batch.block) else { return Ok((sent, 0)) };
        let buffer = buffer.pages();
        let write = |bytes: &[u8], offset| file.write_all_at(bytes, place.pages + offset);
        // The run of pages in the buffer: where it begins, and its length.
        let (mut run, mut length) = (0, 0);
        for &offset in &batch.offsets {
            let is_zero = self.find_zero && place.block.memory.is_zero(offset)?;
            place.filled.lock().put(offset / PAGE as u64, !is_zero);
            if is_zero {
                sent.zero += 1;
                continue;
            }
            sent.normal += 1;
            if length == PIECE || offset != run + length as u64 {
                write(&buffer[..length], run)?;
                (run, length) = (offset, 0);
            }
            place.block.memory.read(offset, &mut buffer[length..length + PAGE])?;
            length += PAGE;
        }
        write(&buffer[..length], run)?;
        let bytes = sent.normal as usize * PAGE;
        Ok((sent, bytes))
    }

    /// Write the bitmaps: the file is whole.
    pub fn finish(&self, file: &dyn FileExt) -> Result<(), MappedError> {
        for place in &self.places {
            let bitmap = place.filled.lock().to_bytes();
            file.write_all_at(&bitmap, place.bitmap)?;
        }
        Ok(())
    }
}

/// A file as the stream in it is read.
#[derive(Clone, Copy)]
pub struct MappedFile<'a> {
    pub file: &'a dyn FileExt,
    /// The same for whole pages, into memory aligned to one.
    pub pages: &'a (dyn FileExt + Sync),
    /// Threads that read pages.
    pub threads: u8,
}

impl std::fmt::Debug for MappedFile<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "MappedFile({} threads)", self.threads)
    }
}

/// A file from some offset on.
struct From<'a>(&'a dyn FileExt, u64);

impl Read for From<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let n = self.0.read_at(out, self.1)?;
        self.1 = self.1.saturating_add(n as u64);
        Ok(n)
    }
}

/// The pages of one block that are still to be read, shared by the threads that do.
struct Unread {
    filled: PageBitmap,
    /// The first page that nobody has taken yet.
    next: u64,
}

impl Unread {
    /// A run of pages for the caller to read: offset and length in bytes.
    fn take(&mut self) -> Option<(u64, usize)> {
        let first = self.filled.next(self.next)?;
        let run = self.filled.run(first);
        let length = ((run.end - first) as usize).saturating_mul(PAGE).min(PIECE);
        self.next = first + (length / PAGE) as u64;
        Some((first * PAGE as u64, length))
    }
}

/// Read pages, which begin at `start`, until none are left.
fn load_pages(
    unread: &Mutex<Unread>,
    file: &dyn FileExt,
    start: u64,
    incoming: &Incoming,
) -> Result<(), LoadError> {
    let mut buffer = PageBuffer::new();
    loop {
        let taken = unread.lock().take();
        let Some((offset, length)) = taken else { return Ok(()) };
        let piece = &mut buffer.pages()[..length];
        let place = start.saturating_add(offset);
        if let Err(error) = file.read_exact_at(piece, place) {
            unread.lock().next = u64::MAX;
            let name = &incoming.block.name;
            let text = format!("Error reading ramblock {name} pages at {place:#x}: {error}");
            return Err(LoadError::io(text));
        }
        incoming.put_run(offset, piece)?;
    }
}

impl RamLoader {
    /// Load the first piece of the section, and with it all memory, from a file that was written
    /// with `mapped-ram`; the section's head ends at `position`. Where the stream goes on.
    pub fn load_mapped(&self, from: MappedFile<'_>, mut position: u64) -> Result<u64, LoadError> {
        let mut input = Input::new(From(from.file, position));
        let word = input.u64()?;
        let (mut total, flags) = (word & !(PAGE as u64 - 1), word & (PAGE as u64 - 1));
        if flags != flag::MEM_SIZE {
            return Err(unknown_flags(flags));
        }
        let mut listed = Listed::default();
        while total > 0 {
            let name = input.name()?;
            let size = input.u64()?;
            let incoming = self.announced(&name, size, &mut listed)?;
            if self.with_addresses() {
                check_address(&incoming.block, input.u64()?)?;
            }
            total = subtract(total, size, &name)?;
            let pages = load_block(&mut input, from, incoming)?;
            let end = pages.checked_add(size);
            let bad = || LoadError::invalid(format!("ramblock {name} at {pages:#x} has no end"));
            position = end.ok_or_else(bad)?;
            input = Input::new(From(from.file, position));
        }
        match input.u64()? {
            flag::EOS => Ok(position.saturating_add(8)),
            word => Err(unknown_flags(word & (PAGE as u64 - 1))),
        }
    }
}

/// The header of a block and its pages; where the pages begin.
fn load_block(
    input: &mut Input<From<'_>>,
    from: MappedFile<'_>,
    incoming: &Incoming,
) -> Result<u64, LoadError> {
    let RamBlock { name, .. } = &incoming.block;
    let version = input.u32()?;
    if version > HEADER_VERSION {
        return Err(LoadError::invalid(format!(
            "Migration mapped-ram capability version not supported (expected <= \
             {HEADER_VERSION}, got {version})"
        )));
    }
    let [page_size, bitmap, pages] = [input.u64()?, input.u64()?, input.u64()?];
    if page_size != PAGE as u64 {
        return Err(LoadError::invalid(format!(
            "ramblock {name} has pages of {page_size} bytes, not of {PAGE}"
        )));
    }
    // As QEMU: where the alignment is another one some day, this is enough.
    if !pages.is_multiple_of(PAGE as u64) {
        return Err(LoadError::invalid(format!(
            "Error reading ramblock {name} pages, region has bad alignment"
        )));
    }
    let count = incoming.block.pages();
    let mut bits = vec![0; bitmap_bytes(count) as usize];
    from.file
        .read_exact_at(&mut bits, bitmap)
        .map_err(|e| LoadError::io(format!("Error reading dirty bitmap of {name}: {e}")))?;
    let filled = PageBitmap::from_bytes(&bits, count);
    let unread = Mutex::new(Unread { filled, next: 0 });
    if from.threads <= 1 {
        load_pages(&unread, from.pages, pages, incoming)?;
        return Ok(pages);
    }
    let failed = Mutex::new(None);
    std::thread::scope(|scope| {
        for number in 0..from.threads {
            let work = || {
                if let Err(error) = load_pages(&unread, from.pages, pages, incoming) {
                    failed.lock().get_or_insert(error);
                }
            };
            let thread = threads::named(format!("mig/dst/recv_{number}"));
            if let Err(error) = thread.spawn_scoped(scope, work) {
                failed.lock().get_or_insert(LoadError::io(error.to_string()));
                break;
            }
        }
    });
    failed.into_inner().map_or(Ok(pages), Err)
}
