//! One hart with everything it reaches: state, interrupt lines, memory, bus, clock.

use std::any::Any;
use std::cell::Cell;
use std::collections::HashSet;
use std::sync::Arc;

use super::csr::bits::ENVCFG_CBZE;
use super::decode::cache::DecodeCache;
use super::inbox::{CacheRequest, HartInbox, Peers};
use super::irq::HartIrq;
use super::isa::IsaConfig;
use super::pmp;
use super::state::{HartState, Privilege};
use super::tlb::{DataMode, TlbSet};
use super::writes::WriteAccount;
use crate::actors::outlet::Outlet;
use crate::devices::bus::Bus;
use crate::machine::clock::VirtualClock;
use crate::machine::guest_random::GuestRandom;
use crate::machine::memory::{GuestRam, PAGE_SIZE, code_bit};

/// A synchronous exception, or an interrupt when bit 63 of `cause` is set. `tval` as the
/// Privileged spec 3.1.16 defines it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trap {
    pub cause: u64,
    pub tval: u64,
}

impl Trap {
    /// The cause of no architectural trap: a page of guest RAM has not arrived (`Hart::missing`
    /// says which), and the instruction, which has changed nothing, is to be executed again.
    pub const MISSING: u64 = 1 << 62;
}

/// Why a helper of translated code could not do its work.
#[derive(Debug)]
pub enum Stopped {
    Trap(Trap),
    /// Something beneath it panicked; the payload goes on where unwinding is possible again.
    Panic(Box<dyn Any + Send>),
}

/// Ask for `STIP` at `deadline` ticks of `time`; `None` disarms.
#[derive(Debug, Clone, Copy, PartialEq, Eq, actix::Message)]
#[rtype(result = "()")]
pub struct ArmStimer {
    pub deadline: Option<u64>,
}

/// What a hart reaches outside itself.
#[derive(Debug, Clone)]
pub struct HartEnv {
    pub hartid: u64,
    pub isa: Arc<IsaConfig>,
    pub ram: Arc<GuestRam>,
    pub bus: Arc<Bus>,
    pub irq: Arc<HartIrq>,
    pub clock: Arc<VirtualClock>,
    pub inbox: Arc<HartInbox>,
    pub peers: Peers,
    /// The supervisor timer of this hart.
    pub stimer: Outlet<ArmStimer>,
    /// What `seed` reads.
    pub random: GuestRandom,
}

/// A hart as the interpreter and the helpers of translated code see it.
#[derive(Debug)]
pub struct Hart {
    pub state: Box<HartState>,
    pub env: HartEnv,
    pub tlb: TlbSet,
    /// RAM pages whose translations must go before the next one is made or run after `fence.i`.
    pub stale_code: Vec<u64>,
    /// Pages that this hart translated from while another hart could still write them unseen,
    /// with the hash of their bytes then and what to wait for.
    pub unsettled_code: Vec<UnsettledPage>,
    /// Pages that this hart has made every write to seen of since it last heard of one.
    watched_code: HashSet<u64>,
    /// Why a helper of translated code stopped the hart; `state.pc` is the instruction.
    pub stopped: Option<Stopped>,
    /// What the interpreter has decoded.
    pub decoded: DecodeCache,
    /// Bytes, as address and length, without which the hart cannot go on: with `Trap::MISSING`.
    pub missing: Option<(u64, u64)>,
    mxr: bool,
    /// Where PMP was last asked about.
    pmp_window: Cell<pmp::Window>,
}

/// See `Hart::unsettled_code`.
#[derive(Debug)]
pub struct UnsettledPage {
    pub page: u64,
    pub hash: u32,
    pub tickets: Vec<(usize, u64)>,
}

/// `mstatus` bits (Privileged spec 3.1.6) that select the mode of data accesses.
const MSTATUS_MPRV: u64 = 1 << 17;
const MSTATUS_SUM: u64 = 1 << 18;
const MSTATUS_MXR: u64 = 1 << 19;
const MSTATUS_FS: u64 = 3 << 13;

impl Hart {
    /// A hart in the reset state of plain data; `trap::reset` gives it its architectural one.
    pub fn new(env: HartEnv) -> Self {
        let pages = env.ram.size() / PAGE_SIZE;
        let mut hart = Self {
            decoded: DecodeCache::new(&env.isa),
            state: Box::new(HartState::default()),
            env,
            tlb: TlbSet::new(pages),
            stale_code: Vec::new(),
            unsettled_code: Vec::new(),
            watched_code: HashSet::new(),
            stopped: None,
            missing: None,
            mxr: false,
            pmp_window: Cell::new(pmp::Window::EMPTY),
        };
        hart.context_changed();
        hart
    }

    /// The account of what this hart writes.
    pub fn writes(&self) -> Option<&WriteAccount> {
        let me = usize::try_from(self.env.hartid).ok()?;
        self.env.peers.0.get(me).map(|peer| &*peer.writes)
    }

    /// The privilege that loads and stores are done with (MPRV, Privileged spec 3.1.6.3).
    pub fn data_privilege(&self) -> Privilege {
        let s = &self.state;
        if s.privilege == Privilege::Machine && s.mstatus & MSTATUS_MPRV != 0 {
            match s.mstatus >> 11 & 3 {
                0 => Privilege::User,
                1 => Privilege::Supervisor,
                _ => Privilege::Machine,
            }
        } else {
            s.privilege
        }
    }

    /// Privilege, `mstatus`, `satp`, `frm` or the enabling of FP changed: select the TLB and jump
    /// cache that apply, and refresh what translated code reads.
    pub fn context_changed(&mut self) {
        let data = self.data_privilege();
        let s = &self.state;
        let sum = s.mstatus & MSTATUS_SUM != 0;
        let mxr = s.mstatus & MSTATUS_MXR != 0;
        if mxr != self.mxr {
            self.mxr = mxr;
            self.tlb.flush_all();
        }
        let mode = match data {
            Privilege::User => DataMode::User,
            Privilege::Supervisor if sum => DataMode::SupervisorSum,
            Privilege::Supervisor => DataMode::Supervisor,
            Privilege::Machine => DataMode::Machine,
        };
        self.tlb.select(s.satp, mode, s.privilege);
        self.refresh_links();
    }

    /// Tell translated code where the tables are now.
    pub fn refresh_links(&mut self) {
        let (base, mask) = self.tlb.table().inline_view();
        let jumps = self.tlb.jump_view();
        let cbo_zero = u32::from(super::system::cache_enabled(self, ENVCFG_CBZE));
        let s = &mut self.state;
        s.jit.tlb = base;
        s.jit.tlb_mask = mask;
        s.jit.jump_cache = jumps;
        s.jit.cbo_zero = cbo_zero;
        s.jit.fp_inline = u32::from(s.mstatus & MSTATUS_FS != 0 && s.frm < 4);
        // MXCSR.RC orders the modes nearest, down, up, zero; frm: nearest, zero, down, up.
        let rounding = [0, 3, 1, 2].get(usize::from(s.frm)).copied().unwrap_or(0);
        s.jit.guest_mxcsr = s.jit.guest_mxcsr & !0x6000 | rounding << 13;
    }

    /// PMP, or an enable that changes what page tables mean, changed: forget all translations.
    pub fn translations_changed(&mut self) {
        self.pmp_window.set(pmp::Window::EMPTY);
        self.tlb.flush_all();
    }

    /// What PMP allows below M-mode for all of `pa..pa+len`; `None` when not all of it is alike.
    pub fn pmp_below_machine(&self, pa: u64, len: u64) -> Option<u8> {
        let mut window = self.pmp_window.get();
        if !window.holds(pa, len) {
            window = pmp::Window::around(&self.state, self.env.isa.pmp_entries, pa);
            self.pmp_window.set(window);
        }
        window.holds(pa, len).then(|| window.allowed())
    }

    /// `sfence.vma` on this hart.
    pub fn sfence_vma(&mut self, va: Option<u64>, asid: Option<u16>) {
        self.tlb.fence(va, asid);
    }

    /// Accrued exception flags (NV 16, DZ 8, OF 4, UF 2, NX 1), those in MXCSR included.
    pub fn fflags(&self) -> u8 {
        let mxcsr = self.state.jit.guest_mxcsr;
        let from_host = |bit: u32, flag: u8| if mxcsr >> bit & 1 != 0 { flag } else { 0 };
        self.state.fflags
            | from_host(0, 16)
            | from_host(2, 8)
            | from_host(3, 4)
            | from_host(4, 2)
            | from_host(5, 1)
    }

    /// Replace the accrued exception flags.
    pub fn set_fflags(&mut self, flags: u8) {
        self.state.jit.guest_mxcsr &= !0x3f;
        self.state.fflags = flags & 31;
    }

    /// Accrue exception flags.
    pub fn raise_fflags(&mut self, flags: u8) {
        self.state.fflags |= flags;
    }

    /// FP state was written (Privileged spec 3.1.6.6).
    pub fn mark_fs_dirty(&mut self) {
        self.state.mstatus |= MSTATUS_FS;
    }

    /// Have `STIP` raised at `deadline` ticks of `time` (`u64::MAX`: never).
    pub fn arm_stimer(&mut self, deadline: u64) {
        let deadline = (deadline != u64::MAX).then_some(deadline);
        self.env.stimer.send(ArmStimer { deadline });
    }

    /// `fence.i`: from here on, instruction fetches see earlier stores.
    pub fn fence_i(&mut self) {
        self.drain_inbox();
        let unsettled = std::mem::take(&mut self.unsettled_code);
        for page in unsettled {
            let settled = self.env.peers.all_done(&page.tickets);
            if self.page_hash(page.page) != page.hash {
                self.stale_code.push(page.page);
            } else if !settled {
                self.unsettled_code.push(page);
            }
        }
        if !self.stale_code.is_empty() {
            self.env.irq.request_exit();
        }
    }

    /// RAM that is to be accessed has not arrived.
    pub fn misses(&mut self, addr: u64, len: u64) -> Trap {
        self.missing = Some((addr, len));
        Trap { cause: Trap::MISSING, tval: 0 }
    }

    /// A hash of a RAM page's bytes.
    pub fn page_hash(&self, page: u64) -> u32 {
        let mut bytes = [0; PAGE_SIZE as usize];
        let addr = self.env.ram.base() + page * PAGE_SIZE;
        match self.env.ram.read(addr, &mut bytes) {
            Ok(()) => crc32fast::hash(&bytes),
            Err(_) => 0,
        }
    }

    /// Carry out what other harts and devices asked of this hart's caches.
    pub fn drain_inbox(&mut self) {
        if !self.env.inbox.is_pending() {
            return;
        }
        let (requests, upto) = self.env.inbox.take();
        let mut fence_i = false;
        for request in requests {
            match request {
                CacheRequest::CodeWritten { page } => {
                    self.watched_code.remove(&page);
                    self.stale_code.push(page);
                }
                CacheRequest::Protect { page } => self.protect_page(page),
                CacheRequest::ProtectRange { first, count } => {
                    let start = self.env.ram.base() + first * PAGE_SIZE;
                    self.tlb.protect_range(start..start + count * PAGE_SIZE);
                }
                CacheRequest::FenceI => fence_i = true,
                CacheRequest::FenceVma { range, asid } => self.fence_range(range, asid),
            }
        }
        self.env.inbox.finish_drain(upto);
        if fence_i {
            self.fence_i();
        }
    }

    fn fence_range(&mut self, range: Option<(u64, u64)>, asid: Option<u16>) {
        /// Above this many pages one flush of everything is cheaper.
        const MOST_PAGES: u64 = 64;
        match range {
            Some((start, len)) if len.div_ceil(PAGE_SIZE) <= MOST_PAGES => {
                for i in 0..=len.saturating_sub(1) / PAGE_SIZE {
                    self.tlb.fence(Some(start.wrapping_add(i * PAGE_SIZE)), asid);
                }
            }
            _ => self.tlb.fence(None, asid),
        }
    }

    /// This hart is about to translate code from `page`: make every later write to it seen.
    pub fn watch_code_page(&mut self, page: u64) {
        let bit = code_bit(self.env.hartid as usize);
        let mask = self.env.ram.code_mask(page);
        // The bit alone may be another hart's.
        if mask.load(std::sync::atomic::Ordering::Acquire) & bit != 0
            && self.watched_code.contains(&page)
        {
            return;
        }
        self.watched_code.insert(page);
        mask.fetch_or(bit, std::sync::atomic::Ordering::SeqCst);
        self.protect_page(page);
        let tickets =
            self.env.peers.post_others(self.env.hartid as usize, CacheRequest::Protect { page });
        if !tickets.is_empty() {
            let hash = self.page_hash(page);
            self.unsettled_code.push(UnsettledPage { page, hash, tickets });
        }
    }

    fn protect_page(&mut self, page: u64) {
        self.tlb.protect(self.env.ram.base() + page * PAGE_SIZE, page);
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::cpu::inbox::Peer;
    use crate::machine::memory::{CodeObserver as _, RAM_BASE};

    /// What `count` harts reach that have `ram_size` bytes of RAM and nothing else.
    pub fn harts_alone(count: usize, isa: IsaConfig, ram_size: u64) -> Vec<HartEnv> {
        let ram = GuestRam::new(RAM_BASE, ram_size).expect("a little guest memory");
        let (isa, ram, bus, clock) = (Arc::new(isa), Arc::new(ram), Arc::default(), Arc::default());
        let peers = Peers::new(count);
        let env = |(hartid, peer): (usize, &Peer)| HartEnv {
            hartid: hartid as u64,
            isa: Arc::clone(&isa),
            ram: Arc::clone(&ram),
            bus: Arc::clone(&bus),
            irq: Arc::clone(&peer.irq),
            clock: Arc::clone(&clock),
            inbox: Arc::clone(&peer.inbox),
            peers: peers.clone(),
            stimer: Outlet::Unconnected,
            random: GuestRandom::default(),
        };
        peers.0.iter().enumerate().map(env).collect()
    }

    #[test]
    fn harts_that_share_a_bit_each_have_writes_to_their_code_seen() {
        let mut envs = harts_alone(9, IsaConfig::rv64(), 0x2000);
        let (mut last, mut first) = (Hart::new(envs.remove(8)), Hart::new(envs.remove(0)));
        let peers = first.env.peers.clone();
        let protect = [CacheRequest::Protect { page: 1 }];
        first.watch_code_page(1);
        assert_eq!(peers.0[8].inbox.take().0, protect);
        // The bit is set, by the other: what that one asked of the rest may not be done yet.
        last.watch_code_page(1);
        assert_eq!(peers.0[0].inbox.take().0, protect);
        last.watch_code_page(1);
        assert!(peers.0[0].inbox.take().0.is_empty(), "watched already");

        let harts = first.env.ram.code_mask(1).swap(0, std::sync::atomic::Ordering::SeqCst);
        peers.code_written(1, harts);
        for hart in [&mut first, &mut last] {
            hart.drain_inbox();
            assert_eq!(hart.stale_code, [1]);
        }
        first.watch_code_page(1);
        let after = &peers.0[8].inbox.take().0[..];
        assert_eq!(after, protect, "watched anew after a write");
    }
}
