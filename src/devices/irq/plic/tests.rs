use super::*;
use crate::actors::cell::DeviceCell;
use crate::actors::message::{MmioFault, Reset, Resume};
use crate::actors::probe::Probe;
use crate::devices::bus::MmioTarget;
use crate::devices::shell::Shell;
use crate::migration::vmstate::tests::{assert_described_as_qemus, migrate};

const CLAIM_S0: u64 = 0x20_1004;
const THRESHOLD_S0: u64 = 0x20_1000;
const ENABLE_M0: u64 = 0x2000;
const ENABLE_S0: u64 = 0x2080;

struct Rig {
    plic: DeviceCell<Shell<Plic>>,
    lines: Arc<PlicLines>,
    source: Outlet<IrqLevel>,
    target: Probe<IrqLevel>,
}

impl Rig {
    /// Two harts.
    fn new() -> Self {
        let target = Probe::new();
        let lines = Arc::new(PlicLines::new(vec![target.outlet(); 4]));
        let source = lines.outlet();
        let plic =
            DeviceCell::new(Shell(Plic::new(Arc::clone(&lines))), "plic", Outlet::Unconnected);
        Self { plic, lines, source, target }
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
        (Plic::SIZE - 4, 7, 0),
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
    let state = &rig.lines.0.lock().state;
    assert_eq!(*state, PlicState { level: [1 << 10, 0, 0], ..PlicState::new(4) });
}

#[test]
fn state_travels_and_lines_that_are_driven_again_are_no_edges() {
    assert_described_as_qemus(&migrate(&Rig::new().plic, &Rig::new().plic));
    let (from, to) = (Rig::new(), Rig::new());
    for source in [10, 11, 12] {
        from.write(4 * source, 3);
    }
    from.write(ENABLE_S0, 7 << 10);
    from.write(THRESHOLD_S0, 1);
    from.line(10, true);
    assert_eq!(from.read(CLAIM_S0), 10);
    from.line(11, true);
    from.line(12, true);
    from.line(12, false);
    migrate(&from.plic, &to.plic);
    let edges = to.edges();
    assert_eq!(edges.iter().rev().find(|edge| edge.0 == 1), Some(&(1, true)));
    to.line(10, true);
    to.line(11, true);
    to.plic.call(Resume).unwrap();
    assert_eq!(to.read(PENDING), 3 << 11, "source 10 is being served");
    assert_eq!([to.read(CLAIM_S0), to.read(CLAIM_S0), to.read(CLAIM_S0)], [11, 12, 0]);
    to.write(CLAIM_S0, 10);
    assert_eq!(to.read(CLAIM_S0), 10, "still high");
}
