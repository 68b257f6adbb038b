//! QAPI's `SocketAddressLegacy`: addresses as character devices are told them.

use serde::Deserialize;

use crate::migration::channel::{InetAddress, UnixAddress};

/// QAPI `SocketAddressLegacy`.
#[derive(Debug, Clone, Deserialize, schemars::JsonSchema)]
#[serde(rename = "union type", rename_all = "kebab-case")]
pub enum SocketAddressLegacy {
    Inet { data: InetAddress },
    Unix { data: UnixAddress },
    Fd { data: FdAddress },
}

impl Default for SocketAddressLegacy {
    fn default() -> Self {
        Self::Fd { data: FdAddress::default() }
    }
}

/// QAPI `FdSocketAddress`.
#[derive(Debug, Clone, Default, Deserialize, schemars::JsonSchema)]
pub struct FdAddress {
    pub str: String,
}
