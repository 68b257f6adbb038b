//! Debian's kernel and busybox, as `scripts/linux` prepares them, and the shell in them.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use super::stream::Stream;
use super::{Setup, machine};

/// What is booted.
pub struct Guest {
    kernel: PathBuf,
    initrd: PathBuf,
}

/// Kernel and initramfs; `None`, said on standard error, where they cannot be had.
pub fn guest() -> Option<&'static Guest> {
    static GUEST: OnceLock<Option<Guest>> = OnceLock::new();
    let found = GUEST.get_or_init(|| {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/linux");
        let fetched = Command::new(script).arg("--fetch").output().expect("scripts/linux runs");
        let output = String::from_utf8_lossy(&fetched.stdout).into_owned();
        let mut lines = output.lines().map(PathBuf::from);
        match (fetched.status.success(), lines.next(), lines.next()) {
            (true, Some(kernel), Some(initrd)) => Some(Guest { kernel, initrd }),
            _ => {
                eprintln!("{}", String::from_utf8_lossy(&fetched.stderr));
                None
            }
        }
    });
    if found.is_none() {
        eprintln!("skipped: scripts/linux cannot prepare the guest");
    }
    found.as_ref()
}

/// A machine that boots Linux, with `append` behind the console on the kernel's command line.
pub fn linux(guest: &Guest, words: &str, append: &str) -> Setup {
    machine(&format!("-M virt -m 256M {words} -kernel"))
        .word(&guest.kernel)
        .word("-initrd")
        .word(&guest.initrd)
        .word("-append")
        .word(format!("console=ttyS0 {append}"))
}

/// A shell, at whose prompt commands are given.
pub struct Shell<'a>(pub &'a mut Stream);

/// The prompt of a test, which nothing else prints.
pub const PROMPT: &str = "<ready>";

impl<'a> Shell<'a> {
    /// Wait for it, from the boot on.
    pub fn of(stream: &'a mut Stream) -> Self {
        stream.expect("guest ready");
        stream.expect("# ");
        Self::begun(stream)
    }

    /// That of a stream which is at the first prompt.
    pub fn begun(stream: &'a mut Stream) -> Self {
        // In two parts, so that the echo is not taken for it.
        stream.send("stty -echo; PS2=; PS1='<rea''dy>'\n");
        stream.expect(PROMPT);
        Self(stream)
    }

    /// What a command prints.
    pub fn run(&mut self, command: &str) -> String {
        self.0.send(format!("{command}\n"));
        let text = self.0.expect(PROMPT).replace('\r', "");
        text.strip_suffix(PROMPT).unwrap_or(&text).to_owned()
    }
}

/// SHA-256 in hexadecimal, by the host's own command.
pub fn sha256(bytes: &[u8]) -> String {
    let mut command = Command::new("sha256sum")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("sha256sum runs");
    let mut input = command.stdin.take().expect("a pipe");
    input.write_all(bytes).expect("it reads");
    drop(input);
    let output = command.wait_with_output().expect("it ends");
    String::from_utf8_lossy(&output.stdout).split(' ').next().unwrap_or_default().to_owned()
}
