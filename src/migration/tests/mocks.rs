//! Peers: a machine, a monitor, memory that says what it did, and channels of any fate.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use parking_lot::Mutex;
use serde_json::Value;

use crate::actors::probe::Probe;
use crate::cpu::inbox::Peers;
use crate::machine::dirty_rate::LimitWrites;
use crate::machine::memory::GuestRam;
use crate::machine::message::{
    Arrived, HandOver, Quiesce, Quiesced, ReleaseDrives, RunState, TakeDrives, Unquiesce, VmError,
};
use crate::machine::presence::Ask;
use crate::machine::vm::Exited;
use crate::migration::channel::{Address, Channel};
use crate::migration::destination::{
    Accept, AcceptError, Accepting, DestinationPeers, Listen, Listening, LiveSettings,
    MemoryTarget, MigrationDestination,
};
use crate::migration::message::{MigrationEvent, Progress, RamStats, Settings, XbzrleStats};
use crate::migration::parameters::Parameters;
use crate::migration::ram::loader::{Incoming, RamLoader};
use crate::migration::ram::machine::MachineMemory;
use crate::migration::ram::mapped::MappedFile;
use crate::migration::ram::saver::RamSaver;
use crate::migration::sections::Sections;
use crate::migration::source::{Connect, Memory, MigrationSource, Opening, SourcePeers, Writers};
use crate::migration::status::{ErrorDesc, MigrationState, MigrationStatus};
use crate::migration::stream::{LoadError, StreamInput};

/// Pages of a mocked memory.
pub(super) const PAGES: u64 = 64;
const PAGE: u64 = 4096;

/// Where the memory of a test is to go wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    None,
    Begin,
    Collect,
    Panic,
}

/// Memory that is all dirty once, and then `again` pages at each collection.
pub(super) struct FakeMemory {
    pub left: u64,
    pub again: Arc<Mutex<Vec<u64>>>,
    pub fault: Fault,
    pub sent: u64,
    /// Held as long as a dirty log is.
    pub _log: Arc<()>,
}

impl Memory for FakeMemory {
    fn version(&self) -> u32 {
        4
    }

    fn begin(&mut self, out: &mut Vec<u8>) -> Result<(), ErrorDesc> {
        if self.fault == Fault::Begin {
            return Err(ErrorDesc::new("no dirty log"));
        }
        out.extend(PAGES.to_be_bytes());
        Ok(())
    }

    fn set_parameters(&mut self, _: &Parameters) {}

    fn collect(&mut self) -> Result<u64, ErrorDesc> {
        assert!(self.fault != Fault::Panic, "memory is mocked badly");
        if self.fault == Fault::Collect {
            return Err(ErrorDesc::new("a hart does not answer"));
        }
        let again = self.again.lock().pop().unwrap_or(0);
        self.left += again;
        Ok(again)
    }

    fn stopped(&mut self) {}

    fn pages(&mut self, out: &mut Vec<u8>, most: usize) -> Result<bool, ErrorDesc> {
        while self.left > 0 && out.len() < most {
            self.left -= 1;
            self.sent += 1;
            out.push(1);
            out.resize(out.len() + PAGE as usize, 0x5a);
        }
        Ok(self.left > 0)
    }

    fn saver(&mut self) -> Option<&mut RamSaver> {
        None
    }

    fn end_piece(&mut self, out: &mut Vec<u8>) {
        out.push(0);
    }

    fn remaining(&self) -> u64 {
        self.left * PAGE
    }

    fn stats(&self) -> RamStats {
        RamStats { total: PAGES * PAGE, normal: self.sent, ..RamStats::default() }
    }

    fn xbzrle(&self) -> Option<XbzrleStats> {
        None
    }
}

/// What understands `FakeMemory`'s bytes.
#[derive(Debug, Default)]
struct FakeTarget {
    has_size: bool,
}

impl MemoryTarget for FakeTarget {
    fn begin(&mut self, _: u32) -> Result<(), LoadError> {
        Ok(())
    }

    fn piece(
        &mut self,
        input: &mut StreamInput,
        _: &mut dyn FnMut() -> Result<(), LoadError>,
    ) -> Result<(), LoadError> {
        if !std::mem::replace(&mut self.has_size, true) {
            return match input.u64()? {
                PAGES => Ok(()),
                other => Err(LoadError::invalid(format!("Size mismatch: {other} != {PAGES}"))),
            };
        }
        loop {
            match input.u8()? {
                0 => return Ok(()),
                1 => input.skip(PAGE)?,
                other => return Err(LoadError::invalid(format!("Unknown page flag {other}"))),
            }
        }
    }

    fn mapped(&mut self, _: MappedFile<'_>, _: u64) -> Result<u64, LoadError> {
        Err(LoadError::unsupported("mocked memory is in no file"))
    }

    fn incoming(&self) -> Option<Arc<[Incoming]>> {
        None
    }

    fn loader(&mut self) -> Option<&mut RamLoader> {
        None
    }

    fn listen(&mut self, _: Ask) -> Result<Arc<GuestRam>, LoadError> {
        Err(LoadError::invalid("mocked memory comes at once"))
    }
}

/// Every byte of it.
pub(super) fn content(ram: &GuestRam) -> Vec<u8> {
    let mut bytes = vec![0; ram.size() as usize];
    ram.read(ram.base(), &mut bytes).unwrap();
    bytes
}

/// What becomes of a connection.
pub(super) enum Line {
    Refused(&'static str),
    /// Never answers.
    Silent,
    Open(Channel),
    /// One after another; then it never answers.
    Several(VecDeque<Channel>),
}

impl Connect for Mutex<Option<Line>> {
    fn connect(&self, _: &Address, _: &Settings) -> Opening {
        let mut held = self.lock();
        let line = match &mut *held {
            Some(Line::Several(channels)) => channels.pop_front().map(Line::Open),
            _ => held.take(),
        };
        drop(held);
        Box::pin(async move {
            match line {
                Some(Line::Several(_)) => unreachable!("they come one by one"),
                Some(Line::Open(channel)) => Ok(channel),
                Some(Line::Refused(reason)) => Err(ErrorDesc::new(reason)),
                Some(Line::Silent) | None => std::future::pending().await,
            }
        })
    }
}

struct Queue(VecDeque<Channel>);

impl Accept for Queue {
    fn addresses(&self) -> Vec<Value> {
        vec![serde_json::json!({"type": "unix", "path": "mock"})]
    }

    fn accept(&mut self) -> Accepting<'_> {
        let channel = self.0.pop_front();
        Box::pin(
            async move { channel.ok_or(AcceptError::Final(ErrorDesc::new("nobody connects"))) },
        )
    }
}

impl Listen for Mutex<Option<Line>> {
    fn listen(&self, _: &Address, _: LiveSettings) -> Listening {
        let line = self.lock().take();
        Box::pin(async move {
            match line {
                Some(Line::Open(channel)) => {
                    let accept: Box<dyn Accept> = Box::new(Queue([channel].into()));
                    Ok(accept)
                }
                Some(Line::Several(channels)) => {
                    let accept: Box<dyn Accept> = Box::new(Queue(channels));
                    Ok(accept)
                }
                Some(Line::Refused(reason)) => Err(ErrorDesc::new(reason)),
                Some(Line::Silent) | None => std::future::pending().await,
            }
        })
    }
}

/// The monitor's side of an actor under test.
pub(super) struct Told {
    pub events: Probe<MigrationEvent>,
    seen: Vec<MigrationEvent>,
}

impl Told {
    fn new() -> Self {
        Self { events: Probe::new(), seen: Vec::new() }
    }

    /// The states that were told, once the last is final.
    pub async fn states(&mut self) -> Vec<MigrationState> {
        for _ in 0..2000 {
            self.seen.extend(self.events.take());
            let states = states_of(&self.seen);
            if states.last().is_some_and(|state| state.status().is_final()) {
                return states;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("no end: {:?}", states_of(&self.seen));
    }

    /// Wait for a state on the way.
    pub async fn until(&mut self, status: MigrationStatus) {
        for _ in 0..2000 {
            self.seen.extend(self.events.take());
            if states_of(&self.seen).iter().any(|state| state.status() == status) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("no {status}: {:?}", states_of(&self.seen));
    }

    /// Wait for one of these states, and forget it and what was before; it.
    pub async fn next(&mut self, statuses: &[MigrationStatus]) -> MigrationState {
        for _ in 0..2000 {
            self.seen.extend(self.events.take());
            let states = states_of(&self.seen);
            if let Some(found) = states.iter().find(|s| statuses.contains(&s.status())) {
                let found = found.clone();
                self.clear();
                return found;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("none of {statuses:?}: {:?}", states_of(&self.seen));
    }

    /// The last figures.
    pub fn progress(&mut self) -> Progress {
        self.seen.extend(self.events.take());
        let told = self.seen.iter().rev().find_map(|event| match event {
            MigrationEvent::Progress(progress) => Some(progress),
            _ => None,
        });
        told.map(|progress| progress.as_ref().clone()).unwrap_or_default()
    }

    /// Everything since the last `states`.
    pub fn clear(&mut self) {
        self.seen.clear();
    }
}

fn states_of(events: &[MigrationEvent]) -> Vec<MigrationState> {
    let state = |event: &MigrationEvent| match event {
        MigrationEvent::State { state, .. } => Some(state.clone()),
        _ => None,
    };
    events.iter().filter_map(state).collect()
}

/// What a mocked machine says when it is asked for its drives; nothing is consent.
pub(super) type Refusal = Arc<Mutex<Option<&'static str>>>;

fn answer(refusal: &Refusal) -> Result<(), VmError> {
    refusal.lock().map_or(Ok(()), |sentence| Err(VmError(sentence.to_owned())))
}

/// A source and what it was given.
pub(super) struct SourceRig {
    pub actor: Addr<MigrationSource>,
    pub told: Told,
    pub released: Probe<ReleaseDrives>,
    /// Why drives are not released, and why they cannot be had again.
    pub keeps: Refusal,
    pub lost: Refusal,
    pub undone: Probe<Unquiesce>,
    pub handed_over: Probe<HandOver>,
    pub line: Arc<Mutex<Option<Line>>>,
    pub fault: Arc<Mutex<Fault>>,
    pub again: Arc<Mutex<Vec<u64>>>,
    /// Alone when no migration has memory.
    pub log: Arc<()>,
}

struct Shared<T>(Arc<T>);

impl Connect for Shared<Mutex<Option<Line>>> {
    fn connect(&self, address: &Address, settings: &Settings) -> Opening {
        self.0.connect(address, settings)
    }
}

impl Listen for Shared<Mutex<Option<Line>>> {
    fn listen(&self, address: &Address, settings: LiveSettings) -> Listening {
        self.0.listen(address, settings)
    }
}

pub(super) fn source(line: Line) -> SourceRig {
    source_of(line, None)
}

/// With the memory of `machine`, or mocked memory.
pub(super) fn source_of(line: Line, machine: Option<MachineMemory>) -> SourceRig {
    let told = Told::new();
    let (keeps, lost) = (Refusal::default(), Refusal::default());
    let refusal = Arc::clone(&lost);
    let undone: Probe<Unquiesce> = Probe::answering(move |_| answer(&refusal));
    let refusal = Arc::clone(&keeps);
    let released: Probe<ReleaseDrives> = Probe::answering(move |_| answer(&refusal));
    let handed_over: Probe<HandOver> = Probe::answering(|_| Ok(()));
    let limits: Probe<LimitWrites> = Probe::answering(|_| Ok(()));
    let line = Arc::new(Mutex::new(Some(line)));
    let fault = Arc::new(Mutex::new(Fault::None));
    let again = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::new(());
    let back = undone.recipient();
    let quiesce =
        Probe::<Quiesce>::answering(move |_| Ok(Quiesced::new(RunState::Running, back.clone())));
    let memory = {
        let (fault, again, log) = (Arc::clone(&fault), Arc::clone(&again), Arc::clone(&log));
        Box::new(move |settings: &Settings| -> Box<dyn Memory> {
            if let Some(machine) = &machine {
                return Box::new(machine.outgoing(settings));
            }
            Box::new(FakeMemory {
                left: PAGES,
                again: Arc::clone(&again),
                fault: *fault.lock(),
                sent: 0,
                _log: Arc::clone(&log),
            })
        })
    };
    let peers = SourcePeers {
        events: told.events.recipient(),
        quiesce: quiesce.recipient(),
        release_drives: released.recipient(),
        hand_over: handed_over.recipient(),
        vcpus: Arc::new([]),
        writers: Writers { limit: limits.recipient(), harts: Peers::new(1) },
        connect: Box::new(Shared(Arc::clone(&line))),
        memory,
        sections: Sections::default(),
        machine: "virt".to_owned(),
        uuid: Some([7; 16]),
    };
    let actor = MigrationSource::new(peers).start();
    SourceRig { actor, told, released, keeps, lost, undone, handed_over, line, fault, again, log }
}

/// A destination and what it was given.
pub(super) struct DestinationRig {
    pub actor: Addr<MigrationDestination>,
    pub told: Told,
    pub line: Arc<Mutex<Option<Line>>>,
    /// Why drives are not to be had.
    pub taken: Refusal,
    pub released: Probe<ReleaseDrives>,
    pub arrived: Probe<Arrived>,
    pub exited: Probe<Exited>,
}

pub(super) fn destination(line: Line, machine: &str) -> DestinationRig {
    destination_of(line, machine, None)
}

/// Into `memory`, or into a mock's.
pub(super) fn destination_of(
    line: Line,
    machine: &str,
    memory: Option<MachineMemory>,
) -> DestinationRig {
    let told = Told::new();
    let arrived: Probe<Arrived> = Probe::answering(|_| Ok(()));
    let taken = Refusal::default();
    let refusal = Arc::clone(&taken);
    let take: Probe<TakeDrives> = Probe::answering(move |_| answer(&refusal));
    let released: Probe<ReleaseDrives> = Probe::answering(|_| Ok(()));
    let exited = Probe::new();
    let line = Arc::new(Mutex::new(Some(line)));
    let peers = DestinationPeers {
        events: told.events.recipient(),
        take_drives: take.recipient(),
        release_drives: released.recipient(),
        arrived: arrived.recipient(),
        exit: exited.outlet(),
        listen: Box::new(Shared(Arc::clone(&line))),
        memory: Box::new(move |settings| {
            if let Some(memory) = &memory {
                return Box::new(memory.incoming(settings));
            }
            Box::<FakeTarget>::default()
        }),
        sections: Sections::default(),
        machine: machine.to_owned(),
        uuid: Some([7; 16]),
    };
    let actor = MigrationDestination::new(peers).start();
    DestinationRig { actor, told, line, taken, released, arrived, exited }
}
