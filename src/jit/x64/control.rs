//! Jumps, branches, polling and calls of the interpreter.

use dynasmrt::{DynamicLabel, DynasmApi, DynasmLabelApi};

use super::{Cold, Emitter, LinkSite, RAX, asm, asm_mr, asm_rm};
use crate::cpu::insn::Insn;
use crate::jit::allocate::{self, Place};
use crate::jit::ir::{Cond, Operand, Target};

impl Emitter<'_> {
    /// Go to `out` when the run loop wants this hart. Uses rcx.
    pub(super) fn poll(&mut self, out: DynamicLabel) {
        asm_rm!(self, mov, allocate::EXIT_FLAG, rcx);
        asm!(self ; cmp DWORD [rcx], 0 ; jne =>out);
    }

    /// rax = address of the running page + `offset`.
    fn pc_to_rax(&mut self, offset: i64) {
        asm_rm!(self, mov, allocate::PAGE_VA, rax);
        self.add_constant(RAX, offset);
    }

    /// Leave translated code through `stub` with the pc at `offset`.
    pub(super) fn leave_at(&mut self, at: DynamicLabel, offset: u16, stub: usize) {
        asm!(self ; =>at);
        self.pc_to_rax(i64::from(offset));
        asm!(self ; jmp extern stub);
    }

    /// Leave to the run loop with the pc at `offset`.
    pub(super) fn leave_polled_at(&mut self, offset: i64) {
        let stub = self.stubs.leave_polled;
        self.pc_to_rax(offset);
        asm!(self ; jmp extern stub);
    }

    fn new_link(&mut self, target: u16) -> (DynamicLabel, usize) {
        let at = self.new_label();
        let link = self.first_link + self.links.len();
        // The displacement is filled in by `record_link`, right after the jump is emitted.
        self.links.push(LinkSite { at: 0, target });
        self.cold.push(Cold::Link { at, link });
        (at, link)
    }

    fn record_link(&mut self, link: usize) {
        let at = self.ops.offset().0 - 4;
        self.links[link - self.first_link].at = at;
    }

    /// A jump that is patched to the translation of `target`.
    fn linked_jump(&mut self, target: u16) {
        let (stub, link) = self.new_link(target);
        asm!(self ; jmp =>stub);
        self.record_link(link);
    }

    pub(super) fn link_stub(&mut self, at: DynamicLabel, link: usize) {
        let stub = self.stubs.leave_to_link;
        asm!(self ; =>at ; mov eax, link as i32 ; jmp extern stub);
    }

    /// A backward jump inside the page polls, so that every loop does.
    pub(super) fn backward_jump(&mut self, target: u16) {
        let out = self.new_label();
        self.poll(out);
        self.cold.push(Cold::Poll { at: out, offset: target });
        self.linked_jump(target);
    }

    pub(super) fn jump(&mut self, target: Target) {
        match target {
            Target::Page(to) if to == self.start => {
                let head = self.head;
                asm!(self ; jmp =>head);
            }
            Target::Page(to) if to <= self.offset => self.backward_jump(to),
            Target::Page(to) => self.linked_jump(to),
            Target::Far(offset) => self.far_jump(offset),
        }
    }

    /// A jump to another page.
    pub(super) fn far_jump(&mut self, offset: i64) {
        self.pc_to_rax(offset);
        self.jump_to_rax();
    }

    /// Jump to the guest pc in rax through the jump cache (`jump_cache::jump_index`), polling.
    pub(super) fn jump_to_rax(&mut self) {
        let (polled, missed) = (self.stubs.leave_polled, self.stubs.leave_to_look_up);
        asm_rm!(self, mov, allocate::EXIT_FLAG, rcx);
        asm!(self
            ; cmp DWORD [rcx], 0
            ; jne extern polled
            ; mov rdx, rax
            ; lea rcx, [rax * 8]
            ; shr rdx, 8
            ; xor ecx, edx
            ; and ecx, 0xfff0
        );
        asm_rm!(self, add, allocate::JUMP_CACHE, rcx);
        asm!(self
            ; cmp [rcx], rax
            ; jne extern missed
            ; and rax, -4096
        );
        asm_mr!(self, mov, allocate::PAGE_VA, rax);
        asm!(self ; jmp QWORD [rcx + 8]);
    }

    pub(super) fn jump_register(&mut self, base: Operand, offset: i32, link: Option<(u8, i64)>) {
        self.read(RAX, base);
        self.add_constant(RAX, i64::from(offset));
        // Bit 0 of the target is cleared; the sum of an even register and offset has none.
        asm!(self ; and rax, -2);
        if let Some((dst, next)) = link {
            match allocate::int(dst) {
                Place::Host(h) => {
                    asm_rm!(self, mov, allocate::PAGE_VA, Rq(h));
                    self.add_constant(h, next);
                }
                Place::Memory(d) => {
                    asm_rm!(self, mov, allocate::PAGE_VA, rcx);
                    asm!(self ; add rcx, next as i32);
                    asm_mr!(self, mov, d, rcx);
                }
            }
        }
        self.jump_to_rax();
    }

    pub(super) fn branch(&mut self, cond: Cond, a: Operand, b: Operand, target: Target) {
        let cond = self.compare(cond, a, b);
        let (label, link) = match target {
            Target::Page(to) if to == self.start => (self.head, None),
            Target::Page(to) if to <= self.offset => {
                let at = self.new_label();
                self.cold.push(Cold::PollAndJump { at, target: to, from: self.offset });
                (at, None)
            }
            Target::Page(to) => {
                let (stub, link) = self.new_link(to);
                (stub, Some(link))
            }
            Target::Far(offset) => {
                let at = self.new_label();
                self.cold.push(Cold::Far { at, offset });
                (at, None)
            }
        };
        match cond {
            Cond::Eq => asm!(self ; je =>label),
            Cond::Ne => asm!(self ; jne =>label),
            Cond::Lt => asm!(self ; jl =>label),
            Cond::Ge => asm!(self ; jge =>label),
            Cond::Ltu => asm!(self ; jb =>label),
            Cond::Geu => asm!(self ; jae =>label),
        }
        if let Some(link) = link {
            self.record_link(link);
        }
    }

    /// Run one instruction by the interpreter; guest registers are current before and after.
    pub(super) fn call_interpreter(&mut self, offset: u16, insn: *const Insn) {
        let stub = self.stubs.interpret;
        asm_store_offset(self, offset);
        asm!(self ; mov rax, QWORD insn as i64 ; call extern stub);
    }

    pub(super) fn interpret(&mut self, insn: &Insn) {
        let kept = (self.keep)(insn);
        self.boxed &= !(1 << insn.rd);
        self.call_interpreter(self.offset, kept);
    }

    pub(super) fn interpret_and_leave(&mut self, insn: &Insn) {
        let kept = (self.keep)(insn);
        self.call_interpreter(self.offset, kept);
        asm_rm!(self, mov, allocate::PC, rax);
        self.jump_to_rax();
    }

    pub(super) fn step_and_leave(&mut self) {
        let stub = self.stubs.step;
        asm_store_offset(self, self.offset);
        asm!(self ; call extern stub);
        asm_rm!(self, mov, allocate::PC, rax);
        self.jump_to_rax();
    }
}

/// Tell helpers which instruction calls them.
pub(super) fn asm_store_offset(e: &mut Emitter<'_>, offset: u16) {
    let offset = i32::from(offset);
    let d = allocate::PC_OFFSET;
    if let Ok(b) = i8::try_from(d) {
        asm!(e ; mov QWORD [BYTE rbp + b], offset);
    } else {
        asm!(e ; mov QWORD [DWORD rbp + d], offset);
    }
}
