//! Byte streams of the host: standard input and output, pseudo-terminals, files, pipes.

use std::future::Future;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::time::Duration;

use rustix::event::{PollFd as Polled, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use rustix::pty::OpenptFlags;
use rustix::termios::{ControlModes, OptionalActions};

use super::device::{Connection, Connector, Ends, Source};
use super::fd::{self, PollFd};
use super::{ChardevError, words};
use crate::net::descriptors::{DescriptorError, Descriptors};
use crate::terminal::RawMode;

/// How often a pseudo-terminal that nobody has open is looked at.
const PTY_INTERVAL: Duration = Duration::from_millis(100);

/// Of a terminal of the host's.
const SERIAL_SPEED: u32 = 115_200;

fn open_error(path: &Path, error: &io::Error) -> ChardevError {
    ChardevError::Open { path: path.display().to_string(), reason: words(error) }
}

fn host_error(what: &'static str) -> impl FnOnce(io::Error) -> ChardevError {
    move |error| ChardevError::Host { what, reason: words(&error) }
}

/// A file for a copy of what is output, or what has been given in its place.
pub async fn log(
    path: &Path,
    append: bool,
    descriptors: &Descriptors,
) -> Result<tokio::fs::File, ChardevError> {
    create(path, append, descriptors).await.map_err(|error| match error {
        ChardevError::Open { path, reason } => ChardevError::Create { path, reason },
        other => other,
    })
}

/// A file to write to, or what has been given in its place.
async fn create(
    path: &Path,
    append: bool,
    descriptors: &Descriptors,
) -> Result<tokio::fs::File, ChardevError> {
    let how = if append { OFlags::APPEND } else { OFlags::TRUNC };
    if let Some(given) = descriptors.open(path, OFlags::WRONLY | OFlags::CREATE | how) {
        return Ok(tokio::fs::File::from_std(given?.into()));
    }
    tokio::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .append(append)
        .truncate(!append)
        .open(path)
        .await
        .map_err(|error| open_error(path, &error))
}

/// Output into a file, input from another.
pub async fn file(
    out: &Path,
    append: bool,
    input: Option<&Path>,
    descriptors: &Descriptors,
) -> Result<Source, ChardevError> {
    let not_given = |path: &Path, error: DescriptorError| ChardevError::Open {
        path: path.display().to_string(),
        reason: error.as_of_open().to_owned(),
    };
    let writer = create(out, append, descriptors).await.map_err(|error| match error {
        ChardevError::Given(error) => not_given(out, error),
        other => other,
    })?;
    let reader = match input {
        None => None,
        Some(path) => {
            let file = match descriptors.open(path, OFlags::RDONLY) {
                Some(given) => given.map_err(|error| not_given(path, error))?,
                None => {
                    let opened = std::fs::File::open(path);
                    opened.map_err(|error| open_error(path, &error))?.into()
                }
            };
            Some(fd::reader(file).map_err(|error| open_error(path, &error))?)
        }
    };
    Ok(Source::Fixed(Ends { reader, writer: Some(Box::new(writer)), ..Ends::default() }))
}

/// `PATH.in` and `PATH.out`, or `PATH` for both directions. Opened for reading and writing, so that
/// nothing waits for a peer and none that leaves is the end.
pub fn pipe(path: &Path) -> Result<Source, ChardevError> {
    let open = |path: &Path| -> io::Result<OwnedFd> {
        Ok(rustix::fs::open(path, OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOCTTY, Mode::empty())?)
    };
    let with = |suffix: &str| {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        PathBuf::from(name)
    };
    let failed = |error: io::Error| open_error(path, &error);
    let (input, output) = match (open(&with(".in")), open(&with(".out"))) {
        (Ok(input), Ok(output)) => (input, output),
        _ => {
            let both = open(path).map_err(failed)?;
            (both.try_clone().map_err(failed)?, both)
        }
    };
    let reader = fd::reader(input).map_err(failed)?;
    let writer = fd::writer(output).map_err(failed)?;
    Ok(Source::Fixed(Ends { reader: Some(reader), writer: Some(writer), ..Ends::default() }))
}

/// A terminal of the host's, raw, at 115200 baud, eight data bits, no parity and one stop bit.
pub fn serial(path: &Path) -> Result<Source, ChardevError> {
    let failed = |error: io::Error| open_error(path, &error);
    let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
    let opened = rustix::fs::open(path, flags, Mode::empty());
    let output = opened.map_err(|error| failed(error.into()))?;
    // What is no terminal works all the same.
    if let Ok(mut modes) = rustix::termios::tcgetattr(&output) {
        modes.make_raw();
        modes.control_modes -= ControlModes::CSTOPB | ControlModes::CRTSCTS;
        let set = modes
            .set_speed(SERIAL_SPEED)
            .and_then(|()| rustix::termios::tcsetattr(&output, OptionalActions::Now, &modes));
        set.map_err(|error| failed(error.into()))?;
    }
    let input = output.try_clone().map_err(failed)?;
    let (reader, writer) =
        (fd::reader(input).map_err(failed)?, fd::writer(output).map_err(failed)?);
    Ok(Source::Fixed(Ends { reader: Some(reader), writer: Some(writer), ..Ends::default() }))
}

/// Standard input and output, in raw mode if that is a terminal.
pub fn stdio(signal: bool) -> Result<Source, ChardevError> {
    let mode = RawMode::enter(signal).map_err(host_error("the terminal"))?;
    let input = fd::own(io::stdin(), 0, OFlags::RDONLY).and_then(fd::reader);
    let output = fd::own(io::stdout(), 1, OFlags::WRONLY).and_then(fd::writer);
    let ends = Ends {
        reader: Some(input.map_err(host_error("standard input"))?),
        writer: Some(output.map_err(host_error("standard output"))?),
        ..Ends::default()
    };
    Ok(Source::Terminal(ends, mode))
}

/// A new pseudo-terminal.
pub fn pty(link: Option<&Path>) -> Result<Source, ChardevError> {
    let failed = |error: rustix::io::Errno| ChardevError::Host {
        what: "a pseudo-terminal",
        reason: words(&error.into()),
    };
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let master = rustix::pty::openpt(flags).map_err(failed)?;
    rustix::pty::grantpt(&master).map_err(failed)?;
    rustix::pty::unlockpt(&master).map_err(failed)?;
    let name = rustix::pty::ptsname(&master, Vec::new()).map_err(failed)?;
    let name = name.to_string_lossy().into_owned();
    {
        // Opened once and closed: raw from the start, and from then on the master shows whether
        // somebody has the other side open.
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let slave = rustix::fs::open(&name, flags, Mode::empty()).map_err(failed)?;
        let mut modes = rustix::termios::tcgetattr(&slave).map_err(failed)?;
        modes.make_raw();
        rustix::termios::tcsetattr(&slave, OptionalActions::Now, &modes).map_err(failed)?;
    }
    if let Some(link) = link {
        let linked = std::os::unix::fs::symlink(&name, link);
        linked.map_err(|error| ChardevError::Link(words(&error)))?;
    }
    let pty = Pty { master, name, link: link.map(Path::to_owned) };
    Ok(Source::Connections { first: None, more: Some(Box::new(pty)) })
}

/// A pseudo-terminal: connected while somebody has its other side open.
struct Pty {
    master: OwnedFd,
    name: String,
    link: Option<PathBuf>,
}

impl Connector for Pty {
    fn connect(&mut self) -> Pin<Box<dyn Future<Output = io::Result<Connection>> + Send + '_>> {
        Box::pin(async {
            loop {
                let mut polled = [Polled::new(&self.master, PollFlags::IN)];
                let now = Timespec { tv_sec: 0, tv_nsec: 0 };
                poll(&mut polled, Some(&now))?;
                if !polled[0].revents().contains(PollFlags::HUP) {
                    break;
                }
                tokio::time::sleep(PTY_INTERVAL).await;
            }
            // A registration of its own: a hang-up sticks to the one that has seen it.
            let end = PollFd::new(self.master.try_clone()?)?;
            let ends = Ends {
                reader: Some(Box::new(end.clone())),
                writer: Some(Box::new(end)),
                ..Ends::default()
            };
            Ok(Connection { ends, filename: self.disconnected() })
        })
    }

    fn disconnected(&self) -> String {
        format!("pty:{}", self.name)
    }
}

impl Drop for Pty {
    fn drop(&mut self) {
        if let Some(link) = &self.link {
            let _ = std::fs::remove_file(link);
        }
    }
}
