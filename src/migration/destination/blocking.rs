//! A channel's bytes on a thread that may wait for them.

use std::future::Future;
use std::io::{self, Read};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::AsyncReadExt;
use tokio::runtime::Handle as Runtime;

use crate::migration::channel::ChannelReader;

/// What ends the waiting.
pub(super) type Until = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Reads until there is no use in it any more.
pub(super) struct Blocking {
    from: ChannelReader,
    runtime: Runtime,
    until: Option<Until>,
    at_once: Arc<AtomicUsize>,
}

impl Blocking {
    pub(super) fn new(from: ChannelReader, runtime: Runtime, until: Until) -> Self {
        Self { from, runtime, until: Some(until), at_once: Arc::new(usize::MAX.into()) }
    }

    /// Read no more than so many bytes at once.
    pub(super) fn limited_by(mut self, at_once: Arc<AtomicUsize>) -> Self {
        self.at_once = at_once;
        self
    }
}

impl Read for Blocking {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let given_up = || io::Error::other("the migration has been given up");
        let until = self.until.as_mut().ok_or_else(given_up)?;
        let from = &mut self.from;
        let length = out.len().min(self.at_once.load(Ordering::Relaxed));
        let out = &mut out[..length];
        let read = self.runtime.block_on(async {
            tokio::select! {
                biased;
                read = from.read(out) => Some(read),
                () = until => None,
            }
        });
        read.unwrap_or_else(|| {
            self.until = None;
            Err(given_up())
        })
    }
}
