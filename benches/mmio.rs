//! What a register access costs: a cell's call, the bus in front of it, the same with a second
//! thread hammering the cell. The bound to hold is 100 ns uncontended through the bus.

use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use actix::{Actor, Handler};
use criterion::{Criterion, criterion_group, criterion_main};
use understudy::actors::cell::DeviceCell;
use understudy::actors::context::InlineContext;
use understudy::actors::message::{IrqLevel, MmioFault, MmioRead, MmioWrite};
use understudy::actors::outlet::Outlet;
use understudy::actors::probe::Probe;
use understudy::actors::timer::Timers;
use understudy::devices::bus::{Bus, MmioTarget, Region};
use understudy::devices::irq::plic::{Plic, PlicLines};
use understudy::devices::shell::Shell;
use understudy::machine::clock::VirtualClock;

/// One register.
struct Latch(u64);

impl Actor for Latch {
    type Context = InlineContext<Self>;
}

impl Handler<MmioRead> for Latch {
    type Result = Result<u64, MmioFault>;

    fn handle(&mut self, read: MmioRead, _: &mut Self::Context) -> Self::Result {
        Ok(self.0 ^ read.offset)
    }
}

impl Handler<MmioWrite> for Latch {
    type Result = Result<(), MmioFault>;

    fn handle(&mut self, write: MmioWrite, _: &mut Self::Context) -> Self::Result {
        self.0 = self.0.wrapping_add(write.value);
        Ok(())
    }
}

fn latch() -> DeviceCell<Latch> {
    DeviceCell::new(Latch(0), "latch", Outlet::Unconnected)
}

/// A bus as populated as `virt`'s, whose region 5 is `target`.
fn bus(target: DeviceCell<Latch>) -> Bus {
    let region = |i: u64| {
        let target: Box<dyn MmioTarget> =
            if i == 5 { Box::new(target.clone()) } else { Box::new(latch()) };
        let start = 0x1000_0000 + i * 0x1000;
        Region { name: format!("latch {i}"), range: start..start + 0x1000, target }
    };
    Bus::new((0..14).map(region).collect())
}

fn access(c: &mut Criterion) {
    let cell = latch();
    c.bench_function("mmio/call", |b| {
        b.iter(|| cell.call(MmioRead { offset: black_box(8), width: 4 }))
    });
    let on_bus = bus(cell.clone());
    c.bench_function("mmio/bus read", |b| b.iter(|| on_bus.read(black_box(0x1000_5008), 4)));
    c.bench_function("mmio/bus write", |b| b.iter(|| on_bus.write(black_box(0x1000_5008), 4, 1)));

    let stop = Arc::new(AtomicBool::new(false));
    let hammer = std::thread::spawn({
        let (cell, stop) = (cell.clone(), Arc::clone(&stop));
        move || {
            while !stop.load(Ordering::Relaxed) {
                let _ = cell.call(MmioWrite { offset: 0, width: 4, value: 1 });
            }
        }
    });
    c.bench_function("mmio/bus read, contended", |b| {
        b.iter(|| on_bus.read(black_box(0x1000_5008), 4))
    });
    stop.store(true, Ordering::Relaxed);
    let _ = hammer.join();
}

fn interrupts(c: &mut Criterion) {
    let lines = Arc::new(PlicLines::new((0..8).map(|_| Outlet::fold(|_| ())).collect()));
    let plic = DeviceCell::new(Shell(Plic::new(Arc::clone(&lines))), "plic", Outlet::Unconnected);
    let _ = plic.write(4 * 10, 4, 1);
    let _ = plic.write(0x2080, 4, 1 << 10);
    let source = lines.outlet();
    c.bench_function("plic/raise, claim, lower, complete", |b| {
        b.iter(|| {
            source.send(IrqLevel { line: 10, level: true });
            let claimed = plic.read(0x20_1004, 4).unwrap_or(0);
            source.send(IrqLevel { line: 10, level: false });
            plic.write(0x20_1004, 4, claimed)
        })
    });
}

fn timers(c: &mut Criterion) {
    let clock = Arc::new(VirtualClock::default());
    clock.start();
    let Ok((timers, _thread)) = Timers::start(Arc::clone(&clock), Outlet::Unconnected) else {
        return;
    };
    timers.addr().do_send(understudy::actors::message::Resume);
    let fired = Probe::new();
    let Ok(timer) = timers.register(fired.outlet()) else { return };
    c.bench_function("timer/arm, later than the last", |b| {
        let mut deadline = 1 << 60;
        b.iter(|| {
            deadline += 1;
            timer.arm(Some(black_box(deadline)));
        })
    });
    // The time over 100 µs is how late the timer fires and the waiter wakes.
    c.bench_function("timer/fire after 100 us", |b| {
        b.iter(|| {
            timer.arm(Some(clock.now_ns() + 100_000));
            fired.expect_within(std::time::Duration::from_secs(10))
        })
    });
    timers.addr().do_send(understudy::actors::message::Terminate);
}

criterion_group!(benches, access, interrupts, timers);
criterion_main!(benches);
