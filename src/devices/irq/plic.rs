//! The platform-level interrupt controller of `virt` (RISC-V PLIC spec 1.0.0, laid out as SiFive's).
//!
//! Devices raise lines while their own cells are locked, and a cell's lock must never be taken
//! inside another's. So the controller is in two parts: [`PlicLines`], everything it knows, under a
//! mutex of its own, and [`Plic`], the actor that decodes register accesses. A line is a fold into
//! `PlicLines`; a register access takes the actor's cell and then the same mutex. That mutex is a
//! leaf: under it only target outlets are sent to, which fold into a hart's pending bits (or
//! queue in a mailbox), neither of which waits or comes back here. Sending under it keeps the
//! levels that a hart sees in the order in which they were decided.
//!
//! Gateways latch a rising line, as QEMU's do: a line that falls again before it is claimed stays
//! pending. A line still high when its interrupt completes becomes pending again (PLIC spec 7:
//! "if a level-sensitive interrupt source is still asserted"), so nothing is lost between a
//! driver's last look at its device and its completion.

use std::sync::Arc;

use actix::{Actor, Handler, MessageResponse};
use parking_lot::Mutex;

use crate::actors::context::InlineContext;
use crate::actors::message::{
    IrqLevel, MmioFault, MmioRead, MmioWrite, Pause, Reset, Resume, Snapshot,
};
use crate::actors::outlet::Outlet;

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
/// Size of the register window in bytes.
pub const SIZE: u64 = 0x60_0000;

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
#[derive(Debug, Clone, PartialEq, Eq, MessageResponse)]
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

    fn set_level(&mut self, source: usize, level: bool) {
        if level && !bit(&self.level, source) {
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
                wired.state.set_level(source, level);
                wired.drive();
            }
        })
    }
}

/// The register file's actor.
#[derive(Debug)]
pub struct Plic {
    lines: Arc<PlicLines>,
}

impl Plic {
    pub fn new(lines: Arc<PlicLines>) -> Self {
        Self { lines }
    }
}

fn check(offset: u64, width: u8) -> Result<(), MmioFault> {
    match (width, offset) {
        (_, SIZE..) => Err(MmioFault::Unmapped),
        (4, _) if offset.is_multiple_of(4) => Ok(()),
        _ => Err(MmioFault::Width),
    }
}

impl Actor for Plic {
    type Context = InlineContext<Self>;
}

impl Handler<MmioRead> for Plic {
    type Result = Result<u64, MmioFault>;

    fn handle(
        &mut self,
        MmioRead { offset, width }: MmioRead,
        _: &mut Self::Context,
    ) -> Self::Result {
        check(offset, width)?;
        let mut wired = self.lines.0.lock();
        let value = wired.state.read(offset);
        wired.drive();
        Ok(u64::from(value))
    }
}

impl Handler<MmioWrite> for Plic {
    type Result = Result<(), MmioFault>;

    fn handle(&mut self, write: MmioWrite, _: &mut Self::Context) -> Self::Result {
        check(write.offset, write.width)?;
        let mut wired = self.lines.0.lock();
        wired.state.write(write.offset, write.value as u32);
        wired.drive();
        Ok(())
    }
}

impl Handler<Reset> for Plic {
    type Result = ();

    fn handle(&mut self, _: Reset, _: &mut Self::Context) {
        let mut wired = self.lines.0.lock();
        let level = wired.state.level;
        wired.state = PlicState { level, ..PlicState::new(wired.targets.len()) };
        wired.drive();
    }
}

impl Handler<Pause> for Plic {
    type Result = ();

    /// Nothing is ever in flight.
    fn handle(&mut self, _: Pause, _: &mut Self::Context) {}
}

impl Handler<Resume> for Plic {
    type Result = ();

    fn handle(&mut self, _: Resume, _: &mut Self::Context) {}
}

impl Handler<Snapshot<PlicState>> for Plic {
    type Result = PlicState;

    fn handle(&mut self, _: Snapshot<PlicState>, _: &mut Self::Context) -> PlicState {
        self.lines.0.lock().state.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::actors::cell::DeviceCell;
    use crate::actors::probe::Probe;
    use crate::devices::bus::MmioTarget;

    const CLAIM_S0: u64 = 0x20_1004;
    const THRESHOLD_S0: u64 = 0x20_1000;
    const ENABLE_M0: u64 = 0x2000;
    const ENABLE_S0: u64 = 0x2080;

    struct Rig {
        plic: DeviceCell<Plic>,
        source: Outlet<IrqLevel>,
        target: Probe<IrqLevel>,
    }

    impl Rig {
        /// Two harts.
        fn new() -> Self {
            let target = Probe::new();
            let lines = Arc::new(PlicLines::new(vec![target.outlet(); 4]));
            let source = lines.outlet();
            let plic = DeviceCell::new(Plic::new(lines), "plic", Outlet::Unconnected);
            Self { plic, source, target }
        }

        fn write(&self, offset: u64, value: u64) {
            self.plic.write(offset, 4, value).unwrap();
        }

        fn read(&self, offset: u64) -> u64 {
            self.plic.read(offset, 4).unwrap()
        }

        fn line(&self, line: u32, level: bool) {
            self.source.send(IrqLevel { line, level });
        }

        /// (context, level) changes since the last look.
        fn edges(&self) -> Vec<(u32, bool)> {
            self.target.take().iter().map(|e| (e.line, e.level)).collect()
        }
    }

    #[test]
    fn a_line_goes_through_claim_and_completion() {
        let rig = Rig::new();
        rig.write(4 * 10, 1);
        rig.write(ENABLE_S0, 1 << 10);
        rig.line(10, true);
        assert_eq!(rig.edges(), [(1, true)]);
        assert_eq!(rig.read(PENDING), 1 << 10);
        assert_eq!(rig.read(CLAIM_S0), 10);
        assert_eq!(rig.edges(), [(1, false)]);
        assert_eq!((rig.read(PENDING), rig.read(CLAIM_S0)), (0, 0));
        rig.line(10, false);
        rig.write(CLAIM_S0, 10);
        assert_eq!(rig.edges(), []);
        rig.line(10, true);
        assert_eq!(rig.edges(), [(1, true)]);
    }

    #[test]
    fn gateways_latch_pulses_and_forward_a_line_still_high_at_completion() {
        let rig = Rig::new();
        rig.write(4 * 10, 1);
        rig.write(ENABLE_S0, 1 << 10);
        rig.line(10, true);
        rig.line(10, false);
        assert_eq!(rig.read(CLAIM_S0), 10, "a pulse is remembered");
        rig.line(10, true);
        assert_eq!(rig.read(CLAIM_S0), 0, "claimed sources wait for their completion");
        rig.edges();
        rig.write(CLAIM_S0, 10);
        assert_eq!(rig.edges(), [(1, true)]);
        assert_eq!(rig.read(CLAIM_S0), 10);
        rig.edges();
        rig.write(CLAIM_S0, 10);
        assert_eq!(rig.edges(), [(1, true)], "no edge since the claim, but the line is high");
        assert_eq!(rig.read(CLAIM_S0), 10);
        rig.line(10, false);
        rig.edges();
        rig.write(CLAIM_S0, 10);
        assert_eq!(rig.edges(), []);
    }

    #[test]
    fn priority_then_number_decides_and_the_threshold_masks() {
        let rig = Rig::new();
        for (source, priority) in [(3, 2), (40, 5), (41, 5), (95, 1)] {
            rig.write(4 * source, priority);
            rig.line(source as u32, true);
        }
        for word in 0..3 {
            rig.write(ENABLE_S0 + 4 * word, 0xffff_ffff);
        }
        rig.write(THRESHOLD_S0, 1);
        let claims: Vec<u64> = (0..4).map(|_| rig.read(CLAIM_S0)).collect();
        assert_eq!(claims, [40, 41, 3, 0]);
        assert_eq!(rig.edges(), [(1, true), (1, false)]);
        rig.write(THRESHOLD_S0, 0);
        assert_eq!(rig.edges(), [(1, true)]);
        rig.write(4 * 95, 0);
        assert_eq!(rig.edges(), [(1, false)], "priority 0 never interrupts");
    }

    #[test]
    fn every_context_that_enables_a_source_sees_it_until_one_claims() {
        let rig = Rig::new();
        rig.write(4, 7);
        for context in [0, 3] {
            rig.write(ENABLE_M0 + 0x80 * context, 2);
        }
        rig.line(1, true);
        assert_eq!(rig.edges(), [(0, true), (3, true)]);
        assert_eq!(rig.read(0x20_3004), 1);
        assert_eq!(rig.edges(), [(0, false), (3, false)]);
    }

    #[test]
    fn registers_hold_what_they_can_hold() {
        let rig = Rig::new();
        for (offset, written, read) in [
            (4 * 6, 0xffff_ffff, 7),
            (4 * 95, 9, 1),
            (4 * 96, 1, 0),
            (PENDING, 0xff, 0),
            (ENABLE_S0 + 8, 0xffff_ffff, 0xffff_ffff),
            (ENABLE_S0 + 12, 7, 0),
            (THRESHOLD_S0, 0xff, 7),
            (0x20_3000, 3, 3),
            (0x20_4000, 3, 0),
            (ENABLE_M0 + 4 * 0x80, 7, 0),
            (SIZE - 4, 7, 0),
        ] {
            rig.write(offset, written);
            assert_eq!(rig.read(offset), read, "offset {offset:#x}");
        }
        for width in [1, 2, 8] {
            assert_eq!(rig.plic.read(0, width), Err(MmioFault::Width));
            assert_eq!(rig.plic.write(0, width, 0), Err(MmioFault::Width));
        }
        assert_eq!(rig.plic.read(2, 4), Err(MmioFault::Width));
        for hostile in [0, 96, 0xffff_ffff] {
            rig.write(CLAIM_S0, hostile);
        }
        rig.line(0, true);
        rig.line(96, true);
        rig.line(u32::MAX, true);
        assert_eq!(rig.read(PENDING), 0);
    }

    #[test]
    fn reset_clears_all_but_the_levels_of_the_lines() {
        let rig = Rig::new();
        rig.write(4 * 10, 1);
        rig.write(ENABLE_S0, 1 << 10);
        rig.line(10, true);
        rig.plic.call(Reset).unwrap();
        assert_eq!(rig.edges(), [(1, true), (1, false)]);
        let state = rig.plic.call(Snapshot::<PlicState>::new()).unwrap();
        assert_eq!(state, PlicState { level: [1 << 10, 0, 0], ..PlicState::new(4) });
    }
}
