//! One end of a byte stream, read by a thread of its own, so that nothing that the machine writes
//! ever waits for the test.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::PATIENCE;

/// Shuts a socket down when it is dropped, though the reading thread has it too.
struct HangUp<S: AsFd + Write>(S);

impl<S: AsFd + Write> Write for HangUp<S> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.0.flush()
    }
}

impl<S: AsFd + Write> Drop for HangUp<S> {
    fn drop(&mut self) {
        // Refused only where the peer has closed it already.
        let _ = rustix::net::shutdown(&self.0, rustix::net::Shutdown::Both);
    }
}

/// Writes to a device. Once it is dropped nobody reads the device any more either: what comes then
/// is for whoever opens it next.
struct Lender(Option<Arc<File>>);

impl Write for Lender {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.as_deref().map_or(Ok(0), |mut device| device.write(bytes))
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Drop for Lender {
    fn drop(&mut self) {
        let reader = self.0.take().map(|device| Arc::downgrade(&device));
        while reader.as_ref().is_some_and(|device| device.strong_count() > 0) {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// Reads a device as long as its writer is there.
struct Borrowed(Weak<File>);

impl Read for Borrowed {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        // A moment in which something may come; the device is let go in between.
        let moment = Timespec { tv_sec: 0, tv_nsec: 20_000_000 };
        while let Some(device) = self.0.upgrade() {
            let mut polled = [PollFd::new(&*device, PollFlags::IN)];
            if poll(&mut polled, Some(&moment))? > 0 {
                return (&*device).read(buffer);
            }
        }
        Ok(0)
    }
}

/// A byte stream.
pub struct Stream {
    name: String,
    input: Receiver<Vec<u8>>,
    output: Option<Box<dyn Write + Send>>,
    /// Received and not yet taken.
    seen: Vec<u8>,
    /// `input` has ended.
    ended: bool,
}

impl Stream {
    /// A stream that reads from `input` and writes to `output`.
    pub fn new(
        name: &str,
        mut input: impl Read + Send + 'static,
        output: impl Write + Send + 'static,
    ) -> Self {
        let (sender, receiver) = channel();
        std::thread::spawn(move || {
            let mut buffer = vec![0; 1 << 16];
            while let Ok(count @ 1..) = input.read(&mut buffer) {
                if sender.send(buffer[..count].to_vec()).is_err() {
                    break;
                }
            }
        });
        Self {
            name: name.into(),
            input: receiver,
            output: Some(Box::new(output)),
            seen: Vec::new(),
            ended: false,
        }
    }

    /// A stream over a device, which is closed with it.
    pub fn on(name: &str, device: File) -> Self {
        let writer = Arc::new(device);
        let reader = Borrowed(Arc::downgrade(&writer));
        Self::new(name, reader, Lender(Some(writer)))
    }

    /// A stream over a socket, hung up when it is closed or dropped.
    pub fn over<S: AsFd + Read + Write + Send + 'static>(name: &str, socket: S) -> Self {
        let reader = File::from(socket.as_fd().try_clone_to_owned().expect("a descriptor"));
        Self::new(name, reader, HangUp(socket))
    }

    /// Write all of it.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        let output = self.output.as_mut().expect("a stream that is open");
        let sent = output.write_all(bytes.as_ref()).and_then(|()| output.flush());
        sent.unwrap_or_else(|error| panic!("{}: {error}", self.name));
    }

    /// Write no more.
    pub fn close(&mut self) {
        self.output = None;
    }

    /// Receive more. False at the end and at the deadline.
    fn receive(&mut self, deadline: Instant) -> bool {
        let time = deadline.saturating_duration_since(Instant::now());
        match self.input.recv_timeout(time) {
            Ok(bytes) => self.seen.extend(bytes),
            Err(RecvTimeoutError::Disconnected) => self.ended = true,
            Err(RecvTimeoutError::Timeout) => return false,
        }
        !self.ended
    }

    /// What comes up to and with `pattern`.
    pub fn expect(&mut self, pattern: &str) -> String {
        String::from_utf8_lossy(&self.expect_bytes(pattern.as_bytes())).into_owned()
    }

    /// What comes up to and with `pattern`, as it came.
    pub fn expect_bytes(&mut self, pattern: &[u8]) -> Vec<u8> {
        let deadline = Instant::now() + PATIENCE;
        let mut from = 0;
        loop {
            let found = self.seen[from..].windows(pattern.len()).position(|w| w == pattern);
            if let Some(at) = found {
                let rest = self.seen.split_off(from + at + pattern.len());
                return std::mem::replace(&mut self.seen, rest);
            }
            from = self.seen.len().saturating_sub(pattern.len() - 1);
            if !self.receive(deadline) {
                let why = if self.ended { "the end" } else { "nothing more" };
                let tail = &self.seen[self.seen.len().saturating_sub(4000)..];
                panic!(
                    "{}: {why}, waiting for {:?}, after {:?}",
                    self.name,
                    String::from_utf8_lossy(pattern),
                    String::from_utf8_lossy(tail)
                );
            }
        }
    }

    /// Everything that has come, as soon as it is what `wanted` wants.
    pub fn expect_text(&mut self, wanted: impl Fn(&str) -> bool) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let text = String::from_utf8_lossy(&self.seen).into_owned();
            if wanted(&text) {
                self.seen.clear();
                return text;
            }
            assert!(self.receive(deadline), "{}: not what is wanted: {text:?}", self.name);
        }
    }

    /// Everything up to the end, which has to come.
    pub fn rest(&mut self) -> Vec<u8> {
        let deadline = Instant::now() + PATIENCE;
        while self.receive(deadline) {}
        assert!(self.ended, "{}: does not end", self.name);
        std::mem::take(&mut self.seen)
    }

    /// Everything that comes within `time`.
    pub fn within(&mut self, time: Duration) -> Vec<u8> {
        let deadline = Instant::now() + time;
        while self.receive(deadline) {}
        std::mem::take(&mut self.seen)
    }
}
