use serde_json::{Value, json};

use super::*;
use crate::qom::tree::Effect;

fn qom() -> Qom {
    let mut bus = Node::new("virtio-serial-bus");
    bus.holds_device("virtconsole", "/machine/peripheral/port", 0);
    let port = Node::new("virtconsole")
        .with("parent_bus", "/machine/peripheral/serial/virtio-serial-bus.0");
    let serial = Node::new("virtio-serial-device").holding("virtio-serial-bus.0", bus);
    let peripheral = Node::new("container").holding("serial", serial).holding("port", port);
    let mut plic = Node::new("riscv.sifive.plic");
    plic.add("unnamed-gpio-in[3]", Node::new("irq"));
    plic.link("sysbus-irq[0]", "irq", "/machine/unattached/device[0]/unnamed-gpio-in[3]");
    let unattached =
        Node::new("container").holding("device[0]", plic).holding("sysbus", Node::new("System"));
    let machine = Node::new("virt-machine")
        .with("memory", json!({"size": 4096}))
        .holding("peripheral", peripheral)
        .holding("peripheral-anon", Node::new("container"))
        .holding("unattached", unattached);
    Qom::new(machine, Some(MappedRam { backend: "ram".into(), base: 0x8000_0000 }))
}

fn tree(qom: &Qom) -> Tree {
    let backend = Node::new("memory-backend-ram").holding("ram[0]", Node::new("memory-region"));
    let objects = [("ram".to_owned(), backend), ("serial".to_owned(), Node::new("rng-builtin"))];
    qom.tree(objects, [("con".to_owned(), Node::new("chardev-null"))])
}

/// The path of what is found, or the sentence.
fn found(path: &str) -> String {
    tree(&qom()).resolve(path).map_or_else(|error| error.to_string(), |at| at.path)
}

#[test]
fn paths_are_absolute_or_the_only_end() {
    for (path, expected) in [
        ("/", "/"),
        ("//machine///peripheral/", "/machine/peripheral"),
        ("/machine/nosuch", "Device '/machine/nosuch' not found"),
        ("/machine/type", "Device '/machine/type' not found"),
        ("port", "/machine/peripheral/port"),
        ("peripheral/port", "/machine/peripheral/port"),
        ("serial", "Path 'serial' is ambiguous"),
        ("peripheral/serial", "/machine/peripheral/serial"),
        ("", "Path '' is ambiguous"),
        ("nosuch", "Device 'nosuch' not found"),
        // Links are followed.
        ("/machine/peripheral/port/parent_bus", "/machine/peripheral/serial/virtio-serial-bus.0"),
        ("/machine/peripheral/port/parent_bus/child[0]", "/machine/peripheral/port"),
        ("virtio-serial-bus.0/child[0]/parent_bus/child[0]", "/machine/peripheral/port"),
        ("sysbus-irq[0]", "/machine/unattached/device[0]/unnamed-gpio-in[3]"),
        (
            "/machine/peripheral/serial/parent_bus",
            "Device '/machine/peripheral/serial/parent_bus' not found",
        ),
    ] {
        assert_eq!(found(path), expected, "{path}");
    }
}

fn get(path: &str, name: &str) -> Result<Value, String> {
    let tree = tree(&qom());
    let at = tree.resolve(path).unwrap();
    tree.get(&at, name).map_err(|error| error.to_string())
}

#[test]
fn values_are_read() {
    for (path, name, expected) in [
        ("/", "type", json!("container")),
        ("/machine", "type", json!("virt-machine")),
        ("/machine", "memory", json!({"size": 4096})),
        ("/machine", "usb", json!(false)),
        ("/machine", "unattached", json!("/machine/unattached")),
        ("/", "machine", json!("/machine")),
        ("port", "realized", json!(true)),
        ("port", "nr", json!(u32::MAX)),
        ("port", "parent_bus", json!("/machine/peripheral/serial/virtio-serial-bus.0")),
        ("virtio-serial-bus.0", "child[0]", json!("/machine/peripheral/port")),
        ("ram[0]", "addr", json!(0x8000_0000u32)),
        ("ram[0]", "container", json!("/machine/unattached/system[0]")),
    ] {
        assert_eq!(get(path, name), Ok(expected), "{path} {name}");
    }
    assert_eq!(get("port", "x").unwrap_err(), "Property 'virtconsole.x' not found");
}

#[test]
fn what_may_be_set_is_set() {
    let settled = "Property 'virt-machine.memory' cannot change on a machine that is there";
    for (path, name, value, expected) in [
        ("/machine", "type", json!("x"), "Property 'virt-machine.type' is not writable"),
        ("/machine", "nosuch", json!(1), "Property 'virt-machine.nosuch' not found"),
        ("/machine", "usb", json!("on"), "Invalid parameter type for 'usb', expected: boolean"),
        ("/machine", "usb", json!(true), r#"Keep { path: "/machine", value: Bool(true) }"#),
        ("/machine", "usb", json!(false), "Nothing"),
        ("/machine", "memory", json!({}), "Nothing"),
        ("/machine", "memory", json!({"size": 8192}), settled),
        ("/machine", "memory", json!(1), "Invalid parameter type for 'memory', expected: object"),
        ("/machine", "acpi", json!("x"), "Parameter 'acpi' does not accept value 'x'"),
        (
            "port",
            "nr",
            json!(null),
            "Attempt to set property 'nr' on device 'port' (type 'virtconsole') after it was \
             realized",
        ),
        ("port", "realized", json!(true), "Nothing"),
        (
            "port",
            "realized",
            json!(false),
            "Property 'virtconsole.realized' cannot change on a machine that is there",
        ),
        ("sysbus", "hotplug-handler", json!("x"), "Device 'x' not found"),
        ("sysbus", "hotplug-handler", json!(""), "Nothing"),
        ("/objects/ram", "size", json!(5), r#"Tell { id: "ram", value: Number(5) }"#),
        ("/chardevs/con", "type", json!(5), "Property 'chardev-null.type' is not writable"),
    ] {
        let tree = tree(&qom());
        let at = tree.resolve(path).unwrap();
        let effect = match tree.set(&at, name, value) {
            Err(error) => error.to_string(),
            Ok(effect) => format!("{effect:?}"),
        };
        assert_eq!(effect, expected, "{path} {name}");
    }
}

#[test]
fn what_is_kept_is_read_again() {
    let qom = qom();
    qom.keep("/machine", "append", json!("quiet"));
    let tree = tree(&qom);
    let at = tree.resolve("/machine").unwrap();
    assert_eq!(tree.get(&at, "append"), Ok(json!("quiet")));
    assert_eq!(tree.set(&at, "append", json!("quiet")), Ok(Effect::Nothing));
}

#[test]
fn devices_come_and_go() {
    let qom = qom();
    let bus = "/machine/peripheral/serial/virtio-serial-bus.0";
    let plug = |id| qom.plug(id, Node::new("virtserialport").with("nr", 2), bus);
    assert_eq!(plug(Some("two")), "/machine/peripheral/two");
    assert_eq!(plug(None), "/machine/peripheral-anon/device[0]");
    let now = tree(&qom);
    assert_eq!(
        now.resolve("virtio-serial-bus.0/child[1]").unwrap().path,
        "/machine/peripheral/two"
    );
    assert_eq!(now.get(&now.resolve("two").unwrap(), "parent_bus"), Ok(json!(bus)));
    qom.unplug("/machine/peripheral/two");
    qom.unplug("/machine/peripheral-anon/device[0]");
    let now = tree(&qom);
    assert!(now.resolve("two").is_err() && now.resolve("virtio-serial-bus.0/child[1]").is_err());
    // Numbers are not used again.
    assert_eq!(plug(None), "/machine/peripheral-anon/device[1]");
    assert_eq!(
        tree(&qom).resolve("virtio-serial-bus.0/child[3]").unwrap().path,
        "/machine/peripheral-anon/device[1]"
    );
}

#[test]
fn the_tree_is_shown_sorted() {
    let tree = tree(&qom());
    let at = tree.resolve("/objects").unwrap();
    let expected = "/objects (container)\n  /ram (memory-backend-ram)\n    /ram[0] (memory-region)\n  \
                    /serial (rng-builtin)\n";
    assert_eq!(tree.composition(&at), expected);
    let whole = tree.composition(&tree.resolve("/").unwrap());
    assert!(whole.starts_with("/ (container)\n  /backend (container)\n  /chardevs (container)\n"));
}
