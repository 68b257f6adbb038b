//! Peers that refuse without a word, stop, or never answer: what can be seen of them, and that the
//! source can always be called off.

use std::io::Read as _;
use std::net::{SocketAddr, TcpListener};

use rustix::process::Signal;
use serde_json::json;

use crate::harness::poll;
use crate::side::Side;

/// Bytes a second at which the memory below takes several seconds.
const SLOW: u64 = 2_000_000;
const FAST: u64 = 1 << 40;

/// Takes everything that comes, and says nothing.
fn sink() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("its address");
    std::thread::spawn(move || {
        while let Ok((mut connection, _)) = listener.accept() {
            std::thread::spawn(move || {
                let mut bytes = vec![0; 1 << 16];
                while let Ok(1..) = connection.read(&mut bytes) {}
            });
        }
    });
    address
}

fn shows_silence(source: &mut Side) {
    poll("the age of the last progress", || {
        let line = json!({"command-line": "info migrate"});
        let info = source.qmp.execute_with("human-monitor-command", line);
        info.as_str().expect("text").contains("age of the last progress: ").then_some(())
    });
}

/// Without a return path a refusal is a connection that breaks. Where the peer's system shows that
/// it has not read what it was sent, that is noticed before the machine has stopped.
#[test]
fn refused_without_a_word() {
    let mut source = Side::source("-uuid 11111111-2222-3333-4444-555555555555");
    source.switch("validate-uuid", true);
    for _ in 0..3 {
        let mut destination = Side::destination("-uuid 22222222-2222-3333-4444-555555555555");
        let uri = format!("unix:{}", destination.machine.path("socket").display());
        destination.listen(&uri);
        source.migrate(&uri);
        let states = source.states("failed");
        // It runs before anybody hears of the failure.
        assert_eq!(source.qmp.status(), "running");
        assert!(!states.contains(&"device".to_owned()), "{states:?}");
        let info = source.query();
        assert_eq!(info["error-desc"], "Unable to write to socket: Broken pipe");
        assert!(destination.fails().contains(": UUID received is 11111111-"));
    }
    source.lives();
    // One that has none of its own takes any.
    let mut destination = Side::destination("");
    let uri = destination.listen_tcp();
    source.migrate(&uri);
    source.reaches("completed");
    destination.reaches("completed");
    let warned = "warning: UUID is received 11111111-2222-3333-4444-555555555555, but local uuid \
                  isn't set\n";
    assert!(destination.machine.errors().ends_with(warned), "{}", destination.machine.errors());
    destination.lives();
}

/// The figures go on while a destination that has everything does not say that it runs.
#[test]
fn no_answer_at_the_end() {
    let mut source = Side::source("");
    source.switch("return-path", true);
    source.migrate(&format!("tcp:{}", sink()));
    let first = source.reaches("device")["total-time"].as_u64().expect("a time");
    poll("a later time", || {
        let info = source.query();
        assert_eq!(info["status"], "device");
        info["total-time"].as_u64().filter(|&time| time > first)
    });
    shows_silence(&mut source);
    source.qmp.execute("migrate_cancel");
    let info = source.reaches("cancelled");
    let why = info["error-desc"].as_str().expect("a sentence");
    assert!(why.contains("the destination had everything"), "{why}");
    assert_eq!(source.qmp.status(), "postmigrate");
}

/// A destination that does not agree to the switchover gets memory as it changes, and the guest
/// runs on.
#[test]
fn no_agreement() {
    let mut source = Side::source("");
    for capability in ["return-path", "switchover-ack"] {
        source.switch(capability, true);
    }
    source.migrate(&format!("tcp:{}", sink()));
    let passes = |source: &mut Side| {
        let info = source.query();
        assert_eq!(info["status"], "active", "{info}");
        info["ram"]["dirty-sync-count"].as_u64()
    };
    source.reaches("active");
    poll("passes", || passes(&mut source).filter(|&passes| passes > 5));
    source.lives();
    source.qmp.execute("migrate_cancel");
    source.reaches("cancelled");
    assert_eq!(source.qmp.status(), "running");
}

#[test]
fn channels_that_stop() {
    let mut source = Side::source("");
    let mut destination = Side::destination("");
    for side in [&mut source, &mut destination] {
        side.switch("multifd", true);
        side.switch("return-path", true);
        side.set(json!({"multifd-channels": 4}));
    }
    source.run("dirty 64 1 16");
    source.set(json!({"max-bandwidth": SLOW}));
    let uri = destination.listen_tcp();
    source.migrate(&uri);
    source.reaches("active");
    destination.reaches("active");
    // As long as it is stopped it is waited for.
    destination.machine.signal(Signal::STOP);
    source.set(json!({"max-bandwidth": FAST}));
    shows_silence(&mut source);
    source.lives();
    destination.machine.signal(Signal::CONT);
    source.reaches("completed");
    destination.reaches("completed");
    destination.lives();
}
