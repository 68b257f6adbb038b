//! Integer loads and stores.

use super::{register, set_register, sext32};
use crate::cpu::hart::{Hart, Trap};
use crate::cpu::insn::{Insn, Op};

pub(super) fn execute(hart: &mut Hart, insn: &Insn) -> Result<(), Trap> {
    let va = register(hart, insn.rs1).wrapping_add(insn.imm as u64);
    let value = match insn.op {
        Op::Lb => hart.load(va, 1)? as i8 as u64,
        Op::Lbu => hart.load(va, 1)?,
        Op::Lh => hart.load(va, 2)? as i16 as u64,
        Op::Lhu => hart.load(va, 2)?,
        Op::Lw => sext32(hart.load(va, 4)?),
        Op::Lwu => hart.load(va, 4)?,
        Op::Ld => hart.load(va, 8)?,
        _ => {
            let width = match insn.op {
                Op::Sb => 1,
                Op::Sh => 2,
                Op::Sw => 4,
                Op::Sd => 8,
                _ => return Err(Trap::illegal(insn.raw)),
            };
            return hart.store(va, width, register(hart, insn.rs2));
        }
    };
    set_register(hart, insn.rd, value);
    Ok(())
}
