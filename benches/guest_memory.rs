//! The guest copies memory: eight doublewords a round, as a C library does.

mod bare;

use bare::{Bare, asm};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use dynasmrt::DynasmLabelApi;
use understudy::machine::memory::RAM_BASE;

/// Where data begins.
const DATA: u64 = RAM_BASE + (1 << 20);

/// Copies a2 bytes (a multiple of 64) from a1 to a0.
fn copier() -> Bare {
    Bare::new(|ops| {
        asm!(ops
            ; add a2, a2, a1
            ; next:
            ; ld t0, [a1, 0]
            ; ld t1, [a1, 8]
            ; ld t2, [a1, 16]
            ; ld t3, [a1, 24]
            ; ld a3, [a1, 32]
            ; ld a4, [a1, 40]
            ; ld a5, [a1, 48]
            ; ld a6, [a1, 56]
            ; sd t0, [a0, 0]
            ; sd t1, [a0, 8]
            ; sd t2, [a0, 16]
            ; sd t3, [a0, 24]
            ; sd a3, [a0, 32]
            ; sd a4, [a0, 40]
            ; sd a5, [a0, 48]
            ; sd a6, [a0, 56]
            ; addi a1, a1, 64
            ; addi a0, a0, 64
            ; bltu a1, a2, <next
            ; ebreak
        )
    })
}

fn copies(c: &mut Criterion) {
    let mut bare = copier();
    let mut group = c.benchmark_group("guest_memory");
    for size in [4 << 10, 64 << 10, 4 << 20] {
        for (name, offset) in [("aligned", 0), ("misaligned", 3)] {
            let (to, from) = (DATA, DATA + (16 << 20) + offset);
            group.throughput(Throughput::Bytes(size));
            group.bench_function(BenchmarkId::new(name, size), |b| {
                b.iter(|| bare.run(&[to, from, size]))
            });
        }
    }
    group.finish();
}

criterion_group!(benches, copies);
criterion_main!(benches);
