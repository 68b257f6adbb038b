//! Runs one hart by translated code: finds or makes the block for a pc, enters it, and answers
//! the reasons for which it comes back.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::io;

use super::cache::CodeCache;
use super::ir::{Block, BlockShape};
use super::optimise::drop_dead_writes;
use super::translate::translate;
use super::x64::stubs::{self, Stubs, reason};
use super::x64::{self, Emitted};
use crate::cpu::hart::{Hart, Stopped, Trap};
use crate::cpu::insn::Insn;
use crate::cpu::interpret;
use crate::cpu::state::HartState;
use crate::machine::memory::PAGE_SIZE;

/// Size of a hart's code cache, in bytes, when nobody says.
pub fn default_cache(harts: u32) -> usize {
    /// What one hart gets at most: it holds all the code of a Linux boot several times.
    const MOST: usize = 64 << 20;
    /// What all harts share, twice over in address space.
    const ALL: usize = 2 << 30;
    MOST.min(ALL / harts.max(1) as usize)
}

/// Least free space that a translation is started with.
const HEADROOM: usize = 64 << 10;
/// Bytes of the `call` that replaces the entry of a dropped block.
const CALL_LEN: usize = 5;

/// No translator for this host.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    #[error("the translator needs a host CPU with {0}; use -accel interp")]
    HostCpu(&'static str),
    #[error("cannot set up a code cache of {size} bytes: {source}")]
    Cache { size: usize, source: io::Error },
    #[error("cannot assemble the translator's stubs: {0}")]
    Stubs(String),
}

/// Why `Engine::run` came back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// The hart was kicked, waits, or has interrupts to look at.
    Polled,
    /// An instruction trapped; `state.pc` is its address.
    Trap(Trap),
}

/// Counters for `info jit`.
#[derive(Debug, Default, Clone, Copy)]
pub struct EngineStats {
    pub blocks: u64,
    pub guest_insns: u64,
    pub code_bytes: u64,
    pub flushes: u64,
    pub dropped: u64,
    pub links: u64,
    pub look_ups: u64,
    pub stepped: u64,
}

/// Told of every block made (`-d in_asm,op,out_asm`): the block before and after optimisation,
/// the virtual address of its page, its code and where that runs.
pub type Observer = Box<dyn FnMut(&Translated<'_>) + Send>;

/// Told of every entry into a block, or step of one instruction outside blocks (`-d exec,cpu`): the
/// hart, and the address of the block's code.
pub struct EntryObserver(Box<ShowEntry>);

type ShowEntry = dyn FnMut(&Hart, Option<usize>) + Send;

impl EntryObserver {
    /// An observer that is this function.
    pub fn new(show: impl FnMut(&Hart, Option<usize>) + Send + 'static) -> Self {
        Self(Box::new(show))
    }

    /// Show an entry.
    pub fn show(&mut self, hart: &Hart, code: Option<usize>) {
        (self.0)(hart, code);
    }
}

impl std::fmt::Debug for EntryObserver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("EntryObserver")
    }
}

/// A block as an `Observer` sees it.
#[derive(Debug)]
pub struct Translated<'a> {
    pub page_va: u64,
    pub block: &'a Block,
    pub code: &'a [u8],
    pub address: usize,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    code: usize,
    pa: u64,
}

#[derive(Debug, Clone, Copy)]
struct Link {
    /// Executable address of the displacement.
    at: usize,
    target: u16,
}

/// Multiplicative hash of addresses.
#[derive(Debug, Default)]
struct AddressHasher(u64);

impl Hasher for AddressHasher {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        for &b in bytes {
            self.write_u64(u64::from(b));
        }
    }
    fn write_u64(&mut self, n: u64) {
        let x = (self.0 ^ n).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 = x ^ x >> 32;
    }
}

type AddressMap<V> = HashMap<u64, V, BuildHasherDefault<AddressHasher>>;

/// The translator of one hart.
pub struct Engine {
    cache: CodeCache,
    stubs: Stubs,
    stub_bytes: usize,
    /// In order of address.
    entries: Vec<Entry>,
    by_pa: AddressMap<u32>,
    by_page: AddressMap<Vec<u32>>,
    links: Vec<Link>,
    /// Boxed one by one: code holds their addresses.
    #[allow(clippy::vec_box)]
    insns: Vec<Box<Insn>>,
    observer: Option<Observer>,
    /// Sees every entry only while blocks are not chained.
    entry_observer: Option<EntryObserver>,
    shape: BlockShape,
    pub stats: EngineStats,
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Engine({:?}, {:?})", self.cache, self.stats)
    }
}

impl Engine {
    /// A translator with a code cache of `size` bytes.
    pub fn new(size: usize) -> Result<Self, EngineError> {
        for (present, name) in [
            (is_x86_feature_detected!("bmi1"), "BMI1"),
            (is_x86_feature_detected!("bmi2"), "BMI2"),
            (is_x86_feature_detected!("lzcnt"), "LZCNT"),
            (is_x86_feature_detected!("popcnt"), "POPCNT"),
            (is_x86_feature_detected!("fma"), "FMA"),
        ] {
            if !present {
                return Err(EngineError::HostCpu(name));
            }
        }
        let size = size.max(1 << 20);
        let mut cache =
            CodeCache::new(size).map_err(|source| EngineError::Cache { size, source })?;
        let (code, stubs) =
            stubs::assemble(cache.next_address()).map_err(|e| EngineError::Stubs(e.to_string()))?;
        cache.push(&code);
        let stub_bytes = cache.used();
        Ok(Self {
            cache,
            stubs,
            stub_bytes,
            entries: Vec::new(),
            by_pa: AddressMap::default(),
            by_page: AddressMap::default(),
            links: Vec::new(),
            insns: Vec::new(),
            observer: None,
            entry_observer: None,
            shape: BlockShape::default(),
            stats: EngineStats::default(),
        })
    }

    /// Have every new block shown to `observer`.
    pub fn observe(&mut self, observer: Option<Observer>) {
        self.observer = observer;
    }

    /// The longest block from now on, in guest instructions.
    pub fn limit(&mut self, hart: &mut Hart, max_insns: u32) {
        if self.shape.max_insns != max_insns {
            self.shape.max_insns = max_insns;
            self.flush(hart);
        }
    }

    /// Make blocks of this shape from now on, and show each entry to `observer`.
    pub fn reshape(&mut self, hart: &mut Hart, shape: BlockShape, observer: Option<EntryObserver>) {
        self.entry_observer = observer;
        if shape != self.shape {
            self.shape = shape;
            self.flush(hart);
        }
    }

    /// Run until the hart is kicked or an instruction traps.
    pub fn run(&mut self, hart: &mut Hart) -> Exit {
        hart.state.jit.exit_flag = std::ptr::from_ref(hart.env.irq.exit_flag()) as usize;
        loop {
            if hart.env.irq.is_kicked() {
                return Exit::Polled;
            }
            let found = match self.find(hart) {
                Ok(found) => found,
                Err(trap) => return Exit::Trap(trap),
            };
            self.show(hart, found);
            let exit = match found {
                Some(code) => self.run_from(hart, code),
                None => self.step(hart).err().map(Exit::Trap),
            };
            if let Some(exit) = exit {
                return exit;
            }
        }
    }

    /// Enter `code` and follow links; `None` when the pc is to be looked up.
    fn run_from(&mut self, hart: &mut Hart, mut code: usize) -> Option<Exit> {
        loop {
            self.enter(hart, code);
            match hart.state.exit.reason {
                reason::POLLED => return Some(Exit::Polled),
                reason::LOOK_UP => {
                    self.stats.look_ups += 1;
                    return None;
                }
                reason::TRAP => match hart.stopped.take() {
                    Some(Stopped::Trap(trap)) => return Some(Exit::Trap(trap)),
                    Some(Stopped::Panic(panic)) => std::panic::resume_unwind(panic),
                    None => return None,
                },
                reason::STEP => {
                    return self.step(hart).err().map(Exit::Trap);
                }
                reason::LINK => code = self.follow_link(hart)?,
                _ => code = self.replace_dropped(hart)?,
            }
            if hart.env.irq.is_kicked() {
                // The pc is current: `find` set it.
                return Some(Exit::Polled);
            }
        }
    }

    fn follow_link(&mut self, hart: &mut Hart) -> Option<usize> {
        let number = hart.state.exit.data as usize;
        let link = *self.links.get(number)?;
        let flushes = self.stats.flushes;
        hart.state.pc = hart.state.jit.page_va.wrapping_add(u64::from(link.target));
        let code = self.find(hart).ok().flatten()?;
        if self.stats.flushes == flushes {
            self.stats.links += 1;
            self.cache.patch_displacement(link.at, code);
        }
        Some(code)
    }

    fn replace_dropped(&mut self, hart: &mut Hart) -> Option<usize> {
        let old = hart.state.exit.data as usize - CALL_LEN;
        let i = self.entries.binary_search_by_key(&old, |e| e.code).ok()?;
        let offset = self.entries[i].pa % PAGE_SIZE;
        let flushes = self.stats.flushes;
        hart.state.pc = hart.state.jit.page_va.wrapping_add(offset);
        // Not by the jump cache, which may name the very block that is gone.
        let code = self.find_by_address(hart).ok().flatten()?;
        if self.stats.flushes == flushes {
            self.cache.patch_transfer(old, code, false);
        }
        Some(code)
    }

    /// Show an instruction that is about to be stepped outside this engine.
    pub fn show_step(&mut self, hart: &Hart) {
        self.show(hart, None);
    }

    fn show(&mut self, hart: &Hart, code: Option<usize>) {
        if let Some(observer) = &mut self.entry_observer {
            observer.show(hart, code);
        }
    }

    fn step(&mut self, hart: &mut Hart) -> Result<(), Trap> {
        self.stats.stepped += 1;
        interpret::step(hart)
    }

    fn enter(&mut self, hart: &mut Hart, code: usize) {
        type Enter = unsafe extern "sysv64" fn(*mut HartState, usize);
        let hart = std::ptr::from_mut(hart);
        // SAFETY: `stubs.enter` is the entry stub with this signature; `code` is a block of the
        // same cache. Translated code touches guest RAM only through TLB entries, which name
        // mapped pages, and the hart only through `state` and, in helpers, the pointer stored
        // here; no other reference to the hart is used until it returns.
        unsafe {
            (*hart).state.jit.hart = hart as usize;
            let enter: Enter = std::mem::transmute(self.stubs.enter);
            let state = std::ptr::from_mut(&mut *(*hart).state);
            enter(state, code);
        }
    }

    /// The code for the hart's pc, translated if need be; `None` when it must be stepped. Sets
    /// the page that runs.
    fn find(&mut self, hart: &mut Hart) -> Result<Option<usize>, Trap> {
        let pc = hart.state.pc;
        hart.drain_inbox();
        if !hart.stale_code.is_empty() {
            for page in std::mem::take(&mut hart.stale_code) {
                self.drop_page(page);
            }
        } else if let Some(code) = hart.tlb.jump_cache().get(pc) {
            hart.state.jit.page_va = pc & !(PAGE_SIZE - 1);
            return Ok(Some(code as usize));
        }
        self.find_by_address(hart)
    }

    /// `find` by the physical address that the pc maps to.
    fn find_by_address(&mut self, hart: &mut Hart) -> Result<Option<usize>, Trap> {
        let pc = hart.state.pc;
        let (pa, uniform) = hart.fetch_address(pc)?;
        if !uniform || !hart.env.ram.contains(pa & !(PAGE_SIZE - 1), PAGE_SIZE) {
            return Ok(None);
        }
        hart.state.jit.page_va = pc & !(PAGE_SIZE - 1);
        let code = match self.by_pa.get(&pa) {
            Some(&i) => self.entries[i as usize].code,
            None => match self.translate(hart, pa) {
                Some(code) => code,
                None => return Ok(None),
            },
        };
        if self.shape.chained {
            hart.tlb.jump_cache_mut().insert(pc, code as u64);
        }
        Ok(Some(code))
    }

    fn translate(&mut self, hart: &mut Hart, pa: u64) -> Option<usize> {
        if self.cache.free() < HEADROOM {
            self.flush(hart);
        }
        let ram = std::sync::Arc::clone(&hart.env.ram);
        let page_pa = pa & !(PAGE_SIZE - 1);
        let page = (page_pa - ram.base()) / PAGE_SIZE;
        hart.watch_code_page(page);
        let half = |offset: u16| ram.load_u16(page_pa + u64::from(offset)).unwrap_or_default();
        let mut block = translate(&hart.env.isa, (pa - page_pa) as u16, self.shape, half);
        drop_dead_writes(&mut block);
        let address = self.cache.next_address();
        let insns = &mut self.insns;
        let mut keep = |insn: &Insn| {
            insns.push(Box::new(*insn));
            insns.last().map_or(std::ptr::null(), |b| std::ptr::from_ref(&**b))
        };
        let Emitted { code, links } =
            match x64::emit(&block, address, &self.stubs, self.links.len(), &mut keep) {
                Ok(emitted) => emitted,
                Err(error) => {
                    tracing::error!(%error, pa, "block is interpreted");
                    return None;
                }
            };
        if let Some(observer) = &mut self.observer {
            let page_va = hart.state.jit.page_va;
            observer(&Translated { page_va, block: &block, code: &code, address });
        }
        if !self.cache.push(&code) {
            return None;
        }
        self.links.extend(links.iter().map(|l| Link { at: address + l.at, target: l.target }));
        let number = self.entries.len() as u32;
        self.entries.push(Entry { code: address, pa });
        self.by_pa.insert(pa, number);
        self.by_page.entry(page).or_default().push(number);
        self.stats.blocks += 1;
        self.stats.guest_insns += u64::from(block.insns);
        self.stats.code_bytes += code.len() as u64;
        Some(address)
    }

    /// Drop the translations of a RAM page: their entries now lead back here.
    fn drop_page(&mut self, page: u64) {
        for i in self.by_page.remove(&page).unwrap_or_default() {
            let entry = self.entries[i as usize];
            if self.by_pa.get(&entry.pa) == Some(&i) {
                self.by_pa.remove(&entry.pa);
            }
            self.cache.patch_transfer(entry.code, self.stubs.dropped, true);
            self.stats.dropped += 1;
        }
    }

    /// Drop everything (the cache is full).
    fn flush(&mut self, hart: &mut Hart) {
        self.stats.flushes += 1;
        self.cache.truncate(self.stub_bytes);
        self.entries.clear();
        self.by_pa.clear();
        self.by_page.clear();
        self.links.clear();
        self.insns.clear();
        hart.tlb.flush_jumps();
    }
}
