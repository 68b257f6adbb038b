//! Image locking, compatible with QEMU's: a byte of the file for each permission that somebody
//! uses, and one for each that somebody does not share, held by open-file-description locks.

use std::fs::File;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};

use super::message::IoFailed;

/// First byte for permissions in use.
const USED_BASE: i64 = 100;
/// First byte for permissions not shared with others.
const UNSHARED_BASE: i64 = 200;

/// What users of an image do to it, by bit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Permissions {
    used: u8,
    unshared: u8,
}

/// Bit of each permission and its name in messages.
const NAMES: [&str; 4] = ["consistent read", "write", "write unchanged", "resize"];
const CONSISTENT_READ: u8 = 1;
const WRITE: u8 = 2;

impl Permissions {
    /// Of a drive that no device uses.
    pub fn idle() -> Self {
        Self { used: CONSISTENT_READ, unshared: 0 }
    }

    /// Of a drive in use by a device; `share_write` lets others write too.
    pub fn of_device(write: bool, share_write: bool) -> Self {
        Self {
            used: if write { CONSISTENT_READ | WRITE } else { CONSISTENT_READ },
            unshared: if share_write { 0 } else { WRITE },
        }
    }
}

/// Somebody else's use of the image excludes ours.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    #[error("Failed to get \"{0}\" lock")]
    Used(&'static str),
    #[error("Failed to get shared \"{0}\" lock")]
    Unshared(&'static str),
    #[error("Failed to lock byte {0}: {1}")]
    Host(i64, IoFailed),
}

fn range(start: i64, kind: libc::c_int) -> libc::flock {
    libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: start,
        l_len: 1,
        l_pid: 0,
    }
}

fn set(file: &File, byte: i64, kind: libc::c_int) -> Result<(), LockError> {
    match fcntl(file, FcntlArg::F_OFD_SETLK(&range(byte, kind))) {
        // A file system without locks: QEMU goes on without, too.
        Ok(_) | Err(Errno::EINVAL | Errno::ENOLCK | Errno::EOPNOTSUPP) => Ok(()),
        Err(error) => Err(LockError::Host(byte, IoFailed(error as i32))),
    }
}

/// True when another open file description holds the byte.
fn held_elsewhere(file: &File, byte: i64) -> bool {
    let mut probe = range(byte, libc::F_WRLCK);
    fcntl(file, FcntlArg::F_OFD_GETLK(&mut probe)).is_ok()
        && i32::from(probe.l_type) != libc::F_UNLCK
}

/// Hold the locks of `wanted` in place of those of `held`. On failure those of `held` stay.
pub fn exchange(file: &File, held: Permissions, wanted: Permissions) -> Result<(), LockError> {
    let result = acquire(file, wanted);
    let (drop_used, drop_unshared) = match result {
        Ok(()) => (held.used & !wanted.used, held.unshared & !wanted.unshared),
        Err(_) => (wanted.used & !held.used, wanted.unshared & !held.unshared),
    };
    for bit in 0..NAMES.len() {
        if drop_used & 1 << bit != 0 {
            set(file, USED_BASE + bit as i64, libc::F_UNLCK)?;
        }
        if drop_unshared & 1 << bit != 0 {
            set(file, UNSHARED_BASE + bit as i64, libc::F_UNLCK)?;
        }
    }
    result
}

fn acquire(file: &File, wanted: Permissions) -> Result<(), LockError> {
    for bit in 0..NAMES.len() {
        if wanted.used & 1 << bit != 0 {
            set(file, USED_BASE + bit as i64, libc::F_RDLCK)?;
        }
        if wanted.unshared & 1 << bit != 0 {
            set(file, UNSHARED_BASE + bit as i64, libc::F_RDLCK)?;
        }
    }
    for (bit, name) in NAMES.into_iter().enumerate() {
        if wanted.used & 1 << bit != 0 && held_elsewhere(file, UNSHARED_BASE + bit as i64) {
            return Err(LockError::Used(name));
        }
        if wanted.unshared & 1 << bit != 0 && held_elsewhere(file, USED_BASE + bit as i64) {
            return Err(LockError::Unshared(name));
        }
    }
    Ok(())
}
