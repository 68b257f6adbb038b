//! The controlling terminal in raw mode, and its way back on every exit: a guard, `exit`, panics
//! and deadly signals. A module of its own because signal handlers need `unsafe`.

use std::io::{self, IsTerminal};
use std::sync::Once;
use std::sync::atomic::{AtomicBool, AtomicPtr, Ordering};

/// How the terminal was before; leaked, so that a signal handler may read it at any time.
static SAVED: AtomicPtr<libc::termios> = AtomicPtr::new(std::ptr::null_mut());
/// Raw mode is on and has to be undone.
static RAW: AtomicBool = AtomicBool::new(false);
static HOOKS: Once = Once::new();

/// Signals that end the process without unwinding, after which nothing else would restore.
const DEADLY: [libc::c_int; 5] =
    [libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGFPE, libc::SIGABRT];
/// What handled them before: the runtime, for one, looks for stack overflows. Leaked, for the same
/// reason as `SAVED`.
static BEFORE: [AtomicPtr<libc::sigaction>; DEADLY.len()] =
    [const { AtomicPtr::new(std::ptr::null_mut()) }; DEADLY.len()];

/// Standard input in raw mode until dropped.
#[derive(Debug)]
pub struct RawMode {
    signal: bool,
}

impl RawMode {
    /// Switch standard input to raw mode if it is a terminal; `None` if it is not. With `signal`,
    /// Ctrl-c, Ctrl-z and Ctrl-\ keep their meaning.
    pub fn enter(signal: bool) -> io::Result<Option<Self>> {
        if !io::stdin().is_terminal() {
            return Ok(None);
        }
        if SAVED.load(Ordering::Acquire).is_null() {
            let saved = Box::into_raw(Box::new(attributes()?));
            SAVED.store(saved, Ordering::Release);
        }
        HOOKS.call_once(install_hooks);
        let mode = Self { signal };
        mode.apply()?;
        Ok(Some(mode))
    }

    /// Set raw mode again, as after a job-control stop (`SIGCONT`).
    pub fn apply(&self) -> io::Result<()> {
        let mut raw = attributes()?;
        raw.c_iflag &= !(libc::IGNBRK
            | libc::BRKINT
            | libc::PARMRK
            | libc::ISTRIP
            | libc::INLCR
            | libc::IGNCR
            | libc::ICRNL
            | libc::IXON);
        // Output keeps its line ends: monitors write a bare line feed.
        raw.c_oflag |= libc::OPOST;
        raw.c_lflag &= !(libc::ECHO | libc::ECHONL | libc::ICANON | libc::IEXTEN);
        if !self.signal {
            raw.c_lflag &= !libc::ISIG;
        }
        raw.c_cflag &= !(libc::CSIZE | libc::PARENB);
        raw.c_cflag |= libc::CS8;
        raw.c_cc[libc::VMIN] = 1;
        raw.c_cc[libc::VTIME] = 0;
        RAW.store(true, Ordering::Release);
        // SAFETY: `raw` is a valid termios that outlives the call.
        match unsafe { libc::tcsetattr(libc::STDIN_FILENO, libc::TCSANOW, &raw) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        restore();
    }
}

/// Undo raw mode, if it is on. Safe to call from a signal handler: only atomics and `tcsetattr`.
pub fn restore() {
    if RAW.swap(false, Ordering::AcqRel) {
        let saved = SAVED.load(Ordering::Acquire);
        // SAFETY: `RAW` was set, so `SAVED` holds a termios that is leaked and never written again.
        unsafe { libc::tcsetattr(libc::STDIN_FILENO, libc::TCSANOW, saved) };
    }
}

fn attributes() -> io::Result<libc::termios> {
    let mut now = std::mem::MaybeUninit::uninit();
    // SAFETY: `tcgetattr` fills in the structure when it returns 0, and only then is it read.
    unsafe {
        match libc::tcgetattr(libc::STDIN_FILENO, now.as_mut_ptr()) {
            0 => Ok(now.assume_init()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

extern "C" fn at_exit() {
    restore();
}

extern "C" fn on_deadly_signal(
    signal: libc::c_int,
    info: *mut libc::siginfo_t,
    _: *mut libc::c_void,
) {
    restore();
    let before = DEADLY.iter().position(|deadly| *deadly == signal);
    let before = before.map_or(std::ptr::null_mut(), |at| BEFORE[at].load(Ordering::Acquire));
    // SAFETY: the kernel passes a valid `siginfo_t`, `before` is null or a leaked action that is
    // never written again, and `sigaction`, `signal` and `raise` are async-signal-safe.
    unsafe {
        // A fault happens again on return, and is its former handler's then. A signal that was
        // sent does not; it takes its default action at once.
        if (*info).si_code > 0 && !before.is_null() {
            libc::sigaction(signal, before, std::ptr::null_mut());
        } else {
            libc::signal(signal, libc::SIG_DFL);
            libc::raise(signal);
        }
    }
}

fn install_hooks() {
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        restore();
        before(info);
    }));
    // SAFETY: `at_exit` is a function without captures that does not unwind.
    unsafe { libc::atexit(at_exit) };
    for (signal, before) in DEADLY.into_iter().zip(&BEFORE) {
        // SAFETY: the structures are valid for the calls, and the handler, which has the three
        // arguments that SA_SIGINFO promises, is async-signal-safe.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            if libc::sigaction(signal, std::ptr::null(), &mut action) != 0 {
                continue;
            }
            before.store(Box::into_raw(Box::new(action)), Ordering::Release);
            action.sa_sigaction = on_deadly_signal as *const () as libc::sighandler_t;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_NODEFER | libc::SA_ONSTACK;
            libc::sigaction(signal, &action, std::ptr::null_mut());
        }
    }
}
