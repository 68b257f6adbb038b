//! Harts leave reset together: none goes past its first instructions before every hart has run
//! its own. On a board the clock sees to this; here a thread may start late, and firmware that
//! elects its boot hart by a lottery (OpenSBI's `fw_jump`) loses a hart which draws after the
//! winner has finished.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Instructions that each hart runs first.
const FIRST: u32 = 64;
/// How long a hart waits for the others.
const PATIENCE: Duration = Duration::from_millis(200);

/// Counts the harts that have run their first instructions.
#[derive(Debug, Default)]
pub struct StartLine {
    harts: usize,
    arrived: AtomicUsize,
}

impl StartLine {
    /// A line for so many harts.
    pub fn new(harts: usize) -> Arc<Self> {
        Arc::new(Self { harts, arrived: AtomicUsize::new(0) })
    }

    /// There are harts to wait for.
    pub(super) fn is_shared(&self) -> bool {
        self.harts > 1
    }

    /// Before a reset, with every hart halted.
    pub fn reset(&self) {
        self.arrived.store(0, Ordering::Release);
    }
}

/// One hart's way to the line.
#[derive(Debug)]
pub(super) struct Approach {
    left: u32,
    since: Option<Instant>,
}

impl Approach {
    pub(super) fn new() -> Self {
        Self { left: FIRST, since: None }
    }

    /// Whether an instruction may be run before the line; counts it.
    pub(super) fn step(&mut self) -> bool {
        let may = self.left > 0;
        self.left = self.left.saturating_sub(1);
        may
    }

    /// The hart waits for an interrupt: nothing is left to run.
    pub(super) fn stand(&mut self, line: &StartLine) {
        self.left = 0;
        self.passed(line);
    }

    /// At the line: true when all are there, or long overdue.
    pub(super) fn passed(&mut self, line: &StartLine) -> bool {
        let since = *self.since.get_or_insert_with(|| {
            line.arrived.fetch_add(1, Ordering::AcqRel);
            Instant::now()
        });
        line.arrived.load(Ordering::Acquire) >= line.harts || since.elapsed() > PATIENCE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_passes_before_all_are_there() {
        let line = StartLine::new(2);
        let (mut a, mut b) = (Approach::new(), Approach::new());
        let steps = std::iter::from_fn(|| a.step().then_some(())).take(1000).count();
        assert_eq!(steps, FIRST as usize);
        assert!(!a.passed(&line));
        assert!(!a.passed(&line), "a hart counts once");
        b.stand(&line);
        assert!(!b.step());
        assert!(a.passed(&line) && b.passed(&line));
        line.reset();
        assert!(!Approach::new().passed(&line));
    }
}
