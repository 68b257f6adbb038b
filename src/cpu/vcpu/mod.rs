//! The vCPU actor: a hart on its own thread. Between slices of guest execution it polls its
//! mailbox, whose waker is the kick that makes translated code return.

mod migrate;
mod sbi;
mod start_line;
#[cfg(test)]
mod tests;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use actix::{Actor, ActorContext as _, Addr, Handler, Message, MessageResult};

use super::csr::{self, counters::update_stimer};
use super::dump::Registers;
use super::hart::{Hart, HartEnv, Trap};
use super::mmu::{self, Access};
use super::writes::WriteAccount;
use super::{interpret, trap};
use crate::actors::context::{InlineContext, panic_reason};
use crate::actors::mailbox::ThreadMailbox;
use crate::actors::message::{ActorFailed, Pause, Resume, Terminate};
use crate::actors::outlet::Outlet;
use crate::jit::engine::{Engine, EngineError, EntryObserver, Exit};
use crate::jit::ir::BlockShape;
use crate::machine::address_space::{Absent, AddressSpace};
use crate::machine::memory::{PAGE_SIZE, RamError};
use crate::machine::message::{HartSnapshot, Space, TakeRest, VmError};
use crate::machine::presence::Wake;
use crate::threads;
pub use sbi::BuiltinFirmware;
use start_line::Approach;
pub use start_line::StartLine;

/// Cause of `ecall` from S-mode (Privileged spec table 3.1.15).
const ECALL_FROM_SUPERVISOR: u64 = 9;

/// How guest code is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accel {
    /// Translated, with a code cache of so many bytes.
    Jit {
        cache: usize,
        /// Blocks of one guest instruction.
        one_insn: bool,
    },
    Interp,
    /// Not at all (`-accel qtest`): the hart has its state and runs nothing.
    Idle,
}

/// Where a hart is after a reset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HartStart {
    /// In M-mode at this pc.
    Machine { pc: u64 },
    /// In S-mode under the built-in firmware, `a0` = hart id, `a1` = `opaque`.
    Supervisor { pc: u64, opaque: u64 },
    /// Stopped under the built-in firmware until another hart starts it.
    Stopped,
}

/// Return to the reset state; the vCPU must be paused.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "()")]
pub struct ResetHart {
    pub start: HartStart,
}

/// A copy of the hart's state.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "HartSnapshot")]
pub struct SnapshotHart;

/// Read guest memory as a monitor does: at a virtual address as the hart maps it now, or at a
/// physical one.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "Result<Vec<u8>, VmError>")]
pub struct ReadGuest {
    pub addr: u64,
    pub len: u64,
    pub space: Space,
}

/// The physical address behind a virtual one, for loads of the hart as it stands; `None` where
/// nothing is mapped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Message)]
#[rtype(result = "Option<u64>")]
pub struct TranslateAddress {
    pub addr: u64,
}

/// One guest instruction a block from now on, or as many as usual; false where nothing is
/// translated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Message)]
#[rtype(result = "bool")]
pub struct LimitBlocks {
    pub one_insn: bool,
}

/// Read a CSR, or write it, whatever the hart's mode; the value before, `None` when the hart has
/// no such CSR or it is read-only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Message)]
#[rtype(result = "Option<u64>")]
pub struct AccessCsr {
    pub csr: u16,
    pub write: Option<u64>,
}

/// Log every trap taken (`-d int`), or stop doing so.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "()")]
pub struct LogTraps(pub bool);

/// Show translated blocks to an observer (`-d in_asm,op,out_asm`), or stop doing so.
#[derive(Message)]
#[rtype(result = "()")]
pub struct ObserveTranslation(pub Option<crate::jit::engine::Observer>);

impl std::fmt::Debug for ObserveTranslation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ObserveTranslation({})", self.0.is_some())
    }
}

/// Show every block that is entered to an observer (`-d exec,cpu`), or stop doing so. A vCPU whose
/// blocks are not chained shows all of them, and is slow.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct ObserveExecution {
    pub observer: Option<EntryObserver>,
    pub chained: bool,
}

/// How long a hart that has written what it may rests before it looks for more.
const REFILL: Duration = Duration::from_millis(5);

/// What a vCPU is made of.
#[derive(Debug)]
pub struct VcpuParts {
    pub env: HartEnv,
    pub accel: Accel,
    pub firmware: Option<BuiltinFirmware>,
    pub failure: Outlet<ActorFailed>,
    /// Shared by all harts.
    pub start_line: Arc<StartLine>,
}

/// The actor.
#[derive(Debug)]
pub struct Vcpu {
    hart: Hart,
    engine: Option<Engine>,
    max_insns: u32,
    /// Of the interpreter's steps; the engine has its own.
    step_observer: Option<EntryObserver>,
    idle: bool,
    firmware: Option<BuiltinFirmware>,
    paused: bool,
    /// Until when it rests (`TakeRest`).
    rests: Option<Instant>,
    /// Stopped by the built-in firmware, or down until the reset it asked for.
    stopped: bool,
    /// Go on here when the wait ends (a suspend that does not keep registers).
    restart: Option<(u64, u64)>,
    log_traps: bool,
    start_line: Arc<StartLine>,
    /// Called when a page has come that the hart waits for.
    page_came: Wake,
    failure: Outlet<ActorFailed>,
    /// On the way there from reset.
    approach: Option<Approach>,
}

/// A running vCPU as the `Vm` holds it.
#[derive(Debug)]
pub struct VcpuThread {
    pub addr: Addr<Vcpu>,
    pub thread: JoinHandle<()>,
    /// The host's id of the thread; 0 until it runs.
    pub thread_id: Arc<AtomicU32>,
}

/// Why a vCPU could not be started.
#[derive(Debug, thiserror::Error)]
pub enum VcpuError {
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error("cannot start the thread of CPU {cpu}: {source}")]
    Thread { cpu: u64, source: std::io::Error },
}

impl Actor for Vcpu {
    type Context = InlineContext<Self>;
}

impl Vcpu {
    /// A paused vCPU in reset.
    pub fn new(parts: VcpuParts) -> Result<Self, EngineError> {
        let irq = Arc::clone(&parts.env.irq);
        let mut hart = Hart::new(parts.env);
        let mut shape = BlockShape::default();
        let engine = match parts.accel {
            Accel::Jit { cache, one_insn } => {
                let mut engine = Engine::new(cache)?;
                if one_insn {
                    shape.max_insns = 1;
                    engine.reshape(&mut hart, shape, None);
                }
                Some(engine)
            }
            Accel::Interp | Accel::Idle => None,
        };
        Ok(Self {
            hart,
            engine,
            max_insns: shape.max_insns,
            step_observer: None,
            idle: parts.accel == Accel::Idle,
            firmware: parts.firmware,
            paused: true,
            rests: None,
            stopped: true,
            restart: None,
            log_traps: false,
            start_line: parts.start_line,
            page_came: Wake::new(move || irq.kick()),
            failure: parts.failure,
            approach: None,
        })
    }

    /// Start the vCPU on a thread of its own, paused.
    pub fn start(parts: VcpuParts) -> Result<VcpuThread, VcpuError> {
        let failure = parts.failure.clone();
        let irq = Arc::clone(&parts.env.irq);
        let cpu = parts.env.hartid;
        let mut vcpu = Self::new(parts)?;
        let kick = Arc::clone(&irq);
        let (addr, mut mailbox) = ThreadMailbox::new(Arc::new(move || kick.kick()));
        let thread_id = Arc::new(AtomicU32::new(0));
        let published = Arc::clone(&thread_id);
        let thread = threads::named(format!("CPU {cpu}/TCG"))
            .spawn(move || {
                irq.attach_thread(std::thread::current());
                let id = rustix::thread::gettid().as_raw_nonzero().get();
                published.store(id as u32, Ordering::Release);
                let run = catch_unwind(AssertUnwindSafe(|| vcpu.run(&mut mailbox)));
                vcpu.hart.env.inbox.set_in_guest(false);
                if let Err(payload) = run {
                    let reason = panic_reason(&*payload);
                    failure.send(ActorFailed { name: format!("CPU {cpu}").into(), reason });
                }
            })
            .map_err(|source| VcpuError::Thread { cpu, source })?;
        Ok(VcpuThread { addr, thread, thread_id })
    }

    fn run(&mut self, mailbox: &mut ThreadMailbox<Self>) {
        let mut ctx = mailbox.context();
        loop {
            let kicked = self.hart.env.irq.take_kick();
            if (kicked || mailbox.pending()) && !mailbox.drain(self, &mut ctx) {
                return;
            }
            if self.paused || self.idle || self.stopped && !self.try_start() {
                self.rest(mailbox, None);
                continue;
            }
            if let Some(left) = self.rest_left() {
                self.rest(mailbox, Some(left));
                continue;
            }
            if self.waits_for_page() {
                self.rest(mailbox, None);
                continue;
            }
            if self.hart.writes().is_some_and(WriteAccount::is_overdrawn) {
                let begun = Instant::now();
                self.rest(mailbox, Some(REFILL));
                self.hart.writes().into_iter().for_each(|writes| writes.rest(begun.elapsed()));
                continue;
            }
            self.hart.env.inbox.set_in_guest(true);
            self.hart.drain_inbox();
            if self.hart.env.irq.take_time_moved() {
                if self.firmware.is_some() {
                    sbi::timer_changed(&mut self.hart);
                } else {
                    update_stimer(&mut self.hart);
                }
            }
            if self.hart.state.waiting && !self.wake() {
                self.rest(mailbox, None);
                continue;
            }
            if let Some(interrupt) = trap::pending_interrupt(&self.hart) {
                self.take(interrupt);
            }
            if self.approach.is_some() {
                self.approach();
            } else {
                self.slice();
            }
        }
    }

    /// Go on towards the start line, or stand at it for a moment.
    fn approach(&mut self) {
        let Some(approach) = &mut self.approach else { return };
        if approach.step() {
            match &mut self.engine {
                Some(engine) => engine.show_step(&self.hart),
                None => show_step(&mut self.step_observer, &self.hart),
            }
            let result = interpret::step(&mut self.hart);
            if self.hart.state.waiting {
                approach.stand(&self.start_line);
            }
            if let Err(trap) = result {
                self.trapped(trap);
            }
        } else if approach.passed(&self.start_line) {
            self.approach = None;
        } else {
            std::thread::yield_now();
        }
    }

    /// Leave guest execution and sleep until something comes, or until `timeout` is over.
    fn rest(&mut self, mailbox: &mut ThreadMailbox<Self>, timeout: Option<Duration>) {
        self.hart.env.inbox.set_in_guest(false);
        if !self.hart.env.irq.is_kicked() {
            mailbox.wait(timeout);
        }
    }

    /// How long the hart is to rest still.
    fn rest_left(&mut self) -> Option<Duration> {
        let left = self.rests?.saturating_duration_since(Instant::now());
        if left.is_zero() {
            self.rests = None;
            return None;
        }
        Some(left)
    }

    /// True while the instruction at the pc cannot go on, for want of a page that is still at the
    /// source of a postcopy, and there is no interrupt to take meanwhile.
    fn waits_for_page(&mut self) -> bool {
        let Some((addr, len)) = self.hart.missing else { return false };
        let ram = &self.hart.env.ram;
        let hart = self.hart.env.hartid as usize;
        match ram.presence().request(ram.pages(addr, len), Some(&self.page_came)) {
            Ok(false) if trap::pending_interrupt(&self.hart).is_none() => {
                ram.presence().hart_waits(hart, true);
                return true;
            }
            Ok(_) => {}
            Err(lost) => {
                // Nothing that the hart could do would be right.
                self.paused = true;
                let reason = lost.to_string();
                self.failure.send(ActorFailed { name: format!("CPU {hart}").into(), reason });
            }
        }
        ram.presence().hart_waits(hart, false);
        self.hart.missing = None;
        self.paused
    }

    /// True when the wait is over: an enabled interrupt is pending, whether or not it will be
    /// taken (Privileged spec 3.3.3).
    fn wake(&mut self) -> bool {
        if self.hart.env.irq.pending() & self.hart.state.mie == 0 {
            return false;
        }
        self.hart.state.waiting = false;
        if let Some((pc, opaque)) = self.restart.take() {
            if let Some(firmware) = &self.firmware {
                firmware.hsm.resumed(self.hart.env.hartid);
            }
            self.enter_supervisor(pc, opaque);
        }
        true
    }

    /// Run guest code until there is something else to do.
    fn slice(&mut self) {
        let trapped = match &mut self.engine {
            Some(engine) => match engine.run(&mut self.hart) {
                Exit::Polled => None,
                Exit::Trap(trap) => Some(trap),
            },
            None => interpret_slice(&mut self.hart, &mut self.step_observer),
        };
        if let Some(trap) = trapped {
            self.trapped(trap);
        }
    }

    fn trapped(&mut self, trap: Trap) {
        if trap.cause == Trap::MISSING {
            // `waits_for_page` sees to it.
        } else if trap.cause == ECALL_FROM_SUPERVISOR && self.firmware.is_some() {
            self.firmware_call();
        } else {
            self.take(trap);
        }
    }

    fn take(&mut self, trap: Trap) {
        if self.log_traps {
            log_trap(&self.hart, trap);
        }
        trap::take(&mut self.hart, trap);
    }

    /// What the hart can reach, as it has no other hand in it.
    fn address_space(&self) -> AddressSpace {
        let env = &self.hart.env;
        AddressSpace { ram: Arc::clone(&env.ram), bus: Arc::clone(&env.bus) }
    }

    fn read_virtual(&mut self, addr: u64, len: u64) -> Result<Vec<u8>, VmError> {
        let mut bytes = Vec::new();
        let mut at = addr;
        while (bytes.len() as u64) < len {
            let denied = || VmError(format!("Cannot access memory at address {at:#x}"));
            let privilege = self.hart.data_privilege();
            let m = match mmu::translate(&mut self.hart, at, Access::Load, privilege, true, true) {
                Ok(mapping) => mapping,
                Err(Trap { cause: Trap::MISSING, .. }) => {
                    let (addr, len) = self.hart.missing.take().unwrap_or((at, 1));
                    return Err(self.hart.env.ram.unreadable(&RamError::Missing { addr, len }, at));
                }
                Err(_) => return Err(denied()),
            };
            let room = PAGE_SIZE - at % PAGE_SIZE;
            let room = room.min(len - bytes.len() as u64);
            let mut piece = self.address_space().look(m.pa, room, Absent::Refused)?;
            at = at.wrapping_add(piece.len() as u64);
            bytes.append(&mut piece);
        }
        Ok(bytes)
    }

    fn reset(&mut self, start: HartStart) {
        let pc = match start {
            HartStart::Machine { pc } => pc,
            _ => 0,
        };
        log_reset(&self.hart);
        *self.hart.state = Default::default();
        self.hart.env.irq.reset();
        trap::reset(&mut self.hart, pc);
        self.hart.translations_changed();
        self.restart = None;
        self.hart.missing = None;
        self.stopped = start == HartStart::Stopped;
        let approaches = matches!(start, HartStart::Machine { .. }) && self.start_line.is_shared();
        self.approach = approaches.then(Approach::new);
        if self.firmware.is_some() {
            self.firmware_reset();
        }
        if let HartStart::Supervisor { pc, opaque } = start {
            self.enter_supervisor(pc, opaque);
        }
    }
}

/// Interpret until kicked; the trap that ended it, if one did.
fn interpret_slice(hart: &mut Hart, observer: &mut Option<EntryObserver>) -> Option<Trap> {
    /// Instructions between looks at the inbox.
    const BATCH: u32 = 1000;
    for _ in 0..BATCH {
        if hart.env.irq.is_kicked() || hart.state.waiting {
            break;
        }
        show_step(observer, hart);
        if let Err(trap) = interpret::step(hart) {
            return Some(trap);
        }
        if hart.env.irq.pending() & hart.state.mie != 0 && trap::pending_interrupt(hart).is_some() {
            break;
        }
    }
    None
}

fn show_step(observer: &mut Option<EntryObserver>, hart: &Hart) {
    if let Some(observer) = observer {
        observer.show(hart, None);
    }
}

/// The line of `-d int`, which starts with the name of QEMU's function.
fn log_trap(hart: &Hart, trap: Trap) {
    crate::trace::riscv_trap(
        hart.env.hartid,
        trap.cause >> 63 != 0,
        trap.cause & !trap::INTERRUPT,
        hart.state.pc,
        trap.tval,
        trap::cause_name(trap.cause),
    );
    tracing::info!(
        target: "int",
        "riscv_cpu_do_interrupt: hart:{}, async:{}, cause:{:016x}, epc:0x{:016x}, tval:0x{:016x}, desc={}",
        hart.env.hartid,
        trap.cause >> 63,
        trap.cause & !trap::INTERRUPT,
        hart.state.pc,
        trap.tval,
        trap::cause_name(trap.cause),
    );
}

/// What `-d cpu_reset` shows: the state that a reset ends.
fn log_reset(hart: &Hart) {
    if tracing::enabled!(target: "cpu_reset", tracing::Level::INFO) {
        let mut text = format!("CPU Reset (CPU {})\n", hart.env.hartid);
        Registers::of(hart).write(&mut text, false);
        tracing::info!(target: "cpu_reset", "{}", text.trim_end());
    }
}

impl Handler<Pause> for Vcpu {
    type Result = ();

    fn handle(&mut self, _: Pause, _: &mut Self::Context) {
        self.paused = true;
    }
}

impl Handler<Resume> for Vcpu {
    type Result = ();

    fn handle(&mut self, _: Resume, _: &mut Self::Context) {
        self.paused = false;
    }
}

impl Handler<TakeRest> for Vcpu {
    type Result = ();

    fn handle(&mut self, TakeRest { time }: TakeRest, _: &mut Self::Context) {
        self.rests = Instant::now().checked_add(time);
    }
}

impl Handler<ResetHart> for Vcpu {
    type Result = ();

    fn handle(&mut self, message: ResetHart, _: &mut Self::Context) {
        self.reset(message.start);
    }
}

impl Handler<Terminate> for Vcpu {
    type Result = ();

    fn handle(&mut self, _: Terminate, ctx: &mut Self::Context) {
        ctx.stop();
    }
}

impl Handler<LogTraps> for Vcpu {
    type Result = ();

    fn handle(&mut self, LogTraps(on): LogTraps, _: &mut Self::Context) {
        self.log_traps = on;
    }
}

impl Handler<ObserveTranslation> for Vcpu {
    type Result = ();

    fn handle(&mut self, message: ObserveTranslation, _: &mut Self::Context) {
        if let Some(engine) = &mut self.engine {
            engine.observe(message.0);
        }
    }
}

impl Handler<ObserveExecution> for Vcpu {
    type Result = ();

    fn handle(&mut self, message: ObserveExecution, _: &mut Self::Context) {
        let ObserveExecution { observer, chained } = message;
        match &mut self.engine {
            Some(engine) => {
                let shape = BlockShape { max_insns: self.max_insns, chained };
                engine.reshape(&mut self.hart, shape, observer);
            }
            None => self.step_observer = observer,
        }
    }
}

impl Handler<SnapshotHart> for Vcpu {
    type Result = MessageResult<SnapshotHart>;

    fn handle(&mut self, _: SnapshotHart, _: &mut Self::Context) -> Self::Result {
        let mut jit = Vec::new();
        if let Some(engine) = &self.engine {
            let s = engine.stats;
            let t = self.hart.tlb.stats;
            for (name, value) in [
                ("TB count", s.blocks),
                ("TB guest instructions", s.guest_insns),
                ("TB host bytes", s.code_bytes),
                ("TB flush count", s.flushes),
                ("TB invalidate count", s.dropped),
                ("direct jumps linked", s.links),
                ("jump cache misses", s.look_ups),
                ("instructions stepped", s.stepped),
                ("TLB fills", t.fills),
                ("TLB full flushes", t.flushes),
                ("TLB page flushes", t.page_flushes),
                ("address space switches", t.space_switches),
            ] {
                jit.push((name.to_owned(), value));
            }
        }
        let mut state = self.hart.state.clone();
        state.fflags = self.hart.fflags();
        MessageResult(HartSnapshot {
            state,
            mip: self.hart.env.irq.pending(),
            isa: Arc::clone(&self.hart.env.isa),
            jit,
        })
    }
}

impl Handler<AccessCsr> for Vcpu {
    type Result = Option<u64>;

    fn handle(
        &mut self,
        AccessCsr { csr, write }: AccessCsr,
        _: &mut Self::Context,
    ) -> Option<u64> {
        let old = csr::inspect(&mut self.hart, csr)?;
        if let Some(value) = write {
            // Numbers from 0xc00 on are read-only (Privileged spec 2.1).
            if csr >> 10 == 3 {
                return None;
            }
            csr::set(&mut self.hart, csr, value);
        }
        Some(old)
    }
}

impl Handler<ReadGuest> for Vcpu {
    type Result = Result<Vec<u8>, VmError>;

    fn handle(
        &mut self,
        ReadGuest { addr, len, space }: ReadGuest,
        _: &mut Self::Context,
    ) -> Self::Result {
        if let Some(absent) = space.physical() {
            return self.address_space().look(addr, len, absent);
        }
        // What the hart itself waits for is not what the monitor asks for.
        let waits_for = self.hart.missing.take();
        let read = self.read_virtual(addr, len);
        self.hart.missing = waits_for;
        read
    }
}

impl Handler<TranslateAddress> for Vcpu {
    type Result = Option<u64>;

    fn handle(&mut self, message: TranslateAddress, _: &mut Self::Context) -> Self::Result {
        let TranslateAddress { addr } = message;
        let waits_for = self.hart.missing.take();
        let privilege = self.hart.data_privilege();
        let found = mmu::translate(&mut self.hart, addr, Access::Load, privilege, true, true);
        self.hart.missing = waits_for;
        found.ok().map(|mapping| mapping.pa)
    }
}

impl Handler<LimitBlocks> for Vcpu {
    type Result = bool;

    fn handle(&mut self, LimitBlocks { one_insn }: LimitBlocks, _: &mut Self::Context) -> bool {
        self.max_insns = if one_insn { 1 } else { BlockShape::default().max_insns };
        match &mut self.engine {
            Some(engine) => {
                engine.limit(&mut self.hart, self.max_insns);
                true
            }
            None => false,
        }
    }
}
