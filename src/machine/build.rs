//! The only file that knows every type and does all the wiring: from a `MachineSpec` to running
//! actors.

use std::sync::Arc;
use std::thread::JoinHandle;

use actix::prelude::*;

use super::address_space::AddressSpace;
use super::clock::{TIMEBASE_HZ, VirtualClock};
use super::composition::Plugged;
use super::drives::{Drives, PluggedDrive};
use super::fdt::{self, FdtInput, FdtIsa};
use super::firmware::hsm::Hsm;
use super::guest_random::GuestRandom;
use super::hotplug::HotplugParts;
use super::loader::{self, BootPlan, BootRequest, Kernel, LoadError};
use super::memory::{GuestRam, RAM_BASE, RamError};
use super::memory_map as map;
use super::message::{MachineTree, MemoryNode, RequestReset, RequestShutdown, VmError};
use super::qtest_gpios::Wiring;
use super::spec::{self, BoardKind, Firmware, MachineSpec};
use super::vm::{Boot, Exited, VcpuLink, Vm, VmParts, guest_reset};
use super::{composition, flash_banks, fw_cfg_items, localtime, tree, virtio_slots};
use crate::actors::cell::DeviceCell;
use crate::actors::lifecycle::Lifecycle;
use crate::actors::message::{ActorFailed, IrqLevel, Snapshot};
use crate::actors::outlet::Outlet;
use crate::actors::timer::{TimeState, TimerFired, Timers, TooManyTimers};
use crate::block::message::BlockFailed;
use crate::block::node::Ownership;
use crate::chardev::message::{CharBackend, PortOpened};
use crate::cpu::hart::{ArmStimer, HartEnv};
use crate::cpu::inbox::{Peer, Peers};
use crate::cpu::irq::{MEIP, MSIP, MTIP, SEIP, SSIP};
use crate::cpu::isa::IsaConfig;
use crate::cpu::vcpu::{
    Accel, AccessCsr, BuiltinFirmware, HartStart, StartLine, Vcpu, VcpuError, VcpuParts, VcpuThread,
};
use crate::cpu::vmstate::{CommonState, CpuState};
use crate::devices::bus::{Bus, Region};
use crate::devices::finisher::Finisher;
use crate::devices::fw_cfg::FwCfgError;
use crate::devices::irq::aclint::{Aclint, HartWires, TimeMoved, WireLevel};
use crate::devices::irq::plic::{Plic, PlicLines};
use crate::devices::irq::sswi::Sswi;
use crate::devices::rom::Rom;
use crate::devices::rtc::{Rtc, WallClock};
use crate::devices::shell::{Device, Migrate, Shell};
use crate::devices::uart::{Uart, UartState};
use crate::devices::virtio::inspect::VirtioLink;
use crate::jit::engine::default_cache;
use crate::migration::ram::block::Bytes;
use crate::migration::ram::device::DeviceBlock;
use crate::migration::sections::{Sections, StateSource};
use crate::migration::vmstate::VmState;
use crate::net::descriptors::Descriptors;
use crate::objects::iothread::IoThread;
use crate::objects::{ObjectError, Objects};
use crate::qmp::link::DriveLink;
use crate::qom::Qom;
use crate::qtest::gpio::Gpios;
use crate::qtest::stepped::SteppedClock;

/// Why a machine cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    #[error("Invalid SMP CPUs {0}. The max CPUs supported by machine 'none' is 1")]
    NoHarts(u32),
    #[error("memory backend '{0}' is read-only, and a machine writes to its memory")]
    RomAsRam(String),
    #[error(transparent)]
    Ram(#[from] RamError),
    #[error(transparent)]
    Load(#[from] LoadError),
    #[error(transparent)]
    Vcpu(#[from] VcpuError),
    #[error(transparent)]
    Timers(#[from] TooManyTimers),
    #[error("cannot start the timer's thread: {0}")]
    TimerThread(std::io::Error),
    #[error("{origin}: {reason}")]
    FwCfg { origin: String, reason: String },
    #[error("{origin}: {reason}")]
    Device { origin: String, reason: String },
    #[error(transparent)]
    Object(#[from] ObjectError),
    #[error("fw_cfg: {0}")]
    FwCfgItem(#[from] FwCfgError),
}

/// What the machine is connected to.
pub struct Connections<'a> {
    /// Character devices that devices name.
    pub chardevs: &'a dyn Fn(&str) -> Option<CharBackend>,
    /// The back end of the serial port.
    pub serial: Option<CharBackend>,
    /// The guest that runs when the command line names none.
    pub embedded_guest: &'a [u8],
    /// What devices refer to, and the RAM.
    pub objects: &'a Objects,
    /// What drives are opened as `/dev/fdset/N`.
    pub descriptors: &'a Descriptors,
    /// Told when the process is to end.
    pub exit: Outlet<Exited>,
}

impl std::fmt::Debug for Connections<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Connections")
    }
}

/// A built machine, not powered on.
#[derive(Debug)]
pub struct Machine {
    /// What a qtest session needs, if there is to be one.
    pub qtest: Option<QtestParts>,
    pub vm: Addr<Vm>,
    pub vcpus: Vec<Addr<Vcpu>>,
    pub timers: Timers,
    pub threads: Vec<JoinHandle<()>>,
    /// What there is behind the drives, for monitors.
    pub drives: Vec<DriveLink>,
    /// The threads that devices have for themselves.
    pub iothreads: Vec<Arc<IoThread>>,
    /// The serial port, to ask what it has not sent yet.
    pub uart: Option<Recipient<Snapshot<UartState>>>,
    /// Keeps the devices, and what they have still to say, when the harts' threads have ended.
    pub bus: Arc<Bus>,
    /// What a migration saves and loads.
    pub sections: Sections,
    pub ram: Arc<GuestRam>,
    /// Memory that it sends besides.
    pub roms: Vec<DeviceBlock>,
    /// What the harts are asked of their caches.
    pub harts: Peers,
    /// The machine as clients see it.
    pub qom: Qom,
    /// Where devices can be plugged in, and those that can be taken out.
    pub hotplug: HotplugParts,
    /// Its virtio devices, for monitors.
    pub virtio: Vec<VirtioLink>,
}

/// A qtest session without its character device and log.
#[derive(Debug)]
pub struct QtestParts {
    pub memory: AddressSpace,
    pub gpios: Gpios,
    pub clock: Option<SteppedClock>,
    pub harts: Vec<Recipient<AccessCsr>>,
}

/// What the rest of the machine needs of its devices.
struct Devices {
    uart: Option<Recipient<Snapshot<UartState>>>,
    drives: Vec<PluggedDrive>,
    plugged: Vec<Plugged>,
    gpios: Option<Gpios>,
}

/// Where the guest asks for the machine's end, or its restart.
struct GuestRequests {
    shutdown: Outlet<RequestShutdown>,
    reset: Outlet<RequestReset>,
}

/// The devices being built.
pub(super) struct Board {
    /// What is random to the guest.
    pub(super) random: GuestRandom,
    pub(super) clock: Arc<VirtualClock>,
    pub(super) timers: Timers,
    pub(super) failure: Outlet<ActorFailed>,
    pub(super) block_failures: Outlet<BlockFailed>,
    pub(super) ports_opened: Outlet<PortOpened>,
    regions: Vec<Region>,
    lifecycles: Vec<Lifecycle>,
    sections: Sections,
    pub(super) roms: Vec<DeviceBlock>,
    pub(super) hotplug: HotplugParts,
    pub(super) virtio: Vec<VirtioLink>,
}

impl Board {
    /// Put a device on the bus at `base`.
    pub(super) fn map<D>(&mut self, name: &str, base: u64, device: D) -> DeviceCell<Shell<D>>
    where
        D: Device + Send,
    {
        self.map_on(&Arbiter::current(), name, base, device)
    }

    /// The same, with what others tell the device handled on this arbiter.
    pub(super) fn map_on<D>(
        &mut self,
        arbiter: &ArbiterHandle,
        name: &str,
        base: u64,
        device: D,
    ) -> DeviceCell<Shell<D>>
    where
        D: Device + Send,
    {
        let cell = DeviceCell::spawn_on(arbiter, Shell(device), name, self.failure.clone());
        let target = Box::new(cell.clone());
        self.regions.push(Region { name: name.to_owned(), range: base..base + D::SIZE, target });
        cell
    }

    /// Have the `Vm` reset, pause and resume a device, and migrations save and load it as
    /// `idstr`, in the order of these calls.
    pub(super) fn manage<D: Migrate + Send>(
        &mut self,
        idstr: impl Into<String>,
        cell: &DeviceCell<Shell<D>>,
    ) {
        self.manage_instance(idstr, 0, cell);
    }

    /// The same, for one of several devices of the same name.
    pub(super) fn manage_instance<D: Migrate + Send>(
        &mut self,
        idstr: impl Into<String>,
        instance: u32,
        cell: &DeviceCell<Shell<D>>,
    ) {
        let source = StateSource::of(idstr, instance, D::State::VMSD, &cell.addr());
        self.sections.sources.push(source);
        self.oversee(cell);
    }

    /// Have the `Vm` reset, pause and resume a device.
    pub(super) fn oversee<D: Device + Send>(&mut self, cell: &DeviceCell<Shell<D>>) {
        self.lifecycles.push(Lifecycle::of(cell.name(), &cell.addr()));
    }
}

/// The device tree of the machine.
pub fn device_tree(
    spec: &MachineSpec,
    isa: &IsaConfig,
    random: &GuestRandom,
) -> super::devicetree::DeviceTree {
    let block = |there: bool| there.then_some(isa.cbo_size as u32);
    let mut rng_seed = [0; 32];
    if random.fill(&mut rng_seed).is_err() {
        // The guest gets the zeroes that say nothing.
        rng_seed = [0; 32];
    }
    fdt::virt(&FdtInput {
        ram_size: spec.ram_size,
        harts: spec.smp.cpus,
        timebase_hz: TIMEBASE_HZ as u32,
        isa: FdtIsa {
            isa: isa.isa_string(),
            extensions: isa.isa_extensions().into_iter().map(str::to_owned).collect(),
            mmu: isa.satp_mode.mmu_type(),
            cbom_block: block(isa.zicbom),
            cboz_block: block(isa.zicboz),
            cbop_block: block(isa.zicbop),
            pmu_counters: isa.pmu_mask,
        },
        has_flash: true,
        aclint: spec.machine.aclint,
        rng_seed,
    })
}

/// Decide what is loaded where.
pub fn boot_plan(
    spec: &MachineSpec,
    isa: &IsaConfig,
    embedded_guest: &[u8],
    random: &GuestRandom,
) -> Result<BootPlan, LoadError> {
    let tree = match &spec.dtb {
        Some(path) => loader::read_dtb(path)?,
        None => device_tree(spec, isa, random),
    };
    let kernel = match &spec.kernel {
        Some(path) => Some(Kernel::File(path)),
        None if spec.embedded_guest => {
            Some(Kernel::Embedded { name: "embedded guest", bytes: embedded_guest })
        }
        None => None,
    };
    BootPlan::prepare(BootRequest {
        ram_size: spec.ram_size,
        harts: spec.smp.cpus,
        firmware: &spec.firmware,
        kernel,
        initrd: spec.initrd.as_deref(),
        has_flash_image: spec.machine.flash[0].is_some(),
        append: spec.append.as_deref(),
        loaders: &spec.loaders,
        tree,
    })
}

/// Build the machine on the current arbiter.
pub fn build(
    spec: &MachineSpec,
    isa: &Arc<IsaConfig>,
    mut connections: Connections<'_>,
) -> Result<Machine, BuildError> {
    let harts = match spec.machine.board {
        BoardKind::Virt => spec.smp.cpus,
        BoardKind::Empty => 0,
    };
    let (random, randoms) = GuestRandom::of_machine(spec.seed, harts as usize);
    let (plan, ram_base) = match spec.machine.board {
        BoardKind::Virt => {
            (Some(boot_plan(spec, isa, connections.embedded_guest, &random)?), RAM_BASE)
        }
        BoardKind::Empty => {
            check_empty(spec)?;
            (None, 0)
        }
    };
    let ram_id = spec.machine.ram_id();
    let ram = Arc::new(match spec.ram_size {
        // A machine without memory has no object for it.
        0 => GuestRam::new(ram_base, 0)?,
        size => {
            let backend = connections.objects.memory(ram_id)?;
            if backend.memory.is_rom() {
                return Err(BuildError::RomAsRam(ram_id.to_owned()));
            }
            GuestRam::over(ram_base, size, Arc::clone(&backend.memory))?
        }
    });
    let peers = Peers::new(harts as usize);
    ram.observe_code(Arc::new(peers.clone()));
    let idle = spec.accel == spec::Accel::Qtest;
    let clock = Arc::new(if idle { VirtualClock::stepped() } else { VirtualClock::default() });

    // The Vm's address is needed before the Vm can be made.
    let vm_context = Context::<Vm>::new();
    let vm = vm_context.address();
    let failure = Outlet::Mailbox(vm.clone().recipient());
    let reset_asked = Arc::default();
    let requests = GuestRequests {
        shutdown: vm.clone().recipient().into(),
        reset: guest_reset(&vm, &reset_asked),
    };
    let (timers, timer_thread) =
        Timers::start(Arc::clone(&clock), failure.clone()).map_err(BuildError::TimerThread)?;
    let mut board = Board {
        clock: Arc::clone(&clock),
        timers: timers.clone(),
        failure: failure.clone(),
        block_failures: vm.clone().recipient().into(),
        ports_opened: vm.clone().recipient().into(),
        regions: Vec::new(),
        lifecycles: Vec::new(),
        sections: Sections::default(),
        roms: Vec::new(),
        hotplug: HotplugParts::default(),
        virtio: Vec::new(),
        random: random.clone(),
    };
    let Devices { uart, drives, plugged, gpios } = match &plan {
        Some(plan) => devices(&mut board, spec, plan, &ram, &peers, &requests, &mut connections)?,
        None => {
            let gpios = spec.qtest.is_some().then(Gpios::default);
            Devices { uart: None, drives: Vec::new(), plugged: Vec::new(), gpios }
        }
    };
    let iothreads = drives.iter().filter_map(|plugged| plugged.thread.clone()).collect();
    let (blocks, drives): (Vec<_>, Vec<_>) =
        drives.into_iter().map(|plugged| plugged.start(spec)).unzip();
    let qom = composition::describe(spec, isa, &plugged);
    // After the devices that ask them: a drive's pause is answered when it is drained.
    board.lifecycles.extend(blocks.iter().map(|node| Lifecycle::of("drive", node)));
    board.lifecycles.push(timers.lifecycle());
    let tree = Arc::new(match &plan {
        Some(plan) => MachineTree {
            roms: plan.roms(),
            device_tree: plan.tree.to_blob(),
            ..tree::describe(spec, &board.regions)
        },
        // Nothing but RAM, perhaps.
        None if spec.ram_size > 0 => MachineTree {
            memory: vec![MemoryNode {
                start: ram_base,
                end_inclusive: ram_base + spec.ram_size - 1,
                kind: "ram",
                name: ram_id.into(),
            }],
            ..MachineTree::default()
        },
        None => MachineTree::default(),
    });
    let bus = Arc::new(Bus::new(std::mem::take(&mut board.regions)));

    let hsm = (spec.firmware == Firmware::Builtin).then(|| Arc::new(Hsm::new(harts as usize)));
    let start_line = StartLine::new(harts as usize);
    let mut vcpus = Vec::new();
    for (hart, random) in (0..harts).zip(randoms) {
        let env = HartEnv {
            hartid: u64::from(hart),
            isa: Arc::clone(isa),
            ram: Arc::clone(&ram),
            bus: Arc::clone(&bus),
            irq: Arc::clone(&peers.0[hart as usize].irq),
            clock: Arc::clone(&clock),
            inbox: Arc::clone(&peers.0[hart as usize].inbox),
            peers: peers.clone(),
            stimer: Outlet::Unconnected,
            random,
        };
        vcpus.push(vcpu(spec, env, &timers, hsm.as_ref(), &start_line, &requests, &failure)?);
    }
    let (sections, roms) = (sections(&timers, &vcpus, board.sections), board.roms);
    let (hotplug, virtio) = (board.hotplug, board.virtio);
    let links: Vec<VcpuLink> = vcpus.iter().map(VcpuLink::from).collect();
    let parts = VmParts {
        vcpus: links,
        devices: board.lifecycles,
        drives: blocks.iter().map(Ownership::of).collect(),
        clock: Arc::clone(&clock),
        ram: Arc::clone(&ram),
        boot: match plan {
            Some(plan) => {
                let ram = Arc::clone(&ram);
                Box::new(PlannedBoot { plan, random, ram, hsm, start_line, harts })
            }
            None => Box::new(NoBoot),
        },
        tree,
        smp: spec.smp,
        reboot: spec.actions.reboot,
        shutdown: spec.actions.shutdown,
        panic: spec.actions.panic,
        watchdog: spec.actions.watchdog,
        exit: connections.exit,
        reset_asked,
    };
    vm_context.run(Vm::new(parts));
    let mut threads = vec![timer_thread];
    let mut addrs = Vec::new();
    for VcpuThread { addr, thread, .. } in vcpus {
        threads.push(thread);
        addrs.push(addr);
    }
    let qtest = gpios.map(|gpios| QtestParts {
        memory: AddressSpace { ram: Arc::clone(&ram), bus: Arc::clone(&bus) },
        gpios,
        clock: idle.then(|| SteppedClock { clock, timers: timers.clone() }),
        harts: addrs.iter().map(|addr| addr.clone().recipient()).collect(),
    });
    Ok(Machine {
        qtest,
        vm,
        vcpus: addrs,
        timers,
        threads,
        drives,
        iothreads,
        uart,
        bus,
        sections,
        ram,
        roms,
        harts: peers,
        qom,
        hotplug,
        virtio,
    })
}

/// Time, the harts, the devices.
fn sections(timers: &Timers, vcpus: &[VcpuThread], devices: Sections) -> Sections {
    let (time, common, cpu) = (TimeState::VMSD, CommonState::VMSD, CpuState::VMSD);
    let mut sources = vec![StateSource::of(time.name, 0, time, timers.addr())];
    for (hart, vcpu) in (0..).zip(vcpus) {
        sources.push(StateSource::of(common.name, hart, common, &vcpu.addr));
        sources.push(StateSource::of(cpu.name, hart, cpu, &vcpu.addr));
    }
    sources.extend(devices.sources);
    Sections { sources, ..devices }
}

/// An outlet that drives an interrupt bit of a hart.
fn hart_line(peer: &Peer, bit: u64) -> Outlet<IrqLevel> {
    let irq = Arc::clone(&peer.irq);
    Outlet::fold(move |message: IrqLevel| irq.set_lines(bit, message.level))
}

/// An outlet that makes a hart's supervisor software interrupt pending.
fn software_interrupt(peer: &Peer) -> Outlet<IrqLevel> {
    let irq = Arc::clone(&peer.irq);
    Outlet::fold(move |message: IrqLevel| irq.set_soft(SSIP, message.level))
}

fn devices(
    board: &mut Board,
    spec: &MachineSpec,
    plan: &BootPlan,
    ram: &Arc<GuestRam>,
    peers: &Peers,
    requests: &GuestRequests,
    connections: &mut Connections<'_>,
) -> Result<Devices, BuildError> {
    let chardevs = connections.chardevs;
    let serial = connections.serial.take();
    let clock = Arc::clone(&board.clock);
    let wiring = Wiring::new(spec);
    let hart_line = |hart: usize, bit: u64| wiring.hart(hart, bit, hart_line(&peers.0[hart], bit));
    let harts = 0..peers.0.len();
    let targets = harts.clone().flat_map(|hart| [hart_line(hart, MEIP), hart_line(hart, SEIP)]);
    let lines = Arc::new(PlicLines::new(targets.collect()));
    let irq = wiring.plic(lines.outlet());

    let name = "riscv_virt_board.mrom";
    let reset_vector = Arc::new(Bytes::new(plan.reset_vector.clone(), map::MROM.size));
    board.roms.push(DeviceBlock::new(name, map::MROM.base, &reset_vector));
    if !plan.reset_vector.is_empty() {
        board.map(name, map::MROM.base, Rom::new(reset_vector));
    }
    let finisher = Finisher { shutdown: requests.shutdown.clone(), reset: requests.reset.clone() };
    board.map("riscv.sifive.test", map::FINISHER.base, finisher);

    // From here on in the order of QEMU's migration stream.
    let mut wires = Vec::new();
    for hart in harts {
        let timer = board.timers.reserve()?;
        let (irq, timed) = (Arc::clone(&peers.0[hart].irq), Arc::clone(&peers.0[hart].irq));
        wires.push(HartWires {
            msip: hart_line(hart, MSIP),
            msip_level: WireLevel(Arc::new(move || irq.pending() & MSIP != 0)),
            mtip: hart_line(hart, MTIP),
            time_moved: Outlet::fold(move |_: TimeMoved| timed.time_moved()),
            timer,
        });
    }
    let aclint = Aclint::new(Arc::clone(&clock), wires);
    let aclint = board.map("riscv.aclint", map::CLINT.base, aclint);
    board.manage("riscv_mtimer", &aclint);
    if spec.machine.aclint {
        let harts = peers.0.iter().map(software_interrupt).collect();
        board.map("riscv.aclint.swi", map::ACLINT_SSWI.base, Sswi::new(harts));
    }

    let plic = Plic::new(Arc::clone(&lines));
    let plic = board.map("riscv.sifive.plic", map::PLIC.base, plic);
    board.manage("riscv_sifive_plic", &plic);

    let fw_cfg = fw_cfg_items::builder(spec)?.build(Arc::clone(ram));
    let fw_cfg = board.map("fw_cfg", map::FW_CFG.base, fw_cfg);
    board.manage("fw_cfg", &fw_cfg);

    let timer = board.timers.reserve()?;
    let uart = Uart::new(irq.clone(), map::UART_IRQ, serial, Arc::clone(&clock), timer);
    let uart = board.map("serial", map::UART.base, uart);
    board.manage("serial", &uart);

    let rtc = Rtc::new(
        irq.clone(),
        map::RTC_IRQ,
        wall_clock(spec, &clock),
        Arc::clone(&clock),
        board.timers.reserve()?,
    );
    let rtc = board.map("goldfish_rtc", map::RTC.base, rtc);
    board.manage("goldfish_rtc", &rtc);

    let mut drives = Drives::open(spec, connections.descriptors)?;
    let mut taken = flash_banks::plug(board, spec, &mut drives)?;
    let (of_devices, plugged) = virtio_slots::plug_all(
        board,
        spec,
        ram,
        &irq,
        (chardevs, connections.objects),
        &mut drives,
    )?;
    taken.extend(of_devices);
    taken.extend(drives.rest(spec, &board.failure)?);
    // In the order of the command line, whoever has them.
    taken.sort_by_key(|taken| spec.drives.iter().position(|drive| drive.id == taken.id));
    let gpios = wiring.gpios(&irq, peers);
    Ok(Devices { uart: Some(uart.recipient()), drives: taken, plugged, gpios })
}

fn wall_clock(spec: &MachineSpec, clock: &Arc<VirtualClock>) -> WallClock {
    use spec::{RtcBase, RtcClock};
    let seconds_of = |time: std::time::SystemTime| {
        let since = time.duration_since(std::time::UNIX_EPOCH);
        since.map_or(0, |d| d.as_secs() as i64)
    };
    let now = seconds_of(std::time::SystemTime::now());
    let start = match spec.rtc.base {
        RtcBase::Utc => now,
        RtcBase::Localtime => now + localtime::offset_at(now),
        RtcBase::At(time) => seconds_of(time),
    };
    let ns = start.wrapping_mul(1_000_000_000);
    match spec.rtc.clock {
        RtcClock::Host => WallClock::host_starting_at(start),
        RtcClock::Rt => {
            let origin = std::time::Instant::now();
            WallClock::new(move || origin.elapsed().as_nanos() as u64, ns)
        }
        RtcClock::Vm => {
            let clock = Arc::clone(clock);
            WallClock::new(move || clock.now_ns(), ns)
        }
    }
}

fn vcpu(
    spec: &MachineSpec,
    mut env: HartEnv,
    timers: &Timers,
    hsm: Option<&Arc<Hsm>>,
    start_line: &Arc<StartLine>,
    requests: &GuestRequests,
    failure: &Outlet<ActorFailed>,
) -> Result<VcpuThread, BuildError> {
    let irq = Arc::clone(&env.irq);
    let line = timers.register(Outlet::fold(move |_: TimerFired| irq.time_moved()))?;
    let clock = Arc::clone(&env.clock);
    env.stimer = Outlet::fold(move |ArmStimer { deadline }| {
        line.arm(deadline.map(|ticks| clock.ns_of_ticks(ticks)));
    });
    let accel = match spec.accel {
        spec::Accel::Interp => Accel::Interp,
        spec::Accel::Qtest => Accel::Idle,
        spec::Accel::Jit { tb_size, one_insn_per_tb } => Accel::Jit {
            cache: tb_size.map_or(default_cache(spec.smp.cpus), |size| size as usize),
            one_insn: one_insn_per_tb,
        },
    };
    let firmware = hsm.map(|hsm| BuiltinFirmware {
        hsm: Arc::clone(hsm),
        counters: Default::default(),
        shutdown: requests.shutdown.clone(),
        reset: requests.reset.clone(),
    });
    let (failure, start_line) = (failure.clone(), Arc::clone(start_line));
    Ok(Vcpu::start(VcpuParts { env, accel, firmware, failure, start_line })?)
}

/// The boot of a machine without harts.
struct NoBoot;

impl Boot for NoBoot {
    fn install(&mut self) -> Result<Vec<HartStart>, VmError> {
        Ok(Vec::new())
    }
}

/// What a machine without a board has no place for.
fn check_empty(spec: &MachineSpec) -> Result<(), BuildError> {
    if spec.smp.max_cpus > 1 {
        return Err(BuildError::NoHarts(spec.smp.cpus));
    }
    match spec.devices.first() {
        Some(device) => Err(BuildError::Device {
            origin: device.origin.clone(),
            reason: format!("No 'virtio-bus' bus found for device '{}'", device.driver),
        }),
        None => Ok(()),
    }
}

/// Loads memory as planned.
struct PlannedBoot {
    plan: BootPlan,
    random: GuestRandom,
    ram: Arc<GuestRam>,
    hsm: Option<Arc<Hsm>>,
    start_line: Arc<StartLine>,
    harts: u32,
}

impl Boot for PlannedBoot {
    fn install(&mut self) -> Result<Vec<HartStart>, VmError> {
        // What there is stays if there is nothing new.
        self.plan.reseed(&mut |bytes| {
            let _ = self.random.fill(bytes);
        });
        self.plan.install(&self.ram).map_err(|e| VmError(e.to_string()))?;
        let start = |hart: u32| {
            let set = self.plan.program_counters.iter().rev().find(|(h, _)| *h == hart);
            match (set, &self.hsm, self.plan.kernel_entry) {
                (Some(&(_, pc)), _, _) => HartStart::Machine { pc },
                (None, None, _) => HartStart::Machine { pc: map::MROM.base },
                (None, Some(_), Some(pc)) if hart == 0 => {
                    HartStart::Supervisor { pc, opaque: self.plan.fdt_addr }
                }
                // Nothing to run: the hart waits for ever, as OpenSBI without a payload does.
                (None, Some(_), _) => HartStart::Stopped,
            }
        };
        self.start_line.reset();
        if let Some(hsm) = &self.hsm {
            hsm.reset(0);
        }
        Ok((0..self.harts).map(start).collect())
    }
}
