//! Instruction decoder: raw bits to [`Insn`]. Whatever is reserved, or belongs to an extension
//! that the hart lacks, is `Op::Illegal`; HINTs decode as the operation they are made of.

pub mod cache;
mod compressed;
mod float;
mod integer;

use super::insn::{Insn, Op};
use super::isa::IsaConfig;

/// Decode the instruction that starts with the low bits of `raw`. The upper half matters only
/// where the low two bits are both set; longer encodings count as 32-bit illegal ones.
pub fn decode(raw: u32, isa: &IsaConfig) -> Insn {
    if raw & 3 != 3 {
        return compressed::decode(raw as u16, isa);
    }
    let word = Word(raw);
    match raw >> 2 & 0x1f {
        0b00000 => word.load(),
        0b00001 => float::load(word, isa),
        0b00011 => word.misc_mem(isa),
        0b00100 => integer::op_imm(word, isa),
        0b00101 => word.u(Op::Auipc),
        0b00110 => integer::op_imm_32(word, isa),
        0b01000 => word.store(),
        0b01001 => float::store(word, isa),
        0b01011 => word.amo(isa),
        0b01100 => integer::op(word, isa),
        0b01101 => word.u(Op::Lui),
        0b01110 => integer::op_32(word, isa),
        0b10000..=0b10011 => float::fused(word, isa),
        0b10100 => float::op_fp(word, isa),
        0b11000 => word.branch(),
        0b11001 if word.funct3() == 0 => word.i(Op::Jalr),
        0b11011 => word.j(Op::Jal),
        0b11100 => word.system(isa),
        0b11110 if isa.xventanacondops => integer::ventana(word),
        _ => word.illegal(),
    }
}

/// A 32-bit encoding.
#[derive(Clone, Copy)]
struct Word(u32);

impl Word {
    fn rd(self) -> u8 {
        (self.0 >> 7 & 31) as u8
    }
    fn rs1(self) -> u8 {
        (self.0 >> 15 & 31) as u8
    }
    fn rs2(self) -> u8 {
        (self.0 >> 20 & 31) as u8
    }
    fn rs3(self) -> u8 {
        (self.0 >> 27) as u8
    }
    fn funct3(self) -> u32 {
        self.0 >> 12 & 7
    }
    fn funct7(self) -> u32 {
        self.0 >> 25
    }
    /// Bits 31:20, zero-extended.
    fn funct12(self) -> u32 {
        self.0 >> 20
    }

    fn bare(self, op: Op) -> Insn {
        Insn { op, rd: 0, rs1: 0, rs2: 0, rs3: 0, rm: 0, len: 4, imm: 0, raw: self.0 }
    }
    fn illegal(self) -> Insn {
        self.bare(Op::Illegal)
    }

    fn r(self, op: Op) -> Insn {
        Insn { rd: self.rd(), rs1: self.rs1(), rs2: self.rs2(), ..self.bare(op) }
    }
    /// `rd` and `rs1` only, the `rs2` field being part of the opcode.
    fn unary(self, op: Op) -> Insn {
        Insn { rd: self.rd(), rs1: self.rs1(), ..self.bare(op) }
    }
    fn i(self, op: Op) -> Insn {
        Insn { imm: self.0 as i32 >> 20, ..self.unary(op) }
    }
    /// `rd`, `rs1` and a zero-extended immediate given by the caller.
    fn shift(self, op: Op, amount: u32) -> Insn {
        Insn { imm: amount as i32, ..self.unary(op) }
    }
    fn s(self, op: Op) -> Insn {
        let imm = (self.0 as i32 >> 25 << 5) | i32::from(self.rd());
        Insn { rs1: self.rs1(), rs2: self.rs2(), imm, ..self.bare(op) }
    }
    fn u(self, op: Op) -> Insn {
        Insn { rd: self.rd(), imm: (self.0 & 0xffff_f000) as i32, ..self.bare(op) }
    }
    fn j(self, op: Op) -> Insn {
        let imm = (self.0 as i32 >> 31 << 20)
            | (self.0 & 0x000f_f000) as i32
            | (self.0 >> 9 & 0x800) as i32
            | (self.0 >> 20 & 0x7fe) as i32;
        Insn { rd: self.rd(), imm, ..self.bare(op) }
    }

    fn branch(self) -> Insn {
        let op = match self.funct3() {
            0 => Op::Beq,
            1 => Op::Bne,
            4 => Op::Blt,
            5 => Op::Bge,
            6 => Op::Bltu,
            7 => Op::Bgeu,
            _ => return self.illegal(),
        };
        let imm = (self.0 as i32 >> 31 << 12)
            | ((self.0 << 4 & 0x800) as i32)
            | (self.0 >> 20 & 0x7e0) as i32
            | (self.0 >> 7 & 0x1e) as i32;
        Insn { rs1: self.rs1(), rs2: self.rs2(), imm, ..self.bare(op) }
    }

    fn load(self) -> Insn {
        match self.funct3() {
            0 => self.i(Op::Lb),
            1 => self.i(Op::Lh),
            2 => self.i(Op::Lw),
            3 => self.i(Op::Ld),
            4 => self.i(Op::Lbu),
            5 => self.i(Op::Lhu),
            6 => self.i(Op::Lwu),
            _ => self.illegal(),
        }
    }

    fn store(self) -> Insn {
        match self.funct3() {
            0 => self.s(Op::Sb),
            1 => self.s(Op::Sh),
            2 => self.s(Op::Sw),
            3 => self.s(Op::Sd),
            _ => self.illegal(),
        }
    }

    fn misc_mem(self, isa: &IsaConfig) -> Insn {
        match self.funct3() {
            // Unused fields are for finer-grain fences to come and are to be ignored
            // (Unprivileged spec 2.7).
            0 => Insn { imm: self.funct12() as i32, ..self.bare(Op::Fence) },
            1 if isa.zifencei => self.bare(Op::FenceI),
            2 if self.rd() == 0 => {
                let op = match self.funct12() {
                    0 if isa.zicbom => Op::CboInval,
                    1 if isa.zicbom => Op::CboClean,
                    2 if isa.zicbom => Op::CboFlush,
                    4 if isa.zicboz => Op::CboZero,
                    _ => return self.illegal(),
                };
                Insn { rs1: self.rs1(), ..self.bare(op) }
            }
            _ => self.illegal(),
        }
    }

    fn system(self, isa: &IsaConfig) -> Insn {
        let csr = |op| self.shift(op, self.funct12());
        match self.funct3() {
            0 => self.privileged(isa),
            1 if isa.zicsr => csr(Op::Csrrw),
            2 if isa.zicsr => csr(Op::Csrrs),
            3 if isa.zicsr => csr(Op::Csrrc),
            5 if isa.zicsr => csr(Op::Csrrwi),
            6 if isa.zicsr => csr(Op::Csrrsi),
            7 if isa.zicsr => csr(Op::Csrrci),
            _ => self.illegal(),
        }
    }

    fn privileged(self, isa: &IsaConfig) -> Insn {
        if self.rd() != 0 {
            return self.illegal();
        }
        let two_sources = |op| Insn { rs1: self.rs1(), rs2: self.rs2(), ..self.bare(op) };
        match self.funct7() {
            0b000_1001 if isa.s => return two_sources(Op::SfenceVma),
            0b000_1011 if isa.s && isa.svinval => return two_sources(Op::SinvalVma),
            _ if self.rs1() != 0 => return self.illegal(),
            _ => {}
        }
        match self.funct12() {
            0x000 => self.bare(Op::Ecall),
            0x001 => self.bare(Op::Ebreak),
            0x00d if isa.zawrs => self.bare(Op::WrsNto),
            0x01d if isa.zawrs => self.bare(Op::WrsSto),
            0x102 if isa.s => self.bare(Op::Sret),
            0x105 => self.bare(Op::Wfi),
            0x180 if isa.s && isa.svinval => self.bare(Op::SfenceWInval),
            0x181 if isa.s && isa.svinval => self.bare(Op::SfenceInvalIr),
            0x302 => self.bare(Op::Mret),
            _ => self.illegal(),
        }
    }

    fn amo(self, isa: &IsaConfig) -> Insn {
        let (w, d) = match self.funct7() >> 2 {
            0b00010 if self.rs2() == 0 => (Op::LrW, Op::LrD),
            0b00011 => (Op::ScW, Op::ScD),
            0b00001 => (Op::AmoSwapW, Op::AmoSwapD),
            0b00000 => (Op::AmoAddW, Op::AmoAddD),
            0b00100 => (Op::AmoXorW, Op::AmoXorD),
            0b01100 => (Op::AmoAndW, Op::AmoAndD),
            0b01000 => (Op::AmoOrW, Op::AmoOrD),
            0b10000 => (Op::AmoMinW, Op::AmoMinD),
            0b10100 => (Op::AmoMaxW, Op::AmoMaxD),
            0b11000 => (Op::AmoMinuW, Op::AmoMinuD),
            0b11100 => (Op::AmoMaxuW, Op::AmoMaxuD),
            0b00101 => (Op::AmoCasW, Op::AmoCasD),
            _ => return self.illegal(),
        };
        let op = match self.funct3() {
            2 => w,
            3 => d,
            // Register pairs start at an even number (Zacas).
            4 if w == Op::AmoCasW && (self.rd() | self.rs2()) & 1 == 0 => Op::AmoCasQ,
            _ => return self.illegal(),
        };
        let enabled = match op {
            Op::AmoCasW | Op::AmoCasD | Op::AmoCasQ => isa.zacas,
            Op::LrW | Op::LrD | Op::ScW | Op::ScD => isa.a || isa.zalrsc,
            _ => isa.a || isa.zaamo,
        };
        if !enabled {
            return self.illegal();
        }
        Insn { rm: (self.funct7() & 3) as u8, ..self.r(op) }
    }
}

#[cfg(test)]
pub(crate) mod tests;
