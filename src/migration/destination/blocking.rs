//! A channel's bytes on a thread that may wait for them.

use std::future::Future;
use std::io::{self, Read};
use std::pin::Pin;

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
}

impl Blocking {
    pub(super) fn new(from: ChannelReader, runtime: Runtime, until: Until) -> Self {
        Self { from, runtime, until: Some(until) }
    }
}

impl Read for Blocking {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let given_up = || io::Error::other("the migration has been given up");
        let until = self.until.as_mut().ok_or_else(given_up)?;
        let from = &mut self.from;
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
