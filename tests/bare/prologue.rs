//! What every program here begins with.

use dynasmrt::riscv::RiscvRelocation;
use dynasmrt::{DynasmApi, VecAssembler, dynasm};

/// Traps go to `handler` in M-mode, and PMP lets every mode everywhere. Changes t0.
pub fn open_up(ops: &mut VecAssembler<RiscvRelocation>, handler: u64) {
    dynasm!(ops
        ; .arch riscv64i
        ; .feature gc
        ; li t0, handler as i64
        ; csrw 0x305, t0
        ; li t0, -1
        ; csrw 0x3b0, t0
        ; li t0, 0x1f
        ; csrw 0x3a0, t0
    );
}
