//! The machine's virtual clock: nanoseconds that stop while the machine is stopped. The timer
//! actor that turns it into messages is `actors::timer`.

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
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
}

impl Default for VirtualClock {
    fn default() -> Self {
        Self {
            origin: Instant::now(),
            running: AtomicBool::new(false),
            stepped: false,
            base: AtomicI64::new(0),
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

    /// `time` / `mtime`, in ticks of `TIMEBASE_HZ`.
    pub fn ticks(&self) -> u64 {
        self.now_ns() / NS_PER_TICK
    }

    /// Virtual time in nanoseconds at which `ticks()` first reads `ticks`.
    pub fn ns_of_ticks(ticks: u64) -> u64 {
        ticks.saturating_mul(NS_PER_TICK)
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
