//! A and Zacas. Every access is sequentially consistent, whatever `aq` and `rl` say.

use super::{register, set_register, sext32};
use crate::cpu::hart::{Hart, Trap};
use crate::cpu::insn::{Insn, Op};

pub(super) fn execute(hart: &mut Hart, insn: &Insn) -> Result<(), Trap> {
    let va = register(hart, insn.rs1);
    let b = register(hart, insn.rs2);
    let value = match insn.op {
        Op::LrW => sext32(hart.load_reserved(va, 4)?),
        Op::LrD => hart.load_reserved(va, 8)?,
        Op::ScW => u64::from(!hart.store_conditional(va, 4, b)?),
        Op::ScD => u64::from(!hart.store_conditional(va, 8, b)?),
        Op::AmoCasW => {
            let expected = register(hart, insn.rd) as u32;
            sext32(hart.compare_exchange(va, 4, expected.into(), u128::from(b as u32))? as u64)
        }
        Op::AmoCasD => {
            let expected = register(hart, insn.rd);
            hart.compare_exchange(va, 8, expected.into(), b.into())? as u64
        }
        Op::AmoCasQ => {
            let (expected, new) = (register_pair(hart, insn.rd), register_pair(hart, insn.rs2));
            let old = hart.compare_exchange(va, 16, expected, new)?;
            if insn.rd != 0 {
                set_register(hart, insn.rd, old as u64);
                set_register(hart, insn.rd + 1, (old >> 64) as u64);
            }
            return Ok(());
        }
        _ => match (word_update(insn.op), doubleword_update(insn.op)) {
            (Some(f), _) => sext32(hart.amo(va, 4, &mut |old| f(old as u32, b as u32).into())?),
            (_, Some(f)) => hart.amo(va, 8, &mut |old| f(old, b))?,
            _ => return Err(Trap::illegal(insn.raw)),
        },
    };
    set_register(hart, insn.rd, value);
    Ok(())
}

/// An even-odd register pair; the pair of x0 is zero (Zacas).
fn register_pair(hart: &Hart, number: u8) -> u128 {
    if number == 0 {
        return 0;
    }
    u128::from(register(hart, number)) | u128::from(register(hart, number + 1)) << 64
}

fn word_update(op: Op) -> Option<fn(u32, u32) -> u32> {
    Some(match op {
        Op::AmoSwapW => |_, b| b,
        Op::AmoAddW => u32::wrapping_add,
        Op::AmoXorW => |a, b| a ^ b,
        Op::AmoAndW => |a, b| a & b,
        Op::AmoOrW => |a, b| a | b,
        Op::AmoMinW => |a, b| (a as i32).min(b as i32) as u32,
        Op::AmoMaxW => |a, b| (a as i32).max(b as i32) as u32,
        Op::AmoMinuW => u32::min,
        Op::AmoMaxuW => u32::max,
        _ => return None,
    })
}

fn doubleword_update(op: Op) -> Option<fn(u64, u64) -> u64> {
    Some(match op {
        Op::AmoSwapD => |_, b| b,
        Op::AmoAddD => u64::wrapping_add,
        Op::AmoXorD => |a, b| a ^ b,
        Op::AmoAndD => |a, b| a & b,
        Op::AmoOrD => |a, b| a | b,
        Op::AmoMinD => |a, b| (a as i64).min(b as i64) as u64,
        Op::AmoMaxD => |a, b| (a as i64).max(b as i64) as u64,
        Op::AmoMinuD => u64::min,
        Op::AmoMaxuD => u64::max,
        _ => return None,
    })
}
