//! The goldfish real-time clock of `virt`: wall-clock time in nanoseconds, and an alarm.
//!
//! Time runs by the host's wall clock also while the machine is stopped, so the alarm, which
//! the virtual timer rings, is checked against the wall clock and set anew after every `Resume`.

mod state;

use std::fmt;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use actix::{Addr, Handler};

use super::irq::IrqPin;
use super::shell::{Access, Device, Shell};
use crate::actors::message::IrqLevel;
use crate::actors::outlet::Outlet;
use crate::actors::timer::{TimerFired, TimerLine, TimerPort};
use crate::machine::clock::VirtualClock;

const TIME_LOW: u64 = 0x00;
const TIME_HIGH: u64 = 0x04;
const ALARM_LOW: u64 = 0x08;
const ALARM_HIGH: u64 = 0x0c;
const IRQ_ENABLED: u64 = 0x10;
const CLEAR_ALARM: u64 = 0x14;
const ALARM_STATUS: u64 = 0x18;
const CLEAR_INTERRUPT: u64 = 0x1c;

/// What the clock runs by, and what it reads when the machine starts.
#[derive(Clone)]
pub struct WallClock {
    source: Arc<dyn Fn() -> u64 + Send + Sync>,
    /// Nanoseconds to add to the source.
    base: i64,
}

impl WallClock {
    /// A clock that reads `source()`, in nanoseconds, plus `base`.
    pub fn new(source: impl Fn() -> u64 + Send + Sync + 'static, base: i64) -> Self {
        Self { source: Arc::new(source), base }
    }

    /// The host's wall clock (UTC), shifted so that it reads `start` seconds since the Unix epoch
    /// now: `-rtc base=`.
    pub fn host_starting_at(start: i64) -> Self {
        let now = || {
            let since = SystemTime::now().duration_since(UNIX_EPOCH);
            since.map_or(0, |d| d.as_nanos() as u64)
        };
        let base = start.wrapping_mul(1_000_000_000).wrapping_sub(now() as i64);
        Self::new(now, base)
    }

    /// The host's wall clock in UTC, the default.
    pub fn host() -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        Self::host_starting_at(now.map_or(0, |d| d.as_secs() as i64))
    }

    fn now(&self) -> u64 {
        (self.source)().wrapping_add_signed(self.base)
    }
}

impl fmt::Debug for WallClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WallClock({})", self.now())
    }
}

/// The clock as plain data.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RtcState {
    /// What the guest has set the clock forward by, in nanoseconds.
    pub tick_offset: u64,
    /// In nanoseconds of guest time.
    pub alarm_next: u64,
    pub alarm_running: bool,
    pub irq_pending: bool,
    pub irq_enabled: bool,
    /// High half of the time at the last read of TIME_LOW.
    pub time_high: u32,
}

/// The device.
#[derive(Debug)]
pub struct Rtc {
    state: RtcState,
    wall: WallClock,
    clock: Arc<VirtualClock>,
    irq: IrqPin,
    /// Taken by `started`.
    port: Option<TimerPort>,
    timer: Option<TimerLine>,
}

impl Rtc {
    /// A clock whose interrupt is source `line` of what `irq` leads to.
    pub fn new(
        irq: Outlet<IrqLevel>,
        line: u32,
        wall: WallClock,
        clock: Arc<VirtualClock>,
        timer: TimerPort,
    ) -> Self {
        Self {
            state: RtcState::default(),
            wall,
            clock,
            irq: IrqPin::new(irq, line),
            port: Some(timer),
            timer: None,
        }
    }

    fn now(&self) -> u64 {
        self.wall.now().wrapping_add(self.state.tick_offset)
    }

    fn set_now(&mut self, update: impl FnOnce(u64) -> u64) {
        let now = self.now();
        let moved = update(now).wrapping_sub(now);
        self.state.tick_offset = self.state.tick_offset.wrapping_add(moved);
    }

    fn arm(&self, deadline_ns: Option<u64>) {
        if let Some(timer) = &self.timer {
            timer.arm(deadline_ns);
        }
    }

    /// Ring if the alarm is due, else have the timer ring.
    fn look_at_alarm(&mut self) {
        if !self.state.alarm_running {
            return self.arm(None);
        }
        let to_go = self.state.alarm_next.saturating_sub(self.now());
        if to_go == 0 {
            self.state.alarm_running = false;
            self.state.irq_pending = true;
            self.arm(None);
        } else {
            self.arm(Some(self.clock.now_ns().saturating_add(to_go)));
        }
        self.drive();
    }

    fn drive(&mut self) {
        self.irq.set(self.state.irq_pending && self.state.irq_enabled);
    }
}

fn with_low(old: u64, low: u32) -> u64 {
    old & !0xffff_ffff | u64::from(low)
}

fn with_high(old: u64, high: u32) -> u64 {
    old & 0xffff_ffff | u64::from(high) << 32
}

impl Device for Rtc {
    /// The device tree announces 0x1000 bytes; the rest is empty.
    const SIZE: u64 = 0x24;

    fn decodes(&self, _: Access, offset: u64, width: u8) -> bool {
        width == 4 && offset.is_multiple_of(4)
    }

    fn read(&mut self, offset: u64, _: u8) -> u64 {
        let word = match offset {
            TIME_LOW => {
                let now = self.now();
                self.state.time_high = (now >> 32) as u32;
                now as u32
            }
            TIME_HIGH => self.state.time_high,
            ALARM_LOW => self.state.alarm_next as u32,
            ALARM_HIGH => (self.state.alarm_next >> 32) as u32,
            IRQ_ENABLED => self.state.irq_enabled.into(),
            ALARM_STATUS => self.state.alarm_running.into(),
            _ => 0,
        };
        word.into()
    }

    fn write(&mut self, offset: u64, _: u8, value: u64) {
        let value = value as u32;
        match offset {
            TIME_LOW => self.set_now(|now| with_low(now, value)),
            TIME_HIGH => self.set_now(|now| with_high(now, value)),
            ALARM_LOW => {
                self.state.alarm_next = with_low(self.state.alarm_next, value);
                self.state.alarm_running = true;
                self.look_at_alarm();
            }
            ALARM_HIGH => self.state.alarm_next = with_high(self.state.alarm_next, value),
            IRQ_ENABLED => self.state.irq_enabled = value & 1 != 0,
            CLEAR_ALARM => {
                self.state.alarm_running = false;
                self.arm(None);
            }
            CLEAR_INTERRUPT => self.state.irq_pending = false,
            _ => {}
        }
        self.drive();
    }

    fn started(&mut self, address: &Addr<Shell<Self>>) {
        let fired = Outlet::Mailbox(address.clone().recipient());
        self.timer = self.port.take().map(|port| port.connect(fired));
    }

    /// The time that the guest set survives.
    fn reset(&mut self) {
        self.state = RtcState { tick_offset: self.state.tick_offset, ..RtcState::default() };
        self.arm(None);
        self.drive();
    }

    fn resume(&mut self) {
        self.look_at_alarm();
    }
}

impl Handler<TimerFired> for Shell<Rtc> {
    type Result = ();

    fn handle(&mut self, _: TimerFired, _: &mut Self::Context) {
        self.0.look_at_alarm();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;
    use crate::actors::cell::DeviceCell;
    use crate::actors::message::{MmioFault, Reset, Resume};
    use crate::actors::probe::Probe;
    use crate::actors::timer::ArmTimer;
    use crate::devices::bus::MmioTarget;
    use crate::migration::vmstate::tests::{assert_described_as_qemus, migrate};

    const START: u64 = 0x18ea_7c3e_5d00_0000;

    struct Rig {
        rtc: DeviceCell<Shell<Rtc>>,
        now: Arc<AtomicU64>,
        irq: Probe<IrqLevel>,
        armed: Probe<ArmTimer>,
    }

    fn rig() -> Rig {
        let (irq, armed) = (Probe::new(), Probe::new());
        let now = Arc::new(AtomicU64::new(0));
        let source = Arc::clone(&now);
        let wall = WallClock::new(move || source.load(Ordering::SeqCst), START as i64);
        let timer = TimerPort::played_by(armed.outlet());
        let rtc = Shell(Rtc::new(irq.outlet(), 11, wall, Arc::default(), timer));
        Rig { rtc: DeviceCell::new(rtc, "rtc", Outlet::Unconnected), now, irq, armed }
    }

    impl Rig {
        fn time(&self) -> u64 {
            let low = self.rtc.read(TIME_LOW, 4).unwrap();
            self.rtc.read(TIME_HIGH, 4).unwrap() << 32 | low
        }

        fn set(&self, high: u64, low: u64, value: u64) {
            self.rtc.write(high, 4, value >> 32).unwrap();
            self.rtc.write(low, 4, value & 0xffff_ffff).unwrap();
        }

        fn edges(&self) -> Vec<bool> {
            self.irq.take().iter().map(|e| e.level).collect()
        }
    }

    #[test]
    fn time_is_latched_by_its_low_half_and_can_be_set() {
        let rig = rig();
        assert_eq!(rig.time(), START);
        rig.now.store(0xffff_ffff, Ordering::SeqCst);
        let low = rig.rtc.read(TIME_LOW, 4).unwrap();
        rig.now.store(0x1_0000_0000, Ordering::SeqCst);
        let high = rig.rtc.read(TIME_HIGH, 4).unwrap();
        assert_eq!(high << 32 | low, START + 0xffff_ffff);
        rig.set(TIME_HIGH, TIME_LOW, 77);
        rig.now.fetch_add(3, Ordering::SeqCst);
        assert_eq!(rig.time(), 80);
        rig.rtc.call(Reset).unwrap();
        assert_eq!(rig.time(), 80);
    }

    #[test]
    fn the_alarm_rings_once_when_it_is_due_and_not_before() {
        let rig = rig();
        rig.rtc.write(IRQ_ENABLED, 4, 0xffff_fffe).unwrap();
        assert_eq!(rig.rtc.read(IRQ_ENABLED, 4), Ok(0));
        rig.rtc.write(IRQ_ENABLED, 4, 1).unwrap();
        rig.set(ALARM_HIGH, ALARM_LOW, START + 500);
        assert_eq!(rig.armed.take(), [ArmTimer { slot: 0, deadline_ns: Some(500) }]);
        let status = || rig.rtc.read(ALARM_STATUS, 4).unwrap();
        assert_eq!(status(), 1);
        rig.now.store(499, Ordering::SeqCst);
        rig.rtc.call(TimerFired { slot: 0, deadline_ns: 500 }).unwrap();
        assert!(rig.edges().is_empty());
        assert_eq!(rig.armed.take(), [ArmTimer { slot: 0, deadline_ns: Some(1) }]);
        rig.now.store(500, Ordering::SeqCst);
        rig.rtc.call(Resume).unwrap();
        assert_eq!((rig.edges(), status()), (vec![true], 0));
        rig.rtc.write(CLEAR_INTERRUPT, 4, 0).unwrap();
        assert_eq!(rig.edges(), [false]);
        rig.rtc.call(TimerFired { slot: 0, deadline_ns: 500 }).unwrap();
        assert!(rig.edges().is_empty());
    }

    #[test]
    fn an_alarm_in_the_past_rings_at_once_and_only_when_enabled() {
        let rig = rig();
        rig.set(ALARM_HIGH, ALARM_LOW, START - 1);
        assert!(rig.edges().is_empty());
        rig.rtc.write(IRQ_ENABLED, 4, 1).unwrap();
        assert_eq!(rig.edges(), [true]);
        rig.rtc.call(Reset).unwrap();
        assert_eq!(rig.edges(), [false]);
        rig.set(ALARM_HIGH, ALARM_LOW, START + 9);
        rig.rtc.write(CLEAR_ALARM, 4, 0).unwrap();
        rig.now.store(10, Ordering::SeqCst);
        rig.rtc.call(TimerFired { slot: 0, deadline_ns: 9 }).unwrap();
        assert!(rig.edges().is_empty());
    }

    #[test]
    fn state_travels() {
        let section = migrate(&rig().rtc, &rig().rtc);
        assert_described_as_qemus(&section);
        let (from, to) = (rig(), rig());
        from.rtc.write(IRQ_ENABLED, 4, 1).unwrap();
        from.set(TIME_HIGH, TIME_LOW, 0x12_3456_7890);
        from.set(ALARM_HIGH, ALARM_LOW, 0x12_3456_7890 + 500);
        migrate(&from.rtc, &to.rtc);
        assert_eq!(to.time(), 0x12_3456_7890);
        assert_eq!(to.armed.take().pop(), Some(ArmTimer { slot: 0, deadline_ns: Some(500) }));
        to.edges();
        to.now.store(500, Ordering::SeqCst);
        to.rtc.call(TimerFired { slot: 0, deadline_ns: 500 }).unwrap();
        assert_eq!(to.edges(), [true]);
        // An alarm that has rung.
        let third = rig();
        third.now.store(500, Ordering::SeqCst);
        migrate(&to.rtc, &third.rtc);
        assert_eq!(third.edges().last(), Some(&true));
    }

    #[test]
    fn widths_and_holes() {
        let rig = rig();
        for (offset, width, result) in [
            (0, 1, Err(MmioFault::Width)),
            (0, 8, Err(MmioFault::Width)),
            (2, 4, Err(MmioFault::Width)),
            (0x20, 4, Ok(0)),
            (0x24, 4, Err(MmioFault::Unmapped)),
        ] {
            assert_eq!(rig.rtc.read(offset, width), result, "{offset:#x}/{width}");
            assert_eq!(rig.rtc.write(offset, width, 0).err(), result.err());
        }
    }
}
