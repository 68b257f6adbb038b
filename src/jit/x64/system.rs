//! The CSR accesses that trap handlers and locks are made of. Blocks do not know the privilege
//! that runs them, so it is checked where an access needs one.

use dynasmrt::{DynasmApi, DynasmLabelApi};

use super::{Emitter, RAX, RCX, asm, asm_mr, asm_rm};
use crate::cpu::csr::SSTATUS_READABLE;
use crate::cpu::insn::Insn;
use crate::cpu::irq::HartIrq;
use crate::jit::allocate::{self, PlainCsr};
use crate::jit::ir::Operand;

impl Emitter<'_> {
    pub(super) fn plain_csr(&mut self, csr: PlainCsr, dst: u8, src: Option<Operand>, slow: &Insn) {
        let (at, back) = self.slow_path(slow);
        asm!(self ; cmp BYTE [DWORD rbp + allocate::PRIVILEGE], csr.mode ; jb =>at);
        if let Some(src) = src {
            self.read(RCX, src);
            if csr.mask != -1 {
                asm!(self ; and rcx, csr.mask as i32);
            }
        }
        if dst != 0 {
            asm_rm!(self, mov, csr.home, rax);
        }
        if src.is_some() {
            asm_mr!(self, mov, csr.home, rcx);
        }
        if dst != 0 {
            self.write(dst, RAX);
        }
        asm!(self ; =>back);
    }

    pub(super) fn sstatus_sie(&mut self, set: bool, dst: u8, slow: &Insn) {
        const SUPERVISOR: i8 = 1;
        const SIE: i8 = 1 << 1;
        const FS: i32 = 3 << 13;
        let (at, back) = self.slow_path(slow);
        asm!(self ; cmp BYTE [DWORD rbp + allocate::PRIVILEGE], SUPERVISOR ; jb =>at);
        if set {
            // With an interrupt pending, the interpreter decides whether it is taken now.
            asm_rm!(self, mov, allocate::EXIT_FLAG, rcx);
            asm!(self
                ; mov rax, [rcx + HartIrq::LINES_OFFSET as i32]
                ; or rax, [rcx + HartIrq::SOFT_OFFSET as i32]
            );
            asm_rm!(self, test, allocate::MIE, rax);
            asm!(self ; jne =>at);
        }
        if dst != 0 {
            let clean = self.new_label();
            asm_rm!(self, mov, allocate::MSTATUS, rax);
            self.load_constant(RCX, SSTATUS_READABLE as i64);
            asm!(self
                ; and rcx, rax
                ; btr rcx, BYTE 63
                ; and eax, FS
                ; cmp eax, FS
                ; jne =>clean
                ; bts rcx, BYTE 63
                ; =>clean
            );
        }
        if set {
            asm!(self ; or BYTE [DWORD rbp + allocate::MSTATUS], SIE);
        } else {
            asm!(self ; and BYTE [DWORD rbp + allocate::MSTATUS], !SIE);
        }
        if dst != 0 {
            self.write(dst, RCX);
        }
        asm!(self ; =>back);
    }
}
