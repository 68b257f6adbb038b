//! The floating-point major opcodes: F, D, Zfh, Zfhmin and Zfa.

use super::{Insn, IsaConfig, Op, Word};

/// The `fmt` field of OP-FP.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Format {
    S,
    D,
    H,
}

impl Format {
    fn of(word: Word) -> Option<Self> {
        match word.funct7() & 3 {
            0 => Some(Format::S),
            1 => Some(Format::D),
            2 => Some(Format::H),
            _ => None,
        }
    }

    /// Whether the hart computes in this format.
    fn arithmetic(self, isa: &IsaConfig) -> bool {
        match self {
            Format::S => isa.f,
            Format::D => isa.d,
            Format::H => isa.zfh,
        }
    }

    /// Whether the hart moves and converts values of this format.
    fn transfer(self, isa: &IsaConfig) -> bool {
        match self {
            Format::H => isa.zfh || isa.zfhmin,
            _ => self.arithmetic(isa),
        }
    }

    fn pick(self, s: Op, d: Op, h: Op) -> Op {
        match self {
            Format::S => s,
            Format::D => d,
            Format::H => h,
        }
    }
}

impl Word {
    /// Add the rounding-mode field; its values 5 and 6 are reserved.
    fn rounded(self, insn: Insn) -> Insn {
        match self.funct3() {
            5 | 6 => self.illegal(),
            rm => Insn { rm: rm as u8, ..insn },
        }
    }
}

pub(super) fn load(word: Word, isa: &IsaConfig) -> Insn {
    match word.funct3() {
        1 if Format::H.transfer(isa) => word.i(Op::Flh),
        2 if isa.f => word.i(Op::Flw),
        3 if isa.d => word.i(Op::Fld),
        _ => word.illegal(),
    }
}

pub(super) fn store(word: Word, isa: &IsaConfig) -> Insn {
    match word.funct3() {
        1 if Format::H.transfer(isa) => word.s(Op::Fsh),
        2 if isa.f => word.s(Op::Fsw),
        3 if isa.d => word.s(Op::Fsd),
        _ => word.illegal(),
    }
}

pub(super) fn fused(word: Word, isa: &IsaConfig) -> Insn {
    let Some(format) = Format::of(word).filter(|format| format.arithmetic(isa)) else {
        return word.illegal();
    };
    let op = match word.0 >> 2 & 3 {
        0 => format.pick(Op::FmaddS, Op::FmaddD, Op::FmaddH),
        1 => format.pick(Op::FmsubS, Op::FmsubD, Op::FmsubH),
        2 => format.pick(Op::FnmsubS, Op::FnmsubD, Op::FnmsubH),
        _ => format.pick(Op::FnmaddS, Op::FnmaddD, Op::FnmaddH),
    };
    word.rounded(Insn { rs3: word.rs3(), ..word.r(op) })
}

pub(super) fn op_fp(word: Word, isa: &IsaConfig) -> Insn {
    let Some(format) = Format::of(word).filter(|format| format.transfer(isa)) else {
        return word.illegal();
    };
    let funct5 = word.funct7() >> 2;
    match (funct5, word.rs2(), word.funct3()) {
        (0b01000, 0..=2, _) => return convert_format(word, format, isa),
        (0b11100, 0, 0) => {
            return word.unary(format.pick(Op::FmvXW, Op::FmvXD, Op::FmvXH));
        }
        (0b11110, 0, 0) => {
            return word.unary(format.pick(Op::FmvWX, Op::FmvDX, Op::FmvHX));
        }
        _ if !format.arithmetic(isa) => return word.illegal(),
        _ => {}
    }
    match funct5 {
        0b00000 => word.rounded(word.r(format.pick(Op::FaddS, Op::FaddD, Op::FaddH))),
        0b00001 => word.rounded(word.r(format.pick(Op::FsubS, Op::FsubD, Op::FsubH))),
        0b00010 => word.rounded(word.r(format.pick(Op::FmulS, Op::FmulD, Op::FmulH))),
        0b00011 => word.rounded(word.r(format.pick(Op::FdivS, Op::FdivD, Op::FdivH))),
        0b01011 if word.rs2() == 0 => {
            word.rounded(word.unary(format.pick(Op::FsqrtS, Op::FsqrtD, Op::FsqrtH)))
        }
        0b01000 if isa.zfa => match word.rs2() {
            4 => word.rounded(word.unary(format.pick(Op::FroundS, Op::FroundD, Op::FroundH))),
            5 => word.rounded(word.unary(format.pick(Op::FroundnxS, Op::FroundnxD, Op::FroundnxH))),
            _ => word.illegal(),
        },
        0b11000 => to_integer(word, format, isa),
        0b11010 => from_integer(word, format),
        _ => by_funct3(word, format, isa),
    }
}

/// The operations that `funct3` tells apart, which do not round.
fn by_funct3(word: Word, format: Format, isa: &IsaConfig) -> Insn {
    let op = match (word.funct7() >> 2, word.funct3()) {
        (0b00100, 0) => format.pick(Op::FsgnjS, Op::FsgnjD, Op::FsgnjH),
        (0b00100, 1) => format.pick(Op::FsgnjnS, Op::FsgnjnD, Op::FsgnjnH),
        (0b00100, 2) => format.pick(Op::FsgnjxS, Op::FsgnjxD, Op::FsgnjxH),
        (0b00101, 0) => format.pick(Op::FminS, Op::FminD, Op::FminH),
        (0b00101, 1) => format.pick(Op::FmaxS, Op::FmaxD, Op::FmaxH),
        (0b00101, 2) if isa.zfa => format.pick(Op::FminmS, Op::FminmD, Op::FminmH),
        (0b00101, 3) if isa.zfa => format.pick(Op::FmaxmS, Op::FmaxmD, Op::FmaxmH),
        (0b10100, 0) => format.pick(Op::FleS, Op::FleD, Op::FleH),
        (0b10100, 1) => format.pick(Op::FltS, Op::FltD, Op::FltH),
        (0b10100, 2) => format.pick(Op::FeqS, Op::FeqD, Op::FeqH),
        (0b10100, 4) if isa.zfa => format.pick(Op::FleqS, Op::FleqD, Op::FleqH),
        (0b10100, 5) if isa.zfa => format.pick(Op::FltqS, Op::FltqD, Op::FltqH),
        (0b11100, 1) if word.rs2() == 0 => {
            return word.unary(format.pick(Op::FclassS, Op::FclassD, Op::FclassH));
        }
        (0b11110, 0) if isa.zfa && word.rs2() == 1 => {
            return word.unary(format.pick(Op::FliS, Op::FliD, Op::FliH));
        }
        _ => return word.illegal(),
    };
    word.r(op)
}

/// `fcvt` between two formats: `format` is the destination's, the `rs2` field names the source's.
fn convert_format(word: Word, format: Format, isa: &IsaConfig) -> Insn {
    let (op, source) = match (format, word.rs2()) {
        (Format::S, 1) => (Op::FcvtSD, Format::D),
        (Format::S, 2) => (Op::FcvtSH, Format::H),
        (Format::D, 0) => (Op::FcvtDS, Format::S),
        (Format::D, 2) => (Op::FcvtDH, Format::H),
        (Format::H, 0) => (Op::FcvtHS, Format::S),
        (Format::H, 1) => (Op::FcvtHD, Format::D),
        _ => return word.illegal(),
    };
    if !source.transfer(isa) {
        return word.illegal();
    }
    word.rounded(word.unary(op))
}

fn to_integer(word: Word, format: Format, isa: &IsaConfig) -> Insn {
    let op = match word.rs2() {
        0 => format.pick(Op::FcvtWS, Op::FcvtWD, Op::FcvtWH),
        1 => format.pick(Op::FcvtWuS, Op::FcvtWuD, Op::FcvtWuH),
        2 => format.pick(Op::FcvtLS, Op::FcvtLD, Op::FcvtLH),
        3 => format.pick(Op::FcvtLuS, Op::FcvtLuD, Op::FcvtLuH),
        // Only with the static mode RTZ (Zfa).
        8 if isa.zfa && format == Format::D && word.funct3() == 1 => Op::FcvtmodWD,
        _ => return word.illegal(),
    };
    word.rounded(word.unary(op))
}

fn from_integer(word: Word, format: Format) -> Insn {
    let op = match word.rs2() {
        0 => format.pick(Op::FcvtSW, Op::FcvtDW, Op::FcvtHW),
        1 => format.pick(Op::FcvtSWu, Op::FcvtDWu, Op::FcvtHWu),
        2 => format.pick(Op::FcvtSL, Op::FcvtDL, Op::FcvtHL),
        3 => format.pick(Op::FcvtSLu, Op::FcvtDLu, Op::FcvtHLu),
        _ => return word.illegal(),
    };
    word.rounded(word.unary(op))
}
