//! Keeping harts below a rate: each is given pages to write many times a second, and rests when it
//! has written them (`cpu::writes`).

use std::ops::Range;
use std::time::Duration;

use actix::SpawnHandle;
use tokio::time::Instant;

use super::{PAGES_OF_MIB, WriteLimit, mib_a_second};
use crate::cpu::inbox::Peers;
use crate::cpu::writes::ROUND;
use crate::machine::dirty_log::DirtyLog;
use crate::machine::memory::PAGE_SIZE;

/// How often harts are given pages.
pub(super) const TICK: Duration = Duration::from_millis(10);
/// Longest time whose pages may be written at once.
const BURST: Duration = Duration::from_millis(100);

/// What one hart may do, and has done.
#[derive(Debug, Clone, Default)]
struct Share {
    /// MiB/s; 0 is no limit.
    limit: u64,
    /// Of the next page that it is given.
    part: f64,
    /// At the period's start: pages, µs of rest.
    pages: u64,
    rested: u64,
}

/// Limits harts until it is dropped.
#[derive(Debug)]
pub(super) struct Limiter {
    log: DirtyLog,
    harts: Peers,
    shares: Vec<Share>,
    period: Duration,
    begun: Instant,
    last: Instant,
    ticker: SpawnHandle,
}

impl Limiter {
    pub(super) fn new(log: DirtyLog, harts: Peers, ticker: SpawnHandle) -> Self {
        let now = Instant::now();
        let share = |hart: &crate::cpu::inbox::Peer| Share {
            pages: hart.writes.pages(),
            rested: hart.writes.rested(),
            ..Share::default()
        };
        let shares = harts.0.iter().map(share).collect();
        Self { log, harts, shares, period: Duration::ZERO, begun: now, last: now, ticker }
    }

    /// Whoever calls `tick`.
    pub(super) fn ticker(&self) -> SpawnHandle {
        self.ticker
    }

    /// Limit these to `rate` MiB/s, or no more.
    pub(super) fn set(&mut self, harts: Range<usize>, rate: u64, period: Duration) {
        self.period = period;
        for hart in harts {
            if (self.shares[hart].limit == 0) != (rate == 0) {
                self.harts.0[hart].writes.limit(rate > 0);
            }
            self.shares[hart].limit = rate;
        }
    }

    /// Nobody is limited.
    pub(super) fn is_idle(&self) -> bool {
        self.shares.iter().all(|share| share.limit == 0)
    }

    /// Who is.
    pub(super) fn limits(&self) -> Vec<WriteLimit> {
        let all = self.shares.iter().zip(self.harts.0.iter()).enumerate();
        let limits = all.map(|(cpu, (share, hart))| {
            let rate = hart.writes.rate();
            WriteLimit { cpu, most: share.limit, rate }
        });
        limits.filter(|limit| limit.most > 0).collect()
    }

    /// Give every hart what it may write since the last time; at a period's end, begin another.
    pub(super) fn tick(&mut self) {
        let now = Instant::now();
        let passed = now.duration_since(self.last).as_secs_f64();
        self.last = now;
        for (hart, share) in self.harts.0.iter().zip(&mut self.shares) {
            if share.limit > 0 {
                let pages = share.limit.saturating_mul(PAGES_OF_MIB) as f64;
                share.part += pages * passed;
                let most = (pages * BURST.as_secs_f64()) as u64;
                hart.writes.allow(share.part as u64, most.max(1));
                share.part = share.part.fract();
            }
        }
        let period = now.duration_since(self.begun);
        if period >= self.period {
            self.begun = now;
            self.next_period(period);
        }
    }

    /// Pages that were written count again.
    fn next_period(&mut self, passed: Duration) {
        let pages = self.log.ram().size() / PAGE_SIZE;
        self.log.take(0..pages, &mut |_| ());
        for (hart, share) in self.harts.0.iter().zip(&mut self.shares) {
            let account = &hart.writes;
            let (pages, rested) = (account.pages(), account.rested());
            let written = pages - share.pages;
            let rest = (rested - share.rested).saturating_mul(ROUND).checked_div(written);
            account.set_figures(mib_a_second(written, passed), rest.unwrap_or(0));
            (share.pages, share.rested) = (pages, rested);
        }
    }
}

impl Drop for Limiter {
    fn drop(&mut self) {
        for hart in self.harts.0.iter() {
            hart.writes.limit(false);
            hart.writes.set_figures(0, 0);
        }
    }
}
