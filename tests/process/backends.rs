//! Every kind of character device, with the embedded guest's serial port on it.

use std::fs::{File, OpenOptions};
use std::net::TcpListener;
use std::os::unix::net::UnixListener;

use rustix::fs::{FileType, Mode};

use crate::greeter::{PROMPT, guest};
use crate::harness::stream::Stream;
use crate::harness::{machine, poll};

const QMP: &str = "-qmp unix:qmp,server=on,wait=off";

/// The guest is at the other end.
fn converse(stream: &mut Stream) {
    stream.send("\recho to and fro\r");
    stream.expect("\r\nto and fro\r\n> ");
}

#[test]
fn a_tcp_server() {
    let serial = "-serial tcp:127.0.0.1:0,server=on,wait=off";
    let mut machine = guest(&format!("-display none {serial} {QMP}")).start();
    let mut qmp = machine.qmp("qmp");
    let listening = qmp.filename("serial0");
    let port = listening
        .strip_prefix("disconnected:tcp:127.0.0.1:")
        .and_then(|rest| rest.strip_suffix(",server=on"))
        .unwrap_or_else(|| panic!("{listening}"));
    let port: u16 = port.parse().expect("a port");
    // One client after the other.
    for _ in 0..3 {
        converse(&mut machine.connect_tcp(port));
    }
    let mut last = machine.connect_tcp(port);
    last.send("poweroff\r");
    last.rest();
    assert_eq!(machine.exit_code(), 0);
}

#[test]
fn a_server_that_waits() {
    for (words, address) in [
        ("-serial tcp:127.0.0.1:0,server=on", "tcp:127.0.0.1:"),
        ("-serial unix:serial,server=on", "unix:serial"),
        ("-chardev socket,id=c,path=serial,server=on,wait=on -serial chardev:c", "unix:serial"),
    ] {
        let mut machine = guest(&format!("-display none {words}")).start();
        let errors = poll("a line about it", || {
            Some(machine.errors()).filter(|errors| errors.ends_with('\n'))
        });
        let (_, shown) = errors.split_once("QEMU waiting for connection on: ").expect(&errors);
        let shown = shown.trim_end();
        assert!(shown.starts_with(&format!("disconnected:{address}")), "{shown}");
        assert!(shown.ends_with(",server=on"), "{shown}");
        let mut serial = if address.starts_with("tcp") {
            let port = shown.trim_end_matches(",server=on").rsplit(':').next();
            machine.connect_tcp(port.and_then(|port| port.parse().ok()).expect("a port"))
        } else {
            machine.connect("serial")
        };
        // Nothing has happened before, so nothing of the greeting is lost.
        serial.expect("Hello from the built-in guest");
        serial.expect(PROMPT);
        serial.send("poweroff\r");
        serial.rest();
        assert_eq!(machine.exit_code(), 0);
    }
}

#[test]
fn a_client_that_connects_again() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("its address").port();
    let tcp = format!("-display none -serial tcp:127.0.0.1:{port},reconnect-ms=20");
    let mut machine = guest(&tcp).start();
    for round in 0..3 {
        let (socket, _) = listener.accept().expect("a client");
        let mut serial = Stream::over("tcp", socket);
        if round == 0 {
            serial.expect(PROMPT);
        }
        converse(&mut serial);
    }
    let (socket, _) = listener.accept().expect("a client");
    Stream::over("tcp", socket).send("poweroff\r");
    assert_eq!(machine.exit_code(), 0);
}

/// The server may come later than the client.
#[test]
fn a_unix_client() {
    let setup = guest("-display none -serial unix:serial,reconnect-ms=20");
    let path = setup.directory().join("serial");
    let mut machine = setup.start();
    let listener = UnixListener::bind(path).expect("a socket");
    let (socket, _) = listener.accept().expect("a client");
    let mut serial = Stream::over("serial", socket);
    serial.expect(PROMPT);
    converse(&mut serial);
    serial.send("poweroff\r");
    assert_eq!(machine.exit_code(), 0);
}

#[test]
fn a_pseudo_terminal() {
    let mut machine =
        guest(&format!("-display none -chardev pty,id=p,path=link -serial chardev:p {QMP}"))
            .start();
    let line = machine.console.expect("\n");
    let name = line
        .strip_prefix("char device redirected to ")
        .and_then(|rest| rest.strip_suffix(" (label p)\n"))
        .unwrap_or_else(|| panic!("{line}"));
    assert_eq!(machine.qmp("qmp").filename("p"), format!("pty:{name}"));
    assert_eq!(std::fs::read_link(machine.path("link")).expect("a link"), *name);
    // One user after the other.
    for path in [name.into(), machine.path("link")] {
        let user = OpenOptions::new().read(true).write(true).open(&path).expect("a terminal");
        converse(&mut Stream::on("pty", user));
    }
    let mut keyboard = OpenOptions::new().write(true).open(name).expect("a terminal");
    std::io::Write::write_all(&mut keyboard, b"poweroff\r").expect("it is written");
    assert_eq!(machine.exit_code(), 0);
    assert!(machine.path("link").symlink_metadata().is_err(), "the link is gone with the machine");
}

#[test]
fn files() {
    let chardev = "-chardev file,id=f,path=out,input-path=in,append=on -serial chardev:f";
    let setup = guest(&format!("-display none {chardev}"));
    // The guest empties the port's 16 bytes when it begins.
    let input = "\r".repeat(20) + "echo typed ahead\rpoweroff\r";
    let mut machine = setup.file("in", input.as_bytes()).file("out", b"kept:").start();
    assert_eq!(machine.exit_code(), 0);
    let out = std::fs::read_to_string(machine.path("out")).expect("the output");
    assert!(out.starts_with("kept:\r\nHello from"), "{out}");
    assert!(out.contains("\r\ntyped ahead\r\n> "), "{out}");
}

#[test]
fn pipes() {
    let setup = guest("-display none -serial pipe:p");
    let path = |name: &str| setup.directory().join(name);
    for name in ["p.in", "p.out"] {
        let mode = Mode::RUSR | Mode::WUSR;
        rustix::fs::mknodat(rustix::fs::CWD, path(name), FileType::Fifo, mode, 0).expect("a FIFO");
    }
    let (input, output) = (path("p.in"), path("p.out"));
    let mut machine = setup.start();
    let mut serial = Stream::new(
        "pipe",
        File::open(output).expect("the output"),
        OpenOptions::new().write(true).open(input).expect("the input"),
    );
    // Turning the FIFOs on empties them: what is sent before the guest has done that may be lost.
    serial.expect("\r\n> ");
    converse(&mut serial);
    serial.send("poweroff\r");
    assert_eq!(machine.exit_code(), 0);
}

/// Output that nobody reads is kept up to a size, or not at all, and holds nothing up.
#[test]
fn output_for_nobody() {
    for (kind, filename) in [("null", "null"), ("ringbuf,size=64", "ringbuf")] {
        let mut machine = guest(&format!(
            "-display none -chardev {kind},id=c,logfile=log -serial chardev:c {QMP}"
        ))
        .start();
        let log = machine.path("log");
        poll("the prompt in the log", || {
            let text = std::fs::read_to_string(&log).ok()?;
            text.ends_with(PROMPT).then_some(())
        });
        let mut qmp = machine.qmp("qmp");
        assert_eq!(qmp.filename("c"), filename);
        qmp.send("{'execute': 'quit'}");
        qmp.ended();
        assert_eq!(machine.exit_code(), 0);
    }
}

#[test]
fn a_multiplexer_on_a_socket() {
    for chardevs in [
        "-chardev socket,id=m,path=serial,server=on,wait=off,mux=on",
        "-chardev socket,id=s,path=serial,server=on,wait=off -chardev mux,id=m,chardev=s",
        "-serial mon:unix:serial,server=on,wait=off",
    ] {
        let users = if chardevs.contains("mon:") { "" } else { "-serial chardev:m -mon m" };
        let mut machine = guest(&format!("-display none {chardevs} {users}")).start();
        // The second client finds the same as the first.
        for _ in 0..2 {
            let mut both = machine.connect("serial");
            // The front end that was made last has the focus at first: find the guest.
            both.send("\x01h");
            both.expect("C-a c");
            both.send("\x01cinfo status\r\x01cinfo status\r");
            both.expect("VM status: running\r\n(qemu) ");
        }
        let mut both = machine.connect("serial");
        both.send("\x01x");
        both.expect("QEMU: Terminated");
        assert_eq!(machine.exit_code(), 0, "{chardevs}");
    }
}

/// A script may pipe its commands in and read the answers, without a terminal or a socket.
#[test]
fn what_was_sent_before_the_end_is_answered() {
    let mut qmp = machine("-M none -nodefaults -display none -qmp stdio").start();
    qmp.console.send(
        "{'execute': 'qmp_capabilities'}{'execute': 'query-qmp-schema'}{'execute': 'query-name'}\n\
         {'execute': 'quit', 'id': 'last'}",
    );
    qmp.console.close();
    let output = String::from_utf8(qmp.console.rest()).expect("text");
    assert_eq!(output.matches("\"return\"").count(), 4, "{output}");
    assert!(output.trim_end().ends_with("\"id\": \"last\"}"), "{output}");
    assert_eq!(qmp.exit_code(), 0);

    let mut hmp = machine("-M none -nodefaults -display none -monitor stdio").start();
    hmp.console.send("info status\ninfo name\nquit\n");
    hmp.console.close();
    let output = String::from_utf8(hmp.console.rest()).expect("text");
    assert!(output.contains("VM status: running"), "{output}");
    assert_eq!(hmp.exit_code(), 0);
}
