//! Guest memory in a file, each page at a place of its own (capability `mapped-ram`). Behind each
//! entry of the list of blocks come a header, the bitmap of the pages that the file holds (the
//! others are zero), and the pages themselves, from the next whole MiB on. The bitmaps are written
//! last. Offsets are from the beginning of the file, not of the stream.

use std::io::{self, Read};
use std::os::unix::fs::FileExt;

use super::bitmap::PageBitmap;
use super::loader::{RamLoader, check_address, subtract, unknown_flags};
use super::saver::{RamSaver, Sent, put_end};
use super::{PAGE, flag};
use crate::machine::memory::RamError;
use crate::migration::stream::{Input, LoadError};

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
    #[error("cannot write the migration file at offset {offset:#x}: {source}")]
    File { offset: u64, source: io::Error },
    #[error(transparent)]
    Ram(#[from] RamError),
}

/// Where in the file one block is.
#[derive(Debug)]
struct Place {
    bitmap: u64,
    pages: u64,
    filled: PageBitmap,
}

/// Writes guest memory into a file.
#[derive(Debug)]
pub struct MappedSaver {
    places: Vec<Place>,
    buffer: Vec<u8>,
}

/// Bytes of the bitmap of `pages` pages: whole 64-bit words.
fn bitmap_bytes(pages: u64) -> u64 {
    pages.div_ceil(64) * 8
}

fn write(file: &dyn FileExt, bytes: &[u8], offset: u64) -> Result<(), MappedError> {
    file.write_all_at(bytes, offset).map_err(|source| MappedError::File { offset, source })
}

impl MappedSaver {
    /// Write the first piece of the section, whose head ends at `position`; where the stream goes
    /// on.
    pub fn setup(
        saver: &RamSaver,
        file: &dyn FileExt,
        mut position: u64,
    ) -> Result<(Self, u64), MappedError> {
        let mut out = Vec::new();
        saver.put_total(&mut out);
        let mut places = Vec::new();
        for (number, block) in saver.blocks().enumerate() {
            saver.put_block(number, &mut out);
            let bitmap = position + out.len() as u64 + HEADER;
            let pages = (bitmap + bitmap_bytes(block.pages())).next_multiple_of(ALIGNMENT);
            out.extend(HEADER_VERSION.to_be_bytes());
            for value in [PAGE as u64, bitmap, pages] {
                out.extend(value.to_be_bytes());
            }
            write(file, &out, position)?;
            out.clear();
            position = pages + block.size();
            places.push(Place { bitmap, pages, filled: PageBitmap::new(block.pages()) });
        }
        put_end(&mut out);
        write(file, &out, position)?;
        Ok((Self { places, buffer: Vec::new() }, position + out.len() as u64))
    }

    /// Write pages until they come to `budget` bytes or nothing remains.
    pub fn save_pages(
        &mut self,
        saver: &mut RamSaver,
        file: &dyn FileExt,
        budget: usize,
    ) -> Result<Sent, MappedError> {
        let mut written = 0;
        while written < budget {
            let Some(batch) = saver.next_batch(PIECE / PAGE) else { return Ok(Sent::Everything) };
            let Some(block) = saver.blocks().nth(batch.block).cloned() else { break };
            let (mut normal, mut zero) = (0, 0);
            // The run of pages in the buffer begins at this offset.
            let mut run = 0;
            for offset in batch.offsets {
                let is_zero = block.memory.is_zero(offset)?;
                if is_zero || offset != run + self.buffer.len() as u64 {
                    written += self.write_run(batch.block, run, file)?;
                    run = offset;
                }
                let place = &mut self.places[batch.block];
                place.filled.put(offset / PAGE as u64, !is_zero);
                if is_zero {
                    zero += 1;
                } else {
                    normal += 1;
                    let start = self.buffer.len();
                    self.buffer.resize(start + PAGE, 0);
                    block.memory.read(offset, &mut self.buffer[start..])?;
                }
            }
            written += self.write_run(batch.block, run, file)?;
            saver.count(normal, zero);
            saver.count_bytes(normal * PAGE as u64);
        }
        Ok(Sent::More)
    }

    /// Write what the buffer holds; how much that was.
    fn write_run(
        &mut self,
        block: usize,
        offset: u64,
        file: &dyn FileExt,
    ) -> Result<usize, MappedError> {
        if !self.buffer.is_empty() {
            write(file, &self.buffer, self.places[block].pages + offset)?;
        }
        let written = self.buffer.len();
        self.buffer.clear();
        Ok(written)
    }

    /// Write the bitmaps: the file is whole.
    pub fn finish(self, file: &dyn FileExt) -> Result<(), MappedError> {
        for place in &self.places {
            write(file, &place.filled.to_bytes(), place.bitmap)?;
        }
        Ok(())
    }
}

/// A file from some offset on.
struct From<'a>(&'a dyn FileExt, u64);

impl Read for From<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let n = self.0.read_at(out, self.1)?;
        self.1 += n as u64;
        Ok(n)
    }
}

impl RamLoader {
    /// Load the first piece of the section, and with it all memory, from a file that was written
    /// with `mapped-ram`; the section's head ends at `position`. Where the stream goes on.
    pub fn load_mapped(&mut self, file: &dyn FileExt, mut position: u64) -> Result<u64, LoadError> {
        let mut input = Input::new(From(file, position));
        let word = input.u64()?;
        let (mut total, flags) = (word & !(PAGE as u64 - 1), word & (PAGE as u64 - 1));
        if flags != flag::MEM_SIZE {
            return Err(unknown_flags(flags));
        }
        while total > 0 {
            let name = input.name()?;
            let size = input.u64()?;
            let block = self.announced(&name, size)?;
            if self.with_addresses() {
                check_address(block, input.u64()?)?;
            }
            total = subtract(total, size, &name)?;
            let pages = self.load_mapped_block(&mut input, file, &name, size)?;
            let end = pages.checked_add(size);
            let bad = || LoadError::invalid(format!("ramblock {name} at {pages:#x} has no end"));
            position = end.ok_or_else(bad)?;
            input = Input::new(From(file, position));
        }
        match input.u64()? {
            flag::EOS => Ok(position + 8),
            word => Err(unknown_flags(word & (PAGE as u64 - 1))),
        }
    }

    /// The header of a block and its pages; where the pages begin.
    fn load_mapped_block(
        &self,
        input: &mut Input<From<'_>>,
        file: &dyn FileExt,
        name: &str,
        size: u64,
    ) -> Result<u64, LoadError> {
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
        if !pages.is_multiple_of(ALIGNMENT) {
            return Err(LoadError::invalid(format!(
                "Error reading ramblock {name} pages, region has bad alignment"
            )));
        }
        let count = size / PAGE as u64;
        let mut bits = vec![0; bitmap_bytes(count) as usize];
        file.read_exact_at(&mut bits, bitmap)
            .map_err(|e| LoadError::io(format!("Error reading dirty bitmap of {name}: {e}")))?;
        let filled = PageBitmap::from_bytes(&bits, count);
        let incoming = self.incoming();
        let unknown = || LoadError::invalid(format!("Can't find block {name}"));
        let incoming = self.find(name).and_then(|i| incoming.get(i)).ok_or_else(unknown)?;
        let mut buffer = vec![0; PIECE];
        let mut from = 0;
        while let Some(first) = filled.next(from) {
            let run = filled.run(first);
            let length = ((run.end - first) as usize * PAGE).min(PIECE);
            let offset = first * PAGE as u64;
            let piece = &mut buffer[..length];
            let place = pages.saturating_add(offset);
            file.read_exact_at(piece, place).map_err(|e| {
                LoadError::io(format!("Error reading ramblock {name} pages at {place:#x}: {e}"))
            })?;
            incoming.put_run(offset, piece)?;
            from = first + (length / PAGE) as u64;
        }
        Ok(pages)
    }
}
