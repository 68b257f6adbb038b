//! MSWI and MTIMER (RISC-V ACLINT spec 1.0), in the window of SiFive's CLINT as on `virt`:
//! MSIP words from 0, MTIMECMP from 0x4000, MTIME at 0xbff8.
//!
//! `mtip = mtime >= mtimecmp` is decided on two threads: the vCPU's that writes MTIMECMP, and the
//! timer's when a deadline passes. Each hart's compare value is therefore under a small mutex of
//! its own, a leaf under which only outlets to that hart's pending bits are sent to; both sides
//! decide by the clock under it, so a `TimerFired` that a re-arm has overtaken changes nothing.

mod state;

use std::fmt;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::actors::message::IrqLevel;
use crate::actors::outlet::Outlet;
use crate::actors::timer::{TimerFired, TimerLine, TimerPort};
use crate::devices::shell::{Access, Device};
use crate::machine::clock::VirtualClock;

const MSIP_END: u64 = 0x4000;
const MTIMECMP: u64 = 0x4000;
const MTIME: u64 = 0xbff8;
const MTIMECMP_END: u64 = MTIME;

/// The level of a wire, asked of where it ends.
#[derive(Clone)]
pub struct WireLevel(pub Arc<dyn Fn() -> bool + Send + Sync>);

impl fmt::Debug for WireLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WireLevel({})", (self.0)())
    }
}

/// What the device drives of one hart, and the timer slot it uses for it.
#[derive(Debug)]
pub struct HartWires {
    /// Of `msip`: a migration brings it with the hart's pending bits, as in QEMU.
    pub msip_level: WireLevel,
    /// Told `IrqLevel { line: hart, .. }`.
    pub msip: Outlet<IrqLevel>,
    /// Told `IrqLevel { line: hart, .. }`, under a lock: a fold into atomics, or a mailbox.
    pub mtip: Outlet<IrqLevel>,
    pub time_moved: Outlet<TimeMoved>,
    pub timer: TimerPort,
}

/// MTIME was written, and with it the `time` CSR: what a hart compares with it is to be looked at.
#[derive(Debug, Clone, Copy, actix::Message)]
#[rtype(result = "()")]
pub struct TimeMoved;

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

impl HartTimer {
    /// Drive MTIP; the virtual time at which it must be looked at again.
    fn evaluate(&self, clock: &VirtualClock, compare: &mut Compare) -> Option<u64> {
        let level = clock.ticks() >= compare.mtimecmp;
        if level != compare.mtip {
            compare.mtip = level;
            self.mtip.send(IrqLevel { line: self.index, level });
        }
        (!level).then(|| clock.ns_of_ticks(compare.mtimecmp))
    }
}

/// The device.
#[derive(Debug)]
pub struct Aclint {
    clock: Arc<VirtualClock>,
    harts: Vec<(Arc<HartTimer>, TimerLine)>,
    time_moved: Vec<Outlet<TimeMoved>>,
    msip: Vec<(bool, Outlet<IrqLevel>)>,
    msip_levels: Vec<WireLevel>,
}

impl Aclint {
    /// The device for harts 0, 1, …; MTIP is high from the start, since MTIMECMP is 0.
    pub fn new(clock: Arc<VirtualClock>, wires: Vec<HartWires>) -> Self {
        let mut harts = Vec::new();
        let mut time_moved = Vec::new();
        let mut msip = Vec::new();
        let mut msip_levels = Vec::new();
        for (index, wires) in wires.into_iter().enumerate() {
            let hart = Arc::new(HartTimer {
                compare: Mutex::default(),
                mtip: wires.mtip,
                index: index as u32,
            });
            let fired = {
                let (clock, hart) = (Arc::clone(&clock), Arc::clone(&hart));
                // A re-arm since then set its own deadline; a clock that stopped meanwhile
                // leaves `mtime` at or above the compare value.
                Outlet::fold(move |_: TimerFired| {
                    hart.evaluate(&clock, &mut hart.compare.lock());
                })
            };
            harts.push((hart, wires.timer.connect(fired)));
            time_moved.push(wires.time_moved);
            msip.push((false, wires.msip));
            msip_levels.push(wires.msip_level);
        }
        let aclint = Self { clock, harts, time_moved, msip, msip_levels };
        aclint.evaluate_all();
        aclint
    }

    fn evaluate_all(&self) {
        for (hart, timer) in &self.harts {
            timer.arm(hart.evaluate(&self.clock, &mut hart.compare.lock()));
        }
    }

    fn set_mtimecmp(&self, index: usize, update: impl FnOnce(u64) -> u64) {
        let Some((hart, timer)) = self.harts.get(index) else { return };
        let mut compare = hart.compare.lock();
        compare.mtimecmp = update(compare.mtimecmp);
        // Armed under the lock, so that the last compare value written is the one armed.
        timer.arm(hart.evaluate(&self.clock, &mut compare));
    }

    fn set_mtime(&self, value: u64) {
        self.clock.set_ticks(value);
        self.time_changed();
    }

    fn time_changed(&self) {
        self.evaluate_all();
        for hart in &self.time_moved {
            hart.send(TimeMoved);
        }
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

impl Device for Aclint {
    /// The device tree announces 0x10000 bytes; the rest is empty.
    const SIZE: u64 = 0xc000;

    /// As QEMU's `virt`: words for MSWI, words and double words for MTIMER.
    fn decodes(&self, _: Access, offset: u64, width: u8) -> bool {
        let widest = if offset < MSIP_END { 4 } else { 8 };
        (4..=widest).contains(&width) && offset.is_multiple_of(width.into())
    }

    fn read(&mut self, offset: u64, width: u8) -> u64 {
        let value = match offset {
            0..MSIP_END => self.msip.get((offset / 4) as usize).is_some_and(|m| m.0).into(),
            MTIMECMP..MTIMECMP_END => {
                let hart = self.harts.get(((offset - MTIMECMP) / 8) as usize);
                hart.map_or(0, |(hart, _)| hart.compare.lock().mtimecmp)
            }
            _ => self.clock.ticks(),
        };
        if offset < MSIP_END { value } else { extract(value, offset % 8, width) }
    }

    fn write(&mut self, offset: u64, width: u8, value: u64) {
        match offset {
            0..MSIP_END => self.set_msip((offset / 4) as usize, value & 1 != 0),
            MTIMECMP..MTIMECMP_END => {
                let hart = ((offset - MTIMECMP) / 8) as usize;
                self.set_mtimecmp(hart, |old| deposit(old, offset % 8, width, value));
            }
            _ => self.set_mtime(deposit(self.clock.ticks(), offset % 8, width, value)),
        }
    }

    /// MTIMECMP is zero after reset, hence MTIP high, as on QEMU. MTIME goes back to the clock's
    /// time, not to zero: QEMU's stream has no place for what is between the two.
    fn reset(&mut self) {
        for hart in 0..self.harts.len() {
            self.set_msip(hart, false);
            self.harts[hart].0.compare.lock().mtimecmp = 0;
        }
        self.clock.set_moved(0);
        self.time_changed();
    }
}

#[cfg(test)]
mod tests;
