//! MSWI and MTIMER (RISC-V ACLINT spec 1.0), in the window of SiFive's CLINT as on `virt`:
//! MSIP words from 0, MTIMECMP from 0x4000, MTIME at 0xbff8.
//!
//! `mtip = mtime >= mtimecmp` is decided on two threads: the vCPU's that writes MTIMECMP, and the
//! timer's when a deadline passes. Each hart's compare value is therefore under a small mutex of
//! its own, a leaf under which only outlets to that hart's pending bits are sent to; both sides
//! decide by the clock under it, so a `TimerFired` that a re-arm has overtaken changes nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use actix::{Actor, Handler, MessageResponse};
use parking_lot::Mutex;

use crate::actors::context::InlineContext;
use crate::actors::message::{
    IrqLevel, MmioFault, MmioRead, MmioWrite, Pause, Reset, Resume, Snapshot,
};
use crate::actors::outlet::Outlet;
use crate::actors::timer::{TimerFired, TimerLine, TimerPort};
use crate::machine::clock::VirtualClock;

const MSIP_END: u64 = 0x4000;
const MTIMECMP: u64 = 0x4000;
const MTIME: u64 = 0xbff8;
/// Size of the register window in bytes. The device tree announces 0x10000; the rest is empty.
pub const SIZE: u64 = 0xc000;
const MTIMECMP_END: u64 = MTIME;

/// What the device drives of one hart, and the timer slot it uses for it.
#[derive(Debug)]
pub struct HartWires {
    /// Told `IrqLevel { line: hart, .. }`.
    pub msip: Outlet<IrqLevel>,
    /// Told `IrqLevel { line: hart, .. }`, under a lock: a fold into atomics, or a mailbox.
    pub mtip: Outlet<IrqLevel>,
    pub timer: TimerPort,
}

/// The device as plain data.
#[derive(Debug, Clone, PartialEq, Eq, MessageResponse)]
pub struct AclintState {
    /// MTIME now, in ticks.
    pub mtime: u64,
    pub mtimecmp: Vec<u64>,
    pub msip: Vec<bool>,
}

#[derive(Debug, Default)]
struct Compare {
    mtimecmp: u64,
    mtip: bool,
}

#[derive(Debug)]
struct HartTimer {
    compare: Mutex<Compare>,
    mtip: Outlet<IrqLevel>,
    index: u32,
}

/// What the timer's thread shares with the actor.
#[derive(Debug)]
struct Mtimer {
    clock: Arc<VirtualClock>,
    /// MTIME minus the clock's ticks.
    offset: AtomicU64,
}

impl Mtimer {
    fn mtime(&self) -> u64 {
        self.clock.ticks().wrapping_add(self.offset.load(Ordering::Acquire))
    }

    /// Drive MTIP; the virtual time at which it must be looked at again.
    fn evaluate(&self, hart: &HartTimer, compare: &mut Compare) -> Option<u64> {
        let offset = self.offset.load(Ordering::Acquire);
        let ticks = self.clock.ticks();
        let mtime = ticks.wrapping_add(offset);
        let level = mtime >= compare.mtimecmp;
        if level != compare.mtip {
            compare.mtip = level;
            hart.mtip.send(IrqLevel { line: hart.index, level });
        }
        let to_go = compare.mtimecmp.checked_sub(mtime).filter(|&n| n != 0)?;
        Some(VirtualClock::ns_of_ticks(ticks.saturating_add(to_go)))
    }
}

/// The actor.
#[derive(Debug)]
pub struct Aclint {
    mtimer: Arc<Mtimer>,
    harts: Vec<(Arc<HartTimer>, TimerLine)>,
    msip: Vec<(bool, Outlet<IrqLevel>)>,
}

impl Aclint {
    /// The device for harts 0, 1, …; MTIP is high from the start, since MTIMECMP is 0.
    pub fn new(clock: Arc<VirtualClock>, wires: Vec<HartWires>) -> Self {
        let mtimer = Arc::new(Mtimer { clock, offset: AtomicU64::new(0) });
        let mut harts = Vec::new();
        let mut msip = Vec::new();
        for (index, wires) in wires.into_iter().enumerate() {
            let hart = Arc::new(HartTimer {
                compare: Mutex::default(),
                mtip: wires.mtip,
                index: index as u32,
            });
            let fired = {
                let (mtimer, hart) = (Arc::clone(&mtimer), Arc::clone(&hart));
                // A re-arm since then set its own deadline; a clock that stopped meanwhile
                // leaves `mtime` at or above the compare value.
                Outlet::fold(move |_: TimerFired| {
                    mtimer.evaluate(&hart, &mut hart.compare.lock());
                })
            };
            harts.push((hart, wires.timer.connect(fired)));
            msip.push((false, wires.msip));
        }
        let aclint = Self { mtimer, harts, msip };
        aclint.evaluate_all();
        aclint
    }

    fn evaluate_all(&self) {
        for (hart, timer) in &self.harts {
            timer.arm(self.mtimer.evaluate(hart, &mut hart.compare.lock()));
        }
    }

    fn set_mtimecmp(&self, index: usize, update: impl FnOnce(u64) -> u64) {
        let Some((hart, timer)) = self.harts.get(index) else { return };
        let mut compare = hart.compare.lock();
        compare.mtimecmp = update(compare.mtimecmp);
        // Armed under the lock, so that the last compare value written is the one armed.
        timer.arm(self.mtimer.evaluate(hart, &mut compare));
    }

    fn set_mtime(&self, value: u64) {
        self.mtimer.offset.store(value.wrapping_sub(self.mtimer.clock.ticks()), Ordering::Release);
        self.evaluate_all();
    }

    fn set_msip(&mut self, index: usize, level: bool) {
        if let Some((driven, outlet)) = self.msip.get_mut(index)
            && *driven != level
        {
            *driven = level;
            outlet.send(IrqLevel { line: index as u32, level });
        }
    }
}

/// Widths that QEMU's `virt` decodes: words for MSWI, words and double words for MTIMER.
fn check(offset: u64, width: u8) -> Result<(), MmioFault> {
    match (offset, width) {
        (SIZE.., _) => Err(MmioFault::Unmapped),
        (_, 4) if offset.is_multiple_of(4) => Ok(()),
        (MTIMECMP.., 8) if offset.is_multiple_of(8) => Ok(()),
        _ => Err(MmioFault::Width),
    }
}

/// `old` with the part that a write of `width` bytes at byte `at` of it covers replaced.
fn deposit(old: u64, at: u64, width: u8, value: u64) -> u64 {
    match (width, at) {
        (8, _) => value,
        (_, 0) => old & !0xffff_ffff | value & 0xffff_ffff,
        _ => old & 0xffff_ffff | value << 32,
    }
}

/// The part of `value` that a read of `width` bytes at byte `at` of it sees.
fn extract(value: u64, at: u64, width: u8) -> u64 {
    match (width, at) {
        (8, _) => value,
        (_, 0) => value & 0xffff_ffff,
        _ => value >> 32,
    }
}

impl Actor for Aclint {
    type Context = InlineContext<Self>;
}

impl Handler<MmioRead> for Aclint {
    type Result = Result<u64, MmioFault>;

    fn handle(
        &mut self,
        MmioRead { offset, width }: MmioRead,
        _: &mut Self::Context,
    ) -> Self::Result {
        check(offset, width)?;
        let value = match offset {
            0..MSIP_END => self.msip.get((offset / 4) as usize).is_some_and(|m| m.0).into(),
            MTIMECMP..MTIMECMP_END => {
                let hart = self.harts.get(((offset - MTIMECMP) / 8) as usize);
                hart.map_or(0, |(hart, _)| hart.compare.lock().mtimecmp)
            }
            _ => self.mtimer.mtime(),
        };
        Ok(if offset < MSIP_END { value } else { extract(value, offset % 8, width) })
    }
}

impl Handler<MmioWrite> for Aclint {
    type Result = Result<(), MmioFault>;

    fn handle(&mut self, write: MmioWrite, _: &mut Self::Context) -> Self::Result {
        let MmioWrite { offset, width, value } = write;
        check(offset, width)?;
        match offset {
            0..MSIP_END => self.set_msip((offset / 4) as usize, value & 1 != 0),
            MTIMECMP..MTIMECMP_END => {
                let hart = ((offset - MTIMECMP) / 8) as usize;
                self.set_mtimecmp(hart, |old| deposit(old, offset % 8, width, value));
            }
            _ => self.set_mtime(deposit(self.mtimer.mtime(), offset % 8, width, value)),
        }
        Ok(())
    }
}

impl Handler<Reset> for Aclint {
    type Result = ();

    /// MTIMECMP is zero after reset, hence MTIP high, as on QEMU. MTIME goes back to the clock's
    /// time, not to zero: the `time` CSR reads the clock, and firmware that compares one with the
    /// other (OpenSBI without Sstc) must find them equal after a reboot too.
    fn handle(&mut self, _: Reset, _: &mut Self::Context) {
        for hart in 0..self.harts.len() {
            self.set_msip(hart, false);
            self.harts[hart].0.compare.lock().mtimecmp = 0;
        }
        self.mtimer.offset.store(0, Ordering::Release);
        self.evaluate_all();
    }
}

impl Handler<Pause> for Aclint {
    type Result = ();

    /// Time stops with the clock; nothing else moves.
    fn handle(&mut self, _: Pause, _: &mut Self::Context) {}
}

impl Handler<Resume> for Aclint {
    type Result = ();

    fn handle(&mut self, _: Resume, _: &mut Self::Context) {}
}

impl Handler<Snapshot<AclintState>> for Aclint {
    type Result = AclintState;

    fn handle(&mut self, _: Snapshot<AclintState>, _: &mut Self::Context) -> AclintState {
        AclintState {
            mtime: self.mtimer.mtime(),
            mtimecmp: self.harts.iter().map(|(h, _)| h.compare.lock().mtimecmp).collect(),
            msip: self.msip.iter().map(|m| m.0).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::actors::cell::DeviceCell;
    use crate::actors::message::Terminate;
    use crate::actors::probe::Probe;
    use crate::actors::timer::{ArmTimer, Timers};
    use crate::devices::bus::MmioTarget;

    struct Rig {
        aclint: DeviceCell<Aclint>,
        msip: Probe<IrqLevel>,
        mtip: Probe<IrqLevel>,
        armed: Probe<ArmTimer>,
    }

    /// Two harts; time stands still at 0.
    fn rig() -> Rig {
        let (msip, mtip, armed) = (Probe::new(), Probe::new(), Probe::new());
        let wires = (0..2)
            .map(|_| HartWires {
                msip: msip.outlet(),
                mtip: mtip.outlet(),
                timer: TimerPort::played_by(armed.outlet()),
            })
            .collect();
        let aclint = Aclint::new(Arc::default(), wires);
        let high = |line| IrqLevel { line, level: true };
        assert_eq!(mtip.take(), [high(0), high(1)]);
        armed.take();
        let aclint = DeviceCell::new(aclint, "aclint", Outlet::Unconnected);
        Rig { aclint, msip, mtip, armed }
    }

    #[test]
    fn msip_is_bit_zero_of_a_word() {
        let Rig { aclint, msip, .. } = rig();
        for (value, read, edges) in [
            (0xffff_ffff, 1, vec![IrqLevel { line: 1, level: true }]),
            (3, 1, vec![]),
            (0xffff_fffe, 0, vec![IrqLevel { line: 1, level: false }]),
        ] {
            aclint.write(4, 4, value).unwrap();
            assert_eq!(aclint.read(4, 4), Ok(read));
            assert_eq!(msip.take(), edges);
        }
        aclint.write(8, 4, 1).unwrap();
        assert_eq!(aclint.read(8, 4), Ok(0), "no hart 2");
        assert_eq!(msip.take(), []);
    }

    #[test]
    fn mtimecmp_moves_mtip_and_the_deadline() {
        let Rig { aclint, mtip, armed, .. } = rig();
        aclint.write(0x4008, 8, 1000).unwrap();
        assert_eq!(mtip.take(), [IrqLevel { line: 1, level: false }]);
        assert_eq!(armed.take(), [ArmTimer { slot: 0, deadline_ns: Some(100_000) }]);
        aclint.write(0x400c, 4, 1).unwrap();
        assert_eq!(aclint.read(0x4008, 8), Ok(0x1_0000_03e8));
        assert_eq!((aclint.read(0x4008, 4), aclint.read(0x400c, 4)), (Ok(1000), Ok(1)));
        armed.take();
        aclint.write(0x4008, 8, u64::MAX).unwrap();
        assert_eq!(armed.take(), [ArmTimer { slot: 0, deadline_ns: Some(u64::MAX) }]);
        aclint.write(0x4008, 8, 0).unwrap();
        assert_eq!(mtip.take(), [IrqLevel { line: 1, level: true }]);
        assert_eq!(armed.take(), [ArmTimer { slot: 0, deadline_ns: None }]);
    }

    #[test]
    fn mtime_can_be_written_by_halves_and_moves_every_mtip() {
        let Rig { aclint, mtip, .. } = rig();
        aclint.write(0x4000, 8, 50).unwrap();
        aclint.write(0x4008, 8, 1 << 33).unwrap();
        mtip.take();
        aclint.write(0xbff8, 4, 77).unwrap();
        assert_eq!(mtip.take(), [IrqLevel { line: 0, level: true }]);
        aclint.write(0xbffc, 4, 2).unwrap();
        assert_eq!(aclint.read(0xbff8, 8), Ok(0x2_0000_004d));
        assert_eq!(mtip.take(), [IrqLevel { line: 1, level: true }]);
        aclint.call(Reset).unwrap();
        let state = aclint.call(Snapshot::<AclintState>::new()).unwrap();
        let zero = AclintState { mtime: 0, mtimecmp: vec![0; 2], msip: vec![false; 2] };
        assert_eq!(state, zero);
    }

    #[test]
    fn widths_and_holes() {
        let Rig { aclint, .. } = rig();
        for (offset, width, result) in [
            (0, 1, Err(MmioFault::Width)),
            (0, 8, Err(MmioFault::Width)),
            (0x4000, 2, Err(MmioFault::Width)),
            (0x4004, 8, Err(MmioFault::Width)),
            (0x4002, 4, Err(MmioFault::Width)),
            (0x4010, 8, Ok(0)),
            (0xb000, 8, Ok(0)),
            (0xc000, 4, Err(MmioFault::Unmapped)),
            (u64::MAX - 7, 8, Err(MmioFault::Unmapped)),
        ] {
            assert_eq!(aclint.read(offset, width), result, "{offset:#x}/{width}");
            assert_eq!(aclint.write(offset, width, 1).err(), result.err());
        }
    }

    #[test]
    fn the_timer_raises_mtip_and_a_stale_one_does_not() {
        let clock = Arc::new(VirtualClock::default());
        let (timers, thread) = Timers::start(Arc::clone(&clock), Outlet::Unconnected).unwrap();
        let mtip = Probe::new();
        let wires = HartWires {
            msip: Outlet::Unconnected,
            mtip: mtip.outlet(),
            timer: timers.reserve().unwrap(),
        };
        let aclint = Aclint::new(Arc::clone(&clock), vec![wires]);
        let aclint = DeviceCell::new(aclint, "aclint", Outlet::Unconnected);
        clock.start();
        timers.addr().do_send(Resume);
        mtip.take();
        let deadline = clock.ticks() + 50_000;
        aclint.write(0x4000, 8, deadline).unwrap();
        assert!(!mtip.expect_within(Duration::ZERO).level);
        assert!(mtip.expect_within(Duration::from_secs(10)).level);
        assert!(clock.ticks() >= deadline);
        for _ in 0..2000 {
            aclint.write(0x4000, 8, clock.ticks()).unwrap();
            aclint.write(0x4000, 8, u64::MAX).unwrap();
        }
        std::thread::sleep(Duration::from_millis(2));
        assert_eq!(mtip.take().last(), Some(&IrqLevel { line: 0, level: false }));
        timers.addr().do_send(Terminate);
        thread.join().unwrap();
    }
}
