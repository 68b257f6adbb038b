//! The intermediate representation: a list of operations on guest registers for one superblock
//! (one entry, many exits). Register 0 is never an operand: it reads as `Operand::Imm(0)`.

use super::allocate::PlainCsr;
use crate::cpu::insn::Insn;

/// A source: a guest integer register (1–31) or a constant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operand {
    Reg(u8),
    Imm(i64),
}

impl Operand {
    /// Register `number`, with x0 as the constant it is.
    pub fn of(number: u8) -> Self {
        if number == 0 { Self::Imm(0) } else { Self::Reg(number) }
    }
}

/// Two-operand integer operations; `W` forms work on 32 bits and sign-extend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AluOp {
    Add,
    Sub,
    And,
    Or,
    Xor,
    Sll,
    Srl,
    Sra,
    Slt,
    Sltu,
    AddW,
    SubW,
    SllW,
    SrlW,
    SraW,
    Mul,
    MulW,
    Mulh,
    Mulhu,
    Mulhsu,
    Div,
    Divu,
    Rem,
    Remu,
    DivW,
    DivuW,
    RemW,
    RemuW,
    Andn,
    Orn,
    Xnor,
    Min,
    Max,
    Minu,
    Maxu,
    Rol,
    Ror,
    RolW,
    RorW,
    Sh1Add,
    Sh2Add,
    Sh3Add,
    AddUw,
    Sh1AddUw,
    Sh2AddUw,
    Sh3AddUw,
    SllUw,
    Bset,
    Bclr,
    Binv,
    Bext,
    CzeroEqz,
    CzeroNez,
}

/// One-operand integer operations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnaryOp {
    Clz,
    Ctz,
    Cpop,
    ClzW,
    CtzW,
    CpopW,
    SextB,
    SextH,
    ZextH,
    Rev8,
}

/// Conditions of branches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cond {
    Eq,
    Ne,
    Lt,
    Ge,
    Ltu,
    Geu,
}

/// Where control goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// An offset in the page that runs.
    Page(u16),
    /// An offset from the start of the page that runs, outside it.
    Far(i64),
}

/// Width of an FP value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fmt {
    S,
    D,
}

/// FP operations done inline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FpOp {
    Add,
    Sub,
    Mul,
    Div,
    Sqrt,
    /// a×b+c, a×b−c, −(a×b)+c, −(a×b)−c
    Madd,
    Msub,
    Nmsub,
    Nmadd,
    Sgnj,
    Sgnjn,
    Sgnjx,
    /// To the other format.
    Convert,
}

/// FP comparisons into an integer register.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FpCmp {
    Eq,
    Lt,
    Le,
}

/// Integer types of FP conversions (`Wu` only towards FP).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IntFmt {
    W,
    Wu,
    L,
}

/// Atomic read-modify-write operations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AmoOp {
    Swap,
    Add,
    And,
    Or,
    Xor,
}

/// One operation. FP operations name the instruction that the interpreter runs when the inline
/// code meets a case it leaves alone (a NaN result, an unboxed operand, an overflow).
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Ir {
    Const {
        dst: u8,
        value: i64,
    },
    /// Address of the running page plus `offset`.
    PageRel {
        dst: u8,
        offset: i64,
    },
    Alu {
        op: AluOp,
        dst: u8,
        a: Operand,
        b: Operand,
    },
    Unary {
        op: UnaryOp,
        dst: u8,
        a: Operand,
    },
    /// `dst` 0 discards the value but not the fault.
    Load {
        dst: u8,
        base: Operand,
        offset: i32,
        width: u8,
        signed: bool,
    },
    Store {
        src: Operand,
        base: Operand,
        offset: i32,
        width: u8,
    },
    Amo {
        op: AmoOp,
        dst: u8,
        base: Operand,
        src: Operand,
        width: u8,
        slow: Insn,
    },
    FpLoad {
        dst: u8,
        base: Operand,
        offset: i32,
        fmt: Fmt,
    },
    FpStore {
        src: u8,
        base: Operand,
        offset: i32,
        fmt: Fmt,
    },
    /// Leave when FP is off or its rounding mode is not the host's; `write`: state gets dirty.
    FpGuard {
        write: bool,
    },
    Fp {
        op: FpOp,
        fmt: Fmt,
        dst: u8,
        a: u8,
        b: u8,
        c: u8,
        slow: Insn,
    },
    FpCompare {
        op: FpCmp,
        fmt: Fmt,
        dst: u8,
        a: u8,
        b: u8,
        slow: Insn,
    },
    /// FP to integer, truncating or by the dynamic mode.
    FpToInt {
        fmt: Fmt,
        int: IntFmt,
        truncate: bool,
        dst: u8,
        a: u8,
        slow: Insn,
    },
    IntToFp {
        fmt: Fmt,
        int: IntFmt,
        dst: u8,
        a: Operand,
    },
    /// Bits of an FP register to an integer register and back.
    FpToBits {
        fmt: Fmt,
        dst: u8,
        a: u8,
    },
    BitsToFp {
        fmt: Fmt,
        dst: u8,
        a: Operand,
    },
    /// Earlier stores become visible before later loads are done.
    Fence,
    /// Read a plain CSR and, with `src`, write it.
    Csr {
        csr: PlainCsr,
        dst: u8,
        src: Option<Operand>,
        slow: Insn,
    },
    /// Set or clear `sstatus.SIE`; `dst` gets the old `sstatus`.
    Sie {
        set: bool,
        dst: u8,
        slow: Insn,
    },
    CboZero {
        base: Operand,
        slow: Insn,
    },
    LoadReserved {
        dst: u8,
        base: Operand,
        width: u8,
        slow: Insn,
    },
    StoreConditional {
        dst: u8,
        base: Operand,
        src: Operand,
        width: u8,
        slow: Insn,
    },
    /// Run one instruction by the interpreter and go on.
    Interpret {
        insn: Insn,
    },
    /// Run one instruction by the interpreter, which may change the pc, the privilege or what is
    /// mapped; then look the pc up.
    InterpretAndLeave {
        insn: Insn,
    },
    /// The instruction at this offset crosses the page: fetch it when it runs.
    StepAndLeave,
    /// A side exit.
    Branch {
        cond: Cond,
        a: Operand,
        b: Operand,
        target: Target,
    },
    Jump {
        target: Target,
    },
    /// `link`: register that gets the page-relative return address, after the target is read.
    JumpReg {
        base: Operand,
        offset: i32,
        link: Option<(u8, i64)>,
    },
}

/// An operation with the offset in the page of the instruction it came from.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Step {
    pub offset: u16,
    pub ir: Ir,
}

/// Where blocks end, and how one leads to the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockShape {
    /// Most guest instructions in a block.
    pub max_insns: u32,
    /// Blocks run past branches and jump to one another. Otherwise each ends at its first branch
    /// or jump, and the engine enters it.
    pub chained: bool,
}

impl Default for BlockShape {
    fn default() -> Self {
        Self { max_insns: 64, chained: true }
    }
}

/// A translated stretch of code.
#[derive(Debug, Clone, Default)]
pub struct Block {
    /// Offset in the page of the entry.
    pub start: u16,
    /// Guest instructions covered.
    pub insns: u32,
    pub steps: Vec<Step>,
    /// The guest instructions, in the order of their offsets.
    pub guest: Vec<(u16, Insn)>,
}

impl Block {
    /// The offset of what follows the instruction at `offset` in memory.
    pub fn end_of(&self, offset: u16) -> i64 {
        let insn = self.guest.binary_search_by_key(&offset, |(at, _)| *at);
        let len = insn.map_or(4, |i| self.guest[i].1.len);
        i64::from(offset) + i64::from(len)
    }
}

impl Ir {
    /// The guest integer register this writes, if it writes one.
    pub fn dst(&self) -> Option<u8> {
        match *self {
            Self::Const { dst, .. }
            | Self::PageRel { dst, .. }
            | Self::Alu { dst, .. }
            | Self::Unary { dst, .. }
            | Self::Load { dst, .. }
            | Self::Amo { dst, .. }
            | Self::Csr { dst, .. }
            | Self::Sie { dst, .. }
            | Self::LoadReserved { dst, .. }
            | Self::StoreConditional { dst, .. }
            | Self::FpCompare { dst, .. }
            | Self::FpToInt { dst, .. }
            | Self::FpToBits { dst, .. } => (dst != 0).then_some(dst),
            Self::JumpReg { link, .. } => link.map(|(dst, _)| dst),
            _ => None,
        }
    }

    /// True when this does nothing but write `dst`.
    pub fn is_pure(&self) -> bool {
        matches!(
            self,
            Self::Const { .. } | Self::PageRel { .. } | Self::Alu { .. } | Self::Unary { .. }
        )
    }

    /// The guest integer registers this reads, as a mask.
    pub fn reads(&self) -> u32 {
        let of = |o: Operand| match o {
            Operand::Reg(r) => 1u32 << r,
            Operand::Imm(_) => 0,
        };
        match *self {
            Self::Alu { a, b, .. } | Self::Branch { a, b, .. } => of(a) | of(b),
            Self::Unary { a, .. } | Self::IntToFp { a, .. } | Self::BitsToFp { a, .. } => of(a),
            Self::Load { base, .. }
            | Self::FpLoad { base, .. }
            | Self::FpStore { base, .. }
            | Self::JumpReg { base, .. } => of(base),
            Self::Store { src, base, .. } | Self::Amo { src, base, .. } => of(src) | of(base),
            _ => 0,
        }
    }
}
