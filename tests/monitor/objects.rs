//! Objects by name, over QMP and HMP: sentences of transcript C7b.

use actix::Addr;
use serde_json::{Value, json};
use understudy::qmp::monitor::{Execute, ExecuteHuman, Monitor};

use crate::harness::{MockVm, monitor};

async fn qmp(monitor: &Addr<Monitor>, command: &str, arguments: Value) -> String {
    let Value::Object(arguments) = arguments else { panic!("{arguments}") };
    let command = command.to_owned();
    let request = Execute { command, arguments, out_of_band: false, passed: Default::default() };
    match monitor.send(request).await.unwrap() {
        Ok(reply) => reply.to_string(),
        Err(error) => error.desc,
    }
}

async fn hmp(monitor: &Addr<Monitor>, line: &str) -> String {
    let state = Default::default();
    monitor
        .send(ExecuteHuman { line: line.into(), state, passed: Default::default() })
        .await
        .unwrap()
        .text
}

#[actix::test]
async fn objects_come_and_go() {
    let (_vm, monitor) = monitor(MockVm::default());
    for (arguments, expected) in [
        (json!({"qom-type": "authz-simple", "id": "z1"}), "Parameter 'identity' is missing"),
        (
            json!({"qom-type": "authz-list", "id": "z2", "policy": "deny", "rules": [
                {"match": "CN=a", "policy": "allow", "format": "exact"}]}),
            "{}",
        ),
        (
            json!({"qom-type": "authz-simple", "id": "z2", "identity": "x"}),
            "attempt to add duplicate property 'z2' to object (type 'container')",
        ),
        (
            json!({"qom-type": "authz-list-file", "id": "z3", "filename": "/nope"}),
            "Parameter 'qom-type' does not accept value 'authz-list-file'",
        ),
        (
            json!({"qom-type": "authz-simple", "id": "z4", "identity": "x", "more": 1}),
            "Parameter 'more' is unexpected",
        ),
        (json!({"id": "x"}), "Parameter 'qom-type' is missing"),
        (
            json!({"qom-type": "memory-backend-ram", "id": "m", "size": 8192}),
            "memory-backend-ram is available on the command line only",
        ),
    ] {
        assert_eq!(qmp(&monitor, "object-add", arguments.clone()).await, expected, "{arguments}");
    }
    assert_eq!(qmp(&monitor, "object-del", json!({"id": "z2"})).await, "{}");
    let gone = "object 'z2' not found";
    assert_eq!(qmp(&monitor, "object-del", json!({"id": "z2"})).await, gone);
    for (line, expected) in [
        ("object_add secret,id=h,data=with a space", ""),
        ("object_del h", ""),
        ("object_del h", "Error: object 'h' not found\n"),
        ("object_add authz-simple,id=h", "Error: Parameter 'identity' is missing\n"),
        (
            "object_add tls-creds-x509,id=h1,endpoint=client,dir=/no/such",
            "Error: Unable to access credentials /no/such/ca-cert.pem: No such file or directory\n",
        ),
        (
            "object_add",
            "object_add: string expected\nTry \"help object_add\" for more information\n",
        ),
    ] {
        assert_eq!(hmp(&monitor, line).await, expected, "{line}");
    }
}
