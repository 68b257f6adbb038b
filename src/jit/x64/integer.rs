//! Integer arithmetic.

use dynasmrt::{DynamicLabel, DynasmApi, DynasmLabelApi};

use super::{Cold, Emitter, RAX, RCX, RDX, asm, asm_mr, asm_rm};
use crate::jit::allocate::{self, Place};
use crate::jit::ir::{AluOp, Cond, Operand, UnaryOp};

/// Which division, for its special cases.
#[derive(Debug, Clone, Copy)]
pub(super) struct DivKind {
    remainder: bool,
    word: bool,
}

/// An operand as an x86 source.
#[derive(Clone, Copy)]
enum Source {
    Reg(u8),
    Home(i32),
    Imm(i32),
}

/// The two-operand instructions that share x86's group-1 forms.
#[derive(Clone, Copy, PartialEq)]
enum Group1 {
    Add,
    Sub,
    And,
    Or,
    Xor,
}

macro_rules! group1 {
    ($e:ident, $op:expr, $t:expr, $src:expr, $wide:expr; $($variant:ident $mnemonic:ident),*) => {
        match $op {
            $(Group1::$variant => match ($src, $wide) {
                (Source::Reg(r), true) => asm!($e ; $mnemonic Rq($t), Rq(r)),
                (Source::Reg(r), false) => asm!($e ; $mnemonic Rd($t), Rd(r)),
                (Source::Home(d), true) => asm_rm!($e, $mnemonic, d, Rq($t)),
                (Source::Home(d), false) => asm_rm!($e, $mnemonic, d, Rd($t)),
                (Source::Imm(v), true) => match i8::try_from(v) {
                    Ok(b) => asm!($e ; $mnemonic Rq($t), BYTE b),
                    Err(_) => asm!($e ; $mnemonic Rq($t), DWORD v),
                },
                (Source::Imm(v), false) => match i8::try_from(v) {
                    Ok(b) => asm!($e ; $mnemonic Rd($t), BYTE b),
                    Err(_) => asm!($e ; $mnemonic Rd($t), DWORD v),
                },
            },)*
        }
    };
}

impl Emitter<'_> {
    /// An operand as an x86 source; a constant beyond 32 bits goes through rdx.
    fn source(&mut self, operand: Operand) -> Source {
        match operand {
            Operand::Imm(value) => match i32::try_from(value) {
                Ok(v) => Source::Imm(v),
                Err(_) => {
                    self.load_constant(RDX, value);
                    Source::Reg(RDX)
                }
            },
            Operand::Reg(r) => match allocate::int(r) {
                Place::Host(h) => Source::Reg(h),
                Place::Memory(d) => Source::Home(d),
            },
        }
    }

    fn group1(&mut self, op: Group1, t: u8, src: Source, wide: bool) {
        group1!(self, op, t, src, wide; Add add, Sub sub, And and, Or or, Xor xor);
    }

    fn cmp(&mut self, t: u8, src: Source) {
        match src {
            Source::Reg(r) => asm!(self ; cmp Rq(t), Rq(r)),
            Source::Home(d) => asm_rm!(self, cmp, d, Rq(t)),
            Source::Imm(v) => asm!(self ; cmp Rq(t), v),
        }
    }

    fn is_in(operand: Operand, host: u8) -> bool {
        matches!(operand, Operand::Reg(r) if allocate::int(r) == Place::Host(host))
    }

    fn simple(&mut self, op: Group1, dst: u8, a: Operand, b: Operand, wide: bool) {
        let (mut a, mut b) = (a, b);
        let commutes = op != Group1::Sub;
        if commutes && matches!(a, Operand::Imm(_)) {
            std::mem::swap(&mut a, &mut b);
        }
        let mut t = Self::target_of(dst);
        if Self::is_in(b, t) && a != b {
            if commutes {
                std::mem::swap(&mut a, &mut b);
            } else {
                t = RAX;
            }
        }
        if op == Group1::Add && !Self::is_in(a, t) && self.add_by_lea(t, a, b, wide) {
        } else {
            self.read(t, a);
            let src = self.source(b);
            let redundant = matches!(
                (op, src),
                (Group1::Add | Group1::Sub | Group1::Or | Group1::Xor, Source::Imm(0))
                    | (Group1::And, Source::Imm(-1))
            );
            if !redundant || !wide {
                self.group1(op, t, src, wide);
            }
        }
        if !wide {
            asm!(self ; movsxd Rq(t), Rd(t));
        }
        self.write(dst, t);
    }

    /// `t` = a + b by `lea`, where both are in host registers or b is a constant.
    fn add_by_lea(&mut self, t: u8, a: Operand, b: Operand, wide: bool) -> bool {
        let Operand::Reg(r) = a else { return false };
        let Place::Host(x) = allocate::int(r) else { return false };
        match b {
            Operand::Imm(0) if wide => asm!(self ; mov Rq(t), Rq(x)),
            Operand::Imm(v) => match (i8::try_from(v), i32::try_from(v), wide) {
                (Ok(d), _, true) => asm!(self ; lea Rq(t), [BYTE Rq(x) + d]),
                (Ok(d), _, false) => asm!(self ; lea Rd(t), [BYTE Rq(x) + d]),
                (_, Ok(d), true) => asm!(self ; lea Rq(t), [DWORD Rq(x) + d]),
                (_, Ok(d), false) => asm!(self ; lea Rd(t), [DWORD Rq(x) + d]),
                _ => return false,
            },
            Operand::Reg(s) => {
                let Place::Host(y) = allocate::int(s) else { return false };
                if wide {
                    asm!(self ; lea Rq(t), [Rq(x) + Rq(y)]);
                } else {
                    asm!(self ; lea Rd(t), [Rq(x) + Rq(y)]);
                }
            }
        }
        true
    }

    fn shift(&mut self, op: AluOp, dst: u8, a: Operand, b: Operand) {
        use AluOp as A;
        let t = Self::target_of(dst);
        let word = matches!(op, A::SllW | A::SrlW | A::SraW | A::RolW | A::RorW);
        if let Operand::Imm(count) = b {
            let count = (count & if word { 31 } else { 63 }) as i8;
            self.read(t, a);
            match op {
                A::Sll => asm!(self ; shl Rq(t), count),
                A::Srl => asm!(self ; shr Rq(t), count),
                A::Sra => asm!(self ; sar Rq(t), count),
                A::Rol => asm!(self ; rol Rq(t), count),
                A::Ror => asm!(self ; ror Rq(t), count),
                A::SllW => asm!(self ; shl Rd(t), count),
                A::SrlW => asm!(self ; shr Rd(t), count),
                A::SraW => asm!(self ; sar Rd(t), count),
                A::RolW => asm!(self ; rol Rd(t), count),
                _ => asm!(self ; ror Rd(t), count),
            }
        } else {
            match op {
                A::Rol | A::Ror | A::RolW | A::RorW => {
                    self.read(RCX, b);
                    self.read(RAX, a);
                    match op {
                        A::Rol => asm!(self ; rol rax, cl),
                        A::Ror => asm!(self ; ror rax, cl),
                        A::RolW => asm!(self ; rol eax, cl),
                        _ => asm!(self ; ror eax, cl),
                    }
                    asm!(self ; mov Rq(t), rax);
                }
                _ => {
                    let count = self.in_register(b, RCX);
                    let value = self.in_register(a, RAX);
                    match op {
                        A::Sll => asm!(self ; shlx Rq(t), Rq(value), Rq(count)),
                        A::Srl => asm!(self ; shrx Rq(t), Rq(value), Rq(count)),
                        A::Sra => asm!(self ; sarx Rq(t), Rq(value), Rq(count)),
                        A::SllW => asm!(self ; shlx Rd(t), Rd(value), Rd(count)),
                        A::SrlW => asm!(self ; shrx Rd(t), Rd(value), Rd(count)),
                        _ => asm!(self ; sarx Rd(t), Rd(value), Rd(count)),
                    }
                }
            }
        }
        if word {
            asm!(self ; movsxd Rq(t), Rd(t));
        }
        self.write(dst, t);
    }

    fn multiply(&mut self, dst: u8, a: Operand, b: Operand, wide: bool) {
        let t = Self::target_of(dst);
        let (a, b) = if matches!(a, Operand::Imm(_)) { (b, a) } else { (a, b) };
        if let Operand::Imm(v) = b
            && let Ok(v) = i32::try_from(v)
        {
            let x = self.in_register(a, RAX);
            if wide {
                asm!(self ; imul Rq(t), Rq(x), DWORD v);
            } else {
                asm!(self ; imul Rd(t), Rd(x), DWORD v);
            }
        } else {
            self.read(RAX, a);
            match (self.source(b), wide) {
                (Source::Reg(r), true) => asm!(self ; imul rax, Rq(r)),
                (Source::Reg(r), false) => asm!(self ; imul eax, Rd(r)),
                (Source::Home(d), true) => asm_rm!(self, imul, d, rax),
                (Source::Home(d), false) => asm_rm!(self, imul, d, eax),
                (Source::Imm(v), _) => asm!(self ; imul rax, rax, DWORD v),
            }
            asm!(self ; mov Rq(t), rax);
        }
        if !wide {
            asm!(self ; movsxd Rq(t), Rd(t));
        }
        self.write(dst, t);
    }

    fn multiply_high(&mut self, op: AluOp, dst: u8, a: Operand, b: Operand) {
        self.read(RCX, b);
        self.read(RAX, a);
        match op {
            AluOp::Mulh => asm!(self ; imul rcx),
            AluOp::Mulhu => asm!(self ; mul rcx),
            _ => {
                // high(a × b) with a signed, b unsigned: the unsigned high half, less b if a < 0.
                asm!(self ; mul rcx);
                self.read(RAX, a);
                asm!(self ; sar rax, 63 ; and rax, rcx ; sub rdx, rax);
            }
        }
        self.write(dst, RDX);
    }

    fn divide(&mut self, op: AluOp, dst: u8, a: Operand, b: Operand) {
        use AluOp as A;
        let signed = matches!(op, A::Div | A::Rem | A::DivW | A::RemW);
        let word = matches!(op, A::DivW | A::DivuW | A::RemW | A::RemuW);
        let remainder = matches!(op, A::Rem | A::Remu | A::RemW | A::RemuW);
        let kind = DivKind { remainder, word };
        let back = self.new_label();
        self.read(RCX, b);
        self.read(RAX, a);
        let zero = self.new_label();
        if word {
            asm!(self ; test ecx, ecx);
        } else {
            asm!(self ; test rcx, rcx);
        }
        asm!(self ; je =>zero);
        self.cold.push(Cold::DivZero { at: zero, back, kind });
        if signed {
            let minus_one = self.new_label();
            if word {
                asm!(self ; cmp ecx, BYTE -1);
            } else {
                asm!(self ; cmp rcx, BYTE -1);
            }
            asm!(self ; je =>minus_one);
            self.cold.push(Cold::DivMinusOne { at: minus_one, back, kind });
        }
        match (signed, word) {
            (true, false) => asm!(self ; cqo ; idiv rcx),
            (true, true) => asm!(self ; cdq ; idiv ecx),
            (false, false) => asm!(self ; xor edx, edx ; div rcx),
            (false, true) => asm!(self ; xor edx, edx ; div ecx),
        }
        if remainder {
            asm!(self ; mov rax, rdx);
        }
        asm!(self ; =>back);
        if word {
            asm!(self ; movsxd rax, eax);
        }
        self.write(dst, RAX);
    }

    /// x / 0 = −1, x % 0 = x (Unprivileged spec 13.2). The dividend is in rax.
    pub(super) fn division_by_zero(&mut self, at: DynamicLabel, back: DynamicLabel, kind: DivKind) {
        asm!(self ; =>at);
        if !kind.remainder {
            asm!(self ; mov rax, -1);
        }
        asm!(self ; jmp =>back);
    }

    /// x / −1 = −x without the host's overflow trap, x % −1 = 0.
    pub(super) fn division_by_minus_one(
        &mut self,
        at: DynamicLabel,
        back: DynamicLabel,
        kind: DivKind,
    ) {
        asm!(self ; =>at);
        match (kind.remainder, kind.word) {
            (true, _) => asm!(self ; xor eax, eax),
            (false, true) => asm!(self ; neg eax),
            (false, false) => asm!(self ; neg rax),
        }
        asm!(self ; jmp =>back);
    }

    fn set_if_less(&mut self, dst: u8, a: Operand, b: Operand, signed: bool) {
        let cond = if signed { Cond::Lt } else { Cond::Ltu };
        match self.compare(cond, a, b) {
            Cond::Lt => asm!(self ; setl al),
            Cond::Ltu => asm!(self ; setb al),
            Cond::Ge => asm!(self ; setge al),
            Cond::Geu => asm!(self ; setae al),
            Cond::Eq => asm!(self ; sete al),
            Cond::Ne => asm!(self ; setne al),
        }
        let t = Self::target_of(dst);
        asm!(self ; movzx Rd(t), al);
        self.write(dst, t);
    }

    /// Set the host's flags for `a cond b`; the condition to test. Uses rax, rdx.
    pub(super) fn compare(&mut self, cond: Cond, a: Operand, b: Operand) -> Cond {
        let against_zero = b == Operand::Imm(0);
        if let Operand::Reg(r) = a
            && let Place::Memory(d) = allocate::int(r)
        {
            match self.source(b) {
                Source::Imm(v) => {
                    match i8::try_from(d) {
                        Ok(d) => asm!(self ; cmp QWORD [BYTE rbp + d], v),
                        Err(_) => asm!(self ; cmp QWORD [DWORD rbp + d], v),
                    }
                    return cond;
                }
                Source::Reg(h) => {
                    asm_mr!(self, cmp, d, Rq(h));
                    return cond;
                }
                Source::Home(_) => {}
            }
        }
        let x = self.in_register(a, RAX);
        if against_zero {
            asm!(self ; test Rq(x), Rq(x));
        } else {
            let src = self.source(b);
            self.cmp(x, src);
        }
        cond
    }

    fn shift_add(&mut self, op: AluOp, dst: u8, a: Operand, b: Operand) {
        use AluOp as A;
        let t = Self::target_of(dst);
        let unsigned_word = matches!(op, A::AddUw | A::Sh1AddUw | A::Sh2AddUw | A::Sh3AddUw);
        let y = self.in_register(b, RCX);
        let x = if unsigned_word {
            let x = self.in_register(a, RAX);
            asm!(self ; mov eax, Rd(x));
            RAX
        } else {
            self.in_register(a, RAX)
        };
        match op {
            A::AddUw => asm!(self ; lea Rq(t), [Rq(y) + Rq(x)]),
            A::Sh1Add | A::Sh1AddUw => asm!(self ; lea Rq(t), [Rq(y) + Rq(x) * 2]),
            A::Sh2Add | A::Sh2AddUw => asm!(self ; lea Rq(t), [Rq(y) + Rq(x) * 4]),
            _ => asm!(self ; lea Rq(t), [Rq(y) + Rq(x) * 8]),
        }
        self.write(dst, t);
    }

    fn min_max(&mut self, op: AluOp, dst: u8, a: Operand, b: Operand) {
        let y = self.in_register(b, RCX);
        self.read(RAX, a);
        asm!(self ; cmp rax, Rq(y));
        match op {
            AluOp::Min => asm!(self ; cmovg rax, Rq(y)),
            AluOp::Max => asm!(self ; cmovl rax, Rq(y)),
            AluOp::Minu => asm!(self ; cmova rax, Rq(y)),
            _ => asm!(self ; cmovb rax, Rq(y)),
        }
        self.write(dst, RAX);
    }

    fn single_bit(&mut self, op: AluOp, dst: u8, a: Operand, b: Operand) {
        self.read(RCX, b);
        self.read(RAX, a);
        // A register bit offset is taken modulo 64, as Zbs does.
        match op {
            AluOp::Bset => asm!(self ; bts rax, rcx),
            AluOp::Bclr => asm!(self ; btr rax, rcx),
            AluOp::Binv => asm!(self ; btc rax, rcx),
            _ => asm!(self ; bt rax, rcx ; setb al ; movzx eax, al),
        }
        self.write(dst, RAX);
    }

    fn inverted(&mut self, op: AluOp, dst: u8, a: Operand, b: Operand) {
        self.read(RCX, b);
        self.read(RAX, a);
        asm!(self ; not rcx);
        match op {
            AluOp::Andn => asm!(self ; and rax, rcx),
            AluOp::Orn => asm!(self ; or rax, rcx),
            _ => asm!(self ; xor rax, rcx),
        }
        self.write(dst, RAX);
    }

    fn zero_if(&mut self, op: AluOp, dst: u8, a: Operand, b: Operand) {
        self.read(RCX, b);
        self.read(RAX, a);
        asm!(self ; xor edx, edx ; test rcx, rcx);
        match op {
            AluOp::CzeroEqz => asm!(self ; cmove rax, rdx),
            _ => asm!(self ; cmovne rax, rdx),
        }
        self.write(dst, RAX);
    }

    pub(super) fn alu(&mut self, op: AluOp, dst: u8, a: Operand, b: Operand) {
        use AluOp as A;
        match op {
            A::Add => self.simple(Group1::Add, dst, a, b, true),
            A::Sub => self.simple(Group1::Sub, dst, a, b, true),
            A::And => self.simple(Group1::And, dst, a, b, true),
            A::Or => self.simple(Group1::Or, dst, a, b, true),
            A::Xor => self.simple(Group1::Xor, dst, a, b, true),
            A::AddW => self.simple(Group1::Add, dst, a, b, false),
            A::SubW => self.simple(Group1::Sub, dst, a, b, false),
            A::Sll | A::Srl | A::Sra | A::SllW | A::SrlW | A::SraW => self.shift(op, dst, a, b),
            A::Rol | A::Ror | A::RolW | A::RorW => self.shift(op, dst, a, b),
            A::SllUw => {
                let t = Self::target_of(dst);
                let x = self.in_register(a, RAX);
                asm!(self ; mov Rd(t), Rd(x));
                if let Operand::Imm(count) = b {
                    asm!(self ; shl Rq(t), (count & 63) as i8);
                }
                self.write(dst, t);
            }
            A::Slt => self.set_if_less(dst, a, b, true),
            A::Sltu => self.set_if_less(dst, a, b, false),
            A::Mul => self.multiply(dst, a, b, true),
            A::MulW => self.multiply(dst, a, b, false),
            A::Mulh | A::Mulhu | A::Mulhsu => self.multiply_high(op, dst, a, b),
            A::Div | A::Divu | A::Rem | A::Remu => self.divide(op, dst, a, b),
            A::DivW | A::DivuW | A::RemW | A::RemuW => self.divide(op, dst, a, b),
            A::Andn | A::Orn | A::Xnor => self.inverted(op, dst, a, b),
            A::Min | A::Max | A::Minu | A::Maxu => self.min_max(op, dst, a, b),
            A::Sh1Add | A::Sh2Add | A::Sh3Add | A::AddUw => self.shift_add(op, dst, a, b),
            A::Sh1AddUw | A::Sh2AddUw | A::Sh3AddUw => self.shift_add(op, dst, a, b),
            A::Bset | A::Bclr | A::Binv | A::Bext => self.single_bit(op, dst, a, b),
            A::CzeroEqz | A::CzeroNez => self.zero_if(op, dst, a, b),
        }
    }

    pub(super) fn unary(&mut self, op: UnaryOp, dst: u8, a: Operand) {
        let t = Self::target_of(dst);
        let x = self.in_register(a, RCX);
        match op {
            UnaryOp::Clz => asm!(self ; lzcnt Rq(t), Rq(x)),
            UnaryOp::Ctz => asm!(self ; tzcnt Rq(t), Rq(x)),
            UnaryOp::Cpop => asm!(self ; popcnt Rq(t), Rq(x)),
            UnaryOp::ClzW => asm!(self ; lzcnt Rd(t), Rd(x)),
            UnaryOp::CtzW => asm!(self ; tzcnt Rd(t), Rd(x)),
            UnaryOp::CpopW => asm!(self ; popcnt Rd(t), Rd(x)),
            UnaryOp::SextB => asm!(self ; movsx Rq(t), Rb(x)),
            UnaryOp::SextH => asm!(self ; movsx Rq(t), Rw(x)),
            UnaryOp::ZextH => asm!(self ; movzx Rd(t), Rw(x)),
            UnaryOp::Rev8 => {
                if t != x {
                    asm!(self ; mov Rq(t), Rq(x));
                }
                asm!(self ; bswap Rq(t));
            }
        }
        self.write(dst, t);
    }
}
