//! Guest code → IR. A block starts at one address and follows the fall-through of conditional
//! branches and forward jumps inside its page, so it is a superblock with side exits.

use super::allocate::plain_csr;
use super::ir::{AluOp, AmoOp, Block, BlockShape, Cond, Ir, Operand, Step, Target, UnaryOp};
use super::optimise::{fold, fold_unary};
use crate::cpu::decode::decode;
use crate::cpu::insn::{Insn, Op};
use crate::cpu::isa::IsaConfig;

const PAGE: i64 = 4096;

/// What is known of a register's value while translating.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Known {
    No,
    Const(i64),
    /// The running page's address plus this.
    PageRel(i64),
}

/// A translation in progress.
pub(super) struct Translator<'a> {
    isa: &'a IsaConfig,
    shape: BlockShape,
    block: Block,
    known: [Known; 32],
    offset: u16,
    pub(super) fp_guarded: bool,
    pub(super) fp_dirty: bool,
}

/// Translate the code at offset `start` of a page; `half` reads the page's 16-bit parcels.
pub fn translate(
    isa: &IsaConfig,
    start: u16,
    shape: BlockShape,
    half: impl Fn(u16) -> u16,
) -> Block {
    let mut t = Translator {
        isa,
        shape,
        block: Block { start, ..Block::default() },
        known: [Known::No; 32],
        offset: start,
        fp_guarded: false,
        fp_dirty: false,
    };
    t.known[0] = Known::Const(0);
    let mut at = i64::from(start);
    loop {
        if at >= PAGE || t.block.insns == shape.max_insns {
            t.emit(Ir::Jump { target: t.target(at) });
            break;
        }
        t.offset = at as u16;
        let low = half(t.offset);
        let raw = if low & 3 == 3 {
            if at + 4 > PAGE {
                t.emit(Ir::StepAndLeave);
                t.block.insns += 1;
                break;
            }
            u32::from(low) | u32::from(half(t.offset + 2)) << 16
        } else {
            u32::from(low)
        };
        let insn = decode(raw, isa);
        t.block.insns += 1;
        t.block.guest.push((t.offset, insn));
        match t.insn(&insn) {
            Flow::Next => at += i64::from(insn.len),
            Flow::Follow(next) => at = next,
            Flow::End => break,
        }
    }
    t.block
}

/// What follows an instruction.
pub(super) enum Flow {
    Next,
    /// Go on at this offset of the page.
    Follow(i64),
    End,
}

impl Translator<'_> {
    /// Where a jump to `offset` goes; without chaining always by way of the engine.
    fn target(&self, offset: i64) -> Target {
        if self.shape.chained && (0..PAGE).contains(&offset) {
            Target::Page(offset as u16)
        } else {
            Target::Far(offset)
        }
    }

    pub(super) fn emit(&mut self, ir: Ir) {
        if let Some(dst) = ir.dst() {
            self.known[usize::from(dst)] = match ir {
                Ir::Const { value, .. } => Known::Const(value),
                Ir::PageRel { offset, .. } => Known::PageRel(offset),
                _ => Known::No,
            };
        }
        self.block.steps.push(Step { offset: self.offset, ir });
    }

    /// Register `r` as an operand, as a constant where its value is known.
    pub(super) fn src(&self, r: u8) -> Operand {
        match self.known[usize::from(r)] {
            Known::Const(value) => Operand::Imm(value),
            _ => Operand::of(r),
        }
    }

    fn alu(&mut self, op: AluOp, dst: u8, a: Operand, b: Operand) -> Flow {
        if dst == 0 {
            return Flow::Next;
        }
        if let (Operand::Imm(x), Operand::Imm(y)) = (a, b)
            && let Some(value) = fold(op, x, y)
        {
            self.emit(Ir::Const { dst, value });
        } else {
            self.emit(Ir::Alu { op, dst, a, b });
        }
        Flow::Next
    }

    fn reg_reg(&mut self, op: AluOp, insn: &Insn) -> Flow {
        let (a, b) = (self.src(insn.rs1), self.src(insn.rs2));
        self.alu(op, insn.rd, a, b)
    }

    fn reg_imm(&mut self, op: AluOp, insn: &Insn) -> Flow {
        if op == AluOp::Add
            && insn.rd != 0
            && let Known::PageRel(base) = self.known[usize::from(insn.rs1)]
        {
            self.emit(Ir::PageRel { dst: insn.rd, offset: base + i64::from(insn.imm) });
            return Flow::Next;
        }
        let a = self.src(insn.rs1);
        self.alu(op, insn.rd, a, Operand::Imm(i64::from(insn.imm)))
    }

    fn unary(&mut self, op: UnaryOp, insn: &Insn) -> Flow {
        if insn.rd != 0 {
            match self.src(insn.rs1) {
                Operand::Imm(a) => self.emit(Ir::Const { dst: insn.rd, value: fold_unary(op, a) }),
                a => self.emit(Ir::Unary { op, dst: insn.rd, a }),
            }
        }
        Flow::Next
    }

    fn load(&mut self, insn: &Insn, width: u8, signed: bool) -> Flow {
        let base = self.src(insn.rs1);
        self.emit(Ir::Load { dst: insn.rd, base, offset: insn.imm, width, signed });
        Flow::Next
    }

    fn store(&mut self, insn: &Insn, width: u8) -> Flow {
        let (base, src) = (self.src(insn.rs1), self.src(insn.rs2));
        self.emit(Ir::Store { src, base, offset: insn.imm, width });
        Flow::Next
    }

    fn amo(&mut self, op: AmoOp, width: u8, insn: &Insn) -> Flow {
        let (base, src) = (self.src(insn.rs1), self.src(insn.rs2));
        self.emit(Ir::Amo { op, dst: insn.rd, base, src, width, slow: *insn });
        Flow::Next
    }

    fn load_reserved(&mut self, insn: &Insn, width: u8) -> Flow {
        let base = self.src(insn.rs1);
        self.emit(Ir::LoadReserved { dst: insn.rd, base, width, slow: *insn });
        Flow::Next
    }

    fn store_conditional(&mut self, insn: &Insn, width: u8) -> Flow {
        let (base, src) = (self.src(insn.rs1), self.src(insn.rs2));
        self.emit(Ir::StoreConditional { dst: insn.rd, base, src, width, slow: *insn });
        Flow::Next
    }

    fn branch(&mut self, cond: Cond, insn: &Insn) -> Flow {
        let (a, b) = (self.src(insn.rs1), self.src(insn.rs2));
        let to = i64::from(self.offset) + i64::from(insn.imm);
        if to % if self.isa.c { 2 } else { 4 } != 0 {
            return self.interpret_and_leave(insn);
        }
        self.emit(Ir::Branch { cond, a, b, target: self.target(to) });
        if self.shape.chained {
            return Flow::Next;
        }
        let next = i64::from(self.offset) + i64::from(insn.len);
        self.emit(Ir::Jump { target: self.target(next) });
        Flow::End
    }

    fn jump(&mut self, insn: &Insn) -> Flow {
        let to = i64::from(self.offset) + i64::from(insn.imm);
        if to % if self.isa.c { 2 } else { 4 } != 0 {
            return self.interpret_and_leave(insn);
        }
        if insn.rd != 0 {
            let offset = i64::from(self.offset) + i64::from(insn.len);
            self.emit(Ir::PageRel { dst: insn.rd, offset });
        } else if self.shape.chained && to > i64::from(self.offset) && to < PAGE {
            return Flow::Follow(to);
        }
        self.emit(Ir::Jump { target: self.target(to) });
        Flow::End
    }

    fn jump_register(&mut self, insn: &Insn) -> Flow {
        if !self.isa.c {
            return self.interpret_and_leave(insn);
        }
        let next = i64::from(self.offset) + i64::from(insn.len);
        if let Known::PageRel(base) = self.known[usize::from(insn.rs1)] {
            if insn.rd != 0 {
                self.emit(Ir::PageRel { dst: insn.rd, offset: next });
            }
            self.emit(Ir::Jump { target: self.target((base + i64::from(insn.imm)) & !1) });
            return Flow::End;
        }
        let base = self.src(insn.rs1);
        let link = (insn.rd != 0).then_some((insn.rd, next));
        self.emit(Ir::JumpReg { base, offset: insn.imm, link });
        Flow::End
    }

    pub(super) fn interpret(&mut self, insn: &Insn) -> Flow {
        self.emit(Ir::Interpret { insn: *insn });
        for r in [insn.rd, insn.rd | 1] {
            self.known[usize::from(r)] = Known::No;
        }
        self.known[0] = Known::Const(0);
        Flow::Next
    }

    fn interpret_and_leave(&mut self, insn: &Insn) -> Flow {
        self.emit(Ir::InterpretAndLeave { insn: *insn });
        Flow::End
    }

    fn csr(&mut self, insn: &Insn) -> Flow {
        let writes =
            !matches!(insn.op, Op::Csrrs | Op::Csrrc | Op::Csrrsi | Op::Csrrci) || insn.rs1 != 0;
        // A write of satp, misa, PMP or an *envcfg may change what the next fetch sees.
        let remaps =
            matches!(insn.imm & 0xfff, 0x180 | 0x301 | 0x30a | 0x3a0..=0x3ef | 0x747 | 0x757);
        if writes && remaps {
            return self.interpret_and_leave(insn);
        }
        if let Some(ir) = self.inline_csr(insn, writes) {
            self.emit(ir);
            return Flow::Next;
        }
        self.fp_guarded = false;
        self.fp_dirty = false;
        self.interpret(insn)
    }

    /// The CSR accesses that trap handlers and locks are made of.
    fn inline_csr(&self, insn: &Insn, writes: bool) -> Option<Ir> {
        const SSTATUS: i32 = 0x100;
        const SIE: u8 = 1 << 1;
        if !self.isa.c || !self.isa.s {
            return None;
        }
        let number = insn.imm & 0xfff;
        if number == SSTATUS && insn.rs1 == SIE && matches!(insn.op, Op::Csrrsi | Op::Csrrci) {
            let set = insn.op == Op::Csrrsi;
            return Some(Ir::Sie { set, dst: insn.rd, slow: *insn });
        }
        let csr = plain_csr(number as u16)?;
        let src = match insn.op {
            Op::Csrrw => Some(self.src(insn.rs1)),
            _ if !writes => None,
            _ => return None,
        };
        Some(Ir::Csr { csr, dst: insn.rd, src, slow: *insn })
    }

    fn insn(&mut self, insn: &Insn) -> Flow {
        use AluOp as A;
        use Op as O;
        match insn.op {
            O::Lui => {
                if insn.rd != 0 {
                    self.emit(Ir::Const { dst: insn.rd, value: i64::from(insn.imm) });
                }
                Flow::Next
            }
            O::Auipc => {
                if insn.rd != 0 {
                    let offset = i64::from(self.offset) + i64::from(insn.imm);
                    self.emit(Ir::PageRel { dst: insn.rd, offset });
                }
                Flow::Next
            }
            O::Jal => self.jump(insn),
            O::Jalr => self.jump_register(insn),
            O::Beq => self.branch(Cond::Eq, insn),
            O::Bne => self.branch(Cond::Ne, insn),
            O::Blt => self.branch(Cond::Lt, insn),
            O::Bge => self.branch(Cond::Ge, insn),
            O::Bltu => self.branch(Cond::Ltu, insn),
            O::Bgeu => self.branch(Cond::Geu, insn),
            O::Lb => self.load(insn, 1, true),
            O::Lh => self.load(insn, 2, true),
            O::Lw => self.load(insn, 4, true),
            O::Ld => self.load(insn, 8, false),
            O::Lbu => self.load(insn, 1, false),
            O::Lhu => self.load(insn, 2, false),
            O::Lwu => self.load(insn, 4, false),
            O::Sb => self.store(insn, 1),
            O::Sh => self.store(insn, 2),
            O::Sw => self.store(insn, 4),
            O::Sd => self.store(insn, 8),
            O::Addi => self.reg_imm(A::Add, insn),
            O::Slti => self.reg_imm(A::Slt, insn),
            O::Sltiu => self.reg_imm(A::Sltu, insn),
            O::Xori => self.reg_imm(A::Xor, insn),
            O::Ori => self.reg_imm(A::Or, insn),
            O::Andi => self.reg_imm(A::And, insn),
            O::Slli => self.reg_imm(A::Sll, insn),
            O::Srli => self.reg_imm(A::Srl, insn),
            O::Srai => self.reg_imm(A::Sra, insn),
            O::Addiw => self.reg_imm(A::AddW, insn),
            O::Slliw => self.reg_imm(A::SllW, insn),
            O::Srliw => self.reg_imm(A::SrlW, insn),
            O::Sraiw => self.reg_imm(A::SraW, insn),
            O::Rori => self.reg_imm(A::Ror, insn),
            O::Roriw => self.reg_imm(A::RorW, insn),
            O::SlliUw => self.reg_imm(A::SllUw, insn),
            O::Bseti => self.reg_imm(A::Bset, insn),
            O::Bclri => self.reg_imm(A::Bclr, insn),
            O::Binvi => self.reg_imm(A::Binv, insn),
            O::Bexti => self.reg_imm(A::Bext, insn),
            O::LrW => self.load_reserved(insn, 4),
            O::LrD => self.load_reserved(insn, 8),
            O::ScW => self.store_conditional(insn, 4),
            O::ScD => self.store_conditional(insn, 8),
            O::CboZero if self.isa.cbo_size == 64 => {
                let base = self.src(insn.rs1);
                self.emit(Ir::CboZero { base, slow: *insn });
                Flow::Next
            }
            O::AmoSwapW => self.amo(AmoOp::Swap, 4, insn),
            O::AmoSwapD => self.amo(AmoOp::Swap, 8, insn),
            O::AmoAddW => self.amo(AmoOp::Add, 4, insn),
            O::AmoAddD => self.amo(AmoOp::Add, 8, insn),
            O::AmoAndW => self.amo(AmoOp::And, 4, insn),
            O::AmoAndD => self.amo(AmoOp::And, 8, insn),
            O::AmoOrW => self.amo(AmoOp::Or, 4, insn),
            O::AmoOrD => self.amo(AmoOp::Or, 8, insn),
            O::AmoXorW => self.amo(AmoOp::Xor, 4, insn),
            O::AmoXorD => self.amo(AmoOp::Xor, 8, insn),
            O::Clz => self.unary(UnaryOp::Clz, insn),
            O::Ctz => self.unary(UnaryOp::Ctz, insn),
            O::Cpop => self.unary(UnaryOp::Cpop, insn),
            O::Clzw => self.unary(UnaryOp::ClzW, insn),
            O::Ctzw => self.unary(UnaryOp::CtzW, insn),
            O::Cpopw => self.unary(UnaryOp::CpopW, insn),
            O::SextB => self.unary(UnaryOp::SextB, insn),
            O::SextH => self.unary(UnaryOp::SextH, insn),
            O::ZextH => self.unary(UnaryOp::ZextH, insn),
            O::Rev8 => self.unary(UnaryOp::Rev8, insn),
            O::Fence => {
                if waits_for_stores(insn) {
                    self.emit(Ir::Fence);
                }
                Flow::Next
            }
            O::Csrrw | O::Csrrs | O::Csrrc | O::Csrrwi | O::Csrrsi | O::Csrrci => self.csr(insn),
            O::Illegal
            | O::FenceI
            | O::Ecall
            | O::Ebreak
            | O::Sret
            | O::Mret
            | O::Wfi
            | O::WrsNto
            | O::WrsSto
            | O::SfenceVma
            | O::SinvalVma
            | O::SfenceWInval
            | O::SfenceInvalIr => self.interpret_and_leave(insn),
            op => match register_op(op) {
                Some(alu) => self.reg_reg(alu, insn),
                None => self.float(insn),
            },
        }
    }
}

/// Whether a `fence` orders something that x86's total store order does not: earlier writes before
/// later reads. `fence.tso` (fm 8) leaves those unordered too.
fn waits_for_stores(fence: &Insn) -> bool {
    /// Fields fm, predecessor IORW, successor IORW (Unprivileged spec 2.7).
    const PREDECESSOR_WRITES: i32 = 0x50;
    const SUCCESSOR_READS: i32 = 0x0a;
    let fields = fence.imm;
    fields >> 8 & 15 != 8 && fields & PREDECESSOR_WRITES != 0 && fields & SUCCESSOR_READS != 0
}

/// The IR operation of a register-register instruction.
fn register_op(op: Op) -> Option<AluOp> {
    use AluOp as A;
    use Op as O;
    Some(match op {
        O::Add => A::Add,
        O::Sub => A::Sub,
        O::Sll => A::Sll,
        O::Slt => A::Slt,
        O::Sltu => A::Sltu,
        O::Xor => A::Xor,
        O::Srl => A::Srl,
        O::Sra => A::Sra,
        O::Or => A::Or,
        O::And => A::And,
        O::Addw => A::AddW,
        O::Subw => A::SubW,
        O::Sllw => A::SllW,
        O::Srlw => A::SrlW,
        O::Sraw => A::SraW,
        O::Mul => A::Mul,
        O::Mulh => A::Mulh,
        O::Mulhsu => A::Mulhsu,
        O::Mulhu => A::Mulhu,
        O::Mulw => A::MulW,
        O::Div => A::Div,
        O::Divu => A::Divu,
        O::Rem => A::Rem,
        O::Remu => A::Remu,
        O::Divw => A::DivW,
        O::Divuw => A::DivuW,
        O::Remw => A::RemW,
        O::Remuw => A::RemuW,
        O::AddUw => A::AddUw,
        O::Sh1add => A::Sh1Add,
        O::Sh2add => A::Sh2Add,
        O::Sh3add => A::Sh3Add,
        O::Sh1addUw => A::Sh1AddUw,
        O::Sh2addUw => A::Sh2AddUw,
        O::Sh3addUw => A::Sh3AddUw,
        O::Andn => A::Andn,
        O::Orn => A::Orn,
        O::Xnor => A::Xnor,
        O::Min => A::Min,
        O::Minu => A::Minu,
        O::Max => A::Max,
        O::Maxu => A::Maxu,
        O::Rol => A::Rol,
        O::Ror => A::Ror,
        O::Rolw => A::RolW,
        O::Rorw => A::RorW,
        O::Bclr => A::Bclr,
        O::Bext => A::Bext,
        O::Binv => A::Binv,
        O::Bset => A::Bset,
        O::CzeroEqz => A::CzeroEqz,
        O::CzeroNez => A::CzeroNez,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_fences_of_writes_before_reads_cost_anything() {
        let isa = IsaConfig::max();
        // fence iorw,iorw; w,r; o,i; then iorw,ow; r,rw; rw,w; fence.tso; pause.
        let strong: [u32; 3] = [0x0ff0_000f, 0x0120_000f, 0x0480_000f];
        let free: [u32; 5] = [0x0f50_000f, 0x0230_000f, 0x0310_000f, 0x8330_000f, 0x0100_000f];
        for (words, expected) in [(&strong[..], true), (&free[..], false)] {
            for &word in words {
                let bytes = [word as u16, (word >> 16) as u16, 0, 0];
                let half = |offset: u16| bytes[usize::from(offset) / 2];
                let block = translate(&isa, 0, BlockShape::default(), half);
                let fences = block.steps.iter().any(|s| matches!(s.ir, Ir::Fence));
                assert_eq!(fences, expected, "{word:#x}");
            }
        }
    }

    #[test]
    fn the_shape_says_where_blocks_end() {
        // addi; beq .+8; addi; j .-12
        let words: [u32; 4] = [0x0012_8293, 0x0000_0463, 0x0012_8293, 0xff5f_f06f];
        let half = |offset: u16| {
            let word = words.get(usize::from(offset) / 4).copied().unwrap_or_default();
            (word >> (8 * (offset & 2))) as u16
        };
        let isa = IsaConfig::max();
        let cut = |max_insns, chained| {
            let block = translate(&isa, 0, BlockShape { max_insns, chained }, half);
            let inside = |s: &Step| match s.ir {
                Ir::Branch { target, .. } | Ir::Jump { target } => {
                    matches!(target, Target::Page(_))
                }
                _ => false,
            };
            (block.insns, block.steps.iter().any(inside))
        };
        assert_eq!(cut(64, true), (4, true));
        assert_eq!(cut(64, false), (2, false));
        assert_eq!(cut(1, true), (1, true));
        assert_eq!(cut(1, false), (1, false));
    }
}
