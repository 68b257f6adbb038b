//! The dirty log: which pages of guest RAM were written since they were last asked about.
//!
//! Off, it costs nothing: translated code and TLB hits do not know of it, and what goes through
//! `GuestRam::written` loads one flag that nobody writes. On, it rests on one invariant:
//!
//! > A hart's TLB permits writes to a page only while the page's bit is set, or until the hart has
//! > answered the request to give the permission up.
//!
//! A hart sets the bit on the slow path before it fills the entry that permits the write (`grant`).
//! Everyone else (devices, the loader, page-table A and D bits, atomics) sets it after the write
//! (`GuestRam::written`). To collect is to clear the bits, to have every hart give up its write
//! permissions, and only then to tell the collector, who then copies. No write is lost in between:
//!
//! - A hart's write by an entry that it still had happens before its answer, so the copy has it.
//! - A hart that fills an entry after the bits were cleared has set the bit again: next time.
//! - A device's write before the clearing of its bit is seen through that bit (release by the
//!   mark, acquire by the clearing); one whose mark comes later is collected next time.
//!
//! Turning the log on has a race of its own: a device writes, finds the log off, and its write is
//! still in a store buffer when the collector, who has just turned it on, copies the page. A fence
//! in every device write would close it; `membarrier(2)`, by the one who turns it on, closes it
//! for all threads at once and leaves the writers as they are.

use std::ops::Range;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;
use rustix::thread::{MembarrierCommand, membarrier};

use super::memory::{GuestRam, PAGE_SIZE};
use crate::cpu::inbox::{CacheRequest, Peers};

/// The bits, as the RAM itself holds them.
#[derive(Debug, Default)]
pub struct DirtyMap {
    on: AtomicBool,
    /// A bit a page; there from the first use on.
    words: OnceLock<Box<[AtomicU64]>>,
    /// How many bits were set that were not set before.
    marked: AtomicU64,
    users: Mutex<Users>,
}

#[derive(Debug, Default)]
struct Users {
    next: u64,
    list: Vec<User>,
}

/// What one user has to be told that another one collected.
#[derive(Debug)]
struct User {
    number: u64,
    missed: Box<[u64]>,
}

impl DirtyMap {
    /// True while somebody wants to know. Whoever has just written a page asks afterwards.
    #[inline]
    pub fn is_on(&self) -> bool {
        // The write that this asks about stays before the load; see the module comment.
        std::sync::atomic::compiler_fence(Ordering::SeqCst);
        self.on.load(Ordering::Relaxed)
    }

    fn words(&self) -> &[AtomicU64] {
        self.words.get().map_or(&[], |w| w)
    }

    /// The pages `first..=last` were written; how many of them had not been before.
    #[cold]
    pub fn mark(&self, first: u64, last: u64) -> u64 {
        let (mut page, mut fresh) = (first, 0);
        while page <= last {
            let Some(word) = self.words().get((page / 64) as usize) else { break };
            let in_word = (64 - page % 64).min(last - page + 1);
            let bits = (u64::MAX >> (64 - in_word)) << (page % 64);
            // Not skipped when they are set already: the mark must be ordered after the write.
            let old = word.fetch_or(bits, Ordering::AcqRel);
            fresh += u64::from((bits & !old).count_ones());
            page += in_word;
        }
        self.marked.fetch_add(fresh, Ordering::Relaxed);
        fresh
    }

    /// Whether a hart that fills a TLB entry for `page` may permit writes by it. One that is
    /// about to store (`storing`) may always: the page is dirty from now on.
    #[cold]
    pub fn grant(&self, page: u64, storing: bool) -> Grant {
        if storing {
            return if self.mark(page, page) > 0 { Grant::First } else { Grant::Again };
        }
        let word = self.words().get((page / 64) as usize);
        match word.is_some_and(|w| w.load(Ordering::Acquire) >> (page % 64) & 1 != 0) {
            true => Grant::Again,
            false => Grant::Refused,
        }
    }
}

/// What became of a hart's wish to write a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Grant {
    /// The page has to stay unwritten until somebody stores to it.
    Refused,
    /// It may be written, and had been.
    Again,
    /// It may be written, for the first time since it was last collected.
    First,
}

/// The host cannot order the harts' and devices' writes.
#[derive(Debug, thiserror::Error)]
#[error("cannot log the guest's writes: membarrier: {0}")]
pub struct DirtyLogError(#[from] rustix::io::Errno);

/// A right to ask which pages were written; the log is on as long as one is there. Several may be
/// there at once, and each is told of every page.
#[derive(Debug)]
pub struct DirtyLog {
    ram: Arc<GuestRam>,
    harts: Peers,
    number: u64,
}

impl DirtyLog {
    /// Turn the log on, for the RAM that `harts` (all of the machine) write to. Every write after
    /// this returns is logged, and every write before it can be read; one in between may be either.
    pub fn start(ram: Arc<GuestRam>, harts: Peers) -> Result<Self, DirtyLogError> {
        let pages = ram.size() / PAGE_SIZE;
        let map = ram.dirty_map();
        let mut users = map.users.lock();
        let words =
            map.words.get_or_init(|| (0..pages.div_ceil(64)).map(|_| AtomicU64::new(0)).collect());
        if users.list.is_empty() {
            // Bits of a log that was on before; a mark that comes late is one page too many.
            words.iter().for_each(|w| w.store(0, Ordering::Relaxed));
            map.on.store(true, Ordering::SeqCst);
            if let Err(error) = order_all_threads() {
                map.on.store(false, Ordering::SeqCst);
                return Err(error.into());
            }
            give_up_write_permission(&harts, 0..pages);
        }
        let number = users.next;
        users.next += 1;
        let missed = vec![0; words.len()].into_boxed_slice();
        users.list.push(User { number, missed });
        drop(users);
        Ok(Self { ram, harts, number })
    }

    /// Tell `found` the runs of `pages` (indices from the start of RAM) written since this log was
    /// started or last asked, and start over with them; how many pages there were.
    ///
    /// What `found` then copies, or the caller copies later, holds every write up to now. This
    /// waits for the harts that run: a few microseconds, or until the host gives each its turn.
    pub fn take(&self, pages: Range<u64>, found: &mut dyn FnMut(Range<u64>)) -> u64 {
        let map = self.ram.dirty_map();
        let end = pages.end.min(self.ram.size() / PAGE_SIZE);
        if pages.start >= end {
            return 0;
        }
        let first_word = (pages.start / 64) as usize;
        let words = first_word..end.div_ceil(64) as usize;
        let mut taken = Vec::with_capacity(words.len());
        let mut users = map.users.lock();
        for i in words {
            let base = i as u64 * 64;
            let mut mask = u64::MAX;
            if base < pages.start {
                mask &= u64::MAX << (pages.start - base);
            }
            if end - base < 64 {
                mask &= !(u64::MAX << (end - base));
            }
            let Some(word) = map.words().get(i) else { break };
            let fresh = match word.load(Ordering::Relaxed) & mask {
                0 => 0,
                _ => word.fetch_and(!mask, Ordering::AcqRel) & mask,
            };
            let mut bits = fresh;
            for user in users.list.iter_mut() {
                if user.number == self.number {
                    bits |= user.missed[i] & mask;
                    user.missed[i] &= !mask;
                } else {
                    user.missed[i] |= fresh;
                }
            }
            taken.push(bits);
        }
        let mut runs = Vec::new();
        let mut count = 0;
        for (i, bits) in taken.iter().enumerate() {
            count += u64::from(bits.count_ones());
            push_runs(&mut runs, (first_word + i) as u64 * 64, *bits);
        }
        if let (Some(first), Some(last)) = (runs.first(), runs.last()) {
            give_up_write_permission(&self.harts, first.start..last.end);
        }
        // Until here no other user may copy what this one has cleared.
        drop(users);
        runs.into_iter().for_each(found);
        count
    }

    /// How often a clean page turned dirty since the process began: the difference over a time is
    /// the number of pages written in it, of which those that were collected in it count again.
    pub fn marked(&self) -> u64 {
        self.ram.dirty_map().marked.load(Ordering::Relaxed)
    }

    /// The RAM whose writes are logged.
    pub fn ram(&self) -> &Arc<GuestRam> {
        &self.ram
    }
}

impl Drop for DirtyLog {
    fn drop(&mut self) {
        let map = self.ram.dirty_map();
        let mut users = map.users.lock();
        users.list.retain(|u| u.number != self.number);
        if users.list.is_empty() {
            map.on.store(false, Ordering::SeqCst);
        }
    }
}

/// Append the runs of set bits, of which bit 0 is page `base`.
fn push_runs(runs: &mut Vec<Range<u64>>, base: u64, mut bits: u64) {
    while bits != 0 {
        let from = bits.trailing_zeros();
        let len = (bits >> from).trailing_ones();
        let start = base + u64::from(from);
        match runs.last_mut() {
            Some(last) if last.end == start => last.end += u64::from(len),
            _ => runs.push(start..start + u64::from(len)),
        }
        if from + len == 64 {
            break;
        }
        bits &= u64::MAX << (from + len);
    }
}

/// Have every thread of the process see, or have made seen, what was written before.
fn order_all_threads() -> rustix::io::Result<()> {
    membarrier(MembarrierCommand::RegisterPrivateExpedited)
        .and_then(|()| membarrier(MembarrierCommand::PrivateExpedited))
        .or_else(|_| membarrier(MembarrierCommand::Global))
}

/// Returns when no hart writes `pages` without asking. One that does not run answers before it
/// executes another instruction.
fn give_up_write_permission(harts: &Peers, pages: Range<u64>) {
    /// Looks before the processor is left to somebody else.
    const SPINS: u32 = 200;
    let request = CacheRequest::ProtectRange { first: pages.start, count: pages.end - pages.start };
    let tickets = harts.post_all(request);
    let mut spins = 0;
    while !harts.all_done(&tickets) {
        if spins < SPINS {
            spins += 1;
            std::hint::spin_loop();
        } else {
            std::thread::yield_now();
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::machine::memory::RAM_BASE;

    const PAGES: u64 = 200;

    fn ram() -> Arc<GuestRam> {
        Arc::new(GuestRam::new(RAM_BASE, PAGES * PAGE_SIZE).unwrap())
    }

    fn taken(log: &DirtyLog, pages: Range<u64>) -> Vec<u64> {
        let mut all = Vec::new();
        let count = log.take(pages, &mut |run| all.extend(run));
        assert_eq!(count, all.len() as u64);
        all
    }

    #[derive(Debug, Clone)]
    enum Step {
        Write { at: u64, len: u64 },
        Take { log: usize, pages: Range<u64> },
    }

    fn step() -> impl Strategy<Value = Step> {
        let bytes = PAGES * PAGE_SIZE;
        prop_oneof![
            3 => (0..bytes, prop_oneof![1..9u64, 1..300_000u64])
                .prop_map(move |(at, len)| Step::Write { at, len: len.min(bytes - at) }),
            1 => (0..2usize, 0..PAGES + 9, 0..PAGES + 9)
                .prop_map(|(log, a, b)| Step::Take { log, pages: a.min(b)..a.max(b) }),
        ]
    }

    proptest! {
        /// Two users against two sets.
        #[test]
        fn each_user_is_told_of_every_page_once(steps in prop::collection::vec(step(), 1..60)) {
            let ram = ram();
            let peers = Peers::new(1);
            let start = || DirtyLog::start(Arc::clone(&ram), peers.clone()).unwrap();
            let logs = [start(), start()];
            let mut model = [const { std::collections::BTreeSet::new() }; 2];
            for step in steps {
                match step {
                    Step::Write { at, len } => {
                        ram.fill(RAM_BASE + at, len, 1).unwrap();
                        let pages = at / PAGE_SIZE..=(at + len - 1) / PAGE_SIZE;
                        model.iter_mut().for_each(|m| m.extend(pages.clone()));
                    }
                    Step::Take { log, pages } => {
                        let expected: Vec<u64> =
                            model[log].iter().copied().filter(|p| pages.contains(p)).collect();
                        model[log].retain(|p| !pages.contains(p));
                        prop_assert_eq!(taken(&logs[log], pages), expected);
                    }
                }
            }
            for (log, rest) in logs.iter().zip(model) {
                prop_assert_eq!(taken(log, 0..PAGES), rest.into_iter().collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn it_is_on_while_one_is_there_and_begins_empty() {
        let ram = ram();
        ram.store_u64(RAM_BASE, 1).unwrap();
        assert!(!ram.dirty_map().is_on());
        let log = DirtyLog::start(Arc::clone(&ram), Peers::new(1)).unwrap();
        assert!(taken(&log, 0..PAGES).is_empty());
        ram.store_u64(RAM_BASE + 3 * PAGE_SIZE, 1).unwrap();
        let second = DirtyLog::start(Arc::clone(&ram), Peers::new(1)).unwrap();
        drop(log);
        ram.store_u64(RAM_BASE + 4 * PAGE_SIZE, 1).unwrap();
        assert_eq!(taken(&second, 4..PAGES), [4]);
        drop(second);
        assert!(!ram.dirty_map().is_on());
        ram.store_u64(RAM_BASE + 5 * PAGE_SIZE, 1).unwrap();
        let third = DirtyLog::start(ram, Peers::new(1)).unwrap();
        assert!(taken(&third, 0..PAGES).is_empty());
    }

    #[test]
    fn harts_are_asked_to_give_up_what_was_collected_and_only_then() {
        let ram = ram();
        let peers = Peers::new(2);
        let log = DirtyLog::start(Arc::clone(&ram), peers.clone()).unwrap();
        let asked = || peers.0[1].inbox.take().0;
        assert_eq!(asked(), [CacheRequest::ProtectRange { first: 0, count: PAGES }]);
        taken(&log, 0..PAGES);
        assert_eq!(asked(), []);
        for page in [7, 70, 71] {
            ram.store_u32(RAM_BASE + page * PAGE_SIZE, 1).unwrap();
        }
        assert_eq!(log.marked(), 3);
        assert_eq!(taken(&log, 0..PAGES), [7, 70, 71]);
        assert_eq!(asked(), [CacheRequest::ProtectRange { first: 7, count: 65 }]);
    }
}
