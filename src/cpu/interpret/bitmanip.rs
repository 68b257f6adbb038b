//! Zba, Zbb, Zbc, Zbs, Zbkb, Zbkc and Zbkx.

use super::sext32;
use crate::cpu::insn::Op;

/// The result of an operation of `Group::Bitmanip` on `a` (rs1) and `b` (rs2, or the immediate);
/// `None` for other operations.
pub fn value(op: Op, a: u64, b: u64) -> Option<u64> {
    let shamt = b as u32 & 63;
    let shamt32 = b as u32 & 31;
    let bit = 1u64 << shamt;
    let word = u64::from(a as u32);
    Some(match op {
        Op::AddUw => word.wrapping_add(b),
        Op::Sh1add => (a << 1).wrapping_add(b),
        Op::Sh2add => (a << 2).wrapping_add(b),
        Op::Sh3add => (a << 3).wrapping_add(b),
        Op::Sh1addUw => (word << 1).wrapping_add(b),
        Op::Sh2addUw => (word << 2).wrapping_add(b),
        Op::Sh3addUw => (word << 3).wrapping_add(b),
        Op::SlliUw => word << shamt,
        Op::Andn => a & !b,
        Op::Orn => a | !b,
        Op::Xnor => !(a ^ b),
        Op::Clz => a.leading_zeros().into(),
        Op::Ctz => a.trailing_zeros().into(),
        Op::Cpop => a.count_ones().into(),
        Op::Clzw => (a as u32).leading_zeros().into(),
        Op::Ctzw => (a as u32).trailing_zeros().into(),
        Op::Cpopw => (a as u32).count_ones().into(),
        Op::SextB => a as i8 as u64,
        Op::SextH => a as i16 as u64,
        Op::ZextH => (a as u16).into(),
        Op::Min => (a as i64).min(b as i64) as u64,
        Op::Minu => a.min(b),
        Op::Max => (a as i64).max(b as i64) as u64,
        Op::Maxu => a.max(b),
        Op::Rol => a.rotate_left(shamt),
        Op::Ror | Op::Rori => a.rotate_right(shamt),
        Op::Rolw => sext32((a as u32).rotate_left(shamt32).into()),
        Op::Rorw | Op::Roriw => sext32((a as u32).rotate_right(shamt32).into()),
        Op::OrcB => {
            u64::from_le_bytes(a.to_le_bytes().map(|byte| if byte == 0 { 0 } else { 0xff }))
        }
        Op::Rev8 => a.swap_bytes(),
        Op::Brev8 => a.reverse_bits().swap_bytes(),
        Op::Pack => word | b << 32,
        Op::Packh => a & 0xff | (b & 0xff) << 8,
        Op::Packw => sext32(a & 0xffff | (b & 0xffff) << 16),
        Op::Clmul => carryless(a, b) as u64,
        Op::Clmulh => (carryless(a, b) >> 64) as u64,
        Op::Clmulr => (carryless(a, b) >> 63) as u64,
        Op::Bclr | Op::Bclri => a & !bit,
        Op::Bext | Op::Bexti => a >> shamt & 1,
        Op::Binv | Op::Binvi => a ^ bit,
        Op::Bset | Op::Bseti => a | bit,
        Op::Xperm4 => permute(a, b, 4),
        Op::Xperm8 => permute(a, b, 8),
        _ => return None,
    })
}

/// The 127-bit carry-less product.
fn carryless(a: u64, b: u64) -> u128 {
    let mut product = 0;
    let mut rest = b;
    while rest != 0 {
        product ^= u128::from(a) << rest.trailing_zeros();
        rest &= rest - 1;
    }
    product
}

/// Each `width`-bit element of `indices` picks an element of `table`; 0 when out of range.
fn permute(table: u64, indices: u64, width: u32) -> u64 {
    let mask = (1u64 << width) - 1;
    let mut result = 0;
    for position in (0..64).step_by(width as usize) {
        let index = (indices >> position & mask) as u32;
        let element = table.checked_shr(index * width).unwrap_or(0) & mask;
        result |= element << position;
    }
    result
}
