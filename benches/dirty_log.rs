//! What the dirty log costs a guest that writes: nothing when it is off, nor to pages that are
//! dirty already; a trip to the slow path for the first write to a page after it was collected.

mod bare;

use std::sync::Arc;

use bare::{Bare, asm};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use dynasmrt::DynasmLabelApi;
use understudy::machine::dirty_log::DirtyLog;
use understudy::machine::memory::{PAGE_SIZE, RAM_BASE};

/// Where data begins.
const DATA: u64 = RAM_BASE + (1 << 20);
const PAGES: u64 = 4096;

/// Stores a doubleword to each of a1 pages from a0 on.
fn toucher() -> Bare {
    Bare::new(|ops| {
        asm!(ops
            ; lui a2, 0x1000
            ; next:
            ; sd a1, [a0, 0]
            ; add a0, a0, a2
            ; addi a1, a1, -1
            ; bnez a1, <next
            ; ebreak
        )
    })
}

fn touches(c: &mut Criterion) {
    let mut bare = toucher();
    let mut group = c.benchmark_group("dirty_log");
    group.throughput(Throughput::Elements(PAGES));
    group.bench_function("off", |b| b.iter(|| bare.run(&[DATA, PAGES])));
    let ram = Arc::clone(&bare.hart.env.ram);
    let pages = ram.size() / PAGE_SIZE;
    let log = DirtyLog::start(ram, bare.hart.env.peers.clone()).expect("this host has membarrier");
    group.bench_function("on, dirty already", |b| b.iter(|| bare.run(&[DATA, PAGES])));
    group.bench_function("on, collected each time", |b| {
        b.iter(|| {
            bare.run(&[DATA, PAGES]);
            assert_eq!(log.take(0..pages, &mut |_| ()), PAGES);
        })
    });
    drop(log);
    group.bench_function("off again", |b| b.iter(|| bare.run(&[DATA, PAGES])));
    group.finish();
}

criterion_group!(benches, touches);
criterion_main!(benches);
