//! Execution of the instructions that touch CSRs, privilege, translation caches and cache blocks.

use super::csr::bits::*;
use super::csr::{self, number};
use super::hart::{Hart, Trap};
use super::insn::{Insn, Op};
use super::pmp;
use super::state::Privilege;
use super::trap;

/// Execute a system instruction; on success `pc` is that of the next one. Anything else than the
/// operations named here is illegal.
pub fn execute_system(hart: &mut Hart, insn: &Insn) -> Result<(), Trap> {
    let illegal = Trap::illegal(insn.raw);
    let next = hart.state.pc.wrapping_add(insn.len.into());
    let rs1 = hart.state.x[usize::from(insn.rs1 & 31)];
    match insn.op {
        Op::Csrrw | Op::Csrrs | Op::Csrrc | Op::Csrrwi | Op::Csrrsi | Op::Csrrci => {
            access_csr(hart, insn).map_err(|_| illegal)?
        }
        Op::Mret => {
            require(hart.state.privilege == Privilege::Machine, illegal)?;
            let to_machine = hart.state.mstatus & MPP == MPP;
            if hart.env.isa.pmp_entries != 0 && !to_machine && !pmp::any_rule(&hart.state) {
                // QEMU: without a rule nothing below M-mode can run, and `mret` itself says so.
                return Err(Trap { cause: trap::INSTRUCTION_ACCESS_FAULT, tval: 0 });
            }
            trap::return_from_machine(hart);
            look_at_interrupts(hart);
            return Ok(());
        }
        Op::Sret => {
            let allowed = match hart.state.privilege {
                Privilege::User => false,
                Privilege::Supervisor => hart.state.mstatus & TSR == 0,
                Privilege::Machine => true,
            };
            require(hart.env.isa.s && allowed, illegal)?;
            trap::return_from_supervisor(hart);
            look_at_interrupts(hart);
            return Ok(());
        }
        Op::Wfi => {
            let waits = match (hart.state.privilege, hart.env.isa.s) {
                (Privilege::Machine, _) => true,
                (Privilege::Supervisor, _) | (Privilege::User, false) => {
                    hart.state.mstatus & TW == 0
                }
                (Privilege::User, true) => false,
            };
            require(waits, illegal)?;
            hart.state.waiting = hart.env.irq.pending() & hart.state.mie == 0;
            if hart.state.waiting {
                hart.env.irq.request_exit();
            }
        }
        Op::WrsNto => {
            let machine = hart.state.privilege == Privilege::Machine;
            require(machine || hart.state.mstatus & TW == 0, illegal)?;
            std::thread::yield_now();
        }
        // Both may end for any reason (Zawrs 1.1): let another hart run, which may be the one to
        // do the awaited store.
        Op::WrsSto => std::thread::yield_now(),
        Op::SfenceVma | Op::SinvalVma => {
            require(hart.env.isa.s && fences_allowed(hart), illegal)?;
            let va = (insn.rs1 != 0).then_some(rs1);
            let asid = hart.state.x[usize::from(insn.rs2 & 31)] as u16;
            hart.sfence_vma(va, (insn.rs2 != 0).then_some(asid));
        }
        // `sinval.vma` has invalidated at once, so nothing is left to order.
        Op::SfenceWInval | Op::SfenceInvalIr => {
            require(hart.env.isa.s && hart.state.privilege != Privilege::User, illegal)?;
        }
        Op::CboZero => {
            require(cache_enabled(hart, ENVCFG_CBZE), illegal)?;
            hart.cbo_zero(rs1)?;
        }
        Op::CboInval => {
            require(cache_enabled(hart, ENVCFG_CBIE), illegal)?;
            hart.cbo_management(rs1)?;
        }
        Op::CboClean | Op::CboFlush => {
            require(cache_enabled(hart, ENVCFG_CBCFE), illegal)?;
            hart.cbo_management(rs1)?;
        }
        _ => return Err(illegal),
    }
    hart.state.pc = next;
    Ok(())
}

fn require(condition: bool, otherwise: Trap) -> Result<(), Trap> {
    if condition { Ok(()) } else { Err(otherwise) }
}

fn fences_allowed(hart: &Hart) -> bool {
    match hart.state.privilege {
        Privilege::User => false,
        Privilege::Supervisor => hart.state.mstatus & TVM == 0,
        Privilege::Machine => true,
    }
}

/// Cache-block instructions need their enable in the configuration of every higher mode (CMO spec
/// 2.4).
pub fn cache_enabled(hart: &Hart, field: u64) -> bool {
    let s = &hart.state;
    let by_machine = s.privilege == Privilege::Machine || s.menvcfg & field != 0;
    let by_supervisor = s.privilege != Privilege::User || !hart.env.isa.s || s.senvcfg & field != 0;
    by_machine && by_supervisor
}

/// An interrupt may have become takeable: have the run loop look before the next instruction.
fn look_at_interrupts(hart: &Hart) {
    if trap::pending_interrupt(hart).is_some() {
        hart.env.irq.request_exit();
    }
}

fn access_csr(hart: &mut Hart, insn: &Insn) -> Result<(), Trap> {
    let csr = insn.imm as u16 & 0xfff;
    let operand = match insn.op {
        Op::Csrrw | Op::Csrrs | Op::Csrrc => hart.state.x[usize::from(insn.rs1 & 31)],
        _ => insn.rs1.into(),
    };
    let swap = matches!(insn.op, Op::Csrrw | Op::Csrrwi);
    // `csrrs`/`csrrc` with x0 or a zero immediate do not write, whatever else they do.
    let writes = swap || insn.rs1 != 0;
    csr::check(hart, csr, writes)?;
    // `csrrw` to x0 does not read; nothing but `seed` has a read that could tell.
    let old = if swap && insn.rd == 0 { 0 } else { csr::get(hart, csr) };
    let base = csr::modify_base(hart, csr, old);
    let new = match insn.op {
        Op::Csrrs | Op::Csrrsi => base | operand,
        Op::Csrrc | Op::Csrrci => base & !operand,
        _ => operand,
    };
    // Setting or clearing no bits is checked as a write and has, as in QEMU, no effect of one.
    if writes && (swap || operand != 0) && csr != number::SEED {
        csr::set(hart, csr, new);
    }
    if insn.rd != 0 {
        hart.state.x[usize::from(insn.rd & 31)] = old;
    }
    Ok(())
}
