//! The registers of a hart: as `info registers` lists them and as expressions name them.

use std::fmt::Write;

use crate::cpu::state::HartState;
use crate::machine::message::HartSnapshot;

/// ABI names of the integer registers (psABI).
const X_NAMES: [&str; 32] = [
    "zero", "ra", "sp", "gp", "tp", "t0", "t1", "t2", "s0", "s1", "a0", "a1", "a2", "a3", "a4",
    "a5", "a6", "a7", "s2", "s3", "s4", "s5", "s6", "s7", "s8", "s9", "s10", "s11", "t3", "t4",
    "t5", "t6",
];

/// ABI names of the floating-point registers (psABI).
const F_NAMES: [&str; 32] = [
    "ft0", "ft1", "ft2", "ft3", "ft4", "ft5", "ft6", "ft7", "fs0", "fs1", "fa0", "fa1", "fa2",
    "fa3", "fa4", "fa5", "fa6", "fa7", "fs2", "fs3", "fs4", "fs5", "fs6", "fs7", "fs8", "fs9",
    "fs10", "fs11", "ft8", "ft9", "ft10", "ft11",
];

/// `mstatus.FS` and the SD bit that summarises it (Privileged spec 3.1.6.6).
const MSTATUS_FS: u64 = 3 << 13;
const MSTATUS_SD: u64 = 1 << 63;

fn fcsr(state: &HartState) -> u64 {
    u64::from(state.frm) << 5 | u64::from(state.fflags)
}

fn mstatus(state: &HartState) -> u64 {
    match state.mstatus & MSTATUS_FS {
        MSTATUS_FS => state.mstatus | MSTATUS_SD,
        _ => state.mstatus,
    }
}

/// The registers that come before the integer ones, in QEMU's order.
fn system_registers(snapshot: &HartSnapshot, hart: u32) -> [(&'static str, u64); 18] {
    let s = &snapshot.state;
    [
        ("pc", s.pc),
        ("mhartid", hart.into()),
        ("mstatus", mstatus(s)),
        ("mip", snapshot.mip),
        ("mie", s.mie),
        ("mideleg", s.mideleg),
        ("medeleg", s.medeleg),
        ("mtvec", s.mtvec),
        ("stvec", s.stvec),
        ("mepc", s.mepc),
        ("sepc", s.sepc),
        ("mcause", s.mcause),
        ("scause", s.scause),
        ("mtval", s.mtval),
        ("stval", s.stval),
        ("mscratch", s.mscratch),
        ("sscratch", s.sscratch),
        ("satp", s.satp),
    ]
}

/// Append the registers of one hart.
pub(super) fn render(out: &mut String, cpu: u32, snapshot: &HartSnapshot) {
    // Writing to a String cannot fail.
    let _ = writeln!(out, "\nCPU#{cpu}");
    for (name, value) in system_registers(snapshot, cpu) {
        let _ = writeln!(out, " {name:<8} {value:016x}");
    }
    bank(out, 'x', &X_NAMES, &snapshot.state.x);
    if snapshot.isa.f {
        let _ = writeln!(out, " {:<8} {:016x}", "fcsr", fcsr(&snapshot.state));
        bank(out, 'f', &F_NAMES, &snapshot.state.f);
    }
}

/// Thirty-two registers, four to a line.
fn bank(out: &mut String, letter: char, names: &[&str; 32], values: &[u64; 32]) {
    for (i, (name, value)) in names.iter().zip(values).enumerate() {
        let end = if i % 4 == 3 { "\n" } else { "" };
        let _ = write!(out, " {:<8} {value:016x}{end}", format!("{letter}{i}/{name}"));
    }
}

/// The register that `$name` means: `pc`, `x10`, `a0`, `f10`, `fa0`, or a CSR of the list.
pub(super) fn value(snapshot: &HartSnapshot, cpu: u32, name: &str) -> Option<u64> {
    let state = &snapshot.state;
    if let Some(i) = index(&X_NAMES, 'x', name) {
        return state.x.get(i).copied();
    }
    if let Some(i) = index(&F_NAMES, 'f', name).filter(|_| snapshot.isa.f) {
        return state.f.get(i).copied();
    }
    match name {
        "fp" => Some(state.x[8]),
        "fcsr" if snapshot.isa.f => Some(fcsr(state)),
        _ => system_registers(snapshot, cpu).iter().find(|(n, _)| *n == name).map(|(_, v)| *v),
    }
}

fn index(names: &[&str; 32], letter: char, name: &str) -> Option<usize> {
    let numbered = || name.strip_prefix(letter)?.parse().ok().filter(|&i: &usize| i < 32);
    names.iter().position(|own| *own == name).or_else(numbered)
}
