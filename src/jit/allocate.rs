//! Which guest registers live in host registers. The assignment is the same in every block, so
//! chained blocks pass values on without touching memory; the rest live in `HartState`.
//!
//! Host registers: `rbp` points into `HartState`, `rsp` is the host's stack, `rax`, `rcx` and
//! `rdx` are scratch; `xmm0`–`xmm3` are scratch. The guest registers chosen are the ones that
//! compilers use most, which are those that compressed instructions can name.

use std::mem::offset_of;

use crate::cpu::state::{HartState, JitExit, JitLinks};

/// What `rbp` is above the start of `HartState`, so that the hottest fields are in reach of an
/// 8-bit displacement.
pub const BIAS: i32 = 128;

/// (guest, host) integer registers.
pub const PINNED: [(u8, u8); 11] = [
    (1, 14),  // ra
    (2, 3),   // sp
    (8, 12),  // s0
    (9, 13),  // s1
    (10, 7),  // a0
    (11, 6),  // a1
    (12, 8),  // a2
    (13, 9),  // a3
    (14, 10), // a4
    (15, 11), // a5
    (16, 15), // a6
];

/// (guest, host) FP registers.
pub const FP_PINNED: [(u8, u8); 12] = [
    (0, 4),
    (1, 5),
    (2, 6),
    (3, 7),
    (8, 8),
    (9, 9),
    (10, 10),
    (11, 11),
    (12, 12),
    (13, 13),
    (14, 14),
    (15, 15),
];

/// Where a guest register is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    Host(u8),
    /// Displacement from `rbp`.
    Memory(i32),
}

const fn lookup(table: &[(u8, u8)]) -> [u8; 32] {
    let mut map = [0xff; 32];
    let mut i = 0;
    while i < table.len() {
        map[table[i].0 as usize] = table[i].1;
        i += 1;
    }
    map
}

const INT_MAP: [u8; 32] = lookup(&PINNED);
const FP_MAP: [u8; 32] = lookup(&FP_PINNED);

/// Displacement of the memory home of integer register `r`.
pub fn int_home(r: u8) -> i32 {
    offset_of!(HartState, x) as i32 + 8 * i32::from(r) - BIAS
}

/// Displacement of the memory home of FP register `r`.
pub fn fp_home(r: u8) -> i32 {
    offset_of!(HartState, f) as i32 + 8 * i32::from(r) - BIAS
}

/// Where integer register `r` (1–31) is.
pub fn int(r: u8) -> Place {
    match INT_MAP[usize::from(r)] {
        0xff => Place::Memory(int_home(r)),
        host => Place::Host(host),
    }
}

/// Where FP register `r` is.
pub fn fp(r: u8) -> Place {
    match FP_MAP[usize::from(r)] {
        0xff => Place::Memory(fp_home(r)),
        host => Place::Host(host),
    }
}

macro_rules! field {
    ($name:ident, $outer:ident, $inner:ident, $field:ident) => {
        /// Displacement from `rbp`.
        pub const $name: i32 =
            (offset_of!(HartState, $outer) + offset_of!($inner, $field)) as i32 - BIAS;
    };
}

field!(PAGE_VA, jit, JitLinks, page_va);
field!(TLB, jit, JitLinks, tlb);
field!(TLB_MASK, jit, JitLinks, tlb_mask);
field!(JUMP_CACHE, jit, JitLinks, jump_cache);
field!(EXIT_FLAG, jit, JitLinks, exit_flag);
field!(PC_OFFSET, jit, JitLinks, pc_offset);
field!(FP_INLINE, jit, JitLinks, fp_inline);
field!(GUEST_MXCSR, jit, JitLinks, guest_mxcsr);
field!(CBO_ZERO, jit, JitLinks, cbo_zero);
field!(HART, jit, JitLinks, hart);
field!(EXIT_REASON, exit, JitExit, reason);
field!(EXIT_DATA, exit, JitExit, data);
field!(HOST_MXCSR, exit, JitExit, host_mxcsr);
/// Displacement from `rbp` of `mie`.
pub const MIE: i32 = offset_of!(HartState, mie) as i32 - BIAS;
/// Displacement from `rbp` of `privilege`.
pub const PRIVILEGE: i32 = offset_of!(HartState, privilege) as i32 - BIAS;
/// Displacement from `rbp` of `reservation`.
pub const RESERVATION: i32 = offset_of!(HartState, reservation) as i32 - BIAS;
/// Displacement from `rbp` of `reservation_value`.
pub const RESERVATION_VALUE: i32 = offset_of!(HartState, reservation_value) as i32 - BIAS;

/// A CSR that is a plain field of the state, for modes of at least `mode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlainCsr {
    pub home: i32,
    pub mode: i8,
    /// Bits that a write stores.
    pub mask: i64,
}

/// The plain CSR of this number, if it is one. With 16-bit instructions bit 0 of an `xepc` is
/// always clear.
pub fn plain_csr(number: u16) -> Option<PlainCsr> {
    const S: i8 = 1;
    const M: i8 = 3;
    let (home, mode, mask) = match number {
        0x140 => (offset_of!(HartState, sscratch), S, -1),
        0x141 => (offset_of!(HartState, sepc), S, !1),
        0x142 => (offset_of!(HartState, scause), S, -1),
        0x143 => (offset_of!(HartState, stval), S, -1),
        0x340 => (offset_of!(HartState, mscratch), M, -1),
        0x341 => (offset_of!(HartState, mepc), M, !1),
        0x342 => (offset_of!(HartState, mcause), M, -1),
        0x343 => (offset_of!(HartState, mtval), M, -1),
        _ => return None,
    };
    Some(PlainCsr { home: home as i32 - BIAS, mode, mask })
}

/// Displacement from `rbp`.
pub const PC: i32 = offset_of!(HartState, pc) as i32 - BIAS;
/// Displacement from `rbp`.
pub const MSTATUS: i32 = offset_of!(HartState, mstatus) as i32 - BIAS;
