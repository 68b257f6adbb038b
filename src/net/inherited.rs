//! Descriptors that the parent process left open for us, named by their number.

use std::io;
use std::os::fd::OwnedFd;

use rustix::process::{PidfdFlags, PidfdGetfdFlags};

/// A duplicate of descriptor `number`; the original stays open, since nothing here owns it.
pub fn duplicate(number: i32) -> io::Result<OwnedFd> {
    let own = rustix::process::getpid();
    let process = rustix::process::pidfd_open(own, PidfdFlags::empty())?;
    Ok(rustix::process::pidfd_getfd(process, number, PidfdGetfdFlags::empty())?)
}
