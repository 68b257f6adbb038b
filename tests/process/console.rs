//! The console of `-nographic`: its keys, and the terminal's settings, which are put back however
//! the process ends.

use std::time::Duration;

use rustix::process::Signal;

use crate::bare;
use crate::greeter::{PROMPT, guest};
use crate::harness::{Machine, machine, poll};

const ESCAPE: &str = "\x01";

fn at_the_prompt() -> Machine {
    let mut machine = guest("-nographic").on_a_terminal().start();
    machine.console.expect(PROMPT);
    assert!(machine.terminal().is_raw());
    assert!(!machine.terminal().makes_signals(), "Ctrl-c is for the guest");
    machine
}

#[test]
fn keys() {
    let mut machine = at_the_prompt();
    let console = &mut machine.console;
    console.send(format!("{ESCAPE}h"));
    let help = console.expect("C-a C-a  sends C-a\r\n\r");
    for key in ["C-a h", "C-a x", "C-a b", "C-a c"] {
        assert!(help.contains(key), "{key} in {help}");
    }
    // To the monitor, which shows its banner once, and back.
    console.send(format!("{ESCAPE}c"));
    console.expect("QEMU 10.0.2 monitor - type 'help' for more information\r\r\n(qemu) ");
    console.send("info status\r");
    console.expect("VM status: running\r\r\n(qemu) ");
    console.send(format!("{ESCAPE}cecho guest\r"));
    console.expect("\nguest\r\r\n> ");
    // Typed ahead, each gets its own; the monitor's words may be anywhere among the guest's.
    console.send(format!("{ESCAPE}cinfo status\r{ESCAPE}cecho %%%%\r"));
    console.expect_text(|text| {
        // Of the monitor's answer, of its two prompts, of the guest's echo and answer.
        let count = |c| text.matches(c).count();
        (count('V'), count('q'), count('%')) == (1, 2, 8)
    });
    // Ctrl-a itself, and Ctrl-c, reach the guest, which leaves control characters out of a line.
    console.send(format!("{ESCAPE}{ESCAPE}\x03echo still here\r"));
    console.expect("\nstill here\r\r\n> ");
    // A break is no character.
    console.send(format!("{ESCAPE}becho after a break\r"));
    console.expect("\nafter a break\r\r\n> ");
    console.send(format!("{ESCAPE}x"));
    console.expect("QEMU: Terminated\r\n\r");
    assert_eq!(machine.exit_code(), 0);
    assert!(machine.terminal().is_as_before());
}

#[test]
fn a_paused_guest_leaves_the_keys_alive() {
    let mut machine = at_the_prompt();
    let console = &mut machine.console;
    console.send(format!("{ESCAPE}c"));
    console.expect("(qemu) ");
    console.send("stop\r");
    console.expect("(qemu) ");
    // More than the port holds, and no more than the guest keeps while it prints.
    console.send(format!("{ESCAPE}cecho {}", "x".repeat(20)));
    console.send(vec![b'\r'; 200]);
    console.send(format!("{ESCAPE}cinfo status\r"));
    console.expect("VM status: paused\r\r\n(qemu) ");
    console.send(format!("cont\r{ESCAPE}cecho done\r"));
    // The monitor's last words may be anywhere in between, but of the guest's nothing is missing.
    let text = console.expect("\ndone\r\r\n> ");
    assert_eq!(text.matches('x').count(), 40, "{text}");
    assert_eq!(text.matches("> ").count(), 201, "{text}");
    console.send(format!("{ESCAPE}x"));
    assert_eq!(machine.exit_code(), 0);
}

#[test]
fn the_terminal_is_put_back() {
    let quit = format!("{ESCAPE}cquit\r");
    for keys in ["poweroff\r", &quit] {
        let mut machine = at_the_prompt();
        machine.console.send(keys);
        assert_eq!(machine.exit_code(), 0, "{keys:?}");
        assert!(machine.terminal().is_as_before(), "{keys:?}");
    }
    for signal in [Signal::TERM, Signal::INT, Signal::HUP] {
        let mut machine = at_the_prompt();
        machine.signal(signal);
        assert_eq!(machine.exit_code(), 0, "{signal:?}");
        assert!(machine.terminal().is_as_before(), "{signal:?}");
    }
    // As if the program had crashed.
    for signal in [Signal::SEGV, Signal::ABORT] {
        use std::os::unix::process::ExitStatusExt;
        let mut machine = at_the_prompt();
        machine.signal(signal);
        assert_eq!(machine.exit().signal(), Some(signal.as_raw()));
        assert!(machine.terminal().is_as_before(), "{signal:?}");
    }
}

#[test]
fn the_terminal_is_put_back_when_a_machine_cannot_start() {
    for (words, code) in [
        // Found out before, and after, the terminal is touched.
        ("-nographic -foo", 1),
        ("-nographic -kernel missing", 1),
        ("-nographic -drive file=missing,format=raw,if=virtio", 1),
        ("-nographic -qmp tcp:127.0.0.1:1", 1),
        // The guest reports a failure.
        ("-nographic -bios fails -device loader,addr=0x80001000,data=3,data-len=2", 3),
        ("-nographic -no-reboot -bios resets", 0),
    ] {
        let setup = machine(words).on_a_terminal();
        let mut machine =
            setup.file("fails", &bare::fails()).file("resets", &bare::resets()).start();
        assert_eq!(machine.exit_code(), code, "{words}: {}", machine.errors());
        assert!(machine.terminal().is_as_before(), "{words}");
    }
}

/// A shell sets the terminal to its own liking while the program is stopped.
#[test]
fn the_terminal_is_raw_again_after_a_stop() {
    let mut machine = at_the_prompt();
    machine.signal(Signal::STOP);
    machine.terminal().set_as_before();
    assert!(!machine.terminal().is_raw());
    machine.signal(Signal::CONT);
    poll("raw mode", || machine.terminal().is_raw().then_some(()));
    machine.console.send(format!("{ESCAPE}x"));
    assert_eq!(machine.exit_code(), 0);
    assert!(machine.terminal().is_as_before());
}

/// Without a multiplexer Ctrl-c is a signal, and there are no keys.
#[test]
fn a_plain_serial_port() {
    let mut machine = guest("-display none -serial stdio").on_a_terminal().start();
    machine.console.expect(PROMPT);
    assert!(machine.terminal().is_raw() && machine.terminal().makes_signals());
    machine.console.send(format!("{ESCAPE}x\recho here\r"));
    machine.console.expect("\nhere\r\r\n> ");
    machine.console.send("\x03");
    assert_eq!(machine.exit_code(), 0);
    assert_eq!(machine.errors(), "understudy: terminating on signal 2\n");
    assert!(machine.terminal().is_as_before());
}

/// A user who has gone away: no more input is no reason to end.
#[test]
fn the_end_of_input() {
    let mut machine = guest("-nographic").start();
    machine.console.expect(PROMPT);
    machine.console.send("echo last words\r");
    machine.console.close();
    machine.console.expect("last words\r\n> ");
    assert_eq!(machine.console.within(Duration::from_millis(100)), b"");
    assert!(machine.is_running());
    machine.signal(Signal::TERM);
    assert_eq!(machine.exit_code(), 0);
}
