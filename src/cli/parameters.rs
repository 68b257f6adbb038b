//! The parameters of options, as `query-command-line-options` lists them: those of QEMU's options
//! that we take, under the names that QEMU gives the options. Those that have none, or no fixed
//! ones, are listed too, as by QEMU.

/// QAPI `CommandLineParameterType`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ParameterType {
    String,
    Boolean,
    Number,
    Size,
}

/// A parameter of an option.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parameter {
    pub name: &'static str,
    pub kind: ParameterType,
    /// Empty where the name says it.
    pub help: &'static str,
}

const fn string(name: &'static str, help: &'static str) -> Parameter {
    Parameter { name, kind: ParameterType::String, help }
}

const fn boolean(name: &'static str, help: &'static str) -> Parameter {
    Parameter { name, kind: ParameterType::Boolean, help }
}

const fn number(name: &'static str, help: &'static str) -> Parameter {
    Parameter { name, kind: ParameterType::Number, help }
}

const fn size(name: &'static str, help: &'static str) -> Parameter {
    Parameter { name, kind: ParameterType::Size, help }
}

/// Every option with its parameters, in QEMU's order.
pub const OPTIONS: &[(&str, &[Parameter])] = &[
    (
        "machine",
        &[
            string("type", "machine type"),
            string("kernel", "Linux kernel image file"),
            string("memory", "size of the memory"),
            string("initrd", "initial RAM disk"),
            boolean("aux-ram-share", ""),
            boolean("graphics", "graphical output"),
            boolean("usb", "USB controller"),
            string("firmware", "firmware image"),
            boolean("dump-guest-core", "guest memory is part of a core dump"),
            string("dumpdtb", "write the device tree to a file and quit"),
            string("memory-backend", "object that is the RAM"),
            boolean("mem-merge", "the host may merge equal pages"),
            string("dtb", "device tree file"),
            string("append", "kernel command line"),
            boolean("iommu-sys", "IOMMU"),
            boolean("acpi", "ACPI tables"),
            string("aia", "interrupt controller"),
            boolean("aclint", "ACLINT in place of CLINT"),
        ],
    ),
    (
        "sandbox",
        &[
            string("resourcecontrol", ""),
            string("spawn", ""),
            string("elevateprivileges", ""),
            string("obsolete", ""),
            boolean("enable", ""),
        ],
    ),
    ("run-with", &[string("user", ""), string("chroot", ""), boolean("async-teardown", "")]),
    (
        "action",
        &[
            string("watchdog", ""),
            string("panic", ""),
            string("reboot", ""),
            string("shutdown", ""),
        ],
    ),
    (
        "fw_cfg",
        &[
            string("string", "content of the item"),
            string("file", "file with the content of the item"),
            string("name", "name of the item"),
        ],
    ),
    (
        "name",
        &[
            boolean("debug-threads", "threads have names"),
            string("process", "name of the process"),
            string("guest", "name of the guest"),
        ],
    ),
    (
        "msg",
        &[
            boolean("guest-name", "the guest's name in front of messages"),
            boolean("timestamp", "the time in front of messages"),
        ],
    ),
    ("overcommit", &[boolean("cpu-pm", ""), string("mem-lock", "")]),
    ("object", &[]),
    (
        "add-fd",
        &[
            string("opaque", "what its user says of the descriptor"),
            number("set", "number of the set"),
            number("fd", "descriptor that a copy of is put into the set"),
        ],
    ),
    (
        "boot-opts",
        &[
            boolean("strict", ""),
            number("reboot-timeout", ""),
            number("splash-time", ""),
            boolean("menu", ""),
            string("order", ""),
        ],
    ),
    (
        "smp-opts",
        &[
            number("maxcpus", ""),
            number("threads", ""),
            number("cores", ""),
            number("sockets", ""),
            number("cpus", ""),
        ],
    ),
    ("memory", &[size("maxmem", ""), number("slots", ""), size("size", "")]),
    ("accel", &[]),
    ("trace", &[string("file", ""), string("events", ""), string("enable", "")]),
    ("mon", &[boolean("pretty", ""), string("chardev", ""), string("mode", "")]),
    ("global", &[string("value", ""), string("property", ""), string("driver", "")]),
    ("rtc", &[string("driftfix", ""), string("clock", ""), string("base", "")]),
    ("device", &[]),
    (
        "chardev",
        &[
            boolean("logappend", ""),
            string("logfile", ""),
            boolean("append", ""),
            string("chardev", ""),
            size("size", ""),
            boolean("signal", ""),
            boolean("mux", ""),
            number("reconnect-ms", ""),
            boolean("nodelay", ""),
            boolean("server", ""),
            boolean("wait", ""),
            boolean("ipv6", ""),
            boolean("ipv4", ""),
            number("to", ""),
            string("fd", ""),
            string("port", ""),
            string("host", ""),
            string("input-path", ""),
            string("path", ""),
            string("backend", ""),
        ],
    ),
    (
        "drive",
        &[
            string("werror", "what a failed write does"),
            string("rerror", "what a failed read does"),
            boolean("read-only", "open the file for reading only"),
            string("file", "file name"),
            string("if", "interface (none, virtio, pflash)"),
            string("media", "type of medium (disk)"),
            number("index", "number among those of the interface"),
            number("unit", "number on the bus"),
            number("bus", "number of the bus"),
            string("detect-zeroes", "zeroes that are written (off)"),
            string("format", "format of the image (raw)"),
            boolean("cache.writeback", "writes are cached"),
            boolean("cache.direct", "bypass the host's cache"),
            boolean("cache.no-flush", "ignore flushes"),
            string("aio", "how the host does it (threads)"),
            string("discard", "what a discard does (ignore, unmap)"),
            string("driver", "format of the image (raw)"),
            string("node-name", "name of the block node"),
        ],
    ),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli;

    /// The option as it is written, and what it needs besides a parameter.
    fn written(option: &str) -> (&str, &str) {
        match option {
            "boot-opts" => ("-boot", ""),
            "smp-opts" => ("-smp", ""),
            "memory" => ("-m", ""),
            "chardev" => ("-chardev", "id=a,"),
            "drive" => ("-drive", ""),
            _ => ("", ""),
        }
    }

    #[test]
    fn every_parameter_is_known_to_its_option() {
        for (option, parameters) in OPTIONS {
            let (word, needed) = written(option);
            let word = if word.is_empty() { format!("-{option}") } else { word.to_owned() };
            for parameter in *parameters {
                let name = parameter.name;
                // A back end takes only its own.
                let backends = match *option {
                    "chardev" if name != "backend" => {
                        ["null,", "stdio,", "file,", "pty,", "socket,", "mux,", "ringbuf,", "pipe,"]
                            .as_slice()
                    }
                    _ => &[""],
                };
                let unknown = [
                    format!("Invalid parameter '{name}'"),
                    format!("Parameter '{name}' is unexpected"),
                    format!("Property 'virt-machine.{name}' not found"),
                ];
                let known = backends.iter().any(|backend| {
                    let line = ["understudy", &word, &format!("{backend}{needed}{name}=x")];
                    match cli::parse(line.map(Into::into)) {
                        Ok(_) => true,
                        Err(refusal) => {
                            let refusal = refusal.to_string();
                            !unknown.iter().any(|sentence| refusal.ends_with(sentence))
                        }
                    }
                });
                assert!(known, "-{option} {name}");
            }
        }
    }
}
