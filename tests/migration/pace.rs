//! Limits: the bytes of a second, the time that the machine stands still, the speed of a guest that
//! writes faster than can be sent.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::poll;
use crate::proxy::Proxy;
use crate::side::{PROMPT, Side};

fn number(value: &Value) -> f64 {
    value.as_u64().unwrap_or_else(|| panic!("{value} is no number")) as f64
}

/// Start writing to `mib` MiB at `rate` MiB a second.
fn writes(side: &mut Side, rate: u32, mib: u32) {
    side.serial.send(format!("dirty {rate} 600 {mib}\r"));
    side.serial.expect("MiB written");
}

/// The guest has lost nothing.
fn unharmed(side: &mut Side) {
    side.serial.send("q");
    let checked = side.serial.expect(PROMPT);
    assert!(checked.contains("pages checked, 0 errors"), "{checked}");
    side.lives();
}

/// No more than `max-bandwidth` by more than 5 %, for as long as the guest writes; the downtime
/// that is allowed is kept to, and when more is allowed the migration ends.
#[test]
fn bandwidth_and_downtime() {
    const LIMIT: f64 = 8_000_000.0;
    let (mut source, mut destination) = (Side::source(""), Side::destination(""));
    let proxy = Proxy::tcp(destination.listen("tcp:127.0.0.1:0").expect("a port"));
    // All of it again in each pass: half a second of sending.
    writes(&mut source, 40, 4);
    source.set(json!({"max-bandwidth": LIMIT as u64, "downtime-limit": 100}));
    source.migrate(&proxy.uri);
    source.reaches("active");
    let (begun, before) = (Instant::now(), proxy.forward());
    let mut info = Value::Null;
    while begun.elapsed() < Duration::from_secs(4) {
        info = source.query();
        assert_eq!(info["status"], "active", "{info}");
        std::thread::sleep(Duration::from_millis(50));
    }
    let rate = (proxy.forward() - before) as f64 / begun.elapsed().as_secs_f64();
    assert!(rate <= LIMIT * 1.05, "{rate} bytes/s: {info}");
    assert!(number(&info["ram"]["dirty-sync-count"]) > 2.0, "{info}");

    let limit = 1000.0;
    source.set(json!({"downtime-limit": limit as u64}));
    let info = source.reaches("completed");
    destination.reaches("completed");
    // What is sent while the machine stands still would have taken so long at the limit, with a
    // little for the devices and for what was written while that was found out.
    let most = LIMIT * 1.05 * limit / 1000.0 + 1e6;
    assert!(number(&info["ram"]["downtime-bytes"]) <= most, "{info}");
    assert_eq!(info["ram"]["transferred"], proxy.forward(), "{info}");
    let total = number(&info["total-time"]) - number(&info["downtime"]);
    let rate = number(&info["ram"]["precopy-bytes"]) * 1000.0 / total;
    assert!(rate <= LIMIT * 1.05, "{rate} bytes/s: {info}");
    unharmed(&mut destination);
}

/// With `auto-converge` the guest is slowed down until it can be followed, which shows; whether it
/// arrives or is kept, it is at its own speed afterwards.
#[test]
fn a_guest_that_is_too_fast() {
    let mut source = Side::source("");
    source.switch("auto-converge", true);
    source.set(json!({"max-bandwidth": 40_000_000, "downtime-limit": 50,
                      "cpu-throttle-initial": 99}));
    writes(&mut source, 100, 16);
    let throttled = |side: &mut Side| {
        poll("a throttle", || {
            let info = side.query();
            info.get("cpu-throttle-percentage").is_some().then_some(info)
        })
    };
    for arrives in [false, true] {
        let mut destination = Side::destination("");
        let uri = destination.listen_tcp();
        if !arrives {
            // Nothing of what is written arrives in time.
            source.set(json!({"downtime-limit": 0}));
        }
        source.migrate(&uri);
        let info = throttled(&mut source);
        assert_eq!(info["cpu-throttle-percentage"], 99, "{info}");
        if arrives {
            let info = source.reaches("completed");
            assert_eq!(info.get("cpu-throttle-percentage"), None, "{info}");
            destination.reaches("completed");
            unharmed(&mut destination);
        } else {
            source.qmp.execute("migrate_cancel");
            assert_eq!(source.reaches("cancelled"), json!({"status": "cancelled"}));
            source.set(json!({"downtime-limit": 50}));
        }
    }
}
