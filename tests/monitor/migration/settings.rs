//! Parameters and capabilities: taken, listed, refused.

use serde_json::{Map, Value, json};

use super::{cases, hmp_line, qmp};
use crate::harness::{MockVm, monitor};

#[actix::test]
async fn parameters_are_taken_and_refused_as_by_qemu() {
    let (_vm, monitor) = monitor(MockVm::default());
    for (case, expected) in cases(include_str!("../data/migration_parameters.txt")) {
        let arguments = serde_json::from_str(case).unwrap();
        let answer = qmp(&monitor, "migrate-set-parameters", arguments).await;
        let said = answer.map_or_else(|sentence| sentence, |_| "ok".to_owned());
        assert_eq!(said, expected, "{case}");
    }
    let unknown = qmp(&monitor, "migrate-set-parameters", json!({"bogus": 1})).await;
    assert_eq!(unknown.unwrap_err(), "Parameter 'bogus' is unexpected");
}

#[actix::test]
async fn parameters_in_hmp() {
    let (_vm, monitor) = monitor(MockVm::default());
    for (case, expected) in cases(include_str!("../data/migration_parameters_hmp.txt")) {
        let said = hmp_line(&monitor, &format!("migrate_set_parameter {case}")).await;
        let expected = match expected {
            "ok" => String::new(),
            lines => lines.replace('|', "\n") + "\n",
        };
        assert_eq!(said, expected, "{case}");
    }
    // What they have come to: transcript C6.
    let shown = hmp_line(&monitor, "info migrate_parameters").await;
    for line in [
        "cpu-throttle-tailslow: on",
        "tls-creds: 'tls0'",
        "max-bandwidth: 1610612736 bytes/second",
        "avail-switchover-bandwidth: 10485760 bytes/second",
        "downtime-limit: 0 ms",
        "x-checkpoint-delay: 5 ms",
        "multifd-compression: zlib",
        "zero-page-detection: none",
        "max-postcopy-bandwidth: 1",
        "direct-io: on",
    ] {
        assert!(shown.lines().any(|shown| shown == line), "{line} in {shown}");
    }
    assert_eq!(shown.lines().count(), 25);
    let told = qmp(&monitor, "query-migrate-parameters", json!({})).await.unwrap();
    assert_eq!(told["xbzrle-cache-size"], 67_108_864);
    assert_eq!(told.as_object().map(Map::len), Some(28));
}

#[actix::test]
async fn capabilities() {
    let (_vm, monitor) = monitor(MockVm::default());
    let set =
        |list: Value| qmp(&monitor, "migrate-set-capabilities", json!({"capabilities": list}));
    let twice = json!([
        {"capability": "xbzrle", "state": true},
        {"capability": "xbzrle", "state": false},
    ]);
    assert_eq!(set(twice).await, Ok(json!({})));
    // One that is refused leaves all as they were.
    let conflict = json!([
        {"capability": "auto-converge", "state": true},
        {"capability": "xbzrle", "state": true},
        {"capability": "multifd", "state": true},
    ]);
    assert_eq!(set(conflict).await, Err("Multifd is not compatible with xbzrle".into()));
    let shown = hmp_line(&monitor, "info migrate_capabilities").await;
    assert_eq!(shown.lines().count(), 22);
    assert!(shown.lines().all(|line| line.ends_with(": off")), "{shown}");
    for (line, expected) in [
        ("migrate_set_capability events on", ""),
        (
            "migrate_set_capability zero-blocks on",
            "warning: zero-blocks capability is deprecated\n",
        ),
        ("migrate_set_capability bogus on", "Error: invalid parameter value: bogus\n"),
        (
            "migrate_set_capability events maybe",
            "Expected 'on' or 'off'\nTry \"help migrate_set_capability\" for more information\n",
        ),
        (
            "migrate_set_capability",
            "migrate_set_capability: string expected\n\
             Try \"help migrate_set_capability\" for more information\n",
        ),
    ] {
        assert_eq!(hmp_line(&monitor, line).await, expected, "{line}");
    }
    let list = qmp(&monitor, "query-migrate-capabilities", json!({})).await.unwrap();
    let on = list.as_array().unwrap().iter().filter(|status| status["state"] == true);
    let on: Vec<_> = on.map(|status| status["capability"].clone()).collect();
    assert_eq!(on, ["zero-blocks", "events"]);
}
