//! Computation of RV64I, M and Zicond.

use super::sext32;
use crate::cpu::insn::Op;

/// The result of an operation of `Group::Integer` on `a` (rs1) and `b` (rs2, or the immediate);
/// `None` for other operations.
pub fn value(op: Op, a: u64, b: u64, pc: u64) -> Option<u64> {
    let shamt = b as u32 & 63;
    let shamt32 = b as u32 & 31;
    Some(match op {
        Op::Lui => b,
        Op::Auipc => pc.wrapping_add(b),
        Op::Addi | Op::Add => a.wrapping_add(b),
        Op::Sub => a.wrapping_sub(b),
        Op::Slti | Op::Slt => u64::from((a as i64) < b as i64),
        Op::Sltiu | Op::Sltu => u64::from(a < b),
        Op::Xori | Op::Xor => a ^ b,
        Op::Ori | Op::Or => a | b,
        Op::Andi | Op::And => a & b,
        Op::Slli | Op::Sll => a << shamt,
        Op::Srli | Op::Srl => a >> shamt,
        Op::Srai | Op::Sra => (a as i64 >> shamt) as u64,
        Op::Addiw | Op::Addw => sext32(a.wrapping_add(b)),
        Op::Subw => sext32(a.wrapping_sub(b)),
        Op::Slliw | Op::Sllw => sext32(a << shamt32),
        Op::Srliw | Op::Srlw => sext32((a as u32 >> shamt32).into()),
        Op::Sraiw | Op::Sraw => (a as i32 >> shamt32) as u64,
        Op::Mul => a.wrapping_mul(b),
        Op::Mulh => ((i128::from(a as i64) * i128::from(b as i64)) >> 64) as u64,
        Op::Mulhsu => ((i128::from(a as i64) * i128::from(b)) >> 64) as u64,
        Op::Mulhu => ((u128::from(a) * u128::from(b)) >> 64) as u64,
        Op::Mulw => sext32(a.wrapping_mul(b)),
        // Division by zero and overflow do not trap (Unprivileged spec table 13.1).
        Op::Div => match b as i64 {
            0 => u64::MAX,
            divisor => (a as i64).wrapping_div(divisor) as u64,
        },
        Op::Divu => a.checked_div(b).unwrap_or(u64::MAX),
        Op::Rem => match b as i64 {
            0 => a,
            divisor => (a as i64).wrapping_rem(divisor) as u64,
        },
        Op::Remu => a.checked_rem(b).unwrap_or(a),
        Op::Divw => match b as i32 {
            0 => u64::MAX,
            divisor => (a as i32).wrapping_div(divisor) as u64,
        },
        Op::Divuw => sext32((a as u32).checked_div(b as u32).unwrap_or(u32::MAX).into()),
        Op::Remw => match b as i32 {
            0 => sext32(a),
            divisor => (a as i32).wrapping_rem(divisor) as u64,
        },
        Op::Remuw => sext32((a as u32).checked_rem(b as u32).unwrap_or(a as u32).into()),
        Op::CzeroEqz => {
            if b == 0 {
                0
            } else {
                a
            }
        }
        Op::CzeroNez => {
            if b != 0 {
                0
            } else {
                a
            }
        }
        _ => return None,
    })
}
