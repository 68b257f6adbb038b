//! Where a migration stream goes or comes from: the URI and QAPI's `MigrationAddress`, parsed
//! into one type. Sentences are QEMU's.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::error::ChannelError;
use crate::cli::value;
use crate::net::descriptors::Names;
use crate::net::resolve::Families;
use crate::qmp::error::QmpError;
use crate::qmp::visit;

/// Longest host and service in a URI, in bytes.
const HOST_MAX: usize = 64;
const SERVICE_MAX: usize = 32;

/// Why text is not an address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    #[error("unknown migration protocol: {0}")]
    UnknownProtocol(String),
    #[error("RDMA ERROR: migration over RDMA is not available")]
    NoRdma,
    #[error("error parsing address '{0}'")]
    Host(String),
    #[error("error parsing port in address '{0}'")]
    Port(String),
    #[error("error parsing IPv6 address '{0}'")]
    Ipv6(String),
    #[error("error parsing to= argument")]
    To,
    #[error("error parsing '{name}' flag '{text}'")]
    Flag { name: &'static str, text: String },
    #[error("trailing characters in address '{0}'")]
    Trailing(String),
    #[error("invalid Unix socket address")]
    Unix,
    #[error("invalid file descriptor address")]
    Fd,
    #[error("file URI has bad offset {text}: {reason}")]
    Offset { text: String, reason: &'static str },
    #[error("Parameter 'args' expects a command and its arguments")]
    NoCommand,
    #[error("Channel list has more than one main entry")]
    TwoMains,
    #[error("Channel list has no main entry")]
    NoMain,
    #[error("Channel type 'cpr' is not available")]
    NoCpr,
    /// The JSON is not a list of `MigrationChannel`.
    #[error(transparent)]
    Json(#[from] QmpError),
}

/// One end of a migration stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    Inet(InetAddress),
    Unix(UnixAddress),
    Vsock {
        cid: String,
        port: String,
    },
    /// A descriptor, by the name that `getfd` gave it or by number.
    Fd {
        name: String,
        /// The names of the monitor that it is from; without one, it is a number.
        of: Option<Names>,
    },
    /// A command and its arguments; at least one word.
    Exec(Vec<String>),
    File {
        path: PathBuf,
        /// Where the stream starts, in bytes.
        offset: u64,
    },
}

/// QAPI `InetSocketAddress`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct InetAddress {
    pub host: String,
    /// Service name or number.
    pub port: String,
    /// The host is a number, not to be looked up. The resolver sees that itself.
    #[serde(skip_serializing)]
    pub numeric: Option<bool>,
    /// Highest port that a listener may fall back to.
    #[serde(skip_serializing)]
    pub to: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ipv4: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ipv6: Option<bool>,
    #[serde(skip_serializing)]
    pub keep_alive: Option<bool>,
    #[serde(skip_serializing)]
    pub mptcp: Option<bool>,
}

/// QAPI `UnixSocketAddress`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct UnixAddress {
    pub path: PathBuf,
    /// A name without a file.
    #[serde(rename = "abstract", skip_serializing_if = "Option::is_none")]
    pub is_abstract: Option<bool>,
    /// An abstract name ends with the text, rather than filling the whole address (default).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tight: Option<bool>,
}

/// QAPI `MigrationAddress`.
#[derive(Debug, Clone, PartialEq, Deserialize, schemars::JsonSchema)]
#[serde(rename = "union transport", rename_all = "kebab-case")]
enum MigrationAddress {
    Socket(SocketAddress),
    Exec { args: Vec<String> },
    Rdma(InetAddress),
    File { filename: String, offset: u64 },
}

/// QAPI `SocketAddress`.
#[derive(Debug, Clone, PartialEq, Deserialize, schemars::JsonSchema)]
#[serde(rename = "union type", rename_all = "kebab-case")]
pub enum SocketAddress {
    Inet(InetAddress),
    Unix(UnixAddress),
    Vsock { cid: String, port: String },
    Fd { str: String },
}

/// QAPI `MigrationChannelType`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
enum ChannelType {
    Main,
    Cpr,
}

/// QAPI `MigrationChannel`, an argument of `migrate` and `migrate-incoming`.
#[derive(Debug, Clone, PartialEq, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct MigrationChannel {
    channel_type: ChannelType,
    addr: MigrationAddress,
}

impl Address {
    /// The same, for the clients of the monitor that has these names.
    pub fn named_by(self, names: &Names) -> Self {
        match self {
            Self::Fd { name, .. } => Self::Fd { name, of: Some(names.clone()) },
            other => other,
        }
    }

    /// A URI: `tcp:`, `unix:`, `vsock:`, `exec:`, `fd:` or `file:`.
    pub fn parse(uri: &str) -> Result<Self, AddressError> {
        let unknown = || AddressError::UnknownProtocol(uri.to_owned());
        let (protocol, rest) = uri.split_once(':').ok_or_else(unknown)?;
        match protocol {
            "tcp" => Ok(Self::Inet(inet(rest)?)),
            "unix" if rest.is_empty() => Err(AddressError::Unix),
            "unix" => {
                Ok(Self::Unix(UnixAddress { path: rest.into(), is_abstract: None, tight: None }))
            }
            "vsock" => vsock(rest),
            "fd" if rest.is_empty() => Err(AddressError::Fd),
            "fd" => Ok(Self::Fd { name: rest.to_owned(), of: None }),
            "exec" => Ok(Self::Exec(vec!["/bin/sh".into(), "-c".into(), rest.to_owned()])),
            "file" => file(rest),
            "rdma" => Err(AddressError::NoRdma),
            _ => Err(unknown()),
        }
    }

    /// The main channel's address in a JSON list of `MigrationChannel`.
    pub fn from_channels(channels: &Value) -> Result<Self, AddressError> {
        #[derive(Deserialize, schemars::JsonSchema)]
        struct Arguments {
            channels: Vec<MigrationChannel>,
        }
        let arguments = Map::from_iter([("channels".to_owned(), channels.clone())]);
        let Arguments { channels } = visit::arguments(arguments)?;
        Self::main(channels)
    }

    /// The main channel's address.
    pub fn main(channels: Vec<MigrationChannel>) -> Result<Self, AddressError> {
        let mut main = None;
        for channel in channels {
            match channel.channel_type {
                ChannelType::Cpr => return Err(AddressError::NoCpr),
                ChannelType::Main if main.is_some() => return Err(AddressError::TwoMains),
                ChannelType::Main => main = Some(channel.addr),
            }
        }
        match main.ok_or(AddressError::NoMain)? {
            MigrationAddress::Socket(SocketAddress::Inet(inet)) => Ok(Self::Inet(inet)),
            MigrationAddress::Socket(SocketAddress::Unix(unix)) => Ok(Self::Unix(unix)),
            MigrationAddress::Socket(SocketAddress::Vsock { cid, port }) => {
                Ok(Self::Vsock { cid, port })
            }
            MigrationAddress::Socket(SocketAddress::Fd { str }) => {
                Ok(Self::Fd { name: str, of: None })
            }
            MigrationAddress::Exec { args } if args.is_empty() => Err(AddressError::NoCommand),
            MigrationAddress::Exec { args } => Ok(Self::Exec(args)),
            MigrationAddress::Rdma(_) => Err(AddressError::NoRdma),
            MigrationAddress::File { filename, offset } => {
                Ok(Self::File { path: filename.into(), offset })
            }
        }
    }

    /// Opening it waits for nobody, so that a failure is the reply to the command; a failure of
    /// the others comes after it.
    pub fn opens_at_once(&self) -> bool {
        matches!(self, Self::Fd { .. } | Self::Exec(_) | Self::File { .. })
    }

    /// Can be connected to more than once, as multifd and postcopy preemption do.
    pub fn takes_many(&self) -> bool {
        !matches!(self, Self::Fd { .. } | Self::Exec(_))
    }

    /// Whether there is somebody to shake hands with.
    pub(super) fn check_tls(&self) -> Result<(), ChannelError> {
        match self {
            Self::File { .. } => Err(ChannelError::TlsOverFile),
            _ => Ok(()),
        }
    }

    /// The host that a TLS certificate has to name, unless `tls-hostname` says otherwise.
    pub fn host(&self) -> Option<&str> {
        match self {
            Self::Inet(inet) => Some(&inet.host),
            _ => None,
        }
    }
}

impl InetAddress {
    /// The kinds of address that are wanted; `None` if all are ruled out.
    pub fn families(&self) -> Option<Families> {
        Families::from_switches(self.ipv4, self.ipv6)
    }
}

/// Up to `max` bytes before `end`; at least one.
fn until(text: &str, end: char, max: usize) -> Option<(&str, &str)> {
    let length = text.find(end).unwrap_or(text.len());
    (1..=max).contains(&length).then(|| text.split_at(length))
}

/// `HOST:PORT[,to=PORT][,ipv4[=on|off]][,ipv6[=on|off]][,keep-alive[=on|off]]`, the host empty or
/// in brackets. What else follows the port is not looked at, as in QEMU.
fn inet(text: &str) -> Result<InetAddress, AddressError> {
    let whole = || text.to_owned();
    let (host, rest, error): (_, _, fn(String) -> AddressError) = if let Some(rest) =
        text.strip_prefix(':')
    {
        ("", Some(rest), AddressError::Port)
    } else if let Some(inner) = text.strip_prefix('[') {
        let (host, rest) =
            until(inner, ']', HOST_MAX).ok_or_else(|| AddressError::Ipv6(whole()))?;
        (host, rest.strip_prefix("]:"), AddressError::Ipv6)
    } else {
        let (host, rest) = until(text, ':', HOST_MAX).ok_or_else(|| AddressError::Host(whole()))?;
        (host, rest.strip_prefix(':'), AddressError::Host)
    };
    let found = rest.and_then(|rest| until(rest, ',', SERVICE_MAX));
    let (port, options) = found.ok_or_else(|| error(whole()))?;
    let to = match after(options, ",to=") {
        None => None,
        Some(to) => {
            let number = to.split(',').next().unwrap_or_default();
            Some(number.parse().map_err(|_| AddressError::To)?)
        }
    };
    Ok(InetAddress {
        host: host.to_owned(),
        port: port.to_owned(),
        numeric: None,
        to,
        ipv4: flag(options, ",ipv4", "ipv4")?,
        ipv6: flag(options, ",ipv6", "ipv6")?,
        keep_alive: flag(options, ",keep-alive", "keep-alive")?,
        mptcp: flag(options, ",mptcp", "mptcp")?,
    })
}

fn after<'t>(text: &'t str, start: &str) -> Option<&'t str> {
    text.find(start).and_then(|at| text.get(at + start.len()..))
}

/// A switch: present, `=on` or `=off`.
fn flag(options: &str, start: &str, name: &'static str) -> Result<Option<bool>, AddressError> {
    let Some(text) = after(options, start) else { return Ok(None) };
    match text.split(',').next().unwrap_or_default() {
        "" | "=on" => Ok(Some(true)),
        "=off" => Ok(Some(false)),
        _ => Err(AddressError::Flag { name, text: text.to_owned() }),
    }
}

/// `CID:PORT`
fn vsock(text: &str) -> Result<Address, AddressError> {
    let error = || AddressError::Host(text.to_owned());
    let (cid, rest) = until(text, ':', SERVICE_MAX).ok_or_else(error)?;
    let rest = rest.strip_prefix(':').ok_or_else(error)?;
    let (port, rest) = until(rest, ',', SERVICE_MAX).ok_or_else(error)?;
    match rest {
        "" => Ok(Address::Vsock { cid: cid.to_owned(), port: port.to_owned() }),
        _ => Err(AddressError::Trailing(text.to_owned())),
    }
}

/// `PATH[,offset=SIZE]`
fn file(text: &str) -> Result<Address, AddressError> {
    let Some((path, size)) = text.split_once(",offset=") else {
        return Ok(Address::File { path: text.into(), offset: 0 });
    };
    let out_of_range = |reason| AddressError::Offset { text: size.to_owned(), reason };
    match value::size("offset", size, 1) {
        Ok(offset) => Ok(Address::File { path: path.into(), offset }),
        Err(crate::cli::OptionError::OutOfRange { .. }) => {
            Err(out_of_range("Numerical result out of range"))
        }
        Err(_) => Err(out_of_range("Invalid argument")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(result: Result<Address, AddressError>) -> String {
        match result {
            Ok(Address::Inet(inet)) => {
                format!("{} {} {:?} {:?} {:?}", inet.host, inet.port, inet.to, inet.ipv4, inet.ipv6)
            }
            Ok(other) => format!("{other:?}"),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn uris() {
        let long_host = format!("tcp:{}:1", "h".repeat(65));
        let long_sentence = format!("error parsing address '{}:1'", "h".repeat(65));
        for (uri, expected) in [
            ("tcp:127.0.0.1:9000", "127.0.0.1 9000 None None None"),
            ("tcp:[::1]:9000", "::1 9000 None None None"),
            ("tcp::9000", " 9000 None None None"),
            ("tcp:h:1,ipv4=on,ipv6=off,to=9", "h 1 Some(9) Some(true) Some(false)"),
            ("tcp:h:1,ipv6", "h 1 None None Some(true)"),
            ("tcp:h:1,bogus=on", "h 1 None None None"),
            ("tcp:h:1,ipv4=maybe", "error parsing 'ipv4' flag '=maybe'"),
            ("tcp:h:1,keep-alive=x", "error parsing 'keep-alive' flag '=x'"),
            ("tcp:h:1,to=x", "error parsing to= argument"),
            ("tcp:127.0.0.1", "error parsing address '127.0.0.1'"),
            ("tcp:127.0.0.1:", "error parsing address '127.0.0.1:'"),
            ("tcp:", "error parsing address ''"),
            ("tcp::", "error parsing port in address ':'"),
            ("tcp:[::1", "error parsing IPv6 address '[::1'"),
            ("tcp:[::1]:", "error parsing IPv6 address '[::1]:'"),
            ("tcp:[::1]x:1", "error parsing IPv6 address '[::1]x:1'"),
            (&long_host, &long_sentence),
            ("unix:", "invalid Unix socket address"),
            ("unix:/a,b", r#"Unix(UnixAddress { path: "/a,b", is_abstract: None, tight: None })"#),
            ("fd:", "invalid file descriptor address"),
            ("fd:x", r#"Fd { name: "x", of: None }"#),
            ("exec:a b", r#"Exec(["/bin/sh", "-c", "a b"])"#),
            ("file:/x", r#"File { path: "/x", offset: 0 }"#),
            ("file:/x,offset=1.5K", r#"File { path: "/x", offset: 1536 }"#),
            ("file:/x,offset=0x10", r#"File { path: "/x", offset: 16 }"#),
            ("file:/x,offset=abc", "file URI has bad offset abc: Invalid argument"),
            ("file:/x,offset=", "file URI has bad offset : Invalid argument"),
            ("file:/x,offset=-1", "file URI has bad offset -1: Numerical result out of range"),
            ("file:/x,bogus=1", r#"File { path: "/x,bogus=1", offset: 0 }"#),
            ("vsock:9:1", r#"Vsock { cid: "9", port: "1" }"#),
            ("vsock:1", "error parsing address '1'"),
            ("vsock:1:2,x", "trailing characters in address '1:2,x'"),
            ("rdma:a:1", "RDMA ERROR: migration over RDMA is not available"),
            ("bogus:xyz", "unknown migration protocol: bogus:xyz"),
            ("justastring", "unknown migration protocol: justastring"),
            ("", "unknown migration protocol: "),
        ] {
            assert_eq!(shown(Address::parse(uri)), expected, "{uri}");
        }
    }

    #[test]
    fn channels() {
        let main = |addr: &str| format!(r#"[{{"channel-type":"main","addr":{addr}}}]"#);
        let inet = r#"{"transport":"socket","type":"inet","host":"h","port":"1"}"#;
        let two = format!(
            r#"[{{"channel-type":"main","addr":{inet}}},{{"channel-type":"main","addr":{inet}}}]"#
        );
        for (json, expected) in [
            (main(inet), "h 1 None None None"),
            (
                main(r#"{"transport":"socket","type":"unix","path":"/s","abstract":true}"#),
                r#"Unix(UnixAddress { path: "/s", is_abstract: Some(true), tight: None })"#,
            ),
            (
                main(r#"{"transport":"socket","type":"vsock","cid":"1","port":"2"}"#),
                r#"Vsock { cid: "1", port: "2" }"#,
            ),
            (
                main(r#"{"transport":"socket","type":"fd","str":"x"}"#),
                r#"Fd { name: "x", of: None }"#,
            ),
            (main(r#"{"transport":"exec","args":["/bin/false"]}"#), r#"Exec(["/bin/false"])"#),
            (
                main(r#"{"transport":"exec","args":[]}"#),
                "Parameter 'args' expects a command and its arguments",
            ),
            (
                main(r#"{"transport":"file","filename":"f","offset":7}"#),
                r#"File { path: "f", offset: 7 }"#,
            ),
            (
                main(r#"{"transport":"file","filename":"f"}"#),
                "Parameter 'channels[0].addr.offset' is missing",
            ),
            (two, "Channel list has more than one main entry"),
            (
                r#"[{"channel-type":"bogus","addr":{}}]"#.into(),
                "Parameter 'channel-type' does not accept value 'bogus'",
            ),
            (
                format!(r#"[{{"channel-type":"cpr","addr":{inet}}}]"#),
                "Channel type 'cpr' is not available",
            ),
            ("[]".into(), "Channel list has no main entry"),
            (r#"[{"channel-type":"main"}]"#.into(), "Parameter 'channels[0].addr' is missing"),
            (main("{}"), "Parameter 'channels[0].addr.transport' is missing"),
            (main("7"), "Invalid parameter type for 'channels[0].addr', expected: object"),
            (
                main(r#"{"transport":"bogus"}"#),
                "Parameter 'transport' does not accept value 'bogus'",
            ),
            (
                main(r#"{"transport":1}"#),
                "Invalid parameter type for 'channels[0].addr.transport', expected: string",
            ),
            (
                main(r#"{"transport":"socket","type":"bogus"}"#),
                "Parameter 'type' does not accept value 'bogus'",
            ),
            (
                main(r#"{"transport":"socket","type":"inet","port":"1"}"#),
                "Parameter 'channels[0].addr.host' is missing",
            ),
            (
                main(r#"{"transport":"socket","type":"inet","host":"h","port":1}"#),
                "Invalid parameter type for 'channels[0].addr.port', expected: string",
            ),
            (
                main(r#"{"transport":"socket","type":"inet","host":"h","port":"1","x":1}"#),
                "Parameter 'channels[0].addr.x' is unexpected",
            ),
            (
                main(r#"{"transport":"exec","args":["a"],"x":1}"#),
                "Parameter 'channels[0].addr.x' is unexpected",
            ),
            ("{}".into(), "Invalid parameter type for 'channels', expected: array"),
        ] {
            let value: Value = serde_json::from_str(&json).unwrap();
            assert_eq!(shown(Address::from_channels(&value)), expected, "{json}");
        }
    }
}
