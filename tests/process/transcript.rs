//! Monitor sessions recorded on QEMU, played against a machine.
//!
//! `C: ` lines are sent over QMP, `S: ` lines have to come back there, byte for byte but for the
//! time stamp (`<TS>`); `S: (end)` is the end of the session. `[hmp]` marks those of the human
//! monitor, of which the echo is not recorded.

use std::collections::VecDeque;

use crate::harness::Machine;
use crate::harness::stream::Stream;

const PROMPT: &str = "(qemu) ";

/// A session with each monitor, over the sockets `qmp` and `hmp` of a machine.
pub struct Sessions {
    qmp: Stream,
    hmp: Stream,
}

impl Sessions {
    pub fn open(machine: &Machine) -> Self {
        let mut qmp = machine.connect("qmp");
        qmp.expect("\r\n");
        qmp.send("{'execute': 'qmp_capabilities'}");
        qmp.expect("{\"return\": {}}\r\n");
        let mut hmp = machine.connect("hmp");
        hmp.expect(PROMPT);
        Self { qmp, hmp }
    }

    pub fn play(&mut self, transcript: &str) {
        let Self { qmp, hmp } = self;
        let mut printed: VecDeque<String> = VecDeque::new();
        for (number, line) in (1..).zip(transcript.lines()) {
            if let Some(command) = line.strip_prefix("C:[hmp] ") {
                assert!(printed.is_empty(), "line {number}: {printed:?} was not expected");
                printed = human(hmp, command);
            } else if let Some(text) = line.strip_prefix("S:[hmp] ") {
                assert_eq!(printed.pop_front().as_deref(), Some(text), "line {number}");
            } else if let Some(command) = line.strip_prefix("C: ") {
                qmp.send(format!("{command}\n"));
            } else if line == "S: (end)" {
                assert_eq!(String::from_utf8_lossy(&qmp.rest()), "", "line {number}");
            } else if let Some(text) = line.strip_prefix("S: ") {
                assert_eq!(untimed(&qmp.expect("\r\n")), text, "line {number}");
            } else {
                assert!(line.is_empty() || line.starts_with('#'), "line {number}: {line}");
            }
        }
    }
}

/// What a command prints, and the prompt, without the echo.
fn human(hmp: &mut Stream, command: &str) -> VecDeque<String> {
    hmp.send(format!("{command}\n"));
    let text = hmp.expect(PROMPT);
    text.lines().skip(1).map(str::to_owned).collect()
}

/// A line with its time stamp, if it has one, replaced.
fn untimed(line: &str) -> String {
    let line = line.trim_end();
    let stamp = "{\"timestamp\": ";
    match line.strip_prefix(stamp).and_then(|rest| rest.split_once('}')) {
        Some((time, rest)) if time.starts_with("{\"seconds\": ") => format!("{stamp}<TS>{rest}"),
        _ => line.to_owned(),
    }
}
