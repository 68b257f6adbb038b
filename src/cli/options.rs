//! The table of options: name, argument, heading and help text of each, as a [`clap::Command`],
//! and what is refused because the machine has nothing that it could apply to.

use clap::{Arg, ArgAction, Command};

/// A row of the table.
struct Row {
    /// The name, and its synonyms after `|`.
    names: &'static str,
    /// How the argument is shown in the help; empty for a flag.
    value: &'static str,
    says: Says,
}

/// What there is to say about an option.
enum Says {
    /// It does this.
    Help(&'static str),
    /// It is QEMU's, and refused for this reason; the help does not show it.
    Refused(&'static str),
}

const fn row(names: &'static str, value: &'static str, help: &'static str) -> Row {
    Row { names, value, says: Says::Help(help) }
}

const fn refused(names: &'static str, value: &'static str, reason: &'static str) -> Row {
    Row { names, value, says: Says::Refused(reason) }
}

/// The options, under QEMU's headings.
const OPTIONS: &[(&str, &[Row])] = &[
    (
        "Standard options",
        &[
            row("h|help", "", "show this text and exit"),
            row("version", "", "show the version and exit"),
            row(
                "machine|M",
                "[type=]virt|none[,prop=value...]",
                "machine to emulate ('-machine help' lists them)\n\
                 accel=NAME selects the accelerator: tcg (or jit), interp, qtest\n\
                 aclint=on|off ACLINT in place of CLINT (default off)\n\
                 dumpdtb=FILE write the device tree to FILE and exit\n\
                 memory-backend=ID object that is the RAM",
            ),
            row("cpu", "model[,feature=on|off...]", "hart model ('-cpu help' lists them)"),
            row(
                "accel",
                "name[,prop=value...]",
                "how guest code runs ('-accel help' lists them)\n\
                 tb-size=N code cache in MiB (tcg)\n\
                 one-insn-per-tb=on|off one block a guest instruction (tcg)",
            ),
            row(
                "smp",
                "[cpus=]n[,maxcpus=n][,sockets=n][,cores=n][,threads=n]",
                "number and topology of harts (default 1)",
            ),
            row("m", "[size=]N", "RAM, in MiB or with a suffix k, M, G, T (default 128M)"),
            row("mem-path", "FILE", "RAM in a file, or in an unnamed one in a directory"),
            row("mem-prealloc", "", "allocate all memory at once, not when it is touched"),
            row("boot", "[order=]drives[,menu=on|off][,strict=on|off]", "boot preferences"),
            row("name", "text[,process=text][,debug-threads=on|off]", "name of the guest"),
            row("uuid", "UUID", "identity of the machine"),
            row("fw_cfg", "[name=]name,file=FILE|string=TEXT", "item for the guest's fw_cfg"),
            row(
                "device",
                "driver[,prop=value...]",
                "add a device ('-device help' lists them, '-device NAME,help' its properties)",
            ),
            row("global", "driver.property=value", "default of a property of a driver"),
            row(
                "object",
                "type,id=ID[,prop=value...]",
                "add an object ('-object help' lists them)",
            ),
            row(
                "overcommit",
                "[mem-lock=on|on-fault|off][,cpu-pm=on|off]",
                "mem-lock=on keeps the emulator's memory from being swapped out",
            ),
        ],
    ),
    (
        "Block device options",
        &[
            row(
                "drive",
                "[file=FILE][,if=none|virtio|pflash][,format=raw][,id=ID]...",
                "disk image\n\
                 index=N readonly=on|off discard=ignore|unmap\n\
                 cache=writethrough|writeback|none|directsync|unsafe\n\
                 werror=ignore|stop|report|enospc rerror=ignore|stop|report",
            ),
            row(
                "blockdev",
                "[driver=]file|raw,node-name=NAME[,prop=value...]",
                "block node, which devices and -machine pflash0= take by name\n\
                 filename=FILE (file.driver=file,file.filename=FILE for raw)\n\
                 read-only=on|off discard=ignore|unmap cache.direct=on|off",
            ),
            row("pflash", "FILE", "image of the next bank of flash"),
            row("hda", "FILE", "image of disk 0"),
            row("hdb", "FILE", "image of disk 1"),
            row("hdc", "FILE", "image of disk 2"),
            row("hdd", "FILE", "image of disk 3"),
        ],
    ),
    (
        "Display options",
        &[
            row("display", "none", "there is no graphical output"),
            row(
                "nographic",
                "",
                "serial port and monitor share standard input and output (the default\n\
                 without -display none)",
            ),
            row("vga", "none", "there is no graphics card"),
        ],
    ),
    (
        "Audio options",
        &[
            row("audio", "none", "there is no sound device"),
            row("audiodev", "[driver=]none,id=ID", "a sound back end that plays nothing"),
        ],
    ),
    (
        "Network options",
        &[row("nic", "none", "no network card"), row("net", "none", "no network card")],
    ),
    (
        "Character device options",
        &[row(
            "chardev",
            "type,id=ID[,mux=on|off][,logfile=FILE][,logappend=on|off][,prop=value...]",
            "add a character device ('-chardev help' lists the types)\n\
             null | stdio[,signal=on|off] | pty[,path=LINK]\n\
             file,path=FILE[,input-path=FILE][,append=on|off] | pipe,path=FILE\n\
             ringbuf[,size=N] | mux,chardev=ID\n\
             socket,path=FILE|host=HOST,port=PORT|fd=N[,server=on|off][,wait=on|off]\n\
             [,nodelay=on|off][,reconnect-ms=N][,to=PORT][,ipv4=on|off][,ipv6=on|off]",
        )],
    ),
    (
        "Boot image options",
        &[
            row("bios", "none|default|FILE", "firmware; by default an SBI in the emulator"),
            row("kernel", "FILE", "kernel: Image, gzipped Image or ELF"),
            row("append", "TEXT", "kernel command line"),
            row("initrd", "FILE", "initial RAM disk"),
            row("dtb", "FILE", "device tree in place of the generated one"),
        ],
    ),
    (
        "Debug and expert options",
        &[
            row("seed", "N", "what is random to the guest is the same for the same N"),
            row(
                "serial",
                "DEV",
                "connect the serial port to a character device:\n\
                 stdio, mon:stdio, null, none, pty, vc, chardev:ID, file:FILE, pipe:FILE,\n\
                 tcp:HOST:PORT[,server=on]..., unix:FILE[,server=on]...",
            ),
            row("parallel", "none|null", "there is no parallel port"),
            row("monitor", "DEV", "monitor for a person on DEV (as -serial)"),
            row("qmp", "DEV", "monitor for a program (QMP) on DEV"),
            row("qmp-pretty", "DEV", "as -qmp, indented"),
            row(
                "mon",
                "[chardev=]ID[,mode=readline|control][,pretty=on|off]",
                "monitor on a character device",
            ),
            row("qtest", "DEV", "qtest session, for test programs, on DEV (as -serial)"),
            row(
                "qtest-log",
                "FILE|none",
                "transcript of the qtest session, by default on standard error",
            ),
            row("pidfile", "FILE", "write the process id to FILE"),
            row(
                "incoming",
                "URI|defer",
                "wait for a migration: tcp:HOST:PORT, unix:PATH, vsock:CID:PORT, fd:N,\n\
                 exec:COMMAND, file:PATH[,offset=N], or what migrate-incoming will say",
            ),
            row(
                "add-fd",
                "fd=FD,set=SET[,opaque=TEXT]",
                "put an open descriptor into /dev/fdset/SET",
            ),
            row("only-migratable", "", "refuse what cannot migrate"),
            row("preconfig", "", "wait for the QMP command x-exit-preconfig before the start"),
            row("S", "", "do not start the harts (type 'c' at the monitor)"),
            row("d", "item[,item...]", "log these ('-d help' lists them)"),
            row("D", "FILE", "write the log to FILE, not to standard error"),
            row(
                "trace",
                "[[enable=]PATTERN][,events=FILE][,file=FILE]",
                "switch trace events on ('-trace help' lists them), or those in FILE",
            ),
            row(
                "dfilter",
                "range[,range...]",
                "log only code at these addresses: A..B, A+SIZE, A-SIZE",
            ),
            row("L", "DIR", "look for firmware in DIR too"),
            row("gdb", "none", "there is no gdb stub"),
            row("no-reboot", "", "exit where the guest would reboot"),
            row("no-shutdown", "", "pause where the guest would power off"),
            row(
                "action",
                "event=action[,event=action...]",
                "reboot=reset|shutdown\n\
                 shutdown=poweroff|pause\n\
                 panic=pause|shutdown|exit-failure|none\n\
                 watchdog=reset|shutdown|poweroff|inject-nmi|pause|debug|none",
            ),
            row("rtc", "[base=utc|localtime|DATE][,clock=host|rt|vm]", "the guest's clock"),
            row("msg", "[timestamp=on|off][,guest-name=on|off]", "how messages are written"),
            row("daemonize", "", "run in the background once ready"),
            row(
                "sandbox",
                "on|off[,obsolete=allow|deny][,elevateprivileges=allow|deny|children]\n\
                 [,spawn=allow|deny][,resourcecontrol=allow|deny]",
                "refuse system calls that an emulator has no use for\n\
                 obsolete=allow lets those through that newer ones have replaced\n\
                 elevateprivileges=deny refuses other users, groups and sessions\n\
                 spawn=deny refuses processes and programs\n\
                 resourcecontrol=deny refuses priorities and scheduling",
            ),
            row(
                "run-with",
                "[chroot=DIR][,user=NAME|UID:GID][,async-teardown=on|off]",
                "once ready, see only DIR, and be this user\n\
                 async-teardown=on has another process give back the memory",
            ),
            row("readconfig", "FILE", "take options from a file"),
            row("set", "group.id.arg=value", "change a parameter of an option before it"),
            row("watchdog-action", "ACTION", "as -action watchdog=ACTION"),
            row("nodefaults", "", "no default serial port connection or monitor"),
            row("no-user-config", "", "there are no configuration files"),
        ],
    ),
    (
        "Options of QEMU that the machine has nothing for",
        &[
            refused("cdrom", "value", "the machine has no CD-ROM drive; use -drive with if=virtio"),
            refused("compat", "value", "compatibility policies are not available"),
            refused(
                "enable-kvm",
                "",
                "invalid accelerator kvm; '-accel help' lists the valid ones",
            ),
            refused("fda|fdb", "value", "the machine has no floppy drive"),
            refused("fsdev|virtfs", "value", "file system devices are not available"),
            refused("full-screen", "", "there is no graphical output"),
            refused("icount", "value", "instruction counting is not available"),
            refused("iscsi", "value", "iSCSI is not available"),
            refused("jitdump|perfmap", "", "maps of translated code are not available"),
            refused(
                "k",
                "value",
                "keyboard layouts belong to graphical displays, and there is none",
            ),
            refused("loadvm", "value", "snapshots are not available"),
            refused("mtdblock|sd", "value", "the machine has no such memory"),
            refused("netdev", "value", "network devices are not available; only -nic none"),
            refused("numa", "value", "NUMA nodes are not available"),
            refused("plugin", "value", "plugins are not available"),
            refused("s", "", "the gdb stub is not available"),
            refused("semihosting", "", "semihosting is not available"),
            refused("semihosting-config", "value", "semihosting is not available"),
            refused("smbios", "value", "the machine has no SMBIOS tables"),
            refused("snapshot", "", "temporary overlays are not available"),
            refused("spice|vnc", "value", "there is no graphical output; use -display none"),
            refused("tpmdev", "value", "the machine has no TPM"),
            refused("usb", "", "the machine has no USB controller"),
            refused("usbdevice", "value", "the machine has no USB controller"),
            refused("xen-domid|xen-attach", "value", "Xen is not available"),
        ],
    ),
];

/// Marks, in the argument's value name, an option that takes no argument.
const FLAG: &str = "-";

fn argument(names: &'static str, takes_value: bool) -> Arg {
    let mut names = names.split('|');
    let first = names.next().unwrap_or_default();
    Arg::new(first)
        .long(first)
        .visible_aliases(names.collect::<Vec<_>>())
        .action(ArgAction::Append)
        .require_equals(true)
        .allow_hyphen_values(true)
        .value_name(if takes_value { "value" } else { FLAG })
}

/// The command: every option takes its argument as `--name=argument`; `super::argv` brings a
/// command line into that form (a flag has the empty argument).
pub fn command() -> Command {
    let mut command = Command::new("understudy")
        .disable_help_flag(true)
        .disable_version_flag(true)
        .no_binary_name(true);
    for (heading, rows) in OPTIONS {
        for row in *rows {
            let arg = argument(row.names, !row.value.is_empty()).help_heading(*heading);
            command = command.arg(match row.says {
                Says::Help(text) => arg.help(text),
                Says::Refused(_) => arg.hide(true),
            });
        }
    }
    command
}

/// Whether an option of [`command`] takes an argument.
pub fn takes_value(arg: &Arg) -> bool {
    arg.get_value_names().and_then(|names| names.first()).is_none_or(|name| name != FLAG)
}

/// Why an option is refused, by its first name.
pub fn refusal(name: &str) -> Option<&'static str> {
    let mut rows = OPTIONS.iter().flat_map(|(_, rows)| rows.iter());
    let row = rows.find(|row| row.names.split('|').next() == Some(name))?;
    match row.says {
        Says::Refused(reason) => Some(reason),
        Says::Help(_) => None,
    }
}

/// The text of `-help`.
pub fn help(program: &str) -> String {
    let mut text = format!("{}usage: {program} [options] [disk_image]\n", version());
    text.push_str("\nWithout any option, a small guest of understudy's own is run.\n");
    for (heading, rows) in OPTIONS {
        let mut heading = Some(heading);
        for row in *rows {
            let Says::Help(help) = row.says else { continue };
            if let Some(heading) = heading.take() {
                text.push_str(&format!("\n{heading}:\n"));
            }
            let names: Vec<_> = row.names.split('|').map(|name| format!("-{name}")).collect();
            let usage = format!("{} {}", names.join(" or "), row.value);
            let usage = usage.trim_end();
            let mut lines = help.lines();
            match lines.next() {
                Some(line) if usage.len() < 16 => text.push_str(&format!("{usage:<16}{line}\n")),
                Some(line) => text.push_str(&format!("{usage}\n{:16}{line}\n", "")),
                None => text.push_str(&format!("{usage}\n")),
            }
            for line in lines {
                text.push_str(&format!("{:16}{line}\n", ""));
            }
        }
    }
    text.push_str("\nWith -nographic, type 'ctrl-a h' for the keys of the console multiplexer.\n");
    text
}

/// The text of `-version`.
pub fn version() -> String {
    format!(
        "understudy {} (stands in for QEMU emulator version 10.0.2)\n",
        env!("CARGO_PKG_VERSION")
    )
}
