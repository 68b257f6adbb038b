//! The embedded guest: its prompt, the ends of its machine, and the monitors beside it.

use rustix::process::Signal;
use serde_json::json;

use crate::bare;
use crate::harness::stream::Stream;
use crate::harness::{Machine, Setup, machine};
use crate::transcript::Sessions;

/// What the guest waits at.
pub const PROMPT: &str = "\r\n> ";
/// Sockets of a machine whose serial port and monitors are within reach.
pub const SOCKETS: &str = "-display none -serial unix:serial,server=on,wait=off \
     -qmp unix:qmp,server=on,wait=off -monitor unix:hmp,server=on,wait=off";

/// The embedded guest on a machine of the test's choice.
pub fn guest(words: &str) -> Setup {
    let image = understudy::machine::greeter::image();
    machine(&format!("-kernel greeter {words}")).file("greeter", &image)
}

fn on_sockets(words: &str) -> (Machine, Stream) {
    let machine = guest(&format!("{SOCKETS} {words}")).start();
    let mut serial = machine.connect("serial");
    // A client that comes late has missed the greeting.
    serial.send("\r");
    serial.expect(PROMPT);
    (machine, serial)
}

fn run_commands(serial: &mut Stream, harts: u32) {
    for (command, answers) in [
        ("echo two  words", &["two  words\r\n"][..]),
        ("primes 1000", &["168 primes up to 1000 in ", " ms"]),
        ("tick 1", &["tick 1\r\n"]),
        ("dirty 64 1 4", &["1024 pages checked, 0 errors"]),
        ("harts", &[&format!("{} harts started", harts - 1), "counted to "]),
        ("unheard-of", &["unknown command"]),
        ("help", &["primes [N]", "poweroff"]),
    ] {
        serial.send(format!("{command}\r"));
        // A terminal adds a carriage return of its own.
        let answer = serial.expect(PROMPT).replace("\r\r", "\r");
        for part in answers {
            assert!(answer.contains(part), "{command}: {part:?} in {answer}");
        }
    }
}

#[test]
fn on_a_terminal() {
    let mut machine = guest("-nographic -smp 2 -m 64M").on_a_terminal().start();
    let greeting = machine.console.expect(PROMPT);
    for part in ["harts    2", "64 MiB at 0x80000000", "isa      rv64imafdc", "SBI      2.0"] {
        assert!(greeting.contains(part), "{part:?} in {greeting}");
    }
    run_commands(&mut machine.console, 2);
    machine.console.send("reboot\r");
    let again = machine.console.expect(PROMPT);
    assert!(again.contains("harts    2"), "{again}");
    machine.console.send("poweroff\r");
    assert_eq!(machine.exit_code(), 0);
    assert!(machine.terminal().is_as_before());
    assert_eq!(machine.errors(), "");
}

#[test]
fn over_a_socket_on_the_interpreter() {
    let (mut machine, mut serial) = on_sockets("-accel interp -smp 3");
    run_commands(&mut serial, 3);
    serial.send("poweroff\r");
    serial.rest();
    assert_eq!(machine.exit_code(), 0);
}

#[test]
fn run_state_as_qemu_reports_it() {
    let (mut machine, mut serial) = on_sockets("");
    Sessions::open(&machine).play(include_str!("data/run_state.txt"));
    serial.rest();
    assert_eq!(machine.exit_code(), 0);
    assert_eq!(machine.errors(), "");
}

#[test]
fn a_guest_that_powers_off_or_reboots() {
    let shutdown = |reason| {
        let data = format!("{{\"guest\": true, \"reason\": \"{reason}\"}}");
        format!("S: {{\"timestamp\": <TS>, \"event\": \"SHUTDOWN\", \"data\": {data}}}\nS: (end)")
    };
    for (words, command, reason) in [
        ("", "poweroff", "guest-shutdown"),
        ("-no-reboot", "poweroff", "guest-shutdown"),
        ("-no-reboot", "reboot", "guest-reset"),
        ("-action reboot=shutdown", "reboot", "guest-reset"),
    ] {
        let (mut machine, mut serial) = on_sockets(words);
        let mut sessions = Sessions::open(&machine);
        serial.send(format!("{command}\r"));
        sessions.play(&shutdown(reason));
        assert_eq!(machine.exit_code(), 0, "{words}: {command}");
        assert_eq!(machine.errors(), "");
    }
}

#[test]
fn a_reset_from_outside_ends_it_with_no_reboot() {
    let (mut machine, _serial) = on_sockets("-no-reboot");
    Sessions::open(&machine).play(
        r#"C: {"execute": "system_reset"}
S: {"timestamp": <TS>, "event": "SHUTDOWN", "data": {"guest": false, "reason": "host-qmp-system-reset"}}
S: {"return": {}}
S: (end)"#,
    );
    assert_eq!(machine.exit_code(), 0);
}

#[test]
fn no_shutdown_keeps_the_process() {
    let (mut machine, mut serial) = on_sockets("-no-shutdown");
    let mut qmp = machine.qmp("qmp");
    serial.send("poweroff\r");
    assert_eq!(qmp.event("SHUTDOWN"), json!({"guest": true, "reason": "guest-shutdown"}));
    qmp.event("STOP");
    assert_eq!(qmp.status(), "shutdown");
    let refused = qmp.ask(&json!({"execute": "cont"}));
    assert_eq!(refused["error"]["desc"], "Resetting the Virtual Machine is required");
    assert_eq!(qmp.status(), "shutdown");
    assert!(machine.is_running());
    qmp.execute("system_reset");
    assert_eq!(qmp.event("RESET"), json!({"guest": false, "reason": "host-qmp-system-reset"}));
    assert_eq!(qmp.status(), "prelaunch");
    qmp.execute("cont");
    serial.expect("Hello from the built-in guest");
    serial.expect(PROMPT);
    serial.send("poweroff\r");
    qmp.event("STOP");
    qmp.send("{'execute': 'quit'}");
    let last = qmp.ended();
    let quit = json!({"guest": false, "reason": "host-qmp-quit"});
    assert!(last.iter().any(|event| event["data"] == quit), "{last:?}");
    assert_eq!(machine.exit_code(), 0);
}

/// Transcript B3: SIGTERM, SIGINT and SIGHUP, also with -no-shutdown.
#[test]
fn signals_shut_it_down() {
    let command = std::fs::read("/proc/self/cmdline").expect("our own command line");
    let name = command.split(|&byte| byte == 0).next().unwrap_or_default();
    let (own, name) = (std::process::id(), String::from_utf8_lossy(name));
    for (signal, words) in [(Signal::TERM, ""), (Signal::INT, "-no-shutdown"), (Signal::HUP, "-S")]
    {
        let mut machine = guest(&format!("{SOCKETS} {words}")).start();
        let mut qmp = machine.qmp("qmp");
        machine.signal(signal);
        assert_eq!(qmp.event("SHUTDOWN"), json!({"guest": false, "reason": "host-signal"}));
        assert_eq!(qmp.ended(), Vec::<serde_json::Value>::new());
        assert_eq!(machine.exit_code(), 0);
        let number = signal.as_raw();
        let line = format!("understudy: terminating on signal {number} from pid {own} ({name})\n");
        assert!(machine.errors().ends_with(&line), "{}", machine.errors());
    }
}

#[test]
fn resets_without_end_are_interrupted() {
    let setup = machine("-display none -smp 4 -bios resets -qmp unix:qmp,server=on,wait=off");
    let mut machine = setup.file("resets", &bare::resets()).start();
    let mut qmp = machine.qmp("qmp");
    for _ in 0..5 {
        assert_eq!(qmp.event("RESET"), json!({"guest": true, "reason": "guest-reset"}));
    }
    // The monitor is not starved.
    qmp.execute("stop");
    let status = qmp.status();
    // A reset that was asked for before goes on from there.
    assert!(["paused", "prelaunch"].contains(&status.as_str()), "{status}");
    qmp.execute("cont");
    qmp.event("RESUME");
    qmp.event("RESET");
    machine.signal(Signal::TERM);
    assert_eq!(qmp.event("SHUTDOWN"), json!({"guest": false, "reason": "host-signal"}));
    assert_eq!(machine.exit_code(), 0);
}

/// Without any word: the guest, on the terminal.
#[test]
fn the_first_command() {
    let mut machine = machine("").on_a_terminal().start();
    let greeting = machine.console.expect(PROMPT);
    assert!(greeting.starts_with("\r\r\nHello from the built-in guest"), "{greeting}");
    machine.console.send("\x01x");
    assert_eq!(machine.exit_code(), 0);
    assert!(machine.terminal().is_as_before());
}
