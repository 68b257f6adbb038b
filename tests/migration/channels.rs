//! Every channel from end to end; the guest goes on in the middle of a line that is being typed.

use serde_json::{Value, json};

use crate::side::{Side, guest};

const RUNNING: [&str; 4] = ["setup", "active", "device", "completed"];

/// Type half a line at the source; migrate; type the rest at the destination.
fn halfway(source: &mut Side) {
    source.serial.send("echo begun here");
    source.serial.expect("echo begun here");
}

fn goes_on(source: &mut Side, destination: &mut Side) -> Value {
    let info = source.reaches("completed");
    destination.reaches("completed");
    assert_eq!(source.qmp.status(), "postmigrate");
    assert_eq!(source.states("completed"), RUNNING);
    assert_eq!(destination.states("completed"), ["setup", "active", "completed"]);
    let answer = destination.run(", ended there");
    assert!(answer.contains("\nbegun here, ended there\r\n"), "{answer}");
    destination.lives();
    assert_eq!(destination.machine.errors(), "");
    info
}

#[test]
fn sockets() {
    for (listen, connect, capabilities) in [
        ("tcp:127.0.0.1:0", "tcp:127.0.0.1:PORT", &[][..]),
        ("tcp:[::1]:0", "tcp:[::1]:PORT", &["return-path"]),
        ("tcp:localhost:0", "tcp:localhost:PORT", &["return-path", "switchover-ack"]),
        ("unix:DIR/socket", "unix:DIR/socket", &["validate-uuid"]),
    ] {
        let (mut source, mut destination) = (Side::source(""), Side::destination(""));
        for capability in capabilities {
            source.switch(capability, true);
            destination.switch(capability, true);
        }
        let dir = source.machine.path("").display().to_string();
        let port = destination.listen(&listen.replace("DIR/", &dir));
        let port = port.map_or(String::new(), |port| port.to_string());
        halfway(&mut source);
        source.migrate(&connect.replace("DIR/", &dir).replace("PORT", &port));
        goes_on(&mut source, &mut destination);
    }
}

/// A stream that is kept, and comes in later. What was counted is what is there.
#[test]
fn stored_streams() {
    for (save, load, offset) in [
        ("exec:cat >DIR/saved", "exec:cat DIR/saved", 0),
        ("file:DIR/saved", "file:DIR/saved", 0),
        ("file:DIR/saved,offset=0x1000", "file:DIR/saved,offset=0x1000", 0x1000),
    ] {
        let (mut source, mut destination) = (Side::source(""), Side::destination(""));
        source.run("dirty 64 1 2");
        let dir = source.machine.path("").display().to_string();
        halfway(&mut source);
        source.migrate(&save.replace("DIR/", &dir));
        source.reaches("completed");
        destination.listen(&load.replace("DIR/", &dir));
        let info = goes_on(&mut source, &mut destination);
        let length = std::fs::metadata(source.machine.path("saved")).expect("the stream").len();
        assert_eq!(info["ram"]["transferred"], length - offset, "{save}: {info}");
        assert!(info["ram"]["normal"].as_u64() > Some(500), "{info}");
    }
}

/// QAPI's `channels` at both ends, and a machine that is waited for with `-incoming URI`.
#[test]
fn channels_as_objects() {
    let (mut source, mut destination) = (Side::source(""), Side::destination(""));
    let path = source.machine.path("socket").display().to_string();
    let addr = json!({"transport": "socket", "type": "unix", "path": path});
    let channels = json!({"channels": [{"channel-type": "main", "addr": addr}]});
    destination.qmp.execute_with("migrate-incoming", channels.clone());
    halfway(&mut source);
    source.qmp.execute_with("migrate", channels);
    goes_on(&mut source, &mut destination);
}

/// A source that was stopped arrives stopped; with `-S` a running one does, too.
#[test]
fn machines_that_do_not_run() {
    for (stopped, words) in [(true, ""), (false, "-S"), (true, "-S")] {
        let (mut source, mut destination) = (Side::source(""), Side::destination(words));
        halfway(&mut source);
        if stopped {
            source.qmp.execute("stop");
        }
        let uri = destination.listen_tcp();
        source.migrate(&uri);
        source.reaches("completed");
        destination.reaches("completed");
        assert_ne!(destination.qmp.status(), "running", "{stopped} {words}");
        destination.qmp.execute("cont");
        let answer = destination.run(", ended there");
        assert!(answer.contains("\nbegun here, ended there\r\n"), "{answer}");
    }
}

/// Memory that is written while it moves: the guest checks what it wrote.
#[test]
fn a_guest_that_writes() {
    let (mut source, mut destination) = (Side::source(""), Side::destination(""));
    let uri = destination.listen_tcp();
    source.serial.send("dirty 50 3 8\r");
    source.serial.expect("dirty 50 3 8");
    source.migrate(&uri);
    source.reaches("completed");
    destination.reaches("completed");
    let checked = destination.serial.expect(crate::side::PROMPT);
    assert!(checked.contains("pages checked, 0 errors"), "{checked}");
}

/// Where the command line says to wait, for each kind of channel; QMP tells which port it is.
#[test]
fn waited_for_from_the_start() {
    for incoming in
        ["tcp:127.0.0.1:0", "tcp:[::1]:0", "unix:socket", "exec:cat stream", "file:stream", "fd:9"]
    {
        let mut source = Side::source("");
        halfway(&mut source);
        let stored = incoming.contains("stream") || incoming.starts_with("fd");
        if stored {
            source.migrate("file:stream");
            source.reaches("completed");
        }
        let mut setup = match incoming {
            "exec:cat stream" => guest("-incoming").word(incoming),
            // Left open by the parent.
            "fd:9" => guest("-incoming fd:9").in_a_shell("exec \"$@\" 9<stream"),
            _ => guest(&format!("-incoming {incoming}")),
        };
        if stored {
            let stream = std::fs::read(source.machine.path("stream")).expect("the stream");
            setup = setup.file("stream", &stream);
        }
        let mut destination = Side::start(setup);
        if !stored {
            // A client may be there before the machine listens.
            destination.reaches("setup");
            let uri = match destination.query()["socket-address"][0]["port"].as_str() {
                Some(port) => incoming.replace(":0", &format!(":{port}")),
                None => format!("unix:{}", destination.machine.path("socket").display()),
            };
            source.migrate(&uri);
        }
        source.reaches("completed");
        destination.reaches("completed");
        let answer = destination.run(", ended there");
        assert!(answer.contains("\nbegun here, ended there\r\n"), "{incoming}: {answer}");
        destination.lives();
        assert_eq!(destination.machine.errors(), "", "{incoming}");
    }
}
