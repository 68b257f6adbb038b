//! The sending side of guest memory: what is to be sent, in which order, and how each page is
//! written. The order within a round is that of the blocks and their pages; a page that was
//! written again after its turn comes in the next.

mod postcopy;

use std::sync::Arc;
use std::time::Instant;

use super::bitmap::PageBitmap;
use super::block::{DirtyPages, RamBlock};
use super::xbzrle::{self, PageCache};
use super::{PAGE, flag};
use crate::machine::memory::RamError;
use crate::migration::message::{RamStats, XbzrleStats};
use crate::migration::stream::put_name;
use postcopy::Requests;

/// Bytes of the header of an encoded page: its kind and its length.
const XBZRLE_HEAD: u64 = 3;
/// The only kind of encoded page.
const XBZRLE_ENCODING: u8 = 1;
/// Most pages that one call looks at, however few bytes they come to.
const MOST_PAGES: u64 = 8192;

/// How pages are sent.
#[derive(Debug, Clone, Default)]
pub struct RamOptions {
    /// Find pages of zeroes and send them as such.
    pub zero_pages: bool,
    /// Send what changed of a page; the cache's size in bytes.
    pub xbzrle: Option<u64>,
    /// Each block is sent with its address (capability `x-ignore-shared`).
    pub addresses: bool,
    /// In a postcopy, memory whose page was sent goes back to the host (capability `release-ram`).
    pub release: bool,
}

/// When bytes are sent, for the statistics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Phase {
    #[default]
    Precopy,
    /// The guest is stopped.
    Downtime,
    Postcopy,
}

/// What became of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sent {
    /// There is more to send.
    More,
    /// Nothing is left, until the next `sync` finds something.
    Everything,
}

/// Pages of one block that are to be sent, taken out of what remains.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PageBatch {
    /// Number of the block.
    pub block: usize,
    /// Offsets in bytes, ascending.
    pub offsets: Vec<u64>,
}

#[derive(Debug)]
struct Outgoing {
    block: RamBlock,
    written: Box<dyn DirtyPages>,
    remaining: PageBitmap,
    /// Number of the block's first page in the cache.
    first_page: u64,
}

/// Sends guest memory.
#[derive(Debug)]
pub struct RamSaver {
    blocks: Vec<Outgoing>,
    options: RamOptions,
    phase: Phase,
    /// Where the round is: block, page.
    at: (usize, u64),
    /// The block that the last page of this piece was of.
    named: Option<usize>,
    cache: Option<Xbzrle>,
    stats: RamStats,
    /// Start of the period over which dirty pages are counted, and how many there were.
    period: Option<(Instant, u64)>,
    /// Pages sent, in whatever way.
    pages: u64,
    copy: Box<[u8; PAGE]>,
    requests: Requests,
}

#[derive(Debug)]
struct Xbzrle {
    cache: PageCache,
    stats: XbzrleStats,
    /// Of the pass under way: pages tried, pages missed, bytes of pages and of their encodings.
    pass: [u64; 4],
}

impl RamSaver {
    /// To send `blocks`, of all of which everything remains to be sent. Whatever is written from
    /// now on must be told by the `DirtyPages` beside each.
    pub fn new(blocks: Vec<(RamBlock, Box<dyn DirtyPages>)>, options: RamOptions) -> Self {
        let mut first_page = 0;
        let mut outgoing = Vec::with_capacity(blocks.len());
        for (block, written) in blocks {
            let pages = block.pages();
            let remaining = PageBitmap::full(pages);
            outgoing.push(Outgoing { block, written, remaining, first_page });
            first_page += pages;
        }
        let cache = options.xbzrle.map(|bytes| {
            let cache = PageCache::new(bytes);
            let stats = XbzrleStats { cache_size: bytes, ..XbzrleStats::default() };
            Xbzrle { cache, stats, pass: [0; 4] }
        });
        let stats = RamStats {
            total: first_page * PAGE as u64,
            page_size: PAGE as u64,
            dirty_sync_count: 1,
            ..RamStats::default()
        };
        Self {
            blocks: outgoing,
            options,
            phase: Phase::default(),
            at: (0, 0),
            named: None,
            cache,
            stats,
            period: None,
            pages: 0,
            copy: Box::new([0; PAGE]),
            requests: Requests::default(),
        }
    }

    /// Append the first piece of the section, after its head: the list of blocks. With `mapped`,
    /// see `mapped::MappedSaver::setup` instead.
    pub fn setup(&self, out: &mut Vec<u8>) {
        self.put_total(out);
        for number in 0..self.blocks.len() {
            self.put_block(number, out);
        }
        put_end(out);
    }

    /// Append what begins the list of blocks.
    pub(super) fn put_total(&self, out: &mut Vec<u8>) {
        out.extend((self.stats.total | flag::MEM_SIZE).to_be_bytes());
    }

    /// Append the list's entry of one block.
    pub(super) fn put_block(&self, number: usize, out: &mut Vec<u8>) {
        let block = &self.blocks[number].block;
        put_name(out, &block.name);
        out.extend(block.size().to_be_bytes());
        if self.options.addresses {
            out.extend(block.address.to_be_bytes());
        }
    }

    /// The blocks, by number.
    pub fn blocks(&self) -> impl ExactSizeIterator<Item = &RamBlock> {
        self.blocks.iter().map(|b| &b.block)
    }

    /// From here on, bytes are sent in this phase.
    pub fn enter(&mut self, phase: Phase) {
        self.phase = phase;
    }

    /// Ask which pages were written, and add them to what remains: after a pass, or in one, which
    /// then goes on from where it is. How many pages that had been sent are to be sent again.
    pub fn sync(&mut self, now: Instant) -> u64 {
        let mut again = 0;
        for Outgoing { written, remaining, .. } in &mut self.blocks {
            written.take(&mut |run| again += remaining.set_range(run));
        }
        self.stats.dirty_sync_count += 1;
        let (start, pages) = self.period.get_or_insert((now, 0));
        *pages += again;
        let passed = now.saturating_duration_since(*start).as_millis() as u64;
        // As often as QEMU.
        if passed > 1000 {
            self.stats.dirty_pages_rate = *pages * 1000 / passed;
            self.period = Some((now, 0));
        }
        if let Some(xbzrle) = &mut self.cache {
            xbzrle.next_pass();
        }
        again
    }

    /// Bytes of pages that remain to be sent.
    pub fn remaining(&self) -> u64 {
        self.blocks.iter().map(|b| b.remaining.ones()).sum::<u64>() * PAGE as u64
    }

    /// Pages sent so far, in whatever way.
    pub fn pages(&self) -> u64 {
        self.pages
    }

    /// The figures that are known here: all but those of the channels and of the rate.
    pub fn stats(&self) -> RamStats {
        RamStats { remaining: self.remaining(), ..self.stats.clone() }
    }

    /// The figures of XBZRLE, if it is on.
    pub fn xbzrle_stats(&self) -> Option<XbzrleStats> {
        self.cache.as_ref().map(|c| c.stats.clone())
    }

    /// Change the size of the XBZRLE cache (`xbzrle-cache-size` under way).
    pub fn resize_cache(&mut self, bytes: u64) {
        if let Some(xbzrle) = self.cache.as_mut().filter(|x| x.stats.cache_size != bytes) {
            xbzrle.cache.resize(bytes);
            xbzrle.stats.cache_size = bytes;
        }
    }

    /// Append pages until `budget` bytes are there or nothing remains. The last one may exceed it.
    pub fn save_pages(&mut self, out: &mut Vec<u8>, budget: usize) -> Result<Sent, RamError> {
        let start = out.len();
        for _ in 0..MOST_PAGES {
            if out.len() - start >= budget {
                break;
            }
            let Some((number, page)) = self.next_page() else {
                self.count_bytes((out.len() - start) as u64);
                return Ok(Sent::Everything);
            };
            self.blocks[number].remaining.put(page, false);
            self.save_page(number, page * PAGE as u64, out)?;
        }
        self.count_bytes((out.len() - start) as u64);
        Ok(Sent::More)
    }

    /// The next at most `most` pages, all of one block, for a channel to send; `None` when nothing
    /// remains. What becomes of them is told by `count`.
    pub fn next_batch(&mut self, most: usize) -> Option<PageBatch> {
        let (block, first) = self.next_page()?;
        let remaining = &mut self.blocks[block].remaining;
        let mut offsets = Vec::with_capacity(most);
        let mut next = Some(first);
        while let Some(page) = next.filter(|_| offsets.len() < most) {
            remaining.put(page, false);
            offsets.push(page * PAGE as u64);
            self.at = (block, page + 1);
            next = remaining.next(page + 1);
        }
        Some(PageBatch { block, offsets })
    }

    /// Append those of a batch that are zero, and leave the others to a channel.
    pub fn put_zeroes(&mut self, batch: &mut PageBatch, out: &mut Vec<u8>) -> Result<(), RamError> {
        let Some(block) = self.blocks.get(batch.block) else { return Ok(()) };
        let memory = Arc::clone(&block.block.memory);
        let (mut normal, mut zero) = (Vec::new(), Vec::new());
        for &offset in &batch.offsets {
            if memory.is_zero(offset)? { &mut zero } else { &mut normal }.push(offset);
        }
        for &offset in &zero {
            self.put_page_head(batch.block, offset, flag::ZERO, out);
            out.push(0);
        }
        self.count(0, zero.len() as u64);
        batch.offsets = normal;
        Ok(())
    }

    /// Pages that a channel has sent.
    pub fn count(&mut self, normal: u64, zero: u64) {
        self.stats.normal += normal;
        self.stats.normal_bytes += normal * PAGE as u64;
        self.stats.duplicate += zero;
        self.pages += normal + zero;
    }

    /// Bytes of memory that were sent, in this phase.
    pub fn count_bytes(&mut self, bytes: u64) {
        match self.phase {
            Phase::Precopy => self.stats.precopy_bytes += bytes,
            Phase::Downtime => self.stats.downtime_bytes += bytes,
            Phase::Postcopy => self.stats.postcopy_bytes += bytes,
        }
    }

    /// Append the end of a piece of the section.
    pub fn end_piece(&mut self, out: &mut Vec<u8>) {
        put_end(out);
        self.count_bytes(8);
        self.named = None;
    }

    /// Append the request to wait for all channels.
    pub fn put_flush(&self, out: &mut Vec<u8>) {
        out.extend(flag::MULTIFD_FLUSH.to_be_bytes());
    }

    /// Go on to the next page that remains; from the beginning again after the last.
    fn next_page(&mut self) -> Option<(usize, u64)> {
        let (block, page) = self.at;
        let count = self.blocks.len();
        for i in 0..=count {
            let number = (block + i) % count.max(1);
            let from = if i == 0 { page } else { 0 };
            if let Some(page) = self.blocks.get(number)?.remaining.next(from) {
                self.at = (number, page + 1);
                return Some((number, page));
            }
        }
        // The next pass goes through memory from its beginning.
        self.at = (0, 0);
        None
    }

    fn put_page_head(&mut self, number: usize, offset: u64, kind: u64, out: &mut Vec<u8>) {
        if self.named == Some(number) {
            out.extend((offset | kind | flag::CONTINUE).to_be_bytes());
        } else {
            self.named = Some(number);
            out.extend((offset | kind).to_be_bytes());
            put_name(out, &self.blocks[number].block.name);
        }
    }

    fn save_page(&mut self, number: usize, offset: u64, out: &mut Vec<u8>) -> Result<(), RamError> {
        self.put_page(number, offset, out)?;
        match self.options.release && self.phase == Phase::Postcopy {
            true => self.blocks[number].block.memory.discard(offset, PAGE as u64),
            false => Ok(()),
        }
    }

    fn put_page(&mut self, number: usize, offset: u64, out: &mut Vec<u8>) -> Result<(), RamError> {
        let memory = &self.blocks[number].block.memory;
        if self.options.zero_pages && memory.is_zero(offset)? {
            self.put_page_head(number, offset, flag::ZERO, out);
            out.push(0);
            self.remember(number, offset, &[0; PAGE]);
            self.count(0, 1);
            return Ok(());
        }
        // What changed means nothing to a page that the destination has forgotten.
        let changes = self.cache.is_some() && self.phase != Phase::Postcopy;
        if changes && self.stats.dirty_sync_count > 1 {
            return self.save_changes(number, offset, out);
        }
        self.put_page_head(number, offset, flag::PAGE, out);
        let start = out.len();
        out.resize(start + PAGE, 0);
        self.blocks[number].block.memory.read(offset, &mut out[start..])?;
        self.count(1, 0);
        Ok(())
    }

    /// Number of a page among those of all blocks.
    fn page_number(&self, number: usize, offset: u64) -> u64 {
        self.blocks[number].first_page + offset / PAGE as u64
    }

    /// A page is sent as `content`: encodings to come are against that. In the first pass nothing
    /// is remembered, for most pages are never sent again.
    fn remember(&mut self, number: usize, offset: u64, content: &[u8; PAGE]) {
        let (page, age) = (self.page_number(number, offset), self.stats.dirty_sync_count);
        if let Some(xbzrle) = self.cache.as_mut().filter(|_| age > 1) {
            xbzrle.cache.insert(page, content, age);
        }
    }

    /// Send a page by what changed in it, if it is remembered and that is shorter.
    fn save_changes(
        &mut self,
        number: usize,
        offset: u64,
        out: &mut Vec<u8>,
    ) -> Result<(), RamError> {
        let (page, age) = (self.page_number(number, offset), self.stats.dirty_sync_count);
        // One copy is compared, remembered and sent: the guest may write on meanwhile.
        let mut copy = std::mem::replace(&mut self.copy, Box::new([0; PAGE]));
        self.blocks[number].block.memory.read(offset, &mut copy[..])?;
        let mut encoded = Vec::with_capacity(PAGE + 8);
        let fits = self.cache.as_mut().is_some_and(|x| x.encode(page, age, &copy, &mut encoded));
        if fits && encoded.is_empty() {
            // Written with what it held.
        } else if fits {
            self.put_page_head(number, offset, flag::XBZRLE, out);
            out.push(XBZRLE_ENCODING);
            out.extend((encoded.len() as u16).to_be_bytes());
            out.extend(&encoded);
            self.pages += 1;
        } else {
            self.put_page_head(number, offset, flag::PAGE, out);
            out.extend(&copy[..]);
            self.count(1, 0);
            if self.phase == Phase::Precopy {
                self.remember(number, offset, &copy);
            }
        }
        self.copy = copy;
        Ok(())
    }
}

impl Xbzrle {
    /// Append what changed since `page` was sent; false when it is to be sent whole.
    fn encode(&mut self, page: u64, age: u64, new: &[u8; PAGE], out: &mut Vec<u8>) -> bool {
        self.pass[0] += 1;
        let Some(old) = self.cache.get(page, age) else {
            self.stats.cache_miss += 1;
            self.pass[1] += 1;
            return false;
        };
        let fits = xbzrle::encode(old, new, out);
        *old = *new;
        self.pass[2] += PAGE as u64;
        self.pass[3] += if fits { out.len() as u64 } else { PAGE as u64 };
        if !fits {
            self.stats.overflow += 1;
        } else if !out.is_empty() {
            self.stats.pages += 1;
            self.stats.bytes += out.len() as u64 + XBZRLE_HEAD;
        }
        fits
    }

    fn next_pass(&mut self) {
        let [tried, missed, plain, encoded] = std::mem::take(&mut self.pass);
        if tried != 0 {
            self.stats.cache_miss_rate = missed as f64 / tried as f64;
        }
        if encoded != 0 {
            self.stats.encoding_rate = plain as f64 / encoded as f64;
        }
    }
}

/// Append the end of a piece.
pub(super) fn put_end(out: &mut Vec<u8>) {
    out.extend(flag::EOS.to_be_bytes());
}
