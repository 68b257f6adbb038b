//! Where virtio-rng's bytes come from: the machine's generator, or a file (`rng-random`), which may
//! make its reader wait and therefore has a thread of its own.

use std::fs::File;
use std::io::Read as _;
use std::sync::mpsc;

use actix::Message;

use crate::actors::outlet::Outlet;
use crate::block::message::IoFailed;
use crate::machine::guest_random::GuestRandom;
use crate::threads;

/// Bytes of one request at most.
pub const ENTROPY_MAX: usize = 4096;

/// Device → source: bytes are wanted; one `Entropy` follows.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct EntropyWanted {
    /// 1 to `ENTROPY_MAX`.
    pub len: usize,
    pub to: Outlet<Entropy>,
}

/// Source → device: at most as many bytes as were asked for; none if the source failed.
#[derive(Debug, Clone, PartialEq, Eq, Message)]
#[rtype(result = "()")]
pub struct Entropy(pub Vec<u8>);

/// The text is QEMU's.
#[derive(Debug, thiserror::Error)]
pub enum EntropyError {
    #[error("Could not open '{path}': {reason}")]
    Open { path: String, reason: IoFailed },
    #[error("Could not start a thread for '{path}': {reason}")]
    Thread { path: String, reason: IoFailed },
}

/// `rng-builtin`: what is random to the guest anyway, and never makes its reader wait.
pub fn builtin(random: GuestRandom) -> Outlet<EntropyWanted> {
    Outlet::fold(move |EntropyWanted { len, to }| {
        let mut bytes = vec![0; len.min(ENTROPY_MAX)];
        if random.fill(&mut bytes).is_err() {
            bytes.clear();
        }
        to.send(Entropy(bytes));
    })
}

/// `rng-random`: a file such as a hardware generator's.
pub fn from_file(path: &str) -> Result<Outlet<EntropyWanted>, EntropyError> {
    let mut file = File::open(path)
        .map_err(|e| EntropyError::Open { path: path.to_owned(), reason: (&e).into() })?;
    let (sender, wanted) = mpsc::channel::<EntropyWanted>();
    threads::named("rng")
        .spawn(move || {
            for EntropyWanted { len, to } in wanted {
                let mut bytes = vec![0; len.min(ENTROPY_MAX)];
                let got = file.read(&mut bytes).unwrap_or_else(|error| {
                    tracing::warn!(%error, "cannot read entropy");
                    0
                });
                bytes.truncate(got);
                to.send(Entropy(bytes));
            }
        })
        .map_err(|e| EntropyError::Thread { path: path.to_owned(), reason: (&e).into() })?;
    Ok(Outlet::fold(move |request| {
        // The thread ends only after this sender is dropped.
        let _ = sender.send(request);
    }))
}
