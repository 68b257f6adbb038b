//! What is done to a block between translation and emission: constants were already folded while
//! translating (`fold`), dead register writes are dropped here.

use super::ir::{AluOp, Block, UnaryOp};

/// Evaluate an operation on constants; `None` for the ones not worth folding.
pub fn fold(op: AluOp, a: i64, b: i64) -> Option<i64> {
    let word = |v: i64| i64::from(v as i32);
    Some(match op {
        AluOp::Add => a.wrapping_add(b),
        AluOp::Sub => a.wrapping_sub(b),
        AluOp::And => a & b,
        AluOp::Or => a | b,
        AluOp::Xor => a ^ b,
        AluOp::Sll => a << (b & 63),
        AluOp::Srl => ((a as u64) >> (b & 63)) as i64,
        AluOp::Sra => a >> (b & 63),
        AluOp::Slt => i64::from(a < b),
        AluOp::Sltu => i64::from((a as u64) < b as u64),
        AluOp::AddW => word(a.wrapping_add(b)),
        AluOp::SubW => word(a.wrapping_sub(b)),
        AluOp::SllW => i64::from((a as i32) << (b & 31)),
        AluOp::SrlW => i64::from(((a as u32) >> (b & 31)) as i32),
        AluOp::SraW => i64::from((a as i32) >> (b & 31)),
        AluOp::Mul => a.wrapping_mul(b),
        AluOp::MulW => word(a.wrapping_mul(b)),
        AluOp::Sh1Add => b.wrapping_add(a << 1),
        AluOp::Sh2Add => b.wrapping_add(a << 2),
        AluOp::Sh3Add => b.wrapping_add(a << 3),
        AluOp::AddUw => b.wrapping_add(a & 0xffff_ffff),
        AluOp::SllUw => (a & 0xffff_ffff) << (b & 63),
        AluOp::Andn => a & !b,
        AluOp::Bset => a | 1 << (b & 63),
        _ => return None,
    })
}

/// Evaluate a unary operation on a constant.
pub fn fold_unary(op: UnaryOp, a: i64) -> i64 {
    match op {
        UnaryOp::Clz => i64::from(a.leading_zeros()),
        UnaryOp::Ctz => i64::from(a.trailing_zeros()),
        UnaryOp::Cpop => i64::from(a.count_ones()),
        UnaryOp::ClzW => i64::from((a as u32).leading_zeros()),
        UnaryOp::CtzW => i64::from((a as u32).trailing_zeros()),
        UnaryOp::CpopW => i64::from((a as u32).count_ones()),
        UnaryOp::SextB => i64::from(a as i8),
        UnaryOp::SextH => i64::from(a as i16),
        UnaryOp::ZextH => i64::from(a as u16),
        UnaryOp::Rev8 => a.swap_bytes(),
    }
}

/// Drop register writes that are overwritten before anything can see them. Everything that may
/// leave the block or fault sees all registers.
pub fn drop_dead_writes(block: &mut Block) {
    let mut overwritten = 0u32;
    let mut keep = vec![true; block.steps.len()];
    for (i, step) in block.steps.iter().enumerate().rev() {
        let ir = &step.ir;
        if ir.is_pure() {
            let bit = ir.dst().map_or(0, |d| 1u32 << d);
            if overwritten & bit != 0 {
                keep[i] = false;
                continue;
            }
            overwritten |= bit;
            overwritten &= !ir.reads();
        } else {
            overwritten = 0;
        }
    }
    let mut kept = keep.iter();
    block.steps.retain(|_| *kept.next().unwrap_or(&true));
}

#[cfg(test)]
mod tests {
    use super::super::ir::{Ir, Operand, Step};
    use super::*;

    fn block(irs: &[Ir]) -> Block {
        let steps = irs.iter().map(|&ir| Step { offset: 0, ir }).collect();
        Block { steps, ..Block::default() }
    }

    #[test]
    fn overwritten_constants_go_and_visible_ones_stay() {
        let one = Ir::Const { dst: 5, value: 1 };
        let two = Ir::Const { dst: 5, value: 2 };
        let load = Ir::Load { dst: 6, base: Operand::Reg(7), offset: 0, width: 8, signed: false };
        let use5 = Ir::Alu { op: AluOp::Add, dst: 6, a: Operand::Reg(5), b: Operand::Imm(1) };
        for (given, kept) in [
            (vec![one, two], vec![two]),
            (vec![one, load, two], vec![one, load, two]),
            (vec![one, use5, two], vec![one, use5, two]),
        ] {
            let mut b = block(&given);
            drop_dead_writes(&mut b);
            assert_eq!(b.steps, block(&kept).steps);
        }
    }
}
