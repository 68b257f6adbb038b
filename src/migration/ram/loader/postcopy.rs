//! The receiving side during a postcopy: which pages have come, which are to be forgotten, and the
//! placing of those that come while the machine runs.

use std::ops::Range;

use super::{Incoming, RamLoader};
use crate::migration::ram::machine::RAM_NAME;
use crate::migration::ram::{PAGE, flag};
use crate::migration::stream::{LoadError, StreamInput};

impl RamLoader {
    /// The source has changed these bytes of the block `name` since it sent them: forget them.
    pub fn discard(&self, name: &str, start: u64, len: u64) -> Result<(), LoadError> {
        let Some(number) = self.find(name) else {
            return Err(LoadError::invalid(format!(
                "ram_discard_range: Failed to find block '{}'",
                name.escape_debug()
            )));
        };
        let incoming = &self.blocks[number];
        let (page, size) = (PAGE as u64, incoming.block.size());
        if !start.is_multiple_of(page) || !len.is_multiple_of(page) {
            let text = format!("Unaligned range 0x{start:x}+0x{len:x} of block '{name}'");
            return Err(LoadError::invalid(format!("ram_discard_range: {text}")));
        }
        let Some(end) = start.checked_add(len).filter(|&end| end <= size) else {
            return Err(LoadError::invalid(format!(
                "ram_discard_range: Overrun block '{name}' (0x{start:x}/0x{len:x}/0x{size:x})"
            )));
        };
        let failed = |error| LoadError::io(format!("ram_discard_range: {error}"));
        incoming.block.memory.discard(start, len).map_err(failed)?;
        let (mut touched, received) = (incoming.touched.lock(), incoming.received.as_ref());
        let mut received = received.map(|received| received.lock());
        for page in start / page..end / page {
            touched.put(page, false);
            if let Some(received) = &mut received {
                received.put(page, false);
            }
        }
        Ok(())
    }

    /// From here on, whole pages come, each once, while the machine may run.
    pub fn listen(&mut self) {
        self.listening = true;
        self.last = None;
    }

    /// A new channel begins.
    pub fn reconnected(&mut self) {
        self.last = None;
    }

    /// The bitmap of the pages of `name` that have come, as it travels; `None` if there is no such
    /// block.
    pub fn received(&self, name: &str) -> Option<Vec<u8>> {
        let incoming = &self.blocks[self.find(name)?];
        let bitmap = incoming.received.as_ref()?.lock().to_bytes();
        Some(bitmap)
    }

    /// Pages, of all blocks, that have not come.
    pub fn left(&self) -> u64 {
        let missing = |incoming: &Incoming| match &incoming.received {
            Some(received) => incoming.block.pages() - received.lock().ones(),
            None => 0,
        };
        self.blocks.iter().map(missing).sum()
    }
}

/// Take pages from a channel that has nothing else on it, until it ends between two of them.
pub fn load_urgent(blocks: &[Incoming], input: &mut StreamInput) -> Result<(), LoadError> {
    let mut last = None;
    while !input.ahead().is_empty() || input.more().is_ok() {
        let word = input.u64()?;
        let (offset, flags) = (word & !(PAGE as u64 - 1), word & (PAGE as u64 - 1));
        let kind = flags & !flag::CONTINUE;
        if kind == flag::EOS {
            return Ok(());
        }
        if kind != flag::ZERO && kind != flag::PAGE {
            let cause =
                format!("Unknown combination of migration flags: 0x{flags:x} (postcopy mode)");
            return Err(LoadError::invalid(cause));
        }
        if flags & flag::CONTINUE == 0 {
            let name = input.name()?;
            let found = blocks.iter().find(|block| block.name() == name);
            let unknown =
                || LoadError::invalid(format!("Can't find block {}", name.escape_debug()));
            last = Some(found.ok_or_else(unknown)?);
        }
        let block = last.ok_or_else(|| LoadError::invalid("Ack, bad migration stream!"))?;
        if offset >= block.block.size() {
            return Err(super::illegal_offset(offset));
        }
        if kind == flag::PAGE {
            block.place(offset, Some(input.take(PAGE)?))?;
            continue;
        }
        match input.u8()? {
            0 => block.place(offset, None)?,
            value => {
                let text = format!("Found a zero page with value {value}");
                return Err(LoadError::invalid(text));
            }
        }
    }
    Ok(())
}

impl Incoming {
    /// What the stream calls the block.
    pub fn name(&self) -> &str {
        &self.block.name
    }

    /// Harts access it themselves, so that they are who asks for its pages.
    pub fn is_ram(&self) -> bool {
        self.block.name == RAM_NAME
    }

    /// The runs of pages that have not come.
    pub fn missing(&self) -> Vec<Range<u64>> {
        let Some(received) = &self.received else { return Vec::new() };
        let (received, pages) = (received.lock(), self.block.pages());
        let (mut from, mut runs) = (0, Vec::new());
        while from < pages {
            let present = received.run(from);
            if present.end > from {
                from = present.end;
                continue;
            }
            let end = received.next(from).unwrap_or(pages);
            runs.push(from..end);
            from = end;
        }
        runs
    }

    /// A page while the machine runs; `None` is a page of zeroes.
    pub(super) fn place(&self, offset: u64, page: Option<&[u8]>) -> Result<(), LoadError> {
        let placed = self.block.memory.place(offset, page);
        placed.map_err(|_| super::illegal_offset(offset))?;
        if let Some(received) = &self.received {
            received.lock().put(offset / PAGE as u64, true);
        }
        Ok(())
    }
}
