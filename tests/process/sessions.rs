//! QMP sessions over the real program's sockets: QEMU's transcripts, a real client's types, and a
//! crowd of clients of which half never read.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{PATIENCE, machine, poll};

/// The package that the transcripts were made with, and ours.
const THEIR_PACKAGE: &str = "Debian 1:10.0.2+ds-2+deb13u1~bpo12+1";
const OUR_PACKAGE: &str = concat!("understudy ", env!("CARGO_PKG_VERSION"));

/// Commands whose replies differ from QEMU's, what ours have instead, and why.
const ALLOWED: &[(&str, &str, &str)] = &[
    (r#""eject""#, "The command eject has not been found", "there are no removable media"),
    (
        r#""max-bandwidth":-1"#,
        "Parameter 'max-bandwidth' expects uint64",
        "QEMU takes a rate below zero for the largest there is",
    ),
    (
        r#""command-line":"info""#,
        "info chardev  -- ",
        "the items are those that there are, in our own words",
    ),
];

/// `\xNN` in a transcript is a byte; JSON has no such escape.
fn bytes_of(line: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = line;
    while let Some(at) = rest.find("\\x") {
        out.extend_from_slice(&rest.as_bytes()[..at]);
        out.push(u8::from_str_radix(&rest[at + 2..at + 4], 16).expect("two digits"));
        rest = &rest[at + 4..];
    }
    out.extend_from_slice(rest.as_bytes());
    out
}

/// A reply as a value, without what differs from one run to the next. Order means nothing.
fn value(line: &str) -> Value {
    let line = line.replace(THEIR_PACKAGE, OUR_PACKAGE).replace("<TS>", "0");
    let mut value: Value = serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e}: {line}"));
    if let Some(object) = value.as_object_mut() {
        object.remove("timestamp");
    }
    value
}

/// Transcripts A1 to A4, each on a machine of its own.
#[test]
fn transcripts() {
    for transcript in [
        include_str!("../monitor/data/negotiation.txt"),
        include_str!("../monitor/data/oob_not_enabled.txt"),
        include_str!("../monitor/data/malformed.txt"),
        include_str!("data/command_errors.txt"),
    ] {
        let words = "-M virt -m 128M -display none -serial none -monitor none -S \
                     -qmp unix:qmp,server=on,wait=off";
        let machine = machine(words).start();
        let mut qmp = machine.connect("qmp");
        let mut sent = "";
        for (number, line) in (1..).zip(transcript.lines()) {
            if let Some(command) = line.strip_prefix("C: ") {
                sent = command;
                qmp.send([bytes_of(command), b"\n".to_vec()].concat());
            } else if let Some(expected) =
                line.strip_prefix("S: ").or_else(|| line.strip_prefix("*: "))
            {
                let reply = qmp.expect("\r\n");
                match ALLOWED.iter().find(|(command, ..)| sent.contains(command)) {
                    Some((_, ours, why)) => assert!(reply.contains(ours), "{why}: {reply}"),
                    None => assert_eq!(value(&reply), value(expected), "line {number}: {sent}"),
                }
            } else {
                assert!(line.is_empty() || line.starts_with('#'), "line {number}: {line}");
            }
        }
    }
}

/// Transcript A5, and the deepest lines of A3: on the machine, the number of identical replies in a
/// row, and which; after each of them the session goes on.
#[test]
fn nesting() {
    const DEEP: &str = "JSON nesting depth limit exceeded";
    const VALUE: &str = "JSON parse error, expecting value";
    const OBJECT: &str = "QMP input must be a JSON object";
    const MEMBER: &str = "QMP input member 'a' is unexpected";
    let objects = |n: usize| format!("{}1{}", "{\"a\":".repeat(n), "}".repeat(n));
    let arrays = |n: usize| format!("{}{}", "[".repeat(n), "]".repeat(n));
    let machine = machine("-display none -serial none -S -qmp unix:qmp,server=on,wait=off").start();
    let mut qmp = machine.qmp("qmp");
    let ping = r#"{"execute": "query-name"}"#;
    // An array that is never closed takes in what follows, commands too, until it is too deep again.
    let unclosed = format!("{}\n{ping}\n]\n{ping}\n{}", "[".repeat(2000), objects(1024));
    for (sent, expected) in [
        (unclosed, vec![(DEEP, 2), (OBJECT, 1), (VALUE, 1), (MEMBER, 1), (VALUE, 51)]),
        (objects(1024), vec![(MEMBER, 1)]),
        (objects(1025), vec![(DEEP, 1), (OBJECT, 1), (VALUE, 1), (OBJECT, 1), (VALUE, 1025)]),
        (arrays(1024), vec![(OBJECT, 1)]),
        (arrays(1025), vec![(DEEP, 1), (VALUE, 1025)]),
    ] {
        qmp.send(&sent);
        for (desc, times) in expected {
            for _ in 0..times {
                assert_eq!(qmp.line()["error"]["desc"], desc, "{}", &sent[..40]);
            }
        }
        // As deep as an identifier can be.
        let id = arrays(1023);
        qmp.send(&format!(r#"{{"execute": "query-name", "id": {id}}}"#));
        assert_eq!(qmp.text(), format!("{{\"return\": {{}}, \"id\": {id}}}\r\n"));
    }
}

/// Until a client says so the machine does not start, and little else is permitted.
#[test]
fn preconfig() {
    let words = "-display none -serial none -preconfig -qmp unix:qmp,server=on,wait=off";
    let machine = machine(words).start();
    let mut qmp = machine.qmp("qmp");
    let refused = qmp.ask(&json!({"execute": "query-cpus-fast"}));
    let sentence = "The command 'query-cpus-fast' is permitted only after machine initialization \
                    has completed";
    assert_eq!(refused["error"]["desc"], sentence);
    assert_eq!(qmp.status(), "prelaunch");
    qmp.execute("x-exit-preconfig");
    qmp.event("RESUME");
    assert_eq!(qmp.status(), "running");
    assert_eq!(qmp.execute("query-cpus-fast").as_array().map(Vec::len), Some(1));
    let again = qmp.ask(&json!({"execute": "x-exit-preconfig"}));
    let sentence = "The command is permitted only before machine initialization";
    assert_eq!(again["error"]["desc"], sentence);
}

/// The serial port's device becomes another, and back; one that nobody uses comes and goes.
#[test]
fn character_devices_change() {
    let words = "-display none -serial unix:serial,server=on,wait=off \
                 -qmp unix:qmp,server=on,wait=off";
    let mut machine = crate::greeter::guest(words).start();
    let mut qmp = machine.qmp("qmp");
    let mut serial = machine.connect("serial");
    let converse = |serial: &mut crate::harness::stream::Stream| {
        serial.send("\recho to and fro\r");
        serial.expect("\r\nto and fro\r\n> ");
    };
    converse(&mut serial);
    let change = |qmp: &mut crate::harness::qmp::Qmp, kind: &str, data: Value| {
        let arguments = json!({"id": "serial0", "backend": {"type": kind, "data": data}});
        qmp.execute_with("chardev-change", arguments)
    };
    change(&mut qmp, "ringbuf", json!({"size": 1024}));
    serial.rest();
    assert!(!machine.path("serial").exists(), "the listening socket is gone");
    let listen = json!({"addr": {"type": "unix", "data": {"path": "other"}}});
    change(&mut qmp, "socket", listen);
    converse(&mut machine.connect("other"));
    let busy = qmp.ask(&json!({"execute": "chardev-remove", "arguments": {"id": "serial0"}}));
    assert_eq!(busy["error"]["desc"], "Chardev 'serial0' is busy");
    let added = json!({"id": "a", "backend": {"type": "pty", "data": {}}});
    let added = qmp.execute_with("chardev-add", added);
    assert!(added["pty"].as_str().is_some_and(|name| name.starts_with("/dev/pts/")), "{added}");
    assert_eq!(qmp.filename("a"), format!("pty:{}", added["pty"].as_str().unwrap_or_default()));
    qmp.execute_with("chardev-remove", json!({"id": "a"}));
    qmp.send("{'execute': 'quit'}");
    assert_eq!(machine.exit_code(), 0);
}

/// Memory goes into files, and into a pipe while clients go on.
#[test]
fn guest_memory_is_dumped() {
    let words = "-m 16M -display none -serial null -qmp unix:qmp,server=on,wait=off";
    let mut machine = crate::greeter::guest(words).start();
    let mut qmp = machine.qmp("qmp");
    let dump = |protocol: &str, detach: bool, format: &str| json!({"paging": false, "protocol": protocol, "detach": detach, "format": format});
    qmp.execute_with("dump-guest-memory", dump("file:core", false, "elf"));
    let result = qmp.execute("query-dump");
    let total = (16 << 20) + 0xf000_u64;
    assert_eq!(result, json!({"status": "completed", "completed": total, "total": total}));
    assert_eq!(qmp.event("DUMP_COMPLETED")["result"], result);
    let core = std::fs::read(machine.path("core")).expect("a core file");
    assert!(core.starts_with(b"\x7fELF") && core.len() as u64 > total);
    qmp.execute_with("dump-guest-memory", dump("file:kdump", false, "kdump-raw-zlib"));
    let kdump = std::fs::read(machine.path("kdump")).expect("a dump");
    assert!(kdump.starts_with(b"KDUMP   ") && kdump.len() < core.len());
    let refused = qmp.ask(&json!({
        "execute": "dump-guest-memory", "arguments": dump("file:other", false, "kdump-lzo")
    }));
    assert_eq!(refused["error"]["desc"], "kdump-lzo is not available now");

    let pipe = machine.path("pipe");
    rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR)
        .expect("a pipe");
    let (opened, opening) = std::sync::mpsc::channel();
    let reader = std::thread::spawn(move || {
        let mut pipe = std::fs::File::open(pipe).expect("the pipe");
        let () = opening.recv_timeout(PATIENCE).expect("a word");
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(&mut pipe, &mut bytes).expect("the dump");
        bytes
    });
    qmp.execute_with("dump-guest-memory", dump("file:pipe", true, "elf"));
    assert_eq!(qmp.execute("query-dump")["status"], "active");
    assert_eq!(qmp.status(), "save-vm");
    let busy = "There is a dump in process, please wait.";
    for command in ["stop", "cont"] {
        assert_eq!(qmp.ask(&json!({"execute": command}))["error"]["desc"], busy);
    }
    let blocked = "Live migration disabled: dump-guest-memory in progress";
    assert_eq!(qmp.execute("query-migrate"), json!({"blocked-reasons": [blocked]}));
    let migrate = json!({"execute": "migrate", "arguments": {"uri": "exec:cat"}});
    assert_eq!(qmp.ask(&migrate)["error"]["desc"], blocked);
    opened.send(()).expect("a reader");
    let dumped = reader.join().expect("a reader");
    assert_eq!(dumped.len(), core.len());
    poll("the machine to go on", || (qmp.status() == "running").then_some(()));
    qmp.send("{'execute': 'quit'}");
    assert_eq!(machine.exit_code(), 0);
}

/// A client as the `qapi` crate makes it, with its types for every reply.
#[test]
fn the_qapi_crate() {
    let machine = machine("-display none -S -qmp unix:qmp,server=on,wait=off").start();
    let socket = poll("a monitor", || UnixStream::connect(machine.path("qmp")).ok());
    socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let mut qmp = qapi::Qmp::from_stream(&socket);
    let greeting = qmp.handshake().expect("a handshake");
    assert_eq!((greeting.version.qemu.major, greeting.version.qemu.minor), (10, 0));
    let status = qmp.execute(&qapi::qmp::query_status {}).expect("a status");
    assert_eq!((status.status, status.running), (qapi::qmp::RunState::prelaunch, false));
    qmp.execute(&qapi::qmp::cont {}).expect("it runs");
    assert!(qmp.execute(&qapi::qmp::query_status {}).expect("a status").running);
    qmp.nop().expect("events");
    let resumed = qmp.events().any(|event| matches!(event, qapi::qmp::Event::RESUME { .. }));
    assert!(resumed, "RESUME is told");
    let chardevs = qmp.execute(&qapi::qmp::query_chardev {}).expect("character devices");
    assert!(chardevs.iter().any(|chardev| chardev.label == "compat_monitor0"));
    assert!(qmp.execute(&qapi::qmp::chardev_remove { id: "nobody".into() }).is_err());
}

/// Resident memory of a process, in KiB.
fn resident(pid: rustix::process::Pid) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", pid.as_raw_nonzero()));
    let status = status.expect("a process");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("its memory");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

/// A client of one of the crowd's sockets.
struct Client {
    socket: UnixStream,
    lines: BufReader<UnixStream>,
}

impl Client {
    fn new(path: std::path::PathBuf) -> Self {
        let socket = poll("a monitor", || UnixStream::connect(&path).ok());
        socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        socket.set_write_timeout(Some(PATIENCE)).expect("a timeout");
        let lines = BufReader::new(socket.try_clone().expect("a descriptor"));
        let mut client = Self { socket, lines };
        assert!(client.line().contains("QMP"));
        client.send("{'execute':'qmp_capabilities'}");
        assert!(client.line().contains("return"));
        client
    }

    fn send(&mut self, text: &str) {
        self.socket.write_all(text.as_bytes()).expect("the monitor reads");
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        assert!(self.lines.read_line(&mut line).expect("the monitor writes") > 0, "it has ended");
        line
    }

    /// The next line that is no event.
    fn reply(&mut self) -> String {
        loop {
            let line = self.line();
            if !line.starts_with("{\"timestamp\"") {
                return line;
            }
        }
    }
}

#[test]
fn a_crowd_of_which_half_never_reads() {
    const CLIENTS: usize = 100;
    const COMMANDS: usize = 1000;
    /// What the machine may take for all of it, in KiB.
    const MOST: u64 = 256 << 10;
    let sockets: String =
        (0..=CLIENTS).map(|n| format!(" -qmp unix:qmp{n},server=on,wait=off")).collect();
    let machine = machine(&format!("-machine none -nodefaults -display none{sockets}")).start();
    let mut patient = Client::new(machine.path("qmp0"));
    let mut clients: Vec<_> =
        (1..=CLIENTS).map(|n| Client::new(machine.path(&format!("qmp{n}")))).collect();
    let before = resident(machine.pid());

    let commands: String =
        (0..COMMANDS).map(|n| format!("{{'execute':'query-version','id':{n}}}\n")).collect();
    std::thread::scope(|scope| {
        for (number, client) in clients.iter_mut().enumerate() {
            let commands = &commands;
            scope.spawn(move || {
                client.send(commands);
                for n in 0..if number % 2 == 0 { COMMANDS } else { 0 } {
                    let reply = client.reply();
                    assert!(reply.trim_end().ends_with(&format!("\"id\": {n}}}")), "{reply}");
                }
            });
        }
        // Meanwhile there is always something to tell to all of them, and this one is served.
        for _ in 0..COMMANDS {
            for command in ["{'execute':'stop'}", "{'execute':'cont'}"] {
                patient.send(command);
                assert!(patient.reply().contains("return"));
            }
        }
    });
    let growth = resident(machine.pid()).saturating_sub(before);
    assert!(growth < MOST, "{growth} KiB more");

    // Those that did not read find everything up to where their session stopped, in order.
    let mut late = clients.swap_remove(1);
    late.socket.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
    for n in 0..COMMANDS {
        let reply = late.reply();
        assert!(reply.trim_end().ends_with(&format!("\"id\": {n}}}")), "{n}: {reply}");
    }
}
