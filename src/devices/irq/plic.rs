//! The platform-level interrupt controller of `virt` (RISC-V PLIC spec 1.0.0, laid out as SiFive's).
//!
//! Devices raise lines while their own cells are locked, and a cell's lock must never be taken
//! inside another's. So the controller is in two parts: [`PlicLines`], everything it knows, under a
//! mutex of its own, and [`Plic`], the device that register accesses reach. A line is a fold into
//! `PlicLines`; a register access takes the device's cell and then the same mutex. That mutex is a
//! leaf: under it only target outlets are sent to, which fold into a hart's pending bits (or
//! queue in a mailbox), neither of which waits or comes back here. Sending under it keeps the
//! levels that a hart sees in the order in which they were decided.
//!
//! Gateways latch a rising line, as QEMU's do: a line that falls again before it is claimed stays
//! pending. A line still high when its interrupt completes becomes pending again (PLIC spec 7:
//! "if a level-sensitive interrupt source is still asserted"), so nothing is lost between a
//! driver's last look at its device and its completion.

mod state;

use std::sync::Arc;

use parking_lot::Mutex;

use crate::actors::message::IrqLevel;
use crate::actors::outlet::Outlet;
use crate::devices::shell::{Access, Device};

/// Interrupt sources, with source 0, which does not exist ("riscv,ndev" is one less).
pub const SOURCES: usize = 96;
/// Highest priority.
const MAX_PRIORITY: u32 = 7;
const WORDS: usize = SOURCES / 32;

const PENDING: u64 = 0x1000;
const ENABLE: u64 = 0x2000;
const ENABLE_STRIDE: u64 = 0x80;
const CONTEXT: u64 = 0x20_0000;
const CONTEXT_STRIDE: u64 = 0x1000;

/// One bit a source.
type Bits = [u32; WORDS];

fn bit(bits: &Bits, source: usize) -> bool {
    bits[source / 32] >> (source % 32) & 1 != 0
}

fn set_bit(bits: &mut Bits, source: usize, value: bool) {
    let mask = 1 << (source % 32);
    if value {
        bits[source / 32] |= mask;
    } else {
        bits[source / 32] &= !mask;
    }
}

/// What one interrupt target (a hart's M or S mode) has set.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PlicContext {
    pub enable: [u32; WORDS],
    /// Only priorities above it interrupt.
    pub threshold: u32,
}

/// The controller as plain data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlicState {
    pub priority: Vec<u32>,
    pub pending: [u32; WORDS],
    pub claimed: [u32; WORDS],
    /// Levels of the input lines.
    pub level: [u32; WORDS],
    /// Context 2h is hart h in M mode, 2h+1 in S mode.
    pub contexts: Vec<PlicContext>,
}

impl PlicState {
    fn new(contexts: usize) -> Self {
        Self {
            priority: vec![0; SOURCES],
            pending: [0; WORDS],
            claimed: [0; WORDS],
            level: [0; WORDS],
            contexts: vec![PlicContext::default(); contexts],
        }
    }

    /// The source that `context` would claim now: of the highest priority above the threshold,
    /// the lowest number; 0 when there is none.
    fn best(&self, context: &PlicContext) -> usize {
        let (mut best, mut best_priority) = (0, context.threshold);
        for word in 0..WORDS {
            let mut ready = self.pending[word] & !self.claimed[word] & context.enable[word];
            while ready != 0 {
                let source = word * 32 + ready.trailing_zeros() as usize;
                ready &= ready - 1;
                if self.priority[source] > best_priority {
                    (best, best_priority) = (source, self.priority[source]);
                }
            }
        }
        best
    }

    fn set_level(&mut self, source: usize, level: bool, restoring: bool) {
        let seen = restoring && bit(&self.claimed, source);
        if level && !bit(&self.level, source) && !seen {
            set_bit(&mut self.pending, source, true);
        }
        set_bit(&mut self.level, source, level);
    }

    fn claim(&mut self, context: usize) -> usize {
        let Some(target) = self.contexts.get(context) else { return 0 };
        let source = self.best(target);
        if source != 0 {
            set_bit(&mut self.pending, source, false);
            set_bit(&mut self.claimed, source, true);
        }
        source
    }

    fn complete(&mut self, source: usize) {
        if source < SOURCES {
            if bit(&self.claimed, source) && bit(&self.level, source) {
                set_bit(&mut self.pending, source, true);
            }
            set_bit(&mut self.claimed, source, false);
        }
    }

    /// Registers that do not exist read as zero.
    fn read(&mut self, offset: u64) -> u32 {
        match Register::at(offset) {
            Some(Register::Priority(source)) => self.priority[source],
            Some(Register::Pending(word)) => self.pending[word],
            Some(Register::Enable(context, word)) => {
                self.contexts.get(context).map_or(0, |c| c.enable[word])
            }
            Some(Register::Threshold(context)) => {
                self.contexts.get(context).map_or(0, |c| c.threshold)
            }
            Some(Register::Claim(context)) => self.claim(context) as u32,
            None => 0,
        }
    }

    fn write(&mut self, offset: u64, value: u32) {
        match Register::at(offset) {
            Some(Register::Priority(source)) => self.priority[source] = value & MAX_PRIORITY,
            Some(Register::Enable(context, word)) => {
                if let Some(context) = self.contexts.get_mut(context) {
                    context.enable[word] = value;
                }
            }
            Some(Register::Threshold(context)) => {
                if let Some(context) = self.contexts.get_mut(context) {
                    context.threshold = value & MAX_PRIORITY;
                }
            }
            Some(Register::Claim(context)) if context < self.contexts.len() => {
                self.complete(value as usize);
            }
            Some(Register::Claim(_) | Register::Pending(_)) | None => {}
        }
    }
}

/// What an offset decodes to; contexts may be beyond those that exist.
enum Register {
    Priority(usize),
    Pending(usize),
    Enable(usize, usize),
    Threshold(usize),
    Claim(usize),
}

impl Register {
    fn at(offset: u64) -> Option<Self> {
        let word = |from: u64| ((offset - from) / 4) as usize;
        match offset {
            0..PENDING => (word(0) < SOURCES).then(|| Self::Priority(word(0))),
            PENDING..ENABLE => (word(PENDING) < WORDS).then(|| Self::Pending(word(PENDING))),
            ENABLE..CONTEXT => {
                let word = (offset % ENABLE_STRIDE / 4) as usize;
                let context = ((offset - ENABLE) / ENABLE_STRIDE) as usize;
                (word < WORDS).then_some(Self::Enable(context, word))
            }
            _ => {
                let context = ((offset - CONTEXT) / CONTEXT_STRIDE) as usize;
                match offset % CONTEXT_STRIDE {
                    0 => Some(Self::Threshold(context)),
                    4 => Some(Self::Claim(context)),
                    _ => None,
                }
            }
        }
    }
}

#[derive(Debug)]
struct Wired {
    state: PlicState,
    targets: Vec<Outlet<IrqLevel>>,
    /// The level last sent to each target.
    driven: Vec<bool>,
    /// The state was loaded and the machine does not run yet: devices drive their lines to where
    /// they were, which is no edge.
    restoring: bool,
}

impl Wired {
    fn drive(&mut self) {
        let contexts = self.state.contexts.iter().zip(&self.targets).zip(&mut self.driven);
        for (i, ((context, target), driven)) in contexts.enumerate() {
            let level = self.state.best(context) != 0;
            if level != *driven {
                *driven = level;
                target.send(IrqLevel { line: i as u32, level });
            }
        }
    }
}

/// The controller as the devices' interrupt lines reach it.
#[derive(Debug)]
pub struct PlicLines(Mutex<Wired>);

impl PlicLines {
    /// One target a context: 2h is MEIP of hart h, 2h+1 its SEIP. Targets are told
    /// `IrqLevel { line: context, .. }`, under a lock: they must be folds that only touch atomics,
    /// or mailboxes.
    pub fn new(targets: Vec<Outlet<IrqLevel>>) -> Self {
        Self(Mutex::new(Wired {
            state: PlicState::new(targets.len()),
            driven: vec![false; targets.len()],
            restoring: false,
            targets,
        }))
    }

    /// The inputs: `IrqLevel.line` is the source's number, 1 to 95.
    pub fn outlet(self: &Arc<Self>) -> Outlet<IrqLevel> {
        let lines = Arc::clone(self);
        Outlet::fold(move |IrqLevel { line, level }| {
            let source = line as usize;
            if (1..SOURCES).contains(&source) {
                let mut wired = lines.0.lock();
                let restoring = wired.restoring;
                wired.state.set_level(source, level, restoring);
                wired.drive();
            }
        })
    }
}

/// The device.
#[derive(Debug)]
pub struct Plic {
    lines: Arc<PlicLines>,
}

impl Plic {
    pub fn new(lines: Arc<PlicLines>) -> Self {
        Self { lines }
    }
}

impl Device for Plic {
    const SIZE: u64 = 0x60_0000;

    fn decodes(&self, _: Access, offset: u64, width: u8) -> bool {
        width == 4 && offset.is_multiple_of(4)
    }

    fn read(&mut self, offset: u64, _: u8) -> u64 {
        let mut wired = self.lines.0.lock();
        let value = wired.state.read(offset);
        wired.drive();
        value.into()
    }

    fn write(&mut self, offset: u64, _: u8, value: u64) {
        let mut wired = self.lines.0.lock();
        wired.state.write(offset, value as u32);
        wired.drive();
    }

    /// The lines' levels are their sources'.
    fn reset(&mut self) {
        let mut wired = self.lines.0.lock();
        let level = wired.state.level;
        wired.state = PlicState { level, ..PlicState::new(wired.targets.len()) };
        wired.drive();
    }

    fn resume(&mut self) {
        self.lines.0.lock().restoring = false;
    }
}

#[cfg(test)]
mod tests;
