//! The sending side during a postcopy: what the destination is to forget before it runs, the pages
//! that it asks for, and what remains after the connection was lost.

use std::collections::VecDeque;
use std::ops::Range;

use super::{Phase, RamSaver, Sent};
use crate::machine::memory::RamError;
use crate::migration::ram::PAGE;
use crate::migration::ram::bitmap::PageBitmap;
use crate::migration::status::ErrorDesc;
use crate::migration::stream::{StreamCommand, put_command};

/// Ranges in a discard command, as many as QEMU puts there.
const RANGES: usize = 12;
/// The version of the discard command.
const DISCARD_VERSION: u8 = 0;

/// Pages that the destination waits for, in the order in which it asked.
#[derive(Debug, Default)]
pub(super) struct Requests {
    /// Block and pages.
    queue: VecDeque<(usize, Range<u64>)>,
    /// The block that the last request named.
    block: Option<usize>,
}

impl RamSaver {
    /// Most requests that wait to be served; a peer that has more is not listened to.
    pub const REQUESTS_MAX: usize = 4096;

    /// Append what remains of all blocks but the one called `postponed`, until `budget` bytes are
    /// there. Nobody asks for pages of such blocks: their owners do not know of missing ones.
    pub fn save_others(
        &mut self,
        postponed: &str,
        out: &mut Vec<u8>,
        budget: usize,
    ) -> Result<Sent, RamError> {
        let start = out.len();
        for number in 0..self.blocks.len() {
            if self.blocks[number].block.name == postponed {
                continue;
            }
            while let Some(page) = self.blocks[number].remaining.next(0) {
                if out.len() - start >= budget {
                    return Ok(Sent::More);
                }
                self.blocks[number].remaining.put(page, false);
                self.save_page(number, page * PAGE as u64, out)?;
            }
        }
        Ok(Sent::Everything)
    }

    /// The destination will run without what remains: append the commands that tell it what that
    /// is. From here on pages are sent for the last time.
    pub fn put_discards(&mut self, out: &mut Vec<u8>) {
        self.enter(Phase::Postcopy);
        self.at = (0, 0);
        for outgoing in &self.blocks {
            let name = outgoing.block.name.as_bytes();
            let mut from = 0;
            loop {
                let mut payload = vec![DISCARD_VERSION, name.len() as u8];
                payload.extend(name);
                payload.push(0);
                let empty = payload.len();
                for _ in 0..RANGES {
                    let Some(page) = outgoing.remaining.next(from) else { break };
                    let run = outgoing.remaining.run(page);
                    from = run.end;
                    payload.extend((run.start * PAGE as u64).to_be_bytes());
                    payload.extend(((run.end - run.start) * PAGE as u64).to_be_bytes());
                }
                if payload.len() == empty {
                    break;
                }
                put_command(out, StreamCommand::PostcopyRamDiscard, &payload);
            }
        }
    }

    /// The destination asks for `len` bytes from `start` of the block `name`, or of that of the
    /// request before.
    pub fn request(&mut self, name: Option<&str>, start: u64, len: u32) -> Result<(), ErrorDesc> {
        self.stats.postcopy_requests += 1;
        let page = PAGE as u64;
        if !start.is_multiple_of(page) || !u64::from(len).is_multiple_of(page) {
            let text = format!("Misaligned page request, start:{start:x} len: {len}");
            return Err(ErrorDesc::from(format!("MIG_RP_MSG_REQ_PAGES: {text}")));
        }
        let number = match name {
            Some(name) => {
                let number = self.blocks.iter().position(|b| b.block.name == name);
                number.ok_or_else(|| {
                    let name = name.escape_debug();
                    ErrorDesc::from(format!("MIG_RP_MSG_REQ_PAGES has no block '{name}'"))
                })?
            }
            None => self
                .requests
                .block
                .ok_or_else(|| ErrorDesc::new("MIG_RP_MSG_REQ_PAGES has no previous block"))?,
        };
        self.requests.block = Some(number);
        let size = self.blocks[number].block.size();
        let end = start.checked_add(len.into()).filter(|&end| end <= size && start < end);
        let Some(end) = end else {
            return Err(ErrorDesc::from(format!(
                "MIG_RP_MSG_REQ_PAGES request overrun, start={start:x} len={len:x} blocklen={size:x}"
            )));
        };
        self.requests.queue.push_back((number, start / page..end / page));
        Ok(())
    }

    /// How many requests wait.
    pub fn requests(&self) -> usize {
        self.requests.queue.len()
    }

    /// Append pages that were asked for, until `budget` bytes are there; false if there are none. A
    /// page that has been sent since is not sent again.
    pub fn save_requested(&mut self, out: &mut Vec<u8>, budget: usize) -> Result<bool, RamError> {
        let start = out.len();
        while let Some((number, mut pages)) = self.requests.queue.pop_front() {
            while let Some(page) = self.blocks[number].remaining.next(pages.start) {
                if page >= pages.end {
                    break;
                }
                if out.len() - start >= budget {
                    self.requests.queue.push_front((number, page..pages.end));
                    self.count_bytes((out.len() - start) as u64);
                    return Ok(true);
                }
                self.blocks[number].remaining.put(page, false);
                self.save_page(number, page * PAGE as u64, out)?;
                pages.start = page + 1;
                // What is near is wanted next.
                self.at = (number, page + 1);
            }
        }
        self.count_bytes((out.len() - start) as u64);
        Ok(out.len() > start)
    }

    /// `save_requested` for a channel of its own, on which pages stand alone.
    pub fn put_requested(&mut self, out: &mut Vec<u8>, budget: usize) -> Result<bool, ErrorDesc> {
        self.named = None;
        let saved = self.save_requested(out, budget);
        self.named = None;
        saved.map_err(|error| ErrorDesc::from(error.to_string()))
    }

    /// There is a new channel: nothing said over the old one holds.
    pub fn reconnected(&mut self) {
        self.requests = Requests::default();
        self.named = None;
        self.at = (0, 0);
    }

    /// Bytes of the longest bitmap that the destination may send.
    pub fn longest_bitmap(&self) -> u64 {
        self.blocks.iter().map(|b| bitmap_bytes(b.block.pages())).max().unwrap_or(0)
    }

    /// The destination has these pages of the block `name`: all others remain to be sent.
    pub fn reload(&mut self, name: &str, received: &[u8]) -> Result<(), ErrorDesc> {
        let Some(outgoing) = self.blocks.iter_mut().find(|b| b.block.name == name) else {
            let name = name.escape_debug();
            return Err(ErrorDesc::from(format!("MIG_RP_MSG_RECV_BITMAP has no block '{name}'")));
        };
        let (pages, size) = (outgoing.block.pages(), received.len());
        if size as u64 != bitmap_bytes(pages) {
            let expected = bitmap_bytes(pages);
            return Err(ErrorDesc::from(format!(
                "ramblock '{name}' bitmap size mismatch (0x{size:x} != 0x{expected:x})"
            )));
        }
        let missing: Vec<u8> = received.iter().map(|byte| !byte).collect();
        outgoing.remaining = PageBitmap::from_bytes(&missing, pages);
        Ok(())
    }
}

/// Bytes of the bitmap of a block of `pages` pages: whole words of 64 bits.
fn bitmap_bytes(pages: u64) -> u64 {
    pages.div_ceil(64) * 8
}
