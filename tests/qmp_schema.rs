//! `query-qmp-schema` against QEMU's: what we list is QEMU's, member for member, but for the
//! deviations named here.

mod oracle;

use std::collections::{BTreeSet, HashMap};
use std::io::{BufRead, BufReader, Write};
use std::process::Stdio;

use serde_json::{Value, json};
use understudy::qmp::command::REGISTRY;
use understudy::qmp::schema::SCHEMA;

/// What differs, by the reason why.
const DEVIATIONS: &[(&str, &[&str])] = &[
    (
        "options of the host's memory that are not there",
        &[
            "object-add(memory-backend-file): lacks member \"pmem\"",
            "object-add(memory-backend-file): lacks member \"prealloc-context\"",
            "object-add(memory-backend-file): lacks member \"x-use-canonical-path-for-ramblock-id\"",
            "object-add(memory-backend-memfd): lacks member \"prealloc-context\"",
            "object-add(memory-backend-memfd): lacks member \"x-use-canonical-path-for-ramblock-id\"",
            "object-add(memory-backend-ram): lacks member \"prealloc-context\"",
            "object-add(memory-backend-ram): lacks member \"x-use-canonical-path-for-ramblock-id\"",
            "object-add(memory-backend-shm): lacks member \"prealloc-context\"",
            "object-add(memory-backend-shm): lacks member \"x-use-canonical-path-for-ramblock-id\"",
        ],
    ),
    ("I/O threads never poll, and drives have threads of their own", &[]),
    (
        "lists that are always empty, as there is nothing that could be in them",
        &[
            "query-jobs=[]: lacks member \"current-progress\"",
            "query-jobs=[]: lacks member \"error\"",
            "query-jobs=[]: lacks member \"id\"",
            "query-jobs=[]: lacks member \"status\"",
            "query-jobs=[]: lacks member \"total-progress\"",
            "query-jobs=[]: lacks member \"type\"",
            "query-hotpluggable-cpus=[]: lacks member \"props\"",
            "query-hotpluggable-cpus=[]: lacks member \"qom-path\"",
            "query-hotpluggable-cpus=[]: lacks member \"type\"",
            "query-hotpluggable-cpus=[]: lacks member \"vcpus-count\"",
            "query-stats-schemas=[]: lacks member \"provider\"",
            "query-stats-schemas=[]: lacks member \"stats\"",
            "query-stats-schemas=[]: lacks member \"target\"",
            "query-stats=[]: lacks member \"provider\"",
            "query-stats=[]: lacks member \"qom-path\"",
            "query-stats=[]: lacks member \"stats\"",
            "query-tpm=[]: lacks member \"id\"",
            "query-tpm=[]: lacks member \"model\"",
            "query-tpm=[]: lacks member \"options\"",
        ],
    ),
    (
        "no device's queues are served by the host's kernel",
        &["x-query-virtio-status=: lacks member \"vhost-dev\""],
    ),
    (
        "there are no memory devices",
        &[
            "query-memory-devices=[]: is a union by another member",
            "query-memory-devices=[]: lacks member \"type\"",
            "query-memory-size-summary=: lacks member \"plugged-memory\"",
        ],
    ),
    (
        "deprecated",
        &[
            "object-add(rng-builtin): lacks member \"opened\"",
            "object-add(rng-random): lacks member \"opened\"",
        ],
    ),
    (
        "objects that are not there",
        &[
            "object-add.qom-type: lacks acpi-generic-initiator, acpi-generic-port, authz-listfile, authz-pam, can-bus, can-host-socketcan, colo-compare, cryptodev-backend, cryptodev-backend-builtin, cryptodev-backend-lkcf, cryptodev-vhost-user, dbus-vmstate, filter-buffer, filter-dump, filter-mirror, filter-redirector, filter-replay, filter-rewriter, input-barrier, input-linux, iommufd, main-loop, memory-backend-epc, pef-guest, pr-manager-helper, qtest, rng-egd, secret_keyring, sev-guest, sev-snp-guest, thread-context, s390-pv-guest, throttle-group, tls-creds-anon, tls-creds-psk, tls-cipher-suites, x-remote-object, x-vfio-user-server",
        ],
    ),
    (
        "members of other machines' CPUs, and a union whose other cases have members",
        &[
            "query-cpus-fast=[].props: lacks member \"book-id\"",
            "query-cpus-fast=[].props: lacks member \"cluster-id\"",
            "query-cpus-fast=[].props: lacks member \"die-id\"",
            "query-cpus-fast=[].props: lacks member \"drawer-id\"",
            "query-cpus-fast=[].props: lacks member \"module-id\"",
            "query-cpus-fast=[].props: lacks member \"node-id\"",
            "query-cpus-fast=[].props: lacks member \"socket-id\"",
            "query-cpus-fast=[].props: lacks member \"thread-id\"",
            "query-cpus-fast=[]: is a union by another member",
        ],
    ),
    (
        "machines have one name, none is the default, and there are no versions of them",
        &["query-machines=[]: lacks member \"alias\""],
    ),
    (
        "no model is another's, none depends on its version, and every one can be had",
        &[
            "query-cpu-definitions=[]: lacks member \"alias-of\"",
            "query-cpu-definitions=[]: lacks member \"migration-safe\"",
            "query-cpu-definitions=[]: lacks member \"unavailable-features\"",
        ],
    ),
    (
        "never sent",
        &[
            "query-command-line-options=[].parameters[]: lacks member \"default\"",
            "query-migrate=.socket-address[](inet): lacks member \"keep-alive\"",
            "query-migrate=.socket-address[](inet): lacks member \"mptcp\"",
            "query-migrate=.socket-address[](inet): lacks member \"numeric\"",
            "query-migrate=.socket-address[](inet): lacks member \"to\"",
            "query-migrate=: lacks member \"vfio\"",
            "query-qmp-schema=[](enum).members[]: lacks member \"features\"",
            "query-qmp-schema=[](object).members[]: lacks member \"features\"",
            "query-qmp-schema=[]: lacks member \"features\"",
        ],
    ),
    (
        "images are raw files without backing files, bitmaps or snapshots",
        &[
            "query-block=[].inserted.image.format-specific(file).data: lacks member \"extent-size-hint\"",
            "query-block=[].inserted.image: lacks member \"backing-filename\"",
            "query-block=[].inserted.image: lacks member \"backing-filename-format\"",
            "query-block=[].inserted.image: lacks member \"backing-image\"",
            "query-block=[].inserted.image: lacks member \"cluster-size\"",
            "query-block=[].inserted.image: lacks member \"compressed\"",
            "query-block=[].inserted.image: lacks member \"encrypted\"",
            "query-block=[].inserted.image: lacks member \"full-backing-filename\"",
            "query-block=[].inserted.image: lacks member \"snapshots\"",
            "query-block=[].inserted: lacks member \"backing_file\"",
            "query-block=[].inserted: lacks member \"dirty-bitmaps\"",
            "query-blockstats=[].parent: lacks member \"backing\"",
            "query-blockstats=[]: lacks member \"backing\"",
            "query-named-block-nodes=[].image.format-specific(file).data: lacks member \"extent-size-hint\"",
            "query-named-block-nodes=[].image: lacks member \"backing-filename\"",
            "query-named-block-nodes=[].image: lacks member \"backing-filename-format\"",
            "query-named-block-nodes=[].image: lacks member \"backing-image\"",
            "query-named-block-nodes=[].image: lacks member \"cluster-size\"",
            "query-named-block-nodes=[].image: lacks member \"compressed\"",
            "query-named-block-nodes=[].image: lacks member \"encrypted\"",
            "query-named-block-nodes=[].image: lacks member \"full-backing-filename\"",
            "query-named-block-nodes=[].image: lacks member \"snapshots\"",
            "query-named-block-nodes=[]: lacks member \"backing_file\"",
            "query-named-block-nodes=[]: lacks member \"dirty-bitmaps\"",
        ],
    ),
    (
        "there is no I/O throttling",
        &[
            "query-block=[].inserted: lacks member \"bps_max\"",
            "query-block=[].inserted: lacks member \"bps_max_length\"",
            "query-block=[].inserted: lacks member \"bps_rd_max\"",
            "query-block=[].inserted: lacks member \"bps_rd_max_length\"",
            "query-block=[].inserted: lacks member \"bps_wr_max\"",
            "query-block=[].inserted: lacks member \"bps_wr_max_length\"",
            "query-block=[].inserted: lacks member \"group\"",
            "query-block=[].inserted: lacks member \"iops_max\"",
            "query-block=[].inserted: lacks member \"iops_max_length\"",
            "query-block=[].inserted: lacks member \"iops_rd_max\"",
            "query-block=[].inserted: lacks member \"iops_rd_max_length\"",
            "query-block=[].inserted: lacks member \"iops_size\"",
            "query-block=[].inserted: lacks member \"iops_wr_max\"",
            "query-block=[].inserted: lacks member \"iops_wr_max_length\"",
            "query-named-block-nodes=[]: lacks member \"bps_max\"",
            "query-named-block-nodes=[]: lacks member \"bps_max_length\"",
            "query-named-block-nodes=[]: lacks member \"bps_rd_max\"",
            "query-named-block-nodes=[]: lacks member \"bps_rd_max_length\"",
            "query-named-block-nodes=[]: lacks member \"bps_wr_max\"",
            "query-named-block-nodes=[]: lacks member \"bps_wr_max_length\"",
            "query-named-block-nodes=[]: lacks member \"group\"",
            "query-named-block-nodes=[]: lacks member \"iops_max\"",
            "query-named-block-nodes=[]: lacks member \"iops_max_length\"",
            "query-named-block-nodes=[]: lacks member \"iops_rd_max\"",
            "query-named-block-nodes=[]: lacks member \"iops_rd_max_length\"",
            "query-named-block-nodes=[]: lacks member \"iops_size\"",
            "query-named-block-nodes=[]: lacks member \"iops_wr_max\"",
            "query-named-block-nodes=[]: lacks member \"iops_wr_max_length\"",
        ],
    ),
    ("there are no removable media", &["query-block=[]: lacks member \"tray_open\""]),
    (
        "there are no latency histograms",
        &[
            "query-blockstats=[].parent.stats: lacks member \"flush_latency_histogram\"",
            "query-blockstats=[].parent.stats: lacks member \"rd_latency_histogram\"",
            "query-blockstats=[].parent.stats: lacks member \"wr_latency_histogram\"",
            "query-blockstats=[].parent.stats: lacks member \"zone_append_latency_histogram\"",
            "query-blockstats=[].stats: lacks member \"flush_latency_histogram\"",
            "query-blockstats=[].stats: lacks member \"rd_latency_histogram\"",
            "query-blockstats=[].stats: lacks member \"wr_latency_histogram\"",
            "query-blockstats=[].stats: lacks member \"zone_append_latency_histogram\"",
        ],
    ),
    (
        "below a format there is a file, and nothing below that",
        &[
            "query-blockstats=[].parent: lacks member \"device\"",
            "query-blockstats=[].parent: lacks member \"parent\"",
            "query-blockstats=[].parent: lacks member \"qdev\"",
        ],
    ),
    (
        "character devices and sockets that are not there",
        &[
            "chardev-add.backend(socket).data.addr.type: lacks vsock",
            "chardev-add.backend(udp).data.local.type: lacks vsock",
            "chardev-add.backend(udp).data.remote.type: lacks vsock",
            "chardev-add.backend.type: lacks parallel, msmouse, wctablet, braille, testdev, spicevmc, spiceport, qemu-vdagent, dbus",
            "chardev-change.backend(socket).data.addr.type: lacks vsock",
            "chardev-change.backend(udp).data.local.type: lacks vsock",
            "chardev-change.backend(udp).data.remote.type: lacks vsock",
            "chardev-change.backend.type: lacks parallel, msmouse, wctablet, braille, testdev, spicevmc, spiceport, qemu-vdagent, dbus",
        ],
    ),
    ("there is no COLO", &["migrate-continue.state: lacks colo"]),
];

/// Entries by name.
struct Schema(HashMap<String, Value>);

impl Schema {
    fn new(entries: Vec<Value>) -> Self {
        let name = |entry: &Value| entry["name"].as_str().expect("a name").to_owned();
        Self(entries.into_iter().map(|entry| (name(&entry), entry)).collect())
    }

    fn get(&self, name: &Value) -> &Value {
        let name = name.as_str().unwrap_or_else(|| panic!("no name: {name}"));
        self.0.get(name).unwrap_or_else(|| panic!("no entry {name}"))
    }
}

fn theirs() -> Option<Schema> {
    let mut qemu = oracle::qemu()?;
    qemu.args(["-machine", "none", "-nodefaults", "-display", "none", "-qmp", "stdio"]);
    let mut qemu = qemu.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("QEMU starts");
    let mut to = qemu.stdin.take().expect("a pipe");
    let mut lines = BufReader::new(qemu.stdout.take().expect("a pipe")).lines();
    let mut reply = || -> Value {
        let line = lines.next().expect("a reply").expect("a line");
        serde_json::from_str(&line).expect("JSON")
    };
    reply();
    let mut ask = |command: &str| {
        // At once: it may be gone when it has read enough of what says so.
        let line = format!("{}\n", json!({"execute": command}));
        to.write_all(line.as_bytes()).expect("a pipe");
        reply()["return"].take()
    };
    ask("qmp_capabilities");
    let schema = ask("query-qmp-schema");
    ask("quit");
    qemu.wait().expect("QEMU ends");
    Some(Schema::new(schema.as_array().expect("a list").clone()))
}

fn ours() -> Schema {
    let entry = |entry| serde_json::to_value(entry).expect("JSON");
    Schema::new(SCHEMA.iter().map(entry).collect())
}

/// Collects the differences below one command or event.
struct Comparison<'a> {
    ours: &'a Schema,
    theirs: &'a Schema,
    found: BTreeSet<String>,
}

impl Comparison<'_> {
    fn differ(&mut self, path: &str, what: impl std::fmt::Display) {
        self.found.insert(format!("{path}: {what}"));
    }

    /// Compare what is received; a path with `=` is that of what is sent.
    fn types(&mut self, path: &str, ours: &Value, theirs: &Value) {
        let (ours, theirs) = (self.ours.get(ours).clone(), self.theirs.get(theirs).clone());
        if ours["meta-type"] != theirs["meta-type"] {
            return self.differ(
                path,
                format_args!("{} is not {}", ours["meta-type"], theirs["meta-type"]),
            );
        }
        match ours["meta-type"].as_str().expect("a meta-type") {
            "builtin" if ours["name"] != theirs["name"] => {
                self.differ(path, format_args!("{} is not {}", ours["name"], theirs["name"]));
            }
            "array" => {
                self.types(&format!("{path}[]"), &ours["element-type"], &theirs["element-type"]);
            }
            "enum" => {
                let known = theirs["values"].as_array().expect("values");
                let lacking = |value: &&Value| !ours["values"].as_array().unwrap().contains(value);
                for value in ours["values"].as_array().expect("values") {
                    if !known.contains(value) {
                        self.differ(path, format_args!("has value {value}"));
                    }
                }
                // Values that are never sent are missed by nobody.
                let lacks: Vec<_> = known.iter().filter(lacking).collect();
                if !lacks.is_empty() && !self.sends(path) {
                    let lacks: Vec<_> = lacks.into_iter().filter_map(Value::as_str).collect();
                    self.differ(path, format_args!("lacks {}", lacks.join(", ")));
                }
            }
            "object" => self.objects(path, &ours, &theirs),
            _ => {}
        }
    }

    fn objects(&mut self, path: &str, ours: &Value, theirs: &Value) {
        let member = |of: &Value, name: &Value| {
            let members = of["members"].as_array().expect("members");
            members.iter().find(|member| member["name"] == *name).cloned()
        };
        for mine in ours["members"].as_array().expect("members") {
            let name = &mine["name"];
            let Some(their) = member(theirs, name) else {
                self.differ(path, format_args!("has member {name}"));
                continue;
            };
            let at = format!("{path}.{}", name.as_str().expect("a name"));
            // Nobody minds a member that comes although it need not, or that is not insisted on.
            let (lax, strict) = if self.sends(path) { (mine, &their) } else { (&their, mine) };
            if lax.get("default").is_some() && strict.get("default").is_none() {
                self.differ(&at, "may be left out on the wrong side");
            }
            self.types(&at, &mine["type"], &their["type"]);
        }
        for their in theirs["members"].as_array().expect("members") {
            if member(ours, &their["name"]).is_none() {
                self.differ(path, format_args!("lacks member {}", their["name"]));
            }
        }
        if ours.get("tag") != theirs.get("tag") {
            return self.differ(path, "is a union by another member");
        }
        let none = Vec::new();
        let variants = |of: &Value| of["variants"].as_array().unwrap_or(&none).clone();
        let (mine, their) = (variants(ours), variants(theirs));
        let case = |of: &[Value], case: &Value| of.iter().find(|v| v["case"] == *case).cloned();
        for variant in &mine {
            let at = format!("{path}({})", variant["case"].as_str().expect("a case"));
            match case(&their, &variant["case"]) {
                Some(their) => self.types(&at, &variant["type"], &their["type"]),
                None if self.is_empty(&variant["type"]) => {}
                None => self.differ(&at, "has members"),
            }
        }
    }

    fn sends(&self, path: &str) -> bool {
        path.contains('=') || path.starts_with(char::is_uppercase)
    }

    fn is_empty(&self, name: &Value) -> bool {
        self.ours.get(name)["members"].as_array().is_some_and(Vec::is_empty)
    }
}

#[test]
fn ours_is_a_part_of_qemus() {
    let ours = ours();
    let Some(theirs) = theirs() else { return };
    let mut found = BTreeSet::new();
    for (name, mine) in &ours.0 {
        let is_named = matches!(mine["meta-type"].as_str(), Some("command" | "event"));
        if !is_named {
            continue;
        }
        let Some(their) = theirs.0.get(name) else {
            found.insert(format!("{name}: is not QEMU's"));
            continue;
        };
        let mut comparison = Comparison { ours: &ours, theirs: &theirs, found: BTreeSet::new() };
        comparison.types(name, &mine["arg-type"], &their["arg-type"]);
        if mine["meta-type"] == "command" {
            comparison.types(&format!("{name}="), &mine["ret-type"], &their["ret-type"]);
        }
        if mine.get("allow-oob") != their.get("allow-oob") {
            comparison.differ(name, "is executed out of band on one side only");
        }
        found.append(&mut comparison.found);
    }
    let expected: BTreeSet<String> =
        DEVIATIONS.iter().flat_map(|(_, paths)| *paths).map(|path| (*path).to_owned()).collect();
    let new: Vec<_> = found.difference(&expected).collect();
    let gone: Vec<_> = expected.difference(&found).collect();
    assert!(new.is_empty() && gone.is_empty(), "deviations\n{new:#?}\nno longer\n{gone:#?}");
}

/// Every name that an entry mentions has an entry.
#[test]
fn it_is_whole() {
    let mut names: Vec<_> = REGISTRY.iter().map(|entry| entry.name).collect();
    names.sort_unstable();
    let twice: Vec<_> = names.windows(2).filter(|pair| pair[0] == pair[1]).collect();
    assert!(twice.is_empty(), "{twice:?}");
    let ours = ours();
    for entry in &*REGISTRY {
        assert_eq!(ours.0[entry.name]["meta-type"], "command", "{}", entry.name);
    }
    for entry in ours.0.values() {
        for key in ["arg-type", "ret-type", "element-type"] {
            if let Some(name) = entry.get(key) {
                ours.get(name);
            }
        }
        for list in ["members", "variants"] {
            for part in entry.get(list).and_then(Value::as_array).into_iter().flatten() {
                if let Some(name) = part.get("type") {
                    ours.get(name);
                }
            }
        }
    }
}
