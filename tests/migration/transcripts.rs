//! The contract's sessions, to the byte: prompt, echo and answer on every kind of monitor.

use std::net::TcpListener;

use serde_json::json;

use crate::harness::stream::Stream;
use crate::harness::{Machine, poll};
use crate::side::{Side, guest};

const CAPABILITIES: &str = "capabilities: xbzrle: off rdma-pin-all: off auto-converge: off \
     zero-blocks: off events: off postcopy-ram: off x-colo: off release-ram: off return-path: off \
     pause-before-switchover: off multifd: off dirty-bitmaps: off postcopy-blocktime: off \
     late-block-activate: off x-ignore-shared: off validate-uuid: off background-snapshot: off \
     zero-copy-send: off postcopy-preempt: off switchover-ack: off dirty-limit: off \
     mapped-ram: off\r\n";
const REFUSED: &str = "Error connecting to socket: Connection refused";

/// A port that nobody listens on.
pub fn closed_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("its address").port()
}

/// What readline shows as a line is typed: the line anew for every key.
fn echo(line: &str) -> String {
    let mut shown = String::new();
    for end in 1..=line.len() {
        shown += &"\x1b[D".repeat(end - 1);
        shown += &line[..end];
        shown += "\x1b[K";
    }
    shown + "\r\n"
}

/// `ends` is how the monitor's terminal shows the end of a line, `enter` the key for it.
fn session(monitor: &mut Stream, enter: &str, ends: &str) {
    let port = closed_port();
    let mut ask = |command: &str, answer: &str| {
        monitor.send(format!("{command}{enter}"));
        let expected = format!("{}{answer}(qemu) ", echo(command)).replace("\r\n", ends);
        assert_eq!(monitor.expect("(qemu) "), expected, "{command}");
    };
    ask(&format!("migrate -d tcp:localhost:{port}"), "");
    // The connection is refused in the background; blocking `migrate` below has its own end.
    std::thread::sleep(std::time::Duration::from_millis(500));
    let failed = format!(
        "{CAPABILITIES}Migration status: failed ({REFUSED})\r\ntotal time: 0 milliseconds\r\n"
    );
    ask("info migrate", &failed);
    ask(&format!("migrate tcp:localhost:{port}"), &format!("{REFUSED}\r\n"));
    ask("info migrate", &failed);
}

fn greeted(monitor: &mut Stream, ends: &str) {
    let greeting = "QEMU 10.0.2 monitor - type 'help' for more information\r\n(qemu) ";
    assert_eq!(monitor.expect("(qemu) "), greeting.replace("\r\n", ends));
}

#[test]
fn a_refused_port_on_every_monitor() {
    let words = "-display none -serial null -monitor";
    let start = |monitor: &str| crate::harness::machine(&format!("{words} {monitor}"));

    let mut piped = start("stdio").start();
    greeted(&mut piped.console, "\r\n");
    session(&mut piped.console, "\n", "\r\n");

    // The terminal adds a carriage return of its own.
    let mut shown = start("stdio").on_a_terminal().start();
    greeted(&mut shown.console, "\r\r\n");
    session(&mut shown.console, "\r", "\r\r\n");

    let served: Machine = start("unix:hmp,server=on,wait=off").start();
    let mut hmp = served.connect("hmp");
    greeted(&mut hmp, "\r\n");
    session(&mut hmp, "\n", "\r\n");

    let mut side = Side::start(guest(""));
    side.migrate(&format!("tcp:localhost:{}", closed_port()));
    let info = poll("the failure", || Some(side.query()).filter(|i| i["status"] == "failed"));
    assert_eq!(info, json!({"status": "failed", "error-desc": REFUSED}));
    side.lives();
}
