//! The programs and what they have to find; here, what they share.

use dynasmrt::dynasm;

use crate::program::{Assembler, BASE};

/// Assembly; for the modules below, too.
macro_rules! code {
    ($ops:ident $($t:tt)*) => { dynasm!($ops ; .arch riscv64i ; .feature gc $($t)*) };
}

mod harts;
mod protection;
mod time;
mod translation;
mod traps;
mod ways;

const U: i64 = 0;
const S: i64 = 1;
const A0: u8 = 10;
const A1: u8 = 11;
const INTERRUPT: u64 = 1 << 63;
/// Code that runs below M-mode, and data.
const SLOT: u64 = BASE + 0x5000;
const DATA: u64 = BASE + 0x6000;
/// Page tables: a root whose gigapage at `BASE` maps itself, a middle table, leaves.
const ROOT: u64 = BASE + 0x1_0000;
const MIDDLE: u64 = BASE + 0x1_1000;
const LEAVES: u64 = BASE + 0x1_2000;
const OTHER_ROOT: u64 = BASE + 0x1_3000;
const SV39: u64 = 8 << 60;
const MTIME: i64 = 0x0200_bff8;

/// PTE bits.
const V: u64 = 1;
const R: u64 = 2;
const W: u64 = 4;
const X: u64 = 8;
const USER: u64 = 16;
const AD: u64 = 3 << 6;

const fn pte(pa: u64, flags: u64) -> u64 {
    pa >> 12 << 10 | flags
}

fn ecall(ops: &mut Assembler) {
    code!(ops ; ecall);
}
