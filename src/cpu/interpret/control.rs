//! Jumps, branches, fences and environment calls.

use std::sync::atomic::{Ordering, fence};

use super::{register, set_register};
use crate::cpu::hart::{Hart, Trap};
use crate::cpu::insn::{Insn, Op};

const INSTRUCTION_MISALIGNED: u64 = 0;
const BREAKPOINT: u64 = 3;
/// `ecall` from U; the other levels follow in the order of their encodings.
const ECALL_FROM_U: u64 = 8;

pub(super) fn execute(hart: &mut Hart, insn: &Insn) -> Result<(), Trap> {
    let pc = hart.state.pc;
    let next = pc.wrapping_add(insn.len.into());
    let (a, b) = (register(hart, insn.rs1), register(hart, insn.rs2));
    let relative = pc.wrapping_add(insn.imm as u64);
    let branch = |taken: bool| if taken { relative } else { next };
    let target = match insn.op {
        Op::Jal => relative,
        Op::Jalr => a.wrapping_add(insn.imm as u64) & !1,
        Op::Beq => branch(a == b),
        Op::Bne => branch(a != b),
        Op::Blt => branch((a as i64) < b as i64),
        Op::Bge => branch(a as i64 >= b as i64),
        Op::Bltu => branch(a < b),
        Op::Bgeu => branch(a >= b),
        Op::Fence => {
            fence(Ordering::SeqCst);
            next
        }
        Op::FenceI => {
            hart.fence_i();
            next
        }
        Op::Ecall => {
            let cause = ECALL_FROM_U + hart.state.privilege as u64;
            return Err(Trap { cause, tval: 0 });
        }
        Op::Ebreak => return Err(Trap { cause: BREAKPOINT, tval: pc }),
        _ => return Err(Trap::illegal(insn.raw)),
    };
    if target & 2 != 0 && !hart.env.isa.c && !hart.env.isa.zca {
        return Err(Trap { cause: INSTRUCTION_MISALIGNED, tval: target });
    }
    // Only jumps have a destination register.
    set_register(hart, insn.rd, next);
    hart.state.pc = target;
    Ok(())
}
