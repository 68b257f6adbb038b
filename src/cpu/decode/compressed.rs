//! The C extension of RV64 (Unprivileged spec chapter 28): each halfword as the operation that it
//! abbreviates.

use super::{Insn, IsaConfig, Op};

const SP: u8 = 2;

/// A 16-bit encoding.
#[derive(Clone, Copy)]
struct Half(u16);

impl Half {
    /// Bits `low..low + width`, zero-extended.
    fn bits(self, low: u32, width: u32) -> i32 {
        i32::from(self.0 >> low) & ((1 << width) - 1)
    }
    /// Bit `from` moved to bit `to`.
    fn bit(self, from: u32, to: u32) -> i32 {
        self.bits(from, 1) << to
    }
    /// Bit 12 as the sign, of weight `-1 << at`.
    fn sign(self, at: u32) -> i32 {
        -self.bits(12, 1) << at
    }

    fn rd(self) -> u8 {
        self.bits(7, 5) as u8
    }
    fn rs2(self) -> u8 {
        self.bits(2, 5) as u8
    }
    /// `rd'` or `rs2'`, bits 4:2.
    fn low_prime(self) -> u8 {
        8 + self.bits(2, 3) as u8
    }
    /// `rs1'` or `rd'`, bits 9:7.
    fn high_prime(self) -> u8 {
        8 + self.bits(7, 3) as u8
    }

    fn imm6(self) -> i32 {
        self.sign(5) | self.bits(2, 5)
    }
    fn shamt(self) -> i32 {
        self.bit(12, 5) | self.bits(2, 5)
    }
    /// Offset of `c.lw` and `c.sw`.
    fn offset_w(self) -> i32 {
        self.bits(10, 3) << 3 | self.bit(6, 2) | self.bit(5, 6)
    }
    /// Offset of `c.ld`, `c.sd`, `c.fld` and `c.fsd`.
    fn offset_d(self) -> i32 {
        self.bits(10, 3) << 3 | self.bits(5, 2) << 6
    }
    fn offset_wsp(self) -> i32 {
        self.bit(12, 5) | self.bits(4, 3) << 2 | self.bits(2, 2) << 6
    }
    fn offset_dsp(self) -> i32 {
        self.bit(12, 5) | self.bits(5, 2) << 3 | self.bits(2, 3) << 6
    }
    fn store_wsp(self) -> i32 {
        self.bits(9, 4) << 2 | self.bits(7, 2) << 6
    }
    fn store_dsp(self) -> i32 {
        self.bits(10, 3) << 3 | self.bits(7, 3) << 6
    }
    fn offset_j(self) -> i32 {
        self.sign(11)
            | self.bit(11, 4)
            | self.bits(9, 2) << 8
            | self.bit(8, 10)
            | self.bit(7, 6)
            | self.bit(6, 7)
            | self.bits(3, 3) << 1
            | self.bit(2, 5)
    }
    fn offset_b(self) -> i32 {
        self.sign(8)
            | self.bits(10, 2) << 3
            | self.bits(5, 2) << 6
            | self.bits(3, 2) << 1
            | self.bit(2, 5)
    }

    fn insn(self, op: Op, rd: u8, rs1: u8, rs2: u8, imm: i32) -> Insn {
        Insn { op, rd, rs1, rs2, rs3: 0, rm: 0, len: 2, imm, raw: self.0.into() }
    }
    fn illegal(self) -> Insn {
        self.insn(Op::Illegal, 0, 0, 0, 0)
    }
}

pub(super) fn decode(raw: u16, isa: &IsaConfig) -> Insn {
    let half = Half(raw);
    if !isa.c && !isa.zca {
        return half.illegal();
    }
    match raw & 3 {
        0 => quadrant0(half, isa),
        1 => quadrant1(half),
        _ => quadrant2(half, isa),
    }
}

/// Compressed loads and stores of doubles exist.
fn zcd(isa: &IsaConfig) -> bool {
    isa.d && (isa.c || isa.zcd)
}

fn quadrant0(half: Half, isa: &IsaConfig) -> Insn {
    let (low, base) = (half.low_prime(), half.high_prime());
    match half.bits(13, 3) {
        0 => {
            let imm =
                half.bits(7, 4) << 6 | half.bits(11, 2) << 4 | half.bit(6, 2) | half.bit(5, 3);
            match imm {
                0 => half.illegal(),
                _ => half.insn(Op::Addi, low, SP, 0, imm),
            }
        }
        1 if zcd(isa) => half.insn(Op::Fld, low, base, 0, half.offset_d()),
        2 => half.insn(Op::Lw, low, base, 0, half.offset_w()),
        3 => half.insn(Op::Ld, low, base, 0, half.offset_d()),
        5 if zcd(isa) => half.insn(Op::Fsd, 0, base, low, half.offset_d()),
        6 => half.insn(Op::Sw, 0, base, low, half.offset_w()),
        7 => half.insn(Op::Sd, 0, base, low, half.offset_d()),
        _ => half.illegal(),
    }
}

fn quadrant1(half: Half) -> Insn {
    let rd = half.rd();
    match half.bits(13, 3) {
        0 => half.insn(Op::Addi, rd, rd, 0, half.imm6()),
        1 if rd != 0 => half.insn(Op::Addiw, rd, rd, 0, half.imm6()),
        2 => half.insn(Op::Addi, rd, 0, 0, half.imm6()),
        3 if half.imm6() == 0 => half.illegal(),
        3 if rd == SP => {
            let imm = half.sign(9)
                | half.bits(3, 2) << 7
                | half.bit(5, 6)
                | half.bit(2, 5)
                | half.bit(6, 4);
            half.insn(Op::Addi, SP, SP, 0, imm)
        }
        3 => half.insn(Op::Lui, rd, 0, 0, half.imm6() << 12),
        4 => arithmetic(half),
        5 => half.insn(Op::Jal, 0, 0, 0, half.offset_j()),
        6 => half.insn(Op::Beq, 0, half.high_prime(), 0, half.offset_b()),
        7 => half.insn(Op::Bne, 0, half.high_prime(), 0, half.offset_b()),
        _ => half.illegal(),
    }
}

fn arithmetic(half: Half) -> Insn {
    let (rd, rs2) = (half.high_prime(), half.low_prime());
    let op = match (half.bits(10, 2), half.bits(12, 1), half.bits(5, 2)) {
        (0, _, _) => return half.insn(Op::Srli, rd, rd, 0, half.shamt()),
        (1, _, _) => return half.insn(Op::Srai, rd, rd, 0, half.shamt()),
        (2, _, _) => return half.insn(Op::Andi, rd, rd, 0, half.imm6()),
        (_, 0, 0) => Op::Sub,
        (_, 0, 1) => Op::Xor,
        (_, 0, 2) => Op::Or,
        (_, 0, _) => Op::And,
        (_, _, 0) => Op::Subw,
        (_, _, 1) => Op::Addw,
        _ => return half.illegal(),
    };
    half.insn(op, rd, rd, rs2, 0)
}

fn quadrant2(half: Half, isa: &IsaConfig) -> Insn {
    let (rd, rs2) = (half.rd(), half.rs2());
    match half.bits(13, 3) {
        0 => half.insn(Op::Slli, rd, rd, 0, half.shamt()),
        1 if zcd(isa) => half.insn(Op::Fld, rd, SP, 0, half.offset_dsp()),
        2 if rd != 0 => half.insn(Op::Lw, rd, SP, 0, half.offset_wsp()),
        3 if rd != 0 => half.insn(Op::Ld, rd, SP, 0, half.offset_dsp()),
        4 => match (half.bits(12, 1), rd, rs2) {
            (0, 0, 0) => half.illegal(),
            (0, _, 0) => half.insn(Op::Jalr, 0, rd, 0, 0),
            (0, _, _) => half.insn(Op::Addi, rd, rs2, 0, 0),
            (_, 0, 0) => half.insn(Op::Ebreak, 0, 0, 0, 0),
            (_, _, 0) => half.insn(Op::Jalr, 1, rd, 0, 0),
            _ => half.insn(Op::Add, rd, rd, rs2, 0),
        },
        5 if zcd(isa) => half.insn(Op::Fsd, 0, SP, rs2, half.store_dsp()),
        6 => half.insn(Op::Sw, 0, SP, rs2, half.store_wsp()),
        7 => half.insn(Op::Sd, 0, SP, rs2, half.store_dsp()),
        _ => half.illegal(),
    }
}
