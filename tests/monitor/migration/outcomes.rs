//! Migrations that fail, and sources that die or fall silent.

use std::time::{Duration, Instant};

use actix::Addr;
use serde_json::{Value, json};
use understudy::chardev::message::CharEvent;
use understudy::machine::message::RunState;
use understudy::migration::message::MigrationEvent;
use understudy::migration::status::MigrationState;
use understudy::qmp::monitor::Monitor;
use understudy::qmp::session;

use super::puppet::{Puppet, entered, failed, kill};
use super::{hmp_line, qmp, query, until_status};
use crate::harness::{MockVm, Terminal, monitor};

/// What `query-migrate` says is known before the event, and the event before the next reply.
#[actix::test]
async fn a_failure_in_qmp() {
    let (_vm, monitor) = monitor(MockVm { state: RunState::Running, ..Default::default() });
    let mut puppet = Puppet::new(&monitor);
    puppet.after = vec![
        MigrationEvent::Pass(1),
        failed("address resolution failed for myhost:9000: No address associated with hostname"),
    ];
    puppet.perform(&monitor);
    let (backend, mut client) = Terminal::new();
    session::attach(backend, monitor.clone(), false);
    client.event(CharEvent::Opened).await;
    client.line().await;
    for line in [
        r#"{"execute": "qmp_capabilities"}"#,
        r#"{"execute": "migrate-set-capabilities", "arguments": {"capabilities": [{"capability": "events", "state": true}]}}"#,
    ] {
        client.type_bytes(line.as_bytes()).await;
        assert_eq!(client.line().await, r#"{"return": {}}"#);
    }
    client.type_bytes(br#"{"execute": "migrate", "arguments": {"uri": "tcp:myhost:9000"}}"#).await;
    let mut told = Vec::new();
    while told.len() < 4 {
        let mut line: Value = serde_json::from_str(&client.line().await).unwrap();
        line.as_object_mut().unwrap().shift_remove("timestamp");
        told.push(line);
    }
    let reply = told.iter().position(|line| *line == json!({"return": {}})).unwrap();
    assert!(reply >= 1, "the reply overtook the event: {told:?}");
    told.remove(reply);
    assert_eq!(
        told,
        [
            json!({"event": "MIGRATION", "data": {"status": "setup"}}),
            json!({"event": "MIGRATION_PASS", "data": {"pass": 1}}),
            json!({"event": "MIGRATION", "data": {"status": "failed"}}),
        ]
    );
    client.type_bytes(br#"{"execute": "query-migrate"}"#).await;
    assert_eq!(
        client.line().await,
        r#"{"return": {"status": "failed", "error-desc": "address resolution failed for myhost:9000: No address associated with hostname"}}"#
    );
}

/// Without the capability nothing is announced, and everything known all the same.
#[actix::test]
async fn events_are_switched_on() {
    let (_vm, monitor) = monitor(MockVm { state: RunState::Running, ..Default::default() });
    let mut puppet = Puppet::new(&monitor);
    puppet.after = vec![entered(MigrationState::Active), MigrationEvent::Pass(1), failed("late")];
    puppet.perform(&monitor);
    let (backend, mut client) = Terminal::new();
    session::attach(backend, monitor.clone(), false);
    client.event(CharEvent::Opened).await;
    client.line().await;
    client.type_bytes(br#"{"execute": "qmp_capabilities"}"#).await;
    client.line().await;
    qmp(&monitor, "migrate", json!({"uri": "tcp:h:1"})).await.unwrap();
    until_status(&monitor, "failed").await;
    assert_eq!(client.rest().await, b"");
}

/// Whatever state the source has told last: once it is gone, the migration has failed.
#[actix::test]
async fn a_source_that_dies_anywhere() {
    use MigrationState::*;
    let gone = "The migration's actor has died: it takes no more messages";
    let path = [Setup, Active, PreSwitchover, Device, PostcopyActive, PostcopyRecover, Cancelling];
    for end in 0..=path.len() {
        let (_vm, monitor) = monitor(MockVm { state: RunState::Running, ..Default::default() });
        let mut puppet = Puppet::new(&monitor);
        puppet.before = path[..end].iter().cloned().map(entered).collect();
        let puppet = puppet.perform(&monitor);
        qmp(&monitor, "migrate", json!({"uri": "tcp:h:1"})).await.unwrap();
        kill(&puppet).await;
        let expected = json!({"status": "failed", "error-desc": gone});
        assert_eq!(query(&monitor).await, expected, "after {end} states");
        assert_eq!(query(&monitor).await, expected);
        let shown = hmp_line(&monitor, "info migrate").await;
        assert!(shown.ends_with(&format!(
            "Migration status: failed ({gone})\ntotal time: 0 milliseconds\n"
        )));
        let again = qmp(&monitor, "migrate", json!({"uri": "tcp:h:1"})).await;
        assert_eq!(again.unwrap_err(), gone);
    }
}

/// A source that answers nothing any more holds up nobody, and is found out.
#[actix::test]
async fn a_source_that_falls_silent() {
    let (_vm, monitor) = monitor(MockVm { state: RunState::Running, ..Default::default() });
    let puppet = Puppet { deaf: true, ..Puppet::new(&monitor) };
    puppet.perform(&monitor);
    qmp(&monitor, "migrate", json!({"uri": "tcp:h:1"})).await.unwrap();
    let begun = Instant::now();
    assert_eq!(query(&monitor).await, json!({"status": "setup"}));
    assert!(begun.elapsed() < Duration::from_millis(150), "a question waited for the source");
    let told = until_status(&monitor, "failed").await;
    let silent = "The migration's actor has died: no answer within 200 ms";
    assert_eq!(told["error-desc"], silent);
    // The same where it is told something.
    let other = monitor_with_deaf_source().await;
    let answer = qmp(&other, "migrate_cancel", json!({})).await;
    assert_eq!(answer.unwrap_err(), silent);
    assert_eq!(query(&other).await["error-desc"], silent);
}

async fn monitor_with_deaf_source() -> Addr<Monitor> {
    let (_, monitor) = monitor(MockVm { state: RunState::Running, ..Default::default() });
    Puppet { deaf: true, ..Puppet::new(&monitor) }.perform(&monitor);
    qmp(&monitor, "migrate", json!({"uri": "tcp:h:1"})).await.unwrap();
    monitor
}
