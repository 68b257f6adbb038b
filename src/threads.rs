//! The process's name and those of its threads, as `-name process=,debug-threads=` want them.

use std::ffi::CString;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::Builder;

use crate::machine::spec::MachineSpec;

/// Threads bear names of their own, not the process's.
static NAMED: AtomicBool = AtomicBool::new(false);

/// Name this process, from the thread that starts all others, and its threads from now on.
pub fn configure(spec: &MachineSpec) {
    NAMED.store(spec.debug_threads, Ordering::Relaxed);
    if let Some(name) = &spec.process_name
        && let Ok(name) = CString::new(name.as_str())
        && let Err(error) = rustix::thread::set_name(&name)
    {
        crate::report::line(&format!("Change of process name not supported by your OS: {error}"));
    }
}

/// A thread to be, called `name` where threads have names.
pub fn named(name: impl Into<String>) -> Builder {
    match NAMED.load(Ordering::Relaxed) {
        true => Builder::new().name(name.into()),
        false => Builder::new(),
    }
}

/// Call the current thread so, where threads have names.
pub fn rename(name: &str) {
    if NAMED.load(Ordering::Relaxed)
        && let Ok(name) = CString::new(name)
    {
        // It keeps its name where the host has none to give.
        let _ = rustix::thread::set_name(&name);
    }
}
