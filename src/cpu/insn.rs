//! Decoded instructions: the operations of the implemented extensions and their operands. The
//! interpreter, the translator and the CSR/system code all start from here.

macro_rules! ops {
    ($($(#[$doc:meta])* $group:ident { $($op:ident $mnemonic:literal,)* })*) => {
        /// What an operation is about, and so who executes it.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Group {
            $($(#[$doc])* $group,)*
        }

        /// One variant per instruction; compressed forms share the variant of what they expand to.
        #[repr(u16)]
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Op {
            $($($op,)*)*
        }

        impl Op {
            /// Every operation, in declaration order.
            pub const ALL: &[Op] = &[$($(Op::$op,)*)*];

            /// The assembler mnemonic, without `.aq`/`.rl`.
            pub const fn mnemonic(self) -> &'static str {
                match self {
                    $($(Op::$op => $mnemonic,)*)*
                }
            }

            /// The group that the operation belongs to.
            pub const fn group(self) -> Group {
                match self {
                    $($(Op::$op)|* => Group::$group,)*
                }
            }
        }
    };
}

ops! {
    /// Jumps, branches, fences, environment calls.
    Control {
        Illegal "illegal", Jal "jal", Jalr "jalr", Beq "beq", Bne "bne", Blt "blt", Bge "bge",
        Bltu "bltu", Bgeu "bgeu", Fence "fence", FenceI "fence.i", Ecall "ecall",
        Ebreak "ebreak",
    }
    /// Integer loads and stores.
    Memory {
        Lb "lb", Lh "lh", Lw "lw", Ld "ld", Lbu "lbu", Lhu "lhu", Lwu "lwu", Sb "sb", Sh "sh",
        Sw "sw", Sd "sd",
    }
    /// Computation of RV64I, M and Zicond.
    Integer {
        Lui "lui", Auipc "auipc", Addi "addi", Slti "slti", Sltiu "sltiu", Xori "xori",
        Ori "ori", Andi "andi", Slli "slli", Srli "srli", Srai "srai", Add "add", Sub "sub",
        Sll "sll", Slt "slt", Sltu "sltu", Xor "xor", Srl "srl", Sra "sra", Or "or", And "and",
        Addiw "addiw", Slliw "slliw", Srliw "srliw", Sraiw "sraiw", Addw "addw", Subw "subw",
        Sllw "sllw", Srlw "srlw", Sraw "sraw", Mul "mul", Mulh "mulh", Mulhsu "mulhsu",
        Mulhu "mulhu", Div "div", Divu "divu", Rem "rem", Remu "remu", Mulw "mulw", Divw "divw",
        Divuw "divuw", Remw "remw", Remuw "remuw", CzeroEqz "czero.eqz", CzeroNez "czero.nez",
    }
    /// Zicsr, privileged, Zawrs, Svinval, Zicbom, Zicboz.
    System {
        Csrrw "csrrw", Csrrs "csrrs", Csrrc "csrrc", Csrrwi "csrrwi", Csrrsi "csrrsi",
        Csrrci "csrrci", Sret "sret", Mret "mret", Wfi "wfi", SfenceVma "sfence.vma",
        SinvalVma "sinval.vma", SfenceWInval "sfence.w.inval", SfenceInvalIr "sfence.inval.ir",
        WrsNto "wrs.nto", WrsSto "wrs.sto", CboInval "cbo.inval", CboClean "cbo.clean",
        CboFlush "cbo.flush", CboZero "cbo.zero",
    }
    /// A and Zacas.
    Atomic {
        LrW "lr.w", ScW "sc.w", LrD "lr.d", ScD "sc.d", AmoSwapW "amoswap.w",
        AmoAddW "amoadd.w", AmoXorW "amoxor.w", AmoAndW "amoand.w", AmoOrW "amoor.w",
        AmoMinW "amomin.w", AmoMaxW "amomax.w", AmoMinuW "amominu.w", AmoMaxuW "amomaxu.w",
        AmoSwapD "amoswap.d", AmoAddD "amoadd.d", AmoXorD "amoxor.d", AmoAndD "amoand.d",
        AmoOrD "amoor.d", AmoMinD "amomin.d", AmoMaxD "amomax.d", AmoMinuD "amominu.d",
        AmoMaxuD "amomaxu.d", AmoCasW "amocas.w", AmoCasD "amocas.d", AmoCasQ "amocas.q",
    }
    /// Zba, Zbb, Zbc, Zbs, Zbkb, Zbkc, Zbkx.
    Bitmanip {
        AddUw "add.uw", Sh1add "sh1add", Sh2add "sh2add", Sh3add "sh3add", Sh1addUw "sh1add.uw",
        Sh2addUw "sh2add.uw", Sh3addUw "sh3add.uw", SlliUw "slli.uw", Andn "andn", Orn "orn",
        Xnor "xnor", Clz "clz", Ctz "ctz", Cpop "cpop", Clzw "clzw", Ctzw "ctzw", Cpopw "cpopw",
        SextB "sext.b", SextH "sext.h", ZextH "zext.h", Min "min", Minu "minu", Max "max",
        Maxu "maxu", Rol "rol", Ror "ror", Rori "rori", Rolw "rolw", Rorw "rorw", Roriw "roriw",
        OrcB "orc.b", Rev8 "rev8", Brev8 "brev8", Pack "pack", Packh "packh", Packw "packw",
        Clmul "clmul", Clmulh "clmulh", Clmulr "clmulr", Bclr "bclr", Bclri "bclri",
        Bext "bext", Bexti "bexti", Binv "binv", Binvi "binvi", Bset "bset", Bseti "bseti",
        Xperm4 "xperm4", Xperm8 "xperm8",
    }
    /// Zknd, Zkne, Zknh, Zksed, Zksh.
    Crypto {
        Aes64ds "aes64ds", Aes64dsm "aes64dsm", Aes64es "aes64es", Aes64esm "aes64esm",
        Aes64im "aes64im", Aes64ks1i "aes64ks1i", Aes64ks2 "aes64ks2", Sha256sig0 "sha256sig0",
        Sha256sig1 "sha256sig1", Sha256sum0 "sha256sum0", Sha256sum1 "sha256sum1",
        Sha512sig0 "sha512sig0", Sha512sig1 "sha512sig1", Sha512sum0 "sha512sum0",
        Sha512sum1 "sha512sum1", Sm3p0 "sm3p0", Sm3p1 "sm3p1", Sm4ed "sm4ed", Sm4ks "sm4ks",
    }
    /// F, D, Zfh, Zfhmin, Zfa, loads and stores included.
    Float {
        Flw "flw", Fsw "fsw", FmaddS "fmadd.s", FmsubS "fmsub.s", FnmsubS "fnmsub.s",
        FnmaddS "fnmadd.s", FaddS "fadd.s", FsubS "fsub.s", FmulS "fmul.s", FdivS "fdiv.s",
        FsqrtS "fsqrt.s", FsgnjS "fsgnj.s", FsgnjnS "fsgnjn.s", FsgnjxS "fsgnjx.s",
        FminS "fmin.s", FmaxS "fmax.s", FcvtWS "fcvt.w.s", FcvtWuS "fcvt.wu.s",
        FcvtLS "fcvt.l.s", FcvtLuS "fcvt.lu.s", FcvtSW "fcvt.s.w", FcvtSWu "fcvt.s.wu",
        FcvtSL "fcvt.s.l", FcvtSLu "fcvt.s.lu", FmvXW "fmv.x.w", FmvWX "fmv.w.x",
        FclassS "fclass.s", FeqS "feq.s", FltS "flt.s", FleS "fle.s", Fld "fld", Fsd "fsd",
        FmaddD "fmadd.d", FmsubD "fmsub.d", FnmsubD "fnmsub.d", FnmaddD "fnmadd.d",
        FaddD "fadd.d", FsubD "fsub.d", FmulD "fmul.d", FdivD "fdiv.d", FsqrtD "fsqrt.d",
        FsgnjD "fsgnj.d", FsgnjnD "fsgnjn.d", FsgnjxD "fsgnjx.d", FminD "fmin.d",
        FmaxD "fmax.d", FcvtWD "fcvt.w.d", FcvtWuD "fcvt.wu.d", FcvtLD "fcvt.l.d",
        FcvtLuD "fcvt.lu.d", FcvtDW "fcvt.d.w", FcvtDWu "fcvt.d.wu", FcvtDL "fcvt.d.l",
        FcvtDLu "fcvt.d.lu", FmvXD "fmv.x.d", FmvDX "fmv.d.x", FclassD "fclass.d", FeqD "feq.d",
        FltD "flt.d", FleD "fle.d", FcvtSD "fcvt.s.d", FcvtDS "fcvt.d.s", Flh "flh", Fsh "fsh",
        FmaddH "fmadd.h", FmsubH "fmsub.h", FnmsubH "fnmsub.h", FnmaddH "fnmadd.h",
        FaddH "fadd.h", FsubH "fsub.h", FmulH "fmul.h", FdivH "fdiv.h", FsqrtH "fsqrt.h",
        FsgnjH "fsgnj.h", FsgnjnH "fsgnjn.h", FsgnjxH "fsgnjx.h", FminH "fmin.h",
        FmaxH "fmax.h", FcvtWH "fcvt.w.h", FcvtWuH "fcvt.wu.h", FcvtLH "fcvt.l.h",
        FcvtLuH "fcvt.lu.h", FcvtHW "fcvt.h.w", FcvtHWu "fcvt.h.wu", FcvtHL "fcvt.h.l",
        FcvtHLu "fcvt.h.lu", FmvXH "fmv.x.h", FmvHX "fmv.h.x", FclassH "fclass.h", FeqH "feq.h",
        FltH "flt.h", FleH "fle.h", FcvtSH "fcvt.s.h", FcvtHS "fcvt.h.s", FcvtDH "fcvt.d.h",
        FcvtHD "fcvt.h.d", FliS "fli.s", FliD "fli.d", FliH "fli.h", FminmS "fminm.s",
        FmaxmS "fmaxm.s", FminmD "fminm.d", FmaxmD "fmaxm.d", FminmH "fminm.h",
        FmaxmH "fmaxm.h", FroundS "fround.s", FroundnxS "froundnx.s", FroundD "fround.d",
        FroundnxD "froundnx.d", FroundH "fround.h", FroundnxH "froundnx.h", FleqS "fleq.s",
        FltqS "fltq.s", FleqD "fleq.d", FltqD "fltq.d", FleqH "fleq.h", FltqH "fltq.h",
        FcvtmodWD "fcvtmod.w.d",
    }
}

/// A decoded instruction. A field that the operation has no use for is zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Insn {
    pub op: Op,
    pub rd: u8,
    /// Register number; the 5-bit immediate of `csrr?i`; the constant's number of `fli`.
    pub rs1: u8,
    pub rs2: u8,
    pub rs3: u8,
    /// FP rounding-mode field (7: dynamic; never 5 or 6), or `aq << 1 | rl` of an atomic.
    pub rm: u8,
    /// 2 or 4 bytes.
    pub len: u8,
    /// Sign-extended immediate; shift amount; CSR number; `bs`/`rnum` of the scalar crypto; the
    /// whole `imm << 12` of `lui` and `auipc`; bits 31:20 of `fence`.
    pub imm: i32,
    /// The bits as fetched, the low 16 alone for a compressed instruction.
    pub raw: u32,
}
