//! The receiving side of guest memory. What arrives is not trusted: every block has to be one of
//! ours and of the same size, every page in its block; everything else ends the load in words.

pub mod postcopy;

use std::io::Read;
use std::sync::Arc;

use parking_lot::Mutex;

use super::bitmap::PageBitmap;
use super::block::RamBlock;
use super::{PAGE, VERSION, flag, xbzrle};
use crate::machine::memory::RamError;
use crate::migration::stream::{Input, LoadError, LoadKind};

/// The only kind of encoded page.
const XBZRLE_ENCODING: u8 = 1;

/// How pages are received; both sides have to be told alike.
#[derive(Debug, Clone, Copy, Default)]
pub struct LoadOptions {
    /// Each block comes with its address (capability `x-ignore-shared`).
    pub addresses: bool,
    /// Pages do not come in the stream (capability `mapped-ram`).
    pub mapped: bool,
    /// A postcopy may follow (capability `postcopy-ram`).
    pub postcopy: bool,
}

/// Blocks that the sender has announced.
#[derive(Debug, Default)]
pub(super) struct Listed(Vec<usize>);

/// A block being received; channels beside the main one put pages, too.
#[derive(Debug)]
pub struct Incoming {
    pub(super) block: RamBlock,
    /// Pages that may hold something else than zeroes.
    touched: Mutex<PageBitmap>,
    /// Pages that have come, if a postcopy may follow.
    received: Option<Mutex<PageBitmap>>,
}

/// Receives guest memory.
#[derive(Debug)]
pub struct RamLoader {
    blocks: Arc<[Incoming]>,
    options: LoadOptions,
    /// The block of the page before.
    last: Option<usize>,
    /// The machine may run while pages come.
    listening: bool,
}

impl RamLoader {
    /// To receive into `blocks`, which are made zero.
    pub fn new(blocks: Vec<RamBlock>, options: LoadOptions) -> Result<Self, RamError> {
        let mut incoming = Vec::with_capacity(blocks.len());
        for block in blocks {
            block.memory.clear()?;
            let touched = Mutex::new(PageBitmap::new(block.pages()));
            let received = options.postcopy.then(|| Mutex::new(PageBitmap::new(block.pages())));
            incoming.push(Incoming { block, touched, received });
        }
        Ok(Self { blocks: incoming.into(), options, last: None, listening: false })
    }

    /// The version that the section's head gives has to be ours.
    pub fn check_version(version: u32) -> Result<(), LoadError> {
        if version == VERSION {
            return Ok(());
        }
        Err(LoadError::invalid(format!("ram section version {version} is not {VERSION}")))
    }

    /// Load one piece of the section, from after its head up to its end. `flush` is called where
    /// all channels of a multifd migration are to be waited for.
    pub fn load<R: Read>(
        &mut self,
        input: &mut Input<R>,
        flush: &mut dyn FnMut() -> Result<(), LoadError>,
    ) -> Result<(), LoadError> {
        loop {
            let word = input.u64()?;
            let (offset, flags) = (word & !(PAGE as u64 - 1), word & (PAGE as u64 - 1));
            if self.options.mapped && flags != flag::EOS {
                return Err(LoadError::invalid(format!("Unexpected RAM flags: {flags}")));
            }
            match flags & !flag::CONTINUE {
                kind if self.listening && ![flag::EOS, flag::ZERO, flag::PAGE].contains(&kind) => {
                    let cause = format!(
                        "Unknown combination of migration flags: 0x{flags:x} (postcopy mode)"
                    );
                    return Err(LoadError::invalid(cause));
                }
                flag::EOS => return Ok(()),
                flag::MEM_SIZE => self.load_blocks(input, offset)?,
                flag::MULTIFD_FLUSH => flush()?,
                kind @ (flag::ZERO | flag::PAGE | flag::XBZRLE) => {
                    let number = self.page_block(input, flags)?;
                    self.load_page(input, number, offset, kind)?;
                }
                _ => return Err(unknown_flags(flags)),
            }
        }
    }

    /// The list of blocks, whose sizes come to `total`.
    fn load_blocks<R: Read>(&self, input: &mut Input<R>, mut total: u64) -> Result<(), LoadError> {
        let mut listed = Listed::default();
        while total > 0 {
            let name = input.name()?;
            let size = input.u64()?;
            let incoming = self.announced(&name, size, &mut listed)?;
            if self.options.addresses {
                check_address(&incoming.block, input.u64()?)?;
            }
            total = subtract(total, size, &name)?;
        }
        Ok(())
    }

    /// The block that the sender announces, if it is ours and new.
    pub(super) fn announced(
        &self,
        name: &str,
        size: u64,
        listed: &mut Listed,
    ) -> Result<&Incoming, LoadError> {
        let unknown = || format!("Unknown ramblock \"{name}\", cannot accept migration");
        let number = self.find(name).ok_or_else(|| LoadError::invalid(unknown()))?;
        let incoming = &self.blocks[number];
        let ours = incoming.block.size();
        if ours != size {
            return Err(LoadError::invalid(format!(
                "Size mismatch: {name}: 0x{size:x} != 0x{ours:x}: Invalid argument"
            )));
        }
        if listed.0.contains(&number) {
            return Err(LoadError::invalid(format!("ramblock {name} is announced twice")));
        }
        listed.0.push(number);
        Ok(incoming)
    }

    /// The blocks, for the channels beside the main one.
    pub fn incoming(&self) -> Arc<[Incoming]> {
        Arc::clone(&self.blocks)
    }

    /// True when each block comes with its address.
    pub(super) fn with_addresses(&self) -> bool {
        self.options.addresses
    }

    /// The number of the block called `name`.
    pub(super) fn find(&self, name: &str) -> Option<usize> {
        self.blocks.iter().position(|b| b.block.name == name)
    }

    fn page_block<R: Read>(
        &mut self,
        input: &mut Input<R>,
        flags: u64,
    ) -> Result<usize, LoadError> {
        if flags & flag::CONTINUE != 0 {
            return self.last.ok_or_else(|| LoadError::invalid("Ack, bad migration stream!"));
        }
        let name = input.name()?;
        let number = self.find(&name);
        let number =
            number.ok_or_else(|| LoadError::invalid(format!("Can't find block {name}")))?;
        self.last = Some(number);
        Ok(number)
    }

    fn load_page<R: Read>(
        &mut self,
        input: &mut Input<R>,
        number: usize,
        offset: u64,
        kind: u64,
    ) -> Result<(), LoadError> {
        let incoming = &self.blocks[number];
        if offset >= incoming.block.size() {
            return Err(illegal_offset(offset));
        }
        match kind {
            flag::ZERO => match input.u8()? {
                0 if self.listening => incoming.place(offset, None),
                0 => incoming.put_zero(offset),
                value => Err(LoadError::invalid(format!("Found a zero page with value {value}"))),
            },
            flag::PAGE if self.listening => incoming.place(offset, Some(input.take(PAGE)?)),
            flag::PAGE => incoming.put_run(offset, input.take(PAGE)?),
            _ => incoming.put_changes(offset, input),
        }
    }
}

impl Incoming {
    /// Whole pages, one after another.
    pub(super) fn put_run(&self, offset: u64, pages: &[u8]) -> Result<(), LoadError> {
        let first = offset / PAGE as u64;
        let run = first..first + pages.len().div_ceil(PAGE) as u64;
        if let Some(received) = &self.received {
            received.lock().set_range(run.clone());
        }
        self.touched.lock().set_range(run);
        self.block.memory.write(offset, pages).map_err(|_| illegal_offset(offset))
    }

    /// A page of zeroes.
    pub(super) fn put_zero(&self, offset: u64) -> Result<(), LoadError> {
        if let Some(received) = &self.received {
            received.lock().put(offset / PAGE as u64, true);
        }
        if !self.touched.lock().put(offset / PAGE as u64, false) {
            return Ok(());
        }
        self.block.memory.write(offset, &[0; PAGE]).map_err(|_| illegal_offset(offset))
    }

    fn put_changes<R: Read>(&self, offset: u64, input: &mut Input<R>) -> Result<(), LoadError> {
        let failed = |what| {
            let why = format!("Failed to load XBZRLE page - {what}!");
            LoadError::invalid(format!("{why} Failed to decompress XBZRLE page at {offset:x}"))
        };
        if input.u8()? != XBZRLE_ENCODING {
            return Err(failed("wrong compression"));
        }
        let length = usize::from(input.u16()?);
        if length > PAGE {
            return Err(failed("len overflow"));
        }
        let mut page = [0; PAGE];
        self.block.memory.read(offset, &mut page).map_err(|_| illegal_offset(offset))?;
        xbzrle::decode(input.take(length)?, &mut page).ok_or_else(|| failed("decode error"))?;
        self.put_run(offset, &page)
    }
}

/// The address at which the sender has a block has to be ours.
pub(super) fn check_address(block: &RamBlock, address: u64) -> Result<(), LoadError> {
    if block.address == address {
        return Ok(());
    }
    let RamBlock { name, address: ours, .. } = block;
    Err(LoadError::invalid(format!("Mismatched GPAs for block {name} {address}!= {ours}")))
}

/// What remains of the announced total after a block of `size`.
pub(super) fn subtract(total: u64, size: u64, name: &str) -> Result<u64, LoadError> {
    match total.checked_sub(size) {
        // A block without bytes would let the list go on for ever.
        Some(rest) if size > 0 => Ok(rest),
        _ => Err(LoadError::invalid(format!(
            "ramblock {name} of 0x{size:x} bytes does not fit the announced 0x{total:x}"
        ))),
    }
}

fn illegal_offset(offset: u64) -> LoadError {
    LoadError::invalid(format!("Illegal RAM offset {offset:x}"))
}

pub(super) fn unknown_flags(flags: u64) -> LoadError {
    let cause = format!("Unknown combination of migration flags: 0x{flags:x}");
    LoadError { kind: LoadKind::Invalid, cause }
}
