//! F, D, Zfh, Zfhmin and Zfa: registers, rounding modes and flags around `fpu`.

use super::{register, set_register};
use crate::cpu::fpu::{self, F16, F32, F64, Format, RoundingMode};
use crate::cpu::hart::{Hart, Trap};
use crate::cpu::insn::{Insn, Op};

const MSTATUS_FS: u64 = 3 << 13;

pub(super) fn execute(hart: &mut Hart, insn: &Insn) -> Result<(), Trap> {
    if hart.state.mstatus & MSTATUS_FS == 0 {
        return Err(Trap::illegal(insn.raw));
    }
    // Operations that do not round have a zero field.
    let rounding = fpu::rounding(insn.rm, hart.state.frm).ok_or_else(|| Trap::illegal(insn.raw))?;
    Executor { hart, insn, rounding }.run()
}

struct Executor<'a> {
    hart: &'a mut Hart,
    insn: &'a Insn,
    rounding: RoundingMode,
}

impl Executor<'_> {
    fn run(mut self) -> Result<(), Trap> {
        match self.insn.op {
            Op::Flw => return self.load::<F32>(4),
            Op::Fld => return self.load::<F64>(8),
            Op::Flh => return self.load::<F16>(2),
            Op::Fsw => return self.store(4),
            Op::Fsd => return self.store(8),
            Op::Fsh => return self.store(2),

            Op::FmaddS => self.fused(fpu::madd::<F32>),
            Op::FmaddD => self.fused(fpu::madd::<F64>),
            Op::FmaddH => self.fused(fpu::madd::<F16>),
            Op::FmsubS => self.fused(fpu::msub::<F32>),
            Op::FmsubD => self.fused(fpu::msub::<F64>),
            Op::FmsubH => self.fused(fpu::msub::<F16>),
            Op::FnmsubS => self.fused(fpu::nmsub::<F32>),
            Op::FnmsubD => self.fused(fpu::nmsub::<F64>),
            Op::FnmsubH => self.fused(fpu::nmsub::<F16>),
            Op::FnmaddS => self.fused(fpu::nmadd::<F32>),
            Op::FnmaddD => self.fused(fpu::nmadd::<F64>),
            Op::FnmaddH => self.fused(fpu::nmadd::<F16>),

            Op::FaddS => self.rounded(fpu::add::<F32>),
            Op::FaddD => self.rounded(fpu::add::<F64>),
            Op::FaddH => self.rounded(fpu::add::<F16>),
            Op::FsubS => self.rounded(fpu::sub::<F32>),
            Op::FsubD => self.rounded(fpu::sub::<F64>),
            Op::FsubH => self.rounded(fpu::sub::<F16>),
            Op::FmulS => self.rounded(fpu::mul::<F32>),
            Op::FmulD => self.rounded(fpu::mul::<F64>),
            Op::FmulH => self.rounded(fpu::mul::<F16>),
            Op::FdivS => self.rounded(fpu::div::<F32>),
            Op::FdivD => self.rounded(fpu::div::<F64>),
            Op::FdivH => self.rounded(fpu::div::<F16>),

            Op::FsqrtS => self.unary(fpu::sqrt::<F32>),
            Op::FsqrtD => self.unary(fpu::sqrt::<F64>),
            Op::FsqrtH => self.unary(fpu::sqrt::<F16>),
            Op::FroundS => self.unary(fpu::round::<F32>),
            Op::FroundD => self.unary(fpu::round::<F64>),
            Op::FroundH => self.unary(fpu::round::<F16>),
            Op::FroundnxS => self.unary(fpu::roundnx::<F32>),
            Op::FroundnxD => self.unary(fpu::roundnx::<F64>),
            Op::FroundnxH => self.unary(fpu::roundnx::<F16>),
            Op::FcvtSD => self.unary(fpu::convert::<F64, F32>),
            Op::FcvtDS => self.unary(fpu::convert::<F32, F64>),
            Op::FcvtSH => self.unary(fpu::convert::<F16, F32>),
            Op::FcvtHS => self.unary(fpu::convert::<F32, F16>),
            Op::FcvtDH => self.unary(fpu::convert::<F16, F64>),
            Op::FcvtHD => self.unary(fpu::convert::<F64, F16>),

            Op::FsgnjS => self.binary(|a: F32, b| (fpu::sgnj(a, b), 0)),
            Op::FsgnjD => self.binary(|a: F64, b| (fpu::sgnj(a, b), 0)),
            Op::FsgnjH => self.binary(|a: F16, b| (fpu::sgnj(a, b), 0)),
            Op::FsgnjnS => self.binary(|a: F32, b| (fpu::sgnjn(a, b), 0)),
            Op::FsgnjnD => self.binary(|a: F64, b| (fpu::sgnjn(a, b), 0)),
            Op::FsgnjnH => self.binary(|a: F16, b| (fpu::sgnjn(a, b), 0)),
            Op::FsgnjxS => self.binary(|a: F32, b| (fpu::sgnjx(a, b), 0)),
            Op::FsgnjxD => self.binary(|a: F64, b| (fpu::sgnjx(a, b), 0)),
            Op::FsgnjxH => self.binary(|a: F16, b| (fpu::sgnjx(a, b), 0)),
            Op::FminS => self.binary(fpu::min::<F32>),
            Op::FminD => self.binary(fpu::min::<F64>),
            Op::FminH => self.binary(fpu::min::<F16>),
            Op::FmaxS => self.binary(fpu::max::<F32>),
            Op::FmaxD => self.binary(fpu::max::<F64>),
            Op::FmaxH => self.binary(fpu::max::<F16>),
            Op::FminmS => self.binary(fpu::minm::<F32>),
            Op::FminmD => self.binary(fpu::minm::<F64>),
            Op::FminmH => self.binary(fpu::minm::<F16>),
            Op::FmaxmS => self.binary(fpu::maxm::<F32>),
            Op::FmaxmD => self.binary(fpu::maxm::<F64>),
            Op::FmaxmH => self.binary(fpu::maxm::<F16>),

            Op::FeqS => self.compare(fpu::eq::<F32>),
            Op::FeqD => self.compare(fpu::eq::<F64>),
            Op::FeqH => self.compare(fpu::eq::<F16>),
            Op::FltS => self.compare(fpu::lt::<F32>),
            Op::FltD => self.compare(fpu::lt::<F64>),
            Op::FltH => self.compare(fpu::lt::<F16>),
            Op::FleS => self.compare(fpu::le::<F32>),
            Op::FleD => self.compare(fpu::le::<F64>),
            Op::FleH => self.compare(fpu::le::<F16>),
            Op::FltqS => self.compare(fpu::ltq::<F32>),
            Op::FltqD => self.compare(fpu::ltq::<F64>),
            Op::FltqH => self.compare(fpu::ltq::<F16>),
            Op::FleqS => self.compare(fpu::leq::<F32>),
            Op::FleqD => self.compare(fpu::leq::<F64>),
            Op::FleqH => self.compare(fpu::leq::<F16>),
            Op::FclassS => self.integer_of(|a: F32, _| (fpu::classify(a), 0)),
            Op::FclassD => self.integer_of(|a: F64, _| (fpu::classify(a), 0)),
            Op::FclassH => self.integer_of(|a: F16, _| (fpu::classify(a), 0)),

            Op::FcvtWS => self.integer_of(fpu::to_w::<F32>),
            Op::FcvtWD => self.integer_of(fpu::to_w::<F64>),
            Op::FcvtWH => self.integer_of(fpu::to_w::<F16>),
            Op::FcvtWuS => self.integer_of(fpu::to_wu::<F32>),
            Op::FcvtWuD => self.integer_of(fpu::to_wu::<F64>),
            Op::FcvtWuH => self.integer_of(fpu::to_wu::<F16>),
            Op::FcvtLS => self.integer_of(fpu::to_l::<F32>),
            Op::FcvtLD => self.integer_of(fpu::to_l::<F64>),
            Op::FcvtLH => self.integer_of(fpu::to_l::<F16>),
            Op::FcvtLuS => self.integer_of(fpu::to_lu::<F32>),
            Op::FcvtLuD => self.integer_of(fpu::to_lu::<F64>),
            Op::FcvtLuH => self.integer_of(fpu::to_lu::<F16>),
            Op::FcvtmodWD => self.integer_of(|a: F64, _| fpu::to_w_modular(a)),

            Op::FcvtSW => self.value_of(fpu::from_w::<F32>),
            Op::FcvtDW => self.value_of(fpu::from_w::<F64>),
            Op::FcvtHW => self.value_of(fpu::from_w::<F16>),
            Op::FcvtSWu => self.value_of(fpu::from_wu::<F32>),
            Op::FcvtDWu => self.value_of(fpu::from_wu::<F64>),
            Op::FcvtHWu => self.value_of(fpu::from_wu::<F16>),
            Op::FcvtSL => self.value_of(fpu::from_l::<F32>),
            Op::FcvtDL => self.value_of(fpu::from_l::<F64>),
            Op::FcvtHL => self.value_of(fpu::from_l::<F16>),
            Op::FcvtSLu => self.value_of(fpu::from_lu::<F32>),
            Op::FcvtDLu => self.value_of(fpu::from_lu::<F64>),
            Op::FcvtHLu => self.value_of(fpu::from_lu::<F16>),

            // Moves of bits look at no boxing.
            Op::FmvXW => self.set_integer(self.bits(self.insn.rs1) as i32 as u64, 0),
            Op::FmvXD => self.set_integer(self.bits(self.insn.rs1), 0),
            Op::FmvXH => self.set_integer(self.bits(self.insn.rs1) as i16 as u64, 0),
            Op::FmvWX => self.value_of(|x, _| (F32::from_raw(x), 0)),
            Op::FmvDX => self.value_of(|x, _| (F64::from_raw(x), 0)),
            Op::FmvHX => self.value_of(|x, _| (F16::from_raw(x), 0)),
            Op::FliS => self.set(fpu::fli::<F32>(self.insn.rs1), 0),
            Op::FliD => self.set(fpu::fli::<F64>(self.insn.rs1), 0),
            Op::FliH => self.set(fpu::fli::<F16>(self.insn.rs1), 0),
            _ => return Err(Trap::illegal(self.insn.raw)),
        }
        Ok(())
    }

    fn load<F: Format>(&mut self, width: u8) -> Result<(), Trap> {
        let va = register(self.hart, self.insn.rs1).wrapping_add(self.insn.imm as u64);
        let raw = self.hart.load(va, width)?;
        self.set(F::from_raw(raw), 0);
        Ok(())
    }

    fn store(&mut self, width: u8) -> Result<(), Trap> {
        let va = register(self.hart, self.insn.rs1).wrapping_add(self.insn.imm as u64);
        self.hart.store(va, width, self.bits(self.insn.rs2))
    }

    fn fused<F: Format>(&mut self, f: impl Fn(F, F, F, RoundingMode) -> (F, u8)) {
        let Insn { rs1, rs2, rs3, .. } = *self.insn;
        let (value, flags) = f(self.get(rs1), self.get(rs2), self.get(rs3), self.rounding);
        self.set(value, flags);
    }

    fn rounded<F: Format>(&mut self, f: impl Fn(F, F, RoundingMode) -> (F, u8)) {
        let rounding = self.rounding;
        self.binary(|a, b| f(a, b, rounding));
    }

    fn binary<F: Format>(&mut self, f: impl Fn(F, F) -> (F, u8)) {
        let (value, flags) = f(self.get(self.insn.rs1), self.get(self.insn.rs2));
        self.set(value, flags);
    }

    fn unary<S: Format, D: Format>(&mut self, f: impl Fn(S, RoundingMode) -> (D, u8)) {
        let (value, flags) = f(self.get(self.insn.rs1), self.rounding);
        self.set(value, flags);
    }

    fn compare<F: Format>(&mut self, f: impl Fn(F, F) -> (bool, u8)) {
        let (value, flags) = f(self.get(self.insn.rs1), self.get(self.insn.rs2));
        self.set_integer(value.into(), flags);
    }

    fn integer_of<F: Format>(&mut self, f: impl Fn(F, RoundingMode) -> (u64, u8)) {
        let (value, flags) = f(self.get(self.insn.rs1), self.rounding);
        self.set_integer(value, flags);
    }

    fn value_of<F: Format>(&mut self, f: impl Fn(u64, RoundingMode) -> (F, u8)) {
        let (value, flags) = f(register(self.hart, self.insn.rs1), self.rounding);
        self.set(value, flags);
    }

    fn bits(&self, number: u8) -> u64 {
        self.hart.state.f[usize::from(number & 31)]
    }

    fn get<F: Format>(&self, number: u8) -> F {
        F::unbox(self.bits(number))
    }

    fn set<F: Format>(&mut self, value: F, flags: u8) {
        self.hart.state.f[usize::from(self.insn.rd & 31)] = value.to_box();
        self.hart.mark_fs_dirty();
        self.hart.raise_fflags(flags);
    }

    fn set_integer(&mut self, value: u64, flags: u8) {
        set_register(self.hart, self.insn.rd, value);
        if flags != 0 {
            self.hart.mark_fs_dirty();
            self.hart.raise_fflags(flags);
        }
    }
}
