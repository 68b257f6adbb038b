//! How fast the guest writes, as clients ask for it: names, ranges and sentences are QEMU's.

use std::sync::Arc;
use std::time::Duration;

use actix::{Actor, Addr};
use serde_json::{Value, json};
use understudy::cpu::inbox::Peers;
use understudy::machine::dirty_rate::DirtyRate;
use understudy::machine::memory::{GuestRam, RAM_BASE};
use understudy::machine::message::RunState;
use understudy::qmp::monitor::Monitor;

use crate::harness::{MockVm, monitor};
use crate::migration::puppet::Puppet;
use crate::migration::{hmp_line, qmp};

/// A monitor of a machine that is measured; the machine's harts and memory.
fn measured() -> (Addr<MockVm>, Addr<Monitor>, Peers, Arc<GuestRam>) {
    let (vm, monitor) = monitor(MockVm { state: RunState::Running, ..Default::default() });
    let (harts, ram) = (Peers::new(2), Arc::new(GuestRam::new(RAM_BASE, 4 << 20).unwrap()));
    let measurer = DirtyRate::new(Arc::clone(&ram), harts.clone()).start();
    Puppet::new(&monitor).perform_beside(&measurer, &monitor);
    (vm, monitor, harts, ram)
}

async fn rate(monitor: &Addr<Monitor>) -> Value {
    let mut info = qmp(monitor, "query-dirty-rate", json!({})).await.unwrap();
    assert!(info["start-time"].is_u64());
    info.as_object_mut().unwrap().remove("start-time");
    info
}

#[actix::test]
async fn a_rate_is_measured() {
    let (_vm, monitor, harts, ram) = measured();
    assert_eq!(
        hmp_line(&monitor, "info dirty_rate").await,
        "Status: unstarted\nStart Time: 0 (ms)\nSample Pages: 0 (per GB)\nPeriod: 0 (sec)\n\
         Mode: page-sampling\nDirty rate: (not ready)\n"
    );
    let range = "Calculation time is out of range [50ms, 60000ms].";
    let samples = "sample-pages is out of range[128, 16384].";
    let mode = "sample-pages is used only in page-sampling mode";
    for (arguments, expected) in [
        (json!({}), "Parameter 'calc-time' is missing"),
        (json!({"calc-time": 0}), range),
        (json!({"calc-time": 61}), range),
        (json!({"calc-time": i64::MAX}), range),
        (json!({"calc-time": 49, "calc-time-unit": "millisecond"}), range),
        (json!({"calc-time": 1, "sample-pages": 127}), samples),
        (json!({"calc-time": 1, "sample-pages": 16385}), samples),
        (json!({"calc-time": 1, "sample-pages": 512, "mode": "dirty-bitmap"}), mode),
        (json!({"calc-time": 1, "mode": "x"}), "Parameter 'mode' does not accept value 'x'"),
    ] {
        let answer = qmp(&monitor, "calc-dirty-rate", arguments.clone()).await;
        assert_eq!(answer, Err(expected.to_owned()), "{arguments}");
    }
    assert_eq!(rate(&monitor).await["status"], "unstarted");

    let arguments =
        json!({"calc-time": 1000, "calc-time-unit": "millisecond", "mode": "dirty-ring"});
    assert_eq!(qmp(&monitor, "calc-dirty-rate", arguments.clone()).await, Ok(json!({})));
    let busy = Err("the dirty rate is already being measured.".to_owned());
    assert_eq!(qmp(&monitor, "calc-dirty-rate", arguments).await, busy);
    let expected = json!({"status": "measuring", "sample-pages": 0, "mode": "dirty-ring",
        "calc-time-unit": "second", "calc-time": 1});
    assert_eq!(rate(&monitor).await, expected);
    for _ in 0..600 {
        harts.0[1].writes.count();
    }
    tokio::time::sleep(Duration::from_millis(1020)).await;
    let info = rate(&monitor).await;
    let rates = json!([{"id": 0, "dirty-rate": 0}, {"id": 1, "dirty-rate": 2}]);
    assert_eq!((&info["dirty-rate"], &info["vcpu-dirty-rate"]), (&json!(2), &rates));
    let shown = hmp_line(&monitor, "info dirty_rate").await;
    let end = "Period: 1 (sec)\nMode: dirty-ring\nDirty rate: 2 (MB/s)\n\
               vcpu[0], Dirty rate: 0 (MB/s)\nvcpu[1], Dirty rate: 2 (MB/s)\n";
    assert!(shown.starts_with("Status: measured\nStart Time: ") && shown.ends_with(end), "{shown}");

    for (line, expected) in [
        ("calc_dirty_rate 0", "Incorrect period length specified!\n"),
        ("calc_dirty_rate -r -b 1", "Either dirty ring or dirty bitmap can be specified!\n"),
        ("calc_dirty_rate 100", "Error: Calculation time is out of range [50ms, 60000ms].\n"),
        (
            "calc_dirty_rate -b 1",
            "Starting dirty rate measurement with period 1 seconds\n\
             [Please use 'info dirty_rate' to check results]\n",
        ),
    ] {
        assert_eq!(hmp_line(&monitor, line).await, expected, "{line}");
    }
    ram.fill(RAM_BASE, 7 << 19, 1).unwrap();
    tokio::time::sleep(Duration::from_millis(1020)).await;
    let info = rate(&monitor).await;
    assert_eq!((&info["dirty-rate"], &info["mode"]), (&json!(3), &json!("dirty-bitmap")));
}

#[actix::test]
async fn a_rate_is_limited() {
    let (_vm, monitor, harts, _) = measured();
    let set = |arguments| qmp(&monitor, "set-vcpu-dirty-limit", arguments);
    let wrong = Err("incorrect cpu index specified".to_owned());
    assert_eq!(set(json!({"cpu-index": 2, "dirty-rate": 1})).await, wrong);
    for (line, expected) in [
        ("info vcpu_dirty_limit", "Dirty page limit not enabled!\n"),
        ("set_vcpu_dirty_limit -3", "Error: invalid dirty page limit -3\n"),
        ("set_vcpu_dirty_limit 5 7", "Error: incorrect cpu index specified\n"),
        ("set_vcpu_dirty_limit 5 1", ""),
        ("info vcpu_dirty_limit", "vcpu[1], limit rate 5 (MB/s), current rate 0 (MB/s)\n"),
        (
            "cancel_vcpu_dirty_limit 0",
            "[Please use 'info vcpu_dirty_limit' to query dirty limit for virtual CPU]\n",
        ),
    ] {
        assert_eq!(hmp_line(&monitor, line).await, expected, "{line}");
    }
    let limits = qmp(&monitor, "query-vcpu-dirty-limit", json!({})).await;
    let expected = json!([{"cpu-index": 1, "limit-rate": 5, "current-rate": 0}]);
    assert_eq!(limits, Ok(expected));
    assert_eq!(set(json!({"dirty-rate": 0})).await, Ok(json!({})));
    assert_eq!(qmp(&monitor, "query-vcpu-dirty-limit", json!({})).await, Ok(json!([])));
    assert!(!harts.0[1].writes.is_overdrawn());

    // A migration that limits the harts itself has the last word.
    let on = json!({"capabilities": [{"capability": "dirty-limit", "state": true}]});
    qmp(&monitor, "migrate-set-capabilities", on).await.unwrap();
    qmp(&monitor, "migrate", json!({"uri": "tcp:h:1"})).await.unwrap();
    assert_eq!(set(json!({"dirty-rate": 9})).await, Ok(json!({})));
    for (command, verb) in [("set-vcpu-dirty-limit", "set"), ("cancel-vcpu-dirty-limit", "cancel")]
    {
        let arguments = if verb == "set" { json!({"dirty-rate": 8}) } else { json!({}) };
        let sentence = format!("can't {verb} dirty page rate limit while migration is running");
        assert_eq!(qmp(&monitor, command, arguments).await, Err(sentence));
    }
}
