//! The kdump-compressed format, version 6, which `crash` and `makedumpfile` read: a header, one of
//! its own with the harts' notes, two bitmaps of the pages that are there (the same, as no page is
//! left out), a descriptor for each, and their content compressed by zlib, all pages of zeroes in
//! one. Flattened, each of these is a record that says where in the file it belongs.

use std::fs::File;
use std::io::{self, Seek as _, SeekFrom, Write as _};

use flate2::{Compress, Compression, FlushCompress, Status};

use super::{Core, DumpError, DumpState, elf};
use crate::machine::memory::PAGE_SIZE;

const PAGE: usize = PAGE_SIZE as usize;
/// Of the descriptors' and of the header's flags.
const ZLIB: u32 = 1;
/// Bytes of the header's six names of 65 bytes each, and which is that of the machine. QEMU does not
/// know this one's.
const NAME: usize = 65;
const MACHINE: (usize, &[u8]) = (4, b"Unknown");
/// Bytes of the time of the dump, which is not told.
const TIMESTAMP: usize = 22;
/// Bytes of the second header, without the notes behind it.
const SUBHEADER: u64 = 104;
/// Bytes of a page's descriptor.
const DESCRIPTOR: u64 = 24;
/// Bytes that are gathered before they are written.
const CACHE: usize = 4 * PAGE;

/// Where records go.
struct Output<'a> {
    to: &'a mut File,
    in_place: bool,
}

impl Output<'_> {
    fn put(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        if self.in_place {
            self.to.seek(SeekFrom::Start(offset))?;
        } else {
            self.to.write_all(&[offset, bytes.len() as u64].map(u64::to_be_bytes).concat())?;
        }
        self.to.write_all(bytes)
    }

    fn begin(&mut self) -> io::Result<()> {
        if self.in_place {
            return Ok(());
        }
        let mut head = b"makedumpfile\0\0\0\0".to_vec();
        // Type and version.
        head.extend([1_u64, 1].map(u64::to_be_bytes).concat());
        head.resize(PAGE, 0);
        self.to.write_all(&head)
    }

    fn end(&mut self) -> io::Result<()> {
        match self.in_place {
            true => Ok(()),
            false => self.to.write_all(&[0xff; 16]),
        }
    }
}

/// Bytes that follow one another.
struct Cache {
    offset: u64,
    bytes: Vec<u8>,
}

impl Cache {
    fn at(offset: u64) -> Self {
        Self { offset, bytes: Vec::with_capacity(CACHE) }
    }

    fn put(&mut self, bytes: &[u8], out: &mut Output<'_>) -> io::Result<()> {
        if self.bytes.len() + bytes.len() > CACHE {
            self.flush(out)?;
        }
        self.bytes.extend(bytes);
        Ok(())
    }

    fn flush(&mut self, out: &mut Output<'_>) -> io::Result<()> {
        if !self.bytes.is_empty() {
            out.put(self.offset, &self.bytes)?;
            self.offset += self.bytes.len() as u64;
            self.bytes.clear();
        }
        Ok(())
    }
}

/// Where everything goes, in bytes.
struct Layout {
    /// One more than the number of the last page.
    pages_end: u64,
    /// Of one bitmap.
    bitmap: u64,
    bitmaps_at: u64,
    descriptors_at: u64,
    content_at: u64,
}

impl Layout {
    fn of(core: &Core, notes: &[u8]) -> Self {
        let end = |core: &Core| Some(core.segments.last()?.address() + core.segments.last()?.len);
        let pages_end = end(core).unwrap_or_default() / PAGE_SIZE;
        let pages: u64 = core.segments.iter().map(|segment| segment.len / PAGE_SIZE).sum();
        let bitmap = pages_end.div_ceil(8).next_multiple_of(PAGE_SIZE);
        let head = SUBHEADER + notes.len() as u64;
        let bitmaps_at = PAGE_SIZE + head.next_multiple_of(PAGE_SIZE);
        let descriptors_at = bitmaps_at + 2 * bitmap;
        let content_at = descriptors_at + pages * DESCRIPTOR;
        Self { pages_end, bitmap, bitmaps_at, descriptors_at, content_at }
    }

    fn header(&self, harts: usize) -> Vec<u8> {
        let mut out = b"KDUMP   ".to_vec();
        out.extend(6_u32.to_le_bytes());
        let mut names = [0; 6 * NAME];
        let (at, name) = (MACHINE.0 * NAME, MACHINE.1);
        names[at..at + name.len()].copy_from_slice(name);
        out.extend(names);
        out.extend([0; TIMESTAMP]);
        let blocks = |bytes: u64| (bytes / PAGE_SIZE) as u32;
        let truncated = u32::try_from(self.pages_end).unwrap_or(u32::MAX);
        let sub_header = blocks(self.bitmaps_at) - 1;
        let fields =
            [ZLIB, PAGE as u32, sub_header, 2 * blocks(self.bitmap), truncated, 0, 0, 0, 0];
        // The compiler's padding.
        out.resize(out.len().next_multiple_of(4), 0);
        for field in fields.into_iter().chain([harts as u32]) {
            out.extend(field.to_le_bytes());
        }
        out
    }

    fn sub_header(&self, notes: &[u8]) -> Vec<u8> {
        // `phys_base`, the level of the dump (nothing but zeroes is left out) and `split`.
        let mut out = vec![0; 8];
        out.extend([1_u32, 0].map(u32::to_le_bytes).concat());
        let notes_at = PAGE_SIZE + SUBHEADER;
        let fields = [0, 0, 0, 0, notes_at, notes.len() as u64, 0, 0, 0, 0, self.pages_end];
        out.extend(fields.map(u64::to_le_bytes).concat());
        out
    }
}

pub(super) fn write(
    core: &Core,
    to: &mut File,
    in_place: bool,
    state: &DumpState,
) -> Result<(), DumpError> {
    let out = &mut Output { to, in_place };
    let failed = |step| move |_| DumpError::Failed(step);
    out.begin().map_err(failed("write start flat header"))?;
    let notes = elf::notes(&core.harts);
    let layout = Layout::of(core, &notes);
    let header = layout.header(core.harts.len());
    out.put(0, &header).map_err(failed("write disk dump header"))?;
    let sub_header = layout.sub_header(&notes);
    out.put(PAGE_SIZE, &sub_header).map_err(failed("write kdump sub header"))?;
    out.put(PAGE_SIZE + SUBHEADER, &notes).map_err(failed("write notes"))?;
    bitmaps(core, &layout, out).map_err(failed("set dump_bitmap"))?;
    pages(core, &layout, out, state)?;
    out.end().map_err(failed("write end flat header"))
}

/// A page of bitmap at a time.
fn bitmaps(core: &Core, layout: &Layout, out: &mut Output<'_>) -> io::Result<()> {
    const BITS: u64 = PAGE_SIZE * 8;
    for piece in 0..layout.bitmap / PAGE_SIZE {
        let mut bits = [0_u8; PAGE];
        for segment in &core.segments {
            let first = segment.address() / PAGE_SIZE;
            let end = first + segment.len / PAGE_SIZE;
            let here = piece * BITS;
            for page in first.max(here)..end.min(here + BITS) {
                let bit = (page - here) as usize;
                bits[bit / 8] |= 1 << (bit % 8);
            }
        }
        for bitmap in [0, layout.bitmap] {
            out.put(layout.bitmaps_at + bitmap + piece * PAGE_SIZE, &bits)?;
        }
    }
    Ok(())
}

fn descriptor(offset: u64, size: usize, flags: u32) -> Vec<u8> {
    let sizes = [size as u32, flags].map(u32::to_le_bytes).concat();
    [&offset.to_le_bytes()[..], &sizes, &[0; 8]].concat()
}

fn pages(
    core: &Core,
    layout: &Layout,
    out: &mut Output<'_>,
    state: &DumpState,
) -> Result<(), DumpError> {
    let failed = |step| move |_| DumpError::Failed(step);
    let mut descriptors = Cache::at(layout.descriptors_at);
    let mut content = Cache::at(layout.content_at);
    let mut offset = layout.content_at;
    let zeroes = descriptor(offset, PAGE, 0);
    content.put(&[0; PAGE], out).map_err(failed("write page data (zero page)"))?;
    offset += PAGE_SIZE;
    let mut zlib = Compress::new(Compression::fast(), true);
    for segment in &core.segments {
        segment.each(|bytes| {
            for page in bytes.chunks(PAGE) {
                let described = if page.iter().all(|byte| *byte == 0) {
                    zeroes.clone()
                } else {
                    let compressed = compress(&mut zlib, page);
                    let (bytes, flags) = compressed.as_deref().map_or((page, 0), |c| (c, ZLIB));
                    content.put(bytes, out).map_err(failed("write page data"))?;
                    let described = descriptor(offset, bytes.len(), flags);
                    offset += bytes.len() as u64;
                    described
                };
                descriptors.put(&described, out).map_err(failed("write page desc"))?;
                state.progress(page.len());
            }
            Ok(())
        })?;
    }
    descriptors.flush(out).map_err(failed("sync cache for page_desc"))?;
    content.flush(out).map_err(failed("sync cache for page_data"))
}

/// The page in fewer bytes, if it has any.
fn compress(zlib: &mut Compress, page: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(PAGE - 1);
    zlib.reset();
    let status = zlib.compress_vec(page, &mut out, FlushCompress::Finish);
    matches!(status, Ok(Status::StreamEnd)).then_some(out)
}
