//! Loads that hit the TLB and loads that do not. One element is one load.

mod bare;

use bare::{Bare, RAM, asm};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use dynasmrt::DynasmLabelApi;
use understudy::cpu::state::Privilege;
use understudy::machine::memory::RAM_BASE;

/// Where data begins.
const DATA: u64 = RAM_BASE + (1 << 20);
const PAGE: u64 = 4096;
/// More than the largest table has entries, so that a walk over them never hits.
const MANY: u64 = 16_384;

/// Loads a doubleword from each of a1 pages from a0, a2 times over.
fn walker() -> Bare {
    Bare::new(|ops| {
        asm!(ops
            ; lui t2, 4096
            ; again:
            ; mv t0, a0
            ; mv t1, a1
            ; next:
            ; ld a3, [t0, 8]
            ; add t0, t0, t2
            ; addi t1, t1, -1
            ; bnez t1, <next
            ; addi a2, a2, -1
            ; bnez a2, <again
            ; ebreak
        )
    })
}

/// Put the hart into S-mode with Sv39, every page of RAM mapped to itself by 4 KiB leaves.
fn translate(bare: &mut Bare) {
    let tables = RAM_BASE + RAM - (1 << 20);
    let (middle, leaves) = (tables + PAGE, tables + 2 * PAGE);
    let ram = &bare.hart.env.ram;
    let pointer = |to: u64| to >> 12 << 10 | 1;
    // V, R, W, X, A, D.
    let leaf = |to: u64| to >> 12 << 10 | 0xcf;
    let put = |at: u64, pte: u64| ram.store_u64(at, pte).expect("the tables are in RAM");
    put(tables + 8 * (RAM_BASE >> 30), pointer(middle));
    for i in 0..RAM >> 21 {
        put(middle + 8 * i, pointer(leaves + PAGE * i));
        for j in 0..512 {
            put(leaves + PAGE * i + 8 * j, leaf(RAM_BASE + (i << 21) + (j << 12)));
        }
    }
    let state = &mut bare.hart.state;
    state.pmpcfg[0] = 0x1f;
    state.pmpaddr[0] = u64::MAX >> 10;
    state.satp = 8 << 60 | tables >> 12;
    state.privilege = Privilege::Supervisor;
    bare.hart.translations_changed();
    bare.hart.context_changed();
}

fn loads(c: &mut Criterion) {
    let mut group = c.benchmark_group("tlb");
    group.throughput(Throughput::Elements(MANY));
    let mut bare = walker();
    group.bench_function("hit", |b| b.iter(|| bare.run(&[DATA, 64, MANY / 64])));
    group.bench_function("miss, no translation", |b| b.iter(|| bare.run(&[DATA, MANY, 1])));
    translate(&mut bare);
    group.bench_function("hit, Sv39", |b| b.iter(|| bare.run(&[DATA, 64, MANY / 64])));
    group.bench_function("miss, Sv39", |b| b.iter(|| bare.run(&[DATA, MANY, 1])));
    group.finish();
}

criterion_group!(benches, loads);
criterion_main!(benches);
