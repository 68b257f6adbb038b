//! The reference interpreter: the meaning of every instruction, written to be read. Translated
//! code is tested against it and falls back to it.

mod atomic;
pub mod bitmanip;
mod control;
mod crypto;
mod float;
pub mod integer;
mod memory;

use super::hart::{Hart, Trap};
use super::insn::{Group, Insn};
use super::system;

/// Execute `insn`, which was fetched at `hart.state.pc`. On success `pc` is that of the next
/// instruction; on a trap nothing has changed.
pub fn execute(hart: &mut Hart, insn: &Insn) -> Result<(), Trap> {
    match insn.op.group() {
        Group::Control => return control::execute(hart, insn),
        // Returns from traps also set the pc.
        Group::System => return system::execute_system(hart, insn),
        Group::Integer => {
            // Whichever of rs2 and imm the operation does not use is zero.
            let b = register(hart, insn.rs2).wrapping_add(insn.imm as u64);
            let value = integer::value(insn.op, register(hart, insn.rs1), b, hart.state.pc);
            set_register(hart, insn.rd, value.ok_or_else(|| Trap::illegal(insn.raw))?);
        }
        Group::Bitmanip => {
            let b = register(hart, insn.rs2).wrapping_add(insn.imm as u64);
            let value = bitmanip::value(insn.op, register(hart, insn.rs1), b);
            set_register(hart, insn.rd, value.ok_or_else(|| Trap::illegal(insn.raw))?);
        }
        Group::Crypto => crypto::execute(hart, insn)?,
        Group::Memory => memory::execute(hart, insn)?,
        Group::Atomic => atomic::execute(hart, insn)?,
        Group::Float => float::execute(hart, insn)?,
    }
    hart.state.pc = hart.state.pc.wrapping_add(insn.len.into());
    Ok(())
}

/// Fetch, decode and execute one instruction.
pub fn step(hart: &mut Hart) -> Result<(), Trap> {
    let raw = hart.fetch(hart.state.pc)?;
    let insn = hart.decoded.decode(raw, &hart.env.isa);
    execute(hart, &insn)
}

/// An integer register; numbers wrap at 32, so that no instruction can index past the end.
fn register(hart: &Hart, number: u8) -> u64 {
    hart.state.x[usize::from(number & 31)]
}

fn set_register(hart: &mut Hart, number: u8, value: u64) {
    if number != 0 {
        hart.state.x[usize::from(number & 31)] = value;
    }
}

fn sext32(value: u64) -> u64 {
    value as i32 as u64
}

#[cfg(test)]
mod tests;
