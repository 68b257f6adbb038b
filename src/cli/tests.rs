//! Tables of command lines. Sentences in [`refusals_as_qemu`] are those of QEMU 10.0.2.

use super::*;
use crate::chardev::spec::{ChardevKind, SocketAddress};
use crate::machine::message::{PanicAction, RebootAction, ShutdownAction};
use crate::machine::spec::*;
use crate::migration::capability::Capability;
use crate::migration::channel::Address;
use crate::migration::message::Settings;
use crate::migration::parameters::MultifdCompression;

fn parse_line(line: &str) -> Result<Invocation, CliError> {
    let words = std::iter::once("/usr/bin/understudy").chain(line.split_whitespace());
    parse(words.map(OsString::from))
}

#[track_caller]
fn spec(line: &str) -> MachineSpec {
    match parse_line(line) {
        Ok(Invocation::Run { spec, .. }) => *spec,
        other => panic!("{line}: {other:?}"),
    }
}

#[track_caller]
fn refusal(line: &str) -> String {
    match parse_line(line) {
        Err(error) => {
            let text = error.to_string();
            assert!(!text.contains('\n'), "{line}: not one line: {text}");
            text
        }
        other => panic!("{line}: {other:?}"),
    }
}

#[test]
fn topologies_as_qemu() {
    for (text, cpus, sockets, cores, threads, max_cpus) in [
        ("2", 2, 1, 2, 1, 2),
        ("cpus=2", 2, 1, 2, 1, 2),
        ("4,threads=2", 4, 1, 2, 2, 4),
        ("sockets=2", 2, 2, 1, 1, 2),
        ("cores=4", 4, 1, 4, 1, 4),
        ("4,cores=2", 4, 2, 2, 1, 4),
        ("2,maxcpus=4", 2, 1, 4, 1, 4),
        ("8,sockets=2,cores=2", 8, 2, 2, 2, 8),
        ("2,sockets=1,cores=2,threads=1,dies=1", 2, 1, 2, 1, 2),
        ("maxcpus=6,threads=3", 6, 1, 2, 3, 6),
    ] {
        let expect = Smp { cpus, sockets, cores, threads, max_cpus };
        assert_eq!(spec(&format!("-smp {text}")).smp, expect, "{text}");
        assert_eq!(spec(&format!("-M virt,smp.cpus={cpus} -smp {text}")).smp.cpus, cpus);
    }
}

#[test]
fn refusals_as_qemu() {
    for line in [
        "-foo: invalid option",
        "--foo: invalid option",
        "-smp 0: Invalid CPU topology: CPU topology parameters must be greater than zero",
        "-smp foo: Parameter 'smp.cpus' expects integer",
        "-smp 1x: Parameter 'smp.cpus' expects integer",
        "-smp cpus=4,foo=1: Parameter 'smp.foo' is unexpected",
        "-smp 2,cores=3: Invalid CPU topology: product of the hierarchy must match maxcpus: \
         sockets (0) * cores (3) * threads (1) != maxcpus (2)",
        "-smp 3,sockets=2,cores=2: Invalid CPU topology: product of the hierarchy must match \
         maxcpus: sockets (2) * cores (2) * threads (0) != maxcpus (3)",
        "-smp cpus=2,maxcpus=1: Invalid CPU topology: maxcpus must be equal to or greater than \
         smp: sockets (1) * cores (1) * threads (1) == maxcpus (1) < smp_cpus (2)",
        "-smp 2,dies=2: dies > 1 not supported by this machine's CPU topology",
        "-smp 1000: Invalid SMP CPUs 1000. The max CPUs supported by machine 'virt' is 512",
        "-smp -1: Invalid SMP CPUs -1. The max CPUs supported by machine 'virt' is 512",
        "-m 1G,slots=2: slots specified but no max-size",
        "-m 1G,foo=1: Invalid parameter 'foo'",
        "-m -1: Value '-1' is out of range for parameter 'size'",
        "-M virt,foo=on: Property 'virt-machine.foo' not found",
        "-M virt,foo: Expected '=' after parameter 'foo'",
        "-M virt,aclint=foo: Parameter 'aclint' expects 'on' or 'off'",
        "-M none,acpi=off: Property 'none-machine.acpi' not found",
        "-accel qtest,thread=multi: Property 'qtest-accel.thread' not found",
        "-qtest chardev:a: Cannot find character device 'a'",
        "-accel tcg,foo=1: Property 'tcg-accel.foo' not found",
        "-accel tcg,tb-size=x: Parameter 'tb-size' expects uint64",
        "-append foo: -append only allowed with -kernel option",
        "-initrd foo: -initrd only allowed with -kernel option",
        "-bios /nonexistent: Unable to find the RISC-V BIOS \"/nonexistent\"",
        "-uuid foo: failed to parse UUID string: wrong format",
        "-name foo,bar=1: Invalid parameter 'bar'",
        "-msg timestamp=foo: Parameter 'timestamp' expects 'on' or 'off'",
        "-boot foo: Boot device 'o' was given twice",
        "-boot strict=x: Parameter 'boot.strict' expects 'on' or 'off'",
        "-chardev null: chardev: no id specified",
        "-chardev file,id=a: chardev: file: no filename given",
        "-chardev pipe,id=a: chardev: pipe: no device path given",
        "-chardev mux,id=m: chardev: mux: no chardev given",
        "-chardev mux,id=m,chardev=x: mux: base chardev x not found",
        "-chardev ringbuf,id=a,size=3: size of ringbuf chardev must be power of two",
        "-chardev null,id=a,foo=1: Invalid parameter 'foo'",
        "-chardev null,id=a,mux=x: Parameter 'mux' expects 'on' or 'off'",
        "-chardev socket,id=a,host=foo: chardev: socket: no port given",
        "-chardev socket,id=a,path=b,host=foo: None or one of 'path', 'fd' or 'host' option \
         required.",
        "-chardev socket,id=a,path=b,server=on,reconnect=1: 'reconnect' option is incompatible \
         with socket in server listen mode",
        "-chardev socket,id=a,path=b,server=off,wait=on: 'wait' option is incompatible with \
         socket in client connect mode",
        "-chardev socket,id=a,path=b,reconnect-ms=foo: Parameter 'reconnect-ms' expects a number",
        "-serial foo: 'foo' is not a valid char driver",
        "-serial tcp:foo: 'tcp:foo' is not a valid char driver",
        "-monitor foo: 'foo' is not a valid char driver",
        "-mon foo: chardev \"foo\" not found",
        "-mon mode=control: Parameter 'chardev' is missing",
        "-drive if=none: Must specify either driver or file",
        "-drive if=none,file=x,readonly=x: Parameter 'read-only' expects 'on' or 'off'",
        "-drive if=none,file=x,foo=1: Block format 'raw' does not support the option 'foo'",
        "-device id=a: Parameter 'driver' is missing",
        "-device virtio-blk-device: drive property not set",
        "-device virtio-blk-device,drive=foo: Property 'virtio-blk-device.drive' can't find value \
         'foo'",
        "-device virtio-blk-device,foo=1: Property 'virtio-blk-device.foo' not found",
        "-device virtconsole: No 'virtio-serial-bus' bus found for device 'virtconsole'",
        "-device virtio-rng-device,rng=foo: Device 'foo' not found",
        "-device virtio-rng-device,max-bytes=x: Parameter 'max-bytes' expects integer",
        "-device virtio-rng-device,max-bytes=0: 'max-bytes' parameter must be positive, and less \
         than 2^63",
        "-device virtio-rng-device,period=0: 'period' parameter expects a positive integer",
        "-device loader: please include valid arguments",
        "-device loader,addr=1: cpu_num must be specified when setting a program counter",
        "-device loader,addr=0x80000000,data=1: Both data and data-len must be specified",
        "-device loader,addr=8,data=1,data-len=9: data-len cannot be greater then 8 bytes",
        "-device loader,addr=8,data=1,data-len=4,file=a: Specifying a file is not supported when \
         loading memory values",
        "-device loader,cpu-num=99,addr=8: Specified boot CPU#99 is nonexistent",
        "-device loader,foo=1: Property 'loader.foo' not found",
        "-device loader,data-be=x: Parameter 'data-be' expects 'on' or 'off'",
        "-device loader,cpu-num=4294967296: Parameter 'cpu-num' expects uint32_t",
        "-object rng-random: Parameter 'id' is missing",
        "-object rng-random,id=a,foo=1: Invalid parameter 'foo'",
        "-object memory-backend-ram,id=a: Parameter 'size' is missing",
        "-fw_cfg foo: name, plus exactly one of file, string and gen_id, are needed",
        "-fw_cfg name=opt/x,string=x,file=y: name, plus exactly one of file, string and gen_id, \
         are needed",
        "-fw_cfg name=opt/x,foo=x: Invalid parameter 'foo'",
        "-global foo=bar: Invalid parameter 'foo'",
        "-global migration.bogus=1: can't apply global migration.bogus=1: Property \
         'migration.bogus' not found",
        "-incoming bogus:x: unknown migration protocol: bogus:x",
        "-incoming tcp:127.0.0.1: error parsing address '127.0.0.1'",
        "-seed x: Invalid seed number: x",
        "-seed -1: Invalid seed number: -1",
        "-vga qxl: QXL VGA not available",
        "-display none,gl=on: OpenGL is not supported by display backend 'none'",
        "-chardev socket,id=a,path=x,websocket=on: Websocket client is not implemented",
        "-object iothread,id=a,poll-grow=-1: poll-grow value must be in range [0, 9223372036854775807]",
        "-object iothread,id=a,thread-pool-max=0: bad thread-pool-min/thread-pool-max values",
        "-incoming defer2: Parameter 'channel-type' does not accept value 'defer2'",
        "-incoming {\"channel-type\":\"main\"}: Parameter 'addr' is missing",
    ] {
        let option = line.split_once(": ").map_or(line, |(option, _)| option);
        assert_eq!(refusal(option), line);
    }
    assert_eq!(refusal("-S -kernel"), "-kernel: requires an argument");
}

#[test]
fn refusals_across_options() {
    for (line, expect) in [
        ("-chardev null,id=a -chardev null,id=a", "Duplicate ID 'a' for chardev"),
        ("-serial stdio -serial stdio", "cannot use stdio by multiple character devices"),
        ("-serial stdio -display none -daemonize", "cannot use stdio with -daemonize"),
        ("-nographic -daemonize", "-nographic cannot be used with -daemonize"),
        ("-nographic -daemonize -serial null", "-nographic cannot be used with -daemonize"),
        (
            "-nographic -daemonize -serial null -monitor none",
            "-nographic cannot be used with -daemonize",
        ),
        (
            "-accel tcg -M virt,accel=tcg",
            "The -accel and \"-machine accel=\" options are incompatible",
        ),
        (
            "-object memory-backend-ram,id=a,size=64M -M virt,memory-backend=a -m 128M",
            "Machine memory size does not match the size of the memory backend",
        ),
        ("-M virt,memory-backend=foo", "Memory backend 'foo' not found"),
        ("-drive if=none,id=a,file=x -drive if=none,id=a,file=y", "Duplicate ID 'a' for drive"),
        (
            "-drive if=none,id=a,file=x -device virtio-blk-device,drive=a \
             -device virtio-blk-device,drive=a",
            "Drive 'a' is already in use by another device",
        ),
        (
            "-device virtio-rng-device,id=a -device virtio-rng-device,id=a",
            "Duplicate ID 'a' for device",
        ),
        ("-object rng-builtin,id=a -object rng-builtin,id=a", "Duplicate ID 'a' for object"),
        (
            "-fw_cfg name=opt/x,string=x -fw_cfg name=opt/x,string=x",
            "duplicate fw_cfg file name: opt/x",
        ),
        ("-chardev null,id=a -serial chardev:a -mon a", "chardev 'a' is already in use"),
        (
            "-chardev null,id=b -chardev hub,id=a,chardevs.0=b,chardevs.1=b",
            "chardev 'b' is already in use",
        ),
        (
            "-chardev null,id=b -chardev hub,id=a,chardevs.0=b -serial chardev:b",
            "chardev 'b' is already in use",
        ),
        (
            "-chardev null,id=a,mux=on -mon a -mon a -mon a -mon a -mon a",
            "too many uses of multiplexed chardev 'a' (maximum is 4)",
        ),
        ("-chardev null,id=a -mon a,pretty=on", "'pretty' is not compatible with HMP monitors"),
        (
            "-global virtio-rng-device.bar=1 -device virtio-rng-device",
            "can't apply global virtio-rng-device.bar=1: Property 'virtio-rng-device.bar' not \
             found",
        ),
        (
            "-global migration.multifd-channels=0",
            "Parameter 'multifd_channels' expects a value between 1 and 255",
        ),
        (
            "-global migration.x-multifd=on -global migration.x-xbzrle=on",
            "Multifd is not compatible with xbzrle",
        ),
        (
            "-global migration.announce-step=x",
            "Parameter 'announce-step' expects a non-negative number below 2^64",
        ),
    ] {
        let text = refusal(line);
        assert!(text.ends_with(&format!(": {expect}")), "{line}: {text}");
    }
    let nine = "-device virtio-rng-device ".repeat(9);
    assert!(refusal(&nine).ends_with("No 'virtio-bus' bus found for device 'virtio-rng-device'"));
}

/// Where QEMU says less than what is allowed, or allows more than there is here.
#[test]
fn refusals_of_our_own() {
    for (line, expect) in [
        ("-M foo", "unsupported machine type: \"foo\" (use -machine help to list supported"),
        ("-M none,kernel=x", "machine 'none' has nothing that would run it"),
        ("-M virt,acpi=on", "acpi=on: there are no ACPI tables; only acpi=off"),
        ("-M virt,acpi=foo", "Parameter 'acpi' does not accept value 'foo' (valid: off, auto)"),
        ("-M virt,aia=aplic", "aia=aplic: there is no APLIC or IMSIC; only aia=none"),
        ("-M virt,accel=kvm", "invalid accelerator kvm (valid: tcg, jit, interp, qtest)"),
        ("-qtest-log none", "there is no -qtest that it could log"),
        ("-audio alsa", "the machine has no sound device; only -audio none"),
        ("-enable-kvm", "invalid accelerator kvm; '-accel help' lists the valid ones"),
        ("-action reboot=foo", "Parameter 'reboot' does not accept value 'foo' (valid: reset, shu"),
        ("-d exec,vpu", "log item 'vpu' is not available (valid: all, out_asm,"),
        ("-D %s", "Bad logfile template: %s"),
        ("-dfilter 1", "Bad range specifier"),
        ("-dfilter x+1", "Invalid number to the left of +"),
        ("-dfilter 0..x", "Invalid number to the right of .."),
        ("-dfilter 8..7", "Invalid range"),
        ("-d foo", "unknown log item 'foo' (valid: all, out_asm, in_asm,"),
        ("-display gtk", "Display 'gtk' is not available; there is only -display none"),
        ("-display foo", "Parameter 'type' does not accept value 'foo' (valid: none)"),
        ("-sandbox on,spawn=maybe", "invalid argument for spawn"),
        ("-sandbox on,foo=bar", "Invalid parameter 'foo'"),
        ("-sandbox maybe", "Parameter 'enable' expects 'on' or 'off'"),
        ("-run-with foo=bar", "Invalid parameter 'foo'"),
        ("-run-with user=no:body", "User \"user=no:body\" doesn't exist (and is not <uid>:<gid>)"),
        (
            "-overcommit mem-lock=maybe",
            "parameter 'mem-lock' expects one of 'on', 'off', 'on-fault'",
        ),
        (
            "-watchdog-action x",
            "Parameter 'watchdog' does not accept value 'x' (valid: reset, shutdown, poweroff, pause, debug, none, inject-nmi)",
        ),
        ("-audiodev none", "Parameter 'id' is missing"),
        ("-chardev foo,id=a", "'foo' is not a valid char driver name"),
        ("-chardev null,id=1a", "Parameter 'id' expects an identifier (letters, digits,"),
        (
            "-drive file=x,if=ide",
            "machine type does not support if=ide (valid: none, virtio, pflash)",
        ),
        ("-drive file=x,format=qcow2", "format 'qcow2' is not available (valid: raw)"),
        ("-drive file=x,cache=foo", "invalid cache option (valid: none, writeback,"),
        ("-rtc base=foo", "invalid datetime format 'foo' (valid: utc, localtime,"),
        ("-m foo", "Parameter 'size' expects a non-negative number below 2^64 (optional"),
        ("-device foo", "'foo' is not a valid device model name"),
        ("-device foo,help", "Device 'foo' not found"),
        ("-device serial-mm", "Parameter 'driver' expects a pluggable device type"),
        ("-device device", "Parameter 'driver' expects a non-abstract device type"),
        ("-netdev user,id=a", "network devices are not available; only -nic none"),
        ("-k de", "keyboard layouts belong to graphical displays, and there is none"),
        ("-gdb tcp::1234", "the gdb stub is not available; only -gdb none"),
    ] {
        assert!(refusal(line).starts_with(&format!("{line}: {expect}")), "{}", refusal(line));
    }
}

#[test]
fn monitors_and_ports() {
    /// serial=…; chardevs; monitors
    fn shown(line: &str) -> String {
        let spec = spec(line);
        let chardevs: Vec<_> = spec
            .chardevs
            .iter()
            .map(|chardev| {
                let kind = format!("{:?}", chardev.kind);
                let kind = kind.split([' ', '(']).next().unwrap_or_default().to_lowercase();
                format!("{}={kind}{}", chardev.id, if chardev.mux { "+mux" } else { "" })
            })
            .collect();
        let monitors: Vec<_> = spec
            .monitors
            .iter()
            .map(|monitor| match monitor.mode {
                MonitorMode::Hmp => format!("hmp@{}", monitor.chardev),
                MonitorMode::Qmp { pretty: false } => format!("qmp@{}", monitor.chardev),
                MonitorMode::Qmp { pretty: true } => format!("pretty@{}", monitor.chardev),
            })
            .collect();
        let serials: Vec<_> =
            spec.serials.iter().map(|serial| serial.as_deref().unwrap_or("-")).collect();
        format!("{}; {}; {}", serials.join(" "), chardevs.join(" "), monitors.join(" "))
    }
    for (line, expect) in [
        ("-nographic", "serial0; serial0=stdio+mux; hmp@serial0"),
        ("-M virt", "serial0; serial0=stdio+mux; hmp@serial0"),
        ("-display none", "; ; "),
        ("-daemonize", "; ; "),
        ("-nographic -nodefaults", "; ; "),
        (
            "-nographic -serial null",
            "serial0; compat_monitor0=stdio serial0=null; hmp@compat_monitor0",
        ),
        ("-nographic -monitor none", "serial0; serial0=stdio; "),
        ("-nographic -monitor none -serial none", "-; ; "),
        ("-display none -serial mon:stdio", "serial0; serial0=stdio+mux; hmp@serial0"),
        (
            "-display none -serial stdio -monitor unix:/m,server=on,wait=off",
            "serial0; compat_monitor0=socket serial0=stdio; hmp@compat_monitor0",
        ),
        (
            "-display none -qmp unix:/q,server,nowait -qmp-pretty null",
            "; compat_monitor0=socket compat_monitor1=null; qmp@compat_monitor0 \
             pretty@compat_monitor1",
        ),
        (
            "-nodefaults -chardev stdio,id=c,mux=on -serial chardev:c -mon chardev=c",
            "c; c=stdio+mux; hmp@c",
        ),
        ("-display none -chardev pty,id=p -mon p,mode=control,pretty=on", "; p=pty; pretty@p"),
    ] {
        assert_eq!(shown(line), expect, "{line}");
    }
    let signal = |line: &str| match spec(line).chardevs.last().map(|c| c.kind.clone()) {
        Some(ChardevKind::Stdio { signal }) => signal,
        other => panic!("{line}: {other:?}"),
    };
    assert!(!signal("-nographic"), "Ctrl-c goes to the guest");
    assert!(signal("-display none -serial stdio"), "Ctrl-c ends the process");
}

#[test]
fn sockets() {
    let socket = |text: &str| {
        let line = format!("-display none -serial {text}");
        match spec(&line).chardevs.remove(0).kind {
            ChardevKind::Socket(socket) => socket,
            other => panic!("{text}: {other:?}"),
        }
    };
    let server = socket("tcp::4444,server=on,wait=off,nodelay=on");
    assert!(server.server && !server.wait && server.nodelay);
    let any = SocketAddress::Inet {
        at: crate::chardev::spec::Host {
            host: String::new(),
            port: "4444".into(),
            ipv4: None,
            ipv6: None,
            numeric: false,
        },
        to: None,
    };
    assert_eq!(server.address, any);
    assert!(socket("unix:/a,,b,server=on").wait, "a server waits unless told not to");
    let client = socket("unix:/a,,b,reconnect-ms=100");
    assert_eq!(client.reconnect, Some(std::time::Duration::from_millis(100)));
    assert!(!client.wait && !client.server);
    assert!(matches!(client.address, SocketAddress::Unix { path, .. } if path.ends_with("a,b")));
}

#[test]
fn migrations() {
    let plain = spec("-nographic");
    assert_eq!((plain.incoming, plain.only_migratable), (None, false));
    assert_eq!(plain.migration, Settings::default());
    let given = spec(
        "-incoming tcp:[::1]:9,ipv6=on -only-migratable -global migration.x-max-bandwidth=5k \
         -global migration.x-events=on -global migration.validate-uuid=on \
         -global migration.multifd-compression=zstd",
    );
    let Some(Incoming::At { address: Address::Inet(inet), origin }) = given.incoming else {
        panic!("{:?}", given.incoming)
    };
    assert_eq!((inet.host.as_str(), inet.port.as_str(), inet.ipv6), ("::1", "9", Some(true)));
    assert_eq!(origin, "-incoming tcp:[::1]:9,ipv6=on");
    assert!(given.only_migratable && given.globals.is_empty());
    let Settings { capabilities, parameters } = given.migration;
    assert_eq!(capabilities, [Capability::Events, Capability::ValidateUuid].into_iter().collect());
    assert_eq!(parameters.max_bandwidth, 5 << 10);
    assert_eq!(parameters.multifd_compression, MultifdCompression::Zstd);
    assert_eq!(spec("-incoming defer").incoming, Some(Incoming::Defer));
}

#[test]
fn a_linux_command_line() {
    let mut words: Vec<OsString> = "understudy -M virt -m 1G -smp 2 -nographic -kernel Image \
         -initrd initrd.gz -drive file=d.img,format=raw,if=none,id=hd,readonly=on,cache=none \
         -device virtio-blk-device,drive=hd,serial=abc -object rng-random,id=r,filename=/dev/random \
         -device virtio-rng-device,rng=r -drive file=e.img,format=raw,if=virtio \
         -cpu rv64,zbb=off,sv48=on -accel tcg,tb-size=64 -no-reboot -action panic=exit-failure \
         -S -d in_asm,int -D log -uuid 00112233-4455-6677-8899-aabbccddeeff \
         -device loader,addr=0x80000000,data=0x1ff,data-len=2 -device loader,file=f,cpu-num=1 \
         -global virtio-rng-device.period=5 -name guest=g,debug-threads=on \
         -append"
        .split_whitespace()
        .map(OsString::from)
        .collect();
    words.push("console=ttyS0 a,b=c".into());
    let spec = match parse(words) {
        Ok(Invocation::Run { spec, warnings }) => {
            assert_eq!(warnings, Vec::<String>::new());
            *spec
        }
        other => panic!("{other:?}"),
    };
    assert_eq!(spec.ram_size, 1 << 30);
    assert_eq!(spec.smp.cpus, 2);
    assert_eq!(spec.append.as_deref(), Some("console=ttyS0 a,b=c"));
    assert_eq!(spec.cpu, "rv64,zbb=off,sv48=on");
    assert_eq!(spec.accel, Accel::Jit { tb_size: Some(64 << 20), one_insn_per_tb: false });
    assert_eq!(spec.actions.reboot, RebootAction::Shutdown);
    assert_eq!(spec.actions.panic, PanicAction::ExitFailure);
    assert_eq!(spec.actions.shutdown, ShutdownAction::Poweroff);
    assert!(spec.start_paused && !spec.embedded_guest && spec.debug_threads);
    assert_eq!(spec.log.items, ["in_asm", "int"]);
    assert_eq!(spec.uuid.map(|uuid| uuid[15]), Some(0xff));
    assert_eq!(spec.firmware, Firmware::Builtin);
    let drivers: Vec<_> = spec.devices.iter().map(|d| d.driver.as_str()).collect();
    assert_eq!(drivers, ["virtio-blk-device", "virtio-rng-device", "virtio-blk-device"]);
    assert_eq!(spec.devices[0].prop("serial"), Some("abc"));
    assert_eq!(spec.devices[1].prop("period"), Some("5"));
    assert_eq!(spec.devices[2].prop("drive"), Some("virtio0"));
    assert!(spec.drives[0].read_only && spec.drives[0].cache.direct && !spec.drives[1].read_only);
    let data = LoaderWhat::Data { addr: 0x8000_0000, value: 0x1ff, len: 2, big_endian: false };
    assert_eq!(spec.loaders[0].what, data);
    assert_eq!(spec.loaders[1].cpu_num, Some(1));
}

#[test]
fn printed_texts() {
    for (line, expect) in [
        ("-version -foo -S", None),
        ("-version", Some("QEMU emulator version 10.0.2")),
        ("--help", Some("-kernel FILE")),
        ("-M help", Some("virt ")),
        ("-machine virt,help", Some("aclint=<bool>")),
        ("-cpu help", Some("  rv64\n")),
        ("-accel help", Some("tcg")),
        ("-chardev help", Some("  ringbuf\n")),
        ("-device help", Some("name \"virtio-blk-device\", bus virtio-bus\n")),
        ("-device virtio-rng-device,help", Some("max-bytes=<uint64>")),
        ("-object help", Some("  rng-random\n")),
        ("-d help", Some("guest_errors ")),
    ] {
        match (parse_line(line), expect) {
            (Ok(Invocation::Print(text)), Some(expect)) => {
                assert!(text.contains(expect) && text.ends_with('\n'), "{line}: {text}");
            }
            (Err(CliError::InvalidOption { option }), None) => assert_eq!(option, "-foo"),
            (other, _) => panic!("{line}: {other:?}"),
        }
    }
}

#[test]
fn no_arguments_is_the_embedded_guest() {
    let spec = spec("");
    assert!(spec.embedded_guest);
    assert_eq!(spec.program, "understudy");
    assert_eq!(spec.monitors.len(), 1);
}

#[test]
fn every_option_of_the_help_is_taken() {
    let text = options::help("understudy");
    let flags =
        ["nographic", "S", "no-reboot", "no-shutdown", "daemonize", "nodefaults", "no-user-config"];
    for line in text.lines().filter(|line| line.starts_with('-')) {
        let names =
            line.split_whitespace().take_while(|word| word.starts_with('-') || *word == "or");
        for word in names.filter_map(|word| word.strip_prefix('-')) {
            let line = if flags.contains(&word) || ["h", "help", "version"].contains(&word) {
                format!("-{word}")
            } else {
                format!("-{word} none")
            };
            if let Err(error) = parse_line(&line) {
                let text = error.to_string();
                assert!(!text.ends_with(": invalid option"), "{text}");
                assert!(!text.ends_with("requires an argument"), "{text}");
            }
        }
    }
}
