//! What it costs to get from one translated block to the next: by a patched jump, through the jump
//! cache (to another page, to changing targets), for a call and its return. One element is one
//! transfer of control.

mod bare;

use bare::{Bare, asm};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use dynasmrt::{DynasmApi, DynasmLabelApi};

const ROUNDS: u64 = 100_000;

fn bench(c: &mut Criterion, name: &str, transfers: u64, mut program: Bare) {
    let mut group = c.benchmark_group("dispatch");
    group.throughput(Throughput::Elements(ROUNDS * transfers));
    group.bench_function(name, |b| b.iter(|| program.run(&[ROUNDS])));
    group.finish();
}

fn dispatch(c: &mut Criterion) {
    let same_block = Bare::new(|ops| {
        asm!(ops
            ; top:
            ; addi a0, a0, -1
            ; bnez a0, <top
            ; ebreak
        )
    });
    bench(c, "loop of one block", 1, same_block);

    let chained = Bare::new(|ops| {
        asm!(ops
            ; j >enter
            ; second:
            ; addi a0, a0, -1
            ; beqz a0, >over
            ; enter:
            ; j <second
            ; over:
            ; ebreak
        )
    });
    bench(c, "direct jump in the page", 1, chained);

    let across = Bare::new(|ops| {
        asm!(ops
            ; ->near:
            ; j ->far
            ; .align 4096
            ; ->far:
            ; addi a0, a0, -1
            ; beqz a0, >over
            ; j ->near
            ; over:
            ; ebreak
        )
    });
    bench(c, "direct jump to another page and back", 2, across);

    let indirect = Bare::new(|ops| {
        asm!(ops
            ; la s0, ->targets
            ; top:
            ; andi t0, a0, 3
            ; slli t0, t0, 4
            ; add t0, t0, s0
            ; jr t0
            ; .align 16
            ; ->targets:
            ; addi a1, a1, 1
            ; j >next
            ; .align 16
            ; addi a1, a1, 2
            ; j >next
            ; .align 16
            ; addi a1, a1, 3
            ; j >next
            ; .align 16
            ; addi a1, a1, 4
            ; next:
            ; addi a0, a0, -1
            ; bnez a0, <top
            ; ebreak
        )
    });
    bench(c, "indirect jump to one of four", 1, indirect);

    let call = Bare::new(|ops| {
        asm!(ops
            ; mv s0, a0
            ; top:
            ; call ->function
            ; addi s0, s0, -1
            ; bnez s0, <top
            ; ebreak
            ; ->function:
            ; addi a1, a1, 1
            ; ret
        )
    });
    bench(c, "call and return", 2, call);
}

criterion_group!(benches, dispatch);
criterion_main!(benches);
