//! Guest FP instructions → IR. What the host's SSE does bit for bit is inline; the rest (half
//! precision, min/max, classify, unsigned long, static rounding modes) is interpreted.

use super::ir::{Fmt, FpCmp, FpOp, IntFmt, Ir};
use super::translate::{Flow, Translator};
use crate::cpu::insn::{Insn, Op};

/// `rm` fields: round towards zero, and the mode in `frm`.
const RTZ: u8 = 1;
const DYNAMIC: u8 = 7;

impl Translator<'_> {
    /// An instruction that is not an integer one: FP, or left to the interpreter.
    pub(super) fn float(&mut self, insn: &Insn) -> Flow {
        match self.inline_float(insn) {
            Some((ir, writes)) => {
                if !self.fp_guarded || writes && !self.fp_dirty {
                    self.emit(Ir::FpGuard { write: writes });
                    self.fp_guarded = true;
                    self.fp_dirty |= writes;
                }
                self.emit(ir);
                Flow::Next
            }
            None => self.interpret(insn),
        }
    }

    /// The inline form, and whether it writes FP state.
    fn inline_float(&self, insn: &Insn) -> Option<(Ir, bool)> {
        use Fmt::{D, S};
        use Op as O;
        let arith = |op, fmt| {
            (insn.rm == DYNAMIC).then_some((
                Ir::Fp {
                    op,
                    fmt,
                    dst: insn.rd,
                    a: insn.rs1,
                    b: insn.rs2,
                    c: insn.rs3,
                    slow: *insn,
                },
                true,
            ))
        };
        let any_mode = |op, fmt| {
            let (dst, a, b) = (insn.rd, insn.rs1, insn.rs2);
            Some((Ir::Fp { op, fmt, dst, a, b, c: 0, slow: *insn }, true))
        };
        let compare = |op, fmt| {
            let (dst, a, b) = (insn.rd, insn.rs1, insn.rs2);
            Some((Ir::FpCompare { op, fmt, dst, a, b, slow: *insn }, true))
        };
        let to_int = |fmt, int| {
            let truncate = insn.rm == RTZ;
            (truncate || insn.rm == DYNAMIC).then_some((
                Ir::FpToInt { fmt, int, truncate, dst: insn.rd, a: insn.rs1, slow: *insn },
                true,
            ))
        };
        let from_int = |int, fmt| {
            let exact = fmt == D && int != IntFmt::L;
            let ir = Ir::IntToFp { fmt, int, dst: insn.rd, a: self.src(insn.rs1) };
            (exact || insn.rm == DYNAMIC).then_some((ir, true))
        };
        let base = self.src(insn.rs1);
        let load = |fmt| Some((Ir::FpLoad { dst: insn.rd, base, offset: insn.imm, fmt }, true));
        let store = |fmt| Some((Ir::FpStore { src: insn.rs2, base, offset: insn.imm, fmt }, false));
        let to_bits = |fmt| Some((Ir::FpToBits { fmt, dst: insn.rd, a: insn.rs1 }, false));
        let from_bits = |fmt| Some((Ir::BitsToFp { fmt, dst: insn.rd, a: base }, true));
        match insn.op {
            O::Flw => load(S),
            O::Fld => load(D),
            O::Fsw => store(S),
            O::Fsd => store(D),
            O::FaddS => arith(FpOp::Add, S),
            O::FsubS => arith(FpOp::Sub, S),
            O::FmulS => arith(FpOp::Mul, S),
            O::FdivS => arith(FpOp::Div, S),
            O::FsqrtS => arith(FpOp::Sqrt, S),
            O::FmaddS => arith(FpOp::Madd, S),
            O::FmsubS => arith(FpOp::Msub, S),
            O::FnmsubS => arith(FpOp::Nmsub, S),
            O::FnmaddS => arith(FpOp::Nmadd, S),
            O::FaddD => arith(FpOp::Add, D),
            O::FsubD => arith(FpOp::Sub, D),
            O::FmulD => arith(FpOp::Mul, D),
            O::FdivD => arith(FpOp::Div, D),
            O::FsqrtD => arith(FpOp::Sqrt, D),
            O::FmaddD => arith(FpOp::Madd, D),
            O::FmsubD => arith(FpOp::Msub, D),
            O::FnmsubD => arith(FpOp::Nmsub, D),
            O::FnmaddD => arith(FpOp::Nmadd, D),
            O::FsgnjS => any_mode(FpOp::Sgnj, S),
            O::FsgnjnS => any_mode(FpOp::Sgnjn, S),
            O::FsgnjxS => any_mode(FpOp::Sgnjx, S),
            O::FsgnjD => any_mode(FpOp::Sgnj, D),
            O::FsgnjnD => any_mode(FpOp::Sgnjn, D),
            O::FsgnjxD => any_mode(FpOp::Sgnjx, D),
            // S → D is exact; its rounding mode is irrelevant.
            O::FcvtDS => any_mode(FpOp::Convert, S),
            O::FcvtSD => arith(FpOp::Convert, D),
            O::FeqS => compare(FpCmp::Eq, S),
            O::FltS => compare(FpCmp::Lt, S),
            O::FleS => compare(FpCmp::Le, S),
            O::FeqD => compare(FpCmp::Eq, D),
            O::FltD => compare(FpCmp::Lt, D),
            O::FleD => compare(FpCmp::Le, D),
            O::FcvtWS => to_int(S, IntFmt::W),
            O::FcvtLS => to_int(S, IntFmt::L),
            O::FcvtWD => to_int(D, IntFmt::W),
            O::FcvtLD => to_int(D, IntFmt::L),
            O::FcvtSW => from_int(IntFmt::W, S),
            O::FcvtSWu => from_int(IntFmt::Wu, S),
            O::FcvtSL => from_int(IntFmt::L, S),
            O::FcvtDW => from_int(IntFmt::W, D),
            O::FcvtDWu => from_int(IntFmt::Wu, D),
            O::FcvtDL => from_int(IntFmt::L, D),
            O::FmvXW => to_bits(S),
            O::FmvXD => to_bits(D),
            O::FmvWX => from_bits(S),
            O::FmvDX => from_bits(D),
            _ => None,
        }
    }
}
