//! The code around blocks: the way in and out, and the calls of helpers. Assembled once, at the
//! start of the code cache.

use dynasmrt::x64::X64Relocation;
use dynasmrt::{DynasmApi, DynasmLabelApi, VecAssembler, dynasm};

use crate::jit::allocate::{self, BIAS, FP_PINNED, PINNED};
use crate::jit::helpers;

/// Why translated code was left (`JitExit::reason`).
pub mod reason {
    /// The run loop wanted this hart; the pc is current.
    pub const POLLED: u64 = 0;
    /// The jump cache did not know the pc.
    pub const LOOK_UP: u64 = 1;
    /// A link (its number in `JitExit::data`) was taken for the first time.
    pub const LINK: u64 = 2;
    /// The instruction at the pc must be stepped.
    pub const STEP: u64 = 3;
    /// A helper met a trap; the hart holds it.
    pub const TRAP: u64 = 4;
    /// A dropped block was entered; `JitExit::data` is the return address of its patched call.
    pub const DROPPED: u64 = 5;
}

/// Addresses of the stubs.
#[derive(Debug, Clone, Copy, Default)]
pub struct Stubs {
    /// `extern "sysv64" fn(state, code)`.
    pub enter: usize,
    /// These three take the pc in rax.
    pub leave_polled: usize,
    pub leave_to_look_up: usize,
    pub leave_to_step: usize,
    /// Takes the link's number in eax.
    pub leave_to_link: usize,
    /// Called by the patched entry of a dropped block.
    pub dropped: usize,
    /// Takes an `*const Insn` in rax.
    pub interpret: usize,
    /// Fetches and runs the instruction at the recorded offset.
    pub step: usize,
    loads: [usize; 4],
    stores: [usize; 4],
}

impl Stubs {
    /// The slow load of `width` bytes: address in rax, value out in rax.
    pub fn load(&self, width: u8) -> usize {
        self.loads[width.trailing_zeros() as usize & 3]
    }

    /// The slow store of `width` bytes: address in rax, value in rdx.
    pub fn store(&self, width: u8) -> usize {
        self.stores[width.trailing_zeros() as usize & 3]
    }
}

type Asm = VecAssembler<X64Relocation>;

macro_rules! asm {
    ($o:ident $($t:tt)*) => { dynasm!($o ; .arch x64 $($t)*) };
}

fn save(o: &mut Asm) {
    for (guest, host) in PINNED {
        asm!(o ; mov [DWORD rbp + allocate::int_home(guest)], Rq(host));
    }
    for (guest, host) in FP_PINNED {
        asm!(o ; movsd [DWORD rbp + allocate::fp_home(guest)], Rx(host));
    }
}

fn restore(o: &mut Asm) {
    for (guest, host) in PINNED {
        asm!(o ; mov Rq(host), [DWORD rbp + allocate::int_home(guest)]);
    }
    for (guest, host) in FP_PINNED {
        asm!(o ; movsd Rx(host), [DWORD rbp + allocate::fp_home(guest)]);
    }
}

/// Assemble the stubs for address `base`; the code and where each is.
pub fn assemble(base: usize) -> Result<(Vec<u8>, Stubs), dynasmrt::DynasmError> {
    let mut o = Asm::new(base);
    let o = &mut o;
    let at = |o: &Asm| base + o.offset().0;
    let mut stubs = Stubs { enter: at(o), ..Stubs::default() };
    asm!(o
        ; push rbx
        ; push rbp
        ; push r12
        ; push r13
        ; push r14
        ; push r15
        ; sub rsp, 8
        ; lea rbp, [rdi + BIAS]
        ; mov rax, rsi
        ; stmxcsr [DWORD rbp + allocate::HOST_MXCSR]
        ; ldmxcsr [DWORD rbp + allocate::GUEST_MXCSR]
    );
    restore(o);
    asm!(o ; jmp rax ; ->leave:);
    save(o);
    asm!(o
        ; ->leave_saved:
        ; stmxcsr [DWORD rbp + allocate::GUEST_MXCSR]
        ; ldmxcsr [DWORD rbp + allocate::HOST_MXCSR]
        ; add rsp, 8
        ; pop r15
        ; pop r14
        ; pop r13
        ; pop r12
        ; pop rbp
        ; pop rbx
        ; ret
    );
    let leave_with_pc = |o: &mut Asm, reason: u64| {
        let here = at(o);
        asm!(o
            ; mov [DWORD rbp + allocate::PC], rax
            ; mov QWORD [DWORD rbp + allocate::EXIT_REASON], reason as i32
            ; jmp ->leave
        );
        here
    };
    stubs.leave_polled = leave_with_pc(o, reason::POLLED);
    stubs.leave_to_look_up = leave_with_pc(o, reason::LOOK_UP);
    stubs.leave_to_step = leave_with_pc(o, reason::STEP);
    stubs.leave_to_link = at(o);
    asm!(o
        ; mov [DWORD rbp + allocate::EXIT_DATA], rax
        ; mov QWORD [DWORD rbp + allocate::EXIT_REASON], reason::LINK as i32
        ; jmp ->leave
    );
    stubs.dropped = at(o);
    asm!(o
        ; pop rax
        ; mov [DWORD rbp + allocate::EXIT_DATA], rax
        ; mov QWORD [DWORD rbp + allocate::EXIT_REASON], reason::DROPPED as i32
        ; jmp ->leave
        // A helper met a trap: its caller's return address and the alignment go.
        ; ->trapped:
        ; add rsp, 16
        ; mov QWORD [DWORD rbp + allocate::EXIT_REASON], reason::TRAP as i32
        ; jmp ->leave_saved
    );
    for (stub, helper) in [
        (&mut stubs.interpret, helpers::interpret as *const () as i64),
        (&mut stubs.step, helpers::step as *const () as i64),
    ] {
        *stub = at(o);
        asm!(o ; sub rsp, 8);
        save(o);
        asm!(o
            ; stmxcsr [DWORD rbp + allocate::GUEST_MXCSR]
            ; ldmxcsr [DWORD rbp + allocate::HOST_MXCSR]
            ; mov rdi, [DWORD rbp + allocate::HART]
            ; mov rsi, rax
            ; mov rax, QWORD helper
            ; call rax
            ; ldmxcsr [DWORD rbp + allocate::GUEST_MXCSR]
            ; test eax, eax
            ; jne ->trapped
        );
        restore(o);
        asm!(o ; add rsp, 8 ; ret);
    }
    let loads = [helpers::load_1, helpers::load_2, helpers::load_4, helpers::load_8];
    for (stub, helper) in stubs.loads.iter_mut().zip(loads) {
        *stub = at(o);
        asm!(o ; sub rsp, 8);
        save(o);
        asm!(o
            ; mov rdi, [DWORD rbp + allocate::HART]
            ; mov rsi, rax
            ; mov rax, QWORD helper as *const () as i64
            ; call rax
            ; test edx, edx
            ; jne ->trapped
        );
        restore(o);
        asm!(o ; add rsp, 8 ; ret);
    }
    let stores = [helpers::store_1, helpers::store_2, helpers::store_4, helpers::store_8];
    for (stub, helper) in stubs.stores.iter_mut().zip(stores) {
        *stub = at(o);
        asm!(o ; sub rsp, 8);
        save(o);
        asm!(o
            ; mov rdi, [DWORD rbp + allocate::HART]
            ; mov rsi, rax
            ; mov rax, QWORD helper as *const () as i64
            ; call rax
            ; test eax, eax
            ; jne ->trapped
        );
        restore(o);
        asm!(o ; add rsp, 8 ; ret);
    }
    let code = std::mem::replace(o, Asm::new(base)).finalize()?;
    Ok((code, stubs))
}
