//! How accesses reach devices.
// dynasm! converts every register number that it is given, also one that is a `u8` already.
#![allow(clippy::useless_conversion)]

use dynasmrt::{DynasmApi, dynasm};

use crate::program::{Assembler, Program, check, note, step_at};

const A0: u8 = 10;
/// Priorities of interrupt sources, four bytes each.
const PLIC: i64 = 0x0c00_0000;
const UART: i64 = 0x1000_0000;
const LOAD_FAULT: u64 = 5;
const STORE_FAULT: u64 = 7;

macro_rules! code {
    ($ops:ident $($t:tt)*) => { dynasm!($ops ; .arch riscv64i ; .feature gc $($t)*) };
}

/// An access that is not naturally aligned is made of accesses that are; one of them may be refused.
#[test]
fn misaligned_accesses_reach_devices_in_aligned_pieces() {
    // Behind the instructions that load t1 with an address.
    let access = |i: usize, address: i64| {
        let mut ops = Assembler::new(step_at(i) as usize);
        code!(ops ; li s10, step_at(i + 1) as i64 ; li t1, address);
        step_at(i) + ops.offset().0 as u64
    };
    let program = Program::new("misaligned device accesses").steps(&[
        &|ops| {
            code!(ops
                ; li t1, PLIC + 4
                ; li t0, 5 << 32 | 3
                ; sd t0, [t1, 0]
                ; lw a0, [t1, 0]
                ; lw a1, [t1, 4]
                ; slli a1, a1, 8
                ; or a0, a0, a1
            );
            note(ops, A0);
            code!(ops ; ld a0, [t1, 0]);
            note(ops, A0);
        },
        // Line and modem status.
        &|ops| {
            code!(ops ; li t1, UART + 5 ; lhu a0, [t1, 0]);
            note(ops, A0);
        },
        // The PLIC has no registers of two bytes, the UART none after eight.
        &|ops| code!(ops ; li t1, PLIC + 6 ; lw a0, [t1, 0]),
        &|ops| code!(ops ; li t1, PLIC + 6 ; sw a0, [t1, 0]),
        &|ops| code!(ops ; li t1, UART + 5 ; lw a0, [t1, 0]),
    ]);
    check(
        &program
            .expect(&[5 << 8 | 3, 5 << 32 | 3, 0xb060])
            .trap(LOAD_FAULT, access(2, PLIC + 6), PLIC as u64 + 6)
            .trap(STORE_FAULT, access(3, PLIC + 6), PLIC as u64 + 6)
            .trap(LOAD_FAULT, access(4, UART + 5), UART as u64 + 8),
    );
}
