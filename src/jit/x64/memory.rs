//! Loads, stores and atomics: the inline TLB hit and the way to the slow path.

use dynasmrt::{DynamicLabel, DynasmApi, DynasmLabelApi};

use super::control::asm_store_offset;
use super::{Cold, Emitter, RAX, RCX, RDX, asm, asm_mr, asm_rm};
use crate::cpu::insn::Insn;
use crate::jit::allocate::{self, Place};
use crate::jit::ir::{AmoOp, Fmt, Operand};

/// Where a slow load's value goes.
#[derive(Debug, Clone, Copy)]
pub(super) enum SlowLoad {
    Int { dst: u8, width: u8, signed: bool },
    Fp { dst: u8, fmt: Fmt },
}

/// Where a slow store's value comes from.
#[derive(Debug, Clone, Copy)]
pub(super) enum SlowStore {
    Int { src: Operand, width: u8 },
    Fp { src: u8, fmt: Fmt },
}

impl Emitter<'_> {
    /// rax = guest virtual address.
    fn address(&mut self, base: Operand, offset: i32) {
        match base {
            Operand::Imm(value) => {
                self.load_constant(RAX, value.wrapping_add(i64::from(offset)));
            }
            Operand::Reg(r) => match allocate::int(r) {
                Place::Host(h) if offset == 0 => asm!(self ; mov rax, Rq(h)),
                Place::Host(h) => {
                    if let Ok(o) = i8::try_from(offset) {
                        asm!(self ; lea rax, [BYTE Rq(h) + o]);
                    } else {
                        asm!(self ; lea rax, [DWORD Rq(h) + offset]);
                    }
                }
                Place::Memory(d) => {
                    asm_rm!(self, mov, d, rax);
                    self.add_constant(RAX, i64::from(offset));
                }
            },
        }
    }

    /// rax: guest virtual → host address, or to `slow` with rax unchanged. `tag` is the offset in
    /// `TlbEntry` of the tag to compare: 0 for loads, 8 for stores. Uses rcx and rdx.
    pub(super) fn tlb_hit(&mut self, width: u8, tag: i8, slow: DynamicLabel) {
        self.entry_to_rcx();
        self.entry_hit(width, tag, slow);
    }

    /// rcx = the TLB entry that the address in rax maps to.
    fn entry_to_rcx(&mut self) {
        asm!(self ; mov rcx, rax ; shr rcx, 7);
        asm_rm!(self, and, allocate::TLB_MASK, rcx);
        asm_rm!(self, add, allocate::TLB, rcx);
    }

    /// `tlb_hit` for an access off `base`: when the access before it was off the same register,
    /// rcx still has the entry that this one most likely needs.
    fn tlb_hit_off(&mut self, base: Operand, width: u8, tag: i8, slow: DynamicLabel) {
        if self.entry_of == Some(base) && matches!(base, Operand::Reg(_)) {
            let (at, hit) = (self.new_label(), self.new_label());
            self.entry_hit(width, tag, at);
            asm!(self ; =>hit);
            self.cold.push(Cold::OtherEntry { at, hit, width, tag, slow });
        } else {
            self.tlb_hit(width, tag, slow);
        }
        self.entry_of = Some(base);
    }

    /// After a call of the slow path: rcx as the fast path leaves it, rax kept.
    fn restore_entry(&mut self, base: Operand, offset: i32) {
        asm!(self ; mov rdx, rax);
        self.address(base, offset);
        self.entry_to_rcx();
        asm!(self ; mov rax, rdx);
    }

    fn entry_hit(&mut self, width: u8, tag: i8, slow: DynamicLabel) {
        if width == 1 {
            asm!(self ; mov rdx, rax);
        } else {
            asm!(self ; lea rdx, [BYTE rax + width as i8 - 1]);
        }
        asm!(self
            ; and rdx, -4096
            ; cmp rdx, [BYTE rcx + tag]
            ; jne =>slow
            ; add rax, [rcx + 16]
        );
    }

    pub(super) fn load(&mut self, dst: u8, base: Operand, offset: i32, width: u8, signed: bool) {
        let (slow, back) = (self.new_label(), self.new_label());
        self.address(base, offset);
        self.tlb_hit_off(base, width, 0, slow);
        if dst != 0 {
            let t = Self::target_of(dst);
            match (width, signed) {
                (1, false) => asm!(self ; movzx Rd(t), BYTE [rax]),
                (1, true) => asm!(self ; movsx Rq(t), BYTE [rax]),
                (2, false) => asm!(self ; movzx Rd(t), WORD [rax]),
                (2, true) => asm!(self ; movsx Rq(t), WORD [rax]),
                (4, false) => asm!(self ; mov Rd(t), [rax]),
                (4, true) => asm!(self ; movsxd Rq(t), DWORD [rax]),
                _ => asm!(self ; mov Rq(t), [rax]),
            }
            self.write(dst, t);
        }
        asm!(self ; =>back);
        if Operand::of(dst) == base {
            self.entry_of = None;
        }
        let load = SlowLoad::Int { dst, width, signed };
        let place = (base, offset);
        self.cold.push(Cold::LoadSlow { at: slow, back, offset: self.offset, load, place });
    }

    pub(super) fn slow_load(
        &mut self,
        at: DynamicLabel,
        back: DynamicLabel,
        offset: u16,
        load: SlowLoad,
        (base, displacement): (Operand, i32),
    ) {
        let width = match load {
            SlowLoad::Int { width, .. } => width,
            SlowLoad::Fp { fmt: Fmt::S, .. } => 4,
            SlowLoad::Fp { fmt: Fmt::D, .. } => 8,
        };
        let stub = self.stubs.load(width);
        asm!(self ; =>at);
        asm_store_offset(self, offset);
        asm!(self ; call extern stub);
        if let SlowLoad::Int { .. } = load {
            // Before the value is written, which may be to the base register.
            self.restore_entry(base, displacement);
        }
        match load {
            SlowLoad::Int { dst: 0, .. } => {}
            SlowLoad::Int { dst, width, signed } => {
                match (width, signed) {
                    (1, true) => asm!(self ; movsx rax, al),
                    (2, true) => asm!(self ; movsx rax, ax),
                    (4, true) => asm!(self ; movsxd rax, eax),
                    _ => {}
                }
                self.write(dst, RAX);
            }
            SlowLoad::Fp { dst, fmt } => {
                self.fp_from_rax(dst, fmt);
                self.restore_entry(base, displacement);
            }
        }
        asm!(self ; jmp =>back);
    }

    pub(super) fn store(&mut self, src: Operand, base: Operand, offset: i32, width: u8) {
        let (slow, back) = (self.new_label(), self.new_label());
        self.address(base, offset);
        self.tlb_hit_off(base, width, 8, slow);
        match (src, width) {
            (Operand::Imm(v), 1) => asm!(self ; mov BYTE [rax], v as i8),
            (Operand::Imm(v), 2) => asm!(self ; mov WORD [rax], v as i16),
            (Operand::Imm(v), 4) => asm!(self ; mov DWORD [rax], v as i32),
            (Operand::Imm(v), 8) if i32::try_from(v).is_ok() => {
                asm!(self ; mov QWORD [rax], v as i32);
            }
            _ => {
                let s = self.in_register(src, RDX);
                match width {
                    1 => asm!(self ; mov [rax], Rb(s)),
                    2 => asm!(self ; mov [rax], Rw(s)),
                    4 => asm!(self ; mov [rax], Rd(s)),
                    _ => asm!(self ; mov [rax], Rq(s)),
                }
            }
        }
        asm!(self ; =>back);
        let store = SlowStore::Int { src, width };
        let place = (base, offset);
        let (offset, next) = (self.offset, self.next);
        self.cold.push(Cold::StoreSlow { at: slow, back, offset, next, store, place });
    }

    pub(super) fn slow_store(
        &mut self,
        at: DynamicLabel,
        back: DynamicLabel,
        (offset, next): (u16, i64),
        store: SlowStore,
        (base, displacement): (Operand, i32),
    ) {
        asm!(self ; =>at);
        let width = match store {
            SlowStore::Int { src, width } => {
                self.read(RDX, src);
                width
            }
            SlowStore::Fp { src, fmt } => {
                match allocate::fp(src) {
                    Place::Host(x) => asm!(self ; movq rdx, Rx(x)),
                    Place::Memory(d) => asm_rm!(self, mov, d, rdx),
                }
                if fmt == Fmt::S { 4 } else { 8 }
            }
        };
        let (stub, stay) = (self.stubs.store(width), self.new_label());
        asm_store_offset(self, offset);
        asm!(self ; call extern stub);
        // An interrupt that a store to a device raised is taken before the next instruction.
        asm_rm!(self, mov, allocate::EXIT_FLAG, rcx);
        asm!(self ; cmp DWORD [rcx], 0 ; je =>stay);
        self.leave_polled_at(next);
        asm!(self ; =>stay);
        self.restore_entry(base, displacement);
        asm!(self ; jmp =>back);
    }

    pub(super) fn amo(
        &mut self,
        op: AmoOp,
        dst: u8,
        base: Operand,
        src: Operand,
        width: u8,
        slow: &Insn,
    ) {
        let (at, back) = self.slow_path(slow);
        self.address(base, 0);
        asm!(self ; test al, width as i8 - 1 ; jne =>at);
        self.tlb_hit(width, 8, at);
        let wide = width == 8;
        match op {
            AmoOp::Swap | AmoOp::Add => {
                self.read(RCX, src);
                match (op, wide) {
                    (AmoOp::Swap, true) => asm!(self ; xchg [rax], rcx),
                    (AmoOp::Swap, false) => asm!(self ; xchg [rax], ecx),
                    (_, true) => asm!(self ; lock xadd [rax], rcx),
                    (_, false) => asm!(self ; lock xadd [rax], ecx),
                }
            }
            AmoOp::And | AmoOp::Or | AmoOp::Xor if dst == 0 => {
                let s = self.in_register(src, RCX);
                match (op, wide) {
                    (AmoOp::And, true) => asm!(self ; lock and [rax], Rq(s)),
                    (AmoOp::And, false) => asm!(self ; lock and [rax], Rd(s)),
                    (AmoOp::Or, true) => asm!(self ; lock or [rax], Rq(s)),
                    (AmoOp::Or, false) => asm!(self ; lock or [rax], Rd(s)),
                    (_, true) => asm!(self ; lock xor [rax], Rq(s)),
                    (_, false) => asm!(self ; lock xor [rax], Rd(s)),
                }
            }
            AmoOp::And | AmoOp::Or | AmoOp::Xor => {
                let retry = self.new_label();
                asm!(self ; mov rdx, rax);
                if wide {
                    asm!(self ; mov rax, [rdx]);
                } else {
                    asm!(self ; mov eax, [rdx]);
                }
                asm!(self ; =>retry);
                self.read(RCX, src);
                match op {
                    AmoOp::And => asm!(self ; and rcx, rax),
                    AmoOp::Or => asm!(self ; or rcx, rax),
                    _ => asm!(self ; xor rcx, rax),
                }
                if wide {
                    asm!(self ; lock cmpxchg [rdx], rcx);
                } else {
                    asm!(self ; lock cmpxchg [rdx], ecx);
                }
                asm!(self ; jne =>retry ; mov rcx, rax);
            }
        }
        if dst != 0 {
            if !wide {
                asm!(self ; movsxd rcx, ecx);
            }
            self.write(dst, RCX);
        }
        asm!(self ; =>back);
    }

    /// `cbo.zero` of a block of 64 bytes.
    pub(super) fn cbo_zero(&mut self, base: Operand, slow: &Insn) {
        let (at, back) = self.slow_path(slow);
        let d = allocate::CBO_ZERO;
        asm!(self ; cmp DWORD [DWORD rbp + d], 0 ; je =>at);
        self.address(base, 0);
        asm!(self ; and rax, -64);
        self.tlb_hit(1, 8, at);
        asm!(self
            ; xorps xmm0, xmm0
            ; movups [rax], xmm0
            ; movups [rax + 16], xmm0
            ; movups [rax + 32], xmm0
            ; movups [rax + 48], xmm0
            ; =>back
        );
    }

    /// After `tlb_hit`: rdx = guest-physical address of the access.
    fn physical_to_rdx(&mut self) {
        asm!(self ; mov edx, eax ; and edx, 0xfff ; or rdx, [rcx + 24]);
    }

    pub(super) fn load_reserved(&mut self, dst: u8, base: Operand, width: u8, slow: &Insn) {
        let (at, back) = self.slow_path(slow);
        self.address(base, 0);
        asm!(self ; test al, width as i8 - 1 ; jne =>at);
        self.tlb_hit(width, 0, at);
        self.physical_to_rdx();
        asm_mr!(self, mov, allocate::RESERVATION, rdx);
        if width == 8 {
            asm!(self ; mov rax, [rax]);
        } else {
            asm!(self ; mov eax, [rax]);
        }
        asm_mr!(self, mov, allocate::RESERVATION_VALUE, rax);
        if dst != 0 {
            if width == 4 {
                asm!(self ; movsxd rax, eax);
            }
            self.write(dst, RAX);
        }
        asm!(self ; =>back);
    }

    /// The interpreter says what becomes of one without its reservation.
    pub(super) fn store_conditional(
        &mut self,
        dst: u8,
        base: Operand,
        src: Operand,
        width: u8,
        slow: &Insn,
    ) {
        let (at, back) = self.slow_path(slow);
        self.address(base, 0);
        asm!(self ; test al, width as i8 - 1 ; jne =>at);
        self.tlb_hit(width, 8, at);
        self.physical_to_rdx();
        asm_rm!(self, cmp, allocate::RESERVATION, rdx);
        asm!(self ; jne =>at ; mov rdx, rax);
        asm_rm!(self, mov, allocate::RESERVATION_VALUE, rax);
        let value = self.in_register(src, RCX);
        if width == 8 {
            asm!(self ; lock cmpxchg [rdx], Rq(value));
        } else {
            asm!(self ; lock cmpxchg [rdx], Rd(value));
        }
        asm!(self
            ; setne al
            ; movzx eax, al
            ; mov QWORD [DWORD rbp + allocate::RESERVATION], -1
        );
        if dst != 0 {
            self.write(dst, RAX);
        }
        asm!(self ; =>back);
    }

    /// FP register `dst` = the value in rax, boxed if single.
    fn fp_from_rax(&mut self, dst: u8, fmt: Fmt) {
        match (allocate::fp(dst), fmt) {
            (Place::Host(x), Fmt::D) => asm!(self ; movq Rx(x), rax),
            (Place::Memory(d), Fmt::D) => asm_mr!(self, mov, d, rax),
            (place, Fmt::S) => {
                asm!(self ; mov eax, eax ; mov rcx, QWORD -0x1_0000_0000 ; or rax, rcx);
                match place {
                    Place::Host(x) => asm!(self ; movq Rx(x), rax),
                    Place::Memory(d) => asm_mr!(self, mov, d, rax),
                }
            }
        }
    }

    pub(super) fn fp_load(&mut self, dst: u8, base: Operand, offset: i32, fmt: Fmt) {
        let (slow, back) = (self.new_label(), self.new_label());
        self.address(base, offset);
        self.tlb_hit_off(base, if fmt == Fmt::S { 4 } else { 8 }, 0, slow);
        match (allocate::fp(dst), fmt) {
            (Place::Host(x), Fmt::D) => asm!(self ; movsd Rx(x), [rax]),
            (Place::Host(x), Fmt::S) => asm!(self
                ; pcmpeqd xmm0, xmm0
                ; psllq xmm0, 32
                ; movss Rx(x), [rax]
                ; por Rx(x), xmm0
            ),
            (Place::Memory(d), Fmt::D) => {
                asm!(self ; mov rax, [rax]);
                asm_mr!(self, mov, d, rax);
            }
            (Place::Memory(_), Fmt::S) => {
                asm!(self ; mov eax, [rax]);
                self.fp_from_rax(dst, fmt);
            }
        }
        asm!(self ; =>back);
        self.set_boxed(dst, fmt);
        if fmt == Fmt::S && matches!(allocate::fp(dst), Place::Memory(_)) {
            self.entry_of = None;
        }
        let load = SlowLoad::Fp { dst, fmt };
        let place = (base, offset);
        self.cold.push(Cold::LoadSlow { at: slow, back, offset: self.offset, load, place });
    }

    pub(super) fn fp_store(&mut self, src: u8, base: Operand, offset: i32, fmt: Fmt) {
        let (slow, back) = (self.new_label(), self.new_label());
        self.address(base, offset);
        self.tlb_hit_off(base, if fmt == Fmt::S { 4 } else { 8 }, 8, slow);
        match (allocate::fp(src), fmt) {
            (Place::Host(x), Fmt::D) => asm!(self ; movsd [rax], Rx(x)),
            (Place::Host(x), Fmt::S) => asm!(self ; movss [rax], Rx(x)),
            (Place::Memory(d), _) => {
                asm_rm!(self, mov, d, rdx);
                match fmt {
                    Fmt::D => asm!(self ; mov [rax], rdx),
                    Fmt::S => asm!(self ; mov [rax], edx),
                }
            }
        }
        asm!(self ; =>back);
        let store = SlowStore::Fp { src, fmt };
        let place = (base, offset);
        let (offset, next) = (self.offset, self.next);
        self.cold.push(Cold::StoreSlow { at: slow, back, offset, next, store, place });
    }
}
