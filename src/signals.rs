//! SIGINT, SIGTERM and SIGHUP, with who sent them, told to a thread of its own, so that they are
//! heard whatever the rest of the process is busy with. A module of its own because signal
//! handlers need `unsafe`.

use std::io::{self, PipeReader, Read};
use std::os::fd::IntoRawFd;
use std::sync::atomic::{AtomicI32, Ordering};

/// Write end of the pipe to the thread; never closed.
static PIPE: AtomicI32 = AtomicI32::new(-1);

const SIGNALS: [libc::c_int; 3] = [libc::SIGINT, libc::SIGTERM, libc::SIGHUP];

/// A signal that has arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caught {
    pub signal: i32,
    /// Process that sent it; 0 for the kernel, as when the terminal does.
    pub pid: i32,
}

impl Caught {
    /// What QEMU says about it.
    pub fn sentence(&self) -> String {
        let Self { signal, pid } = *self;
        if pid == 0 {
            return format!("terminating on signal {signal}");
        }
        let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let name = command.split(|byte| *byte == 0).next().unwrap_or_default();
        let name = match name {
            [] => "<unknown process>".into(),
            name => String::from_utf8_lossy(name),
        };
        format!("terminating on signal {signal} from pid {pid} ({name})")
    }
}

/// Call `handle` for each signal from now on, on a thread of its own.
pub fn watch(handle: impl FnMut(Caught) + Send + 'static) -> io::Result<()> {
    let (reader, writer) = io::pipe()?;
    crate::threads::named("signals").spawn(move || serve(reader, handle))?;
    // The handlers may run until the process ends: the descriptor is theirs.
    PIPE.store(writer.into_raw_fd(), Ordering::Release);
    for signal in SIGNALS {
        // SAFETY: both structures are valid for the call, and the handler, which has the three
        // arguments that SA_SIGINFO promises, is async-signal-safe.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = on_signal as *const () as libc::sighandler_t;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_RESTART;
            if libc::sigaction(signal, &action, std::ptr::null_mut()) != 0 {
                return Err(io::Error::last_os_error());
            }
        }
    }
    Ok(())
}

fn serve(mut reader: PipeReader, mut handle: impl FnMut(Caught)) {
    let mut words = [0; 8];
    while reader.read_exact(&mut words).is_ok() {
        let word = |at: usize| {
            let bytes = [words[at], words[at + 1], words[at + 2], words[at + 3]];
            i32::from_ne_bytes(bytes)
        };
        handle(Caught { signal: word(0), pid: word(4) });
    }
}

extern "C" fn on_signal(signal: libc::c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: the kernel passes a valid `siginfo_t`; `si_pid` of one that no process sent is 0, as
    // the kernel clears the structure. `write` is async-signal-safe, reads the eight bytes given
    // (less than PIPE_BUF, hence all or none), and `errno` is put back as it was.
    unsafe {
        let errno = libc::__errno_location();
        let before = *errno;
        let message = [signal, (*info).si_pid()];
        libc::write(PIPE.load(Ordering::Acquire), message.as_ptr().cast(), 8);
        *errno = before;
    }
}

/// End this process as a signal that nobody handles would.
pub fn die_of(signal: i32) -> ! {
    crate::terminal::restore();
    // SAFETY: restores a default action and sends the signal to this process; no memory is touched.
    unsafe {
        libc::signal(signal, libc::SIG_DFL);
        libc::kill(libc::getpid(), signal);
    }
    // It is blocked, or on its way to another thread.
    std::thread::sleep(std::time::Duration::from_millis(100));
    std::process::exit(128 + signal)
}
