//! Objects by name, over QMP and HMP: sentences of transcript C7b.

use serde_json::{Value, json};

use crate::harness::{MockVm, hmp, monitor, qmp};

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
        (json!({"qom-type": "memory-backend-ram", "id": "m", "size": 8192}), "{}"),
        (json!({"qom-type": "iothread", "id": "io0"}), "{}"),
        (
            json!({"qom-type": "iothread", "id": "io1", "poll-max-ns": -5}),
            "poll-max-ns value must be in range [0, 9223372036854775807]",
        ),
        (
            json!({"qom-type": "tls-creds-psk", "id": "p", "dir": "/x"}),
            "tls-creds-psk: TLS with pre-shared keys is not available; use tls-creds-x509",
        ),
    ] {
        assert_eq!(qmp(&monitor, "object-add", arguments.clone()).await, expected, "{arguments}");
    }
    assert_eq!(qmp(&monitor, "object-del", json!({"id": "z2"})).await, "{}");
    let gone = "object 'z2' not found";
    assert_eq!(qmp(&monitor, "object-del", json!({"id": "z2"})).await, gone);
    let memory = json!([{"id": "m", "size": 8192, "merge": true, "dump": true, "prealloc": false,
        "share": false, "reserve": true, "host-nodes": [], "policy": "default"}]);
    assert_eq!(qmp(&monitor, "query-memdev", json!({})).await, memory.to_string());
    let threads = qmp(&monitor, "query-iothreads", json!({})).await;
    let Value::Array(threads) = serde_json::from_str(&threads).unwrap() else { panic!() };
    let thread = threads[0]["thread-id"].as_u64().unwrap();
    assert_eq!((threads.len(), &threads[0]["id"]), (1, &json!("io0")));
    let here = format!("/proc/self/task/{thread}");
    assert!(std::path::Path::new(&here).exists(), "{here}");
    let shown = format!(
        "io0:\n  thread_id={thread}\n  poll-max-ns=32768\n  poll-grow=2\n  poll-shrink=0\n  \
         aio-max-batch=0\n"
    );
    let set = |property: &str, value: i64| {
        qmp(
            &monitor,
            "qom-set",
            json!({"path": "/objects/io0", "property": property,
            "value": value}),
        )
    };
    assert_eq!(set("poll-grow", 2).await, "{}");
    let pool = "bad thread-pool-min/thread-pool-max values";
    assert_eq!(set("thread-pool-min", 65).await, pool);
    assert_eq!(set("thread-pool-max", 65).await, "{}", "what was refused has stayed, as on QEMU");
    assert_eq!(hmp(&monitor, "info iothreads").await, shown);
    assert_eq!(qmp(&monitor, "object-del", json!({"id": "io0"})).await, "{}");
    assert_eq!(qmp(&monitor, "query-iothreads", json!({})).await, "[]");
    for _ in 0..500 {
        if !std::path::Path::new(&here).exists() {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    assert!(!std::path::Path::new(&here).exists(), "the thread ends with its object");
    for (line, expected) in [
        (
            "info memdev",
            "memory backend: m\n  size:  8192\n  merge: true\n  dump: true\n  prealloc: false\n  \
             share: false\n  reserve: true\n  policy: default\n  host nodes: \n\n",
        ),
        ("info memory-devices", ""),
        ("info memory_size_summary", "base memory: 0\n"),
        (
            "object_add authz-list,id=l,rules.0.match=x",
            "Error: Parameter 'rules.0.policy' is missing\n",
        ),
        (
            "object_add authz-list,id=l,rules.0=x",
            "Error: Invalid parameter type for 'rules.0', expected: object\n",
        ),
        (
            "object_add authz-list,id=l,rules.0.match=x,rules.0.policy=allow,rules.0.foo=1",
            "Error: Parameter 'rules.0.foo' is unexpected\n",
        ),
        ("object_add authz-list,id=l,foo=3", "Error: Parameter 'foo' is unexpected\n"),
        ("object_add authz-list,id=l,rules.0.match=x,rules.0.policy=allow", ""),
        (
            "object_add memory-backend-ram,id=n,size=1M,host-nodes.0=0,host-nodes.1=xx",
            "Error: Parameter 'host-nodes.1' expects integer\n",
        ),
        (
            "object_add memory-backend-ram,id=n,size=1M,host-nodes=0",
            "Error: Invalid parameter type for 'host-nodes', expected: array\n",
        ),
        (
            "object_add memory-backend-ram,id=n,size=1M,host-nodes.0=70000",
            "Error: Parameter 'null' expects uint16_t\n",
        ),
        ("object_add memory-backend-ram,id=n,size=5.5", "Error: Parameter 'size' expects size\n"),
        (
            "object_add memory-backend-ram,id=n,size.a=5",
            "Error: Parameters 'size.*' are unexpected\n",
        ),
        ("object_add {\"qom-type\":\"iothread\",\"id\":\"z\"}", ""),
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
