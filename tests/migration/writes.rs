//! How fast a guest writes: measured, limited, and made slow enough for a migration to end.

use serde_json::{Value, json};

use crate::harness::poll;
use crate::side::Side;

fn measure(side: &mut Side, mode: &str) -> Value {
    let arguments = json!({"calc-time": 500, "calc-time-unit": "millisecond", "mode": mode});
    side.qmp.execute_with("calc-dirty-rate", arguments);
    poll("a measurement", || {
        let info = side.qmp.execute("query-dirty-rate");
        (info["status"] == "measured").then_some(info)
    })
}

/// A guest that writes all the time, and one that does nothing, in each mode; then the first one
/// under a limit.
#[test]
fn a_rate_is_measured_and_limited() {
    let mut side = Side::source("");
    for mode in ["page-sampling", "dirty-bitmap", "dirty-ring"] {
        // A guest that waits for input writes next to nothing.
        assert!(measure(&mut side, mode)["dirty-rate"].as_u64() < Some(5));
    }
    // 40 MiB, again and again.
    side.serial.send("dirty 100 600 40\r");
    side.serial.expect("dirty 100 600 40");
    for mode in ["dirty-bitmap", "dirty-ring", "page-sampling"] {
        let info = measure(&mut side, mode);
        assert!(info["dirty-rate"].as_u64() > Some(10), "{info}");
        assert_eq!(info["mode"], mode);
        let harts = info["vcpu-dirty-rate"].as_array().map(|rates| rates[0].clone());
        let expected = json!({"id": 0, "dirty-rate": info["dirty-rate"]});
        assert_eq!(harts, (mode == "dirty-ring").then_some(expected));
    }
    side.qmp.execute_with("set-vcpu-dirty-limit", json!({"dirty-rate": 4, "cpu-index": 0}));
    let slow = poll("a limit that is kept", || {
        let limits = side.qmp.execute("query-vcpu-dirty-limit");
        let rate = limits[0]["current-rate"].as_u64().expect("a rate");
        (1..=5).contains(&rate).then_some(limits)
    });
    assert_eq!((&slow[0]["limit-rate"], &slow[0]["cpu-index"]), (&json!(4), &json!(0)));
    side.qmp.execute("cancel-vcpu-dirty-limit");
    assert_eq!(side.qmp.execute("query-vcpu-dirty-limit"), json!([]));
    let info = measure(&mut side, "dirty-ring");
    assert!(info["dirty-rate"].as_u64() > Some(10), "{info}");
}

/// A guest that writes faster than may be sent migrates all the same, and is free of limits there.
#[test]
fn a_limit_lets_a_migration_end() {
    let (mut source, mut destination) = (Side::source(""), Side::destination(""));
    source.switch("dirty-limit", true);
    source.set(json!({
        "vcpu-dirty-limit": 4, "x-vcpu-dirty-limit-period": 200,
        "max-bandwidth": 30 << 20, "downtime-limit": 50,
    }));
    // All of 32 MiB, before they could be sent once.
    source.serial.send("dirty 100 100000 32\r");
    source.serial.expect("dirty 100 100000 32");
    let uri = destination.listen_tcp();
    source.migrate(&uri);
    let mut limited = None;
    poll("the end of the migration", || {
        let info = source.query();
        let rest = info["dirty-limit-throttle-time-per-round"].as_u64();
        let round = info["dirty-limit-ring-full-time"].as_u64();
        limited = limited.max(rest.zip(round));
        assert_ne!(info["status"], "failed", "{info}");
        (info["status"] == "completed").then_some(())
    });
    assert!(limited.is_some_and(|(rest, round)| rest > 0 && round > 0), "{limited:?}");
    destination.reaches("completed");
    assert_eq!(source.qmp.execute("query-vcpu-dirty-limit"), json!([]));
    assert!(measure(&mut destination, "dirty-ring")["dirty-rate"].as_u64() > Some(10));
}
