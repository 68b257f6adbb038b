use std::sync::atomic::Ordering;
use std::time::Duration;

use super::*;
use crate::actors::cell::DeviceCell;
use crate::actors::message::{MmioFault, Reset, Resume, Terminate};
use crate::actors::probe::Probe;
use crate::actors::timer::{ArmTimer, Timers};
use crate::devices::bus::MmioTarget;
use crate::devices::shell::Shell;
use crate::migration::vmstate::tests::{assert_described_as_qemus, migrate};

struct Rig {
    aclint: DeviceCell<Shell<Aclint>>,
    msip: Probe<IrqLevel>,
    mtip: Probe<IrqLevel>,
    time_moved: Probe<TimeMoved>,
    armed: Probe<ArmTimer>,
}

/// Two harts; time stands still at 0.
fn rig() -> Rig {
    let (msip, mtip, armed) = (Probe::new(), Probe::new(), Probe::new());
    let time_moved = Probe::new();
    let wires = (0..2)
        .map(|_| HartWires {
            msip_level: WireLevel(Arc::new(|| false)),
            msip: msip.outlet(),
            mtip: mtip.outlet(),
            time_moved: time_moved.outlet(),
            timer: TimerPort::played_by(armed.outlet()),
        })
        .collect();
    let aclint = Aclint::new(Arc::default(), wires);
    let high = |line| IrqLevel { line, level: true };
    assert_eq!(mtip.take(), [high(0), high(1)]);
    armed.take();
    let aclint = DeviceCell::new(Shell(aclint), "aclint", Outlet::Unconnected);
    Rig { aclint, msip, mtip, time_moved, armed }
}

#[test]
fn msip_is_bit_zero_of_a_word() {
    let Rig { aclint, msip, .. } = rig();
    for (value, read, edges) in [
        (0xffff_ffff, 1, vec![IrqLevel { line: 1, level: true }]),
        (3, 1, vec![]),
        (0xffff_fffe, 0, vec![IrqLevel { line: 1, level: false }]),
    ] {
        aclint.write(4, 4, value).unwrap();
        assert_eq!(aclint.read(4, 4), Ok(read));
        assert_eq!(msip.take(), edges);
    }
    aclint.write(8, 4, 1).unwrap();
    assert_eq!(aclint.read(8, 4), Ok(0), "no hart 2");
    assert_eq!(msip.take(), []);
}

#[test]
fn mtimecmp_moves_mtip_and_the_deadline() {
    let Rig { aclint, mtip, armed, .. } = rig();
    aclint.write(0x4008, 8, 1000).unwrap();
    assert_eq!(mtip.take(), [IrqLevel { line: 1, level: false }]);
    assert_eq!(armed.take(), [ArmTimer { slot: 0, deadline_ns: Some(100_000) }]);
    aclint.write(0x400c, 4, 1).unwrap();
    assert_eq!(aclint.read(0x4008, 8), Ok(0x1_0000_03e8));
    assert_eq!((aclint.read(0x4008, 4), aclint.read(0x400c, 4)), (Ok(1000), Ok(1)));
    armed.take();
    aclint.write(0x4008, 8, u64::MAX).unwrap();
    assert_eq!(armed.take(), [ArmTimer { slot: 0, deadline_ns: Some(u64::MAX) }]);
    aclint.write(0x4008, 8, 0).unwrap();
    assert_eq!(mtip.take(), [IrqLevel { line: 1, level: true }]);
    assert_eq!(armed.take(), [ArmTimer { slot: 0, deadline_ns: None }]);
}

#[test]
fn mtime_can_be_written_by_halves_and_moves_every_mtip() {
    let Rig { aclint, mtip, time_moved, .. } = rig();
    aclint.write(0x4000, 8, 50).unwrap();
    aclint.write(0x4008, 8, 1 << 33).unwrap();
    mtip.take();
    aclint.write(0xbff8, 4, 77).unwrap();
    assert_eq!(mtip.take(), [IrqLevel { line: 0, level: true }]);
    aclint.write(0xbffc, 4, 2).unwrap();
    assert_eq!(aclint.read(0xbff8, 8), Ok(0x2_0000_004d));
    assert_eq!(mtip.take(), [IrqLevel { line: 1, level: true }]);
    assert_eq!(time_moved.take().len(), 4, "two writes, two harts");
    aclint.call(Reset).unwrap();
    let registers = [(0, 4), (4, 4), (0x4000, 8), (0x4008, 8), (0xbff8, 8)];
    assert_eq!(registers.map(|(at, width)| aclint.read(at, width)), [Ok(0); 5]);
}

#[test]
fn widths_and_holes() {
    let Rig { aclint, .. } = rig();
    for (offset, width, result) in [
        (0, 1, Err(MmioFault::Width)),
        (0, 8, Err(MmioFault::Width)),
        (0x4000, 2, Err(MmioFault::Width)),
        (0x4004, 8, Err(MmioFault::Width)),
        (0x4002, 4, Err(MmioFault::Width)),
        (0x4010, 8, Ok(0)),
        (0xb000, 8, Ok(0)),
        (0xc000, 4, Err(MmioFault::Unmapped)),
        (u64::MAX - 7, 8, Err(MmioFault::Unmapped)),
    ] {
        assert_eq!(aclint.read(offset, width), result, "{offset:#x}/{width}");
        assert_eq!(aclint.write(offset, width, 1).err(), result.err());
    }
}

#[test]
fn the_timer_raises_mtip_and_a_stale_one_does_not() {
    let clock = Arc::new(VirtualClock::default());
    let (timers, thread) = Timers::start(Arc::clone(&clock), Outlet::Unconnected).unwrap();
    let mtip = Probe::new();
    let wires = HartWires {
        msip_level: WireLevel(Arc::new(|| false)),
        msip: Outlet::Unconnected,
        mtip: mtip.outlet(),
        time_moved: Outlet::Unconnected,
        timer: timers.reserve().unwrap(),
    };
    let aclint = Aclint::new(Arc::clone(&clock), vec![wires]);
    let aclint = DeviceCell::new(Shell(aclint), "aclint", Outlet::Unconnected);
    clock.start();
    timers.addr().do_send(Resume);
    mtip.take();
    let deadline = clock.ticks() + 50_000;
    aclint.write(0x4000, 8, deadline).unwrap();
    assert!(!mtip.expect_within(Duration::ZERO).level);
    assert!(mtip.expect_within(Duration::from_secs(10)).level);
    assert!(clock.ticks() >= deadline);
    for _ in 0..2000 {
        aclint.write(0x4000, 8, clock.ticks()).unwrap();
        aclint.write(0x4000, 8, u64::MAX).unwrap();
    }
    std::thread::sleep(Duration::from_millis(2));
    assert_eq!(mtip.take().last(), Some(&IrqLevel { line: 0, level: false }));
    timers.addr().do_send(Terminate);
    thread.join().unwrap();
}

#[test]
fn state_travels_and_deadlines_are_armed_anew() {
    assert_described_as_qemus(&migrate(&rig().aclint, &rig().aclint));
    let (from, to) = (rig(), rig());
    from.aclint.write(0xbff8, 8, 1 << 40).unwrap();
    from.aclint.write(0x4000, 8, 5).unwrap();
    from.aclint.write(0x4008, 8, (1 << 40) + 7).unwrap();
    migrate(&from.aclint, &to.aclint);
    assert_eq!(to.aclint.read(0xbff8, 8), Ok(1 << 40));
    assert_eq!(to.aclint.read(0x4008, 8), Ok((1 << 40) + 7));
    let armed = to.armed.take();
    let last: Vec<_> = armed.iter().rev().take(2).map(|arm| arm.deadline_ns).collect();
    assert_eq!(last, [Some(700), None]);
    let level = |line| to_level(&to.mtip.take(), line);
    assert_eq!(level(1), Some(false));
}

/// The last level that `line` was driven to.
fn to_level(edges: &[IrqLevel], line: u32) -> Option<bool> {
    edges.iter().rev().find(|edge| edge.line == line).map(|edge| edge.level)
}

#[test]
fn msip_comes_with_the_hart() {
    let msip = Probe::new();
    let pending = Arc::new(std::sync::atomic::AtomicBool::new(true));
    let level = Arc::clone(&pending);
    let wires = HartWires {
        msip_level: WireLevel(Arc::new(move || level.load(Ordering::SeqCst))),
        msip: msip.outlet(),
        mtip: Outlet::Unconnected,
        time_moved: Outlet::Unconnected,
        timer: TimerPort::played_by(Outlet::Unconnected),
    };
    let to = DeviceCell::new(
        Shell(Aclint::new(Arc::default(), vec![wires])),
        "aclint",
        Outlet::Unconnected,
    );
    let bytes = vec![0; 9];
    let load = crate::actors::message::LoadState { name: "riscv_mtimer", version: 1, bytes };
    assert_eq!(to.call(load).unwrap(), Ok(8));
    assert_eq!(to.read(0, 4), Ok(1));
    to.write(0, 4, 0).unwrap();
    assert_eq!(msip.take(), [IrqLevel { line: 0, level: false }]);
}
