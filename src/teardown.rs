//! `-run-with async-teardown=on`: a second process shares this one's memory and outlives it by as
//! long as it takes to give that back, so that whoever waits for this process does not wait for it.

use std::ffi::{CString, c_int, c_void};
use std::io;
use std::ptr;

/// Bytes of the second process' stack.
const STACK: usize = 64 << 10;

/// What the second process needs to know; it is never given back.
struct Notes {
    parent: libc::pid_t,
    name: CString,
}

/// Start the second process, before there is any other thread.
pub fn share_memory() -> io::Result<()> {
    let parent = rustix::process::getpid().as_raw_nonzero().get();
    let name = CString::new(format!("cleanup/{parent}"))?;
    let notes: &'static Notes = Box::leak(Box::new(Notes { parent, name }));
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let kind = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_STACK;
    // SAFETY: a new mapping, at no address of ours, that nobody else knows of and nobody unmaps.
    let stack = unsafe { libc::mmap(ptr::null_mut(), STACK, protection, kind, -1, 0) };
    if stack == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: both sets are written before they are read. The stack is the new process' alone, and
    // its end is that of the mapping; `outlive` touches nothing but that and `notes`, which lives as
    // long as the memory. No signal is handled there: all are blocked while it begins, and stay so.
    let (child, error) = unsafe {
        let (mut all, mut before) = (std::mem::zeroed(), std::mem::zeroed());
        libc::sigfillset(&raw mut all);
        libc::pthread_sigmask(libc::SIG_BLOCK, &raw const all, &raw mut before);
        let top = stack.cast::<u8>().add(STACK).cast::<c_void>();
        let notes = ptr::from_ref(notes).cast_mut().cast::<c_void>();
        let child = libc::clone(outlive, top, libc::CLONE_VM, notes);
        let error = io::Error::last_os_error();
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const before, ptr::null_mut());
        (child, error)
    };
    if child == -1 { Err(error) } else { Ok(()) }
}

/// Hold the memory until the other process has ended.
extern "C" fn outlive(notes: *mut c_void) -> c_int {
    // SAFETY: `notes` is what `share_memory` gave. System calls alone, none of which touches memory
    // of the other process' but the name, which nobody writes.
    unsafe {
        let notes = &*notes.cast_const().cast::<Notes>();
        // Whoever waits for the end of a pipe of the other's is not to wait for this one.
        libc::syscall(libc::SYS_close_range, 0, u32::MAX, 0);
        libc::prctl(libc::PR_SET_NAME, notes.name.as_ptr());
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
        while libc::getppid() == notes.parent {
            libc::pause();
        }
        libc::_exit(0)
    }
}
