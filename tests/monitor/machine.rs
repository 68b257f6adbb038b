//! Commands about the machine as a whole, in the words of QEMU.

use std::sync::Arc;

use serde_json::json;
use understudy::machine::message::MachineTree;
use understudy::machine::spec::WatchdogAction;

use crate::harness::{MockVm, With, hmp, monitor, qmp};

#[actix::test]
async fn they_answer_as_qemu() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str| dir.path().join(name).display().to_string();
    let tree = MachineTree { device_tree: b"a tree".to_vec(), ..Default::default() };
    let (vm, monitor) = monitor(MockVm { tree: Arc::new(tree), ..Default::default() });
    let job = |name: &'static str| (name, json!({"id": "x"}), "Job not found");
    for (command, arguments, expected) in [
        ("inject-nmi", json!({}), "machine does not provide NMIs"),
        ("system_wakeup", json!({}), "wake-up from suspend is not supported by this guest"),
        ("watchdog-set-action", json!({"action": "pause"}), "{}"),
        (
            "watchdog-set-action",
            json!({"action": "foo"}),
            "Parameter 'action' does not accept value 'foo'",
        ),
        ("query-hotpluggable-cpus", json!({}), "machine does not support hot-plugging CPUs"),
        ("query-tpm", json!({}), "[]"),
        ("query-jobs", json!({}), "[]"),
        ("job-cancel", json!({}), "Parameter 'id' is missing"),
        job("job-cancel"),
        job("job-pause"),
        job("job-resume"),
        job("job-complete"),
        job("job-dismiss"),
        job("job-finalize"),
        ("query-stats", json!({"target": "vm"}), "[]"),
        ("query-stats", json!({"target": "vcpu", "vcpus": ["/machine/soc0/harts[0]"]}), "[]"),
        ("query-stats", json!({"target": "vm", "vcpus": []}), "Parameter 'vcpus' is unexpected"),
        (
            "query-stats",
            json!({"target": "vm", "providers": [{"provider": "kvm", "names": ["a"]}]}),
            "[]",
        ),
        ("query-stats", json!({"target": "foo"}), "Parameter 'target' does not accept value 'foo'"),
        ("query-stats", json!({}), "Parameter 'target' is missing"),
        ("query-stats-schemas", json!({"provider": "kvm"}), "[]"),
        ("trace-event-get-state", json!({"name": "nope"}), "unknown event \"nope\""),
        ("trace-event-get-state", json!({"name": "nope*"}), "[]"),
        (
            "trace-event-set-state",
            json!({"name": "nope", "enable": true}),
            "unknown event \"nope\"",
        ),
        ("trace-event-set-state", json!({"name": "handle_qmp_c*", "enable": true}), "{}"),
        (
            "trace-event-get-state",
            json!({"name": "handle_qmp_command"}),
            r#"[{"name":"handle_qmp_command","state":"enabled"}]"#,
        ),
        ("trace-event-set-state", json!({"name": "handle_qmp_command", "enable": false}), "{}"),
        (
            "trace-event-get-state",
            json!({"name": "handle_*"}),
            r#"[{"name":"handle_hmp_command","state":"disabled"},{"name":"handle_qmp_command","state":"disabled"}]"#,
        ),
        ("dumpdtb", json!({"filename": file("tree")}), "{}"),
        ("query-command-line-options", json!({"option": "foo"}), "invalid option name: foo"),
        (
            "query-command-line-options",
            json!({"option": "action"}),
            r#"[{"option":"action","parameters":[{"name":"watchdog","type":"string"},{"name":"panic","type":"string"},{"name":"reboot","type":"string"},{"name":"shutdown","type":"string"}]}]"#,
        ),
        ("x-query-numa", json!({}), r#"{"human-readable-text":"0 nodes\n"}"#),
    ] {
        assert_eq!(
            qmp(&monitor, command, arguments.clone()).await,
            expected,
            "{command}{arguments}"
        );
    }
    assert_eq!(std::fs::read(file("tree")).unwrap(), b"a tree");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "nothing else is left");
    let refused = qmp(&monitor, "dumpdtb", json!({"filename": "/no/such"})).await;
    let start = "Error saving FDT to file /no/such: Failed to create file “/no/such.";
    assert!(
        refused.starts_with(start) && refused.ends_with("”: No such file or directory"),
        "{refused}"
    );
    let (sender, actions) = std::sync::mpsc::channel();
    vm.send(With(Box::new(move |vm| sender.send(vm.actions.clone()).unwrap()))).await.unwrap();
    assert_eq!(actions.recv().unwrap()[0].watchdog, Some(WatchdogAction::Pause));

    for (line, expected) in [
        ("nmi", "Error: machine does not provide NMIs\n"),
        ("watchdog_action reset", ""),
        ("watchdog_action foo", "Error: invalid parameter value: foo\n"),
        (
            "watchdog_action",
            "watchdog_action: string expected\nTry \"help watchdog_action\" for more information\n",
        ),
        ("system_wakeup", "Error: wake-up from suspend is not supported by this guest\n"),
        ("info tpm", ""),
        ("info hotpluggable-cpus", "Error: machine does not support hot-plugging CPUs\n"),
        ("info numa", "0 nodes\n"),
        ("info stats vm", ""),
        ("info stats vm all", ""),
        ("info stats foo", "invalid stats target foo\n"),
        ("info stats", "stats: string expected\nTry \"help info stats\" for more information\n"),
        ("trace-event migrate_set_* on", ""),
        ("info trace-events migrate_set_state", "migrate_set_state : state 1\n"),
        ("trace-event migrate_set_state off 0", ""),
        ("info trace-events migrate_set_*", "migrate_set_state : state 0\n"),
        ("info trace-events nope", "unknown event \"nope\"\n"),
        ("trace-event nope on", "unknown event \"nope\"\n"),
        ("trace-event nope* on", ""),
        (
            "trace-event migrate_set_state maybe",
            "Expected 'on' or 'off'\nTry \"help trace-event\" for more information\n",
        ),
    ] {
        assert_eq!(hmp(&monitor, line).await, expected, "{line}");
    }
    let again = file("again");
    assert_eq!(
        hmp(&monitor, &format!("dumpdtb {again}")).await,
        format!("DTB dumped to '{again}'\n")
    );
}
