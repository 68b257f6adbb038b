//! What a character back end is asked to be: plain data, made by the command line and by
//! `chardev-add`, opened by `super::open`. Names are those of QAPI's `ChardevBackend`.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;

/// A character device to open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChardevSpec {
    /// Identifier, unique among character devices (`serial0`, `compat_monitor0`, or the user's).
    pub id: String,
    /// What the device talks to.
    pub kind: ChardevKind,
    /// Put a multiplexer with Ctrl-a escapes in front (`mux=on`, `mon:`).
    pub mux: bool,
    /// Copy of everything that is output.
    pub log: Option<LogSpec>,
    /// The option as written (`-chardev null,id=a`), which starts an error message about it.
    pub origin: String,
}

/// `logfile=` and `logappend=`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogSpec {
    pub path: PathBuf,
    /// Keep what the file has; otherwise it is emptied first.
    pub append: bool,
}

/// The kinds of back end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChardevKind {
    /// Output vanishes, no input.
    Null,
    /// The process's standard input and output. With `signal` off, Ctrl-c and the like reach the
    /// guest.
    Stdio {
        signal: bool,
    },
    /// A new pseudo-terminal, perhaps with a symbolic link to it.
    Pty {
        link: Option<PathBuf>,
    },
    /// Output into a file, input from another.
    File {
        out: PathBuf,
        append: bool,
        input: Option<PathBuf>,
    },
    /// `PATH.in` and `PATH.out`, or one file for both directions.
    Pipe {
        path: PathBuf,
    },
    /// The last `size` bytes of output, read by `ringbuf-read`; a power of two.
    Ringbuf {
        size: usize,
    },
    Socket(SocketSpec),
    /// Datagrams: each write is one.
    Udp(UdpSpec),
    /// A text console, of which nobody sees anything.
    Vc,
    /// A terminal of the host's, such as a serial port.
    Serial {
        path: PathBuf,
    },
    /// One front end on several character devices.
    Hub {
        chardevs: Vec<String>,
    },
    /// A multiplexer over character device `chardev` (`mux` of the spec is not needed then).
    Mux {
        chardev: String,
    },
}

impl ChardevKind {
    /// Its type in the object model.
    pub fn type_name(&self) -> &'static str {
        match self {
            Self::Null => "chardev-null",
            Self::Stdio { .. } => "chardev-stdio",
            Self::Pty { .. } => "chardev-pty",
            Self::File { .. } => "chardev-file",
            Self::Pipe { .. } => "chardev-pipe",
            Self::Ringbuf { .. } => "chardev-ringbuf",
            Self::Socket(_) => "chardev-socket",
            Self::Udp(_) => "chardev-udp",
            Self::Vc => "chardev-vc",
            Self::Serial { .. } => "chardev-serial",
            Self::Hub { .. } => "chardev-hub",
            Self::Mux { .. } => "chardev-mux",
        }
    }
}

/// A stream socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SocketSpec {
    pub address: SocketAddress,
    /// Listen, rather than connect.
    pub server: bool,
    /// A server holds up the machine's start until a client has connected.
    pub wait: bool,
    /// Disable Nagle's algorithm (TCP).
    pub nodelay: bool,
    /// Offer the client telnet's options, and take out what it says of them.
    pub telnet: bool,
    /// The same for a 3270 terminal's.
    pub tn3270: bool,
    /// Take clients that speak WebSocket.
    pub websocket: bool,
    /// A client that is refused or dropped tries again after this long.
    pub reconnect: Option<Duration>,
    /// Speak TLS (TCP, or a listening socket of the parent's).
    pub tls: Option<TlsSpec>,
    /// QAPI `SocketAddress`, as it was given.
    pub given: Value,
}

/// `tls-creds=` and `tls-authz=`: identifiers of objects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsSpec {
    pub credentials: String,
    /// Which clients may connect; looked up when one does.
    pub authorization: Option<String>,
}

/// Ends of a stream of datagrams.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UdpSpec {
    pub remote: Host,
    /// Where datagrams are received; any port of any address if left out.
    pub local: Option<Host>,
}

/// An internet address to be looked up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// Empty for any address (at our end) or the local host (at the other).
    pub host: String,
    /// Service name or number.
    pub port: String,
    pub ipv4: Option<bool>,
    pub ipv6: Option<bool>,
    /// Names are not looked up.
    pub numeric: bool,
}

/// Where a stream socket listens or connects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SocketAddress {
    Inet {
        at: Host,
        /// Highest port a server may fall back to.
        to: Option<u16>,
    },
    Unix {
        path: PathBuf,
        /// Abstract name (`abstract=on`), without a file.
        is_abstract: bool,
        /// An abstract name ends with the text, rather than filling the whole address.
        tight: bool,
    },
    /// A descriptor: by its name if a monitor's client has passed it, by its number if it is
    /// inherited from the parent process.
    Fd(String),
}
