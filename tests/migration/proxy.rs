//! What stands between the two sides and counts the bytes that pass; it can cut the line.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use rustix::net::{Shutdown, shutdown};

#[derive(Default)]
struct Shared {
    /// Bytes from source to destination.
    forward: AtomicU64,
    /// How many more may pass in that direction before the line is cut.
    lets: AtomicU64,
    cut: AtomicBool,
}

/// A proxy of as many connections as come.
pub struct Proxy {
    shared: Arc<Shared>,
    /// Where the source connects.
    pub uri: String,
}

impl Proxy {
    /// From a port of its own to this one.
    pub fn tcp(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let uri = format!("tcp:{}", listener.local_addr().expect("its address"));
        let accept = move || Ok(listener.accept()?.0.into());
        let connect = move || Ok(TcpStream::connect(("127.0.0.1", port))?.into());
        Self::start(uri, accept, connect)
    }

    /// From one path to another.
    pub fn unix(from: &Path, to: PathBuf) -> Self {
        let listener = UnixListener::bind(from).expect("a socket");
        let uri = format!("unix:{}", from.display());
        let accept = move || Ok(listener.accept()?.0.into());
        let connect = move || Ok(UnixStream::connect(&to)?.into());
        Self::start(uri, accept, connect)
    }

    fn start(
        uri: String,
        accept: impl Fn() -> io::Result<OwnedFd> + Send + 'static,
        connect: impl Fn() -> io::Result<OwnedFd> + Send + 'static,
    ) -> Self {
        let lets = AtomicU64::new(u64::MAX);
        let shared = Arc::new(Shared { lets, ..Shared::default() });
        let proxy = Self { shared: Arc::clone(&shared), uri };
        // Ends with the test's process: nobody can wake it from `accept`.
        thread::spawn(move || {
            while let Ok(source) = accept() {
                // A destination that is gone is what the source gets to know by the line's end.
                let Ok(destination) = connect() else { continue };
                let (source, destination) = (Arc::new(source), Arc::new(destination));
                for (from, to, forward) in
                    [(&source, &destination, true), (&destination, &source, false)]
                {
                    let (from, to, shared) =
                        (Arc::clone(from), Arc::clone(to), Arc::clone(&shared));
                    thread::spawn(move || pass(&from, &to, &shared, forward));
                }
            }
        });
        proxy
    }

    /// Bytes that have passed from source to destination.
    pub fn forward(&self) -> u64 {
        self.shared.forward.load(Ordering::Acquire)
    }

    /// Cut the line when this many bytes have passed.
    pub fn cut_after(&self, bytes: u64) {
        self.shared.lets.store(bytes, Ordering::Release);
    }
}

/// Pass on what comes until one end closes, or the line is cut.
fn pass(from: &OwnedFd, to: &OwnedFd, shared: &Shared, forward: bool) {
    let reader = File::from(from.as_fd().try_clone_to_owned().expect("a descriptor"));
    let writer = File::from(to.as_fd().try_clone_to_owned().expect("a descriptor"));
    let mut buffer = vec![0; 64 << 10];
    while let Ok(count @ 1..) = (&reader).read(&mut buffer) {
        let mut bytes = &buffer[..count];
        if forward {
            let lets = shared.lets.load(Ordering::Acquire);
            let passed = shared.forward.load(Ordering::Acquire);
            if passed + count as u64 > lets {
                bytes = &bytes[..lets.saturating_sub(passed) as usize];
                shared.cut.store(true, Ordering::Release);
            }
            shared.forward.fetch_add(bytes.len() as u64, Ordering::AcqRel);
        }
        if (&writer).write_all(bytes).is_err() || shared.cut.load(Ordering::Acquire) {
            let _ = shutdown(from, Shutdown::Both);
            break;
        }
    }
    // Refused only where the peer has closed it already.
    let _ = shutdown(
        to,
        if shared.cut.load(Ordering::Acquire) { Shutdown::Both } else { Shutdown::Write },
    );
}
