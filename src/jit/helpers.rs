//! What translated code calls: the only `extern "sysv64"` functions.
//!
//! Every helper gets the `Hart` that `engine::Engine::enter` was given; the engine holds no other
//! reference to it while translated code runs, so the exclusive one made here is the only one.
//! A trap is left in `Hart::stopped` with the pc of its instruction, and the non-zero status makes
//! the stub leave translated code. A panic must not unwind through translated code, which has no
//! unwind tables: it is caught here and goes on in the engine.

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::cpu::hart::{Hart, Stopped, Trap};
use crate::cpu::insn::Insn;
use crate::cpu::interpret;

/// A loaded value and whether there is none because the hart stopped; in rax and rdx.
#[repr(C)]
#[derive(Debug)]
pub struct Loaded {
    value: u64,
    stopped: u64,
}

fn pc(hart: &Hart) -> u64 {
    hart.state.jit.page_va.wrapping_add(hart.state.jit.pc_offset)
}

/// Do `work`; `None` when it stopped the hart, which then knows why.
fn guarded<T>(hart: &mut Hart, work: impl FnOnce(&mut Hart) -> Result<T, Trap>) -> Option<T> {
    let why = match catch_unwind(AssertUnwindSafe(|| work(hart))) {
        Ok(Ok(value)) => return Some(value),
        Ok(Err(trap)) => Stopped::Trap(trap),
        Err(panic) => Stopped::Panic(panic),
    };
    hart.state.pc = pc(hart);
    hart.stopped = Some(why);
    None
}

fn status(done: Option<()>) -> u64 {
    u64::from(done.is_none())
}

macro_rules! memory {
    ($load:ident, $store:ident, $width:literal) => {
        /// The slow path of a load.
        ///
        /// # Safety
        /// `hart` is the one that `Engine::enter` was given.
        pub unsafe extern "sysv64" fn $load(hart: *mut Hart, va: u64) -> Loaded {
            // SAFETY: see the module comment.
            let hart = unsafe { &mut *hart };
            match guarded(hart, |hart| hart.load(va, $width)) {
                Some(value) => Loaded { value, stopped: 0 },
                None => Loaded { value: 0, stopped: 1 },
            }
        }

        /// The slow path of a store.
        ///
        /// # Safety
        /// `hart` is the one that `Engine::enter` was given.
        pub unsafe extern "sysv64" fn $store(hart: *mut Hart, va: u64, value: u64) -> u64 {
            // SAFETY: see the module comment.
            let hart = unsafe { &mut *hart };
            status(guarded(hart, |hart| hart.store(va, $width, value)))
        }
    };
}

memory!(load_1, store_1, 1);
memory!(load_2, store_2, 2);
memory!(load_4, store_4, 4);
memory!(load_8, store_8, 8);

/// Run one instruction by the interpreter.
///
/// # Safety
/// `hart` is the one that `Engine::enter` was given; `insn` was kept by the same engine.
pub unsafe extern "sysv64" fn interpret(hart: *mut Hart, insn: *const Insn) -> u64 {
    // SAFETY: see the module comment; kept instructions live as long as the code that names them.
    let (hart, insn) = unsafe { (&mut *hart, &*insn) };
    hart.state.pc = pc(hart);
    status(guarded(hart, |hart| interpret::execute(hart, insn)))
}

/// Fetch and run one instruction, which crosses its page: what its second half is depends on how
/// the next page is mapped now.
///
/// # Safety
/// `hart` is the one that `Engine::enter` was given.
pub unsafe extern "sysv64" fn step(hart: *mut Hart) -> u64 {
    // SAFETY: see the module comment.
    let hart = unsafe { &mut *hart };
    hart.state.pc = pc(hart);
    status(guarded(hart, interpret::step))
}
