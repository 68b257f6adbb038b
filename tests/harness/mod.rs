//! Whole machines for tests: the program that was built, in a process and a directory of its own,
//! and streams on its sockets, pipes and terminal that are waited on with a deadline.

pub mod debian;
pub mod qmp;
pub mod stream;
pub mod terminal;

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};
use tempfile::TempDir;

use qmp::Qmp;
use stream::Stream;
use terminal::Terminal;

/// How long a test waits for what has to come. Only a failure takes so long.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// How often something that cannot be waited for is looked at.
const STEP: Duration = Duration::from_millis(5);

/// Look until there is something; fail with `what` when time is up.
pub fn poll<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "{what}: not within {PATIENCE:?}");
        std::thread::sleep(STEP);
    }
}

/// A command line to be run in a fresh directory, which relative names in it refer to.
pub struct Setup {
    program: OsString,
    dir: TempDir,
    words: Vec<OsString>,
    terminal: bool,
}

/// What every machine is given: it keeps to what an emulator needs.
const SANDBOX: [&str; 2] = ["-sandbox", "on"];

/// The program with these words, split at white space, in its sandbox.
pub fn machine(words: &str) -> Setup {
    let words: Vec<_> = words.split_whitespace().map(OsString::from).collect();
    // No word at all means something of its own.
    let is_bare = words.is_empty();
    let sandbox = SANDBOX.into_iter().filter(|_| !is_bare).map(OsString::from);
    Setup {
        program: env!("CARGO_BIN_EXE_understudy").into(),
        dir: tempfile::tempdir().expect("a temporary directory"),
        words: sandbox.chain(words).collect(),
        terminal: false,
    }
}

impl Setup {
    /// Add a word as it is.
    pub fn word(mut self, word: impl AsRef<OsStr>) -> Self {
        self.words.push(word.as_ref().to_owned());
        self
    }

    /// Put a file into the directory.
    pub fn file(self, name: &str, contents: &[u8]) -> Self {
        std::fs::write(self.dir.path().join(name), contents).expect("a file is written");
        self
    }

    /// Run on a pseudo-terminal, which controls the process, in place of pipes.
    pub fn on_a_terminal(mut self) -> Self {
        self.terminal = true;
        self
    }

    /// Run another program, as it is: QEMU.
    pub fn program(mut self, program: impl AsRef<OsStr>) -> Self {
        self.program = program.as_ref().to_owned();
        if self.words.starts_with(&SANDBOX.map(OsString::from)) {
            self.words.drain(..SANDBOX.len());
        }
        self
    }

    /// Let a shell start it; what `script` has as `"$@"` is the command line.
    pub fn in_a_shell(mut self, script: &str) -> Self {
        let mut words: Vec<OsString> = ["-c", script, "sh"].map(OsString::from).into();
        words.push(std::mem::replace(&mut self.program, "sh".into()));
        words.append(&mut self.words);
        self.words = words;
        self
    }

    pub fn directory(&self) -> &Path {
        self.dir.path()
    }

    /// Start it.
    pub fn start(self) -> Machine {
        let errors = File::create(self.dir.path().join("stderr")).expect("a file for messages");
        let mut command;
        let mut terminal = None;
        if self.terminal {
            // Makes the terminal the controlling one of a session whose leader is the program.
            command = Command::new("setsid");
            command.arg("--ctty").arg(&self.program);
            let opened = Terminal::open();
            command.stdin(opened.side()).stdout(opened.side());
            terminal = Some(opened);
        } else {
            command = Command::new(&self.program);
            command.stdin(Stdio::piped()).stdout(Stdio::piped());
        }
        command.args(&self.words).current_dir(self.dir.path()).stderr(errors);
        let mut child = command.spawn().expect("the program starts");
        let console = match &terminal {
            Some(terminal) => terminal.stream(),
            None => {
                let input = child.stdin.take().expect("a pipe");
                let output = child.stdout.take().expect("a pipe");
                Stream::new("standard output", output, input)
            }
        };
        Machine { child, status: None, dir: self.dir, words: self.words, console, terminal }
    }

    /// Run it to its end, without input: exit code, standard output, standard error.
    pub fn run(self) -> (i32, String, String) {
        let mut machine = self.start();
        machine.console.close();
        let output = machine.console.rest();
        let code = machine.exit_code();
        (code, String::from_utf8_lossy(&output).into_owned(), machine.errors())
    }
}

/// A process that runs. It is killed when dropped.
pub struct Machine {
    child: Child,
    status: Option<ExitStatus>,
    dir: TempDir,
    words: Vec<OsString>,
    /// Its standard input and output.
    pub console: Stream,
    /// The terminal, if it runs on one.
    pub terminal: Option<Terminal>,
}

impl Machine {
    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// What it has written to standard error.
    pub fn errors(&self) -> String {
        let bytes = std::fs::read(self.path("stderr")).expect("messages");
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Its terminal.
    pub fn terminal(&self) -> &Terminal {
        self.terminal.as_ref().expect("a machine on a terminal")
    }

    pub fn signal(&self, signal: Signal) {
        rustix::process::kill_process(self.pid(), signal).expect("the process is there");
    }

    /// Connect to a UNIX socket in its directory, once that is there.
    pub fn connect(&self, name: &str) -> Stream {
        let path = self.path(name);
        Stream::over(name, poll(name, || UnixStream::connect(&path).ok()))
    }

    /// Connect to a TCP port of this host.
    pub fn connect_tcp(&self, port: u16) -> Stream {
        Stream::over("tcp", poll("a TCP port", || TcpStream::connect(("127.0.0.1", port)).ok()))
    }

    /// A QMP session over a UNIX socket in its directory.
    pub fn qmp(&self, name: &str) -> Qmp {
        Qmp::negotiate(self.connect(name))
    }

    /// Wait for its end.
    pub fn exit(&mut self) -> ExitStatus {
        if let Some(status) = self.status {
            return status;
        }
        let status =
            poll("the end of the process", || self.child.try_wait().expect("a child's status"));
        self.status = Some(status);
        status
    }

    /// Wait for its end, which has to be an exit; its code.
    pub fn exit_code(&mut self) -> i32 {
        let status = self.exit();
        status.code().unwrap_or_else(|| panic!("{status}: {}", self.errors()))
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        self.status.is_none() && self.child.try_wait().expect("a child's status").is_none()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("command line: {:?}\nstandard error: {}", self.words, self.errors());
        }
        if self.status.is_none() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}
