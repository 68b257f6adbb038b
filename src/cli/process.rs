//! The process around the machine: into the background, and the file with its number.
//!
//! A daemon is a second copy of the program, started with the same arguments before any thread
//! exists here. It reports over its standard input, a pipe to its parent, when it is ready; until
//! then its messages go where the parent's go.

use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::unistd::{self, Gid, Uid};
use rustix::fs::{FlockOperation, Mode};
use rustix::mm::{MlockAllFlags, mlockall};

use crate::machine::spec::{MemoryLock, ProcessSpec, RunAs};

/// Set for the daemon; its value is the parent's process id, so that one inherited from elsewhere
/// means nothing.
const DAEMON_VARIABLE: &str = "UNDERSTUDY_DAEMON_OF";

/// Why the process cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    #[error("cannot daemonize: {0}")]
    Daemonize(#[source] io::Error),
    #[error("cannot create PID file: Could not create '{}': {}", .path.display(), words(.source))]
    CreatePidFile { path: PathBuf, source: io::Error },
    #[error("cannot create PID file: Cannot lock pid file: {}", words(.0))]
    LockPidFile(#[source] io::Error),
    #[error("cannot create PID file: Failed to write pid file: {}", words(.0))]
    WritePidFile(#[source] io::Error),
    #[error("locking memory failed: {}", words(.0))]
    LockMemory(#[source] io::Error),
    #[error("chroot failed: {}", words(.0))]
    ChangeRoot(#[source] io::Error),
    #[error("Failed to {call}: {}", words(.source))]
    ChangeUser { call: String, source: io::Error },
    #[error("Dropping privileges failed")]
    KeptPrivileges,
}

/// The words of an operating system's error, without Rust's number.
fn words(error: &io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or_default().to_owned()
}

/// What this process is to do.
#[derive(Debug)]
pub enum Role {
    /// Run the machine, and say so when it is ready.
    Machine(Readiness),
    /// The daemon runs, or has failed: exit with this code.
    Parent(i32),
}

/// To be announced once the machine is there.
#[derive(Debug)]
pub struct Readiness {
    /// A daemon's streams when it is ready.
    null: Option<File>,
}

/// Start the daemon, if one is asked for and this is not it.
pub fn start(daemonize: bool) -> Result<Role, ProcessError> {
    if !daemonize {
        return Ok(Role::Machine(Readiness { null: None }));
    }
    let parent = rustix::process::getppid().map(|pid| pid.as_raw_nonzero().to_string());
    if std::env::var(DAEMON_VARIABLE).ok().is_some_and(|value| Some(value) == parent) {
        rustix::process::setsid().map_err(|error| ProcessError::Daemonize(error.into()))?;
        rustix::process::umask(Mode::from_raw_mode(0o027));
        // The root directory that it will have may have no such file.
        let null = OpenOptions::new().read(true).write(true).open("/dev/null");
        let null = Some(null.map_err(ProcessError::Daemonize)?);
        return Ok(Role::Machine(Readiness { null }));
    }
    spawn().map(Role::Parent).map_err(ProcessError::Daemonize)
}

/// Start the daemon and wait until it is ready, or gone.
fn spawn() -> io::Result<i32> {
    let (mut ready, report) = io::pipe()?;
    let mut words = std::env::args_os();
    let mut command = Command::new(std::env::current_exe()?);
    if let Some(name) = words.next() {
        command.arg0(name);
    }
    command
        .args(words)
        .env(DAEMON_VARIABLE, std::process::id().to_string())
        .stdin(Stdio::from(report));
    let mut child = command.spawn()?;
    // The command holds our copy of the pipe's other end.
    drop(command);
    let mut byte = [0];
    if ready.read(&mut byte)? == 1 {
        return Ok(0);
    }
    let status = child.wait()?;
    Ok(status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0)))
}

impl Readiness {
    /// Tell the parent, and leave its terminal and directory.
    pub fn announce(self) -> Result<(), ProcessError> {
        self.null.map_or(Ok(()), detach).map_err(ProcessError::Daemonize)
    }
}

fn detach(null: File) -> io::Result<()> {
    std::env::set_current_dir("/")?;
    // Both streams are let go before the report: a parent's parent may wait for their end.
    rustix::stdio::dup2_stdout(&null)?;
    rustix::stdio::dup2_stderr(&null)?;
    // A parent that is gone does not need to know.
    let _ = rustix::io::write(io::stdin(), b"\0");
    rustix::stdio::dup2_stdin(&null)?;
    Ok(())
}

/// Lock memory, change the root directory, and be another user.
pub fn confine(spec: &ProcessSpec) -> Result<(), ProcessError> {
    let all = MlockAllFlags::CURRENT | MlockAllFlags::FUTURE;
    let locked = match spec.memory_lock {
        MemoryLock::None => Ok(()),
        MemoryLock::Touched => mlockall(all | MlockAllFlags::ONFAULT),
        MemoryLock::All => mlockall(all),
    };
    locked.map_err(|error| ProcessError::LockMemory(error.into()))?;
    if let Some(root) = &spec.root {
        rustix::process::chroot(root).map_err(|error| ProcessError::ChangeRoot(error.into()))?;
        std::env::set_current_dir("/").map_err(ProcessError::ChangeRoot)?;
    }
    spec.user.as_ref().map_or(Ok(()), become_user)
}

/// For all threads of the process, for good.
fn become_user(user: &RunAs) -> Result<(), ProcessError> {
    let (uid, gid) = (Uid::from_raw(user.uid), Gid::from_raw(user.gid));
    let failed = |call: String| {
        move |error: nix::Error| ProcessError::ChangeUser { call, source: error.into() }
    };
    unistd::setgid(gid).map_err(failed(format!("setgid({gid})")))?;
    match &user.name {
        Some(name) => {
            // A name from the system's own list has no zero byte in it.
            let owned = CString::new(name.as_str()).unwrap_or_default();
            let call = format!("initgroups(\"{name}\", {gid})");
            unistd::initgroups(&owned, gid).map_err(failed(call))?;
        }
        None => unistd::setgroups(&[gid]).map_err(failed(format!("setgroups(1, [{gid}])")))?,
    }
    unistd::setuid(uid).map_err(failed(format!("setuid({uid})")))?;
    if !uid.is_root() && unistd::setuid(Uid::from_raw(0)).is_ok() {
        return Err(ProcessError::KeptPrivileges);
    }
    Ok(())
}

/// A file with this process's number, locked; removed when dropped.
#[derive(Debug)]
pub struct PidFile {
    path: PathBuf,
    _locked: File,
}

impl PidFile {
    /// Create, lock and write it. A file that another machine holds is left alone.
    pub fn create(path: &Path) -> Result<Self, ProcessError> {
        let create_error = |source| ProcessError::CreatePidFile { path: path.to_owned(), source };
        loop {
            let mut file = OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .open(path)
                .map_err(create_error)?;
            rustix::fs::fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive)
                .map_err(|error| ProcessError::LockPidFile(error.into()))?;
            let opened = file.metadata().map_err(create_error)?;
            // Its last owner may have removed it between our opening and locking it.
            match std::fs::metadata(path) {
                Ok(there) if there.ino() == opened.ino() && there.dev() == opened.dev() => {}
                _ => continue,
            }
            file.set_len(0).map_err(ProcessError::WritePidFile)?;
            writeln!(file, "{}", std::process::id()).map_err(ProcessError::WritePidFile)?;
            // A daemon changes its directory before it removes the file.
            let path = std::fs::canonicalize(path).map_err(create_error)?;
            return Ok(Self { path, _locked: file });
        }
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        // Removed by somebody else already: nothing left to do.
        let _ = std::fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pid_file_lives_as_long_as_its_owner() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pid");
        std::fs::write(&path, "an older and longer number\n").unwrap();
        let file = PidFile::create(&path).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text, format!("{}\n", std::process::id()));
        drop(file);
        assert!(!path.exists());
        let missing = dir.path().join("no/pid");
        assert_eq!(
            PidFile::create(&missing).unwrap_err().to_string(),
            format!(
                "cannot create PID file: Could not create '{}': No such file or directory",
                missing.display()
            )
        );
    }
}
