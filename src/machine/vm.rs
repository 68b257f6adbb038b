//! The `Vm` actor: owns the run state, carries out stop, cont, reset and shutdown over the vCPU
//! and device actors, and tells the monitors.
//!
//! Changes of the run state are `AtomicResponse`s: while one is under way the mailbox waits, so no
//! two ever interleave. Every step over a peer has a time limit; a peer that does not answer puts
//! the machine in `internal-error`.

mod migration;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use actix::dev::RecipientRequest;
use actix::prelude::*;

use super::address_space::AddressSpace;
use super::clock::VirtualClock;
use super::memory::GuestRam;
use super::message::*;
use super::spec::{ErrorAction, Smp, WatchdogAction};
use crate::actors::lifecycle::Lifecycle;
use crate::actors::message::{ActorFailed, Pause, Reset, Resume, Terminate};
use crate::actors::outlet::Outlet;
use crate::block::message::BlockFailed;
use crate::block::node::Ownership;
use crate::chardev::message::PortOpened;
use crate::cpu::vcpu::{
    HartStart, LimitBlocks, ReadGuest, ResetHart, SnapshotHart, TranslateAddress, VcpuThread,
};
use crate::trace;

/// How long a peer may take to answer.
const LIMIT: Duration = Duration::from_secs(10);
/// Most bytes of guest memory read for one request.
const MOST_READ: u64 = 64 << 20;

/// A vCPU as the `Vm` reaches it.
#[derive(Debug, Clone)]
pub struct VcpuLink {
    pub pause: Recipient<Pause>,
    pub resume: Recipient<Resume>,
    pub reset: Recipient<ResetHart>,
    pub snapshot: Recipient<SnapshotHart>,
    pub read: Recipient<ReadGuest>,
    pub translate: Recipient<TranslateAddress>,
    pub limit: Recipient<LimitBlocks>,
    pub terminate: Recipient<Terminate>,
    /// The host's id of its thread.
    pub thread_id: Arc<AtomicU32>,
}

impl From<&VcpuThread> for VcpuLink {
    fn from(vcpu: &VcpuThread) -> Self {
        let addr = &vcpu.addr;
        Self {
            pause: addr.clone().recipient(),
            resume: addr.clone().recipient(),
            reset: addr.clone().recipient(),
            snapshot: addr.clone().recipient(),
            read: addr.clone().recipient(),
            translate: addr.clone().recipient(),
            limit: addr.clone().recipient(),
            terminate: addr.clone().recipient(),
            thread_id: Arc::clone(&vcpu.thread_id),
        }
    }
}

/// Loads memory for a start or a reset and says where each hart begins.
pub trait Boot: Send {
    fn install(&mut self) -> Result<Vec<HartStart>, VmError>;
}

/// The process is to end with this code; every event has been sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Message)]
#[rtype(result = "()")]
pub struct Exited {
    pub code: i32,
}

/// Load memory, reset everything and, unless told to wait, run.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "Result<(), VmError>")]
pub struct PowerOn {
    /// Run: at once, or when an incoming migration is complete.
    pub run: bool,
    /// Wait in `inmigrate` for a migration.
    pub incoming: bool,
}

/// What a `Vm` is made of.
pub struct VmParts {
    pub vcpus: Vec<VcpuLink>,
    /// Devices in the order in which they pause; they resume in reverse.
    pub devices: Vec<Lifecycle>,
    pub drives: Vec<Ownership>,
    pub clock: Arc<VirtualClock>,
    pub ram: Arc<GuestRam>,
    pub boot: Box<dyn Boot>,
    pub tree: Arc<MachineTree>,
    pub smp: Smp,
    pub reboot: RebootAction,
    pub shutdown: ShutdownAction,
    pub panic: PanicAction,
    pub watchdog: WatchdogAction,
    pub exit: Outlet<Exited>,
    /// The guest has asked for a reset that is not done yet; see `guest_reset`.
    pub reset_asked: Arc<AtomicBool>,
}

/// Where the guest's requests for a reset go: one at a time, so that harts which ask for it over
/// and over fill no mailbox, and what was asked before a reset does not cause another.
pub fn guest_reset(vm: &Addr<Vm>, asked: &Arc<AtomicBool>) -> Outlet<RequestReset> {
    let (vm, asked) = (vm.clone(), Arc::clone(asked));
    Outlet::fold(move |request| {
        if !asked.swap(true, Ordering::AcqRel) {
            vm.do_send(request);
        }
    })
}

impl std::fmt::Debug for VmParts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "VmParts({} vCPUs, {} devices)", self.vcpus.len(), self.devices.len())
    }
}

/// The actor.
#[derive(Debug)]
pub struct Vm {
    parts: VmParts,
    state: RunState,
    subscribers: Vec<Recipient<VmEvent>>,
    exiting: bool,
    /// In `inmigrate`: run when the migration is complete.
    run_on_arrival: bool,
    /// The drives' images are this machine's; it does not run without.
    owns_drives: bool,
}

impl Vm {
    /// A machine that is not powered on.
    pub fn new(parts: VmParts) -> Self {
        Self {
            parts,
            state: RunState::Prelaunch,
            subscribers: Vec::new(),
            exiting: false,
            run_on_arrival: false,
            owns_drives: true,
        }
    }

    fn emit(&mut self, event: VmEvent) {
        self.subscribers.retain(Recipient::connected);
        for subscriber in &self.subscribers {
            subscriber.do_send(event.clone());
        }
    }

    fn enter(&mut self, state: RunState) {
        trace::runstate_set(self.state, state);
        self.state = state;
    }

    fn running(&self) -> bool {
        self.state == RunState::Running
    }

    /// A future that halts vCPUs, time and devices, in this order.
    fn halt(&self) -> impl Future<Output = Result<(), VmError>> + use<> {
        let vcpus: Vec<_> = self.parts.vcpus.iter().map(|v| v.pause.clone()).collect();
        let devices = self.parts.devices.clone();
        let clock = Arc::clone(&self.parts.clock);
        async move {
            ask_all(vcpus.iter().map(|v| v.send(Pause)).collect(), "a vCPU to pause").await?;
            clock.stop();
            for device in &devices {
                ask(device.pause.send(Pause), &device.name).await?;
            }
            Ok(())
        }
    }

    /// A future that undoes `halt`, in reverse order.
    fn unhalt(&self) -> impl Future<Output = Result<(), VmError>> + use<> {
        let vcpus: Vec<_> = self.parts.vcpus.iter().map(|v| v.resume.clone()).collect();
        let devices = self.parts.devices.clone();
        let clock = Arc::clone(&self.parts.clock);
        async move {
            clock.start();
            for device in devices.iter().rev() {
                ask(device.resume.send(Resume), &device.name).await?;
            }
            ask_all(vcpus.iter().map(|v| v.send(Resume)).collect(), "a vCPU to resume").await
        }
    }

    /// A future that resets devices and harts; they must be halted.
    fn restart(&mut self) -> impl Future<Output = Result<(), VmError>> + use<> {
        let starts = self.parts.boot.install();
        let vcpus: Vec<_> = self.parts.vcpus.iter().map(|v| v.reset.clone()).collect();
        let devices = self.parts.devices.clone();
        async move {
            let starts = starts?;
            for device in &devices {
                ask(device.reset.send(Reset), &device.name).await?;
            }
            let resets = vcpus.iter().zip(starts);
            let resets = resets.map(|(v, start)| v.send(ResetHart { start })).collect();
            ask_all(resets, "a vCPU to reset").await
        }
    }

    /// Go from running to `state`.
    fn stop_to(&mut self, state: RunState) -> ResponseActFuture<Self, Result<(), VmError>> {
        if !self.running() {
            if self.state != RunState::InternalError {
                self.enter(state);
            }
            return Box::pin(actix::fut::ready(Ok(())));
        }
        Box::pin(self.halt().into_actor(self).map(move |halted, vm: &mut Self, _| {
            vm.enter(state);
            vm.emit(VmEvent::Stop);
            vm.or_internal_error(halted)
        }))
    }

    fn start(&mut self) -> ResponseActFuture<Self, Result<(), VmError>> {
        // QEMU announces RESUME before the vCPUs run.
        self.enter(RunState::Running);
        self.emit(VmEvent::Resume);
        let resumed = self.unhalt();
        Box::pin(
            resumed.into_actor(self).map(|resumed, vm: &mut Self, _| vm.or_internal_error(resumed)),
        )
    }

    fn or_internal_error(&mut self, result: Result<(), VmError>) -> Result<(), VmError> {
        if let Err(error) = &result {
            tracing::error!(%error, "machine is in internal-error");
            self.enter(RunState::InternalError);
        }
        result
    }

    fn reset(&mut self, cause: ShutdownCause) -> ResponseActFuture<Self, Result<(), VmError>> {
        let was_running = self.running();
        let halted = async_if(was_running, self.halt());
        Box::pin(
            halted
                .into_actor(self)
                .then(|halted, vm: &mut Self, _| {
                    let restarted = vm.restart();
                    async move {
                        halted?;
                        restarted.await
                    }
                    .into_actor(vm)
                })
                .then(move |restarted, vm: &mut Self, _| {
                    // The harts are halted: nobody asks again before they run.
                    vm.parts.reset_asked.store(false, Ordering::Release);
                    vm.emit(VmEvent::Reset { cause });
                    let again = restarted.is_ok() && was_running;
                    let held = matches!(
                        vm.state,
                        RunState::Inmigrate | RunState::FinishMigrate | RunState::SaveVm
                    );
                    if !was_running && !held {
                        vm.enter(RunState::Prelaunch);
                    }
                    let resumed = async_if(again, vm.unhalt());
                    async move {
                        restarted?;
                        resumed.await
                    }
                    .into_actor(vm)
                })
                .map(|result, vm: &mut Self, _| vm.or_internal_error(result)),
        )
    }

    fn shut_down(
        &mut self,
        cause: ShutdownCause,
        exit_code: i32,
    ) -> ResponseActFuture<Self, Result<(), VmError>> {
        if self.exiting {
            return Box::pin(actix::fut::ready(Ok(())));
        }
        self.emit(VmEvent::Shutdown { cause });
        // A monitor's `quit` ends the process whatever -no-shutdown says.
        let stays = self.parts.shutdown == ShutdownAction::Pause
            && !matches!(cause, ShutdownCause::HostQmpQuit | ShutdownCause::HostSignal);
        match stays {
            true if self.running() => return self.stop_to(RunState::Shutdown),
            // One that is stopped already stays in the state that it is in.
            true => return Box::pin(actix::fut::ready(Ok(()))),
            false => {}
        }
        self.exiting = true;
        let halted = async_if(self.running(), self.halt());
        Box::pin(halted.into_actor(self).map(move |halted, vm: &mut Self, _| {
            let result = vm.or_internal_error(halted);
            vm.enter(RunState::Shutdown);
            vm.emit(VmEvent::Exit { code: exit_code });
            for vcpu in &vm.parts.vcpus {
                vcpu.terminate.do_send(Terminate);
            }
            vm.parts.exit.send(Exited { code: exit_code });
            result
        }))
    }

    fn vcpu(&self, cpu: u32) -> Result<&VcpuLink, VmError> {
        let missing = || VmError(format!("Invalid CPU index {cpu}"));
        self.parts.vcpus.get(cpu as usize).ok_or_else(missing)
    }
}

/// `future` if `yes`, or nothing.
async fn async_if(
    yes: bool,
    future: impl Future<Output = Result<(), VmError>>,
) -> Result<(), VmError> {
    if yes { future.await } else { Ok(()) }
}

/// An answer within the limit.
async fn ask<M>(request: RecipientRequest<M>, what: &str) -> Result<M::Result, VmError>
where
    M: Message + Send + 'static,
    M::Result: Send,
{
    match tokio::time::timeout(LIMIT, request).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(_)) => Err(VmError(format!("{what} has failed"))),
        Err(_) => Err(VmError(format!("{what} did not answer within {} s", LIMIT.as_secs()))),
    }
}

async fn ask_all<M>(requests: Vec<RecipientRequest<M>>, what: &str) -> Result<(), VmError>
where
    M: Message<Result = ()> + Send + 'static,
{
    let mut requests: VecDeque<_> = requests.into();
    while let Some(request) = requests.pop_front() {
        ask(request, what).await?;
    }
    Ok(())
}

impl Actor for Vm {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(1024);
    }
}

impl Handler<PowerOn> for Vm {
    type Result = AtomicResponse<Self, Result<(), VmError>>;

    fn handle(&mut self, message: PowerOn, _: &mut Self::Context) -> Self::Result {
        let run = message.run && !message.incoming;
        if message.incoming {
            self.enter(RunState::Inmigrate);
            self.run_on_arrival = message.run;
            self.owns_drives = false;
        }
        let restarted = self.restart();
        AtomicResponse::new(Box::pin(
            restarted
                .into_actor(self)
                .then(move |result, vm: &mut Self, _| match result {
                    Ok(()) if run => vm.start(),
                    other => Box::pin(actix::fut::ready(other)),
                })
                .map(|result, vm: &mut Self, _| vm.or_internal_error(result)),
        ))
    }
}

impl Handler<QueryStatus> for Vm {
    type Result = Result<Status, VmError>;

    fn handle(&mut self, _: QueryStatus, _: &mut Self::Context) -> Self::Result {
        Ok(Status { state: self.state })
    }
}

impl Handler<Stop> for Vm {
    type Result = AtomicResponse<Self, Result<(), VmError>>;

    fn handle(&mut self, _: Stop, _: &mut Self::Context) -> Self::Result {
        let stopped = match self.state {
            RunState::Running => self.stop_to(RunState::Paused),
            RunState::Inmigrate => {
                self.run_on_arrival = false;
                Box::pin(actix::fut::ready(Ok(())))
            }
            _ => Box::pin(actix::fut::ready(Ok(()))),
        };
        AtomicResponse::new(stopped)
    }
}

impl Handler<Cont> for Vm {
    type Result = AtomicResponse<Self, Result<(), VmError>>;

    fn handle(&mut self, _: Cont, _: &mut Self::Context) -> Self::Result {
        AtomicResponse::new(match self.state {
            RunState::Running => Box::pin(actix::fut::ready(Ok(()))),
            RunState::Shutdown | RunState::InternalError => {
                let text = "Resetting the Virtual Machine is required".to_owned();
                Box::pin(actix::fut::ready(Err(VmError(text))))
            }
            RunState::Inmigrate => {
                self.run_on_arrival = true;
                Box::pin(actix::fut::ready(Ok(())))
            }
            RunState::FinishMigrate => {
                let text = "Migration is not finalized yet".to_owned();
                Box::pin(actix::fut::ready(Err(VmError(text))))
            }
            _ => self.start_with_drives(Duration::ZERO),
        })
    }
}

impl Handler<RequestReset> for Vm {
    type Result = AtomicResponse<Self, Result<(), VmError>>;

    fn handle(
        &mut self,
        RequestReset { cause }: RequestReset,
        _: &mut Self::Context,
    ) -> Self::Result {
        AtomicResponse::new(match self.parts.reboot {
            RebootAction::Shutdown => self.shut_down(cause, 0),
            _ => self.reset(cause),
        })
    }
}

impl Handler<RequestPowerdown> for Vm {
    type Result = Result<(), VmError>;

    fn handle(&mut self, _: RequestPowerdown, _: &mut Self::Context) -> Self::Result {
        trace::qemu_system_powerdown_request();
        self.emit(VmEvent::Powerdown);
        Ok(())
    }
}

impl Handler<RequestShutdown> for Vm {
    type Result = AtomicResponse<Self, Result<(), VmError>>;

    fn handle(&mut self, message: RequestShutdown, _: &mut Self::Context) -> Self::Result {
        trace::qemu_system_shutdown_request(message.cause);
        AtomicResponse::new(self.shut_down(message.cause, message.exit_code))
    }
}

impl Handler<SetAction> for Vm {
    type Result = Result<(), VmError>;

    fn handle(&mut self, message: SetAction, _: &mut Self::Context) -> Self::Result {
        self.parts.reboot = message.reboot.unwrap_or(self.parts.reboot);
        self.parts.shutdown = message.shutdown.unwrap_or(self.parts.shutdown);
        self.parts.panic = message.panic.unwrap_or(self.parts.panic);
        self.parts.watchdog = message.watchdog.unwrap_or(self.parts.watchdog);
        Ok(())
    }
}

impl Handler<QueryCpus> for Vm {
    type Result = Result<Vec<CpuInfo>, VmError>;

    fn handle(&mut self, _: QueryCpus, _: &mut Self::Context) -> Self::Result {
        let (threads, cores) = (self.parts.smp.threads.max(1), self.parts.smp.cores.max(1));
        let info = |(i, vcpu): (usize, &VcpuLink)| {
            let index = i as u32;
            CpuInfo {
                index,
                thread_id: vcpu.thread_id.load(Ordering::Acquire),
                socket_id: index / (threads * cores),
                core_id: index / threads % cores,
                thread_in_core: index % threads,
            }
        };
        Ok(self.parts.vcpus.iter().enumerate().map(info).collect())
    }
}

impl Handler<QueryHart> for Vm {
    type Result = ResponseFuture<Result<HartSnapshot, VmError>>;

    fn handle(&mut self, QueryHart { cpu }: QueryHart, _: &mut Self::Context) -> Self::Result {
        let request = self.vcpu(cpu).map(|v| v.snapshot.send(SnapshotHart));
        Box::pin(async move { ask(request?, "the vCPU").await })
    }
}

impl Handler<ReadMemory> for Vm {
    type Result = ResponseFuture<Result<Vec<u8>, VmError>>;

    fn handle(&mut self, message: ReadMemory, _: &mut Self::Context) -> Self::Result {
        let ReadMemory { cpu, addr, len, space } = message;
        let ram = Arc::clone(&self.parts.ram);
        let vcpu = self.vcpu(cpu).cloned();
        Box::pin(async move {
            if len > MOST_READ {
                return Err(VmError(format!("more than {MOST_READ} bytes asked for: {len}")));
            }
            if let Some(absent) = space.physical()
                && (ram.contains(addr, len) || vcpu.is_err())
            {
                // Nobody has to be asked for RAM, and without a CPU there is no bus.
                return AddressSpace { ram, bus: Arc::default() }.look(addr, len, absent);
            }
            ask(vcpu?.read.send(ReadGuest { addr, len, space }), "the vCPU").await?
        })
    }
}

impl Handler<TranslateVirtual> for Vm {
    type Result = ResponseFuture<Result<Option<u64>, VmError>>;

    fn handle(&mut self, message: TranslateVirtual, _: &mut Self::Context) -> Self::Result {
        let TranslateVirtual { cpu, addr } = message;
        let request = self.vcpu(cpu).map(|vcpu| vcpu.translate.send(TranslateAddress { addr }));
        Box::pin(async move { ask(request?, "the vCPU").await })
    }
}

impl Handler<SetOneInsnPerTb> for Vm {
    type Result = ResponseFuture<Result<(), VmError>>;

    fn handle(&mut self, message: SetOneInsnPerTb, _: &mut Self::Context) -> Self::Result {
        let SetOneInsnPerTb { on: one_insn } = message;
        let vcpus = self.parts.vcpus.iter();
        let told: Vec<_> = vcpus.map(|v| v.limit.send(LimitBlocks { one_insn })).collect();
        Box::pin(async move {
            for answer in told {
                if !ask(answer, "the vCPU").await? {
                    let sentence = "This accelerator does not support setting one-insn-per-tb";
                    return Err(VmError(sentence.to_owned()));
                }
            }
            Ok(())
        })
    }
}

impl Handler<LocateMemory> for Vm {
    type Result = Result<MemoryPlace, VmError>;

    fn handle(
        &mut self,
        LocateMemory { addr }: LocateMemory,
        _: &mut Self::Context,
    ) -> Self::Result {
        let holds = |region: &&MemoryNode| (region.start..=region.end_inclusive).contains(&addr);
        let Some(region) = self.parts.tree.memory.iter().find(holds) else {
            return Ok(MemoryPlace::Nowhere);
        };
        if region.kind != "ram" {
            return Ok(MemoryPlace::NotRam);
        }
        let ram = &self.parts.ram;
        let host = ram.host(addr, 1).map_err(|error| ram.unreadable(&error, addr))?;
        Ok(MemoryPlace::Ram { region: region.name.clone(), host: host as u64 })
    }
}

impl Handler<QueryTree> for Vm {
    type Result = Result<Arc<MachineTree>, VmError>;

    fn handle(&mut self, _: QueryTree, _: &mut Self::Context) -> Self::Result {
        Ok(Arc::clone(&self.parts.tree))
    }
}

impl Handler<Announce> for Vm {
    type Result = ();

    fn handle(&mut self, Announce(event): Announce, _: &mut Self::Context) {
        self.emit(event);
    }
}

impl Handler<SubscribeEvents> for Vm {
    type Result = ();

    fn handle(&mut self, SubscribeEvents(to): SubscribeEvents, _: &mut Self::Context) {
        self.subscribers.push(to);
    }
}

impl Handler<BlockFailed> for Vm {
    type Result = AtomicResponse<Self, ()>;

    /// A failure that stops the machine puts it in `io-error`; `cont` has the device try again.
    fn handle(&mut self, failed: BlockFailed, _: &mut Self::Context) -> Self::Result {
        let stops = failed.action == ErrorAction::Stop;
        self.emit(VmEvent::BlockIoError(failed));
        let stopped = match stops && self.running() {
            true => self.stop_to(RunState::IoError),
            false => Box::pin(actix::fut::ready(Ok(()))),
        };
        // What went wrong is in the run state.
        AtomicResponse::new(Box::pin(stopped.map(|_, _, _| ())))
    }
}

impl Handler<PortOpened> for Vm {
    type Result = ();

    fn handle(&mut self, opened: PortOpened, _: &mut Self::Context) {
        self.emit(VmEvent::PortOpened(opened));
    }
}

impl Handler<ActorFailed> for Vm {
    type Result = AtomicResponse<Self, ()>;

    fn handle(&mut self, message: ActorFailed, _: &mut Self::Context) -> Self::Result {
        tracing::error!(actor = %message.name, reason = %message.reason, "an actor has failed");
        self.emit(VmEvent::DeviceFailed { name: message.name.to_string(), reason: message.reason });
        // The peer that died cannot pause; the others are told, and nobody waits for them.
        for vcpu in &self.parts.vcpus {
            vcpu.pause.do_send(Pause);
        }
        self.parts.clock.stop();
        if self.running() {
            self.emit(VmEvent::Stop);
        }
        self.enter(RunState::InternalError);
        AtomicResponse::new(Box::pin(actix::fut::ready(())))
    }
}
