//! Opening an address as the source of a migration.

use std::fmt::Debug;
use std::sync::Arc;

use super::address::Address;
use super::error::ChannelError;
use super::{Channel, command, file, socket};
use crate::net::descriptors::Descriptors;
use crate::net::inherited;
use crate::net::resolve::Resolver;
use crate::tls::{ClientTls, ServerTls};

/// What opening an address may need besides it.
#[derive(Debug, Clone, Default)]
pub struct ChannelContext {
    /// What clients have given.
    pub descriptors: Descriptors,
    /// Where names are looked up; the system's configuration, read anew each time, if `None`.
    pub resolver: Option<Resolver>,
    /// Shake hands on what is connected to.
    pub client_tls: Option<ClientTls>,
    /// Whether to shake hands on what connects.
    pub server_tls: ServerTlsChoice,
    /// Open a file once more, for pages past the host's cache.
    pub direct_io: bool,
}

/// Whether to shake hands on a connection, and how: decided when it comes.
#[derive(Clone)]
pub struct ServerTlsChoice(Arc<Choose>);

type Choose = dyn Fn() -> Result<Option<ServerTls>, String> + Send + Sync;

impl ServerTlsChoice {
    /// Asked for every connection. An error is a sentence, and ends the listening.
    pub fn new(
        choose: impl Fn() -> Result<Option<ServerTls>, String> + Send + Sync + 'static,
    ) -> Self {
        Self(Arc::new(choose))
    }

    pub(super) fn now(&self) -> Result<Option<ServerTls>, ChannelError> {
        (self.0)().map_err(ChannelError::Credentials)
    }
}

impl Default for ServerTlsChoice {
    /// Never.
    fn default() -> Self {
        Self::new(|| Ok(None))
    }
}

impl From<ServerTls> for ServerTlsChoice {
    /// Always.
    fn from(tls: ServerTls) -> Self {
        Self::new(move || Ok(Some(tls.clone())))
    }
}

impl Debug for ServerTlsChoice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ServerTlsChoice")
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
        Address::Fd { name, of } => {
            let named = of.as_ref().and_then(|names| names.take(name));
            let given = named.or_else(|| {
                let number = name.parse().ok().filter(|&number| number > 2)?;
                inherited::duplicate(number).ok()
            });
            let fd = given.ok_or_else(|| ChannelError::NoSuchDescriptor(name.clone()))?;
            file::adopt(fd, name)
        }
    }
}
