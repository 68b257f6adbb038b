//! How much a hart writes, in pages, and how much it may: a page counts for the hart that writes it
//! first since it was last collected from the dirty log.
//!
//! The hart counts on its slow path, while the log is on; whoever measures or limits it reads and
//! writes the same numbers.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

/// Pages after which writing rests or goes on, for figures by the round: as many as a dirty ring of
/// 4096 entries takes in QEMU.
pub const ROUND: u64 = 4096;

/// The numbers of one hart.
#[derive(Debug, Default)]
pub struct WriteAccount {
    pages: AtomicU64,
    limited: AtomicBool,
    /// Pages that may be written before the hart rests.
    left: AtomicI64,
    /// Time at rest, in µs.
    rested: AtomicU64,
    /// Figures of the last period: MiB/s, and µs of rest a round.
    rate: AtomicU64,
    rest_a_round: AtomicU64,
}

impl WriteAccount {
    /// The hart has written a page; true when it has to rest now.
    pub fn count(&self) -> bool {
        self.pages.fetch_add(1, Ordering::Relaxed);
        self.limited.load(Ordering::Relaxed) && self.left.fetch_sub(1, Ordering::Relaxed) <= 1
    }

    /// Pages written so far.
    pub fn pages(&self) -> u64 {
        self.pages.load(Ordering::Relaxed)
    }

    /// True while the hart may not write.
    pub fn is_overdrawn(&self) -> bool {
        self.limited.load(Ordering::Relaxed) && self.left.load(Ordering::Relaxed) <= 0
    }

    /// Begin or end to limit the hart.
    pub fn limit(&self, on: bool) {
        self.left.store(0, Ordering::Relaxed);
        self.limited.store(on, Ordering::Relaxed);
    }

    /// Let the hart write `pages` more; what it has left is at most `most` then.
    pub fn allow(&self, pages: u64, most: u64) {
        let signed = |pages: u64| i64::try_from(pages).unwrap_or(i64::MAX);
        let more = |left: i64| Some(left.saturating_add(signed(pages)).min(signed(most)));
        // The closure always has an answer.
        let _ = self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
    }

    /// The hart has rested.
    pub fn rest(&self, time: Duration) {
        self.rested.fetch_add(time.as_micros() as u64, Ordering::Relaxed);
    }

    /// Time at rest so far, in µs.
    pub fn rested(&self) -> u64 {
        self.rested.load(Ordering::Relaxed)
    }

    /// What the last period came to.
    pub fn set_figures(&self, rate: u64, rest_a_round: u64) {
        self.rate.store(rate, Ordering::Relaxed);
        self.rest_a_round.store(rest_a_round, Ordering::Relaxed);
    }

    /// MiB/s in the last period.
    pub fn rate(&self) -> u64 {
        self.rate.load(Ordering::Relaxed)
    }

    /// µs at rest for every `ROUND` pages in the last period.
    pub fn rest_a_round(&self) -> u64 {
        self.rest_a_round.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hart_may_write_what_it_was_given() {
        let account = WriteAccount::default();
        assert!(!account.count() && !account.is_overdrawn());
        account.limit(true);
        assert!(account.is_overdrawn());
        account.allow(3, 10);
        assert_eq!([(); 3].map(|()| account.count()), [false, false, true]);
        assert!(account.is_overdrawn());
        // What was written too much is owed, and what is not used does not pile up.
        account.count();
        account.allow(1, 10);
        assert!(account.is_overdrawn());
        account.allow(100, 2);
        assert_eq!([(); 2].map(|()| account.count()), [false, true]);
        account.limit(false);
        assert!(!account.is_overdrawn());
        assert_eq!(account.pages(), 7);
    }
}
