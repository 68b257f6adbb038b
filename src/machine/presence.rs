//! Which pages of guest RAM are still at the source of a postcopy, and who waits for them.
//!
//! Off, it costs nothing: `GuestRam::host`, from which every host address of guest memory comes,
//! loads one flag that nobody writes. On, `host` refuses a range of which a page is missing
//! (`RamError::Missing`), whoever asks: a hart that fills a TLB entry, walks page tables or
//! fetches, a device, a monitor. So a TLB permits access to pages only that are there, and
//! translated code and TLB hits do not know of it. Nobody waits in here with a lock held:
//!
//! - A hart gives the instruction up, leaves guest code, and executes it again once the page is
//!   there; until then it answers its mailbox and takes interrupts like any hart that waits.
//! - A device leaves its queue as it was and goes on when it is told (`PagesArrived`).
//! - Threads that may wait (the loading of device sections, qtest) do, in `wait`.
//!
//! A page only ever goes from missing to present while the map is on. Whoever places it writes the
//! bytes first, clears the bit with release order, and wakes then; whoever sees the bit clear, with
//! acquire order, sees the bytes. The map is turned on while the machine is stopped and its TLBs
//! are empty, and turns itself off with the last page.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, RwLock};

/// Tells somebody that a page has come that it waits for, or never will.
#[derive(Clone)]
pub struct Wake(Arc<dyn Fn() + Send + Sync>);

impl Wake {
    /// By `tell`, which must not block.
    pub fn new(tell: impl Fn() + Send + Sync + 'static) -> Self {
        Self(Arc::new(tell))
    }

    /// Tell.
    pub fn wake(&self) {
        (self.0)();
    }
}

impl fmt::Debug for Wake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Wake")
    }
}

/// Asks the source for a run of pages; it must not block.
pub type Ask = Arc<dyn Fn(Range<u64>) + Send + Sync>;

/// The pages will not come any more.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("guest memory has not arrived and never will: {0}")]
pub struct Lost(pub Arc<str>);

/// The map.
#[derive(Default)]
pub struct PresenceMap {
    on: AtomicBool,
    /// A bit a page, set while it is missing; there while the map is on.
    missing: RwLock<Option<Box<[AtomicU64]>>>,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    left: u64,
    /// Pages asked for and not there yet, with whom to wake.
    wanted: BTreeMap<u64, Vec<Wake>>,
    ask: Option<Ask>,
    lost: Option<Lost>,
    blocked: Blocked,
}

/// How long harts waited for pages (QAPI's postcopy-blocktime).
#[derive(Debug, Default)]
struct Blocked {
    since: Vec<Option<Instant>>,
    times: Vec<Duration>,
    all_since: Option<Instant>,
    all: Duration,
}

impl fmt::Debug for PresenceMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PresenceMap({} missing)", self.left())
    }
}

impl PresenceMap {
    /// True while a page may be missing.
    #[inline]
    pub fn is_on(&self) -> bool {
        self.on.load(Ordering::Relaxed)
    }

    /// Pages that are missing.
    pub fn left(&self) -> u64 {
        self.state.lock().left
    }

    /// From now on the pages of `runs`, out of `pages`, are missing; `ask` is how to get them. No
    /// hart (of `harts`) runs, and none has a TLB entry for any of them.
    pub fn begin(
        &self,
        pages: u64,
        runs: impl IntoIterator<Item = Range<u64>>,
        harts: usize,
        ask: Ask,
    ) {
        let mut words = vec![0u64; pages.div_ceil(64) as usize];
        let mut left = 0;
        for page in runs.into_iter().flatten().filter(|&page| page < pages) {
            let word = &mut words[(page / 64) as usize];
            left += u64::from(*word >> (page % 64) & 1 == 0);
            *word |= 1 << (page % 64);
        }
        let mut state = self.state.lock();
        let blocked = Blocked {
            since: vec![None; harts],
            times: vec![Duration::ZERO; harts],
            ..Blocked::default()
        };
        *state = State { left, ask: Some(ask), blocked, ..State::default() };
        *self.missing.write() = Some(words.into_iter().map(AtomicU64::new).collect());
        self.on.store(true, Ordering::SeqCst);
        self.end_if_done(&mut state);
    }

    /// True when a page of `pages` is missing.
    #[cold]
    pub fn any_missing(&self, pages: Range<u64>) -> bool {
        self.next_missing(pages).is_some()
    }

    fn next_missing(&self, pages: Range<u64>) -> Option<u64> {
        let missing = self.missing.read();
        let words = missing.as_ref()?;
        let mut page = pages.start;
        while page < pages.end {
            let word = words.get((page / 64) as usize)?.load(Ordering::Acquire) >> (page % 64);
            if word == 0 {
                page = (page / 64 + 1) * 64;
                continue;
            }
            page += u64::from(word.trailing_zeros());
            return (page < pages.end).then_some(page);
        }
        None
    }

    /// Ask for what is missing of `pages`, and have `wake` called when the last of it may have
    /// come. True when nothing is missing.
    pub fn request(&self, pages: Range<u64>, wake: Option<&Wake>) -> Result<bool, Lost> {
        let mut state = self.state.lock();
        let mut asked: Vec<Range<u64>> = Vec::new();
        let (mut from, mut last) = (pages.start, None);
        while let Some(page) = self.next_missing(from..pages.end) {
            if let Some(lost) = &state.lost {
                return Err(lost.clone());
            }
            state.wanted.entry(page).or_insert_with(|| {
                match asked.last_mut() {
                    Some(run) if run.end == page => run.end += 1,
                    _ => asked.push(page..page + 1),
                }
                Vec::new()
            });
            last = Some(page);
            from = page + 1;
        }
        let Some(last) = last else { return Ok(true) };
        if let (Some(wake), Some(waiting)) = (wake, state.wanted.get_mut(&last))
            && !waiting.iter().any(|other| Arc::ptr_eq(&other.0, &wake.0))
        {
            waiting.push(wake.clone());
        }
        let ask = state.ask.clone();
        drop(state);
        if let Some(ask) = ask {
            asked.into_iter().for_each(|run| ask(run));
        }
        Ok(false)
    }

    /// Wait until all of `pages` is there. Only for threads that may block.
    pub fn wait(&self, pages: Range<u64>) -> Result<(), Lost> {
        while !self.request(pages.clone(), None)? {
            let mut state = self.state.lock();
            if state.lost.is_none() && self.any_missing(pages.clone()) {
                self.changed.wait(&mut state);
            }
        }
        Ok(())
    }

    /// Make `page` present: `write` puts its bytes, unless it is there already (the guest may have
    /// changed it since). Whether it was missing.
    pub fn place(&self, page: u64, write: impl FnOnce()) -> bool {
        let mut state = self.state.lock();
        if !self.any_missing(page..page + 1) {
            return false;
        }
        write();
        if let Some(word) = self.missing.read().as_ref().and_then(|w| w.get((page / 64) as usize)) {
            word.fetch_and(!(1 << (page % 64)), Ordering::Release);
        }
        state.left -= 1;
        let waiting = state.wanted.remove(&page).unwrap_or_default();
        self.end_if_done(&mut state);
        drop(state);
        self.changed.notify_all();
        waiting.iter().for_each(Wake::wake);
        true
    }

    fn end_if_done(&self, state: &mut State) {
        if state.left == 0 {
            self.on.store(false, Ordering::SeqCst);
            *self.missing.write() = None;
            state.ask = None;
        }
    }

    /// Pages that were asked for and are not there: what is asked for again over a new channel.
    pub fn wanted(&self) -> Vec<Range<u64>> {
        let mut runs: Vec<Range<u64>> = Vec::new();
        for &page in self.state.lock().wanted.keys() {
            match runs.last_mut() {
                Some(run) if run.end == page => run.end += 1,
                _ => runs.push(page..page + 1),
            }
        }
        runs
    }

    /// No page comes any more; whoever waits for one is told why.
    pub fn abandon(&self, reason: &str) {
        let mut state = self.state.lock();
        if state.left == 0 || state.lost.is_some() {
            return;
        }
        state.lost = Some(Lost(reason.into()));
        state.ask = None;
        let waiting = std::mem::take(&mut state.wanted);
        drop(state);
        self.changed.notify_all();
        waiting.values().flatten().for_each(Wake::wake);
    }

    /// A hart begins to wait for a page, or goes on.
    pub fn hart_waits(&self, hart: usize, waits: bool) {
        self.state.lock().blocked.set(hart, waits, Instant::now());
    }

    /// Milliseconds of the last postcopy in which all harts waited, and in which each did.
    pub fn blocktime(&self) -> (u32, Vec<u32>) {
        let state = self.state.lock();
        let millis = |time: Duration| u32::try_from(time.as_millis()).unwrap_or(u32::MAX);
        let blocked = &state.blocked;
        (millis(blocked.all), blocked.times.iter().copied().map(millis).collect())
    }
}

impl Blocked {
    fn set(&mut self, hart: usize, waits: bool, now: Instant) {
        let Some(since) = self.since.get_mut(hart) else { return };
        if waits == since.is_some() {
            return;
        }
        match since.take() {
            None => *since = Some(now),
            Some(then) => {
                self.times[hart] += now.saturating_duration_since(then);
                if let Some(then) = self.all_since.take() {
                    self.all += now.saturating_duration_since(then);
                }
            }
        }
        if waits && self.since.iter().all(Option::is_some) {
            self.all_since = Some(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU32;

    use super::*;
    use crate::machine::memory::{GuestRam, PAGE_SIZE, RAM_BASE, RamError};

    fn asked() -> (Ask, Arc<Mutex<Vec<Range<u64>>>>) {
        let runs = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&runs);
        (Arc::new(move |run| kept.lock().push(run)), runs)
    }

    #[test]
    fn a_page_is_asked_for_once_and_tells_those_who_wait() {
        let map = PresenceMap::default();
        let (ask, runs) = asked();
        map.begin(200, [3..6, 100..101, 199..300], 1, ask);
        assert_eq!((map.is_on(), map.left()), (true, 5));
        let woken = Arc::new(AtomicU32::new(0));
        let count = Arc::clone(&woken);
        let wake = Wake::new(move || {
            count.fetch_add(1, Ordering::SeqCst);
        });
        assert_eq!(map.request(0..3, Some(&wake)), Ok(true));
        assert_eq!(map.request(4..101, Some(&wake)), Ok(false));
        // Who asks again is not told twice.
        assert_eq!(map.request(4..101, Some(&wake)), Ok(false));
        assert_eq!(*runs.lock(), [4..6, 100..101]);
        assert_eq!(map.wanted(), [4..6, 100..101]);
        assert!(map.place(4, || ()) && map.place(5, || ()));
        assert_eq!(woken.load(Ordering::SeqCst), 0);
        assert!(map.place(100, || ()));
        assert_eq!((woken.load(Ordering::SeqCst), map.wanted().len()), (1, 0));
        let twice = map.place(100, || panic!("the guest's own bytes are overwritten"));
        assert!(!twice);
        assert!(map.place(3, || ()) && map.is_on());
        assert!(map.place(199, || ()) && !map.is_on());
        assert_eq!(map.request(0..200, None), Ok(true));
    }

    #[test]
    fn what_is_lost_is_told_and_hangs_nobody() {
        let map = Arc::new(PresenceMap::default());
        map.begin(10, std::iter::once(0..10), 1, asked().0);
        let waits = Arc::clone(&map);
        let waiter = std::thread::spawn(move || waits.wait(2..4));
        while map.wanted().is_empty() {
            std::thread::yield_now();
        }
        map.abandon("the actor is gone");
        let lost = Lost("the actor is gone".into());
        assert_eq!(waiter.join().unwrap(), Err(lost.clone()));
        assert_eq!(map.request(9..10, None), Err(lost));
    }

    #[test]
    fn threads_see_whole_pages_only() {
        const PAGES: u64 = 512;
        let ram = Arc::new(GuestRam::new(RAM_BASE, PAGES * PAGE_SIZE).unwrap());
        let (ask, _) = asked();
        ram.presence().begin(PAGES, std::iter::once(0..PAGES), 1, ask);
        assert!(matches!(ram.load_u16(RAM_BASE), Err(RamError::Missing { .. })));
        let readers: Vec<_> = (0..2)
            .map(|_| {
                let ram = Arc::clone(&ram);
                std::thread::spawn(move || {
                    for page in (0..PAGES).rev() {
                        let addr = RAM_BASE + page * PAGE_SIZE;
                        ram.presence().wait(page..page + 1).unwrap();
                        let mut bytes = [0; PAGE_SIZE as usize];
                        ram.read(addr, &mut bytes).unwrap();
                        assert!(bytes.iter().all(|&b| b == page as u8 | 1), "page {page}");
                    }
                })
            })
            .collect();
        for page in 0..PAGES {
            let bytes = [page as u8 | 1; PAGE_SIZE as usize];
            assert!(ram.place(RAM_BASE + page * PAGE_SIZE, Some(&bytes)).unwrap());
        }
        readers.into_iter().for_each(|reader| reader.join().unwrap());
        assert!(!ram.presence().is_on());
    }

    #[test]
    fn only_the_time_in_which_all_harts_wait_is_downtime() {
        let mut blocked =
            Blocked { since: vec![None; 2], times: vec![Duration::ZERO; 2], ..Blocked::default() };
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        for (hart, waits, ms) in [(0, true, 0), (1, true, 10), (0, false, 15), (1, false, 40)] {
            blocked.set(hart, waits, at(ms));
            blocked.set(hart, waits, at(ms + 1));
            blocked.set(7, waits, at(ms));
        }
        let times = blocked.times.iter().map(Duration::as_millis).collect::<Vec<_>>();
        assert_eq!((times, blocked.all.as_millis()), (vec![15, 30], 5));
    }
}
