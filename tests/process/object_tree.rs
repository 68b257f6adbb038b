//! The tree of objects of a whole machine: every property of every object can be read, monitors for
//! people and for programs show the same tree, and it is QEMU's but for what is listed here.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::harness::qmp::Qmp;
use crate::harness::{Setup, machine};
use crate::oracle;

/// Name to type and value, or the reason why it cannot be read.
type Properties = BTreeMap<String, (String, Value)>;
/// By path.
type Objects = BTreeMap<String, Properties>;

/// Types of objects that QEMU has and this machine has not: PCIe, and the bus of devices plugged in by
/// platform firmware.
const ABSENT: [&str; 2] = ["gpex-pcihost", "platform-bus-device"];
/// Where ACPI's tables are.
const ACPI: &str = r"/machine/fw_cfg/\x2from@etc";

/// Types that have fewer properties here: options of machines and CPUs that are not there.
const FEWER: [(&str, &[&str]); 5] = [
    // The address stands in query-chardev.
    ("chardev-socket", &["addr"]),
    (
        "virt-machine",
        &[
            "aia-guests",
            "confidential-guest-support",
            "dt-compatible",
            "hmat",
            "memory-encryption",
            "phandle-start",
            "shim",
            "smp-cache",
            "suppress-vmdesc",
        ],
    ),
    (
        "none-machine",
        &[
            "confidential-guest-support",
            "dt-compatible",
            "memory-encryption",
            "phandle-start",
            "shim",
            "smp-cache",
            "suppress-vmdesc",
        ],
    ),
    // There is no vector unit, and there are no resumable interrupts.
    (
        "rv64-riscv-cpu",
        &[
            "elen",
            "rnmi-exception-vector",
            "rnmi-interrupt-vector",
            "rvv_ma_all_1s",
            "rvv_ta_all_1s",
            "rvv_vl_half_avl",
            "vext_spec",
            "vlen",
        ],
    ),
    ("memory-backend-ram", &["prealloc-context", "x-use-canonical-path-for-ramblock-id"]),
];

/// Values that differ: no ACPI, no IOMMU, no graphics whatever is asked for, no hypervisor
/// extension; QEMU's block devices take the feature back, ours offers it; QEMU would allocate memory
/// ahead with a thread a hart.
const OTHER_VALUES: [(&str, &str); 7] = [
    ("memory-backend-ram", "prealloc-threads"),
    ("virt-machine", "acpi"),
    ("virt-machine", "iommu-sys"),
    ("virt-machine", "graphics"),
    ("none-machine", "graphics"),
    ("rv64-riscv-cpu", "h"),
    ("virtio-blk-device", "any_layout"),
];

/// Everything below the root.
fn walk(qmp: &mut Qmp) -> Objects {
    let mut objects = Objects::new();
    let mut ahead = vec!["/".to_owned()];
    while let Some(path) = ahead.pop() {
        let listed = qmp.execute_with("qom-list", json!({"path": path}));
        let mut properties = Properties::new();
        for property in listed.as_array().expect("a list") {
            let (name, of) = (&property["name"], &property["type"]);
            let get = json!({"execute": "qom-get", "arguments": {"path": path, "property": name}});
            let mut reply = qmp.ask(&get);
            let (name, of) = (name.as_str().expect("a name"), of.as_str().expect("a type"));
            let value = match reply.get_mut("return") {
                Some(value) => value.take(),
                None => reply["error"]["desc"].take(),
            };
            if of.starts_with("child<") {
                let child = format!("{}/{name}", path.trim_end_matches('/'));
                assert_eq!(value, json!(child));
                ahead.push(child);
            }
            let known = properties.insert(name.to_owned(), (of.to_owned(), value));
            assert!(known.is_none(), "{path} has two {name}");
        }
        objects.insert(path, properties);
    }
    objects
}

/// The paths that `info qom-tree` shows.
fn shown(qmp: &mut Qmp) -> Vec<String> {
    let line = json!({"command-line": "info qom-tree /"});
    let text = qmp.execute_with("human-monitor-command", line);
    let mut at: Vec<String> = Vec::new();
    let mut paths = Vec::new();
    for line in text.as_str().expect("text").lines() {
        let name = line.trim_start();
        let depth = (line.len() - name.len()) / 2;
        let (name, _) = name.rsplit_once(" (").expect("a type");
        at.truncate(depth.saturating_sub(1));
        if depth > 0 {
            at.push(name.trim_start_matches('/').to_owned());
        }
        paths.push(format!("/{}", at.join("/")));
    }
    paths.sort();
    paths
}

fn started(setup: Setup, also: impl FnOnce(&mut Qmp)) -> Objects {
    let machine = setup.file("disk", &[0; 1 << 20]).start();
    let mut qmp = machine.qmp("qmp");
    also(&mut qmp);
    let objects = walk(&mut qmp);
    assert_eq!(shown(&mut qmp), objects.keys().cloned().collect::<Vec<_>>());
    qmp.execute("quit");
    objects
}

const LINES: [&str; 4] = [
    "-M virt -S",
    "-M virt,aclint=on -smp 3 -m 64M -S -chardev null,id=n -device virtio-serial-device,id=s \
     -device virtconsole,chardev=n,id=c -device virtserialport,bus=s.0,name=a.b \
     -object rng-builtin,id=r -device virtio-rng-device,rng=r,id=g,max-bytes=1000 \
     -chardev ringbuf,id=n2 -serial chardev:n2 -device virtio-rng-device",
    "-M virt,memory-backend=mem -S -object memory-backend-ram,id=mem,size=128M \
     -object secret,id=x,data=hidden -object authz-simple,id=z,identity=me \
     -drive if=none,file=disk,format=raw,id=d,werror=stop \
     -device virtio-blk-device,drive=d,serial=abc,bootindex=3 -boot order=c,strict=on",
    "-M none -S -object rng-random,id=r,filename=/dev/urandom",
];

/// What differs between an object of this machine's and QEMU's.
fn differences(
    path: &str,
    ours: &Properties,
    theirs: &Properties,
    is_absent: impl Fn(&str) -> bool,
) -> Vec<String> {
    let of = theirs["type"].1.as_str().expect("a type");
    let fewer = FEWER.iter().find(|(name, _)| *name == of).map_or(&[][..], |(_, names)| names);
    let mut found = Vec::new();
    for (name, property) in theirs {
        let leads_to = property.1.as_str().unwrap_or_default();
        let is_expected = fewer.contains(&name.as_str()) || is_absent(leads_to);
        match ours.get(name) {
            None if is_expected => {}
            None => found.push(format!("{path} lacks {name}")),
            Some(own) if own == property || OTHER_VALUES.contains(&(of, name)) => {}
            Some(own) => found.push(format!("{path}.{name} is {own:?}, not {property:?}")),
        }
    }
    let more = ours.keys().filter(|name| !theirs.contains_key(*name));
    found.extend(more.map(|name| format!("{path} has {name}")));
    found
}

#[test]
fn every_object_is_qemus() {
    for words in LINES {
        let line = format!("{words} -nodefaults -display none -qmp unix:qmp,server=on,wait=off");
        // What a client changes is there in both.
        let changes = |qmp: &mut Qmp| {
            qmp.execute_with("object-add", json!({"qom-type": "rng-builtin", "id": "later"}));
            let append = json!({"path": "/machine", "property": "append", "value": "quiet"});
            qmp.execute_with("qom-set", append);
        };
        let ours = started(machine(&line), changes);
        assert!(ours.contains_key("/objects/later"), "{words}");
        if oracle::qemu().is_none() {
            continue;
        }
        let theirs = started(machine(&line).program("qemu-system-riscv64"), changes);
        let of_absent_type = |(_, object): &(&String, &Properties)| {
            ABSENT.contains(&object["type"].1.as_str().expect("a type"))
        };
        let absent: Vec<_> = theirs.iter().filter(of_absent_type).map(|(path, _)| path).collect();
        let is_absent = |path: &str| {
            path.starts_with(ACPI) || absent.iter().any(|absent| path.starts_with(absent.as_str()))
        };
        let mut found = Vec::new();
        for (path, properties) in &theirs {
            match ours.get(path) {
                Some(own) => found.extend(differences(path, own, properties, is_absent)),
                None if is_absent(path) => {}
                None => found.push(format!("{path} is not there")),
            }
        }
        let more = ours.keys().filter(|path| !theirs.contains_key(*path));
        found.extend(more.map(|path| format!("{path} is more")));
        assert!(found.is_empty(), "{words}\n{}", found.join("\n"));
    }
}
