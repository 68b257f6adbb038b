//! Migration as the monitors see it: settings, the cache, and sources that fail, die or are silent.

use actix::Addr;
use serde_json::{Map, Value, json};
use understudy::qmp::monitor::{Execute, ExecuteHuman, Monitor};

use crate::harness::{MockVm, monitor};

async fn qmp(monitor: &Addr<Monitor>, command: &str, arguments: Value) -> Result<Value, String> {
    let Value::Object(arguments) = arguments else { panic!("{arguments}") };
    let command = command.to_owned();
    let request = Execute { command, arguments, out_of_band: false };
    monitor.send(request).await.unwrap().map_err(|error| error.desc)
}

async fn hmp_line(monitor: &Addr<Monitor>, line: &str) -> String {
    let state = Default::default();
    monitor.send(ExecuteHuman { line: line.into(), state }).await.unwrap().text
}

async fn query(monitor: &Addr<Monitor>) -> Value {
    qmp(monitor, "query-migrate", json!({})).await.unwrap()
}

/// `case => answer`, one a line; what is marked `!` is ours and not QEMU's.
fn cases(table: &'static str) -> impl Iterator<Item = (&'static str, &'static str)> {
    let lines = table.lines().filter(|line| !line.starts_with('#'));
    lines.map(|line| {
        let (case, answer) = line.split_once(" => ").unwrap();
        (case, answer.strip_prefix("! ").unwrap_or(answer))
    })
}

#[actix::test]
async fn parameters_are_taken_and_refused_as_by_qemu() {
    let (_vm, monitor) = monitor(MockVm::default());
    for (case, expected) in cases(include_str!("data/migration_parameters.txt")) {
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
    for (case, expected) in cases(include_str!("data/migration_parameters_hmp.txt")) {
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

/// Transcript C1b: commands that need a migration under way, without one.
#[actix::test]
async fn without_a_migration() {
    let (_vm, monitor) = monitor(MockVm::default());
    let postcopy = "Enable postcopy with migrate_set_capability before the start of migration";
    let pause = "migrate-pause is currently only supported during postcopy-active or postcopy-recover state";
    for (command, arguments, expected) in [
        ("migrate_cancel", json!({}), "ok"),
        (
            "migrate-continue",
            json!({"state": "pre-switchover"}),
            "Migration not in expected state: none",
        ),
        (
            "migrate-continue",
            json!({"state": "bogus"}),
            "Parameter 'state' does not accept value 'bogus'",
        ),
        ("migrate-continue", json!({}), "Parameter 'state' is missing"),
        ("migrate-start-postcopy", json!({}), postcopy),
        ("migrate-pause", json!({}), pause),
        ("announce-self", json!({"initial": 1, "max": 100, "rounds": 5, "step": 1}), "ok"),
        ("announce-self", json!({"initial": 1}), "Parameter 'max' is missing"),
    ] {
        let answer = qmp(&monitor, command, arguments.clone()).await;
        let said = answer.map_or_else(|sentence| sentence, |_| "ok".to_owned());
        assert_eq!(said, expected, "{command} {arguments}");
    }
    for (line, expected) in [
        ("migrate_cancel", "".to_owned()),
        (
            "migrate_cancel x",
            "migrate_cancel: extraneous characters at the end of line\n\
             Try \"help migrate_cancel\" for more information\n"
                .to_owned(),
        ),
        (
            "migrate_continue pre-switchover",
            "Error: Migration not in expected state: none\n".to_owned(),
        ),
        ("migrate_continue bogus", "Error: invalid parameter value: bogus\n".to_owned()),
        ("migrate_start_postcopy", format!("Error: {postcopy}\n")),
        ("migrate_pause", format!("Error: {pause}\n")),
        ("announce_self", "".to_owned()),
    ] {
        assert_eq!(hmp_line(&monitor, line).await, expected, "{line}");
    }
    assert_eq!(query(&monitor).await, json!({}));
    let expected = "capabilities: xbzrle: off rdma-pin-all: off auto-converge: off \
                    zero-blocks: off events: off postcopy-ram: off x-colo: off release-ram: off \
                    return-path: off pause-before-switchover: off multifd: off \
                    dirty-bitmaps: off postcopy-blocktime: off late-block-activate: off \
                    x-ignore-shared: off validate-uuid: off background-snapshot: off \
                    zero-copy-send: off postcopy-preempt: off switchover-ack: off \
                    dirty-limit: off mapped-ram: off\n";
    assert_eq!(hmp_line(&monitor, "info migrate").await, expected);
}
