//! Messages between a block device and its back end.

use actix::Message;

use super::accounting::Statistics;
use crate::actors::outlet::Outlet;
use crate::devices::dma::GuestBuffer;

/// What a request does. Offsets and lengths are bytes and lie inside the drive.
#[derive(Debug)]
pub enum BlockOp {
    /// Fill the buffer from the drive.
    Read { offset: u64, into: GuestBuffer },
    /// Write the buffer to the drive; with `fua` it is on stable storage when answered.
    Write { offset: u64, from: GuestBuffer, fua: bool },
    /// Write bytes that are not guest memory.
    Store { offset: u64, bytes: Vec<u8> },
    /// Bring what was written to stable storage.
    Flush,
    /// The range's content no longer matters.
    Discard { offset: u64, len: u64 },
    /// The range reads as zeroes; `may_unmap` allows giving its storage back.
    WriteZeroes { offset: u64, len: u64, may_unmap: bool },
}

/// Device → back end: a request. Exactly one `BlockDone` with its `tag` goes to `done`.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct BlockRequest {
    pub tag: u64,
    pub op: BlockOp,
    pub done: Outlet<BlockDone>,
}

/// Back end → device: a request is finished.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Message)]
#[rtype(result = "()")]
pub struct BlockDone {
    pub tag: u64,
    pub result: Result<(), IoFailed>,
}

/// Why a request failed: the host's error number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{}", sentence(self.0))]
pub struct IoFailed(pub i32);

/// The host's words for an error number, as `strerror` has them.
fn sentence(errno: i32) -> String {
    let text = std::io::Error::from_raw_os_error(errno).to_string();
    match text.strip_suffix(&format!(" (os error {errno})")) {
        Some(words) => words.to_owned(),
        None => text,
    }
}

impl From<&std::io::Error> for IoFailed {
    fn from(error: &std::io::Error) -> Self {
        Self(error.raw_os_error().unwrap_or(rustix::io::Errno::IO.raw_os_error()))
    }
}

/// Device → machine: a request has failed, and what was done about it.
#[derive(Debug, Clone, PartialEq, Eq, Message)]
#[rtype(result = "()")]
pub struct BlockFailed {
    /// Where the device is in QEMU's tree of objects.
    pub qom_path: String,
    /// Name of its back end; empty for a node of `-blockdev`.
    pub drive: String,
    /// Name of the topmost node of its drive.
    pub node_name: String,
    pub write: bool,
    /// `Ignore`, `Report` or `Stop`.
    pub action: crate::machine::spec::ErrorAction,
    pub error: IoFailed,
}

impl BlockFailed {
    /// What the failures of a device have in common.
    pub fn of_device(qom_path: String, drive: String, node_name: String) -> Self {
        Self {
            qom_path,
            drive,
            node_name,
            write: false,
            action: crate::machine::spec::ErrorAction::Report,
            error: IoFailed(0),
        }
    }
}

impl IoFailed {
    /// The host allows no writing.
    pub fn is_no_permission(self) -> bool {
        use rustix::io::Errno;
        [Errno::ACCESS, Errno::PERM, Errno::ROFS].map(Errno::raw_os_error).contains(&self.0)
    }

    /// The host's disk is full.
    pub fn is_no_space(self) -> bool {
        self.0 == rustix::io::Errno::NOSPC.raw_os_error()
    }
}

/// Machine → drive: somebody else is to have the image. Everything written is brought to it, then
/// it is no longer locked and no longer written to.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "Result<(), String>")]
pub struct Inactivate;

/// Machine → drive: have the image again, or at last. The error is a sentence, QEMU's.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "Result<(), String>")]
pub struct Activate;

/// Monitor → drive: how is it, and what has it done?
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "Result<DriveReport, crate::machine::message::VmError>")]
pub struct QueryDrive;

/// What a drive says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DriveReport {
    /// Size in bytes as the guest sees it.
    pub size: u64,
    /// Bytes that the image takes up; `None` if the host does not say.
    pub allocated: Option<u64>,
    /// The image is this machine's.
    pub active: bool,
    pub read_only: bool,
    pub statistics: Statistics,
}

/// What a device needs to know of a drive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockInfo {
    /// Size in bytes, rounded up to whole 512-byte sectors.
    pub size: u64,
    pub read_only: bool,
    /// The device shows a volatile write cache (`cache.writeback`).
    pub writeback: bool,
    /// What `werror=` and `rerror=` of the drive say.
    pub write_error: crate::machine::spec::ErrorAction,
    pub read_error: crate::machine::spec::ErrorAction,
}
