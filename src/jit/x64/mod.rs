//! The x86-64 back end: IR → machine code through dynasm. Needs the x86-64-v3 feature level
//! (BMI1/2, LZCNT, POPCNT, FMA).
// dynasm! converts every register number that it is given, also one that is a `u8` already.
#![allow(clippy::useless_conversion)]

mod control;
mod float;
mod integer;
mod memory;
pub mod stubs;
mod system;

use dynasmrt::x64::X64Relocation;
use dynasmrt::{DynamicLabel, DynasmApi, DynasmLabelApi, VecAssembler};

use self::stubs::Stubs;
use super::allocate::{self, Place};
use super::ir::{AluOp, Block, Ir, Operand, Target};
use crate::cpu::insn::Insn;

/// Scratch registers of a block.
const RAX: u8 = 0;
const RCX: u8 = 1;
const RDX: u8 = 2;

/// `dynasm!` on the emitter's assembler.
macro_rules! asm {
    ($e:ident $($t:tt)*) => { ::dynasmrt::dynasm!($e.ops ; .arch x64 $($t)*) };
}
/// An instruction whose second operand is at a displacement from `rbp`.
macro_rules! asm_rm {
    ($e:ident, $op:ident, $disp:expr, $($reg:tt)+) => {{
        let disp: i32 = $disp;
        if let Ok(d) = i8::try_from(disp) {
            ::dynasmrt::dynasm!($e.ops ; .arch x64 ; $op $($reg)+, [BYTE rbp + d]);
        } else {
            ::dynasmrt::dynasm!($e.ops ; .arch x64 ; $op $($reg)+, [DWORD rbp + disp]);
        }
    }};
}
/// An instruction whose first operand is at a displacement from `rbp`.
macro_rules! asm_mr {
    ($e:ident, $op:ident, $disp:expr, $($reg:tt)+) => {{
        let disp: i32 = $disp;
        if let Ok(d) = i8::try_from(disp) {
            ::dynasmrt::dynasm!($e.ops ; .arch x64 ; $op [BYTE rbp + d], $($reg)+);
        } else {
            ::dynasmrt::dynasm!($e.ops ; .arch x64 ; $op [DWORD rbp + disp], $($reg)+);
        }
    }};
}
use {asm, asm_mr, asm_rm};

/// A jump that the engine patches to its target's translation.
#[derive(Debug, Clone, Copy)]
pub struct LinkSite {
    /// Offset in the code of the 32-bit displacement.
    pub at: usize,
    /// Offset in the page of the target.
    pub target: u16,
}

/// Machine code of a block, for the address it was assembled for.
#[derive(Debug)]
pub struct Emitted {
    pub code: Vec<u8>,
    pub links: Vec<LinkSite>,
}

/// Why a block could not be assembled: a bug, reported and interpreted around.
#[derive(Debug, thiserror::Error)]
#[error("cannot assemble the block at page offset {start:#x}: {reason}")]
pub struct EmitError {
    start: u16,
    reason: String,
}

/// Code that is placed after the block's straight line.
enum Cold {
    /// Ask the engine for a translation, then patch `link`.
    Link {
        at: DynamicLabel,
        link: usize,
    },
    /// A backward direct jump: poll, then the link.
    PollAndJump {
        at: DynamicLabel,
        target: u16,
        from: u16,
    },
    Far {
        at: DynamicLabel,
        offset: i64,
    },
    /// Leave with the pc at this offset.
    Poll {
        at: DynamicLabel,
        offset: u16,
    },
    FpOff {
        at: DynamicLabel,
        offset: u16,
    },
    /// Run one instruction by the interpreter and come back.
    Slow {
        at: DynamicLabel,
        back: DynamicLabel,
        offset: u16,
        insn: *const Insn,
    },
    LoadSlow {
        at: DynamicLabel,
        back: DynamicLabel,
        offset: u16,
        load: memory::SlowLoad,
        place: (Operand, i32),
    },
    StoreSlow {
        at: DynamicLabel,
        back: DynamicLabel,
        offset: u16,
        /// The offset of the next instruction.
        next: i64,
        store: memory::SlowStore,
        place: (Operand, i32),
    },
    /// The TLB entry of the access before was not this one's: look the right one up.
    OtherEntry {
        at: DynamicLabel,
        hit: DynamicLabel,
        width: u8,
        tag: i8,
        slow: DynamicLabel,
    },
    DivZero {
        at: DynamicLabel,
        back: DynamicLabel,
        kind: integer::DivKind,
    },
    DivMinusOne {
        at: DynamicLabel,
        back: DynamicLabel,
        kind: integer::DivKind,
    },
}

/// One block being assembled.
pub(super) struct Emitter<'a> {
    ops: VecAssembler<X64Relocation>,
    stubs: &'a Stubs,
    keep: &'a mut dyn FnMut(&Insn) -> *const Insn,
    first_link: usize,
    links: Vec<LinkSite>,
    cold: Vec<Cold>,
    start: u16,
    offset: u16,
    /// The offset of what follows the instruction at `offset`.
    next: i64,
    head: DynamicLabel,
    /// FP registers known to hold a NaN-boxed single.
    boxed: u32,
    /// The base register off which the last access was, while rcx still has its TLB entry.
    entry_of: Option<Operand>,
}

/// Assemble `block` for address `address`. `first_link` is the number of its first link; `keep`
/// stores an instruction for as long as the code lives.
pub fn emit(
    block: &Block,
    address: usize,
    stubs: &Stubs,
    first_link: usize,
    keep: &mut dyn FnMut(&Insn) -> *const Insn,
) -> Result<Emitted, EmitError> {
    let mut ops = VecAssembler::new_with_capacity(address, 2048, 8, 0, 64, 8, 128);
    let head = ops.new_dynamic_label();
    let mut e = Emitter {
        ops,
        stubs,
        keep,
        first_link,
        links: Vec::new(),
        cold: Vec::new(),
        start: block.start,
        offset: block.start,
        next: block.end_of(block.start),
        head,
        boxed: 0,
        entry_of: None,
    };
    e.block(block);
    e.finish()
}

/// True when the code of `ir` leaves rcx alone (or, for loads and stores, with an entry).
fn keeps_entry(ir: &Ir) -> bool {
    match ir {
        Ir::Alu { op, b, .. } => match op {
            AluOp::Add | AluOp::Sub | AluOp::And | AluOp::Or | AluOp::Xor => true,
            AluOp::AddW | AluOp::SubW | AluOp::Slt | AluOp::Sltu => true,
            AluOp::Sll | AluOp::Srl | AluOp::Sra | AluOp::SllW | AluOp::SrlW | AluOp::SraW => {
                matches!(b, Operand::Imm(_))
            }
            _ => false,
        },
        Ir::Const { .. } | Ir::PageRel { .. } | Ir::Branch { .. } => true,
        Ir::Load { .. } | Ir::Store { .. } | Ir::FpLoad { .. } | Ir::FpStore { .. } => true,
        _ => false,
    }
}

/// True when `ir` moves a register by a little: what it points to is likely on the same page.
fn is_small_step(ir: &Ir) -> bool {
    matches!(
        ir,
        Ir::Alu { op: AluOp::Add, dst, a: Operand::Reg(a), b: Operand::Imm(-256..=256) } if dst == a
    )
}

impl Emitter<'_> {
    fn block(&mut self, block: &Block) {
        let here = Target::Page(block.start);
        let loops = block.steps.iter().any(|s| match s.ir {
            Ir::Branch { target, .. } | Ir::Jump { target } => target == here,
            _ => false,
        });
        let head = self.head;
        asm!(self ; =>head);
        if loops {
            let poll = self.ops.new_dynamic_label();
            self.poll(poll);
            self.cold.push(Cold::Poll { at: poll, offset: block.start });
        }
        for step in &block.steps {
            self.offset = step.offset;
            self.next = block.end_of(step.offset);
            if !keeps_entry(&step.ir) {
                self.entry_of = None;
            }
            self.ir(&step.ir);
            if let Some(dst) = step.ir.dst()
                && self.entry_of == Some(Operand::Reg(dst))
                && !is_small_step(&step.ir)
            {
                self.entry_of = None;
            }
        }
        let mut i = 0;
        while i < self.cold.len() {
            let cold =
                std::mem::replace(&mut self.cold[i], Cold::Poll { at: self.head, offset: 0 });
            self.cold_code(cold);
            i += 1;
        }
    }

    fn finish(self) -> Result<Emitted, EmitError> {
        let start = self.start;
        let code = self
            .ops
            .finalize()
            .map_err(|reason| EmitError { start, reason: reason.to_string() })?;
        Ok(Emitted { code, links: self.links })
    }

    fn ir(&mut self, ir: &Ir) {
        match *ir {
            Ir::Const { dst, value } => self.constant(dst, value),
            Ir::PageRel { dst, offset } => self.page_relative(dst, offset),
            Ir::Alu { op, dst, a, b } => self.alu(op, dst, a, b),
            Ir::Unary { op, dst, a } => self.unary(op, dst, a),
            Ir::Load { dst, base, offset, width, signed } => {
                self.load(dst, base, offset, width, signed);
            }
            Ir::Store { src, base, offset, width } => self.store(src, base, offset, width),
            Ir::Amo { op, dst, base, src, width, slow } => {
                self.amo(op, dst, base, src, width, &slow);
            }
            Ir::FpLoad { dst, base, offset, fmt } => self.fp_load(dst, base, offset, fmt),
            Ir::FpStore { src, base, offset, fmt } => self.fp_store(src, base, offset, fmt),
            Ir::FpGuard { write } => self.fp_guard(write),
            Ir::Fp { op, fmt, dst, a, b, c, slow } => self.fp(op, fmt, dst, [a, b, c], &slow),
            Ir::FpCompare { op, fmt, dst, a, b, slow } => {
                self.fp_compare(op, fmt, dst, a, b, &slow);
            }
            Ir::FpToInt { fmt, int, truncate, dst, a, slow } => {
                self.fp_to_int(fmt, int, truncate, dst, a, &slow);
            }
            Ir::IntToFp { fmt, int, dst, a } => self.int_to_fp(fmt, int, dst, a),
            Ir::FpToBits { fmt, dst, a } => self.fp_to_bits(fmt, dst, a),
            Ir::BitsToFp { fmt, dst, a } => self.bits_to_fp(fmt, dst, a),
            // As strong as mfence for ordinary memory, and faster.
            Ir::Fence => asm!(self ; lock or DWORD [rsp], 0),
            Ir::Csr { csr, dst, src, slow } => self.plain_csr(csr, dst, src, &slow),
            Ir::Sie { set, dst, slow } => self.sstatus_sie(set, dst, &slow),
            Ir::CboZero { base, slow } => self.cbo_zero(base, &slow),
            Ir::LoadReserved { dst, base, width, slow } => {
                self.load_reserved(dst, base, width, &slow);
            }
            Ir::StoreConditional { dst, base, src, width, slow } => {
                self.store_conditional(dst, base, src, width, &slow);
            }
            Ir::Interpret { insn } => self.interpret(&insn),
            Ir::InterpretAndLeave { insn } => self.interpret_and_leave(&insn),
            Ir::StepAndLeave => self.step_and_leave(),
            Ir::Branch { cond, a, b, target } => self.branch(cond, a, b, target),
            Ir::Jump { target } => self.jump(target),
            Ir::JumpReg { base, offset, link } => self.jump_register(base, offset, link),
        }
    }

    fn cold_code(&mut self, cold: Cold) {
        match cold {
            Cold::Link { at, link } => self.link_stub(at, link),
            Cold::PollAndJump { at, target, from } => {
                asm!(self ; =>at);
                self.offset = from;
                self.backward_jump(target);
            }
            Cold::Far { at, offset } => {
                asm!(self ; =>at);
                self.far_jump(offset);
            }
            Cold::Poll { at, offset } => self.leave_at(at, offset, self.stubs.leave_polled),
            Cold::FpOff { at, offset } => self.leave_at(at, offset, self.stubs.leave_to_step),
            Cold::Slow { at, back, offset, insn } => {
                asm!(self ; =>at);
                self.call_interpreter(offset, insn);
                asm!(self ; jmp =>back);
            }
            Cold::LoadSlow { at, back, offset, load, place } => {
                self.slow_load(at, back, offset, load, place);
            }
            Cold::StoreSlow { at, back, offset, next, store, place } => {
                self.slow_store(at, back, (offset, next), store, place);
            }
            Cold::OtherEntry { at, hit, width, tag, slow } => {
                asm!(self ; =>at);
                self.tlb_hit(width, tag, slow);
                asm!(self ; jmp =>hit);
            }
            Cold::DivZero { at, back, kind } => self.division_by_zero(at, back, kind),
            Cold::DivMinusOne { at, back, kind } => self.division_by_minus_one(at, back, kind),
        }
    }

    /// The host register of `dst`, or scratch to compute in.
    fn target_of(dst: u8) -> u8 {
        match allocate::int(dst) {
            Place::Host(h) => h,
            Place::Memory(_) => RAX,
        }
    }

    /// Move a computed value from scratch to where `dst` lives.
    fn write(&mut self, dst: u8, from: u8) {
        match allocate::int(dst) {
            Place::Host(h) if h == from => {}
            Place::Host(h) => asm!(self ; mov Rq(h), Rq(from)),
            Place::Memory(d) => asm_mr!(self, mov, d, Rq(from)),
        }
    }

    /// Load an operand into host register `to`.
    fn read(&mut self, to: u8, from: Operand) {
        match from {
            Operand::Imm(value) => self.load_constant(to, value),
            Operand::Reg(r) => match allocate::int(r) {
                Place::Host(h) if h == to => {}
                Place::Host(h) => asm!(self ; mov Rq(to), Rq(h)),
                Place::Memory(d) => asm_rm!(self, mov, d, Rq(to)),
            },
        }
    }

    /// A host register that holds the operand: its own, or `scratch` loaded with it.
    fn in_register(&mut self, operand: Operand, scratch: u8) -> u8 {
        if let Operand::Reg(r) = operand
            && let Place::Host(h) = allocate::int(r)
        {
            return h;
        }
        self.read(scratch, operand);
        scratch
    }

    fn load_constant(&mut self, to: u8, value: i64) {
        if value == 0 {
            asm!(self ; xor Rd(to), Rd(to));
        } else if let Ok(v) = u32::try_from(value) {
            asm!(self ; mov Rd(to), v as i32);
        } else if let Ok(v) = i32::try_from(value) {
            asm!(self ; mov Rq(to), DWORD v);
        } else {
            asm!(self ; mov Rq(to), QWORD value);
        }
    }

    fn constant(&mut self, dst: u8, value: i64) {
        match (allocate::int(dst), i32::try_from(value)) {
            (Place::Host(h), _) => self.load_constant(h, value),
            (Place::Memory(d), Ok(v)) => {
                if let Ok(b) = i8::try_from(d) {
                    asm!(self ; mov QWORD [BYTE rbp + b], v);
                } else {
                    asm!(self ; mov QWORD [DWORD rbp + d], v);
                }
            }
            (Place::Memory(d), Err(_)) => {
                self.load_constant(RAX, value);
                asm_mr!(self, mov, d, rax);
            }
        }
    }

    fn page_relative(&mut self, dst: u8, offset: i64) {
        let t = Self::target_of(dst);
        asm_rm!(self, mov, allocate::PAGE_VA, Rq(t));
        self.add_constant(t, offset);
        self.write(dst, t);
    }

    /// `t` += `value`; may use rdx.
    fn add_constant(&mut self, t: u8, value: i64) {
        if value == 0 {
        } else if let Ok(v) = i8::try_from(value) {
            asm!(self ; add Rq(t), BYTE v);
        } else if let Ok(v) = i32::try_from(value) {
            asm!(self ; add Rq(t), DWORD v);
        } else {
            self.load_constant(RDX, value);
            asm!(self ; add Rq(t), rdx);
        }
    }

    fn new_label(&mut self) -> DynamicLabel {
        self.ops.new_dynamic_label()
    }

    fn slow_path(&mut self, insn: &Insn) -> (DynamicLabel, DynamicLabel) {
        let (at, back) = (self.new_label(), self.new_label());
        let insn = (self.keep)(insn);
        self.cold.push(Cold::Slow { at, back, offset: self.offset, insn });
        (at, back)
    }
}
