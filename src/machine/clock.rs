//! The machine's virtual clock: nanoseconds that stop while the machine is stopped. The timer
//! actor that turns it into messages is `actors::timer`.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::Instant;

/// Frequency of `time` on `virt` (device tree `timebase-frequency`), in Hz.
pub const TIMEBASE_HZ: u64 = 10_000_000;
const NS_PER_TICK: u64 = 1_000_000_000 / TIMEBASE_HZ;

/// Monotone time as the guest sees it. Reads are two relaxed loads and a clock read.
#[derive(Debug)]
pub struct VirtualClock {
    origin: Instant,
    running: AtomicBool,
    /// Time advances by `step_to` only.
    stepped: bool,
    /// Running: virtual minus host nanoseconds. Stopped, or stepped: the virtual time itself.
    base: AtomicI64,
    /// What the guest's writes of MTIME have put between `time` and virtual time, in ticks.
    moved: AtomicU64,
}

impl Default for VirtualClock {
    fn default() -> Self {
        Self {
            origin: Instant::now(),
            running: AtomicBool::new(false),
            stepped: false,
            base: AtomicI64::new(0),
            moved: AtomicU64::new(0),
        }
    }
}

impl VirtualClock {
    /// A clock that stands still but for `step_to` (`-accel qtest`).
    pub fn stepped() -> Self {
        Self { stepped: true, ..Self::default() }
    }

    /// True when time advances by `step_to` only.
    pub fn is_stepped(&self) -> bool {
        self.stepped
    }

    /// Go to a time that is not earlier (only of a stepped clock).
    pub fn step_to(&self, ns: u64) {
        debug_assert!(self.stepped, "time runs by itself");
        self.base.fetch_max(i64::try_from(ns).unwrap_or(i64::MAX), Ordering::AcqRel);
    }

    fn host_ns(&self) -> i64 {
        self.origin.elapsed().as_nanos() as i64
    }

    /// Virtual nanoseconds since the machine was made.
    pub fn now_ns(&self) -> u64 {
        let base = self.base.load(Ordering::Acquire);
        let runs = !self.stepped && self.running.load(Ordering::Acquire);
        let now = if runs { base + self.host_ns() } else { base };
        now.max(0) as u64
    }

    /// `time` and `mtime`, which are one counter (Privileged spec 3.2.1), in ticks of
    /// `TIMEBASE_HZ`.
    pub fn ticks(&self) -> u64 {
        self.ticks_at(self.now_ns())
    }

    /// Set `time` and `mtime`; virtual time goes on as it was.
    pub fn set_ticks(&self, ticks: u64) {
        let virtual_ticks = self.now_ns() / NS_PER_TICK;
        self.set_moved(ticks.wrapping_sub(virtual_ticks));
    }

    /// `time` less the ticks of virtual time: what the guest's writes of MTIME add up to.
    pub fn moved(&self) -> u64 {
        self.moved.load(Ordering::Acquire)
    }

    /// Set what `moved` returns.
    pub fn set_moved(&self, ticks: u64) {
        self.moved.store(ticks, Ordering::Release);
    }

    /// What `ticks()` reads at virtual time `ns`.
    pub fn ticks_at(&self, ns: u64) -> u64 {
        (ns / NS_PER_TICK).wrapping_add(self.moved())
    }

    /// Virtual time in nanoseconds at which `ticks()` reaches `ticks`; zero when it has.
    pub fn ns_of_ticks(&self, ticks: u64) -> u64 {
        let now = self.now_ns();
        match ticks.checked_sub(self.ticks_at(now)) {
            None | Some(0) => 0,
            Some(to_go) => (now / NS_PER_TICK).saturating_add(to_go).saturating_mul(NS_PER_TICK),
        }
    }

    /// Let time run (only the `Vm` actor calls this, with every vCPU paused).
    pub fn start(&self) {
        if !self.running.load(Ordering::Acquire) {
            if !self.stepped {
                self.base.fetch_sub(self.host_ns(), Ordering::AcqRel);
            }
            self.running.store(true, Ordering::Release);
        }
    }

    /// Freeze time (only the `Vm` actor calls this, with every vCPU paused).
    pub fn stop(&self) {
        if self.running.load(Ordering::Acquire) {
            let now = self.now_ns();
            self.running.store(false, Ordering::Release);
            if !self.stepped {
                self.base.store(now as i64, Ordering::Release);
            }
        }
    }

    /// Set the time of a stopped clock (a machine that takes over another's time).
    pub fn set_ns(&self, ns: u64) {
        if !self.running.load(Ordering::Acquire) {
            self.base.store(i64::try_from(ns).unwrap_or(i64::MAX), Ordering::Release);
        }
    }

    /// True while time runs.
    pub fn is_running(&self) -> bool {
        self.running.load(Ordering::Acquire)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moving_time_moves_deadlines() {
        let clock = VirtualClock::default();
        assert_eq!((clock.ticks(), clock.ns_of_ticks(30)), (0, 3000));
        clock.set_ticks(20);
        assert_eq!((clock.ticks(), clock.now_ns()), (20, 0));
        assert_eq!([19, 20, 21, u64::MAX].map(|t| clock.ns_of_ticks(t)), [0, 0, 100, u64::MAX]);
        assert_eq!(clock.ticks_at(1000), 30);
        clock.set_ticks(u64::MAX);
        assert_eq!((clock.ticks(), clock.ticks_at(200)), (u64::MAX, 1));
        clock.start();
        clock.set_ticks(0);
        assert!(clock.ticks() < TIMEBASE_HZ * 60);
    }
}
