//! QAPI's `ChardevBackend`: what `chardev-add` and `chardev-change` take, and what it means. Options
//! that are at odds are refused in QEMU's order and words; so are those of `-chardev`.

use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

use super::ChardevError;
use super::address::SocketAddressLegacy;
use super::spec::{
    ChardevKind, ChardevSpec, Host, LogSpec, SocketAddress, SocketSpec, TlsSpec, UdpSpec,
};
use crate::migration::channel::{InetAddress, UnixAddress};
use crate::objects::Objects;
use crate::tls::Endpoint;

/// Bytes that a ring buffer keeps if nothing is said.
const RINGBUF_SIZE: i64 = 65536;
/// The most that it may be told to keep.
const RINGBUF_MAX: usize = 1 << 30;

/// QAPI `ChardevBackend`, without the kinds that are not there.
#[derive(Debug, Clone, Deserialize, schemars::JsonSchema)]
#[serde(rename = "union type", rename_all = "kebab-case")]
pub enum ChardevBackend {
    File { data: ChardevFile },
    Serial { data: ChardevHostdev },
    Pipe { data: ChardevHostdev },
    Socket { data: ChardevSocket },
    Udp { data: ChardevUdp },
    Pty { data: ChardevPty },
    Null { data: ChardevCommon },
    Hub { data: ChardevHub },
    Mux { data: ChardevMux },
    Stdio { data: ChardevStdio },
    Vc { data: ChardevVc },
    Ringbuf { data: ChardevRingbuf },
    Memory { data: ChardevRingbuf },
}

/// Every kind, in the order in which QEMU lists them.
pub const KINDS: [&str; 13] = [
    "stdio", "pty", "serial", "file", "udp", "memory", "vc", "socket", "null", "hub", "pipe",
    "mux", "ringbuf",
];

macro_rules! options {
    ($($(#[$doc:meta])* $name:ident {
        $($(#[$field_doc:meta])* $field:ident: $type:ty,)*
    })*) => {
        $($(#[$doc])*
        #[derive(Debug, Clone, Default, Deserialize, schemars::JsonSchema)]
        #[serde(rename_all = "kebab-case")]
        pub struct $name {
            pub logfile: Option<PathBuf>,
            pub logappend: Option<bool>,
            $($(#[$field_doc])* pub $field: $type,)*
        }

        impl $name {
            fn log(&self) -> Option<LogSpec> {
                let append = self.logappend.unwrap_or(false);
                self.logfile.clone().map(|path| LogSpec { path, append })
            }
        })*
    };
}

options! {
    /// QAPI `ChardevCommon`.
    ChardevCommon {}

    /// QAPI `ChardevFile`.
    ChardevFile {
        #[serde(rename = "in")]
        input: Option<PathBuf>,
        out: PathBuf,
        append: Option<bool>,
    }

    /// QAPI `ChardevHostdev`.
    ChardevHostdev {
        device: PathBuf,
    }

    /// QAPI `ChardevSocket`.
    ChardevSocket {
        addr: SocketAddressLegacy,
        tls_creds: Option<String>,
        tls_authz: Option<String>,
        server: Option<bool>,
        wait: Option<bool>,
        nodelay: Option<bool>,
        telnet: Option<bool>,
        tn3270: Option<bool>,
        websocket: Option<bool>,
        /// In seconds.
        reconnect: Option<i64>,
        reconnect_ms: Option<i64>,
    }

    /// QAPI `ChardevUdp`.
    ChardevUdp {
        remote: SocketAddressLegacy,
        local: Option<SocketAddressLegacy>,
    }

    /// QAPI `ChardevPty`.
    ChardevPty {
        path: Option<PathBuf>,
    }

    /// QAPI `ChardevHub`.
    ChardevHub {
        chardevs: Vec<String>,
    }

    /// QAPI `ChardevMux`.
    ChardevMux {
        chardev: String,
    }

    /// QAPI `ChardevStdio`.
    ChardevStdio {
        signal: Option<bool>,
    }

    /// QAPI `ChardevVC`. There is no screen whose size these could be.
    ChardevVc {
        width: Option<i64>,
        height: Option<i64>,
        cols: Option<i64>,
        rows: Option<i64>,
    }

    /// QAPI `ChardevRingbuf`.
    ChardevRingbuf {
        size: Option<i64>,
    }
}

fn refused<T>(sentence: &str) -> Result<T, ChardevError> {
    Err(ChardevError::Refused(sentence.to_owned()))
}

impl ChardevBackend {
    /// The device that is asked for.
    pub fn into_spec(self, id: String, objects: &Objects) -> Result<ChardevSpec, ChardevError> {
        if let Self::Socket { data } = &self
            && let Some(credentials) = &data.tls_creds
        {
            // Before anything else that may be wrong with a socket.
            let server = data.server.unwrap_or(true);
            let side = if server { Endpoint::Server } else { Endpoint::Client };
            objects.credentials(credentials, side)?;
        }
        let (kind, log) = match self {
            Self::Null { data } => (ChardevKind::Null, data.log()),
            Self::Vc { data } => (ChardevKind::Vc, data.log()),
            Self::Stdio { data } => {
                (ChardevKind::Stdio { signal: data.signal.unwrap_or(true) }, data.log())
            }
            Self::Pty { data } => (ChardevKind::Pty { link: data.path.clone() }, data.log()),
            Self::Mux { data } => (ChardevKind::Mux { chardev: data.chardev.clone() }, data.log()),
            Self::Hub { data } => {
                (ChardevKind::Hub { chardevs: data.chardevs.clone() }, data.log())
            }
            Self::Serial { data } => {
                (ChardevKind::Serial { path: data.device.clone() }, data.log())
            }
            Self::Pipe { data } => (ChardevKind::Pipe { path: data.device.clone() }, data.log()),
            Self::File { data } => {
                let (out, input) = (data.out.clone(), data.input.clone());
                let append = data.append.unwrap_or(false);
                (ChardevKind::File { out, append, input }, data.log())
            }
            Self::Ringbuf { data } | Self::Memory { data } => {
                let size = ringbuf_size(data.size.unwrap_or(RINGBUF_SIZE))?;
                (ChardevKind::Ringbuf { size }, data.log())
            }
            Self::Udp { data } => (ChardevKind::Udp(data.spec()?), data.log()),
            Self::Socket { data } => (ChardevKind::Socket(data.spec()?), data.log()),
        };
        let origin = format!("chardev {id}");
        Ok(ChardevSpec { id, kind, mux: false, log, origin })
    }
}

/// The size of a ring buffer, checked.
pub fn ringbuf_size(size: i64) -> Result<usize, ChardevError> {
    if size & size.wrapping_sub(1) != 0 {
        return refused("size of ringbuf chardev must be power of two");
    }
    match usize::try_from(size) {
        Ok(size) if size <= RINGBUF_MAX => Ok(size),
        _ => refused("size of ringbuf chardev must be at most 1 GiB"),
    }
}

impl From<InetAddress> for Host {
    fn from(InetAddress { host, port, ipv4, ipv6, numeric, .. }: InetAddress) -> Self {
        Self { host, port, ipv4, ipv6, numeric: numeric.unwrap_or(false) }
    }
}

impl ChardevUdp {
    fn spec(&self) -> Result<UdpSpec, ChardevError> {
        let inet = |address: &SocketAddressLegacy| match address {
            SocketAddressLegacy::Inet { data } => Ok(Host::from(data.clone())),
            _ => refused("socket type unsupported for datagram"),
        };
        let remote = inet(&self.remote)?;
        if remote.port.is_empty() {
            return refused("remote port not specified");
        }
        Ok(UdpSpec { remote, local: self.local.as_ref().map(inet).transpose()? })
    }
}

impl ChardevSocket {
    /// The socket that is asked for, if its options agree with one another.
    pub fn spec(&self) -> Result<SocketSpec, ChardevError> {
        let server = self.server.unwrap_or(true);
        match &self.addr {
            SocketAddressLegacy::Fd { .. } if self.reconnect.is_some() => {
                return refused("'reconnect' option is incompatible with 'fd' address type");
            }
            SocketAddressLegacy::Fd { .. } if self.tls_creds.is_some() && !server => {
                return refused(
                    "'tls_creds' option is incompatible with 'fd' address type as client",
                );
            }
            SocketAddressLegacy::Unix { .. } if self.tls_creds.is_some() => {
                return refused("'tls_creds' option is incompatible with 'unix' address type");
            }
            _ => {}
        }
        if self.tls_authz.is_some() && self.tls_creds.is_none() {
            return refused("'tls_authz' option requires 'tls_creds' option");
        }
        if server && self.reconnect.is_some() {
            return refused("'reconnect' option is incompatible with socket in server listen mode");
        }
        if !server && self.websocket == Some(true) {
            return refused("Websocket client is not implemented");
        }
        if !server && self.wait.is_some() {
            return refused("'wait' option is incompatible with socket in client connect mode");
        }
        if self.reconnect.is_some() && self.reconnect_ms.is_some() {
            return refused("'reconnect' and 'reconnect-ms' are mutually exclusive");
        }
        let given = self.addr.flat();
        let address = match self.addr.clone() {
            SocketAddressLegacy::Inet { data } => {
                SocketAddress::Inet { to: data.to, at: data.into() }
            }
            SocketAddressLegacy::Unix { data: UnixAddress { path, is_abstract, tight } } => {
                let is_abstract = is_abstract.unwrap_or(false);
                SocketAddress::Unix { path, is_abstract, tight: tight.unwrap_or(true) }
            }
            SocketAddressLegacy::Fd { data } => SocketAddress::Fd(data.str),
        };
        let milliseconds = self.reconnect.map(|seconds| seconds.saturating_mul(1000));
        let interval = u64::try_from(milliseconds.or(self.reconnect_ms).unwrap_or(0)).unwrap_or(0);
        // A client of a socket that is there already has nowhere to connect to again.
        let reconnects = interval > 0 && !matches!(address, SocketAddress::Fd(_));
        Ok(SocketSpec {
            address,
            server,
            wait: server && self.wait.unwrap_or(false),
            nodelay: self.nodelay.unwrap_or(false),
            telnet: self.telnet.unwrap_or(false),
            tn3270: self.tn3270.unwrap_or(false),
            websocket: self.websocket.unwrap_or(false),
            given,
            reconnect: reconnects.then_some(Duration::from_millis(interval)),
            tls: self
                .tls_creds
                .clone()
                .map(|credentials| TlsSpec { credentials, authorization: self.tls_authz.clone() }),
        })
    }
}
