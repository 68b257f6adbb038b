//! What harts ask of one another's caches: drop translations of written code, give up write
//! access to a page that now holds translated code, remote fences.
//!
//! A hart drains its inbox before it enters guest code, before it translates, at `fence.i` and
//! whenever it was kicked. A hart outside guest code therefore counts as fenced at once, and a
//! poster waits only for harts that run.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;

use super::irq::HartIrq;
use super::writes::WriteAccount;
use crate::machine::memory::{CodeObserver, code_bit};

/// One request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CacheRequest {
    /// Bytes of this RAM page changed: drop translations made from it.
    CodeWritten { page: u64 },
    /// Some hart translated code of this RAM page: writes to it must take the slow path.
    Protect { page: u64 },
    /// Writes to any of these RAM pages are to be seen again: they must take the slow path.
    ProtectRange { first: u64, count: u64 },
    /// `fence.i` on behalf of another hart.
    FenceI,
    /// `sfence.vma` on behalf of another hart; `None` means all pages.
    FenceVma { range: Option<(u64, u64)>, asid: Option<u16> },
}

/// The queue of one hart.
#[derive(Debug, Default)]
pub struct HartInbox {
    queue: Mutex<Vec<CacheRequest>>,
    posted: AtomicU64,
    drained: AtomicU64,
    in_guest: AtomicBool,
}

impl HartInbox {
    /// Queue a request; the number to hand to `is_done`.
    pub fn post(&self, request: CacheRequest) -> u64 {
        let mut queue = self.queue.lock();
        queue.push(request);
        self.posted.fetch_add(1, Ordering::SeqCst) + 1
    }

    /// True when everything up to request `number` has taken effect, or will before this hart
    /// executes another guest instruction.
    pub fn is_done(&self, number: u64) -> bool {
        self.drained.load(Ordering::SeqCst) >= number || !self.in_guest.load(Ordering::SeqCst)
    }

    /// True when there is something to drain.
    pub fn is_pending(&self) -> bool {
        self.posted.load(Ordering::SeqCst) != self.drained.load(Ordering::Relaxed)
    }

    /// Take everything queued. `finish_drain` must follow when it has been carried out.
    pub fn take(&self) -> (Vec<CacheRequest>, u64) {
        let mut queue = self.queue.lock();
        (std::mem::take(&mut *queue), self.posted.load(Ordering::SeqCst))
    }

    /// The requests up to `number` have been carried out.
    pub fn finish_drain(&self, number: u64) {
        self.drained.store(number, Ordering::SeqCst);
    }

    /// The owner says whether it may execute guest code; it drains after saying yes.
    pub fn set_in_guest(&self, yes: bool) {
        self.in_guest.store(yes, Ordering::SeqCst);
    }
}

/// One hart as the others see it.
#[derive(Debug, Clone, Default)]
pub struct Peer {
    pub inbox: Arc<HartInbox>,
    pub irq: Arc<HartIrq>,
    pub writes: Arc<WriteAccount>,
}

/// All harts of the machine, by index.
#[derive(Debug, Clone, Default)]
pub struct Peers(pub Arc<[Peer]>);

impl Peers {
    /// Peers of a machine with `count` harts.
    pub fn new(count: usize) -> Self {
        Self((0..count).map(|_| Peer::default()).collect())
    }

    /// Post to every hart but `me`, making those that run look at once; what to wait for.
    pub fn post_others(&self, me: usize, request: CacheRequest) -> Vec<(usize, u64)> {
        self.post(Some(me), request)
    }

    /// Post to every hart, for one who is none; what to wait for.
    pub fn post_all(&self, request: CacheRequest) -> Vec<(usize, u64)> {
        self.post(None, request)
    }

    fn post(&self, but: Option<usize>, request: CacheRequest) -> Vec<(usize, u64)> {
        let mut tickets = Vec::new();
        for (i, peer) in self.0.iter().enumerate().filter(|(i, _)| Some(*i) != but) {
            let number = peer.inbox.post(request);
            if !peer.inbox.is_done(number) {
                peer.irq.request_exit();
                tickets.push((i, number));
            }
        }
        tickets
    }

    /// True when every ticket is done.
    pub fn all_done(&self, tickets: &[(usize, u64)]) -> bool {
        tickets.iter().all(|&(i, number)| self.0[i].inbox.is_done(number))
    }
}

impl CodeObserver for Peers {
    fn code_written(&self, page: u64, harts: u8) {
        for (i, peer) in self.0.iter().enumerate() {
            if harts & code_bit(i) != 0 {
                peer.inbox.post(CacheRequest::CodeWritten { page });
                // A loop of translated code would otherwise never see the store.
                peer.irq.request_exit();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hart_outside_guest_code_is_done_at_once_and_a_running_one_when_drained() {
        let peers = Peers::new(3);
        peers.0[1].inbox.set_in_guest(true);
        let tickets = peers.post_others(0, CacheRequest::FenceI);
        assert_eq!(tickets.len(), 1);
        assert!(!peers.all_done(&tickets));
        assert_ne!(peers.0[1].irq.exit_flag().load(Ordering::SeqCst), 0);
        let (requests, upto) = peers.0[1].inbox.take();
        assert_eq!(requests, [CacheRequest::FenceI]);
        peers.0[1].inbox.finish_drain(upto);
        assert!(peers.all_done(&tickets));
        assert!(peers.0[2].inbox.is_pending());
    }

    #[test]
    fn written_code_is_told_to_the_harts_that_translated_it() {
        let peers = Peers::new(10);
        peers.code_written(7, code_bit(9));
        for (hart, peer) in peers.0.iter().enumerate() {
            let told = [1, 9].contains(&hart);
            let expect = told.then_some(CacheRequest::CodeWritten { page: 7 });
            assert_eq!(peer.inbox.take().0, Vec::from_iter(expect), "hart {hart}");
            assert_eq!(peer.irq.is_kicked(), told, "hart {hart}");
        }
    }
}
