//! A pseudo-terminal whose user is the test.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::process::Stdio;

use rustix::fs::{Mode, OFlags};
use rustix::pty::OpenptFlags;
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};

use super::stream::Stream;

/// A terminal.
pub struct Terminal {
    user: OwnedFd,
    /// Kept open, so that its settings can be looked at when the process is gone.
    side: OwnedFd,
    fresh: Termios,
}

impl Terminal {
    pub fn open() -> Self {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let user = rustix::pty::openpt(flags).expect("a pseudo-terminal");
        rustix::pty::grantpt(&user).expect("its other side");
        rustix::pty::unlockpt(&user).expect("its other side");
        let name = rustix::pty::ptsname(&user, Vec::new()).expect("its name");
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let side = rustix::fs::open(name, flags, Mode::empty()).expect("its other side");
        let fresh = tcgetattr(&side).expect("its settings");
        Self { user, side, fresh }
    }

    /// The process's side.
    pub fn side(&self) -> Stdio {
        self.side.try_clone().expect("a descriptor").into()
    }

    /// The user's side: the screen to read, the keyboard to write.
    pub fn stream(&self) -> Stream {
        let file = || File::from(self.user.try_clone().expect("a descriptor"));
        Stream::new("terminal", file(), file())
    }

    /// Whether the settings are those that a fresh terminal has.
    pub fn is_as_before(&self) -> bool {
        format!("{:?}", self.modes()) == format!("{:?}", self.fresh)
    }

    /// Whether keys reach the process one by one and unchanged.
    pub fn is_raw(&self) -> bool {
        use rustix::termios::{InputModes, LocalModes};
        let modes = self.modes();
        !modes.local_modes.intersects(LocalModes::ICANON | LocalModes::ECHO)
            && !modes.input_modes.intersects(InputModes::ICRNL | InputModes::IXON)
    }

    /// Whether Ctrl-c and the like are signals.
    pub fn makes_signals(&self) -> bool {
        self.modes().local_modes.contains(rustix::termios::LocalModes::ISIG)
    }

    /// Give it the settings that it had at first, as a shell does.
    pub fn set_as_before(&self) {
        tcsetattr(&self.side, OptionalActions::Now, &self.fresh).expect("settings are taken");
    }

    fn modes(&self) -> Termios {
        tcgetattr(&self.side).expect("its settings")
    }
}
