//! Devices that come and go, in the words of QEMU.

use actix::{Actor, Context, Handler};
use serde_json::json;
use understudy::actors::outlet::Outlet;
use understudy::actors::probe::Probe;
use understudy::devices::virtio::console::{PlugPort, PortBus, UnplugPort};
use understudy::devices::virtio::properties::DeviceError;
use understudy::machine::hotplug::{Hotplug, HotplugParts, SerialBus};
use understudy::machine::message::{Announce, VmEvent};
use understudy::qmp::link::MachineLink;
use understudy::qmp::monitor::Monitor;

use crate::harness::{MockVm, hmp, info, qmp};

/// A bus that gives every port the next number.
struct Bus(u32);

impl Actor for Bus {
    type Context = Context<Self>;
}

impl Handler<PlugPort> for Bus {
    type Result = Result<u32, DeviceError>;

    fn handle(&mut self, _: PlugPort, _: &mut Self::Context) -> Self::Result {
        self.0 += 1;
        match self.0 {
            3 => Err(DeviceError::Refused("no more room".into())),
            nr => Ok(nr),
        }
    }
}

impl Handler<UnplugPort> for Bus {
    type Result = ();

    fn handle(&mut self, _: UnplugPort, _: &mut Self::Context) {}
}

#[actix::test]
async fn ports_are_plugged_and_unplugged() {
    let facts = info();
    let bus = Bus(0).start();
    let ports = PortBus { plug: bus.clone().recipient(), unplug: bus.recipient() };
    let parts = HotplugParts {
        buses: vec![SerialBus { name: "vs0.0".into(), path: "/machine/x/vs0.0".into(), ports }],
        ids: ["vs0".to_owned()].into(),
        slots: 8,
        free_slot: Some(6),
        ..Default::default()
    };
    let announced = Probe::<Announce>::new();
    let hotplug =
        Hotplug::new(parts, facts.qom.clone(), facts.chardevs.clone(), announced.recipient());
    let link = MachineLink::to(&MockVm::default().start(), Outlet::Unconnected);
    let monitor = Monitor::start(link.plugged_by(&hotplug.start()), facts);
    let null = |id: &str| json!({"id": id, "backend": {"type": "null", "data": {}}});
    for id in ["c1", "c2"] {
        assert_eq!(qmp(&monitor, "chardev-add", null(id)).await, "{}");
    }
    for (arguments, expected) in [
        (json!({"driver": "virtserialport", "id": "p1", "bus": "vs0.0", "chardev": "c1"}), "{}"),
        (json!({"driver": "virtserialport", "id": "p1"}), "Duplicate device ID 'p1'"),
        (json!({"driver": "virtserialport", "id": "vs0"}), "Duplicate device ID 'vs0'"),
        (
            json!({"driver": "virtserialport", "id": "p2", "chardev": "c1"}),
            "Property 'virtserialport.chardev' can't take value 'c1': chardev 'c1' is already in \
             use",
        ),
        (
            json!({"driver": "virtserialport", "id": "p2", "chardev": "nope"}),
            "Property 'virtserialport.chardev' can't find value 'nope'",
        ),
        (json!({"driver": "virtserialport", "nr": "abc"}), "Parameter 'nr' expects uint64"),
        (json!({"driver": "virtserialport", "nr": "3"}), "Parameter 'nr' expects uint64"),
        (json!({"driver": "virtserialport", "nr": 1.5}), "Parameter 'nr' expects uint64"),
        (json!({"driver": "virtserialport", "nr": -1}), "Parameter 'nr' expects uint32_t"),
        (
            json!({"driver": "virtserialport", "name": 5}),
            "Invalid parameter type for 'name', expected: string",
        ),
        (json!({"driver": "virtserialport", "foo": 5}), "Property 'virtserialport.foo' not found"),
        (json!({}), "Parameter 'driver' is missing"),
        (json!({"driver": 5}), "Parameter 'driver' is missing"),
        (json!({"driver": "nope"}), "'nope' is not a valid device model name"),
        (
            json!({"driver": "memory-backend-ram"}),
            "'memory-backend-ram' is not a valid device model name",
        ),
        (
            json!({"driver": "virtio-device"}),
            "Parameter 'driver' expects a non-abstract device type",
        ),
        (
            json!({"driver": "riscv.sifive.plic"}),
            "Parameter 'driver' expects a pluggable device type",
        ),
        (
            json!({"driver": "loader", "addr": 1}),
            "Device 'loader' can not be hotplugged on this machine",
        ),
        (
            json!({"driver": "virtio-rng-device"}),
            "Bus 'virtio-mmio-bus.6' does not support hotplugging",
        ),
        (
            json!({"driver": "virtio-rng-device", "bus": "virtio-mmio-bus.0"}),
            "Bus 'virtio-mmio-bus.0' does not support hotplugging",
        ),
        (
            json!({"driver": "virtserialport", "bus": "virtio-mmio-bus.0"}),
            "Device 'virtserialport' can't go on virtio-mmio-bus bus",
        ),
        (json!({"driver": "virtserialport", "bus": "nope"}), "Bus 'nope' not found"),
        (json!({"driver": "virtconsole", "chardev": "c2"}), "{}"),
        (json!({"driver": "virtserialport", "id": "p3"}), "no more room"),
        (json!({"driver": "virtserialport", "id": "p3"}), "{}"),
    ] {
        assert_eq!(qmp(&monitor, "device_add", arguments.clone()).await, expected, "{arguments}");
    }
    for (id, expected) in [
        ("p1", "{}"),
        ("p1", "Device 'p1' not found"),
        ("/machine/peripheral-anon/device[0]", "{}"),
        ("/machine", "/machine is not a device"),
        ("nope", "Device 'nope' not found"),
    ] {
        assert_eq!(qmp(&monitor, "device_del", json!({"id": id})).await, expected, "{id}");
    }
    let gone = |device: Option<&str>, path: &str| VmEvent::DeviceDeleted {
        device: device.map(str::to_owned),
        path: path.to_owned(),
    };
    let mut told = Vec::new();
    for _ in 0..1000 {
        told.extend(announced.take().into_iter().map(|Announce(event)| event));
        if told.len() >= 2 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    let expected = [
        gone(Some("p1"), "/machine/peripheral/p1"),
        gone(None, "/machine/peripheral-anon/device[0]"),
    ];
    assert_eq!(told, expected);
    // What a device used is free with its end.
    for (line, expected) in [
        ("device_add virtserialport,id=p1,chardev=c1", ""),
        ("device_add virtserialport,id=p1", "Error: Duplicate device ID 'p1'\n"),
        (
            "device_add virtserialport,id=h,foo=1",
            "Error: Property 'virtserialport.foo' not found\n",
        ),
        ("device_add virtserialport,id=h,nr=abc", "Error: Parameter 'nr' expects integer\n"),
        ("device_add nope", "Error: 'nope' is not a valid device model name\n"),
        ("device_add", "Error: Parameter 'driver' is missing\n"),
        ("device_del p1", ""),
        ("device_del p1", "Error: Device 'p1' not found\n"),
    ] {
        assert_eq!(hmp(&monitor, line).await, expected, "{line}");
    }
    assert!(hmp(&monitor, "device_add virtserialport,help").await.contains("\n  nr=<uint32>"));
}
