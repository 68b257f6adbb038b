//! Small kernels; one element is one guest instruction, so that the rate is in instructions a
//! second. The interpreter counts them.

mod bare;

use bare::{Bare, asm};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use dynasmrt::riscv::RiscvRelocation;
use dynasmrt::{DynasmApi, DynasmLabelApi, VecAssembler};
use understudy::cpu::interpret;
use understudy::machine::memory::RAM_BASE;

/// Where data begins.
const DATA: u64 = RAM_BASE + (1 << 20);

/// a0 steps of a xorshift generator.
fn integer(ops: &mut VecAssembler<RiscvRelocation>) {
    asm!(ops
        ; li.12 a1, 99
        ; next:
        ; slli a2, a1, 13
        ; xor a1, a1, a2
        ; srli a2, a1, 7
        ; xor a1, a1, a2
        ; slli a2, a1, 17
        ; xor a1, a1, a2
        ; add a3, a3, a1
        ; addi a0, a0, -1
        ; bnez a0, <next
        ; ebreak
    );
}

/// The CRC-32 of a0 bytes, bit by bit.
fn crc(ops: &mut VecAssembler<RiscvRelocation>) {
    asm!(ops
        ; li a1, DATA as i64
        ; add a0, a0, a1
        ; li a2, 0xedb8_8320
        ; li.12 a3, -1
        ; byte:
        ; lbu a4, [a1]
        ; xor a3, a3, a4
        ; li.12 a5, 8
        ; bit:
        ; andi a4, a3, 1
        ; neg a4, a4
        ; and a4, a4, a2
        ; srliw a3, a3, 1
        ; xor a3, a3, a4
        ; addi a5, a5, -1
        ; bnez a5, <bit
        ; addi a1, a1, 1
        ; bne a1, a0, <byte
        ; ebreak
    );
}

/// How many primes there are below a0.
fn sieve(ops: &mut VecAssembler<RiscvRelocation>) {
    asm!(ops
        ; li a1, DATA as i64
        ; add a2, a0, a1
        ; clear:
        ; sb zero, [a1]
        ; addi a1, a1, 1
        ; bne a1, a2, <clear
        ; li a1, DATA as i64
        ; li.12 a3, 2
        ; li.12 a5, 0
        ; li.12 a6, 1
        ; candidate:
        ; add a4, a1, a3
        ; lbu t0, [a4]
        ; bnez t0, >composite
        ; addi a5, a5, 1
        ; multiple:
        ; add a4, a4, a3
        ; bgeu a4, a2, >composite
        ; sb a6, [a4]
        ; j <multiple
        ; composite:
        ; addi a3, a3, 1
        ; bne a3, a0, <candidate
        ; mv a0, a5
        ; ebreak
    );
}

/// C = A B for a0 × a0 matrices of doubles; A lies at DATA, B behind it, C behind that.
fn matmul(ops: &mut VecAssembler<RiscvRelocation>) {
    asm!(ops
        ; slli a1, a0, 3
        ; mul a2, a1, a0
        ; li a3, DATA as i64
        ; add a4, a3, a2
        ; add a5, a4, a2
        ; mv s0, a3
        ; mv t0, a0
        ; row:
        ; mv t1, a0
        ; mv s1, a4
        ; column:
        ; mv t2, a0
        ; mv a6, s0
        ; mv a7, s1
        ; fmv.d.x fa0, zero
        ; term:
        ; fld fa1, [a6]
        ; fld fa2, [a7]
        ; fmadd.d fa0, fa1, fa2, fa0
        ; addi a6, a6, 8
        ; add a7, a7, a1
        ; addi t2, t2, -1
        ; bnez t2, <term
        ; fsd fa0, [a5]
        ; addi a5, a5, 8
        ; addi s1, s1, 8
        ; addi t1, t1, -1
        ; bnez t1, <column
        ; add s0, s0, a1
        ; addi t0, t0, -1
        ; bnez t0, <row
        ; ebreak
    );
}

/// Instructions that the program takes with `argument`.
fn count(bare: &mut Bare, argument: u64) -> u64 {
    bare.hart.state.pc = RAM_BASE;
    bare.hart.state.x[10] = argument;
    let mut steps = 0;
    while interpret::step(&mut bare.hart).is_ok() {
        steps += 1;
    }
    steps
}

type Program = fn(&mut VecAssembler<RiscvRelocation>);

fn kernels(c: &mut Criterion) {
    let mut group = c.benchmark_group("kernels");
    let programs: [(&str, Program, u64); 4] = [
        ("integer loop", integer, 20_000),
        ("crc", crc, 4_000),
        ("sieve", sieve, 30_000),
        ("matmul", matmul, 32),
    ];
    for (name, program, argument) in programs {
        let mut bare = Bare::new(program);
        for i in 0..0x1000 {
            let value = (1.0 + i as f64 / 7.0).to_bits();
            bare.hart.env.ram.store_u64(DATA + 8 * i, value).expect("the data is in RAM");
        }
        group.throughput(Throughput::Elements(count(&mut bare, argument)));
        group.bench_function(name, |b| b.iter(|| bare.run(&[argument])));
    }
    group.finish();
}

criterion_group!(benches, kernels);
criterion_main!(benches);
