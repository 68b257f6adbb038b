//! Traps: entry (Privileged spec 3.1.6–3.1.16, 12.1), choice of the pending interrupt, reset, and
//! the two returns.

use super::csr::{self, bits::*};
use super::hart::{Hart, Trap};
use super::irq::{LCOFIP, MEIP, MSIP, MTIP, SEIP, SSIP, STIP};
use super::state::{HartState, NO_RESERVATION, Privilege};

/// Bit 63 of `mcause`/`scause`.
pub const INTERRUPT: u64 = 1 << 63;

/// Causes of exceptions (Privileged spec table 3.1.15).
pub const INSTRUCTION_MISALIGNED: u64 = 0;
pub const INSTRUCTION_ACCESS_FAULT: u64 = 1;
pub const ILLEGAL_INSTRUCTION: u64 = 2;
pub const BREAKPOINT: u64 = 3;
/// Environment call from U-mode; plus 1 from S-mode, plus 3 from M-mode.
pub const ECALL_FROM_USER: u64 = 8;

impl Trap {
    /// Illegal instruction whose bits are `raw`.
    pub fn illegal(raw: u32) -> Self {
        Self { cause: ILLEGAL_INSTRUCTION, tval: raw.into() }
    }

    /// `ecall` executed in `privilege`.
    pub fn ecall(privilege: Privilege) -> Self {
        Self { cause: ECALL_FROM_USER + privilege as u64, tval: 0 }
    }
}

/// Interrupts in the order in which simultaneous ones are taken (Privileged spec 3.1.9).
const PRIORITY: [u64; 7] = [MEIP, MSIP, MTIP, SEIP, SSIP, STIP, LCOFIP];

/// Enter the handler of `trap`, raised by the instruction at `pc` or before it.
pub fn take(hart: &mut Hart, trap: Trap) {
    let s = &mut *hart.state;
    let interrupt = trap.cause & INTERRUPT != 0;
    let code = trap.cause & !INTERRUPT;
    let delegated = if interrupt { s.mideleg } else { s.medeleg };
    let to_supervisor =
        s.privilege != Privilege::Machine && code < 64 && delegated >> code & 1 != 0;
    let from = s.privilege as u64;
    let (to, vector) = if to_supervisor {
        let spie = if s.mstatus & SIE != 0 { SPIE } else { 0 };
        let spp = if s.privilege == Privilege::User { 0 } else { SPP };
        s.mstatus = s.mstatus & !(SIE | SPIE | SPP) | spie | spp;
        s.sepc = s.pc;
        s.scause = trap.cause;
        s.stval = trap.tval;
        (Privilege::Supervisor, s.stvec)
    } else {
        let mpie = if s.mstatus & MIE != 0 { MPIE } else { 0 };
        s.mstatus = s.mstatus & !(MIE | MPIE | MPP) | mpie | from << MPP_SHIFT;
        s.mepc = s.pc;
        s.mcause = trap.cause;
        s.mtval = trap.tval;
        (Privilege::Machine, s.mtvec)
    };
    let base = vector & !3;
    s.pc = if interrupt && vector & 3 == 1 { base.wrapping_add(4 * code) } else { base };
    s.waiting = false;
    csr::set_privilege(hart, to);
    hart.context_changed();
}

/// The interrupt to take now, if one is pending and enabled.
pub fn pending_interrupt(hart: &Hart) -> Option<Trap> {
    let s = &hart.state;
    let pending = hart.env.irq.pending() & s.mie;
    if pending == 0 {
        return None;
    }
    let machine = match s.privilege {
        Privilege::Machine => s.mstatus & MIE != 0,
        _ => true,
    };
    let supervisor = match s.privilege {
        Privilege::Machine => false,
        Privilege::Supervisor => s.mstatus & SIE != 0,
        Privilege::User => true,
    };
    let first = |set: u64| PRIORITY.into_iter().find(|bit| set & bit != 0);
    let to_machine = if machine { pending & !s.mideleg } else { 0 };
    let to_supervisor = if supervisor { pending & s.mideleg } else { 0 };
    let bit = first(to_machine).or_else(|| first(to_supervisor))?;
    Some(Trap { cause: INTERRUPT | u64::from(bit.trailing_zeros()), tval: 0 })
}

/// Return from a trap taken to M-mode: everything but the check that `mret` is legal.
pub(super) fn return_from_machine(hart: &mut Hart) {
    let user = hart.env.isa.u;
    let s = &mut *hart.state;
    let to = privilege(s.mstatus >> MPP_SHIFT & 3);
    let mie = if s.mstatus & MPIE != 0 { MIE } else { 0 };
    let least = if user { Privilege::User } else { Privilege::Machine };
    s.mstatus = s.mstatus & !(MIE | MPP) | mie | MPIE | (least as u64) << MPP_SHIFT;
    if to != Privilege::Machine {
        s.mstatus &= !MPRV;
    }
    s.pc = s.mepc;
    csr::set_privilege(hart, to);
    hart.context_changed();
}

/// Return from a trap taken to S-mode: everything but the check that `sret` is legal.
pub(super) fn return_from_supervisor(hart: &mut Hart) {
    let s = &mut *hart.state;
    let to = if s.mstatus & SPP != 0 { Privilege::Supervisor } else { Privilege::User };
    let sie = if s.mstatus & SPIE != 0 { SIE } else { 0 };
    s.mstatus = s.mstatus & !(SIE | SPP | MPRV) | sie | SPIE;
    s.pc = s.sepc;
    csr::set_privilege(hart, to);
    hart.context_changed();
}

/// The privilege that `MPP` encodes (the encoding 2 is never stored).
fn privilege(mpp: u64) -> Privilege {
    match mpp {
        0 => Privilege::User,
        1 => Privilege::Supervisor,
        _ => Privilege::Machine,
    }
}

/// Put the hart into its reset state, about to execute at `reset_pc` in M-mode.
pub fn reset(hart: &mut Hart, reset_pc: u64) {
    let isa = hart.env.isa.clone();
    let adue = if isa.svadu && !isa.svade { MENVCFG_ADUE } else { 0 };
    let pbmte = if isa.svpbmt { MENVCFG_PBMTE } else { 0 };
    let jit = hart.state.jit.clone();
    *hart.state = HartState {
        jit,
        pc: reset_pc,
        privilege: Privilege::Machine,
        mstatus: UXL_64 | SXL_64,
        misa: isa.misa(),
        menvcfg: adue | pbmte,
        reservation: NO_RESERVATION,
        ..HartState::default()
    };
    hart.set_fflags(0);
    hart.env.irq.reset();
    hart.env.irq.set_lines(STIP, false);
    hart.arm_stimer(u64::MAX);
    hart.translations_changed();
    hart.context_changed();
}

/// The name of a cause in the log of `-d int`, as QEMU prints it.
pub fn cause_name(cause: u64) -> &'static str {
    const INTERRUPTS: [&str; 16] = [
        "u_software",
        "s_software",
        "vs_software",
        "m_software",
        "u_timer",
        "s_timer",
        "vs_timer",
        "m_timer",
        "u_external",
        "s_external",
        "vs_external",
        "m_external",
        "reserved",
        "counter_overflow",
        "reserved",
        "reserved",
    ];
    const EXCEPTIONS: [&str; 16] = [
        "misaligned_fetch",
        "fault_fetch",
        "illegal_instruction",
        "breakpoint",
        "misaligned_load",
        "fault_load",
        "misaligned_store",
        "fault_store",
        "user_ecall",
        "supervisor_ecall",
        "hypervisor_ecall",
        "machine_ecall",
        "exec_page_fault",
        "load_page_fault",
        "reserved",
        "store_page_fault",
    ];
    let names = if cause & INTERRUPT != 0 { &INTERRUPTS } else { &EXCEPTIONS };
    usize::try_from(cause & !INTERRUPT)
        .ok()
        .and_then(|i| names.get(i))
        .copied()
        .unwrap_or("(unknown)")
}
