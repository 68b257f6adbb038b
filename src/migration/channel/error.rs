//! Why a channel cannot be opened. Sentences are the project's own where its contract states them,
//! QEMU's otherwise, and go on with the cause where QEMU's end at the symptom.

use std::io;
use std::path::Path;

use crate::net::descriptors::DescriptorError;
use crate::net::resolve::ResolveError;
use crate::qmp::error::os_words;
use crate::tls::HandshakeError;

/// Why a channel cannot be opened, or a listener not made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChannelError {
    #[error(transparent)]
    Resolve(#[from] ResolveError),
    #[error("Cannot disable IPv4 and IPv6 at same time")]
    NoFamily,
    /// Of a TCP or UNIX socket.
    #[error("Error connecting to socket: {0}")]
    Connect(String),
    #[error("Failed to connect to '{address}': {reason}")]
    ConnectVsock { address: String, reason: String },
    #[error("Failed to parse cid '{0}'")]
    Cid(String),
    #[error("Failed to parse port '{0}'")]
    VsockPort(String),
    #[error("UNIX socket path '{path}' is too long: at most {limit} bytes fit")]
    PathTooLong { path: String, limit: usize },
    #[error("Failed to bind socket to {address}: {reason}")]
    Bind { address: String, reason: String },
    #[error("Failed to find an available port: {0}")]
    NoPort(String),
    #[error("File descriptor named '{0}' has not been found")]
    NoSuchDescriptor(String),
    #[error("Invalid file descriptor number '{0}'")]
    DescriptorNumber(String),
    /// Of a set of descriptors in place of a file.
    #[error(transparent)]
    Given(#[from] DescriptorError),
    #[error("File descriptor '{name}': {reason}")]
    Descriptor { name: String, reason: String },
    #[error("Could not create '{path}': {reason}")]
    Create { path: String, reason: String },
    #[error("Could not open '{path}': {reason}")]
    Open { path: String, reason: String },
    #[error("failed to truncate migration file to offset {offset:x}: {reason}")]
    Truncate { offset: u64, reason: String },
    #[error("Failed to execute child process “{command}” ({reason})")]
    Spawn { command: String, reason: String },
    #[error(transparent)]
    Tls(#[from] HandshakeError),
    /// There is nobody there to shake hands with.
    #[error("TLS is not available over a file")]
    TlsOverFile,
    /// The credentials that a connection should be accepted with.
    #[error("{0}")]
    Credentials(String),
    #[error("Unable to accept a connection: {0}")]
    Accept(String),
    /// A command, a pipe or a connected socket has no second channel.
    #[error("multiple channels are not available over {0}")]
    OneChannel(&'static str),
}

impl ChannelError {
    pub(super) fn connect(error: &io::Error) -> Self {
        Self::Connect(os_words(error))
    }

    pub(super) fn bind(address: impl Into<String>, error: &io::Error) -> Self {
        Self::Bind { address: address.into(), reason: os_words(error) }
    }

    pub(super) fn open(path: &Path, error: &io::Error) -> Self {
        Self::Open { path: path.display().to_string(), reason: os_words(error) }
    }

    pub(super) fn descriptor(name: &str, error: &io::Error) -> Self {
        Self::Descriptor { name: name.to_owned(), reason: os_words(error) }
    }
}
