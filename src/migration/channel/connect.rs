//! Opening an address as the source of a migration.

use std::fmt::Debug;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use super::address::Address;
use super::error::ChannelError;
use super::{Channel, command, file, socket};
use crate::net::inherited;
use crate::net::resolve::Resolver;
use crate::tls::{ClientTls, ServerTls};

/// Where descriptors come from that a client gave to the monitor.
pub trait FdSource: Debug + Send + Sync {
    /// The descriptor that `getfd` received under this name; it is the caller's from now on.
    fn take(&self, name: &str) -> Option<OwnedFd>;

    /// A duplicate of a member of a set of `add-fd`: one that was opened for this.
    fn member_of(&self, set: u64, usage: FdUsage) -> Option<OwnedFd>;
}

/// What a descriptor of a file is to be good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FdUsage {
    /// It is written, or read.
    pub writable: bool,
    /// Opened with `O_DIRECT`; the others are not.
    pub direct: bool,
}

/// No client has given any.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoDescriptors;

impl FdSource for NoDescriptors {
    fn take(&self, _: &str) -> Option<OwnedFd> {
        None
    }

    fn member_of(&self, _: u64, _: FdUsage) -> Option<OwnedFd> {
        None
    }
}

/// What opening an address may need besides it.
#[derive(Debug, Clone)]
pub struct ChannelContext {
    pub descriptors: Arc<dyn FdSource>,
    /// Where names are looked up; the system's configuration, read anew each time, if `None`.
    pub resolver: Option<Resolver>,
    /// Shake hands on what is connected to.
    pub client_tls: Option<ClientTls>,
    /// Shake hands on what connects.
    pub server_tls: Option<ServerTls>,
    /// Open a file once more, for pages past the host's cache.
    pub direct_io: bool,
}

impl Default for ChannelContext {
    fn default() -> Self {
        Self {
            descriptors: Arc::new(NoDescriptors),
            resolver: None,
            client_tls: None,
            server_tls: None,
            direct_io: false,
        }
    }
}

impl ChannelContext {
    pub(super) fn resolver(&self) -> Resolver {
        self.resolver.clone().unwrap_or_else(Resolver::system)
    }
}

/// Connect to an address, and shake hands if TLS is asked for. Waits for as long as the peer's
/// host takes to answer; dropping the future gives up.
pub async fn connect(address: &Address, context: &ChannelContext) -> Result<Channel, ChannelError> {
    if context.client_tls.is_some() {
        address.check_tls()?;
    }
    let channel = connect_plain(address, context).await?;
    match &context.client_tls {
        None => Ok(channel),
        Some(tls) => channel.secured_as_client(tls, address.host()).await,
    }
}

async fn connect_plain(
    address: &Address,
    context: &ChannelContext,
) -> Result<Channel, ChannelError> {
    match address {
        Address::Inet(inet) => socket::connect_inet(inet, &context.resolver()).await,
        Address::Unix(unix) => socket::connect_unix(unix).await,
        Address::Vsock { cid, port } => socket::connect_vsock(cid, port).await,
        Address::Exec(words) => command::spawn(words),
        Address::File { path, offset } => file::create(path, *offset, context).await,
        Address::Fd(name) => {
            let given = context.descriptors.take(name).or_else(|| {
                let number = name.parse().ok().filter(|&number| number > 2)?;
                inherited::duplicate(number).ok()
            });
            let fd = given.ok_or_else(|| ChannelError::NoSuchDescriptor(name.clone()))?;
            file::adopt(fd, name)
        }
    }
}
