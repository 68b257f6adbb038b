//! Programs for the bare machine, which start at the first byte of RAM in M-mode.
// dynasm! converts every register number that it is given, also one that is a `u8` already.
#![allow(clippy::useless_conversion)]

use dynasmrt::riscv::RiscvRelocation;
use dynasmrt::{DynasmApi, DynasmLabelApi, VecAssembler, dynasm};

/// Where programs find what the command line puts into memory for them.
pub const PARAMETERS: u64 = 0x8000_1000;

const FINISHER: i32 = 0x10_0000;
const UART: i32 = 0x1000_0000;
const FW_CFG: i32 = 0x1010_0000;

/// What the finisher takes for power-off, failure (with the code above it) and reset.
const PASS: i32 = 0x5555;
const FAIL: i32 = 0x3333;
const RESET: i32 = 0x7777;

macro_rules! program {
    ($($code:tt)*) => {{
        let mut ops = VecAssembler::<RiscvRelocation>::new(0);
        dynasm!(ops
            ; .arch riscv64i
            ; .feature i, m, a, zicsr
            ; $($code)*
        );
        ops.finalize().expect("every label is defined and in reach")
    }};
}

/// Every hart asks for a reset, at once.
pub fn resets() -> Vec<u8> {
    program!(
        li.32 t0, FINISHER as _
        ; li.32 t1, RESET as _
        ; sw t1, [t0]
        ; spin:
        ; j <spin
    )
}

/// Fails with the half-word at `PARAMETERS` as the exit code.
pub fn fails() -> Vec<u8> {
    program!(
        li.32 t0, FINISHER as _
        ; li.32 t1, PARAMETERS as i32 as _
        // A positive number.
        ; slli t1, t1, 32
        ; srli t1, t1, 32
        ; lhu t1, [t1]
        ; slli t1, t1, 16
        ; li.32 t2, FAIL as _
        ; or t1, t1, t2
        ; sw t1, [t0]
        ; spin:
        ; j <spin
    )
}

/// Prints as many bytes of a fw_cfg item as the doubleword at `PARAMETERS + 8` says; its selector,
/// big-endian, is the half-word at `PARAMETERS`.
pub fn prints_fw_cfg() -> Vec<u8> {
    program!(
        li.32 s0, FW_CFG as _
        ; li.32 s1, UART as _
        ; li.32 s2, PARAMETERS as i32 as _
        ; slli s2, s2, 32
        ; srli s2, s2, 32
        ; lhu t0, [s2]
        ; sh t0, [s0, 8]
        ; ld s3, [s2, 8]
        ; next:
        ; beqz s3, >done
        ; lbu a0, [s0]
        ; busy:
        ; lbu t1, [s1, 5]
        ; andi t1, t1, 0x20
        ; beqz t1, <busy
        ; sb a0, [s1]
        ; addi s3, s3, -1
        ; j <next
        ; done:
        ; li.32 t0, FINISHER as _
        ; li.32 t1, PASS as _
        ; sw t1, [t0]
        ; spin:
        ; j <spin
    )
}

/// Takes an environment call, an illegal instruction, and loads and stores that nothing answers,
/// then powers off.
pub fn traps() -> Vec<u8> {
    program!(
        la t0, >handler
        ; csrw mtvec, t0
        ; ecall
        ; .u32 0
        ; li.32 t0, 0x0700_0000
        ; lw t1, [t0]
        ; sw t1, [t0, 4]
        ; li.32 t0, FINISHER as _
        ; li.32 t1, PASS as _
        ; sw t1, [t0]
        ; spin:
        ; j <spin
        ; .align 4
        ; handler:
        ; csrr t2, mepc
        ; addi t2, t2, 4
        ; csrw mepc, t2
        // mret, for which dynasm has no name.
        ; .u32 0x3020_0073
    )
}
