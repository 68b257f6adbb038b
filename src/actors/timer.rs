//! The timer: turns the virtual clock into messages. One actor on a thread of its own, because an
//! arbiter's timers have a resolution of a millisecond and Linux arms deadlines microseconds away.
//!
//! A timer is a slot. `ArmTimer` goes to [`Timers::arm_outlet`], a fold: it stores the deadline in
//! the slot's atomic and wakes the thread only when the deadline is earlier than the one the
//! thread sleeps towards (`next_wake`). A guest re-arms thousands of times a second, mostly to
//! later deadlines; those cost two atomic operations and no system call, at the price of one early
//! wake-up of the thread for a deadline that has moved meanwhile.
//!
//! Why no wake-up is lost: the armer stores the deadline, then loads `next_wake`; the thread stores
//! `next_wake`, then scans the deadlines again before it parks. All are sequentially consistent,
//! so one of the two sees the other's store; and an `unpark` before `park` is remembered.
//!
//! A deadline that fires is disarmed by compare-exchange before `TimerFired` is sent, so a
//! concurrent re-arm is never lost, but the fired message may then arrive after the re-arm: it
//! carries its deadline, and its receiver decides by the clock, not by the message alone.

use std::fmt;
use std::num::NonZeroU64;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::{JoinHandle, Thread};
use std::time::Duration;

use actix::dev::RecipientRequest;
use actix::{Actor, ActorContext as _, Addr, Handler, Message};

use super::context::{InlineContext, panic_reason};
use super::lifecycle::Lifecycle;
use super::mailbox::ThreadMailbox;
use super::message::{ActorFailed, LoadState, Pause, Reset, Resume, SaveState, Terminate};
use super::outlet::Outlet;
use crate::machine::clock::VirtualClock;
use crate::migration::vmstate::{self, Fields, Section, StateError, VmState, Vmsd};

/// Slots of one machine: two for each of 512 harts and as many for devices.
const SLOTS: usize = 2048;
const NEVER: u64 = u64::MAX;

/// Set a timer's deadline in virtual nanoseconds, replacing the one it had; `None` disarms it.
/// A deadline that has passed fires at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Message)]
#[rtype(result = "()")]
pub struct ArmTimer {
    pub slot: u32,
    pub deadline_ns: Option<u64>,
}

/// Virtual time has reached the deadline to which the slot was armed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Message)]
#[rtype(result = "()")]
pub struct TimerFired {
    pub slot: u32,
    pub deadline_ns: u64,
}

/// Every slot is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("more than {SLOTS} timers")]
pub struct TooManyTimers;

#[derive(Debug, Default)]
struct Slot {
    /// Virtual nanoseconds; `NEVER` when disarmed.
    deadline: AtomicU64,
    /// A reset of the machine leaves it armed.
    outlives_reset: AtomicBool,
    /// Set once, by `TimerPort::connect`.
    outlet: OnceLock<Outlet<TimerFired>>,
}

#[derive(Debug)]
struct Shared {
    slots: Vec<Slot>,
    /// How many of them, from the first, have been given out.
    taken: AtomicUsize,
    /// The deadline that the thread sleeps towards; 0 while time stands still, when no deadline
    /// is worth waking it for.
    next_wake: AtomicU64,
    /// The machine is paused: nothing fires.
    paused: AtomicBool,
    thread: OnceLock<Thread>,
}

impl Shared {
    fn taken(&self) -> &[Slot] {
        &self.slots[..self.taken.load(Ordering::SeqCst)]
    }

    fn arm(&self, ArmTimer { slot, deadline_ns }: ArmTimer) {
        let Some(slot) = self.slots.get(slot as usize) else { return };
        let deadline = deadline_ns.unwrap_or(NEVER);
        slot.deadline.store(deadline, Ordering::SeqCst);
        if deadline < self.next_wake.load(Ordering::SeqCst)
            && let Some(thread) = self.thread.get()
        {
            thread.unpark();
        }
    }

    /// Disarm the slots that are due at `now` and hand each to `send`; the earliest deadline of
    /// the others.
    fn fire(&self, now: u64, mut send: impl FnMut(&Outlet<TimerFired>, TimerFired)) -> u64 {
        let mut next = NEVER;
        for (i, slot) in self.taken().iter().enumerate() {
            let deadline = slot.deadline.load(Ordering::SeqCst);
            if deadline > now {
                next = next.min(deadline);
            } else if slot
                .deadline
                .compare_exchange(deadline, NEVER, Ordering::SeqCst, Ordering::SeqCst)
                .is_ok()
                && let Some(outlet) = slot.outlet.get()
            {
                send(outlet, TimerFired { slot: i as u32, deadline_ns: deadline });
            }
        }
        next
    }
}

/// The timer actor as the wiring holds it.
#[derive(Debug, Clone)]
pub struct Timers {
    shared: Arc<Shared>,
    addr: Addr<TimerActor>,
    clock: Arc<VirtualClock>,
}

impl Timers {
    /// Start the timer's thread. It fires while `clock` runs; after starting or stopping the
    /// clock send `Resume` or `Pause`. It ends on `Terminate`.
    pub fn start(
        clock: Arc<VirtualClock>,
        failure: Outlet<ActorFailed>,
    ) -> std::io::Result<(Self, JoinHandle<()>)> {
        let slots = (0..SLOTS)
            .map(|_| Slot { deadline: AtomicU64::new(NEVER), ..Slot::default() })
            .collect();
        let shared = Arc::new(Shared {
            slots,
            taken: AtomicUsize::new(0),
            next_wake: AtomicU64::new(0),
            paused: AtomicBool::new(false),
            thread: OnceLock::new(),
        });
        let (addr, mut mailbox) = ThreadMailbox::new(Arc::new(|| ()));
        let mut actor = TimerActor { shared: Arc::clone(&shared), clock: Arc::clone(&clock) };
        let thread = crate::threads::named("timer").spawn(move || {
            let run = || actor.run(&mut mailbox);
            if let Err(payload) = catch_unwind(AssertUnwindSafe(run)) {
                let reason = panic_reason(&*payload);
                failure.send(ActorFailed { name: "timer".into(), reason });
            }
        })?;
        let _ = shared.thread.set(thread.thread().clone());
        Ok((Self { shared, addr, clock }, thread))
    }

    /// Take a slot, to be connected by the device that gets it.
    pub fn reserve(&self) -> Result<TimerPort, TooManyTimers> {
        let next = |taken| (taken < SLOTS).then_some(taken + 1);
        let slot = self.shared.taken.fetch_update(Ordering::SeqCst, Ordering::SeqCst, next);
        Ok(TimerPort {
            slot: slot.map_err(|_| TooManyTimers)? as u32,
            arm: self.arm_outlet(),
            shared: Some(Arc::clone(&self.shared)),
        })
    }

    /// Take a slot whose deadlines are told to `fired`.
    pub fn register(&self, fired: Outlet<TimerFired>) -> Result<TimerLine, TooManyTimers> {
        Ok(self.reserve()?.connect(fired))
    }

    /// The same for who is no part of the machine: a reset does not disarm it.
    pub fn register_outside(&self, fired: Outlet<TimerFired>) -> Result<TimerLine, TooManyTimers> {
        let line = self.register(fired)?;
        if let Some(slot) = self.shared.slots.get(line.slot as usize) {
            slot.outlives_reset.store(true, Ordering::SeqCst);
        }
        Ok(line)
    }

    /// Where to send `ArmTimer`.
    pub fn arm_outlet(&self) -> Outlet<ArmTimer> {
        let shared = Arc::clone(&self.shared);
        Outlet::fold(move |arm| shared.arm(arm))
    }

    /// The earliest deadline in virtual nanoseconds; none while the machine is paused.
    pub fn next_deadline(&self) -> Option<u64> {
        if self.shared.paused.load(Ordering::SeqCst) {
            return None;
        }
        let deadlines = self.shared.taken().iter().map(|s| s.deadline.load(Ordering::SeqCst));
        deadlines.min().filter(|&deadline| deadline != NEVER)
    }

    /// Fire what is due now, on this thread: for whoever steps the clock and must not go on before
    /// every receiver has handled it, which is when the requests are answered.
    pub fn fire_due(&self) -> Vec<RecipientRequest<TimerFired>> {
        let mut requests = Vec::new();
        if !self.shared.paused.load(Ordering::SeqCst) {
            self.shared.fire(self.clock.now_ns(), |outlet, fired| match outlet {
                Outlet::Mailbox(recipient) => requests.push(recipient.send(fired)),
                folded => {
                    folded.send(fired);
                }
            });
        }
        requests
    }

    /// The actor's address: `Pause`, `Resume`, `Reset` (disarms everything), `Terminate`.
    pub fn addr(&self) -> &Addr<TimerActor> {
        &self.addr
    }

    /// The actor's life-cycle side.
    pub fn lifecycle(&self) -> Lifecycle {
        Lifecycle::of("timer", &self.addr)
    }
}

/// A slot on its way to the device that will use it: the wiring reserves it, the device connects
/// it once it has an address.
#[derive(Debug)]
pub struct TimerPort {
    slot: u32,
    arm: Outlet<ArmTimer>,
    /// `None` when a test plays the timer.
    shared: Option<Arc<Shared>>,
}

impl TimerPort {
    /// Slot 0 of a timer played by a test, which sees `ArmTimer` and sends `TimerFired` itself.
    pub fn played_by(arm: Outlet<ArmTimer>) -> Self {
        Self { slot: 0, arm, shared: None }
    }

    /// Say where the slot's `TimerFired` goes.
    pub fn connect(self, fired: Outlet<TimerFired>) -> TimerLine {
        let slot = self.shared.iter().find_map(|s| s.slots.get(self.slot as usize));
        if let Some(slot) = slot {
            let _ = slot.outlet.set(fired);
        }
        TimerLine { slot: self.slot, arm: self.arm }
    }
}

/// A connected slot.
#[derive(Debug, Clone)]
pub struct TimerLine {
    slot: u32,
    arm: Outlet<ArmTimer>,
}

impl TimerLine {
    /// Arm to a deadline in virtual nanoseconds, replacing the one it had; `None` disarms.
    pub fn arm(&self, deadline_ns: Option<u64>) {
        self.arm.send(ArmTimer { slot: self.slot, deadline_ns });
    }

    /// The slot's number, as `TimerFired` carries it.
    pub fn slot(&self) -> u32 {
        self.slot
    }
}

/// The actor itself; lives on its thread.
pub struct TimerActor {
    shared: Arc<Shared>,
    clock: Arc<VirtualClock>,
}

impl fmt::Debug for TimerActor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TimerActor(paused: {:?})", self.shared.paused)
    }
}

impl TimerActor {
    fn run(&mut self, mailbox: &mut ThreadMailbox<Self>) {
        // The kernel may round a sleep up by the thread's timer slack, 50 µs unless told.
        // Without it timers are later, not wrong: a refusal is no error.
        let _ = rustix::thread::set_current_timer_slack(NonZeroU64::new(1));
        let mut ctx = mailbox.context();
        while mailbox.drain(self, &mut ctx) {
            let sleep = self.fire_due();
            mailbox.wait(sleep);
        }
    }

    /// Fire what is due; how long to sleep (`None`: until woken).
    fn fire_due(&self) -> Option<Duration> {
        if self.shared.paused.load(Ordering::SeqCst) || !self.clock.is_running() {
            self.shared.next_wake.store(0, Ordering::SeqCst);
            return None;
        }
        loop {
            let next = self.shared.fire(self.clock.now_ns(), |outlet, fired| {
                outlet.send(fired);
            });
            self.shared.next_wake.store(next, Ordering::SeqCst);
            if self.shared.taken().iter().any(|s| s.deadline.load(Ordering::SeqCst) < next) {
                continue;
            }
            return match next {
                NEVER => None,
                // Whoever steps it fires what that makes due.
                _ if self.clock.is_stepped() => None,
                _ => Some(Duration::from_nanos(next.saturating_sub(self.clock.now_ns()))),
            };
        }
    }
}

impl Actor for TimerActor {
    type Context = InlineContext<Self>;
}

impl Handler<Pause> for TimerActor {
    type Result = ();

    fn handle(&mut self, _: Pause, _: &mut Self::Context) {
        self.shared.paused.store(true, Ordering::SeqCst);
    }
}

impl Handler<Resume> for TimerActor {
    type Result = ();

    fn handle(&mut self, _: Resume, _: &mut Self::Context) {
        self.shared.paused.store(false, Ordering::SeqCst);
    }
}

impl Handler<Reset> for TimerActor {
    type Result = ();

    fn handle(&mut self, _: Reset, _: &mut Self::Context) {
        for slot in self.shared.taken() {
            if !slot.outlives_reset.load(Ordering::SeqCst) {
                slot.deadline.store(NEVER, Ordering::SeqCst);
            }
        }
    }
}

/// Virtual time as it travels (`timer`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimeState {
    ns: i64,
}

impl VmState for TimeState {
    const VMSD: Vmsd = Vmsd::new("timer", 2);

    fn fields(&mut self, f: &mut dyn Fields) -> Result<(), StateError> {
        // Cycles are nanoseconds here (`cpu::csr::counters`), so both are the clock's time.
        f.i64("cpu_ticks_offset", &mut { self.ns })?;
        f.unused(8)?;
        f.i64("cpu_clock_offset", &mut self.ns)?;
        if self.ns < 0 {
            return Err(f.refuse("cpu_clock_offset", format!("{} is negative", self.ns)));
        }
        Ok(())
    }
}

impl TimerActor {
    fn time(&self) -> TimeState {
        TimeState { ns: i64::try_from(self.clock.now_ns()).unwrap_or(i64::MAX) }
    }
}

impl Handler<SaveState> for TimerActor {
    type Result = Result<Section, StateError>;

    fn handle(&mut self, _: SaveState, _: &mut Self::Context) -> Self::Result {
        vmstate::save(&mut self.time())
    }
}

impl Handler<LoadState> for TimerActor {
    type Result = Result<usize, StateError>;

    fn handle(&mut self, load: LoadState, _: &mut Self::Context) -> Self::Result {
        let mut time = self.time();
        let taken = vmstate::load(&mut time, load.version, &load.bytes)?;
        self.clock.set_ns(time.ns.unsigned_abs());
        Ok(taken)
    }
}

impl Handler<Terminate> for TimerActor {
    type Result = ();

    fn handle(&mut self, _: Terminate, ctx: &mut Self::Context) {
        ctx.stop();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::actors::probe::Probe;
    use crate::migration::vmstate::tests::{assert_described_as_qemus, round_trip};

    const MS: u64 = 1_000_000;
    const LONG: Duration = Duration::from_secs(10);

    struct Rig {
        clock: Arc<VirtualClock>,
        timers: Timers,
        thread: JoinHandle<()>,
        failure: Probe<ActorFailed>,
    }

    fn rig() -> Rig {
        let clock = Arc::new(VirtualClock::default());
        let failure = Probe::new();
        let (timers, thread) = Timers::start(Arc::clone(&clock), failure.outlet()).unwrap();
        Rig { clock, timers, thread, failure }
    }

    #[test]
    fn fires_in_order_of_deadline_once_each() {
        let Rig { clock, timers, thread, failure } = rig();
        let fired = Probe::new();
        let slots: Vec<u32> =
            (0..3).map(|_| timers.register(fired.outlet()).unwrap().slot()).collect();
        let arm = timers.arm_outlet();
        for (slot, ms) in [(slots[0], 30), (slots[1], 10), (slots[2], 20)] {
            arm.send(ArmTimer { slot, deadline_ns: Some(ms * MS) });
        }
        arm.send(ArmTimer { slot: slots[2], deadline_ns: None });
        arm.send(ArmTimer { slot: u32::MAX, deadline_ns: Some(0) });
        assert!(fired.take().is_empty(), "time has not started");
        clock.start();
        timers.addr().do_send(Resume);
        assert_eq!(fired.expect_within(LONG).slot, slots[1]);
        let last = fired.expect_within(LONG);
        assert_eq!(last, TimerFired { slot: slots[0], deadline_ns: 30 * MS });
        assert!(clock.now_ns() >= 30 * MS);
        timers.addr().do_send(Terminate);
        thread.join().unwrap();
        assert!(fired.take().is_empty());
        assert!(failure.take().is_empty());
    }

    #[test]
    fn an_earlier_deadline_wakes_a_sleeping_timer_and_time_stops_with_the_machine() {
        let Rig { clock, timers, thread, .. } = rig();
        clock.start();
        timers.addr().do_send(Resume);
        let fired = Probe::new();
        let timer = timers.register(fired.outlet()).unwrap();
        let hour = 3600 * 1000 * MS;
        timer.arm(Some(hour));
        std::thread::sleep(Duration::from_millis(5));
        let soon = clock.now_ns() + 5 * MS;
        timer.arm(Some(soon));
        assert_eq!(fired.expect_within(LONG).deadline_ns, soon);

        clock.stop();
        let stopped = clock.now_ns();
        timer.arm(Some(stopped + MS));
        timers.addr().do_send(Pause);
        std::thread::sleep(Duration::from_millis(20));
        assert!(fired.take().is_empty());
        clock.start();
        timers.addr().do_send(Resume);
        assert_eq!(fired.expect_within(LONG).deadline_ns, stopped + MS);
        timers.addr().do_send(Terminate);
        thread.join().unwrap();
    }

    /// Hammers the lost-wake-up window: every deadline must fire although the thread is sent to
    /// sleep towards a far one just before.
    #[test]
    fn no_deadline_is_lost_between_scan_and_sleep() {
        let Rig { clock, timers, thread, .. } = rig();
        clock.start();
        timers.addr().do_send(Resume);
        let fired = Probe::new();
        let timer = timers.register(fired.outlet()).unwrap();
        let begin = Instant::now();
        for i in 0..2000 {
            timer.arm(Some(u64::MAX - 1));
            timer.arm(Some(clock.now_ns() + i % 3 * 1000));
            fired.expect_within(LONG);
        }
        assert!(begin.elapsed() < LONG);
        timers.addr().do_send(Terminate);
        thread.join().unwrap();
    }

    #[test]
    fn time_goes_on_where_it_was_elsewhere() {
        let mut there = TimeState { ns: 77 * MS as i64 };
        let section = round_trip(&mut there, &mut TimeState { ns: 0 });
        assert_described_as_qemus(&section);
        let Rig { clock, timers, thread, .. } = rig();
        let fired = Probe::new();
        timers.register(fired.outlet()).unwrap().arm(Some(80 * MS));
        let mut bytes = section.bytes;
        bytes.push(0);
        let load = LoadState { name: "timer", version: 2, bytes };
        actix::System::new().block_on(async {
            assert_eq!(timers.addr().send(load).await.unwrap(), Ok(24));
        });
        assert_eq!(clock.now_ns(), 77 * MS);
        clock.start();
        timers.addr().do_send(Resume);
        fired.expect_within(LONG);
        assert!(clock.now_ns() >= 80 * MS);
        timers.addr().do_send(Terminate);
        thread.join().unwrap();
    }

    #[test]
    fn a_receiver_that_panics_is_reported() {
        let Rig { clock, timers, thread, failure } = rig();
        clock.start();
        timers.register(Outlet::fold(|_| panic!("no such hart"))).unwrap().arm(Some(0));
        timers.addr().do_send(Resume);
        assert_eq!(failure.expect_within(LONG).reason, "no such hart");
        thread.join().unwrap();
        assert!(!timers.addr().connected());
    }
}
