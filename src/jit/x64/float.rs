//! FP on SSE. The guest's rounding mode and sticky flags are in MXCSR, so an operation is the
//! host's own; a NaN result, an operand that is not NaN-boxed or an integer overflow goes to the
//! interpreter, which raises the same flags again.

use dynasmrt::{DynamicLabel, DynasmApi, DynasmLabelApi};

use super::{Cold, Emitter, RCX, RDX, asm, asm_mr, asm_rm};
use crate::cpu::insn::Insn;
use crate::jit::allocate::{self, Place};
use crate::jit::ir::{Fmt, FpCmp, FpOp, IntFmt, Operand};

impl Emitter<'_> {
    /// Leave unless FP runs inline; `write` marks FP state dirty (FS = 3).
    pub(super) fn fp_guard(&mut self, write: bool) {
        let off = self.new_label();
        let d = allocate::FP_INLINE;
        if let Ok(b) = i8::try_from(d) {
            asm!(self ; cmp DWORD [BYTE rbp + b], BYTE 0);
        } else {
            asm!(self ; cmp DWORD [DWORD rbp + d], BYTE 0);
        }
        asm!(self ; je =>off);
        if write {
            asm!(self ; or DWORD [DWORD rbp + allocate::MSTATUS], 0x6000);
        }
        self.cold.push(Cold::FpOff { at: off, offset: self.offset });
    }

    pub(super) fn set_boxed(&mut self, dst: u8, fmt: Fmt) {
        match fmt {
            Fmt::S => self.boxed |= 1 << dst,
            Fmt::D => self.boxed &= !(1 << dst),
        }
    }

    /// Go to `slow` unless FP register `r` holds a NaN-boxed single. Uses rax.
    fn check_boxed(&mut self, r: u8, slow: DynamicLabel) {
        if self.boxed & (1 << r) != 0 {
            return;
        }
        match allocate::fp(r) {
            Place::Host(x) => asm!(self
                ; movq rax, Rx(x)
                ; shr rax, 32
                ; cmp eax, BYTE -1
                ; jne =>slow
            ),
            Place::Memory(d) => asm!(self
                ; cmp DWORD [DWORD rbp + d + 4], BYTE -1
                ; jne =>slow
            ),
        }
    }

    fn check_operands(&mut self, fmt: Fmt, operands: &[u8], slow: DynamicLabel) {
        if fmt == Fmt::S {
            for &r in operands {
                self.check_boxed(r, slow);
            }
        }
    }

    /// Scratch xmm `to` = FP register `r`, all 64 bits.
    fn fp_read(&mut self, to: u8, r: u8) {
        match allocate::fp(r) {
            Place::Host(x) => asm!(self ; movaps Rx(to), Rx(x)),
            Place::Memory(d) => asm_rm!(self, movsd, d, Rx(to)),
        }
    }

    /// An xmm register that holds FP register `r`.
    fn fp_in_register(&mut self, r: u8, scratch: u8) -> u8 {
        match allocate::fp(r) {
            Place::Host(x) => x,
            Place::Memory(_) => {
                self.fp_read(scratch, r);
                scratch
            }
        }
    }

    fn fp_write(&mut self, dst: u8, from: u8) {
        match allocate::fp(dst) {
            Place::Host(x) => asm!(self ; movaps Rx(x), Rx(from)),
            Place::Memory(d) => asm_mr!(self, movsd, d, Rx(from)),
        }
    }

    pub(super) fn fp(&mut self, op: FpOp, fmt: Fmt, dst: u8, src: [u8; 3], slow: &Insn) {
        let [a, b, c] = src;
        let (at, back) = self.slow_path(slow);
        match op {
            FpOp::Sgnj | FpOp::Sgnjn | FpOp::Sgnjx => {
                self.check_operands(fmt, &[a, b], at);
                self.sign_inject(op, fmt, dst, a, b);
                asm!(self ; =>back);
                self.set_boxed(dst, fmt);
                return;
            }
            FpOp::Convert => {
                self.check_operands(fmt, &[a], at);
                let x = self.fp_in_register(a, 1);
                match fmt {
                    Fmt::S => asm!(self ; xorps xmm0, xmm0 ; cvtss2sd xmm0, Rx(x)),
                    Fmt::D => asm!(self ; pcmpeqd xmm0, xmm0 ; cvtsd2ss xmm0, Rx(x)),
                }
                let result = if fmt == Fmt::S { Fmt::D } else { Fmt::S };
                self.finish_fp(result, dst, at, back);
                return;
            }
            FpOp::Sqrt => {
                self.check_operands(fmt, &[a], at);
                self.fp_read(0, a);
                match fmt {
                    Fmt::S => asm!(self ; sqrtss xmm0, xmm0),
                    Fmt::D => asm!(self ; sqrtsd xmm0, xmm0),
                }
            }
            FpOp::Add | FpOp::Sub | FpOp::Mul | FpOp::Div => {
                self.check_operands(fmt, &[a, b], at);
                self.fp_read(0, a);
                let y = self.fp_in_register(b, 1);
                match (op, fmt) {
                    (FpOp::Add, Fmt::S) => asm!(self ; addss xmm0, Rx(y)),
                    (FpOp::Add, Fmt::D) => asm!(self ; addsd xmm0, Rx(y)),
                    (FpOp::Sub, Fmt::S) => asm!(self ; subss xmm0, Rx(y)),
                    (FpOp::Sub, Fmt::D) => asm!(self ; subsd xmm0, Rx(y)),
                    (FpOp::Mul, Fmt::S) => asm!(self ; mulss xmm0, Rx(y)),
                    (FpOp::Mul, Fmt::D) => asm!(self ; mulsd xmm0, Rx(y)),
                    (_, Fmt::S) => asm!(self ; divss xmm0, Rx(y)),
                    (_, Fmt::D) => asm!(self ; divsd xmm0, Rx(y)),
                }
            }
            FpOp::Madd | FpOp::Msub | FpOp::Nmsub | FpOp::Nmadd => {
                self.check_operands(fmt, &[a, b, c], at);
                self.fp_read(0, a);
                let y = self.fp_in_register(b, 1);
                let z = self.fp_in_register(c, 2);
                match (op, fmt) {
                    (FpOp::Madd, Fmt::S) => asm!(self ; vfmadd213ss xmm0, Rx(y), Rx(z)),
                    (FpOp::Madd, Fmt::D) => asm!(self ; vfmadd213sd xmm0, Rx(y), Rx(z)),
                    (FpOp::Msub, Fmt::S) => asm!(self ; vfmsub213ss xmm0, Rx(y), Rx(z)),
                    (FpOp::Msub, Fmt::D) => asm!(self ; vfmsub213sd xmm0, Rx(y), Rx(z)),
                    (FpOp::Nmsub, Fmt::S) => asm!(self ; vfnmadd213ss xmm0, Rx(y), Rx(z)),
                    (FpOp::Nmsub, Fmt::D) => asm!(self ; vfnmadd213sd xmm0, Rx(y), Rx(z)),
                    (_, Fmt::S) => asm!(self ; vfnmsub213ss xmm0, Rx(y), Rx(z)),
                    (_, Fmt::D) => asm!(self ; vfnmsub213sd xmm0, Rx(y), Rx(z)),
                }
            }
        }
        self.finish_fp(fmt, dst, at, back);
    }

    /// The result in xmm0 goes to `dst`, or to `slow` when it is a NaN (RISC-V wants the
    /// canonical one, and NV in a case of FMA that the host does not flag).
    fn finish_fp(&mut self, fmt: Fmt, dst: u8, slow: DynamicLabel, back: DynamicLabel) {
        match fmt {
            Fmt::S => asm!(self ; ucomiss xmm0, xmm0 ; jp =>slow),
            Fmt::D => asm!(self ; ucomisd xmm0, xmm0 ; jp =>slow),
        }
        self.fp_write(dst, 0);
        asm!(self ; =>back);
        self.set_boxed(dst, fmt);
    }

    fn fp_bits_to(&mut self, to: u8, r: u8) {
        match allocate::fp(r) {
            Place::Host(x) => asm!(self ; movq Rq(to), Rx(x)),
            Place::Memory(d) => asm_rm!(self, mov, d, Rq(to)),
        }
    }

    fn fp_bits_from_rax(&mut self, dst: u8) {
        match allocate::fp(dst) {
            Place::Host(x) => asm!(self ; movq Rx(x), rax),
            Place::Memory(d) => asm_mr!(self, mov, d, rax),
        }
    }

    fn sign_inject(&mut self, op: FpOp, fmt: Fmt, dst: u8, a: u8, b: u8) {
        if a == b && op == FpOp::Sgnj {
            self.fp_read(0, a);
            self.fp_write(dst, 0);
            return;
        }
        let bit: i8 = if fmt == Fmt::S { 31 } else { 63 };
        self.fp_bits_to(super::RAX, a);
        match (op, a == b) {
            (FpOp::Sgnjn, true) => asm!(self ; btc rax, BYTE bit),
            (FpOp::Sgnjx, true) => asm!(self ; btr rax, BYTE bit),
            _ => {
                self.fp_bits_to(RCX, b);
                if op == FpOp::Sgnjn {
                    asm!(self ; not rcx);
                }
                // rcx = the sign of b alone.
                self.load_constant(RDX, 1 << bit);
                asm!(self ; and rcx, rdx);
                if op != FpOp::Sgnjx {
                    asm!(self ; btr rax, BYTE bit);
                }
                asm!(self ; xor rax, rcx);
            }
        }
        self.fp_bits_from_rax(dst);
    }

    pub(super) fn fp_compare(&mut self, op: FpCmp, fmt: Fmt, dst: u8, a: u8, b: u8, slow: &Insn) {
        let (at, back) = self.slow_path(slow);
        self.check_operands(fmt, &[a, b], at);
        // b > a and b >= a are false when unordered, in terms of CF and ZF.
        let (first, second) = if op == FpCmp::Eq { (a, b) } else { (b, a) };
        let x = self.fp_in_register(first, 0);
        let y = self.fp_in_register(second, 1);
        match (op, fmt) {
            (FpCmp::Eq, Fmt::S) => asm!(self ; ucomiss Rx(x), Rx(y)),
            (FpCmp::Eq, Fmt::D) => asm!(self ; ucomisd Rx(x), Rx(y)),
            (_, Fmt::S) => asm!(self ; comiss Rx(x), Rx(y)),
            (_, Fmt::D) => asm!(self ; comisd Rx(x), Rx(y)),
        }
        match op {
            FpCmp::Eq => asm!(self ; setnp al ; sete cl ; and al, cl),
            FpCmp::Lt => asm!(self ; seta al),
            FpCmp::Le => asm!(self ; setae al),
        }
        if dst != 0 {
            let t = Self::target_of(dst);
            asm!(self ; movzx Rd(t), al);
            self.write(dst, t);
        }
        asm!(self ; =>back);
    }

    pub(super) fn fp_to_int(
        &mut self,
        fmt: Fmt,
        int: IntFmt,
        truncate: bool,
        dst: u8,
        a: u8,
        slow: &Insn,
    ) {
        let (at, back) = self.slow_path(slow);
        self.check_operands(fmt, &[a], at);
        let x = self.fp_in_register(a, 0);
        let long = int == IntFmt::L;
        match (fmt, truncate, long) {
            (Fmt::S, false, false) => asm!(self ; cvtss2si eax, Rx(x)),
            (Fmt::S, true, false) => asm!(self ; cvttss2si eax, Rx(x)),
            (Fmt::S, false, true) => asm!(self ; cvtss2si rax, Rx(x)),
            (Fmt::S, true, true) => asm!(self ; cvttss2si rax, Rx(x)),
            (Fmt::D, false, false) => asm!(self ; cvtsd2si eax, Rx(x)),
            (Fmt::D, true, false) => asm!(self ; cvttsd2si eax, Rx(x)),
            (Fmt::D, false, true) => asm!(self ; cvtsd2si rax, Rx(x)),
            (Fmt::D, true, true) => asm!(self ; cvttsd2si rax, Rx(x)),
        }
        // The host's answer to overflow is also the least integer; the interpreter tells them
        // apart.
        if long {
            self.load_constant(RCX, i64::MIN);
            asm!(self ; cmp rax, rcx ; je =>at);
        } else {
            asm!(self ; cmp eax, DWORD i32::MIN ; je =>at ; movsxd rax, eax);
        }
        if dst != 0 {
            self.write(dst, super::RAX);
        }
        asm!(self ; =>back);
    }

    pub(super) fn int_to_fp(&mut self, fmt: Fmt, int: IntFmt, dst: u8, a: Operand) {
        let x = self.in_register(a, RCX);
        match fmt {
            // All ones above the single are its box.
            Fmt::S => asm!(self ; pcmpeqd xmm0, xmm0),
            Fmt::D => asm!(self ; xorps xmm0, xmm0),
        }
        match (fmt, int) {
            (Fmt::S, IntFmt::W) => asm!(self ; cvtsi2ss xmm0, Rd(x)),
            (Fmt::S, IntFmt::L) => asm!(self ; cvtsi2ss xmm0, Rq(x)),
            (Fmt::S, IntFmt::Wu) => asm!(self ; mov eax, Rd(x) ; cvtsi2ss xmm0, rax),
            (Fmt::D, IntFmt::W) => asm!(self ; cvtsi2sd xmm0, Rd(x)),
            (Fmt::D, IntFmt::L) => asm!(self ; cvtsi2sd xmm0, Rq(x)),
            (Fmt::D, IntFmt::Wu) => asm!(self ; mov eax, Rd(x) ; cvtsi2sd xmm0, rax),
        }
        self.fp_write(dst, 0);
        self.set_boxed(dst, fmt);
    }

    pub(super) fn fp_to_bits(&mut self, fmt: Fmt, dst: u8, a: u8) {
        if dst == 0 {
            return;
        }
        let t = Self::target_of(dst);
        match (allocate::fp(a), fmt) {
            (Place::Host(x), Fmt::D) => asm!(self ; movq Rq(t), Rx(x)),
            (Place::Host(x), Fmt::S) => asm!(self ; movd Rd(t), Rx(x) ; movsxd Rq(t), Rd(t)),
            (Place::Memory(d), Fmt::D) => asm_rm!(self, mov, d, Rq(t)),
            (Place::Memory(d), Fmt::S) => asm!(self ; movsxd Rq(t), DWORD [DWORD rbp + d]),
        }
        self.write(dst, t);
    }

    pub(super) fn bits_to_fp(&mut self, fmt: Fmt, dst: u8, a: Operand) {
        self.read(super::RAX, a);
        if fmt == Fmt::S {
            self.load_constant(RCX, -0x1_0000_0000);
            asm!(self ; mov eax, eax ; or rax, rcx);
        }
        self.fp_bits_from_rax(dst);
        self.set_boxed(dst, fmt);
    }
}
