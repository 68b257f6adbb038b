//! The object model over QMP and HMP, of a machine that is only described.

use actix::Addr;
use serde_json::{Value, json};
use understudy::qmp::error::ErrorClass;
use understudy::qmp::link::MachineInfo;
use understudy::qmp::monitor::{Execute, Monitor};
use understudy::qom::{Node, Qom};

use crate::harness::{MockVm, hmp, info, monitor_with};

fn machine() -> MachineInfo {
    let peripheral = Node::new("container").holding("rng0", Node::new("virtio-rng-device"));
    let machine = Node::new("virt-machine")
        .with("append", "quiet")
        .holding("peripheral", peripheral)
        .holding("unattached", Node::new("container").holding("rng0", Node::new("irq")));
    MachineInfo { qom: Qom::new(machine, None), ..info() }
}

async fn ask(monitor: &Addr<Monitor>, command: &str, arguments: Value) -> Result<Value, Value> {
    let Value::Object(arguments) = arguments else { panic!("{arguments}") };
    let command = command.to_owned();
    let request = Execute { command, arguments, out_of_band: false, passed: Default::default() };
    let reply = monitor.send(request).await.unwrap();
    reply.map_err(|error| json!([error.class == ErrorClass::DeviceNotFound, error.desc]))
}

#[actix::test]
async fn commands_answer_as_qemus() {
    let (_vm, monitor) = monitor_with(MockVm::default(), machine());
    let not_found = |sentence: &str| Err(json!([true, sentence]));
    let refused = |sentence: &str| Err(json!([false, sentence]));
    let at = |path: &str| json!({"path": path});
    let property = |path: &str, property: &str| json!({"path": path, "property": property});
    let set = |path: &str, property: &str, value: Value| json!({"path": path, "property": property, "value": value});
    let of = |typename: &str| json!({"typename": typename});
    for (command, arguments, expected) in [
        ("qom-list", at("/nope"), not_found("Device '/nope' not found")),
        ("qom-list", at("rng0"), refused("Path 'rng0' is ambiguous")),
        ("qom-list", at("unattached/rng0"), Ok(json!([{"name": "type", "type": "string"}]))),
        ("qom-get", property("rng0", "type"), not_found("Device 'rng0' not found")),
        ("qom-get", property("/machine", "append"), Ok(json!("quiet"))),
        ("qom-get", property("/machine", "peripheral"), Ok(json!("/machine/peripheral"))),
        (
            "qom-get",
            property("/machine", "nope"),
            refused("Property 'virt-machine.nope' not found"),
        ),
        (
            "qom-get",
            property("peripheral/rng0", "legacy-rng"),
            refused("Property 'virtio-rng-device.legacy-rng' is not readable"),
        ),
        ("qom-set", set("/machine", "append", json!("loud")), Ok(json!({}))),
        ("qom-get", property("/machine", "append"), Ok(json!("loud"))),
        (
            "qom-set",
            set("/machine", "append", json!(1)),
            refused("Invalid parameter type for 'append', expected: string"),
        ),
        (
            "qom-set",
            set("/machine", "type", json!("x")),
            refused("Property 'virt-machine.type' is not writable"),
        ),
        (
            "qom-set",
            set("peripheral/rng0", "period", json!(1)),
            refused(
                "Attempt to set property 'period' on device 'rng0' (type 'virtio-rng-device') \
                 after it was realized",
            ),
        ),
        ("qom-set", property("/machine", "append"), refused("Parameter 'value' is missing")),
        ("device-list-properties", of("nope"), not_found("Device 'nope' not found")),
        (
            "device-list-properties",
            of("device"),
            refused("Parameter 'typename' expects a non-abstract device type"),
        ),
        (
            "device-list-properties",
            of("virtserialport"),
            Ok(json!([
                {"name": "nr", "type": "uint32", "default-value": 4_294_967_295_u32},
                {"name": "name", "type": "str"},
                {
                    "name": "chardev",
                    "type": "str",
                    "description": "ID of a chardev to use as a backend",
                },
            ])),
        ),
        ("qom-list-properties", of("nope"), not_found("Class 'nope' not found")),
        (
            "qom-list-properties",
            of("resettable"),
            refused("Parameter 'typename' expects a QOM type"),
        ),
        ("qom-list-properties", of("irq"), Ok(json!([{"name": "type", "type": "string"}]))),
        (
            "qom-list-types",
            json!({"implements": "virtio-serial-port", "abstract": true}),
            Ok(json!([
                {"name": "virtio-serial-port", "abstract": true, "parent": "device"},
                {"name": "virtserialport", "parent": "virtio-serial-port"},
                {"name": "virtconsole", "parent": "virtserialport"},
            ])),
        ),
        ("qom-list-types", json!({"implements": "nope"}), Ok(json!([]))),
    ] {
        assert_eq!(
            ask(&monitor, command, arguments.clone()).await,
            expected,
            "{command} {arguments}"
        );
    }
}

#[actix::test]
async fn the_human_monitor_asks_the_same() {
    let (_vm, monitor) = monitor_with(MockVm::default(), machine());
    for (line, expected) in [
        ("qom-list", "/\n"),
        ("qom-list /machine/unattached", "type (string)\nrng0 (child<irq>)\n"),
        ("qom-list /nope", "Error: Device '/nope' not found\n"),
        ("qom-get /machine append", "\"quiet\"\n"),
        ("qom-get /machine memory", "{\n}\n"),
        ("qom-set /machine append a b", ""),
        ("qom-get /machine append", "\"a b\"\n"),
        ("qom-set /machine usb yes", ""),
        ("qom-get /machine usb", "true\n"),
        ("qom-set /machine usb 1", "Error: Parameter 'usb' expects 'on' or 'off'\n"),
        ("qom-set -j /machine usb false", ""),
        ("qom-get /machine usb", "false\n"),
        ("qom-set -j /machine usb true 1", "Error: Expecting at most one JSON value\n"),
        ("qom-set -j /machine usb [", "Error: JSON parse error, premature EOI\n"),
        ("qom-set /machine nope 1", "Error: Property 'virt-machine.nope' not found\n"),
        (
            "info qom-tree /machine/peripheral",
            "/peripheral (container)\n  /rng0 (virtio-rng-device)\n",
        ),
        ("info qom-tree nope", "Path 'nope' could not be resolved.\n"),
        ("info qom-tree rng0", "Path 'rng0' could not be resolved.\n"),
    ] {
        assert_eq!(hmp(&monitor, line).await, expected, "{line}");
    }
    let whole = hmp(&monitor, "info qom-tree").await;
    assert!(whole.starts_with("/machine (virt-machine)\n  /peripheral (container)\n"), "{whole}");
    let devices = hmp(&monitor, "info qdm").await;
    assert!(devices.contains("name \"virtio-mmio\", bus System, no-user\n"), "{devices}");
}
