//! `migrate` and `migrate_cancel`, again and again and at every distance in time: nothing is left
//! over, and the next migration is as good as the first.

use std::net::TcpListener;
use std::time::Duration;

use serde_json::{Value, json};

use crate::side::Side;

/// Descriptors and threads that the process has.
fn holds(side: &Side) -> [usize; 2] {
    let process = format!("/proc/{}", side.machine.pid().as_raw_nonzero());
    ["fd", "task"]
        .map(|kind| std::fs::read_dir(format!("{process}/{kind}")).expect("a process").count())
}

/// Migrate and cancel this often, to peers of every kind.
fn flood(rounds: u32) {
    let mut source = Side::source("");
    source.run("dirty 64 1 16");
    source.set(json!({"max-bandwidth": 20_000_000}));
    let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
    let silent = format!("tcp:{}", silent.local_addr().expect("its address"));
    let closed = format!("tcp:127.0.0.1:{}", crate::transcripts::closed_port());
    let peers = [silent.as_str(), "exec:cat >/dev/null", &closed, "file:stream", "unix:no-such"];
    let mut settled = None;
    let mut outcomes = [0; 2];
    for round in 0..rounds {
        let peer = peers[round as usize % peers.len()];
        source.switch("return-path", round % 2 == 0 && peer.starts_with("tcp"));
        let reply = source.qmp.ask(&json!({"execute": "migrate", "arguments": {"uri": peer}}));
        assert!(reply.get("return").is_some(), "{reply}");
        // One that is under way is not disturbed by another.
        let again = source.qmp.ask(&json!({"execute": "migrate", "arguments": {"uri": peer}}));
        if again.get("return").is_none() {
            assert_eq!(again["error"]["desc"], "There's a migration process in progress");
        }
        std::thread::sleep(Duration::from_millis(u64::from(round) % 7));
        for _ in 0..=round % 3 {
            assert_eq!(source.qmp.execute("migrate_cancel"), json!({}));
        }
        let info = crate::harness::poll("the end", || {
            let info: Value = source.query();
            let over = matches!(info["status"].as_str(), Some("cancelled" | "failed"));
            over.then_some(info)
        });
        outcomes[usize::from(info["status"] == "failed")] += 1;
        assert_eq!(source.qmp.status(), "running", "{peer}: {info}");
        // Once every kind of peer has been there, nothing is added.
        if round as usize + 1 == 2 * peers.len() {
            settled = Some(holds(&source));
        }
    }
    source.lives();
    let [descriptors, threads] = settled.expect("enough rounds");
    let now = crate::harness::poll("what is left over to go", || {
        let now = holds(&source);
        (now[0] <= descriptors + 2 && now[1] <= threads + 4).then_some(now)
    });
    eprintln!("{rounds} rounds, cancelled and failed: {outcomes:?}; {settled:?}, then {now:?}");

    let mut destination = Side::destination("");
    source.switch("return-path", false);
    source.set(json!({"max-bandwidth": 0}));
    let uri = destination.listen_tcp();
    source.migrate(&uri);
    source.reaches("completed");
    destination.reaches("completed");
    destination.lives();
}

#[test]
fn of_cancels() {
    flood(60);
}

/// The long run; see README.
#[test]
#[ignore = "takes a minute"]
fn of_ten_thousand_cancels() {
    flood(std::env::var("UNDERSTUDY_CANCELS").map_or(10_000, |text| text.parse().expect("rounds")));
}
