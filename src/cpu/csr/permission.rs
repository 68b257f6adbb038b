//! Whether a CSR exists and may be accessed: extensions, privilege, the enables of
//! `mcounteren`/`scounteren`/`mstateen`, `TVM`, `FS`.

use super::bits::*;
use super::counters::TM;
use super::number::{self, *};
use crate::cpu::hart::Hart;
use crate::cpu::state::Privilege;

/// True when an instruction in the current mode may access `csr`, and write it if `write`.
pub(super) fn allowed(hart: &Hart, csr: u16, write: bool) -> bool {
    let privilege = hart.state.privilege as u16;
    let read_only = csr >> 10 & 3 == 3;
    hart.env.isa.zicsr
        && privilege >= csr >> 8 & 3
        && !(write && read_only)
        && exists(hart, csr)
        && enabled(hart, csr, write)
}

/// True when this hart has `csr`.
pub(super) fn exists(hart: &Hart, csr: u16) -> bool {
    let isa = &hart.env.isa;
    let hpm = |index: u16| isa.pmu_mask >> index & 1 != 0;
    match csr {
        FFLAGS | FRM | FCSR => isa.f,
        SEED => isa.zkr,
        SSTATUS | number::SIE | STVEC | SSCRATCH | SEPC | SCAUSE | STVAL | SIP | SATP => isa.s,
        SCOUNTEREN | SENVCFG => isa.s && isa.u,
        SSTATEEN0..=SSTATEEN3 => isa.s && isa.smstateen,
        STIMECMP => isa.s && isa.sstc,
        // What they select is not there: mireg, sireg and their like never are.
        SISELECT => isa.s && isa.sscsrind,
        MISELECT => isa.smcsrind,
        MSTATUS
        | MISA
        | number::MIE
        | MTVEC
        | MCOUNTINHIBIT
        | MSCRATCH
        | MEPC
        | MCAUSE
        | MTVAL
        | MIP => true,
        MEDELEG | MIDELEG => isa.s,
        MCOUNTEREN | MENVCFG => isa.u,
        MSTATEEN0..=MSTATEEN3 => isa.smstateen,
        MHPMEVENT3..=MHPMEVENT31 => true,
        PMPCFG0 | PMPCFG2 | PMPADDR0..=PMPADDR15 => isa.pmp_entries != 0,
        MSECCFG => isa.smepmp || isa.zkr,
        TSELECT..=TINFO | MCONTEXT => isa.debug,
        SCOUNTOVF => isa.s && isa.sscofpmf,
        MCYCLE | MINSTRET => true,
        MHPMCOUNTER3..=MHPMCOUNTER31 => hpm(csr - MCYCLE),
        CYCLE | TIME | INSTRET => isa.zicntr,
        HPMCOUNTER3..=HPMCOUNTER31 => isa.zihpm && hpm(csr - CYCLE),
        MVENDORID..=MCONFIGPTR => true,
        _ => false,
    }
}

/// True when nothing but existence and the privilege in the number stands in the way.
fn enabled(hart: &Hart, csr: u16, write: bool) -> bool {
    let s = &hart.state;
    let machine = s.privilege == Privilege::Machine;
    let stateen = |i: usize, bit: u64| {
        machine || !hart.env.isa.smstateen || s.mstateen.get(i).is_some_and(|m| m & bit != 0)
    };
    match csr {
        FFLAGS | FRM | FCSR => s.mstatus & FS != 0,
        // `seed` is read by instructions that also write (Zkr 4.1).
        SEED => {
            write
                && match s.privilege {
                    Privilege::Machine => true,
                    Privilege::Supervisor => s.mseccfg & MSECCFG_SSEED != 0,
                    Privilege::User => s.mseccfg & MSECCFG_USEED != 0,
                }
        }
        SATP => machine || s.mstatus & TVM == 0,
        SENVCFG => stateen(0, STATEEN0_ENVCFG),
        SISELECT => stateen(0, STATEEN0_CSRIND),
        SSTATEEN0..=SSTATEEN3 => stateen(usize::from(csr - SSTATEEN0), STATEEN_SE),
        STIMECMP => machine || s.mcounteren & TM != 0 && s.menvcfg & MENVCFG_STCE != 0,
        CYCLE..=HPMCOUNTER31 => {
            let bit = 1 << (csr - CYCLE);
            let by_machine = machine || s.mcounteren & bit != 0;
            let by_supervisor =
                s.privilege != Privilege::User || !hart.env.isa.s || s.scounteren & bit != 0;
            by_machine && by_supervisor
        }
        _ => true,
    }
}
