//! Paths of UNIX sockets. The kernel's addresses have room for 108 bytes, and take a path that fills
//! them without the zero that ends a shorter one. What makes addresses here wants that zero, so such
//! a path is said in fewer bytes, from its directory on; one that is hardly more than a file's name
//! cannot be.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

/// Size of an address' path (`sun_path`), in bytes.
pub const SUN_PATH: usize = 108;

/// A path that fits into an address, for as long as this lives.
#[derive(Debug)]
pub struct UnixPath {
    path: PathBuf,
    /// What the path goes through.
    _directory: Option<OwnedFd>,
}

impl UnixPath {
    /// `None` if the path is too long for any address.
    pub fn new(path: &Path) -> io::Result<Option<Self>> {
        let length = path.as_os_str().as_bytes().len();
        if length < SUN_PATH {
            return Ok(Some(Self { path: path.to_owned(), _directory: None }));
        }
        let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else {
            return Ok(None);
        };
        if length > SUN_PATH || directory.as_os_str().is_empty() {
            return Ok(None);
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::open(directory, flags, Mode::empty())?;
        let path = Path::new("/proc/self/fd").join(directory.as_raw_fd().to_string()).join(name);
        let fits = path.as_os_str().as_bytes().len() < SUN_PATH;
        Ok(fits.then_some(Self { path, _directory: Some(directory) }))
    }

    /// A name that is no file's: it starts with a zero.
    pub fn abstract_name(name: &[u8]) -> Self {
        Self { path: OsStr::from_bytes(name).into(), _directory: None }
    }

    /// What to put into the address.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::{UnixListener, UnixStream};

    use super::*;

    /// A path of so many bytes below `directory`.
    fn path_of(directory: &Path, length: usize) -> PathBuf {
        let below = length - directory.as_os_str().as_bytes().len() - 1;
        directory.join("s".repeat(below))
    }

    #[test]
    fn a_path_may_fill_the_address() {
        let root = tempfile::tempdir().unwrap();
        // Longer than what stands for it.
        let directory = root.path().join("d".repeat(30));
        std::fs::create_dir(&directory).unwrap();
        for length in [SUN_PATH - 1, SUN_PATH] {
            let path = path_of(&directory, length);
            let listener = UnixListener::bind(UnixPath::new(&path).unwrap().unwrap().path());
            let listener = listener.unwrap();
            assert!(path.exists(), "{length}");
            UnixStream::connect(UnixPath::new(&path).unwrap().unwrap().path()).unwrap();
            listener.accept().unwrap();
        }
        let too_long = path_of(&directory, SUN_PATH + 1);
        assert!(UnixPath::new(&too_long).unwrap().is_none());
        assert!(UnixPath::new(Path::new(&"n".repeat(SUN_PATH))).unwrap().is_none());
        let nowhere = path_of(&directory.join("no"), SUN_PATH);
        assert_eq!(UnixPath::new(&nowhere).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
