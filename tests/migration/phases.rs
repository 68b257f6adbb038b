//! Cancelled, stopped and held in each phase, with peers that do not answer; what can be seen of
//! it, and the migration that succeeds afterwards.

use std::net::TcpListener;

use serde_json::json;

use crate::harness::poll;
use crate::side::Side;

/// Bytes a second at which the memory below takes several seconds.
const SLOW: u64 = 2_000_000;

/// Cancel; it ends, and the guest is as it was.
fn cancel(source: &mut Side) {
    assert_eq!(source.qmp.execute("migrate_cancel"), json!({}));
    assert_eq!(source.reaches("cancelled"), json!({"status": "cancelled"}));
    let states = source.states("cancelled");
    assert_eq!(states[states.len() - 2..], ["cancelling", "cancelled"]);
    source.lives();
}

#[test]
fn cancelled_in_each_phase() {
    let mut source = Side::source("");
    source.run("dirty 64 1 16");
    // A peer that takes the connection, and nothing else.
    let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
    let uri = format!("tcp:{}", silent.local_addr().expect("its address"));

    // Nobody reads: once the sockets' buffers are full nothing moves, which shows.
    source.migrate(&uri);
    let info = poll("the age of the last progress", || {
        let info = source
            .qmp
            .execute_with("human-monitor-command", json!({"command-line": "info migrate"}));
        let info = info.as_str().expect("text").to_owned();
        info.contains("age of the last progress: ").then_some(info)
    });
    assert!(info.contains("Migration status: active\r\n"), "{info}");
    cancel(&mut source);

    // At a limited rate, stopped by the user meanwhile.
    source.set(json!({"max-bandwidth": SLOW}));
    source.migrate("exec:cat >/dev/null");
    source.reaches("active");
    source.qmp.execute("stop");
    assert_eq!(source.qmp.status(), "paused");
    source.qmp.execute("cont");
    cancel(&mut source);
    source.set(json!({"max-bandwidth": 1_u64 << 40}));

    // Held before the switchover.
    source.switch("pause-before-switchover", true);
    source.migrate("exec:cat >/dev/null");
    source.reaches("pre-switchover");
    assert_ne!(source.qmp.status(), "running");
    cancel(&mut source);

    // And after all that it moves.
    let mut destination = Side::destination("");
    let uri = destination.listen_tcp();
    source.migrate(&uri);
    source.reaches("pre-switchover");
    source.qmp.execute_with("migrate-continue", json!({"state": "pre-switchover"}));
    source.reaches("completed");
    destination.reaches("completed");
    assert_eq!(
        source.states("completed"),
        ["setup", "active", "pre-switchover", "device", "completed"]
    );
    destination.lives();
}
