//! What begins and steers a migration, and what refuses to.

use std::time::Duration;

use serde_json::json;
use understudy::actors::outlet::Outlet;
use understudy::machine::message::RunState;
use understudy::migration::message::{MigrationEvent, Side};
use understudy::migration::status::{ErrorDesc, MigrationState};
use understudy::qmp::link::{MachineInfo, MachineLink};
use understudy::qmp::monitor::Monitor;

use super::puppet::{Puppet, asked, entered, failed, pull};
use super::{hmp_line, qmp, query};
use crate::harness::{MockVm, info, monitor};

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

/// What refuses `migrate` before anything happens, in QEMU's words and order.
#[actix::test]
async fn what_refuses_to_start() {
    let main = json!({"channel-type": "main", "addr":
        {"transport": "socket", "type": "inet", "host": "h", "port": "1"}});
    let exec = json!({"channel-type": "main", "addr": {"transport": "exec", "args": []}});
    let either = "need either 'uri' or 'channels' argument";
    let many = "Migration requires multi-channel URIs (e.g. tcp)";
    let seek = "Migration requires seekable transport (e.g. file)";
    let tcp = json!({"uri": "tcp:h:1"});
    let running = RunState::Running;
    for (state, capabilities, arguments, expected) in [
        (running, "", json!({}), either),
        (running, "", json!({"channels": []}), either),
        (running, "", json!({"uri": "tcp:h:1", "channels": [main]}), either),
        (running, "", json!({"uri": "bogus:x"}), "unknown migration protocol: bogus:x"),
        (running, "", json!({"uri": "tcp:127.0.0.1"}), "error parsing address '127.0.0.1'"),
        (running, "", json!({"uri": 1}), "Invalid parameter type for 'uri', expected: string"),
        (running, "", json!({"uri": "tcp:h:1", "blk": true}), "Parameter 'blk' is unexpected"),
        (
            running,
            "",
            json!({"channels": [main, main]}),
            "Channel list has more than one main entry",
        ),
        (
            running,
            "",
            json!({"channels": [exec]}),
            "Parameter 'args' expects a command and its arguments",
        ),
        (
            running,
            "",
            json!({"channels": [{"channel-type": "main"}]}),
            "Parameter 'channels[0].addr' is missing",
        ),
        (
            running,
            "",
            json!({"uri": "tcp:h:1", "resume": true}),
            "Cannot resume if there is no paused migration",
        ),
        (RunState::Inmigrate, "", tcp.clone(), "Guest is waiting for an incoming migration"),
        (RunState::Inmigrate, "", json!({"uri": "bogus:"}), "unknown migration protocol: bogus:"),
        (
            RunState::Postmigrate,
            "",
            tcp.clone(),
            "Can't migrate the vm that was paused due to previous migration",
        ),
        (running, "multifd", json!({"uri": "exec:cat"}), many),
        (running, "multifd", json!({"uri": "fd:x"}), many),
        (running, "multifd", json!({"uri": "file:/x"}), many),
        (running, "mapped-ram", json!({"uri": "exec:cat"}), seek),
        (running, "mapped-ram", tcp.clone(), seek),
        (running, "multifd mapped-ram", json!({"uri": "file:/x"}), "ok"),
        (running, "multifd", json!({"channels": [main]}), "ok"),
        (RunState::Prelaunch, "", tcp.clone(), "ok"),
    ] {
        let (_vm, monitor) = monitor(MockVm { state, ..Default::default() });
        let puppet = Puppet::new(&monitor).perform(&monitor);
        let on = capabilities.split_whitespace();
        let on: Vec<_> = on.map(|name| json!({"capability": name, "state": true})).collect();
        qmp(&monitor, "migrate-set-capabilities", json!({"capabilities": on})).await.unwrap();
        let answer = qmp(&monitor, "migrate", arguments.clone()).await;
        let said = answer.map_or_else(|sentence| sentence, |_| "ok".to_owned());
        assert_eq!(said, expected, "{state:?} {capabilities} {arguments}");
        let expected = if expected == "ok" { 1 } else { 0 };
        assert_eq!(asked(&puppet).await.len(), expected, "{arguments}");
        let status = query(&monitor).await;
        assert_eq!(status.get("status").is_some(), expected == 1, "{status}");
    }
}

#[actix::test]
async fn one_at_a_time() {
    let (_vm, monitor) = monitor(MockVm { state: RunState::Running, ..Default::default() });
    let puppet = Puppet::new(&monitor).perform(&monitor);
    let start = || qmp(&monitor, "migrate", json!({"uri": "tcp:h:1"}));
    let (one, other) = tokio::join!(start(), start());
    let busy = Err("There's a migration process in progress".to_owned());
    assert_eq!((one, other), (Ok(json!({})), busy.clone()));
    let set = json!({"capabilities": [{"capability": "xbzrle", "state": true}]});
    assert_eq!(qmp(&monitor, "migrate-set-capabilities", set).await, busy);
    // Parameters may change, and the source hears of it.
    qmp(&monitor, "migrate-set-parameters", json!({"max-bandwidth": 7})).await.unwrap();
    assert!(asked(&puppet).await.last().unwrap().contains("max_bandwidth: 7,"));
    assert_eq!(qmp(&monitor, "migrate_cancel", json!({})).await, Ok(json!({})));
    assert_eq!(query(&monitor).await, json!({"status": "cancelled"}));
    assert_eq!(asked(&puppet).await, ["CancelMigration"]);
}

#[actix::test]
async fn blockers() {
    let (vm, _) = monitor(MockVm { state: RunState::Running, ..Default::default() });
    let blocked = MachineInfo {
        blockers: ["The vmdk format", "non-migratable device: 0000:00:01.0/nvme"]
            .map(str::to_owned)
            .into(),
        only_migratable: true,
        ..info()
    };
    let link = MachineLink::to(&vm, Outlet::Unconnected);
    let monitor = Monitor::start_bounded(link, blocked, Duration::from_millis(200));
    Puppet::new(&monitor).perform(&monitor);
    let answer = qmp(&monitor, "migrate", json!({"uri": "exec:cat"})).await;
    assert_eq!(answer.unwrap_err(), "State blocked by non-migratable device '0000:00:01.0/nvme'");
    assert_eq!(query(&monitor).await["blocked-reasons"][0], "The vmdk format");
    let shown = hmp_line(&monitor, "info migrate -a").await;
    let after = shown.split_once("mapped-ram: off\n").unwrap().1;
    assert!(
        after.starts_with(
            "Outgoing migration blocked:\n  The vmdk format\n  \
             non-migratable device: 0000:00:01.0/nvme\nglobals:\nstore-global-state: on\n\
             only-migratable: on\n"
        ),
        "{after}"
    );
    assert!(after.ends_with("mode: normal\ndirect-io: off\n"), "{after}");
}

/// Transcript C8, and a second try after a failure to listen.
#[actix::test]
async fn arriving() {
    let (_vm, outside) = monitor(MockVm { state: RunState::Running, ..Default::default() });
    let unasked = "'-incoming' was not specified on the command line";
    let incoming = |uri: &str| json!({"uri": uri});
    let answer = qmp(&outside, "migrate-incoming", incoming("tcp:h:1")).await;
    assert_eq!(answer.unwrap_err(), unasked);
    let shown = hmp_line(&outside, "migrate_incoming tcp:h:1").await;
    assert_eq!(shown, format!("Error: {unasked}\n"));
    let recover = qmp(&outside, "migrate-recover", incoming("tcp:h:1")).await;
    assert_eq!(recover.unwrap_err(), "Migrate recover can only be run when postcopy is paused.");

    let (_vm, monitor) = monitor(MockVm { state: RunState::Inmigrate, ..Default::default() });
    let mut puppet = Puppet { side: Side::Destination, ..Puppet::new(&monitor) };
    let no_port = "Failed to find an available port: Address already in use";
    puppet.before.push(failed(no_port));
    puppet.answer = Err(ErrorDesc::new(no_port));
    let puppet = puppet.perform(&monitor);
    let main = json!({"channel-type": "main", "addr":
        {"transport": "socket", "type": "inet", "host": "h", "port": "1"}});
    for (arguments, expected) in [
        (json!({}), "need either 'uri' or 'channels' argument"),
        (incoming("bogus:x"), "unknown migration protocol: bogus:x"),
        (
            json!({"channels": [main, main]}),
            "Channel list must have only one entry, for type 'main'",
        ),
        (
            json!({"uri": "tcp:h:1", "exit-on-error": "x"}),
            "Invalid parameter type for 'exit-on-error', expected: boolean",
        ),
        (incoming("tcp:h:1"), no_port),
    ] {
        let answer = qmp(&monitor, "migrate-incoming", arguments.clone()).await;
        assert_eq!(answer.unwrap_err(), expected, "{arguments}");
    }
    assert_eq!(query(&monitor).await["error-desc"], no_port);
    let place = json!({"type": "inet", "host": "127.0.0.1", "port": "9", "ipv4": true});
    let told = place.clone();
    pull(&puppet, |puppet| {
        puppet.before = vec![entered(MigrationState::Setup), MigrationEvent::Listening(vec![told])];
        puppet.answer = Ok(());
    })
    .await;
    assert_eq!(qmp(&monitor, "migrate-incoming", incoming("tcp:h:0")).await, Ok(json!({})));
    assert_eq!(query(&monitor).await, json!({"status": "setup", "socket-address": [place]}));
    let shown = hmp_line(&monitor, "info migrate").await;
    assert!(shown.ends_with(
        "Migration status: setup\ntotal time: 0 milliseconds\n\
         socket address: [\n\ttcp:127.0.0.1:9\n]\n"
    ));
    let again = qmp(&monitor, "migrate-incoming", incoming("tcp:h:0")).await;
    assert_eq!(again.unwrap_err(), "The incoming migration has already been started");
    let set = |name| json!({"capabilities": [{"capability": name, "state": true}]});
    let late = qmp(&monitor, "migrate-set-capabilities", set("multifd")).await;
    assert_eq!(late.unwrap_err(), "Multifd must be set before incoming starts");
    assert_eq!(qmp(&monitor, "migrate-set-capabilities", set("xbzrle")).await, Ok(json!({})));
    let out = qmp(&monitor, "migrate", incoming("tcp:h:1")).await;
    assert_eq!(out.unwrap_err(), "Guest is waiting for an incoming migration");
    assert_eq!(qmp(&monitor, "migrate_cancel", json!({})).await, Ok(json!({})));

    // A postcopy that loses its connection is recovered at both ends.
    let lost = || entered(MigrationState::PostcopyPaused(ErrorDesc::new("lost")));
    pull(&puppet, move |puppet| puppet.tell(lost())).await;
    assert_eq!(qmp(&monitor, "migrate-recover", incoming("tcp:h:2")).await, Ok(json!({})));
    assert!(asked(&puppet).await.last().unwrap().starts_with("RecoverIncoming"));
}

#[actix::test]
async fn a_postcopy_is_steered() {
    let (_vm, monitor) = monitor(MockVm { state: RunState::Running, ..Default::default() });
    let puppet = Puppet::new(&monitor).perform(&monitor);
    let set = json!({"capabilities": [{"capability": "postcopy-ram", "state": true}]});
    qmp(&monitor, "migrate-set-capabilities", set).await.unwrap();
    let early = qmp(&monitor, "migrate-start-postcopy", json!({})).await;
    assert_eq!(early.unwrap_err(), "Postcopy must be started after migration has been started");
    qmp(&monitor, "migrate", json!({"uri": "tcp:h:1"})).await.unwrap();
    qmp(&monitor, "migrate-start-postcopy", json!({})).await.unwrap();
    pull(&puppet, |puppet| puppet.tell(entered(MigrationState::PostcopyActive))).await;
    let cancel = qmp(&monitor, "migrate_cancel", json!({})).await;
    assert_eq!(cancel.unwrap_err(), "Postcopy migration in progress, cannot cancel.");
    qmp(&monitor, "migrate-pause", json!({})).await.unwrap();
    let lost = entered(MigrationState::PostcopyPaused(ErrorDesc::new("lost")));
    pull(&puppet, |puppet| puppet.tell(lost)).await;
    assert_eq!(query(&monitor).await["error-desc"], "lost");
    let resume = json!({"uri": "tcp:h:2", "resume": true});
    qmp(&monitor, "migrate", resume).await.unwrap();
    pull(&puppet, |puppet| puppet.tell(entered(MigrationState::PreSwitchover))).await;
    qmp(&monitor, "migrate-continue", json!({"state": "pre-switchover"})).await.unwrap();
    let asked = asked(&puppet).await;
    let asked: Vec<_> = asked.iter().map(|text| text.split(' ').next().unwrap()).collect();
    assert_eq!(
        asked.iter().filter(|name| **name != "Ping").copied().collect::<Vec<_>>(),
        [
            "StartMigration",
            "StartPostcopy",
            "PauseMigration",
            "StartMigration",
            "ContinueMigration"
        ]
    );
}

#[actix::test]
async fn a_migration_can_be_yanked_while_there_is_one() {
    let (_vm, monitor) = monitor(MockVm { state: RunState::Running, ..Default::default() });
    let puppet = Puppet::new(&monitor).perform(&monitor);
    let migration = || json!([{"type": "migration"}]);
    let yank = || qmp(&monitor, "yank", json!({"instances": migration()}));
    assert_eq!(qmp(&monitor, "query-yank", json!({})).await, Ok(json!([])));
    assert_eq!(yank().await.unwrap_err(), "Instance not found");
    qmp(&monitor, "migrate", json!({"uri": "tcp:h:1"})).await.unwrap();
    assert_eq!(qmp(&monitor, "query-yank", json!({})).await, Ok(migration()));
    // One that does not exist, and none is yanked.
    let both = json!({"instances": [{"type": "migration"}, {"type": "chardev", "id": "no"}]});
    assert_eq!(qmp(&monitor, "yank", both).await.unwrap_err(), "Instance not found");
    assert!(!asked(&puppet).await.iter().any(|asked| asked == "CutMigration"));
    yank().await.unwrap();
    assert_eq!(asked(&puppet).await.last().unwrap(), "CutMigration");
    let lost = entered(MigrationState::Failed(ErrorDesc::new("lost")));
    pull(&puppet, |puppet| puppet.tell(lost)).await;
    assert_eq!(yank().await.unwrap_err(), "Instance not found");
}
