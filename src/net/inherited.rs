//! Descriptors that the parent process left open for us, named by their number.

use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::OFlags;
use rustix::process::{PidfdFlags, PidfdGetfdFlags};

/// Whether descriptor `number` would be closed by `exec`; `None` if there is none.
pub fn closes_on_exec(number: i32) -> Option<bool> {
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{number}")).ok()?;
    let flags = info.lines().find_map(|line| line.strip_prefix("flags:"))?;
    let flags = u32::from_str_radix(flags.trim(), 8).ok()?;
    Some(OFlags::from_bits_retain(flags).contains(OFlags::CLOEXEC))
}

/// Close the original, which the parent has given to us.
pub fn close(number: i32) {
    // One that is not open has been reported.
    let _ = nix::unistd::close(number);
}

/// A duplicate of descriptor `number`; the original stays open, since nothing here owns it.
pub fn duplicate(number: i32) -> io::Result<OwnedFd> {
    let own = rustix::process::getpid();
    let process = rustix::process::pidfd_open(own, PidfdFlags::empty())?;
    Ok(rustix::process::pidfd_getfd(process, number, PidfdGetfdFlags::empty())?)
}
