//! The registers of a hart as text, laid out as QEMU lays them out: `info registers`, `-d cpu`,
//! and what expressions of the monitor call them.

use std::fmt::Write;

use super::hart::Hart;
use super::state::HartState;

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

/// A hart's registers, to be shown.
#[derive(Debug, Clone, Copy)]
pub struct Registers<'a> {
    pub hartid: u64,
    pub state: &'a HartState,
    /// Pending interrupts, which the state does not hold.
    pub mip: u64,
    /// Accrued exception flags, those in the host's register included.
    pub fflags: u8,
    /// The hart has floating-point registers.
    pub float: bool,
}

impl<'a> Registers<'a> {
    /// The registers of a hart outside translated code.
    pub fn of(hart: &'a Hart) -> Self {
        Self {
            hartid: hart.env.hartid,
            state: &hart.state,
            mip: hart.env.irq.pending(),
            fflags: hart.fflags(),
            float: hart.env.isa.f,
        }
    }

    fn fcsr(&self) -> u64 {
        u64::from(self.state.frm) << 5 | u64::from(self.fflags)
    }

    fn mstatus(&self) -> u64 {
        match self.state.mstatus & MSTATUS_FS {
            MSTATUS_FS => self.state.mstatus | MSTATUS_SD,
            _ => self.state.mstatus,
        }
    }

    /// The registers that come before the integer ones, in QEMU's order.
    fn system(&self) -> [(&'static str, u64); 18] {
        let s = self.state;
        [
            ("pc", s.pc),
            ("mhartid", self.hartid),
            ("mstatus", self.mstatus()),
            ("mip", self.mip),
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

    /// Append all of them, the floating-point ones if wanted.
    pub fn write(&self, out: &mut String, float: bool) {
        for (name, value) in self.system() {
            // Writing to a String cannot fail.
            let _ = writeln!(out, " {name:<8} {value:016x}");
        }
        bank(out, 'x', &X_NAMES, &self.state.x);
        if float && self.float {
            let _ = writeln!(out, " {:<8} {:016x}", "fcsr", self.fcsr());
            bank(out, 'f', &F_NAMES, &self.state.f);
        }
    }

    /// The register that `$name` means: `pc`, `x10`, `a0`, `f10`, `fa0`, or a CSR of the list.
    pub fn named(&self, name: &str) -> Option<u64> {
        if let Some(i) = index(&X_NAMES, 'x', name) {
            return self.state.x.get(i).copied();
        }
        if let Some(i) = index(&F_NAMES, 'f', name).filter(|_| self.float) {
            return self.state.f.get(i).copied();
        }
        match name {
            "fp" => Some(self.state.x[8]),
            "fcsr" if self.float => Some(self.fcsr()),
            _ => self.system().iter().find(|(n, _)| *n == name).map(|(_, v)| *v),
        }
    }
}

/// Thirty-two registers, four to a line.
fn bank(out: &mut String, letter: char, names: &[&str; 32], values: &[u64; 32]) {
    for (i, (name, value)) in names.iter().zip(values).enumerate() {
        let end = if i % 4 == 3 { "\n" } else { "" };
        let _ = write!(out, " {:<8} {value:016x}{end}", format!("{letter}{i}/{name}"));
    }
}

fn index(names: &[&str; 32], letter: char, name: &str) -> Option<usize> {
    let numbered = || name.strip_prefix(letter)?.parse().ok().filter(|&i: &usize| i < 32);
    names.iter().position(|own| *own == name).or_else(numbered)
}
