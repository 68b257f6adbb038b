//! A destination whose machine has every device and little memory, and a stream for it. What is
//! loaded never runs.

use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use understudy::actors::outlet::Outlet;
use understudy::actors::probe::Probe;
use understudy::cli::{self, Invocation};
use understudy::cpu::isa::IsaConfig;
use understudy::machine::build::{self, Connections, Machine};
use understudy::machine::dirty_rate::LimitWrites;
use understudy::machine::memory::{GuestRam, PAGE_SIZE, RAM_BASE};
use understudy::machine::message::{Arrived, ReleaseDrives, TakeDrives};
use understudy::machine::run;
use understudy::machine::vm::PowerOn;
use understudy::migration::channel::{Address, Channel};
use understudy::migration::destination::{
    Accept, AcceptError, Accepting, DestinationPeers, Listen, Listening, LiveSettings,
    MigrationDestination,
};
use understudy::migration::message::{MigrationEvent, Settings, StartIncoming, StartMigration};
use understudy::migration::ram::machine::MachineMemory;
use understudy::migration::source::{Connect, MigrationSource, Opening, SourcePeers, Writers};
use understudy::migration::status::{ErrorDesc, MigrationState};
use understudy::net::descriptors::Descriptors;

/// Pages of RAM, in place of what the machine has.
const PAGES: u64 = 8;
/// Only a load that hangs takes so long.
const PATIENCE: Duration = Duration::from_secs(60);
const WORDS: &str = "understudy -nodefaults -display none -m 2M -S \
                     -device virtio-rng-device -device virtio-serial-device";

/// The channel that there is.
struct Only(Arc<Mutex<Option<Channel>>>);

impl Connect for Only {
    fn connect(&self, _: &Address, _: &Settings) -> Opening {
        let channel = self.0.lock().take();
        Box::pin(async move { channel.ok_or_else(|| ErrorDesc::new("there is one channel")) })
    }
}

impl Listen for Only {
    fn listen(&self, _: &Address, _: LiveSettings) -> Listening {
        let listener: Box<dyn Accept> = Box::new(Only(Arc::clone(&self.0)));
        Box::pin(async move { Ok(listener) })
    }
}

impl Accept for Only {
    fn addresses(&self) -> Vec<serde_json::Value> {
        Vec::new()
    }

    fn accept(&mut self) -> Accepting<'_> {
        let channel = self.0.lock().take();
        let none = || AcceptError::Final(ErrorDesc::new("there is one channel"));
        Box::pin(async move { channel.ok_or_else(none) })
    }
}

/// How a load ended.
#[derive(Debug)]
pub struct Loaded {
    pub state: MigrationState,
    /// The machine was to run.
    pub arrived: bool,
}

/// The machine.
#[derive(Debug)]
pub struct Target {
    machine: Machine,
    memory: MachineMemory,
}

fn address() -> Address {
    Address::parse("unix:nowhere").expect("an address")
}

/// Where events go, and the final state out of them.
fn told() -> (Probe<MigrationEvent>, mpsc::UnboundedReceiver<MigrationState>) {
    let (tell, ends) = mpsc::unbounded_channel();
    let events = Probe::answering(move |event| match event {
        MigrationEvent::State { state, .. } if state.status().is_final() => {
            // Nobody waits for a second one.
            let _ = tell.send(state.clone());
        }
        _ => {}
    });
    (events, ends)
}

impl Target {
    /// On this thread's actix system.
    pub async fn new() -> Self {
        let words = WORDS.split_whitespace().map(Into::into);
        let Ok(Invocation::Run { spec, .. }) = cli::parse(words) else {
            panic!("the command line describes no machine")
        };
        let isa = Arc::new(IsaConfig::rv64());
        let objects = run::make_objects(&spec).await.expect("memory");
        let connections = Connections {
            chardevs: &|_| None,
            serial: None,
            embedded_guest: &understudy::machine::greeter::image(),
            objects: &objects,
            descriptors: &Descriptors::default(),
            exit: Outlet::Unconnected,
        };
        let machine = build::build(&spec, &isa, connections).expect("a machine");
        let ram = GuestRam::new(RAM_BASE, PAGES * PAGE_SIZE).expect("memory");
        let harts = machine.harts.clone();
        let memory = MachineMemory { ram: Arc::new(ram), harts, devices: Vec::new() };
        let on = machine.vm.send(PowerOn { run: false, incoming: false }).await;
        on.expect("the machine lives").expect("it is switched on");
        Self { machine, memory }
    }

    /// The machine as a stream.
    pub async fn stream(&self) -> Vec<u8> {
        let (near, mut far) = Channel::pair(1 << 20);
        let (events, mut ends) = told();
        let limit: Probe<LimitWrites> = Probe::answering(|_| Ok(()));
        let memory = self.memory.clone();
        let vm = &self.machine.vm;
        let peers = SourcePeers {
            events: events.recipient(),
            quiesce: vm.clone().recipient(),
            release_drives: vm.clone().recipient(),
            hand_over: vm.clone().recipient(),
            vcpus: Arc::new([]),
            writers: Writers { limit: limit.recipient(), harts: self.machine.harts.clone() },
            connect: Box::new(Only(Arc::new(Mutex::new(Some(near))))),
            memory: Box::new(move |settings| Box::new(memory.outgoing(settings))),
            sections: self.machine.sections.clone(),
            machine: "virt".to_owned(),
            uuid: Some([0; 16]),
        };
        let source = MigrationSource::new(peers).start();
        let settings = Settings::default();
        let start = StartMigration { address: address(), settings, resume: false };
        source.send(start).await.expect("the source lives").expect("it starts");
        let mut bytes = Vec::new();
        far.read_to_end(&mut bytes).await.expect("a stream");
        assert_eq!(ends.recv().await, Some(MigrationState::Completed));
        bytes
    }

    /// Load a stream.
    pub async fn load(&self, bytes: &[u8]) -> Loaded {
        let (near, mut far) = Channel::pair(bytes.len() + 1);
        far.write_all(bytes).await.expect("room for all of it");
        far.shutdown().await.expect("an end");
        let (events, mut ends) = told();
        let arrived: Probe<Arrived> = Probe::answering(|_| Ok(()));
        let taken: Probe<TakeDrives> = Probe::answering(|_| Ok(()));
        let released: Probe<ReleaseDrives> = Probe::answering(|_| Ok(()));
        let memory = self.memory.clone();
        let peers = DestinationPeers {
            events: events.recipient(),
            take_drives: taken.recipient(),
            release_drives: released.recipient(),
            arrived: arrived.recipient(),
            exit: Outlet::Unconnected,
            listen: Box::new(Only(Arc::new(Mutex::new(Some(near))))),
            memory: Box::new(move |settings| Box::new(memory.incoming(settings))),
            sections: self.machine.sections.clone(),
            machine: "virt".to_owned(),
            uuid: Some([0; 16]),
        };
        let destination = MigrationDestination::new(peers).start();
        let settings = Settings::default();
        let start = StartIncoming { address: address(), settings, exit_on_error: false };
        destination.send(start).await.expect("the destination lives").expect("it listens");
        let state = tokio::time::timeout(PATIENCE, ends.recv()).await.expect("an end in time");
        let state = state.expect("a state");
        Loaded { state, arrived: !arrived.take().is_empty() }
    }
}
