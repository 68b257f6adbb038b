//! The figures of a migration: what `query-migrate` and the decision to stop the machine rest on.

use std::time::Duration;

use tokio::time::Instant;

use super::super::Memory;
use super::super::multifd::SideChannels;
use super::Run;
use crate::migration::capability::Capability;
use crate::migration::message::Progress;

/// How often figures are told, and the bandwidth is measured.
const TICK: Duration = Duration::from_millis(100);
/// Without a byte taken for this long, a peer counts as stalled.
const STALLED: Duration = Duration::from_secs(1);

/// What the figures are made of.
pub(super) struct Figures {
    pub(super) begun: Instant,
    pub(super) setup: Duration,
    pub(super) stopped: Option<Instant>,
    pub(super) downtime: Option<Duration>,
    /// What had been sent when the postcopy began.
    pub(super) postcopy: Option<u64>,
    /// Bytes sent over channels that are gone.
    pub(super) lost_lines: u64,
    /// When the window began that bandwidth is measured over, and what had been sent then.
    window: Instant,
    window_bytes: u64,
    window_pages: u64,
    /// bytes/ms
    pub(super) bandwidth: f64,
    pages_per_second: u64,
    pub(super) passes: u64,
    pub(super) remaining_at_pass: u64,
    pub(super) pass_begun: Instant,
    dirty_pages_rate: u64,
}

impl Figures {
    pub(super) fn new() -> Self {
        let now = Instant::now();
        Self {
            begun: now,
            setup: Duration::ZERO,
            stopped: None,
            downtime: None,
            postcopy: None,
            lost_lines: 0,
            window: now,
            window_bytes: 0,
            window_pages: 0,
            bandwidth: 0.0,
            pages_per_second: 0,
            passes: 0,
            remaining_at_pass: 0,
            pass_begun: now,
            dirty_pages_rate: 0,
        }
    }
}

fn millis(duration: Duration) -> u64 {
    duration.as_millis().min(u128::from(u64::MAX)) as u64
}

impl Run {
    /// A pass over memory begins.
    pub(super) fn pass(&mut self, memory: &dyn Memory) {
        let figures = &mut self.figures;
        figures.passes += 1;
        let seconds = figures.pass_begun.elapsed().as_secs_f64();
        if figures.passes > 1 && seconds > 0.0 {
            let dirty = memory.remaining().saturating_sub(figures.remaining_at_pass);
            figures.dirty_pages_rate = (dirty as f64 / 4096.0 / seconds) as u64;
        }
        figures.remaining_at_pass = memory.remaining();
        figures.pass_begun = Instant::now();
        self.reporter.pass(figures.passes);
    }

    pub(super) fn next_tick(&self) -> Instant {
        self.figures.window + TICK
    }

    /// Measure the bandwidth, and tell how it goes.
    pub(super) fn tick(&mut self, memory: &dyn Memory) {
        let stats = memory.stats();
        let sent = self.transferred();
        let pages = stats.normal + stats.duplicate;
        let figures = &mut self.figures;
        let elapsed = figures.window.elapsed().as_secs_f64();
        if elapsed > 0.0 {
            let bytes = sent.saturating_sub(figures.window_bytes);
            figures.bandwidth = bytes as f64 / (elapsed * 1000.0);
            let pages = pages.saturating_sub(figures.window_pages);
            figures.pages_per_second = (pages as f64 / elapsed) as u64;
        }
        figures.window = Instant::now();
        figures.window_bytes = sent;
        figures.window_pages = pages;
        self.report(memory);
    }

    pub(super) fn report(&mut self, memory: &dyn Memory) {
        let figures = &self.figures;
        let control = self.line.as_ref().map(|line| &line.control);
        let transferred = self.transferred();
        let total = figures.begun.elapsed();
        let after_setup = (total - figures.setup.min(total)).as_secs_f64();
        let mut ram = memory.stats();
        ram.transferred = transferred;
        ram.multifd_bytes = match &self.sides {
            Some(sides) if self.mapped.is_none() => sides.bytes_written(),
            Some(sides) if self.settings.capabilities.has(Capability::Multifd) => {
                sides.bytes_sent()
            }
            _ => 0,
        };
        ram.remaining = memory.remaining();
        ram.dirty_sync_count = figures.passes;
        ram.dirty_pages_rate = figures.dirty_pages_rate;
        ram.pages_per_second = figures.pages_per_second;
        ram.mbps =
            if after_setup > 0.0 { transferred as f64 * 8.0 / after_setup / 1e6 } else { 0.0 };
        match self.hold.was() {
            None => ram.precopy_bytes = transferred,
            Some(_) if let Some(begun) = figures.postcopy => {
                let before = self.reporter.last.lock().progress.ram.precopy_bytes;
                ram.precopy_bytes = before;
                ram.downtime_bytes = begun.saturating_sub(before);
                ram.postcopy_bytes = transferred.saturating_sub(begun);
            }
            Some(_) => {
                let before = self.reporter.last.lock().progress.ram.precopy_bytes;
                ram.precopy_bytes = before;
                ram.downtime_bytes = transferred.saturating_sub(before);
            }
        }
        let expected = match figures.bandwidth {
            bandwidth if bandwidth > 0.0 => (memory.remaining() as f64 / bandwidth) as u64,
            _ => self.wishes.borrow().parameters.downtime_limit,
        };
        let side = self.sides.as_ref().and_then(SideChannels::idle).unwrap_or(Duration::MAX);
        let idle = control.map(|c| c.idle().min(side)).filter(|&idle| idle >= STALLED);
        self.reporter.progress(Progress {
            ram,
            xbzrle: memory.xbzrle(),
            total_time: millis(total),
            setup_time: millis(figures.setup),
            downtime: figures.downtime.map(millis),
            expected_downtime: Some(expected),
            cpu_throttle_percentage: self.convergence.percent(),
            dirty_limit: self.convergence.limits(),
            threads: self.sides.as_ref().map(SideChannels::threads).unwrap_or_default(),
            stalled: idle.map(millis),
            blocktime: None,
        });
    }
}
