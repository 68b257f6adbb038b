//! Guest memory over channels of its own (capability `multifd`). A channel begins with a greeting
//! that says which it is; then come packets, each the offsets of at most 128 pages of one block,
//! followed by the pages that are not zero, plain or compressed. Which channel a page takes does
//! not matter, but all of a round must have arrived before the next: the main channel says so, and
//! each channel has a packet that says it has sent everything.

use std::io::Read;
use std::sync::Arc;

use super::PAGE;
use super::block::RamBlock;
use super::loader::Incoming;
use super::saver::PageBatch;
use crate::machine::memory::RamError;
use crate::migration::parameters::MultifdCompression;
use crate::migration::stream::{Input, LoadError};

/// First word of a greeting and of a packet.
pub const MAGIC: u32 = 0x1122_3344;
/// Version of both.
const VERSION: u32 = 1;
/// Most bytes of pages in a packet.
const PACKET: usize = 512 << 10;
/// Most pages in a packet.
pub const PACKET_PAGES: usize = PACKET / PAGE;
/// Bytes of a block's name in a packet.
const NAME: usize = 256;
/// Bytes of a packet before its pages.
const HEAD: usize = 64 + NAME + 8 * PACKET_PAGES;

/// The sender has sent everything of a round.
const SYNC: u32 = 1;
/// Where the kind of compression is.
const COMPRESSION: u32 = 0x1f << 1;
/// The packet is a device's state.
const DEVICE_STATE: u32 = 32 << 1;

fn compression_flag(compression: MultifdCompression) -> u32 {
    match compression {
        MultifdCompression::None => 0,
        MultifdCompression::Zlib => 1 << 1,
        MultifdCompression::Zstd => 2 << 1,
    }
}

/// What a channel begins with: the machine's UUID and the channel's number.
pub fn greeting(uuid: &[u8; 16], channel: u8) -> Vec<u8> {
    let mut out = Vec::with_capacity(64);
    out.extend(MAGIC.to_be_bytes());
    out.extend(VERSION.to_be_bytes());
    out.extend(uuid);
    out.push(channel);
    out.resize(64, 0);
    out
}

/// Why a channel could not send.
#[derive(Debug, thiserror::Error)]
pub enum MultifdError {
    #[error("multifd {channel}: {method} failed: {cause}")]
    Compress { channel: u8, method: &'static str, cause: String },
    #[error(transparent)]
    Ram(#[from] RamError),
}

enum Compressor {
    None,
    Zlib(Box<flate2::Compress>),
    Zstd(Box<zstd::stream::raw::Encoder<'static>>),
}

/// What a packet holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PacketPages {
    pub normal: u64,
    pub zero: u64,
}

/// Writes the packets of one channel.
pub struct MultifdSender {
    channel: u8,
    blocks: Arc<[RamBlock]>,
    compression: MultifdCompression,
    compressor: Compressor,
    find_zero: bool,
    pages: Vec<u8>,
}

impl std::fmt::Debug for MultifdSender {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "MultifdSender({}, {:?})", self.channel, self.compression)
    }
}

impl MultifdSender {
    /// For channel number `channel`, with pages of `blocks` (as `RamSaver` numbers them). With
    /// `find_zero`, pages of zeroes are found and sent as such.
    pub fn new(
        channel: u8,
        blocks: Arc<[RamBlock]>,
        compression: MultifdCompression,
        level: u8,
        find_zero: bool,
    ) -> Result<Self, MultifdError> {
        let compressor = match compression {
            MultifdCompression::None => Compressor::None,
            MultifdCompression::Zlib => {
                let level = flate2::Compression::new(u32::from(level));
                Compressor::Zlib(Box::new(flate2::Compress::new(level, true)))
            }
            MultifdCompression::Zstd => {
                let encoder = zstd::stream::raw::Encoder::new(i32::from(level));
                let cause = |e: std::io::Error| e.to_string();
                let failed = |cause| MultifdError::Compress { channel, method: "zstd", cause };
                Compressor::Zstd(Box::new(encoder.map_err(cause).map_err(failed)?))
            }
        };
        Ok(Self { channel, blocks, compression, compressor, find_zero, pages: Vec::new() })
    }

    /// Append the packet number `number` (of all channels) with the pages of `batch`.
    pub fn packet(
        &mut self,
        batch: &PageBatch,
        number: u64,
        out: &mut Vec<u8>,
    ) -> Result<PacketPages, MultifdError> {
        let Some(block) = self.blocks.get(batch.block) else {
            return Ok(PacketPages { normal: 0, zero: 0 });
        };
        let (mut normal, mut zero) = (Vec::new(), Vec::new());
        for &offset in batch.offsets.iter().take(PACKET_PAGES) {
            if self.find_zero && block.memory.is_zero(offset)? {
                zero.push(offset);
            } else {
                normal.push(offset);
            }
        }
        let head = out.len();
        put_head(out, compression_flag(self.compression), number, &block.name, &normal, &zero);
        let start = out.len();
        let read = |offset: u64, into: &mut Vec<u8>| {
            let at = into.len();
            into.resize(at + PAGE, 0);
            block.memory.read(offset, &mut into[at..])
        };
        if matches!(self.compressor, Compressor::None) {
            normal.iter().try_for_each(|&offset| read(offset, out))?;
        } else if !normal.is_empty() {
            // Compressed from a copy: the guest may write on meanwhile.
            self.pages.clear();
            normal.iter().try_for_each(|&offset| read(offset, &mut self.pages))?;
            self.compress(out)?;
        }
        let size = (out.len() - start) as u32;
        out[head + 20..head + 24].copy_from_slice(&size.to_be_bytes());
        Ok(PacketPages { normal: normal.len() as u64, zero: zero.len() as u64 })
    }

    /// Append the packet that says that everything of the round was sent.
    pub fn sync(&self, number: u64, out: &mut Vec<u8>) {
        put_head(out, SYNC, number, "", &[], &[]);
    }

    fn compress(&mut self, out: &mut Vec<u8>) -> Result<(), MultifdError> {
        let channel = self.channel;
        let failed = |method, cause| MultifdError::Compress { channel, method, cause };
        match &mut self.compressor {
            Compressor::None => out.extend(&self.pages),
            Compressor::Zlib(zlib) => loop {
                let before = zlib.total_in();
                // Pages that do not compress grow by 5 bytes in 16 KiB, and the flush takes 6.
                out.reserve(self.pages.len() / 2 + 1024);
                let flush = flate2::FlushCompress::Sync;
                zlib.compress_vec(&self.pages, out, flush)
                    .map_err(|e| failed("deflate", e.to_string()))?;
                self.pages.drain(..(zlib.total_in() - before) as usize);
                // Room that is left says that the flush is complete.
                if self.pages.is_empty() && out.len() < out.capacity() {
                    break;
                }
            },
            Compressor::Zstd(zstd) => {
                use zstd::stream::raw::{InBuffer, Operation, OutBuffer};
                let mut piece = vec![0; zstd::zstd_safe::CCtx::out_size()];
                let mut input = InBuffer::around(&self.pages);
                loop {
                    let mut output = OutBuffer::around(&mut piece[..]);
                    let left = if input.pos() < self.pages.len() {
                        zstd.run(&mut input, &mut output).map(|_| 1)
                    } else {
                        zstd.flush(&mut output)
                    };
                    let left = left.map_err(|e| failed("zstd", e.to_string()))?;
                    out.extend(output.as_slice());
                    if left == 0 {
                        break;
                    }
                }
            }
        }
        Ok(())
    }
}

fn put_head(out: &mut Vec<u8>, flags: u32, number: u64, block: &str, normal: &[u64], zero: &[u64]) {
    let end = out.len() + HEAD;
    let most = if normal.len() + zero.len() == 0 { 0 } else { PACKET_PAGES as u32 };
    for word in [MAGIC, VERSION, flags, most, normal.len() as u32, 0] {
        out.extend(word.to_be_bytes());
    }
    out.extend(number.to_be_bytes());
    out.extend((zero.len() as u32).to_be_bytes());
    out.extend([0; 4 + 3 * 8]);
    let name = &block.as_bytes()[..block.len().min(NAME - 1)];
    out.extend(name);
    out.resize(out.len() + NAME - name.len(), 0);
    for offset in normal.iter().chain(zero) {
        out.extend(offset.to_be_bytes());
    }
    out.resize(end, 0);
}

/// What came over a channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Received {
    /// Pages, which are in memory now.
    Pages(PacketPages),
    /// The sender has sent everything of this round.
    Sync,
}

/// Read a channel's greeting: its number, below `channels`. With `uuid`, the machine's, it must be
/// the same.
pub fn read_greeting<R: Read>(
    input: &mut Input<R>,
    uuid: Option<&[u8; 16]>,
    channels: u8,
) -> Result<u8, LoadError> {
    let magic = input.u32()?;
    if magic != MAGIC {
        return Err(LoadError::invalid(format!(
            "multifd: received packet magic {magic:x} expected {MAGIC:x}"
        )));
    }
    let version = input.u32()?;
    if version != VERSION {
        return Err(LoadError::invalid(format!(
            "multifd: received packet version {version} expected {VERSION}"
        )));
    }
    let mut theirs = [0; 16];
    input.fill(&mut theirs)?;
    let channel = input.u8()?;
    input.skip(64 - 25)?;
    if let Some(ours) = uuid.filter(|ours| **ours != theirs) {
        let (theirs, ours) = (uuid_text(&theirs), uuid_text(ours));
        return Err(LoadError::invalid(format!(
            "multifd: received uuid '{theirs}' and expected uuid '{ours}' for channel {channel}"
        )));
    }
    if channel >= channels {
        return Err(LoadError::invalid(format!(
            "multifd: received channel id {channel} is greater than number of channels {channels}"
        )));
    }
    Ok(channel)
}

fn uuid_text(uuid: &[u8; 16]) -> String {
    let hex: String = uuid.iter().map(|b| format!("{b:02x}")).collect();
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
}

enum Decompressor {
    None,
    Zlib(Box<flate2::Decompress>),
    Zstd(Box<zstd::stream::raw::Decoder<'static>>),
}

/// Reads the packets of one channel into memory.
pub struct MultifdReceiver {
    channel: u8,
    blocks: Arc<[Incoming]>,
    compression: MultifdCompression,
    decompressor: Decompressor,
    packed: Vec<u8>,
    pages: Vec<u8>,
    numbers: Numbers,
}

/// Which packets have come. Their numbers run on over all channels of a migration.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Numbers {
    pub count: u64,
    pub first: u64,
    pub last: u64,
}

impl Numbers {
    fn see(&mut self, number: u64) {
        let first = if self.count == 0 { number } else { self.first.min(number) };
        let last = self.last.max(number);
        *self = Self { count: self.count.saturating_add(1), first, last };
    }

    /// Those of all channels, none of which may be missing.
    pub fn complete<'a>(channels: impl Iterator<Item = &'a Self> + Clone) -> bool {
        let count = channels.clone().fold(0_u64, |sum, one| sum.saturating_add(one.count));
        let first = channels.clone().map(|one| one.first).min().unwrap_or(0);
        let last = channels.map(|one| one.last).max().unwrap_or(0);
        count == 0 || (last - first).checked_add(1) == Some(count)
    }
}

impl std::fmt::Debug for MultifdReceiver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "MultifdReceiver({}, {:?})", self.channel, self.compression)
    }
}

/// A packet's head that was found to be sound.
struct Head {
    flags: u32,
    size: usize,
    normal: usize,
    block: String,
    offsets: Vec<u64>,
}

impl MultifdReceiver {
    /// For the channel that greeted as `channel`, into the blocks of `RamLoader::incoming`.
    pub fn new(
        channel: u8,
        blocks: Arc<[Incoming]>,
        compression: MultifdCompression,
    ) -> Result<Self, LoadError> {
        let decompressor = match compression {
            MultifdCompression::None => Decompressor::None,
            MultifdCompression::Zlib => Decompressor::Zlib(Box::new(flate2::Decompress::new(true))),
            MultifdCompression::Zstd => {
                let failed = |e| LoadError::invalid(format!("multifd {channel}: zstd: {e}"));
                let decoder = zstd::stream::raw::Decoder::new().map_err(failed)?;
                Decompressor::Zstd(Box::new(decoder))
            }
        };
        let (packed, pages, numbers) = (Vec::new(), Vec::new(), Numbers::default());
        Ok(Self { channel, blocks, compression, decompressor, packed, pages, numbers })
    }

    /// What has come so far.
    pub fn numbers(&self) -> Numbers {
        self.numbers
    }

    /// Receive a packet. When the channel ends where a packet would begin, that is an error like
    /// any other here; after a round it is how a migration ends.
    pub fn receive<R: Read>(&mut self, input: &mut Input<R>) -> Result<Received, LoadError> {
        let head = self.read_head(input)?;
        if head.offsets.is_empty() {
            input.skip(head.size as u64)?;
            let pages = PacketPages { normal: 0, zero: 0 };
            let sync = head.flags & SYNC != 0;
            return Ok(if sync { Received::Sync } else { Received::Pages(pages) });
        }
        let (channel, expected) = (self.channel, compression_flag(self.compression));
        let found = head.flags & COMPRESSION;
        if found != expected {
            return Err(LoadError::invalid(format!(
                "multifd {channel}: flags received {found:x} flags expected {expected:x}"
            )));
        }
        let block = self.blocks.iter().position(|b| b.block.name == head.block);
        let unknown = || LoadError::invalid(format!("multifd: unknown ram block {}", head.block));
        let number = block.ok_or_else(unknown)?;
        let size = self.blocks[number].block.size();
        for &offset in &head.offsets {
            let last = size - PAGE as u64;
            if offset > last || !offset.is_multiple_of(PAGE as u64) {
                return Err(LoadError::invalid(format!(
                    "multifd: offset too long {offset} (max {last:x})"
                )));
            }
        }
        let (normal, zero) = head.offsets.split_at(head.normal);
        for &offset in zero {
            self.blocks[number].put_zero(offset)?;
        }
        if matches!(self.decompressor, Decompressor::None) {
            if head.size != normal.len() * PAGE {
                return Err(self.size_mismatch(head.size, normal.len() * PAGE));
            }
            for &offset in normal {
                self.blocks[number].put_run(offset, input.take(PAGE)?)?;
            }
        } else {
            self.packed.resize(head.size, 0);
            input.fill(&mut self.packed)?;
            self.unpack(normal.len() * PAGE)?;
            for (&offset, page) in normal.iter().zip(self.pages.chunks(PAGE)) {
                self.blocks[number].put_run(offset, page)?;
            }
        }
        Ok(Received::Pages(PacketPages { normal: normal.len() as u64, zero: zero.len() as u64 }))
    }

    fn size_mismatch(&self, found: usize, expected: usize) -> LoadError {
        let channel = self.channel;
        LoadError::invalid(format!(
            "multifd {channel}: packet size received {found} size expected {expected}"
        ))
    }

    fn read_head<R: Read>(&mut self, input: &mut Input<R>) -> Result<Head, LoadError> {
        let refused =
            |why: String| Err(LoadError::invalid(format!("multifd: received packet {why}")));
        let magic = input.u32()?;
        if magic != MAGIC {
            return refused(format!("magic {magic:x} and expected magic {MAGIC:x}"));
        }
        let version = input.u32()?;
        if version != VERSION {
            return refused(format!("version {version} and expected version {VERSION}"));
        }
        let flags = input.u32()?;
        if flags & DEVICE_STATE != 0 {
            return refused("with a device's state, which no device here takes".to_owned());
        }
        let most = input.u32()? as usize;
        if most > PACKET_PAGES {
            return refused(format!("with size {most} and expected a size of {PACKET_PAGES}"));
        }
        let normal = input.u32()? as usize;
        if normal > most {
            return refused(format!(
                "with {normal} normal pages and expected maximum pages are {most}"
            ));
        }
        let size = input.u32()? as usize;
        // What does not compress may come out longer, but not twice as long.
        if size > 2 * PACKET {
            return refused(format!("of {size} bytes and expected at most {}", 2 * PACKET));
        }
        let number = input.u64()?;
        let zero = input.u32()? as usize;
        if zero > most - normal {
            return refused(format!(
                "with {zero} zero pages and expected maximum zero pages are {}",
                most - normal
            ));
        }
        self.numbers.see(number);
        input.skip(4 + 3 * 8)?;
        let name = input.take(NAME)?;
        let name = name.split(|&b| b == 0).next().unwrap_or_default();
        let block = String::from_utf8_lossy(name).into_owned();
        let mut offsets = Vec::with_capacity(normal + zero);
        for i in 0..PACKET_PAGES {
            let offset = input.u64()?;
            if i < normal + zero {
                offsets.push(offset);
            }
        }
        Ok(Head { flags, size, normal, block, offsets })
    }

    /// Unpack to exactly `expected` bytes of pages.
    fn unpack(&mut self, expected: usize) -> Result<(), LoadError> {
        let channel = self.channel;
        self.pages.clear();
        if expected == 0 && self.packed.is_empty() {
            return Ok(());
        }
        // One byte more than there may be tells a packet that holds too much.
        self.pages.resize(expected + 1, 0);
        let (mut read, mut written) = (0, 0);
        let failed = |why: String| LoadError::invalid(format!("multifd {channel}: {why}"));
        loop {
            let (input, output) = (&self.packed[read..], &mut self.pages[written..]);
            let (more_read, more_written) = match &mut self.decompressor {
                Decompressor::None => (input.len(), 0),
                Decompressor::Zlib(zlib) => {
                    let (before_in, before_out) = (zlib.total_in(), zlib.total_out());
                    zlib.decompress(input, output, flate2::FlushDecompress::Sync)
                        .map_err(|e| failed(format!("inflate failed: {e}")))?;
                    let read = (zlib.total_in() - before_in) as usize;
                    (read, (zlib.total_out() - before_out) as usize)
                }
                Decompressor::Zstd(zstd) => {
                    use zstd::stream::raw::Operation;
                    let status = zstd
                        .run_on_buffers(input, output)
                        .map_err(|e| failed(format!("decompressStream failed: {e}")))?;
                    (status.bytes_read, status.bytes_written)
                }
            };
            read += more_read;
            written += more_written;
            let stuck = more_read == 0 && more_written == 0;
            if written > expected || stuck || read == self.packed.len() && more_written == 0 {
                break;
            }
        }
        if written != expected || read != self.packed.len() {
            return Err(self.size_mismatch(written, expected));
        }
        self.pages.truncate(expected);
        Ok(())
    }
}
