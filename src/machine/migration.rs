//! The migration actors, wired to this machine: channels, guest memory, sections.

use std::sync::Arc;
use std::time::Instant;

use actix::prelude::*;
use serde_json::Value;

use super::build::Machine;
use super::dirty_log::DirtyLog;
use super::memory::{GuestRam, RAM_BASE};
use super::vm::Exited;
use crate::actors::outlet::Outlet;
use crate::cpu::inbox::Peers;
use crate::migration::capability::Capability;
use crate::migration::channel::{self, Address, ChannelContext, Listener};
use crate::migration::destination::{
    Accept, AcceptError, Accepting, DestinationPeers, Listen, Listening, MemoryTarget,
    MigrationDestination,
};
use crate::migration::message::{MigrationEvent, RamStats, Settings, XbzrleStats};
use crate::migration::parameters::ZeroPageDetection;
use crate::migration::ram::block::RamBlock;
use crate::migration::ram::loader::{LoadOptions, RamLoader};
use crate::migration::ram::saver::{RamOptions, RamSaver, Sent};
use crate::migration::ram::{self, VERSION};
use crate::migration::source::{Connect, Memory, MigrationSource, Opening, SourcePeers};
use crate::migration::status::ErrorDesc;
use crate::migration::stream::{LoadError, StreamInput};

/// The machine type that the stream names.
const MACHINE: &str = "virt";
/// What QEMU calls the board's RAM.
const RAM_NAME: &str = "riscv_virt_board.ram";

/// Start both actors, on an arbiter of their own: what they compute delays no monitor.
pub fn start(
    machine: &Machine,
    uuid: [u8; 16],
    events: Recipient<MigrationEvent>,
    exit: Outlet<Exited>,
) -> (Addr<MigrationSource>, Addr<MigrationDestination>) {
    let context = ChannelContext::default();
    let (ram, harts) = (Arc::clone(&machine.ram), machine.harts.clone());
    let source = SourcePeers {
        events: events.clone(),
        quiesce: machine.vm.clone().recipient(),
        hand_over: machine.vm.clone().recipient(),
        connect: Box::new(Channels(context.clone())),
        memory: Box::new(move |settings| {
            let memory = OutgoingMemory::new(&ram, &harts, settings)?;
            let memory: Box<dyn Memory> = Box::new(memory);
            Ok(memory)
        }),
        sections: machine.sections.clone(),
        machine: MACHINE.to_owned(),
        uuid,
    };
    let ram = Arc::clone(&machine.ram);
    let destination = DestinationPeers {
        events,
        arrived: machine.vm.clone().recipient(),
        exit,
        listen: Box::new(Channels(context)),
        memory: Box::new(move |settings| {
            let memory: Box<dyn MemoryTarget> = Box::new(IncomingMemory::new(&ram, settings)?);
            Ok(memory)
        }),
        sections: machine.sections.clone(),
        machine: MACHINE.to_owned(),
        uuid,
    };
    let arbiter = Arbiter::new().handle();
    (
        MigrationSource::start_in_arbiter(&arbiter, |_| MigrationSource::new(source)),
        MigrationDestination::start_in_arbiter(&arbiter, |_| {
            MigrationDestination::new(destination)
        }),
    )
}

/// Channels of every kind.
#[derive(Debug, Clone)]
struct Channels(ChannelContext);

impl Connect for Channels {
    fn connect(&self, address: &Address, _: &Settings) -> Opening {
        let (address, context) = (address.clone(), self.0.clone());
        Box::pin(async move {
            let opened = channel::connect(&address, &context).await;
            opened.map_err(|error| ErrorDesc::from(error.to_string()))
        })
    }
}

impl Listen for Channels {
    fn listen(&self, address: &Address, _: &Settings) -> Listening {
        let (address, context) = (address.clone(), self.0.clone());
        Box::pin(async move {
            let listener = channel::listen(&address, &context).await;
            let listener = listener.map_err(|error| ErrorDesc::from(error.to_string()))?;
            let accept: Box<dyn Accept> = Box::new(Accepted(listener));
            Ok(accept)
        })
    }
}

struct Accepted(Listener);

impl Accept for Accepted {
    fn addresses(&self) -> Vec<Value> {
        self.0.addresses().to_vec()
    }

    fn accept(&mut self) -> Accepting<'_> {
        Box::pin(async {
            let accepted = self.0.accept().await;
            accepted.map_err(|error| AcceptError::Final(ErrorDesc::from(error.to_string())))
        })
    }
}

fn ram_block(ram: &Arc<GuestRam>) -> RamBlock {
    let memory = Arc::clone(ram);
    RamBlock { name: RAM_NAME.to_owned(), address: RAM_BASE, memory }
}

/// Guest RAM on its way out.
struct OutgoingMemory {
    saver: RamSaver,
}

impl OutgoingMemory {
    fn new(ram: &Arc<GuestRam>, harts: &Peers, settings: &Settings) -> Result<Self, ErrorDesc> {
        let log = DirtyLog::start(Arc::clone(ram), harts.clone());
        let log = log.map_err(|error| ErrorDesc::from(error.to_string()))?;
        let has = |capability| settings.capabilities.has(capability);
        let parameters = &settings.parameters;
        let options = RamOptions {
            zero_pages: parameters.zero_page_detection != ZeroPageDetection::None,
            xbzrle: has(Capability::Xbzrle).then_some(parameters.xbzrle_cache_size),
            addresses: has(Capability::XIgnoreShared),
        };
        Ok(Self { saver: RamSaver::new(vec![(ram_block(ram), Box::new(log))], options) })
    }
}

impl Memory for OutgoingMemory {
    fn version(&self) -> u32 {
        VERSION
    }

    fn begin(&mut self, out: &mut Vec<u8>) -> Result<(), ErrorDesc> {
        self.saver.setup(out);
        Ok(())
    }

    fn collect(&mut self) -> Result<(), ErrorDesc> {
        self.saver.sync(Instant::now());
        Ok(())
    }

    fn pages(&mut self, out: &mut Vec<u8>, most: usize) -> Result<bool, ErrorDesc> {
        let sent = self.saver.save_pages(out, most);
        let sent = sent.map_err(|error| ErrorDesc::from(error.to_string()))?;
        Ok(sent == Sent::More)
    }

    fn end_piece(&mut self, out: &mut Vec<u8>) {
        self.saver.end_piece(out);
    }

    fn remaining(&self) -> u64 {
        self.saver.remaining()
    }

    fn stats(&self) -> RamStats {
        self.saver.stats()
    }

    fn xbzrle(&self) -> Option<XbzrleStats> {
        self.saver.xbzrle_stats()
    }
}

/// Guest RAM on its way in.
struct IncomingMemory {
    loader: RamLoader,
}

impl IncomingMemory {
    fn new(ram: &Arc<GuestRam>, settings: &Settings) -> Result<Self, ErrorDesc> {
        let options =
            LoadOptions { addresses: settings.capabilities.has(Capability::XIgnoreShared) };
        let loader = RamLoader::new(vec![ram_block(ram)], options);
        Ok(Self { loader: loader.map_err(|error| ErrorDesc::from(error.to_string()))? })
    }
}

impl MemoryTarget for IncomingMemory {
    fn begin(&mut self, version: u32, input: &mut StreamInput) -> Result<(), LoadError> {
        RamLoader::check_version(version)?;
        self.piece(input)
    }

    fn piece(&mut self, input: &mut StreamInput) -> Result<(), LoadError> {
        self.loader.load(input, &mut no_channels)
    }
}

fn no_channels() -> Result<(), LoadError> {
    let name = ram::NAME;
    Err(LoadError::invalid(format!("{name}: the stream waits for channels that there are not")))
}
