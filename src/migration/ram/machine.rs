//! The memory of a machine as its migration actors see it: RAM, whose writes are logged, and the
//! blocks that devices keep.

use std::sync::Arc;
use std::time::Instant;

use super::VERSION;
use super::block::{BlockMemory, DirtyPages, RamBlock};
use super::device::DeviceBlock;
use super::loader::{Incoming, LoadOptions, RamLoader};
use super::mapped::MappedFile;
use super::saver::{Phase, RamOptions, RamSaver, Sent};
use crate::cpu::inbox::Peers;
use crate::machine::dirty_log::DirtyLog;
use crate::machine::memory::{GuestRam, PAGE_SIZE};
use crate::machine::presence::Ask;
use crate::migration::capability::Capability;
use crate::migration::destination::MemoryTarget;
use crate::migration::message::{RamStats, Settings, XbzrleStats};
use crate::migration::parameters::{Parameters, ZeroPageDetection};
use crate::migration::source::Memory;
use crate::migration::status::ErrorDesc;
use crate::migration::stream::{LoadError, StreamInput};

/// What QEMU calls the RAM of `virt`.
pub const RAM_NAME: &str = "riscv_virt_board.ram";

/// All memory of a machine.
#[derive(Debug, Clone)]
pub struct MachineMemory {
    pub ram: Arc<GuestRam>,
    /// Who writes to it.
    pub harts: Peers,
    /// What devices keep: flash banks, ROMs.
    pub devices: Vec<DeviceBlock>,
}

impl MachineMemory {
    /// To send it with these settings.
    pub fn outgoing(&self, settings: &Settings) -> OutgoingMemory {
        let (capabilities, parameters) = (settings.capabilities, &settings.parameters);
        let xbzrle = capabilities.has(Capability::Xbzrle);
        let options = RamOptions {
            zero_pages: parameters.zero_page_detection != ZeroPageDetection::None,
            xbzrle: xbzrle.then_some(parameters.xbzrle_cache_size),
            addresses: capabilities.has(Capability::XIgnoreShared),
            release: capabilities.has(Capability::ReleaseRam),
        };
        let mapped = capabilities.has(Capability::MappedRam);
        OutgoingMemory { memory: self.clone(), options, mapped, saver: None }
    }

    /// To receive it with these settings.
    pub fn incoming(&self, settings: &Settings) -> IncomingMemory {
        let options = LoadOptions {
            addresses: settings.capabilities.has(Capability::XIgnoreShared),
            mapped: settings.capabilities.has(Capability::MappedRam),
            postcopy: settings.capabilities.has(Capability::PostcopyRam),
        };
        IncomingMemory { memory: self.clone(), options, loader: None }
    }

    fn ram_block(&self) -> RamBlock {
        let memory = Arc::clone(&self.ram) as Arc<dyn BlockMemory>;
        RamBlock { name: RAM_NAME.to_owned(), address: self.ram.base(), memory }
    }
}

/// Memory on its way out.
#[derive(Debug)]
pub struct OutgoingMemory {
    memory: MachineMemory,
    options: RamOptions,
    /// The list of blocks goes where the pages go, which is not into the stream.
    mapped: bool,
    /// There from `begin` on; with it, the dirty log.
    saver: Option<RamSaver>,
}

impl OutgoingMemory {
    fn begun(&mut self) -> Result<&mut RamSaver, ErrorDesc> {
        self.saver.as_mut().ok_or_else(|| ErrorDesc::new("the section of memory was not begun"))
    }
}

impl Memory for OutgoingMemory {
    fn version(&self) -> u32 {
        VERSION
    }

    fn begin(&mut self, out: &mut Vec<u8>) -> Result<(), ErrorDesc> {
        let MachineMemory { ram, harts, .. } = &self.memory;
        let log = DirtyLog::start(Arc::clone(ram), harts.clone())
            .map_err(|error| ErrorDesc::from(error.to_string()))?;
        let mut blocks = vec![(self.memory.ram_block(), Box::new(log) as Box<dyn DirtyPages>)];
        for device in &self.memory.devices {
            let written = device.log();
            // Everything is sent at first; what was written before is no news.
            written.take(&mut |_| ());
            blocks.push((device.block.clone(), written));
        }
        // QEMU's order.
        blocks.sort_by_key(|(block, _)| std::cmp::Reverse(block.size()));
        let saver = self.saver.insert(RamSaver::new(blocks, self.options.clone()));
        if !self.mapped {
            saver.setup(out);
        }
        Ok(())
    }

    fn set_parameters(&mut self, parameters: &Parameters) {
        if let Some(saver) = &mut self.saver {
            saver.resize_cache(parameters.xbzrle_cache_size);
        }
    }

    fn collect(&mut self) -> Result<u64, ErrorDesc> {
        Ok(self.begun()?.sync(Instant::now()))
    }

    fn stopped(&mut self) {
        if let Some(saver) = &mut self.saver {
            saver.enter(Phase::Downtime);
        }
    }

    fn pages(&mut self, out: &mut Vec<u8>, most: usize) -> Result<bool, ErrorDesc> {
        // At least a page, or it would go on for ever.
        let budget = most.saturating_sub(out.len()).max(1);
        let sent = self.begun()?.save_pages(out, budget);
        let sent = sent.map_err(|error| ErrorDesc::from(error.to_string()))?;
        Ok(sent == Sent::More)
    }

    fn end_piece(&mut self, out: &mut Vec<u8>) {
        if let Some(saver) = &mut self.saver {
            saver.end_piece(out);
        }
    }

    fn saver(&mut self) -> Option<&mut RamSaver> {
        self.saver.as_mut()
    }

    fn remaining(&self) -> u64 {
        self.saver.as_ref().map_or(0, RamSaver::remaining)
    }

    fn stats(&self) -> RamStats {
        self.saver.as_ref().map(RamSaver::stats).unwrap_or_default()
    }

    fn xbzrle(&self) -> Option<XbzrleStats> {
        self.saver.as_ref().and_then(RamSaver::xbzrle_stats)
    }
}

/// Memory on its way in.
#[derive(Debug)]
pub struct IncomingMemory {
    memory: MachineMemory,
    options: LoadOptions,
    /// There from `begin` on.
    loader: Option<RamLoader>,
}

impl MemoryTarget for IncomingMemory {
    fn begin(&mut self, version: u32) -> Result<(), LoadError> {
        RamLoader::check_version(version)?;
        let mut blocks = vec![self.memory.ram_block()];
        blocks.extend(self.memory.devices.iter().map(|device| device.block.clone()));
        let loader = RamLoader::new(blocks, self.options);
        self.loader = Some(loader.map_err(|error| LoadError::io(error.to_string()))?);
        Ok(())
    }

    fn piece(
        &mut self,
        input: &mut StreamInput,
        flush: &mut dyn FnMut() -> Result<(), LoadError>,
    ) -> Result<(), LoadError> {
        self.loader.as_mut().ok_or_else(not_begun)?.load(input, flush)
    }

    fn mapped(&mut self, from: MappedFile<'_>, position: u64) -> Result<u64, LoadError> {
        self.loader.as_mut().ok_or_else(not_begun)?.load_mapped(from, position)
    }

    fn incoming(&self) -> Option<Arc<[Incoming]>> {
        self.loader.as_ref().map(RamLoader::incoming)
    }

    fn loader(&mut self) -> Option<&mut RamLoader> {
        self.loader.as_mut()
    }

    fn listen(&mut self, ask: Ask) -> Result<Arc<GuestRam>, LoadError> {
        let not_begun = || LoadError::invalid("a postcopy without a section ram");
        let loader = self.loader.as_mut().ok_or_else(not_begun)?;
        loader.listen();
        let (ram, harts) = (&self.memory.ram, &self.memory.harts);
        let blocks = loader.incoming();
        let missing = blocks.iter().find(|block| block.is_ram()).map(Incoming::missing);
        let pages = ram.size() / PAGE_SIZE;
        ram.presence().begin(pages, missing.unwrap_or_default(), harts.0.len(), ask);
        Ok(Arc::clone(ram))
    }
}

fn not_begun() -> LoadError {
    LoadError::invalid("a piece of the section ram before its beginning")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::memory::RAM_BASE;
    use crate::migration::ram::block::Bytes;
    use crate::migration::stream::Input;

    fn machine() -> (MachineMemory, Arc<Bytes>) {
        let flash = Arc::new(Bytes::new(vec![3; 5], 2 * PAGE_SIZE));
        let memory = MachineMemory {
            ram: Arc::new(GuestRam::new(RAM_BASE, 64 * PAGE_SIZE).unwrap()),
            harts: Peers::new(1),
            devices: vec![DeviceBlock::new("virt.flash0", 0x2000_0000, &flash)],
        };
        (memory, flash)
    }

    #[test]
    fn a_machine_s_memory_arrives_with_what_was_written_under_way() {
        let ((from, flash), (to, copy)) = (machine(), machine());
        from.ram.fill(RAM_BASE + 5000, 9000, 7).unwrap();
        to.ram.fill(RAM_BASE, 64 * PAGE_SIZE, 9).unwrap();
        let settings = Settings::default();
        let mut outgoing = from.outgoing(&settings);
        let mut incoming = to.incoming(&settings);
        let mut out = Vec::new();
        outgoing.begin(&mut out).unwrap();
        assert!(from.ram.dirty_map().is_on());
        while outgoing.pages(&mut out, 10_000).unwrap() {}
        assert!(out.len() > 10_000);
        from.ram.store_u32(RAM_BASE + 40 * PAGE_SIZE, 1).unwrap();
        flash.write(PAGE_SIZE, &[8]).unwrap();
        outgoing.collect().unwrap();
        assert_eq!(outgoing.remaining(), 2 * PAGE_SIZE);
        outgoing.end_piece(&mut out);
        while outgoing.pages(&mut out, 10_000).unwrap() {}
        outgoing.end_piece(&mut out);
        assert_eq!((outgoing.remaining(), outgoing.stats().dirty_sync_count), (0, 2));
        drop(outgoing);
        assert!(!from.ram.dirty_map().is_on());

        let mut input: StreamInput = Input::new(Box::new(std::io::Cursor::new(out)));
        let mut flush = || Ok(());
        assert!(to.incoming(&settings).piece(&mut input, &mut flush).is_err());
        incoming.begin(VERSION).unwrap();
        for _ in 0..3 {
            incoming.piece(&mut input, &mut flush).unwrap();
        }
        for page in 0..64 {
            let content = |m: &MachineMemory| {
                let mut bytes = [1; PAGE_SIZE as usize];
                m.ram.read(RAM_BASE + page * PAGE_SIZE, &mut bytes).unwrap();
                bytes
            };
            assert!(content(&from) == content(&to), "page {page}");
        }
        assert_eq!(flash.to_vec(), copy.to_vec());
        assert!(to.incoming(&settings).begin(3).is_err());
    }
}
