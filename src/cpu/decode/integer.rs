//! OP, OP-IMM, OP-32 and OP-IMM-32: the base integer operations, M, the bit-manipulation and
//! scalar cryptography extensions and Zicond.

use super::{Insn, IsaConfig, Op, Word};

pub(super) fn op_imm(word: Word, isa: &IsaConfig) -> Insn {
    match word.funct3() {
        0 => word.i(Op::Addi),
        1 => left_imm(word, isa),
        2 => word.i(Op::Slti),
        3 => word.i(Op::Sltiu),
        4 => word.i(Op::Xori),
        5 => right_imm(word, isa),
        // Zicbop's prefetches are `ori x0` HINTs.
        6 => word.i(Op::Ori),
        _ => word.i(Op::Andi),
    }
}

fn left_imm(word: Word, isa: &IsaConfig) -> Insn {
    let unary = match word.funct12() {
        0x600 if isa.zbb => Some(Op::Clz),
        0x601 if isa.zbb => Some(Op::Ctz),
        0x602 if isa.zbb => Some(Op::Cpop),
        0x604 if isa.zbb => Some(Op::SextB),
        0x605 if isa.zbb => Some(Op::SextH),
        0x100 if isa.zknh => Some(Op::Sha256sum0),
        0x101 if isa.zknh => Some(Op::Sha256sum1),
        0x102 if isa.zknh => Some(Op::Sha256sig0),
        0x103 if isa.zknh => Some(Op::Sha256sig1),
        0x104 if isa.zknh => Some(Op::Sha512sum0),
        0x105 if isa.zknh => Some(Op::Sha512sum1),
        0x106 if isa.zknh => Some(Op::Sha512sig0),
        0x107 if isa.zknh => Some(Op::Sha512sig1),
        0x108 if isa.zksh => Some(Op::Sm3p0),
        0x109 if isa.zksh => Some(Op::Sm3p1),
        0x300 if isa.zknd => Some(Op::Aes64im),
        _ => None,
    };
    if let Some(op) = unary {
        return word.unary(op);
    }
    let shamt = word.funct12() & 63;
    match word.funct12() >> 6 {
        0b00_0000 => word.shift(Op::Slli, shamt),
        0b00_1010 if isa.zbs => word.shift(Op::Bseti, shamt),
        0b01_0010 if isa.zbs => word.shift(Op::Bclri, shamt),
        0b01_1010 if isa.zbs => word.shift(Op::Binvi, shamt),
        // rnum 0xb to 0xf are reserved.
        0b00_1100 if (isa.zknd || isa.zkne) && (0x10..=0x1a).contains(&shamt) => {
            word.shift(Op::Aes64ks1i, shamt & 15)
        }
        _ => word.illegal(),
    }
}

fn right_imm(word: Word, isa: &IsaConfig) -> Insn {
    let unary = match word.funct12() {
        0x287 if isa.zbb => Some(Op::OrcB),
        0x687 if isa.zbkb => Some(Op::Brev8),
        0x6b8 if isa.zbb || isa.zbkb => Some(Op::Rev8),
        _ => None,
    };
    if let Some(op) = unary {
        return word.unary(op);
    }
    let shamt = word.funct12() & 63;
    match word.funct12() >> 6 {
        0b00_0000 => word.shift(Op::Srli, shamt),
        0b01_0000 => word.shift(Op::Srai, shamt),
        0b01_0010 if isa.zbs => word.shift(Op::Bexti, shamt),
        0b01_1000 if isa.zbb || isa.zbkb => word.shift(Op::Rori, shamt),
        _ => word.illegal(),
    }
}

pub(super) fn op_imm_32(word: Word, isa: &IsaConfig) -> Insn {
    let shamt = u32::from(word.rs2());
    match (word.funct3(), word.funct7()) {
        (0, _) => word.i(Op::Addiw),
        (1, 0) => word.shift(Op::Slliw, shamt),
        (1, 0b000_0100 | 0b000_0101) if isa.zba => word.shift(Op::SlliUw, word.funct12() & 63),
        (1, 0b011_0000) if isa.zbb => match shamt {
            0 => word.unary(Op::Clzw),
            1 => word.unary(Op::Ctzw),
            2 => word.unary(Op::Cpopw),
            _ => word.illegal(),
        },
        (5, 0) => word.shift(Op::Srliw, shamt),
        (5, 0b010_0000) => word.shift(Op::Sraiw, shamt),
        (5, 0b011_0000) if isa.zbb || isa.zbkb => word.shift(Op::Roriw, shamt),
        _ => word.illegal(),
    }
}

pub(super) fn op(word: Word, isa: &IsaConfig) -> Insn {
    let zmmul = isa.m || isa.zmmul;
    let zbb_or_zbkb = isa.zbb || isa.zbkb;
    let op = match (word.funct7(), word.funct3()) {
        (0, 0) => Op::Add,
        (0, 1) => Op::Sll,
        (0, 2) => Op::Slt,
        (0, 3) => Op::Sltu,
        (0, 4) => Op::Xor,
        (0, 5) => Op::Srl,
        (0, 6) => Op::Or,
        (0, 7) => Op::And,
        (0b010_0000, 0) => Op::Sub,
        (0b010_0000, 5) => Op::Sra,
        (0b000_0001, 0) if zmmul => Op::Mul,
        (0b000_0001, 1) if zmmul => Op::Mulh,
        (0b000_0001, 2) if zmmul => Op::Mulhsu,
        (0b000_0001, 3) if zmmul => Op::Mulhu,
        (0b000_0001, 4) if isa.m => Op::Div,
        (0b000_0001, 5) if isa.m => Op::Divu,
        (0b000_0001, 6) if isa.m => Op::Rem,
        (0b000_0001, 7) if isa.m => Op::Remu,
        (0b001_0000, 2) if isa.zba => Op::Sh1add,
        (0b001_0000, 4) if isa.zba => Op::Sh2add,
        (0b001_0000, 6) if isa.zba => Op::Sh3add,
        (0b010_0000, 4) if zbb_or_zbkb => Op::Xnor,
        (0b010_0000, 6) if zbb_or_zbkb => Op::Orn,
        (0b010_0000, 7) if zbb_or_zbkb => Op::Andn,
        (0b011_0000, 1) if zbb_or_zbkb => Op::Rol,
        (0b011_0000, 5) if zbb_or_zbkb => Op::Ror,
        (0b000_0101, 4) if isa.zbb => Op::Min,
        (0b000_0101, 5) if isa.zbb => Op::Minu,
        (0b000_0101, 6) if isa.zbb => Op::Max,
        (0b000_0101, 7) if isa.zbb => Op::Maxu,
        (0b000_0101, 1) if isa.zbc || isa.zbkc => Op::Clmul,
        (0b000_0101, 2) if isa.zbc => Op::Clmulr,
        (0b000_0101, 3) if isa.zbc || isa.zbkc => Op::Clmulh,
        (0b000_0100, 4) if isa.zbkb => Op::Pack,
        (0b000_0100, 7) if isa.zbkb => Op::Packh,
        (0b001_0100, 1) if isa.zbs => Op::Bset,
        (0b010_0100, 1) if isa.zbs => Op::Bclr,
        (0b010_0100, 5) if isa.zbs => Op::Bext,
        (0b011_0100, 1) if isa.zbs => Op::Binv,
        (0b001_0100, 2) if isa.zbkx => Op::Xperm4,
        (0b001_0100, 4) if isa.zbkx => Op::Xperm8,
        (0b000_0111, 5) if isa.zicond => Op::CzeroEqz,
        (0b000_0111, 7) if isa.zicond => Op::CzeroNez,
        (0b001_1001, 0) if isa.zkne => Op::Aes64es,
        (0b001_1011, 0) if isa.zkne => Op::Aes64esm,
        (0b001_1101, 0) if isa.zknd => Op::Aes64ds,
        (0b001_1111, 0) if isa.zknd => Op::Aes64dsm,
        (0b011_1111, 0) if isa.zknd || isa.zkne => Op::Aes64ks2,
        (funct7, 0) if isa.zksed && matches!(funct7 & 31, 0b1_1000 | 0b1_1010) => {
            let op = if funct7 & 2 == 0 { Op::Sm4ed } else { Op::Sm4ks };
            return Insn { imm: (funct7 >> 5) as i32, ..word.r(op) };
        }
        _ => return word.illegal(),
    };
    word.r(op)
}

/// XVentanaCondOps, `vt.maskc` and `vt.maskcn`: Zicond's two under other encodings.
pub(super) fn ventana(word: Word) -> Insn {
    match (word.funct7(), word.funct3()) {
        (0, 6) => word.r(Op::CzeroEqz),
        (0, 7) => word.r(Op::CzeroNez),
        _ => word.illegal(),
    }
}

pub(super) fn op_32(word: Word, isa: &IsaConfig) -> Insn {
    let op = match (word.funct7(), word.funct3()) {
        (0, 0) => Op::Addw,
        (0, 1) => Op::Sllw,
        (0, 5) => Op::Srlw,
        (0b010_0000, 0) => Op::Subw,
        (0b010_0000, 5) => Op::Sraw,
        (0b000_0001, 0) if isa.m || isa.zmmul => Op::Mulw,
        (0b000_0001, 4) if isa.m => Op::Divw,
        (0b000_0001, 5) if isa.m => Op::Divuw,
        (0b000_0001, 6) if isa.m => Op::Remw,
        (0b000_0001, 7) if isa.m => Op::Remuw,
        (0b000_0100, 0) if isa.zba => Op::AddUw,
        (0b001_0000, 2) if isa.zba => Op::Sh1addUw,
        (0b001_0000, 4) if isa.zba => Op::Sh2addUw,
        (0b001_0000, 6) if isa.zba => Op::Sh3addUw,
        // Zbb's zext.h is Zbkb's packw with x0.
        (0b000_0100, 4) if isa.zbb && word.rs2() == 0 => return word.unary(Op::ZextH),
        (0b000_0100, 4) if isa.zbkb => Op::Packw,
        (0b011_0000, 1) if isa.zbb || isa.zbkb => Op::Rolw,
        (0b011_0000, 5) if isa.zbb || isa.zbkb => Op::Rorw,
        _ => return word.illegal(),
    };
    word.r(op)
}
