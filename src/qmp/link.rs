//! What the monitors hold of the machine: the recipients of the Vm's messages and the facts that
//! do not change while it runs. Tests put mocks behind each recipient.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use actix::{Message, Recipient};
use parking_lot::Mutex;

use super::commands::preconfig::Preconfig;
use super::error::QmpError;
use super::migration::Migration;
use crate::actors::outlet::Outlet;
use crate::block::message::QueryDrive;
use crate::chardev::Chardevs;
use crate::devices::virtio::inspect::VirtioLink;
use crate::hmp::state::LastFormat;
use crate::machine::core_dump::{DumpState, Dumper, StartDump};
use crate::machine::hotplug::Hotplug;
use crate::machine::message as vm;
use crate::machine::spec::{CacheMode, LOG_ITEMS, NodeNames};
use crate::migration::message::{Blockers, Settings};
use crate::net::descriptors::{Descriptors, Names};
use crate::objects::Objects;
use crate::qom::Qom;

/// Every message the monitors send to the machine.
#[derive(Debug, Clone)]
pub struct MachineLink {
    pub query_status: Recipient<vm::QueryStatus>,
    pub stop: Recipient<vm::Stop>,
    pub cont: Recipient<vm::Cont>,
    pub reset: Recipient<vm::RequestReset>,
    pub powerdown: Recipient<vm::RequestPowerdown>,
    pub shutdown: Recipient<vm::RequestShutdown>,
    pub set_action: Recipient<vm::SetAction>,
    pub query_cpus: Recipient<vm::QueryCpus>,
    pub query_hart: Recipient<vm::QueryHart>,
    pub read_memory: Recipient<vm::ReadMemory>,
    pub query_tree: Recipient<vm::QueryTree>,
    pub translate: Recipient<vm::TranslateVirtual>,
    pub one_insn_per_tb: Recipient<vm::SetOneInsnPerTb>,
    pub locate_memory: Recipient<vm::LocateMemory>,
    pub subscribe: Recipient<vm::SubscribeEvents>,
    pub log: Outlet<SetLog>,
    pub trace: Outlet<SwitchTrace>,
    /// Who plugs devices in and out, if the machine has such buses.
    pub hotplug: Option<HotplugLink>,
    /// Who writes dumps of its memory.
    pub dumper: Option<Recipient<StartDump>>,
}

/// Who plugs devices in and out.
#[derive(Debug, Clone)]
pub struct HotplugLink {
    plug: Recipient<vm::PlugDevice>,
    unplug: Recipient<vm::UnplugDevice>,
}

impl HotplugLink {
    pub fn plug(&self) -> &Recipient<vm::PlugDevice> {
        &self.plug
    }

    pub fn unplug(&self) -> &Recipient<vm::UnplugDevice> {
        &self.unplug
    }
}

impl MachineLink {
    /// The link to an actor that handles every one of these messages.
    pub fn to<A>(machine: &actix::Addr<A>, log: Outlet<SetLog>) -> Self
    where
        A: actix::Actor<Context = actix::Context<A>>
            + actix::Handler<vm::QueryStatus>
            + actix::Handler<vm::Stop>
            + actix::Handler<vm::Cont>
            + actix::Handler<vm::RequestReset>
            + actix::Handler<vm::RequestPowerdown>
            + actix::Handler<vm::RequestShutdown>
            + actix::Handler<vm::SetAction>
            + actix::Handler<vm::QueryCpus>
            + actix::Handler<vm::QueryHart>
            + actix::Handler<vm::ReadMemory>
            + actix::Handler<vm::QueryTree>
            + actix::Handler<vm::TranslateVirtual>
            + actix::Handler<vm::SetOneInsnPerTb>
            + actix::Handler<vm::LocateMemory>
            + actix::Handler<vm::SubscribeEvents>,
    {
        Self {
            query_status: machine.clone().recipient(),
            stop: machine.clone().recipient(),
            cont: machine.clone().recipient(),
            reset: machine.clone().recipient(),
            powerdown: machine.clone().recipient(),
            shutdown: machine.clone().recipient(),
            set_action: machine.clone().recipient(),
            query_cpus: machine.clone().recipient(),
            query_hart: machine.clone().recipient(),
            read_memory: machine.clone().recipient(),
            query_tree: machine.clone().recipient(),
            translate: machine.clone().recipient(),
            one_insn_per_tb: machine.clone().recipient(),
            locate_memory: machine.clone().recipient(),
            subscribe: machine.clone().recipient(),
            log,
            trace: Outlet::Unconnected,
            hotplug: None,
            dumper: None,
        }
    }

    /// The same, with somebody who plugs devices in and out.
    pub fn plugged_by(self, hotplug: &actix::Addr<Hotplug>) -> Self {
        let (plug, unplug) = (hotplug.clone().recipient(), hotplug.clone().recipient());
        Self { hotplug: Some(HotplugLink { plug, unplug }), ..self }
    }

    /// The same, with somebody who writes dumps of its memory.
    pub fn dumped_by(self, dumper: &actix::Addr<Dumper>) -> Self {
        Self { dumper: Some(dumper.clone().recipient()), ..self }
    }

    /// The same, with somebody who is told when trace events are switched.
    pub fn traced_by(self, trace: Outlet<SwitchTrace>) -> Self {
        Self { trace, ..self }
    }
}

/// Monitor → whoever logs.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub enum SetLog {
    /// Log these items of `LOG_ITEMS` from now on, and no others.
    Items(Vec<&'static str>),
    /// Log into this from now on.
    Output(File),
}

impl SetLog {
    /// Parse a comma-separated list (`all` is every item); `none` alone clears all. The error is the first item that
    /// is not known.
    pub fn parse(list: &str) -> Result<Self, String> {
        if list == "none" {
            return Ok(Self::Items(Vec::new()));
        }
        let mut items = Vec::new();
        for word in list.split(',') {
            let before = items.len();
            let named = LOG_ITEMS.iter().map(|(name, _)| *name);
            items.extend(named.filter(|name| word == "all" || *name == word));
            if items.len() == before {
                return Err(word.to_owned());
            }
        }
        items.sort_unstable();
        items.dedup();
        Ok(Self::Items(items))
    }
}

/// Monitor → whoever tells of trace events: some were switched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Message)]
#[rtype(result = "()")]
pub struct SwitchTrace;

/// QAPI `CompatProperty`.
#[derive(Debug, Clone, serde::Serialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct CompatProperty {
    pub qom_type: String,
    pub property: String,
    pub value: String,
}

/// What `query-machines` says of a machine type.
#[derive(Debug, Clone, serde::Serialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct MachineType {
    pub hotpluggable_cpus: bool,
    pub name: String,
    pub numa_mem_supported: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default_cpu_type: Option<String>,
    pub acpi: bool,
    pub cpu_max: u32,
    pub deprecated: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default_ram_id: Option<String>,
    /// There for the type that is used when none is named.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub is_default: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compat_props: Option<Vec<CompatProperty>>,
}

/// A drive, as monitors know it.
#[derive(Debug, Clone)]
pub struct DriveLink {
    /// Name of the back end; empty for a node of `-blockdev`.
    pub device: String,
    pub nodes: NodeNames,
    pub file: PathBuf,
    pub cache: CacheMode,
    /// The identifier of its device, or its path in the tree of objects.
    pub qdev: Option<String>,
    /// A failed request may stop the machine.
    pub stops_the_machine: bool,
    pub query: Recipient<QueryDrive>,
}

/// Facts about this machine that hold for as long as it runs.
#[derive(Debug, Clone, Default)]
pub struct MachineInfo {
    /// `-name guest=`.
    pub name: Option<String>,
    /// `-uuid`; all zero when none was given.
    pub uuid: [u8; 16],
    /// Bytes of RAM.
    pub ram_size: u64,
    /// Memory as migrations send it.
    pub ram_blocks: Arc<[RamBlockInfo]>,
    /// The machine types of this emulator.
    pub machines: Vec<MachineType>,
    /// Character devices.
    pub chardevs: Chardevs,
    /// In the order of the command line.
    pub drives: Vec<DriveLink>,
    /// Virtio devices.
    pub virtio: Vec<VirtioLink>,
    /// What `-object` and `object-add` have made.
    pub objects: Objects,
    /// The machine in the object model.
    pub qom: Qom,
    /// What `add-fd` has taken in.
    pub descriptors: Descriptors,
    /// Heading lines of `info jit`: (setting, value).
    pub accelerator: Vec<(String, String)>,
    /// Whether the translator makes a block of every guest instruction; `None` where there is none.
    pub one_insn_per_tb: Option<Arc<AtomicBool>>,
    /// What refuses migrations.
    pub blockers: Blockers,
    /// `-only-migratable`
    pub only_migratable: bool,
    /// What `-global migration.…` says of migrations.
    pub migration: Settings,
    /// How the last dump of its memory stands.
    pub dump: DumpState,
    /// Whether the machine waits for a client to start it.
    pub preconfig: Preconfig,
    /// A human monitor is on the terminal of the process, where standard error may be too.
    pub terminal_monitor: bool,
}

/// A block of guest memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RamBlockInfo {
    pub name: String,
    /// Bytes.
    pub size: u64,
    /// Where this process has it, if that is one place.
    pub host: Option<usize>,
    /// The guest cannot write to it.
    pub read_only: bool,
}

/// The descriptors of a monitor.
#[derive(Debug, Clone, Default)]
pub struct MonitorDescriptors {
    /// What its client has passed last, until a command takes it.
    unclaimed: Arc<Mutex<Option<OwnedFd>>>,
    /// What its clients have named.
    pub names: Names,
}

impl MonitorDescriptors {
    /// The client has passed another.
    pub fn put(&self, fd: OwnedFd) {
        drop(self.unclaimed.lock().replace(fd));
    }

    pub fn take(&self) -> Option<OwnedFd> {
        self.unclaimed.lock().take()
    }

    /// Those of the same monitor, when its client is another.
    pub fn of_next_client(&self) -> Self {
        Self { unclaimed: Arc::default(), names: self.names.clone() }
    }
}

/// What commands run against.
#[derive(Debug, Clone)]
pub struct Services {
    pub link: Arc<MachineLink>,
    pub info: Arc<MachineInfo>,
    pub migration: Arc<Migration>,
    /// What the human monitors used last.
    pub last_format: Arc<Mutex<LastFormat>>,
    /// Of the monitor that the command is from.
    pub passed: MonitorDescriptors,
    /// How long a peer may take to answer.
    pub bound: Duration,
}

/// The bound of a real machine: longer than any pause of the vCPUs, short enough for a client.
pub const ANSWER_BOUND: Duration = Duration::from_secs(10);

impl Services {
    /// Ask the machine; `what` names the request in the error when no answer comes.
    pub async fn ask<M, T>(
        &self,
        peer: &Recipient<M>,
        what: &'static str,
        message: M,
    ) -> Result<T, QmpError>
    where
        M: Message<Result = Result<T, vm::VmError>> + Send + 'static,
        T: Send + 'static,
    {
        let answer = self.answer(peer, what, message).await?;
        answer.map_err(|refusal| QmpError::generic(refusal.0))
    }

    /// The character devices, sockets of which may be given by what this monitor's clients have named.
    pub fn chardevs(&self) -> Chardevs {
        self.info.chardevs.named_by(&self.passed.names)
    }

    /// Guest memory; `None` where the machine refuses to read.
    pub async fn try_read(
        &self,
        what: &'static str,
        request: vm::ReadMemory,
    ) -> Result<Option<Vec<u8>>, QmpError> {
        let wanted = request.len;
        let answer = self.answer(&self.link.read_memory, what, request).await?;
        Ok(answer.ok().filter(|bytes| bytes.len() as u64 == wanted))
    }

    /// Who plugs devices in and out.
    pub fn hotplug(&self) -> Result<&HotplugLink, QmpError> {
        let link = self.link.hotplug.as_ref();
        link.ok_or_else(|| QmpError::generic("The machine has no place for devices"))
    }

    /// The answer of a peer, whatever it is.
    pub async fn answer<M, R>(
        &self,
        peer: &Recipient<M>,
        what: &'static str,
        message: M,
    ) -> Result<R, QmpError>
    where
        M: Message<Result = R> + Send + 'static,
        R: Send + 'static,
    {
        match tokio::time::timeout(self.bound, peer.send(message)).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(_)) => Err(QmpError::generic(format!("The machine has failed ({what})"))),
            Err(_) => Err(QmpError::generic(format!("The machine does not answer ({what})"))),
        }
    }
}
