//! Dispatch of the scalar cryptography instructions.

use super::{register, set_register};
use crate::cpu::crypto;
use crate::cpu::hart::{Hart, Trap};
use crate::cpu::insn::{Insn, Op};

pub(super) fn execute(hart: &mut Hart, insn: &Insn) -> Result<(), Trap> {
    let (a, b, imm) = (register(hart, insn.rs1), register(hart, insn.rs2), insn.imm as u32);
    let value = match insn.op {
        Op::Aes64ds => crypto::aes64ds(a, b),
        Op::Aes64dsm => crypto::aes64dsm(a, b),
        Op::Aes64es => crypto::aes64es(a, b),
        Op::Aes64esm => crypto::aes64esm(a, b),
        Op::Aes64im => crypto::aes64im(a),
        Op::Aes64ks1i => crypto::aes64ks1i(a, imm),
        Op::Aes64ks2 => crypto::aes64ks2(a, b),
        Op::Sha256sig0 => crypto::sha256sig0(a),
        Op::Sha256sig1 => crypto::sha256sig1(a),
        Op::Sha256sum0 => crypto::sha256sum0(a),
        Op::Sha256sum1 => crypto::sha256sum1(a),
        Op::Sha512sig0 => crypto::sha512sig0(a),
        Op::Sha512sig1 => crypto::sha512sig1(a),
        Op::Sha512sum0 => crypto::sha512sum0(a),
        Op::Sha512sum1 => crypto::sha512sum1(a),
        Op::Sm3p0 => crypto::sm3p0(a),
        Op::Sm3p1 => crypto::sm3p1(a),
        Op::Sm4ed => crypto::sm4ed(a, b, imm),
        Op::Sm4ks => crypto::sm4ks(a, b, imm),
        _ => return Err(Trap::illegal(insn.raw)),
    };
    set_register(hart, insn.rd, value);
    Ok(())
}
