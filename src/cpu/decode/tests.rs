//! The decoder against disc-v, an independent disassembler: legality, mnemonic and operands.

use disc_v::Decoder;

use super::decode;
use crate::cpu::insn::{Insn, Op};
use crate::cpu::isa::IsaConfig;

pub(crate) fn everything() -> IsaConfig {
    IsaConfig::max()
}

fn peer() -> Decoder {
    Decoder::from_march(
        "rv64gc_zicond_zicbom_zicboz_zawrs_zacas_zfh_zfa_zba_zbb_zbc_zbs_zbkb_zbkc_zbkx\
         _zknd_zkne_zknh_zksed_zksh_svinval",
    )
    .expect("disc-v knows these extensions")
}

const X: [&str; 32] = [
    "zero", "ra", "sp", "gp", "tp", "t0", "t1", "t2", "s0", "s1", "a0", "a1", "a2", "a3", "a4",
    "a5", "a6", "a7", "s2", "s3", "s4", "s5", "s6", "s7", "s8", "s9", "s10", "s11", "t3", "t4",
    "t5", "t6",
];
const F: [&str; 32] = [
    "ft0", "ft1", "ft2", "ft3", "ft4", "ft5", "ft6", "ft7", "fs0", "fs1", "fa0", "fa1", "fa2",
    "fa3", "fa4", "fa5", "fa6", "fa7", "fs2", "fs3", "fs4", "fs5", "fs6", "fs7", "fs8", "fs9",
    "fs10", "fs11", "ft8", "ft9", "ft10", "ft11",
];
const PC: u64 = 0x8000_0000;

/// objdump's operand text of the common formats; `None` where its syntax is a special case.
fn operands(insn: &Insn) -> Option<String> {
    let x = |n: u8| X[usize::from(n)];
    let f = |n: u8| F[usize::from(n)];
    let (rd, rs1, rs2, imm) = (insn.rd, insn.rs1, insn.rs2, insn.imm);
    let target = PC.wrapping_add(imm as i64 as u64);
    let rounding = ["rne", "rtz", "rdn", "rup", "rmm"].get(usize::from(insn.rm));
    let rounded = |text: String| match rounding {
        Some(name) => format!("{text},{name}"),
        None => text,
    };
    use Op::*;
    Some(match insn.op {
        Lui | Auipc => format!("{},{:#x}", x(rd), imm as u32 >> 12),
        Jal => format!("{},{target:#x}", x(rd)),
        Beq | Bne | Blt | Bge | Bltu | Bgeu => format!("{},{},{target:#x}", x(rs1), x(rs2)),
        Jalr | Lb | Lh | Lw | Ld | Lbu | Lhu | Lwu => format!("{},{imm}({})", x(rd), x(rs1)),
        Sb | Sh | Sw | Sd => format!("{},{imm}({})", x(rs2), x(rs1)),
        Flw | Fld | Flh => format!("{},{imm}({})", f(rd), x(rs1)),
        Fsw | Fsd | Fsh => format!("{},{imm}({})", f(rs2), x(rs1)),
        Addi | Slti | Sltiu | Xori | Andi | Addiw => format!("{},{},{imm}", x(rd), x(rs1)),
        Slli | Srli | Srai | Slliw | Srliw | Sraiw | SlliUw | Rori | Roriw | Bclri | Bexti
        | Binvi | Bseti | Aes64ks1i => format!("{},{},{imm:#x}", x(rd), x(rs1)),
        Add | Sub | Sll | Slt | Sltu | Xor | Srl | Sra | Or | And | Addw | Subw | Sllw | Srlw
        | Sraw | Mul | Mulh | Mulhsu | Mulhu | Div | Divu | Rem | Remu | Mulw | Divw | Divuw
        | Remw | Remuw | AddUw | Sh1add | Sh2add | Sh3add | Sh1addUw | Sh2addUw | Sh3addUw
        | Andn | Orn | Xnor | Min | Minu | Max | Maxu | Rol | Ror | Rolw | Rorw | Pack | Packh
        | Packw | Clmul | Clmulh | Clmulr | Bclr | Bext | Binv | Bset | Xperm4 | Xperm8
        | CzeroEqz | CzeroNez | Aes64ds | Aes64dsm | Aes64es | Aes64esm | Aes64ks2 => {
            format!("{},{},{}", x(rd), x(rs1), x(rs2))
        }
        Clz | Ctz | Cpop | Clzw | Ctzw | Cpopw | SextB | SextH | ZextH | OrcB | Rev8 | Brev8
        | Aes64im | Sha256sig0 | Sha256sig1 | Sha256sum0 | Sha256sum1 | Sha512sig0 | Sha512sig1
        | Sha512sum0 | Sha512sum1 | Sm3p0 | Sm3p1 => {
            format!("{},{}", x(rd), x(rs1))
        }
        Sm4ed | Sm4ks => format!("{},{},{},{imm:#x}", x(rd), x(rs1), x(rs2)),
        LrW | LrD => format!("{},({})", x(rd), x(rs1)),
        ScW | ScD | AmoSwapW | AmoAddW | AmoXorW | AmoAndW | AmoOrW | AmoMinW | AmoMaxW
        | AmoMinuW | AmoMaxuW | AmoSwapD | AmoAddD | AmoXorD | AmoAndD | AmoOrD | AmoMinD
        | AmoMaxD | AmoMinuD | AmoMaxuD | AmoCasW | AmoCasD | AmoCasQ => {
            format!("{},{},({})", x(rd), x(rs2), x(rs1))
        }
        FmaddS | FmsubS | FnmsubS | FnmaddS | FmaddD | FmsubD | FnmsubD | FnmaddD | FmaddH
        | FmsubH | FnmsubH | FnmaddH => {
            rounded(format!("{},{},{},{}", f(rd), f(rs1), f(rs2), f(insn.rs3)))
        }
        FaddS | FsubS | FmulS | FdivS | FaddD | FsubD | FmulD | FdivD | FaddH | FsubH | FmulH
        | FdivH => rounded(format!("{},{},{}", f(rd), f(rs1), f(rs2))),
        FsqrtS | FsqrtD | FsqrtH | FroundS | FroundD | FroundH | FroundnxS | FroundnxD
        | FroundnxH | FcvtSD | FcvtHS | FcvtHD => rounded(format!("{},{}", f(rd), f(rs1))),
        FsgnjS | FsgnjnS | FsgnjxS | FsgnjD | FsgnjnD | FsgnjxD | FsgnjH | FsgnjnH | FsgnjxH
        | FminS | FmaxS | FminD | FmaxD | FminH | FmaxH | FminmS | FmaxmS | FminmD | FmaxmD
        | FminmH | FmaxmH => format!("{},{},{}", f(rd), f(rs1), f(rs2)),
        FcvtWS | FcvtWuS | FcvtLS | FcvtLuS | FcvtWD | FcvtWuD | FcvtLD | FcvtLuD | FcvtWH
        | FcvtWuH | FcvtLH | FcvtLuH => rounded(format!("{},{}", x(rd), f(rs1))),
        FcvtSW | FcvtSWu | FcvtSL | FcvtSLu | FcvtDL | FcvtDLu | FcvtHW | FcvtHWu | FcvtHL
        | FcvtHLu => rounded(format!("{},{}", f(rd), x(rs1))),
        FmvXW | FmvXD | FmvXH | FclassS | FclassD | FclassH => format!("{},{}", x(rd), f(rs1)),
        FmvWX | FmvDX | FmvHX => format!("{},{}", f(rd), x(rs1)),
        FeqS | FltS | FleS | FeqD | FltD | FleD | FeqH | FltH | FleH | FleqS | FltqS | FleqD
        | FltqD | FleqH | FltqH => format!("{},{},{}", x(rd), f(rs1), f(rs2)),
        _ => return None,
    })
}

/// A disagreement between `decode` and disc-v about a 32-bit word, if there is one.
fn disagreement(raw: u32, isa: &IsaConfig, peer: &Decoder) -> Option<String> {
    let insn = decode(raw, isa);
    let theirs = peer.decode(PC, raw.into()).without_aliases();
    let ours_legal = insn.op != Op::Illegal;
    if !ours_legal && reviewed(raw) {
        return None;
    }
    if ours_legal == theirs.is_illegal() {
        let op = insn.op;
        return Some(format!("{raw:08x}: {op:?} here, `{theirs}` there"));
    }
    if !ours_legal {
        return None;
    }
    let mnemonic = insn.op.mnemonic();
    let name = theirs.mnemonic();
    let same_name = name == mnemonic
        || (insn.op == Op::ZextH && name == "packw")
        || (insn.op == Op::Fence && matches!(name, "fence.tso" | "pause"))
        || (insn.op == Op::Ori && name.starts_with("prefetch."));
    let text = theirs.operands().to_string();
    let same_operands = match operands(&insn) {
        Some(ours) if name != "packw" => ours == text,
        _ => true,
    };
    (!same_name || !same_operands)
        .then(|| format!("{raw:08x}: {mnemonic} {:?} here, `{theirs}` there", operands(&insn)))
}

/// Where the two differ on purpose: disc-v shows reserved round numbers of `aes64ks1i` and reserved
/// rounding modes.
fn reviewed(raw: u32) -> bool {
    let aes64ks1i = raw & 0x707f == 0x1013 && (0x31b..=0x31f).contains(&(raw >> 20));
    let rounding_mode = matches!(raw >> 12 & 7, 5 | 6) && matches!(raw & 0x7f, 0x43..=0x53);
    aes64ks1i || rounding_mode
}

/// Deterministic 64-bit generator (splitmix64).
fn random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[test]
fn agrees_with_disc_v_on_32_bit_words() {
    let (isa, peer) = (everything(), peer());
    let mut failures = Vec::new();
    let mut try_word = |raw: u32| {
        if failures.len() < 40 {
            failures.extend(disagreement(raw, &isa, &peer));
        }
    };
    // Every opcode, funct3 and funct12 with registers at their ends, then random words.
    for opcode in 0..32 {
        for funct3 in 0..8 {
            for funct12 in 0..4096 {
                for (rd, rs1) in [(0, 0), (0, 5), (31, 0), (10, 12)] {
                    try_word(3 | opcode << 2 | funct3 << 12 | funct12 << 20 | rd << 7 | rs1 << 15);
                }
            }
        }
    }
    let mut state = 1;
    for _ in 0..1_000_000 {
        try_word(random(&mut state) as u32 | 3);
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// The 32-bit encoding of what a compressed instruction expands to.
fn expanded(insn: &Insn) -> u32 {
    let (rd, rs1, rs2) = (u32::from(insn.rd), u32::from(insn.rs1), u32::from(insn.rs2));
    let imm = insn.imm as u32;
    let i = |opcode: u32, funct3: u32| opcode | rd << 7 | funct3 << 12 | rs1 << 15 | imm << 20;
    let s = |opcode: u32, funct3: u32| {
        opcode | (imm & 31) << 7 | funct3 << 12 | rs1 << 15 | rs2 << 20 | imm >> 5 << 25
    };
    let r = |opcode: u32, funct3: u32, funct7: u32| {
        opcode | rd << 7 | funct3 << 12 | rs1 << 15 | rs2 << 20 | funct7 << 25
    };
    let b = |funct3: u32| {
        let low = (imm >> 1 & 15) << 8 | (imm >> 11 & 1) << 7;
        let high = (imm >> 5 & 63) << 25 | (imm >> 12 & 1) << 31;
        0x63 | funct3 << 12 | rs1 << 15 | rs2 << 20 | low | high
    };
    match insn.op {
        Op::Addi => i(0x13, 0),
        Op::Slli => i(0x13, 1),
        Op::Srli => i(0x13, 5),
        Op::Srai => i(0x13, 5) | 1 << 30,
        Op::Andi => i(0x13, 7),
        Op::Addiw => i(0x1b, 0),
        Op::Lw => i(0x03, 2),
        Op::Ld => i(0x03, 3),
        Op::Fld => i(0x07, 3),
        Op::Jalr => i(0x67, 0),
        Op::Sw => s(0x23, 2),
        Op::Sd => s(0x23, 3),
        Op::Fsd => s(0x27, 3),
        Op::Add => r(0x33, 0, 0),
        Op::Sub => r(0x33, 0, 0x20),
        Op::Xor => r(0x33, 4, 0),
        Op::Or => r(0x33, 6, 0),
        Op::And => r(0x33, 7, 0),
        Op::Addw => r(0x3b, 0, 0),
        Op::Subw => r(0x3b, 0, 0x20),
        Op::Beq => b(0),
        Op::Bne => b(1),
        Op::Lui => 0x37 | rd << 7 | imm,
        Op::Jal => {
            let low = (imm >> 12 & 0xff) << 12 | (imm >> 11 & 1) << 20;
            0x6f | rd << 7 | low | (imm >> 1 & 0x3ff) << 21 | (imm >> 20 & 1) << 31
        }
        Op::Ebreak => 0x0010_0073,
        op => panic!("{op:?} has no compressed form"),
    }
}

#[test]
fn every_compressed_halfword_expands_as_disc_v_says() {
    let (isa, peer) = (everything(), peer());
    let mut failures = Vec::new();
    let mut legal = [0; 3];
    for raw in (0..0x1_0000u32).filter(|raw| raw & 3 != 3) {
        let insn = decode(raw | 0xdead_0000, &isa);
        assert_eq!((insn.raw, insn.len), (raw, 2));
        let theirs = peer.decode(PC, raw.into());
        if insn.op == Op::Illegal {
            if !theirs.is_illegal() {
                failures.push(format!("{raw:04x}: illegal here, `{theirs}` there"));
            }
            continue;
        }
        legal[raw as usize & 3] += 1;
        let word = expanded(&insn);
        let wide = Insn { len: 2, raw, ..decode(word, &isa) };
        assert_eq!(wide, insn, "{raw:04x} against {word:08x}");
        let text = peer.decode(PC, word.into()).to_string();
        // HINTs have no 32-bit alias to compare.
        let hint = theirs.mnemonic().starts_with("c.");
        if hint && insn.rd != 0 && insn.imm != 0 || !hint && text != theirs.to_string() {
            failures.push(format!("{raw:04x}: `{text}` here, `{theirs}` there"));
        }
    }
    assert!(
        failures.is_empty(),
        "{} {}",
        failures.len(),
        failures[..failures.len().min(40)].join("\n")
    );
    // Reserved: funct3 100 and c.addi4spn 0; c.addiw x0, c.lui/c.addi16sp 0 and four ALU
    // slots; c.lwsp x0, c.ldsp x0 and c.jr x0.
    assert_eq!(legal, [7 * 2048 - 8, 16384 - 64 - 32 - 128, 16384 - 64 - 64 - 1]);
}

/// Every encoding that a sweep of the opcode fields meets, one per operation.
pub(crate) fn samples(isa: &IsaConfig) -> Vec<Insn> {
    let mut found: Vec<Insn> = Vec::new();
    let mut seen = vec![false; Op::ALL.len()];
    seen[Op::Illegal as usize] = true;
    for opcode in 0..32 {
        for funct3 in 0..8 {
            for funct12 in 0..4096 {
                for registers in [0, 10 << 7 | 12 << 15] {
                    let insn =
                        decode(3 | opcode << 2 | funct3 << 12 | funct12 << 20 | registers, isa);
                    if !std::mem::replace(&mut seen[insn.op as usize], true) {
                        found.push(insn);
                    }
                }
            }
        }
    }
    found
}

#[test]
fn each_extension_brings_exactly_its_operations() {
    let samples = samples(&everything());
    assert_eq!(samples.len(), Op::ALL.len() - 1, "every operation has an encoding");
    type Enable = fn(&mut IsaConfig);
    let table: &[(&str, Enable, usize)] = &[
        // RV64I without fence.i, with ecall, ebreak, wfi and mret.
        ("base", |_| {}, 49 + 2 + 3),
        ("m", |isa| isa.m = true, 13),
        ("zmmul", |isa| isa.zmmul = true, 5),
        ("a", |isa| isa.a = true, 22),
        ("zaamo", |isa| isa.zaamo = true, 18),
        ("zalrsc", |isa| isa.zalrsc = true, 4),
        ("f", |isa| isa.f = true, 30),
        ("d", |isa| (isa.f, isa.d) = (true, true), 30 + 32),
        ("s", |isa| isa.s = true, 2),
        ("zicsr", |isa| isa.zicsr = true, 6),
        ("zifencei", |isa| isa.zifencei = true, 1),
        ("zicond", |isa| isa.zicond = true, 2),
        ("zicbom", |isa| isa.zicbom = true, 3),
        ("zicboz", |isa| isa.zicboz = true, 1),
        ("zawrs", |isa| isa.zawrs = true, 2),
        ("zacas", |isa| isa.zacas = true, 3),
        ("zfhmin", |isa| (isa.f, isa.zfhmin) = (true, true), 30 + 6),
        ("zfh", |isa| (isa.f, isa.zfh) = (true, true), 30 + 30 + 2),
        ("zfa", |isa| (isa.f, isa.zfa) = (true, true), 30 + 7),
        ("zba", |isa| isa.zba = true, 8),
        ("zbb", |isa| isa.zbb = true, 24),
        ("zbc", |isa| isa.zbc = true, 3),
        ("zbs", |isa| isa.zbs = true, 8),
        // Shared with Zbb: rol ror rori rolw rorw roriw andn orn xnor rev8, and zext.h as a packw.
        ("zbkb", |isa| isa.zbkb = true, 11 + 4),
        ("zbkc", |isa| isa.zbkc = true, 2),
        ("zbkx", |isa| isa.zbkx = true, 2),
        ("zknd", |isa| isa.zknd = true, 5),
        ("zkne", |isa| isa.zkne = true, 4),
        ("zknh", |isa| isa.zknh = true, 8),
        ("zksed", |isa| isa.zksed = true, 2),
        ("zksh", |isa| isa.zksh = true, 2),
        ("svinval", |isa| (isa.s, isa.svinval) = (true, true), 2 + 3),
    ];
    let legal = |isa: &IsaConfig| {
        samples.iter().filter(|sample| decode(sample.raw, isa).op != Op::Illegal).count()
    };
    let none = IsaConfig::rv64i();
    let base = legal(&none);
    for (name, enable, count) in table {
        let mut isa = none.clone();
        enable(&mut isa);
        let expected = if *name == "base" { *count } else { base + count };
        assert_eq!(legal(&isa), expected, "{name}");
    }
    let halves = |isa: &IsaConfig| {
        let legal = |half: &u32| half & 3 != 3 && decode(*half, isa).op != Op::Illegal;
        (0..0x1_0000).filter(legal).count()
    };
    let all = halves(&everything());
    assert_eq!(halves(&none), 0);
    // Without D the four FP loads and stores are missing.
    let zca = IsaConfig { zca: true, ..none.clone() };
    assert_eq!(halves(&zca), all - 4 * 2048);
    let no_zcd = IsaConfig { f: true, d: true, ..zca };
    assert_eq!(halves(&no_zcd), all - 4 * 2048);
    assert_eq!(halves(&IsaConfig { zcd: true, ..no_zcd.clone() }), all);
    assert_eq!(halves(&IsaConfig { c: true, ..no_zcd }), all);
}
