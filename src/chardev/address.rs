//! QAPI's `SocketAddressLegacy`: addresses as character devices are told them.

use std::net::SocketAddr;

use serde::Deserialize;
use serde_json::{Value, json};

use crate::migration::channel::{InetAddress, UnixAddress};

/// QAPI `SocketAddressLegacy`.
#[derive(Debug, Clone, Deserialize, schemars::JsonSchema)]
#[serde(rename = "union type", rename_all = "kebab-case")]
pub enum SocketAddressLegacy {
    Inet { data: InetAddress },
    Unix { data: UnixAddress },
    Fd { data: FdAddress },
}

impl SocketAddressLegacy {
    /// QAPI `SocketAddress` of the same.
    pub fn flat(&self) -> Value {
        match self {
            Self::Inet { data } => {
                let mut flat = json!({"type": "inet", "host": data.host, "port": data.port});
                let mut add = |name: &str, value: Option<Value>| {
                    if let Some(value) = value {
                        flat[name] = value;
                    }
                };
                add("numeric", data.numeric.map(Value::from));
                add("to", data.to.map(Value::from));
                add("ipv4", data.ipv4.map(Value::from));
                add("ipv6", data.ipv6.map(Value::from));
                add("keep-alive", data.keep_alive.map(Value::from));
                add("mptcp", data.mptcp.map(Value::from));
                flat
            }
            Self::Unix { data: UnixAddress { path, is_abstract, tight } } => {
                unix(&path.display().to_string(), *is_abstract, *tight)
            }
            Self::Fd { data } => json!({"type": "fd", "str": data.str}),
        }
    }
}

/// QAPI `SocketAddress` of a path.
pub fn unix(path: &str, is_abstract: Option<bool>, tight: Option<bool>) -> Value {
    let mut flat = json!({"type": "unix", "path": path});
    if let Some(is_abstract) = is_abstract {
        flat["abstract"] = is_abstract.into();
    }
    if let Some(tight) = tight {
        flat["tight"] = tight.into();
    }
    flat
}

/// QAPI `SocketAddress` of the internet address that a socket has.
pub fn inet(at: SocketAddr) -> Value {
    let family = if at.is_ipv4() { "ipv4" } else { "ipv6" };
    json!({"type": "inet", "host": at.ip().to_string(), "port": at.port().to_string(), family: true})
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
