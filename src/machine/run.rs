//! One machine from start to exit code: opens the character devices, builds, attaches monitors,
//! powers on, and ends when the `Vm` says so.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use actix::prelude::*;
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::build::{self, Connections, Machine, QtestParts};
use super::core_dump::{DumpPeers, DumpState, Dumper};
use super::guest_random::GuestRandom;
use super::hotplug::Hotplug;
use super::message::{RequestShutdown, ShutdownCause};
use super::spec::{
    DescriptorSpec, Incoming, MachineSpec, MonitorMode, MonitorSpec, ObjectKind, ObjectSpec,
    QtestLog,
};
use super::vm::{Exited, PowerOn, Vm};
use super::{log, migration};
use crate::actors::message::{Snapshot, Terminate};
use crate::actors::outlet::Outlet;
use crate::chardev::spec::ChardevKind;
use crate::chardev::{self, Chardevs, OpenContext};
use crate::cpu::isa::IsaConfig;
use crate::migration::ram::block::{BlockMemory, RamBlock};
use crate::migration::ram::machine::RAM_NAME;
use crate::net::descriptors::Descriptors;
use crate::net::inherited;
use crate::objects::memory::MemorySpec;
use crate::objects::{ObjectError, Objects};
use crate::qmp::commands::preconfig::Preconfig;
use crate::qmp::link::{MachineInfo, MachineLink, MachineType, RamBlockInfo};
use crate::qmp::migration::MigrationLink;
use crate::qmp::monitor::{ConnectMigration, Drain, Listen, Monitor};
use crate::qmp::throttle::MeasureBy;
use crate::qom::Qom;
use crate::qtest::log::Log;
use crate::qtest::session::{Delivered, SessionParts};
use crate::{hmp, qmp, qtest, report, signals, terminal};

/// How long a machine may take to end after a signal.
const OBEY: Duration = Duration::from_secs(4);
/// How long the serial port's back end may take nothing before its output is given up.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// How long threads may take to end.
const STUCK: Duration = Duration::from_secs(1);
/// How often something that is waited for is looked at.
const STEP: Duration = Duration::from_millis(2);

/// Run the machine of `spec`; `confine` is called when all of it is there and nobody can talk to it
/// yet, `ready` once they can. The exit code.
pub fn run(
    spec: MachineSpec,
    embedded_guest: &[u8],
    confine: impl FnOnce() -> anyhow::Result<()>,
    ready: impl FnOnce() -> anyhow::Result<()>,
) -> anyhow::Result<i32> {
    let (_, isa) = IsaConfig::from_cpu_option(&spec.cpu)?;
    if let Some(path) = &spec.machine.dumpdtb {
        let (random, _) = GuestRandom::of_machine(spec.seed, spec.smp.cpus as usize);
        let plan = build::boot_plan(&spec, &isa, embedded_guest, &random)?;
        std::fs::write(path, plan.tree.to_blob())
            .map_err(|e| anyhow::anyhow!("Failed to write {}: {e}", path.display()))?;
        return Ok(0);
    }
    let logs = log::Log::open(&spec.log)?;
    let system = System::new();
    system.block_on(machine(spec, Arc::new(isa), embedded_guest, logs, confine, ready))
}

async fn machine(
    spec: MachineSpec,
    isa: Arc<IsaConfig>,
    embedded_guest: &[u8],
    logs: log::Log,
    confine: impl FnOnce() -> anyhow::Result<()>,
    ready: impl FnOnce() -> anyhow::Result<()>,
) -> anyhow::Result<i32> {
    let signals = Signals::watch()?;
    // What Ctrl-a x asks for before there is a Vm is kept until there is one.
    let (early_shutdown, mut shutdown_requests) = tokio::sync::mpsc::unbounded_channel();
    let shutdown = Outlet::fold(move |request: RequestShutdown| {
        // The receiver lives as long as the machine.
        let _ = early_shutdown.send(request);
    });
    let descriptors = take_descriptors(&spec.descriptors)?;
    let objects = make_objects(&spec).await?;
    let chardevs = open_chardevs(&spec, &shutdown, &descriptors, &objects).await?;
    let backend = |id: &str| Some(chardevs.get(id)?.front_end());
    let of_devices = |id: &str| Some(chardevs.get(id)?.front_end_of_any());
    // On a multiplexer the front end that is made last has the focus: the serial port's.
    let monitors: Vec<_> = spec.monitors.iter().map(|m| (m.mode, backend(&m.chardev))).collect();
    let serial = spec.serials.first().and_then(Option::as_deref);
    let serial = serial.and_then(of_devices);

    let qtest_backend = spec.qtest.as_ref().and_then(|qtest| backend(&qtest.chardev));
    let qtest_log = spec.qtest.as_ref().map(|qtest| open_qtest_log(&qtest.log)).transpose()?;

    let (exit_sender, exited) = oneshot::channel();
    let exit_sender = parking_lot::Mutex::new(Some(exit_sender));
    let exit = Outlet::fold(move |Exited { code }| {
        if let Some(sender) = exit_sender.lock().take() {
            // Nobody waits any more only if the machine has failed to start.
            let _ = sender.send(code);
        }
    });
    let exit_of_migration = exit.clone();
    let connections = Connections {
        chardevs: &of_devices,
        serial,
        embedded_guest,
        objects: &objects,
        descriptors: &descriptors,
        exit,
    };
    let mut machine = build::build(&spec, &isa, connections)?;
    let vm = machine.vm.clone();
    actix::spawn(async move {
        while let Some(request) = shutdown_requests.recv().await {
            vm.do_send(request);
        }
    });
    let power_on = PowerOn { run: !spec.start_paused, incoming: spec.incoming.is_some() };
    let mut info =
        machine_info(&spec, &machine.qom, &chardevs, objects.clone(), descriptors.clone());
    info.drives.clone_from(&machine.drives);
    info.virtio.clone_from(&machine.virtio);
    if spec.preconfig {
        info.preconfig = Preconfig::waiting(machine.vm.clone().recipient(), power_on);
    }
    info.ram_blocks = ram_blocks(&spec, &machine);
    let announce = machine.vm.clone().recipient();
    let parts = std::mem::take(&mut machine.hotplug);
    let hotplug = Hotplug::new(parts, machine.qom.clone(), chardevs.clone(), announce).start();
    let dumper = dumper(&machine, &info.dump).start();
    let link = MachineLink::to(&machine.vm, logs.attach(&machine.vcpus))
        .traced_by(logs.follow_trace(&machine.vcpus))
        .plugged_by(&hotplug)
        .dumped_by(&dumper);
    let monitor = Monitor::start(link, info);
    let serve = |monitor: &Addr<Monitor>| {
        for (mode, backend) in monitors {
            let Some(backend) = backend else { continue };
            match mode {
                MonitorMode::Hmp => {
                    hmp::session::attach(backend, hmp::session::MonitorLink::to(monitor));
                }
                MonitorMode::Qmp { pretty } => {
                    qmp::session::attach(backend, monitor.clone(), pretty);
                }
            }
        }
    };
    signals.machine(&machine);
    let qtest = qtest_log.and_then(|log| {
        let QtestParts { memory, gpios, clock, harts } = machine.qtest.take()?;
        let backend = qtest_backend?;
        if let Some(clock) = &clock {
            monitor.do_send(MeasureBy(clock.clone()));
        }
        let parts = SessionParts { backend, memory, gpios, clock, harts, log };
        Some(qtest::session::attach(parts))
    });
    let events = monitor.clone().recipient();
    let (source, destination, dirty_rate) =
        migration::start(&machine, &objects, &descriptors, spec.uuid, events, exit_of_migration);
    let link = MigrationLink::to(&source, &destination).measured_by(&dirty_rate);
    monitor.send(ConnectMigration(link)).await?;
    if let Some(Incoming::At { address, origin }) = spec.incoming {
        machine.vm.send(power_on).await??;
        let listening = monitor.send(Listen(address)).await?;
        listening.map_err(|error| anyhow::anyhow!("{origin}: {}", error.desc))?;
        confine()?;
        // Who sees a monitor's greeting may connect.
        serve(&monitor);
    } else {
        confine()?;
        // They are told of everything from the start.
        serve(&monitor);
        if !spec.preconfig {
            machine.vm.send(power_on).await??;
        }
    }
    ready()?;
    let code = exited.await?;
    last_words(&machine).await;
    // Let the monitors deliver what they have; `Drain` is bounded.
    let _ = monitor.send(Drain).await;
    if let Some((session, thread)) = qtest {
        let _ = tokio::time::timeout(LAST_WORDS, session.send(Delivered)).await;
        thread.stop();
    }
    end(machine);
    Ok(code)
}

/// Wait for what the guest has written to its serial port to reach the host, for as long as
/// somebody takes it.
async fn last_words(machine: &Machine) {
    let mut before = usize::MAX;
    let Some(port) = &machine.uart else { return };
    while let Ok(uart) = port.send(Snapshot::default()).await {
        let left = uart.unsent();
        if left == 0 || left >= before {
            break;
        }
        before = left;
        let mut waited = Duration::ZERO;
        while waited < LAST_WORDS {
            tokio::time::sleep(STEP).await;
            waited += STEP;
            match port.send(Snapshot::default()).await {
                Ok(uart) if uart.unsent() == left => {}
                _ => break,
            }
        }
    }
}

/// Stop the threads. One that is stuck ends with the process.
fn end(machine: Machine) {
    for vcpu in &machine.vcpus {
        vcpu.do_send(Terminate);
    }
    machine.timers.addr().do_send(Terminate);
    let started = Instant::now();
    for thread in machine.threads {
        while !thread.is_finished() && started.elapsed() < STUCK {
            std::thread::sleep(STEP);
        }
        if thread.is_finished() {
            // A thread that panicked has been reported.
            let _ = thread.join();
        }
    }
}

fn open_qtest_log(log: &QtestLog) -> anyhow::Result<Log> {
    Ok(Log::new(match log {
        QtestLog::None => None,
        QtestLog::Stderr => Some(Box::new(std::io::stderr())),
        QtestLog::File(path) => {
            let opened = std::fs::File::create(path);
            let failed =
                |e| anyhow::anyhow!("-qtest-log {0}: Could not open '{0}': {e}", path.display());
            Some(Box::new(opened.map_err(failed)?))
        }
    }))
}

async fn open_chardevs(
    spec: &MachineSpec,
    shutdown: &Outlet<RequestShutdown>,
    descriptors: &Descriptors,
    objects: &Objects,
) -> anyhow::Result<Chardevs> {
    let chardevs = Chardevs::new(OpenContext {
        shutdown: shutdown.clone(),
        descriptors: descriptors.clone(),
        named: None,
        objects: objects.clone(),
    });
    for chardev in &spec.chardevs {
        let users = spec.serials.iter().flatten().filter(|id| **id == chardev.id).count()
            + spec.monitors.iter().filter(|m| m.chardev == chardev.id).count()
            + usize::from(spec.qtest.as_ref().is_some_and(|q| q.chardev == chardev.id))
            + spec.devices.iter().filter(|d| d.prop("chardev") == Some(&chardev.id)).count();
        let opened = chardevs.open(chardev, users).await;
        opened.map_err(|e| anyhow::anyhow!("{}: {e}", chardev.origin))?;
        if let Some(name) = chardevs.get(&chardev.id).and_then(|opened| opened.pty()) {
            chardev::announce(&format!("char device redirected to {name} (label {})", chardev.id));
        }
    }
    Ok(chardevs)
}

/// What `-add-fd` gives. One may be given to several sets, so that all are taken before any is
/// closed.
fn take_descriptors(given: &[DescriptorSpec]) -> anyhow::Result<Descriptors> {
    let descriptors = Descriptors::default();
    for DescriptorSpec { fd, set, opaque, origin } in given {
        let added = descriptors.add_inherited(*fd, *set, opaque.clone());
        added.map_err(|error| anyhow::anyhow!("{origin}: {error}"))?;
    }
    given.iter().for_each(|given| inherited::close(given.fd));
    Ok(descriptors)
}

/// What `-object` asks for, in order: a later one may refer to an earlier one. And the RAM.
pub async fn make_objects(spec: &MachineSpec) -> Result<Objects, ObjectError> {
    let objects = Objects::new(spec.machine.memory);
    for object in &spec.objects {
        objects.add(object.clone()).await?;
    }
    let id = spec.machine.ram_id();
    if spec.machine.memory_backend.is_none() && spec.ram_size > 0 {
        let memory = MemorySpec::plain(spec.ram_size, spec.machine.memory_path.clone());
        let ram = ObjectSpec { id: id.to_owned(), kind: ObjectKind::Memory(memory) };
        objects.add(ram).await?;
    }
    objects.keep(id);
    Ok(objects)
}

/// Who dumps the machine's memory: RAM and ROM, not what a device keeps for itself.
fn dumper(machine: &Machine, state: &DumpState) -> Dumper {
    let peers = DumpPeers {
        hold: machine.vm.clone().recipient(),
        cpus: machine.vm.clone().recipient(),
        hart: machine.vm.clone().recipient(),
        announce: machine.vm.clone().recipient(),
    };
    let roms = machine.roms.iter().map(|device| &device.block).filter(|block| is_rom(&block.name));
    let ram = RamBlock {
        name: RAM_NAME.to_owned(),
        address: machine.ram.base(),
        memory: Arc::clone(&machine.ram) as Arc<dyn BlockMemory>,
    };
    Dumper::new(peers, roms.cloned().chain([ram]).collect(), state.clone())
}

/// Of what devices keep: that which the guest cannot write to.
fn is_rom(name: &str) -> bool {
    name.ends_with(".mrom")
}

/// Guest memory as migrations send it, the largest block first.
fn ram_blocks(spec: &MachineSpec, machine: &Machine) -> Arc<[RamBlockInfo]> {
    let ram = (machine.ram.size() > 0).then(|| RamBlockInfo {
        name: spec.machine.ram_id().to_owned(),
        size: machine.ram.size(),
        host: machine.ram.host(machine.ram.base(), 1).ok().map(|first| first as usize),
        read_only: false,
    });
    let of_devices = machine.roms.iter().map(|device| RamBlockInfo {
        name: device.block.name.clone(),
        size: device.block.size(),
        host: None,
        read_only: is_rom(&device.block.name),
    });
    let mut blocks: Vec<_> = ram.into_iter().chain(of_devices).collect();
    blocks.sort_by_key(|block| std::cmp::Reverse(block.size));
    blocks.into()
}

fn machine_info(
    spec: &MachineSpec,
    qom: &Qom,
    chardevs: &Chardevs,
    objects: Objects,
    descriptors: Descriptors,
) -> MachineInfo {
    let mut one_insn = None;
    let accelerator = match spec.accel {
        super::spec::Accel::Interp => vec![("Accelerator".to_owned(), "interp".to_owned())],
        super::spec::Accel::Qtest => vec![("Accelerator".to_owned(), "qtest".to_owned())],
        super::spec::Accel::Jit { tb_size, one_insn_per_tb } => {
            let size = tb_size.unwrap_or(crate::jit::engine::default_cache(spec.smp.cpus) as u64);
            one_insn = Some(Arc::new(AtomicBool::new(one_insn_per_tb)));
            vec![
                ("Accelerator".to_owned(), "jit".to_owned()),
                ("Code cache per hart".to_owned(), format!("{} KiB", size >> 10)),
            ]
        }
    };
    MachineInfo {
        qom: qom.clone(),
        objects,
        descriptors,
        name: spec.name.clone(),
        ram_size: spec.ram_size,
        ram_blocks: Arc::default(),
        uuid: spec.uuid.unwrap_or_default(),
        machines: vec![
            MachineType {
                hotpluggable_cpus: false,
                name: "none".to_owned(),
                numa_mem_supported: false,
                default_cpu_type: None,
                acpi: false,
                cpu_max: 1,
                deprecated: false,
                default_ram_id: Some("ram".to_owned()),
                is_default: None,
                compat_props: None,
            },
            MachineType {
                hotpluggable_cpus: false,
                name: "virt".to_owned(),
                numa_mem_supported: false,
                default_cpu_type: Some("rv64-riscv-cpu".to_owned()),
                acpi: false,
                cpu_max: super::spec::MAX_CPUS,
                deprecated: false,
                default_ram_id: Some("riscv_virt_board.ram".to_owned()),
                is_default: Some(true),
                compat_props: None,
            },
        ],
        chardevs: chardevs.clone(),
        drives: Vec::new(),
        virtio: Vec::new(),
        accelerator,
        one_insn_per_tb: one_insn,
        blockers: Arc::new([]),
        only_migratable: spec.only_migratable,
        preconfig: Preconfig::default(),
        migration: spec.migration.clone(),
        dump: DumpState::default(),
        terminal_monitor: spec.monitors.iter().any(|monitor| is_on_terminal(spec, monitor)),
    }
}

/// Whether a monitor for humans is on the process' standard input and output.
fn is_on_terminal(spec: &MachineSpec, monitor: &MonitorSpec) -> bool {
    let mut id = &monitor.chardev;
    // A multiplexer is never over another.
    for _ in 0..2 {
        match spec.chardevs.iter().find(|chardev| chardev.id == *id).map(|chardev| &chardev.kind) {
            Some(ChardevKind::Stdio { .. }) => return monitor.mode == MonitorMode::Hmp,
            Some(ChardevKind::Mux { chardev }) => id = chardev,
            _ => return false,
        }
    }
    false
}

/// SIGINT, SIGTERM and SIGHUP shut the machine down, as in QEMU; before there is one they end the
/// process, and so they do when the machine does not go down.
struct Signals {
    vm: Arc<Mutex<Option<Addr<Vm>>>>,
}

impl Signals {
    fn watch() -> std::io::Result<Self> {
        let vm: Arc<Mutex<Option<Addr<Vm>>>> = Arc::default();
        let target = Arc::clone(&vm);
        signals::watch(move |caught| {
            let Some(vm) = target.lock().clone() else { signals::die_of(caught.signal) };
            report::line(&caught.sentence());
            vm.do_send(RequestShutdown { cause: ShutdownCause::HostSignal, exit_code: 0 });
            // This thread has nothing else to do; the process normally ends before the time is up.
            std::thread::sleep(OBEY);
            report::line(&format!("the machine did not stop within {} s", OBEY.as_secs()));
            terminal::restore();
            std::process::exit(1);
        })?;
        Ok(Self { vm })
    }

    fn machine(&self, machine: &Machine) {
        *self.vm.lock() = Some(machine.vm.clone());
    }
}
