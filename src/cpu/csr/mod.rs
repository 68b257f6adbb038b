//! Control and status registers: what each reads as and what a write leaves in it (WARL as QEMU's
//! `virt` harts have it, except that reserved bits which QEMU stores read as zero here, as the
//! Privileged spec wants: `xepc[0]`, `pmpcfg[6:5]`, `pmpaddr[63:54]`).

pub mod bits;
pub mod counters;
pub mod number;
mod permission;

use bits::*;
use number::*;

pub(super) use counters::set_privilege;
pub use counters::update_stimer;

use super::hart::{Hart, Trap};
use super::irq::{LCOFIP, SEIP, SSIP, STIP};
use super::pmp;
use super::trap::ILLEGAL_INSTRUCTION;
use crate::machine::guest_random::{GuestRandom, NoneNow};

/// Interrupts of S-mode.
const SUPERVISOR_INTERRUPTS: u64 = SSIP | STIP | SEIP;
/// Interrupts of VS-mode: QEMU's delegation and pending bits for them exist also without H.
const VIRTUAL_INTERRUPTS: u64 = SUPERVISOR_INTERRUPTS << 1;
/// What `mideleg` can delegate, and what software can set in `mip`.
const DELEGABLE_INTERRUPTS: u64 = SUPERVISOR_INTERRUPTS | VIRTUAL_INTERRUPTS | LCOFIP;
/// What `sie` and `sip` can show.
const SUPERVISOR_VIEW: u64 = SUPERVISOR_INTERRUPTS | LCOFIP;
/// `mie` has the standard interrupts of M and S and everything from 13 up.
const MIE_WRITABLE: u64 = !0x1555;
/// Exceptions that can be delegated: all defined ones but double traps.
const DELEGABLE_EXCEPTIONS: u64 = 0x00f4_bfff;

/// What a write of `mstatus` can change, FS apart.
const MSTATUS_WRITABLE: u64 =
    bits::SIE | bits::MIE | SPIE | MPIE | SPP | MPP | MPRV | SUM | MXR | TVM | TW | TSR;
/// The part of `mstatus`, with SD made up, that `sstatus` shows.
pub const SSTATUS_READABLE: u64 = SSTATUS_WRITABLE | FS | UXL | SD;
/// The part of `mstatus` that `sstatus` writes, FS apart.
const SSTATUS_WRITABLE: u64 = bits::SIE | SPIE | SPP | SUM | MXR;
/// Bits whose change alters how instructions execute or memory is accessed.
const CONTEXT_BITS: u64 = MPP | FS | MPRV | SUM | MXR;

const TRIGGERS: u64 = 2;
/// `tdata1` of an address-match trigger that matches nothing (debug spec 5.2.2: type 2).
const MATCHLESS_TRIGGER: u64 = 2 << 60;
/// `tinfo`: type 2 is all there is.
const TRIGGER_TYPES: u64 = 1 << 2;

/// `mcontext` without H (debug spec 5.7.7).
const MCONTEXT_MASK: u64 = 0x1fff;

fn illegal() -> Trap {
    Trap { cause: ILLEGAL_INSTRUCTION, tval: 0 }
}

/// Refuse an access that the current mode may not make (`tval` is left to the instruction).
pub fn check(hart: &Hart, csr: u16, write: bool) -> Result<(), Trap> {
    if permission::allowed(hart, csr, write) { Ok(()) } else { Err(illegal()) }
}

/// Read a CSR as an instruction in the current mode that does not write it.
pub fn read(hart: &mut Hart, csr: u16) -> Result<u64, Trap> {
    check(hart, csr, false)?;
    Ok(get(hart, csr))
}

/// Write a CSR as an instruction in the current mode.
pub fn write(hart: &mut Hart, csr: u16, value: u64) -> Result<(), Trap> {
    check(hart, csr, true)?;
    set(hart, csr, value);
    Ok(())
}

/// The value of a CSR for a debugger or monitor, whatever the mode; `None` when this hart has no
/// such CSR.
pub fn inspect(hart: &mut Hart, csr: u16) -> Option<u64> {
    (csr != SEED && permission::exists(hart, csr)).then(|| get(hart, csr))
}

/// What `csrrs` and `csrrc` modify: what a read returns, but for the wire's part of `mip.SEIP`
/// (Privileged spec 3.1.9).
pub(super) fn modify_base(hart: &Hart, csr: u16, read: u64) -> u64 {
    match csr {
        MIP => read & !SEIP | hart.env.irq.soft() & SEIP,
        _ => read,
    }
}

/// Read, access already checked.
pub(super) fn get(hart: &mut Hart, csr: u16) -> u64 {
    let s = &hart.state;
    match csr {
        FFLAGS => hart.fflags().into(),
        FRM => s.frm.into(),
        FCSR => u64::from(s.frm) << 5 | u64::from(hart.fflags()),
        SEED => seed(&hart.env.random),
        SSTATUS => with_sd(s.mstatus) & SSTATUS_READABLE,
        number::SIE => s.mie & s.mideleg & SUPERVISOR_VIEW,
        STVEC => s.stvec,
        SCOUNTEREN => s.scounteren,
        SENVCFG => s.senvcfg,
        SSTATEEN0..=SSTATEEN3 => {
            let i = usize::from(csr - SSTATEEN0);
            s.sstateen[i] & s.mstateen[i]
        }
        SSCRATCH => s.sscratch,
        SEPC => s.sepc,
        SCAUSE => s.scause,
        STVAL => s.stval,
        SIP => counters::pending_now(hart) & hart.state.mideleg & SUPERVISOR_VIEW,
        STIMECMP => s.stimecmp,
        SISELECT => s.siselect,
        MISELECT => s.miselect,
        SATP if !hart.env.isa.mmu => 0,
        SATP => s.satp,
        MSTATUS => with_sd(s.mstatus),
        MISA => s.misa,
        MEDELEG => s.medeleg,
        MIDELEG => s.mideleg,
        number::MIE => s.mie,
        MTVEC => s.mtvec,
        MCOUNTEREN => s.mcounteren,
        MENVCFG => s.menvcfg,
        MSTATEEN0..=MSTATEEN3 => s.mstateen[usize::from(csr - MSTATEEN0)],
        MCOUNTINHIBIT => s.mcountinhibit,
        MHPMEVENT3..=MHPMEVENT31 => {
            counters::note_overflows(hart);
            hart.state.mhpmevent[usize::from(csr - MHPMEVENT3)]
        }
        SCOUNTOVF => counters::overflows(hart),
        MCONTEXT => s.mcontext,
        MSCRATCH => s.mscratch,
        MEPC => s.mepc,
        MCAUSE => s.mcause,
        MTVAL => s.mtval,
        MIP => counters::pending_now(hart),
        PMPCFG0 | PMPCFG2 => {
            let first = usize::from(csr - PMPCFG0) * 4;
            (0..8).fold(0, |all, i| all | u64::from(s.pmpcfg[first + i]) << (8 * i))
        }
        PMPADDR0..=PMPADDR15 => s.pmpaddr[usize::from(csr - PMPADDR0)],
        MSECCFG => s.mseccfg,
        TSELECT => s.tselect,
        TDATA1 => MATCHLESS_TRIGGER,
        TDATA2 => s.tdata[(s.tselect % TRIGGERS) as usize][1],
        TDATA3 => 0,
        TINFO => TRIGGER_TYPES,
        TIME => hart.env.clock.ticks(),
        CYCLE..=HPMCOUNTER31 => counters::get(hart, usize::from(csr - CYCLE)),
        MCYCLE..=MHPMCOUNTER31 => counters::get(hart, usize::from(csr - MCYCLE)),
        MVENDORID => hart.env.isa.mvendorid.into(),
        MARCHID => hart.env.isa.marchid,
        MIMPID => hart.env.isa.mimpid,
        MHARTID => hart.env.hartid,
        // `mconfigptr`, and numbers that `permission::exists` knows nothing of.
        _ => 0,
    }
}

/// Write, access already checked.
pub(super) fn set(hart: &mut Hart, csr: u16, value: u64) {
    match csr {
        FFLAGS => {
            hart.set_fflags(value as u8 & 31);
            hart.mark_fs_dirty();
        }
        FRM => set_frm(hart, value),
        FCSR => {
            hart.set_fflags(value as u8 & 31);
            set_frm(hart, value >> 5);
        }
        SSTATUS => set_status(hart, value, SSTATUS_WRITABLE),
        number::SIE => set_mie(hart, value, hart.state.mideleg & SUPERVISOR_VIEW),
        STVEC => set_vector(&mut hart.state.stvec, value),
        SCOUNTEREN => hart.state.scounteren = value & counters::available(hart),
        SENVCFG => {
            let mask = ENVCFG_FIOM | ENVCFG_CBIE | ENVCFG_CBCFE | ENVCFG_CBZE;
            hart.state.senvcfg = value & mask;
            hart.context_changed();
        }
        SSCRATCH => hart.state.sscratch = value,
        SEPC => hart.state.sepc = value & epc_mask(hart),
        SCAUSE => hart.state.scause = value,
        STVAL => hart.state.stval = value,
        SIP => set_pending(hart, value, hart.state.mideleg & (SSIP | LCOFIP)),
        STIMECMP => {
            hart.state.stimecmp = value;
            update_stimer(hart);
        }
        SATP => set_satp(hart, value),
        SISELECT => hart.state.siselect = value & ISELECT_MASK,
        MISELECT => hart.state.miselect = value & ISELECT_MASK,
        MSTATUS => set_status(hart, value, MSTATUS_WRITABLE),
        MEDELEG => hart.state.medeleg = value & DELEGABLE_EXCEPTIONS,
        MIDELEG => {
            hart.state.mideleg = value & DELEGABLE_INTERRUPTS;
            look_at_interrupts(hart);
        }
        number::MIE => set_mie(hart, value, MIE_WRITABLE),
        MTVEC => set_vector(&mut hart.state.mtvec, value),
        MCOUNTEREN => hart.state.mcounteren = value & counters::available(hart),
        MENVCFG => set_menvcfg(hart, value),
        MSTATEEN0..=MSTATEEN3 => {
            let i = usize::from(csr - MSTATEEN0);
            let isa = &hart.env.isa;
            let indirect = if isa.smcsrind || isa.sscsrind { STATEEN0_CSRIND } else { 0 };
            let first = if i == 0 { STATEEN0_ENVCFG | STATEEN0_P1P13 | indirect } else { 0 };
            hart.state.mstateen[i] = value & (STATEEN_SE | first);
        }
        MCOUNTINHIBIT => counters::set_inhibit(hart, value),
        MHPMEVENT3..=MHPMEVENT31 => {
            counters::set_event(hart, usize::from(csr - MHPMEVENT3), value);
        }
        MSCRATCH => hart.state.mscratch = value,
        MEPC => hart.state.mepc = value & epc_mask(hart),
        MCAUSE => hart.state.mcause = value,
        MTVAL => hart.state.mtval = value,
        MIP => {
            let sstc = hart.env.isa.sstc && hart.state.menvcfg & MENVCFG_STCE != 0;
            let timers = if sstc { STIP | STIP << 1 } else { 0 };
            set_pending(hart, value, DELEGABLE_INTERRUPTS & !timers);
        }
        PMPCFG0 | PMPCFG2 => set_pmpcfg(hart, usize::from(csr - PMPCFG0) * 4, value),
        PMPADDR0..=PMPADDR15 => set_pmpaddr(hart, usize::from(csr - PMPADDR0), value),
        MSECCFG => set_mseccfg(hart, value),
        TSELECT if value < TRIGGERS => hart.state.tselect = value,
        TDATA2 => {
            let i = (hart.state.tselect % TRIGGERS) as usize;
            hart.state.tdata[i][1] = value;
        }
        MCONTEXT => hart.state.mcontext = value & MCONTEXT_MASK,
        MCYCLE..=MHPMCOUNTER31 => counters::set(hart, usize::from(csr - MCYCLE), value),
        // Fields that are all read-only: misa, sstateen, tdata1, tdata3, tinfo, seed.
        _ => {}
    }
}

fn with_sd(mstatus: u64) -> u64 {
    if mstatus & FS == FS { mstatus | SD } else { mstatus & !SD }
}

/// With 16-bit instructions IALIGN is 16 and else 32 (Privileged spec 3.1.14).
fn epc_mask(hart: &Hart) -> u64 {
    if hart.env.isa.c { !1 } else { !3 }
}

fn set_frm(hart: &mut Hart, value: u64) {
    hart.state.frm = value as u8 & 7;
    hart.mark_fs_dirty();
    hart.context_changed();
}

/// Modes 2 and 3 are reserved: such a write is ignored.
fn set_vector(vector: &mut u64, value: u64) {
    if value & 3 < 2 {
        *vector = value;
    }
}

fn set_status(hart: &mut Hart, value: u64, writable: u64) {
    let isa = &hart.env.isa;
    let old = hart.state.mstatus;
    let mask = writable | if isa.f { FS } else { 0 };
    let mut new = old & !mask | value & mask;
    let legal = match new >> MPP_SHIFT & 3 {
        0 => isa.u,
        1 => isa.s,
        2 => false,
        _ => true,
    };
    if !legal {
        new = new & !MPP | old & MPP;
    }
    hart.state.mstatus = new;
    if (old ^ new) & CONTEXT_BITS != 0 {
        hart.context_changed();
    }
    look_at_interrupts(hart);
}

fn set_mie(hart: &mut Hart, value: u64, mask: u64) {
    let s = &mut hart.state;
    s.mie = s.mie & !mask | value & mask;
    look_at_interrupts(hart);
}

fn set_pending(hart: &mut Hart, value: u64, mask: u64) {
    hart.env.irq.set_soft(!value & mask, false);
    hart.env.irq.set_soft(value & mask, true);
    look_at_interrupts(hart);
}

/// An interrupt may have become takeable: have the run loop look.
fn look_at_interrupts(hart: &Hart) {
    if super::trap::pending_interrupt(hart).is_some() {
        hart.env.irq.request_exit();
    }
}

/// An unsupported mode makes the whole write void (Privileged spec 12.1.11).
fn set_satp(hart: &mut Hart, value: u64) {
    use super::isa::SatpMode::{Bare, Sv39, Sv48, Sv57};
    let widest = hart.env.isa.satp_mode;
    let mode = value >> 60;
    let supported = [Bare, Sv39, Sv48, Sv57].iter().any(|m| *m <= widest && m.encoding() == mode);
    if supported && hart.env.isa.mmu && value != hart.state.satp {
        hart.state.satp = value;
        hart.context_changed();
    }
}

fn set_menvcfg(hart: &mut Hart, value: u64) {
    let isa = &hart.env.isa;
    let mask = ENVCFG_FIOM
        | ENVCFG_CBIE
        | ENVCFG_CBCFE
        | ENVCFG_CBZE
        | MENVCFG_CDE
        | if isa.svadu { MENVCFG_ADUE } else { 0 }
        | if isa.svpbmt { MENVCFG_PBMTE } else { 0 }
        | if isa.sstc { MENVCFG_STCE } else { 0 };
    let old = hart.state.menvcfg;
    let new = old & !mask | value & mask;
    hart.state.menvcfg = new;
    hart.context_changed();
    if (old ^ new) & (MENVCFG_ADUE | MENVCFG_PBMTE) != 0 {
        hart.translations_changed();
    }
    if (old ^ new) & MENVCFG_STCE != 0 {
        // From here on STIP is stimecmp's, or software's, alone.
        hart.env.irq.set_soft(STIP, false);
        update_stimer(hart);
        look_at_interrupts(hart);
    }
}

fn set_mseccfg(hart: &mut Hart, value: u64) {
    let isa = &hart.env.isa;
    let old = hart.state.mseccfg;
    let mut new = 0;
    if isa.zkr {
        new |= value & (MSECCFG_USEED | MSECCFG_SSEED);
    }
    if isa.smepmp {
        // MML and MMWP stay once set; RLB cannot come back while an entry is locked.
        new |= (value | old) & (pmp::MML | pmp::MMWP);
        let locked = hart.state.pmpcfg.iter().any(|cfg| cfg & pmp::LOCK != 0);
        new |= value & pmp::RLB & if locked { old } else { pmp::RLB };
    }
    hart.state.mseccfg = new;
    if old != new {
        hart.translations_changed();
    }
}

fn set_pmpcfg(hart: &mut Hart, first: usize, value: u64) {
    let s = &mut hart.state;
    let bypass = s.mseccfg & pmp::RLB != 0;
    for (i, byte) in value.to_le_bytes().into_iter().enumerate() {
        let new = byte & 0x9f;
        let old = &mut s.pmpcfg[first + i];
        if *old & pmp::LOCK != 0 && !bypass {
            continue;
        }
        // Under MML no new rule may let M-mode execute, unless rules can be unlocked again.
        let executable = matches!(new & 0x87, 0x81 | 0x82 | 0x83 | 0x85);
        if s.mseccfg & pmp::MML != 0 && !bypass && executable {
            continue;
        }
        *old = new;
    }
    hart.translations_changed();
}

fn set_pmpaddr(hart: &mut Hart, i: usize, value: u64) {
    let s = &mut hart.state;
    let bypass = s.mseccfg & pmp::RLB != 0;
    let locked = |cfg: u8| cfg & pmp::LOCK != 0 && !bypass;
    let bounds_next = s.pmpcfg.get(i + 1).is_some_and(|c| locked(*c) && pmp::mode(*c) == pmp::TOR);
    if locked(s.pmpcfg[i]) || bounds_next {
        return;
    }
    s.pmpaddr[i] = value & pmp::ADDR_MASK;
    hart.translations_changed();
}

/// 16 bits of entropy with the state ES16 (Zkr 4.1), or WAIT when there is none now.
fn seed(random: &GuestRandom) -> u64 {
    const ES16: u64 = 2 << 30;
    const WAIT: u64 = 1 << 30;
    let mut bytes = [0; 2];
    match random.fill(&mut bytes) {
        Ok(()) => ES16 | u64::from(u16::from_le_bytes(bytes)),
        Err(NoneNow) => WAIT,
    }
}

#[cfg(test)]
mod tests;
