//! `-chardev`, `-serial`, `-monitor`, `-qmp`, `-mon`: character devices and who sits on them.

use std::path::PathBuf;

use super::opts::Opts;
use super::{CliError, Given, OptionError, Step, refused, value};
use crate::chardev::address::{FdAddress, SocketAddressLegacy};
use crate::chardev::options::{ChardevSocket, KINDS, ringbuf_size};
use crate::chardev::spec::{ChardevKind, ChardevSpec, Host, LogSpec, UdpSpec};
use crate::chardev::{ChardevError, MAX_HUB, MAX_MUX};
use crate::machine::spec::{BoardKind, MachineSpec, MonitorMode, MonitorSpec, QtestLog, QtestSpec};
use crate::migration::channel::{InetAddress, UnixAddress};

pub const HMP: MonitorMode = MonitorMode::Hmp;
pub const QMP: MonitorMode = MonitorMode::Qmp { pretty: false };
pub const QMP_PRETTY: MonitorMode = MonitorMode::Qmp { pretty: true };

/// Bytes a ring buffer keeps when `size=` is not given.
const RINGBUF_SIZE: u64 = 65536;

/// The argument of a `-serial`.
#[derive(Debug)]
pub struct Port {
    text: String,
    origin: String,
}

impl Port {
    pub fn new(text: &str, origin: &str) -> Self {
        Self { text: text.into(), origin: origin.into() }
    }
}

/// A monitor with the option that asked for it.
#[derive(Debug)]
struct Monitor {
    spec: MonitorSpec,
    origin: String,
}

/// Character devices and their users, as options name them.
#[derive(Debug, Default)]
pub struct Backends {
    chardevs: Vec<ChardevSpec>,
    pub serials: Vec<Port>,
    monitors: Vec<Monitor>,
    /// `-monitor`, `-mon`, `-qmp` was given: no default monitor.
    monitor_given: bool,
    compat_monitors: usize,
    /// `-qtest`.
    pub qtest: Option<Given<String>>,
    /// `-qtest-log`.
    pub qtest_log: Option<Given<String>>,
    pub no_defaults: bool,
    /// `-parallel` says that there is no parallel port.
    pub parallel_given: bool,
    /// `-display none` was given.
    pub no_display: bool,
}

impl Backends {
    /// `-chardev`.
    pub fn chardev(
        &mut self,
        text: &str,
        origin: &str,
        warnings: &mut Vec<String>,
    ) -> Result<Step, OptionError> {
        if matches!(text, "help" | "?") {
            return Ok(Step::Print(kinds()));
        }
        let mut opts = Opts::parse(text, Some("backend"));
        warn(&mut opts, origin, warnings);
        let Some(id) = opts.take("id") else {
            return refused("chardev: no id specified");
        };
        self.add(chardev(value::identifier(&id)?, opts, origin)?)?;
        Ok(Step::Next)
    }

    fn add(&mut self, chardev: ChardevSpec) -> Result<(), OptionError> {
        if self.chardevs.iter().any(|other| other.id == chardev.id) {
            return Err(OptionError::DuplicateId { id: chardev.id, what: "chardev" });
        }
        let stdio = |chardev: &ChardevSpec| matches!(chardev.kind, ChardevKind::Stdio { .. });
        if stdio(&chardev) && self.chardevs.iter().any(stdio) {
            return refused("cannot use stdio by multiple character devices");
        }
        self.chardevs.push(chardev);
        Ok(())
    }

    /// `-monitor`, `-qmp`, `-qmp-pretty`.
    pub fn monitor_on(
        &mut self,
        text: &str,
        origin: &str,
        mode: MonitorMode,
    ) -> Result<(), OptionError> {
        self.monitor_given = true;
        if text == "none" {
            return Ok(());
        }
        let id = format!("compat_monitor{}", self.compat_monitors);
        self.compat_monitors += 1;
        let chardev = match text.strip_prefix("chardev:") {
            Some(name) => name.to_owned(),
            None => {
                self.add(compat(id.clone(), text, origin)?)?;
                id.clone()
            }
        };
        self.push_monitor(MonitorSpec { id: Some(id), chardev, mode }, origin);
        Ok(())
    }

    /// `-mon`.
    pub fn mon(
        &mut self,
        text: &str,
        origin: &str,
        warnings: &mut Vec<String>,
    ) -> Result<(), OptionError> {
        self.monitor_given = true;
        let mut opts = Opts::parse(text, Some("chardev"));
        warn(&mut opts, origin, warnings);
        let id = opts.take("id").map(|id| value::identifier(&id)).transpose()?;
        let pretty = opts.take_switch("pretty")?;
        let mode = match opts.take("mode") {
            None => HMP,
            Some(mode) => value::choice("mode", &mode, &[("readline", HMP), ("control", QMP)])?,
        };
        let mode = match (mode, pretty) {
            (MonitorMode::Hmp, Some(true)) => {
                return refused("'pretty' is not compatible with HMP monitors");
            }
            (MonitorMode::Qmp { .. }, pretty) => {
                MonitorMode::Qmp { pretty: pretty.unwrap_or(false) }
            }
            (mode, _) => mode,
        };
        let Some(chardev) = opts.take("chardev") else {
            return Err(OptionError::Missing { name: "chardev".into() });
        };
        opts.finish()?;
        if let Some(id) = &id
            && self.monitors.iter().any(|monitor| monitor.spec.id.as_ref() == Some(id))
        {
            return Err(OptionError::DuplicateId { id: id.clone(), what: "mon" });
        }
        self.push_monitor(MonitorSpec { id, chardev, mode }, origin);
        Ok(())
    }

    fn push_monitor(&mut self, spec: MonitorSpec, origin: &str) {
        self.monitors.push(Monitor { spec, origin: origin.into() });
    }

    /// Add the defaults, connect the users and check that what they name exists.
    pub fn finish(
        &mut self,
        spec: &mut MachineSpec,
        warnings: &mut Vec<String>,
    ) -> Result<(), CliError> {
        self.defaults(spec)?;
        self.finish_qtest(spec)?;
        for (index, port) in std::mem::take(&mut self.serials).into_iter().enumerate() {
            let serial = self.serial(index, &port).map_err(|error| error.at(&port.origin))?;
            spec.serials.push(serial);
        }
        if spec.serials.len() > 1 {
            warnings.push(format!(
                "warning: the machine has one serial port: {} of {} -serial options are not \
                 connected",
                spec.serials.len() - 1,
                spec.serials.len()
            ));
        }
        for monitor in std::mem::take(&mut self.monitors) {
            if !self.chardevs.iter().any(|chardev| chardev.id == monitor.spec.chardev) {
                let sentence = format!("chardev \"{}\" not found", monitor.spec.chardev);
                return Err(OptionError::Refused(sentence).at(&monitor.origin));
            }
            spec.monitors.push(monitor.spec);
            let id = &spec.monitors[spec.monitors.len() - 1].chardev;
            check_use(id, &self.chardevs, spec).map_err(|error| error.at(&monitor.origin))?;
        }
        for hub in &self.chardevs {
            check_hub(hub).map_err(|error| error.at(&hub.origin))?;
        }
        for (index, chardev) in self.chardevs.iter().enumerate() {
            self.check_back_end(index, chardev, spec).map_err(|error| error.at(&chardev.origin))?;
        }
        spec.chardevs = std::mem::take(&mut self.chardevs);
        Ok(())
    }

    /// What QEMU connects when nothing is said. There being no window in which a virtual console
    /// could show, a command line without `-display` is taken as with `-nographic`.
    fn defaults(&mut self, spec: &mut MachineSpec) -> Result<(), CliError> {
        let is_board = spec.machine.board == BoardKind::Virt;
        let serial = !self.no_defaults && self.serials.is_empty() && is_board;
        let monitor = !self.no_defaults && !self.monitor_given;
        let parallel = !self.no_defaults && !self.parallel_given && is_board;
        // Nothing that it would connect to the terminal is left: then it says nothing.
        let connects = serial || parallel || monitor;
        if spec.process.nographic && spec.process.daemonize && connects {
            let sentence = "-nographic cannot be used with -daemonize";
            return Err(OptionError::Refused(sentence.into()).at("-daemonize"));
        }
        if !self.no_display && !spec.process.daemonize {
            spec.process.nographic = true;
        }
        if !spec.process.nographic {
            return Ok(());
        }
        let origin = "-nographic";
        if serial {
            let text = if monitor { "mon:stdio" } else { "stdio" };
            self.serials.push(Port::new(text, origin));
        } else if monitor
            && !self.serials.iter().any(|port| port.text.ends_with("stdio"))
            && !self.chardevs.iter().any(|c| matches!(c.kind, ChardevKind::Stdio { .. }))
        {
            self.monitor_on("stdio", origin, HMP).map_err(|error| error.at(origin))?;
        }
        Ok(())
    }

    fn finish_qtest(&mut self, spec: &mut MachineSpec) -> Result<(), CliError> {
        let log = self.qtest_log.take();
        let Some(given) = self.qtest.take() else {
            let alone = || OptionError::Refused("there is no -qtest that it could log".into());
            return log.map_or(Ok(()), |log| Err(alone().at(&log.origin)));
        };
        let chardev = match given.value.strip_prefix("chardev:") {
            Some(id) if self.chardevs.iter().any(|chardev| chardev.id == id) => id.to_owned(),
            Some(id) => {
                let sentence = format!("Cannot find character device '{id}'");
                return Err(OptionError::Refused(sentence).at(&given.origin));
            }
            None => {
                let id = "qtest".to_owned();
                let added = compat(id.clone(), &given.value, &given.origin)
                    .and_then(|chardev| self.add(chardev));
                added.map_err(|error| error.at(&given.origin))?;
                id
            }
        };
        let log = match log.as_ref().map(|log| log.value.as_str()) {
            None => QtestLog::Stderr,
            Some("none") => QtestLog::None,
            Some(path) => QtestLog::File(path.into()),
        };
        spec.qtest = Some(QtestSpec { chardev, log });
        Ok(())
    }

    fn serial(&mut self, index: usize, port: &Port) -> Result<Option<String>, OptionError> {
        if port.text == "none" {
            return Ok(None);
        }
        if let Some(id) = port.text.strip_prefix("chardev:") {
            if self.chardevs.iter().any(|chardev| chardev.id == id) {
                return Ok(Some(id.into()));
            }
            return refused(format!(
                "could not connect serial device to character backend '{}': there is no chardev \
                 '{id}'",
                port.text
            ));
        }
        let id = format!("serial{index}");
        self.add(compat(id.clone(), &port.text, &port.origin)?)?;
        if port.text.starts_with("mon:") {
            let spec = MonitorSpec { id: None, chardev: id.clone(), mode: HMP };
            // Before the monitors of -mon, as it is made with the port.
            self.monitors.insert(0, Monitor { spec, origin: port.origin.clone() });
        }
        Ok(Some(id))
    }

    fn check_back_end(
        &self,
        index: usize,
        chardev: &ChardevSpec,
        spec: &MachineSpec,
    ) -> Result<(), OptionError> {
        match &chardev.kind {
            ChardevKind::Stdio { .. } if spec.process.daemonize => {
                refused("cannot use stdio with -daemonize")
            }
            ChardevKind::Mux { chardev: base } => {
                // Bases are opened first, so one that comes later does not count.
                if !self.chardevs[..index].iter().any(|other| other.id == *base) {
                    return refused(format!("mux: base chardev {base} not found"));
                }
                check_use(base, &self.chardevs, spec)
            }
            _ => check_use(&chardev.id, &self.chardevs, spec),
        }
    }
}

/// Show the warnings of an option's syntax, except for the words that everybody still uses.
fn warn(opts: &mut Opts, origin: &str, warnings: &mut Vec<String>) {
    for warning in opts.warnings.drain(..) {
        warnings.push(format!("{origin}: {warning}"));
    }
}

/// A hub takes each back end once.
fn check_hub(hub: &ChardevSpec) -> Result<(), OptionError> {
    let ChardevKind::Hub { chardevs } = &hub.kind else { return Ok(()) };
    let twice = (1..chardevs.len()).find(|&i| chardevs[..i].contains(&chardevs[i]));
    match twice {
        Some(i) => refused(format!("chardev '{}' is already in use", chardevs[i])),
        None => Ok(()),
    }
}

/// A character device has one front end; with a multiplexer, a few.
pub fn check_use(
    id: &str,
    chardevs: &[ChardevSpec],
    spec: &MachineSpec,
) -> Result<(), OptionError> {
    let serials = spec.serials.iter().flatten().filter(|serial| *serial == id).count();
    let monitors = spec.monitors.iter().filter(|monitor| monitor.chardev == id).count();
    let devices = spec.devices.iter().filter(|device| device.prop("chardev") == Some(id)).count();
    let over = |chardev: &ChardevSpec| match &chardev.kind {
        ChardevKind::Mux { chardev } => usize::from(chardev == id),
        ChardevKind::Hub { chardevs } => chardevs.iter().filter(|base| *base == id).count(),
        _ => 0,
    };
    let muxes: usize = chardevs.iter().map(over).sum();
    let qtest = usize::from(spec.qtest.as_ref().is_some_and(|qtest| qtest.chardev == id));
    let users = serials + monitors + devices + muxes + qtest;
    let mux =
        chardevs.iter().any(|c| c.id == id && (c.mux || matches!(c.kind, ChardevKind::Mux { .. })));
    if mux && users > MAX_MUX {
        refused(format!("too many uses of multiplexed chardev '{id}' (maximum is {MAX_MUX})"))
    } else if !mux && users > 1 {
        refused(format!("chardev '{id}' is already in use"))
    } else {
        Ok(())
    }
}

/// A character device in the short form of `-serial` and `-monitor`.
pub fn compat(id: String, text: &str, origin: &str) -> Result<ChardevSpec, OptionError> {
    let (mux, name) = match text.strip_prefix("mon:") {
        Some(name) => (true, name),
        None => (false, text),
    };
    let invalid = || OptionError::Refused(format!("'{name}' is not a valid char driver"));
    let mut opts = Opts::default();
    let mut set = |key: &str, value: &str| opts.items.push((key.into(), value.into()));
    match name.split_once(':') {
        None if matches!(name, "null" | "pty" | "stdio" | "vc") => {
            set("backend", name);
            if mux && name == "stdio" {
                // Ctrl-c is for the guest; the multiplexer has keys of its own.
                set("signal", "off");
            }
        }
        Some(("vc", _)) => set("backend", "vc"),
        Some((kind @ ("file" | "pipe" | "pty"), path)) => {
            set("backend", kind);
            set("path", path);
        }
        Some(("unix", address)) => {
            opts = Opts::parse(address, Some("path"));
            opts.items.push(("backend".into(), "socket".into()));
        }
        Some((kind @ ("tcp" | "telnet" | "websocket" | "tn3270"), address)) => {
            let (address, rest) = address.split_once(',').unwrap_or((address, ""));
            let (host, port) = address.rsplit_once(':').ok_or_else(invalid)?;
            if port.is_empty() {
                return Err(invalid());
            }
            opts = Opts::parse(rest, None);
            let mut set = |key: &str, value: &str| opts.items.push((key.into(), value.into()));
            set("backend", "socket");
            set("host", host);
            set("port", port);
            if kind != "tcp" {
                set(kind, "on");
            }
        }
        Some(("udp", address)) => {
            set("backend", "udp");
            let (remote, local) = match address.split_once('@') {
                Some((remote, local)) => (remote, Some(local)),
                None => (address, None),
            };
            let (host, port) = remote.rsplit_once(':').ok_or_else(invalid)?;
            set("host", host);
            set("port", port);
            if let Some((host, port)) =
                local.map(|local| local.rsplit_once(':').ok_or_else(invalid)).transpose()?
            {
                set("localaddr", host);
                set("localport", port);
            }
        }
        _ if name.starts_with("/dev/") => {
            set("backend", "serial");
            set("path", name);
        }
        _ => return Err(invalid()),
    }
    let mut chardev = chardev(id, opts, origin)?;
    chardev.mux |= mux;
    Ok(chardev)
}

/// A character device from its parameters, `id` taken out already.
fn chardev(id: String, mut opts: Opts, origin: &str) -> Result<ChardevSpec, OptionError> {
    let Some(backend) = opts.take("backend") else {
        return refused(format!("chardev: \"{id}\" missing backend"));
    };
    let mux = opts.take_switch("mux")?.unwrap_or(false);
    let append = opts.take_switch("logappend")?.unwrap_or(false);
    let log = opts.take("logfile").map(|path| LogSpec { path: path.into(), append });
    let kind = match backend.as_str() {
        "null" => ChardevKind::Null,
        "vc" => {
            // A text console on a display that nobody can see.
            for key in ["width", "height", "cols", "rows"] {
                opts.take_number(key)?;
            }
            ChardevKind::Vc
        }
        "stdio" => ChardevKind::Stdio { signal: opts.take_switch("signal")?.unwrap_or(true) },
        "pty" => ChardevKind::Pty { link: opts.take("path").map(PathBuf::from) },
        "file" => ChardevKind::File {
            out: match opts.take("path") {
                Some(path) => path.into(),
                None => return refused("chardev: file: no filename given"),
            },
            append: opts.take_switch("append")?.unwrap_or(false),
            input: opts.take("input-path").map(PathBuf::from),
        },
        "pipe" => match opts.take("path") {
            Some(path) => ChardevKind::Pipe { path: path.into() },
            None => return refused("chardev: pipe: no device path given"),
        },
        "ringbuf" | "memory" => {
            let size = match opts.take("size") {
                Some(text) => value::size("size", &text, 1)?,
                None => RINGBUF_SIZE,
            };
            let size = ringbuf_size(i64::try_from(size).unwrap_or(i64::MAX));
            ChardevKind::Ringbuf { size: size.map_err(of_options)? }
        }
        "socket" => ChardevKind::Socket(socket(&mut opts)?.spec().map_err(of_options)?),
        "udp" => ChardevKind::Udp(udp(&mut opts)?),
        "serial" => match opts.take("path") {
            Some(path) => ChardevKind::Serial { path: path.into() },
            None => return refused("chardev: serial/tty: no device path given"),
        },
        "hub" => {
            let named = (0..MAX_HUB).map(|i| opts.take(&format!("chardevs.{i}")));
            let chardevs: Vec<_> = named.collect();
            // Those after a gap do not count.
            ChardevKind::Hub { chardevs: chardevs.into_iter().map_while(|name| name).collect() }
        }
        "mux" => match opts.take("chardev") {
            Some(chardev) => ChardevKind::Mux { chardev },
            None => return refused("chardev: mux: no chardev given"),
        },
        other => return refused(format!("'{other}' is not a valid char driver name")),
    };
    opts.finish()?;
    Ok(ChardevSpec { id, kind, mux, log, origin: origin.into() })
}

fn of_options(error: ChardevError) -> OptionError {
    OptionError::Refused(error.to_string())
}

/// What `-chardev help` prints.
pub fn kinds() -> String {
    let mut text = "Available chardev backend types: \n".to_owned();
    KINDS.iter().rev().for_each(|name| text.extend(["  ", name, "\n"]));
    text
}

/// The parameters of a stream of datagrams.
fn udp(opts: &mut Opts) -> Result<UdpSpec, OptionError> {
    let host = opts.take("host").filter(|host| !host.is_empty());
    let port = opts.take("port").filter(|port| !port.is_empty());
    let Some(port) = port else {
        return refused("chardev: udp: remote port not specified");
    };
    let local = (opts.take("localaddr"), opts.take("localport"));
    let (ipv4, ipv6) = (opts.take_switch("ipv4")?, opts.take_switch("ipv6")?);
    let host = host.unwrap_or_else(|| "localhost".into());
    let remote = Host { host, port, ipv4, ipv6, numeric: false };
    let given = |text: Option<String>, default: &str| match text {
        Some(text) if !text.is_empty() => text,
        _ => default.to_owned(),
    };
    let local = match local {
        (None, None) => None,
        (host, port) => {
            let (host, port) = (given(host, ""), given(port, "0"));
            Some(Host { host, port, ipv4: None, ipv6: None, numeric: false })
        }
    };
    Ok(UdpSpec { remote, local })
}

/// The parameters of a socket. In QMP a socket listens, and waits for nobody, unless it is told
/// otherwise; here it connects, and waits.
fn socket(opts: &mut Opts) -> Result<ChardevSocket, OptionError> {
    let addr = match (opts.take("path"), opts.take("fd"), opts.take("host")) {
        (Some(path), None, None) => {
            let is_abstract = Some(opts.take_switch("abstract")?.unwrap_or(false));
            let tight = Some(opts.take_switch("tight")?.unwrap_or(true));
            let data = UnixAddress { path: path.into(), is_abstract, tight };
            SocketAddressLegacy::Unix { data }
        }
        (None, None, Some(host)) => {
            let Some(port) = opts.take("port") else {
                return refused("chardev: socket: no port given");
            };
            let to = opts.take_number("to")?.map(u16::try_from).transpose().map_err(|_| {
                OptionError::Refused("'to' is not a port number (0 to 65535)".into())
            })?;
            let ipv4 = opts.take_switch("ipv4")?;
            let ipv6 = opts.take_switch("ipv6")?;
            let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
            let data = InetAddress { host, port, to, ipv4, ipv6, ..InetAddress::default() };
            SocketAddressLegacy::Inet { data }
        }
        (None, fd, None) => {
            SocketAddressLegacy::Fd { data: FdAddress { str: fd.unwrap_or_default() } }
        }
        _ => return refused("None or one of 'path', 'fd' or 'host' option required."),
    };
    let (delay, nodelay) = (opts.take_switch("delay")?, opts.take_switch("nodelay")?);
    if delay.is_some() && nodelay.is_some() {
        return refused("'delay' and 'nodelay' are mutually exclusive");
    }
    let server = opts.take_switch("server")?.unwrap_or(false);
    let wait = opts.take_switch("wait")?;
    // Negative numbers wrap in texts, and mean none.
    let number = |n: Option<u64>| n.map(u64::cast_signed);
    Ok(ChardevSocket {
        addr,
        tls_creds: opts.take("tls-creds"),
        tls_authz: opts.take("tls-authz"),
        server: Some(server),
        wait: if server { Some(wait.unwrap_or(true)) } else { wait },
        nodelay: Some(nodelay.unwrap_or(false) || delay == Some(false)),
        telnet: opts.take_switch("telnet")?,
        tn3270: opts.take_switch("tn3270")?,
        websocket: opts.take_switch("websocket")?,
        reconnect: number(opts.take_number("reconnect")?),
        reconnect_ms: number(opts.take_number("reconnect-ms")?),
        ..ChardevSocket::default()
    })
}

/// What the human monitor's `chardev-add` and `chardev-change` are told, as with `-chardev`; an
/// identifier that is given is that of the device.
pub fn of_monitor(text: &str, id: Option<&str>) -> Result<ChardevSpec, OptionError> {
    let mut opts = Opts::parse(text, Some("backend"));
    let id = match (id, opts.take("id")) {
        (Some(_), Some(_)) => return refused("Unexpected 'id' parameter"),
        (Some(id), None) => id.to_owned(),
        (None, Some(id)) => value::identifier(&id)?,
        (None, None) => return refused("chardev: no id specified"),
    };
    let origin = format!("chardev {id}");
    chardev(id, opts, &origin)
}
