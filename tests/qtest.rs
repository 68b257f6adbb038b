//! A machine driven from outside by qtest over a real socket, and QEMU driven by the same lines.

#[path = "oracle/mod.rs"]
mod oracle;

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(60);

/// A machine and the connection to its qtest session.
struct Driven {
    child: Child,
    qtest: BufReader<UnixStream>,
    directory: tempfile::TempDir,
}

/// The client that connects to `listener`; `None` when the process ends before.
fn accept(listener: &UnixListener, child: &mut Child) -> Option<UnixStream> {
    listener.set_nonblocking(true).unwrap();
    let started = Instant::now();
    loop {
        if let Ok((stream, _)) = listener.accept() {
            stream.set_nonblocking(false).unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            return Some(stream);
        }
        if child.try_wait().unwrap().is_some() {
            return None;
        }
        assert!(started.elapsed() < PATIENCE, "nobody connects");
        std::thread::sleep(Duration::from_millis(5));
    }
}

impl Driven {
    /// Start `program`; `None` when it refuses its command line.
    fn start(mut program: Command, options: &str) -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("qtest");
        let listener = UnixListener::bind(&path).unwrap();
        program
            .arg("-qtest")
            .arg(format!("unix:{}", path.display()))
            .args(["-qtest-log", "none", "-display", "none", "-machine", "virt", "-nodefaults"])
            .args(options.split(' '))
            .current_dir(directory.path())
            .stdin(Stdio::null())
            .stderr(Stdio::null());
        let mut child = program.spawn().unwrap();
        let qtest = accept(&listener, &mut child)?;
        Some(Self { child, qtest: BufReader::new(qtest), directory })
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.qtest.read_line(&mut line).unwrap();
        line.trim_end_matches('\n').to_owned()
    }

    /// Everything up to the answer to `command`, in one line.
    fn ask(&mut self, command: &str) -> String {
        self.qtest.get_mut().write_all(format!("{command}\n").as_bytes()).unwrap();
        let mut told = Vec::new();
        loop {
            let line = self.line();
            let done = !line.starts_with("IRQ ");
            assert!(!line.is_empty() || command.is_empty(), "{command}: the machine is gone");
            told.push(line);
            if done {
                return told.join("; ");
            }
        }
    }
}

impl Drop for Driven {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn ours() -> Command {
    Command::new(env!("CARGO_BIN_EXE_understudy"))
}

/// Lines and what they are answered, by us and by QEMU where it is.
fn check(options: &str, script: &[(&str, &str)]) {
    let qemu = oracle::qemu().and_then(|qemu| {
        let driven = Driven::start(qemu, options);
        if driven.is_none() {
            eprintln!("skipped: this QEMU does not take {options}");
        }
        driven
    });
    for (name, driven) in [("ours", Driven::start(ours(), options)), ("QEMU", qemu)] {
        let Some(mut driven) = driven else {
            assert_ne!(name, "ours", "{options} is refused");
            continue;
        };
        for (command, answer) in script {
            assert_eq!(driven.ask(command), *answer, "{name}: {command}");
        }
    }
}

#[test]
fn memory_and_devices_answer_as_qemus() {
    check(
        "-accel tcg -S -bios none -serial null",
        &[
            ("endianness", "OK little"),
            // RAM: every width, aligned or not, and over its ends.
            ("writeq 0x80000000 0x1122334455667788", "OK"),
            ("readb 0x80000001", "OK 0x0000000000000077"),
            ("readw 0x80000001", "OK 0x0000000000006677"),
            ("readl 0x80000001", "OK 0x0000000044556677"),
            ("readq 0x80000001", "OK 0x0011223344556677"),
            ("writeb 0x80000002 0x1ff", "OK"),
            ("read 0x80000000 4", "OK 0x8877ff55"),
            ("write 0x80000000 4 0xdead", "OK"),
            ("read 0x80000000 8", "OK 0xdead000044332211"),
            ("write 0x80000000 4 0x", "ERR invalid argument size"),
            ("memset 0x80000000 3 0xab", "OK"),
            ("b64read 0x80000000 4", "OK q6urAA=="),
            ("b64write 0x80000000 5 aGVsbG8=", "OK"),
            ("read 0x80000000 5", "OK 0x68656c6c6f"),
            ("write 0x87fffffe 4 0x01020304", "OK"),
            ("read 0x87fffffc 8", "OK 0x0000010200000000"),
            ("readq 0xfffffffffffffff8", "OK 0x0000000000000000"),
            // Nothing is there.
            ("readl 0x2f00000", "OK 0x0000000000000000"),
            ("writel 0x2f00000 1", "OK"),
            // UART: a register a byte, whatever the width.
            ("writeb 0x10000003 0x80", "OK"),
            ("writeb 0x10000000 0x12", "OK"),
            ("readb 0x10000000", "OK 0x0000000000000012"),
            ("readl 0x10000000", "OK 0x0000000000000012"),
            ("read 0x10000000 4", "OK 0x12000000"),
            ("writeb 0x10000003 0x03", "OK"),
            ("readb 0x10000005", "OK 0x0000000000000060"),
            ("readw 0x10000005", "OK 0x000000000000b060"),
            // virtio-mmio: an empty slot.
            ("readl 0x10001000", "OK 0x0000000074726976"),
            ("readq 0x10001000", "OK 0x0000000174726976"),
            ("readw 0x10001000", "OK 0x0000000000006976"),
            ("readl 0x10001008", "OK 0x0000000000000000"),
            // PLIC: words only.
            ("writel 0xc000028 0xffffffff", "OK"),
            ("readq 0xc000028", "OK 0x0000000000000007"),
            ("readb 0xc000028", "OK 0x0000000000000000"),
            ("writel 0xc002000 0x400", "OK"),
            // fw_cfg: the signature, by port and by DMA register.
            ("writew 0x10100008 0", "OK"),
            ("readb 0x10100000", "OK 0x0000000000000051"),
            ("read 0x10100000 3", "OK 0x454d00"),
            ("readq 0x10100010", "OK 0x47464320554d4551"),
            // CLINT.
            ("writel 0x2000000 1", "OK"),
            ("readl 0x2000000", "OK 0x0000000000000001"),
            ("writeq 0x2004000 0x123456789", "OK"),
            ("readl 0x2004004", "OK 0x0000000000000001"),
            ("readb 0x2004000", "OK 0x0000000000000000"),
            // Lines: THRE of the UART at the PLIC, whatever the device is called.
            ("irq_intercept_in nosuch", "FAIL Unknown device"),
            (
                "irq_intercept_in device[2] x",
                "FAIL Interception of named in-GPIOs not yet supported",
            ),
            ("irq_intercept_out device[14]", "FAIL No intercepts installed"),
            ("irq_intercept_in device[3]", "FAIL No intercepts installed"),
            ("irq_intercept_in /machine/unattached/device[2]", "OK"),
            ("irq_intercept_in device[2]", "OK"),
            ("irq_intercept_in device[14]", "FAIL IRQ intercept already enabled"),
            ("writeb 0x10000001 2", "IRQ raise 10; OK"),
            ("readl 0xc001000", "OK 0x0000000000000400"),
            ("readl 0xc200004", "OK 0x000000000000000a"),
            ("writeb 0x10000001 0", "IRQ lower 10; OK"),
            ("set_irq_in device[2] unnamed-gpio-in 33 1", "IRQ raise 33; OK"),
            ("set_irq_in device[2] unnamed-gpio-in 33 1", "OK"),
            ("readl 0xc001004", "OK 0x0000000000000002"),
            ("set_irq_in device[2] unnamed-gpio-in 33 0", "IRQ lower 33; OK"),
            // No ports, no modules, no clock that could be stepped; a hart's registers.
            ("inb 0x3f8", "OK 0x00ff"),
            ("inl 0xcf8", "OK 0xffffffff"),
            ("outw 0x80 1", "OK"),
            ("module_load a b", "FAIL"),
            ("clock_step 1", "FAIL Unknown command 'clock_step'"),
            ("clock_set 1", "FAIL Unknown command 'clock_set'"),
            ("rtas a 1 1 1 1 1", "FAIL Unknown command 'rtas'"),
            ("quit", "FAIL Unknown command 'quit'"),
            ("csr set_csr 0x0 832 0x1234", "OK 0 0000000000001234"),
            ("csr get_csr 0x0 832 0x0", "OK 0 0000000000001234"),
        ],
    );
}

#[test]
fn a_device_tells_its_own_line() {
    check(
        "-accel tcg -S -bios none -serial null",
        &[
            ("irq_intercept_out device[14] sysbus-irq", "OK"),
            ("writeb 0x10000001 2", "IRQ raise 0; OK"),
            ("readb 0x10000002", "IRQ lower 0; OK 0x0000000000000002"),
        ],
    );
}

/// 2020-01-01 in nanoseconds since 1970, halved into registers.
const START: u64 = 1_577_836_800_000_000_000;

#[test]
fn time_is_stepped_and_alarms_are_on_time() {
    let alarm = START + 5_000_000;
    let high = format!("writel 0x10100c {:#x}", alarm >> 32);
    let low = format!("writel 0x101008 {:#x}", alarm & 0xffff_ffff);
    let start_low = format!("OK {:#018x}", START & 0xffff_ffff);
    let start_high = format!("OK {:#018x}", START >> 32);
    let later_low = format!("OK {:#018x}", (START + 4_999_999) & 0xffff_ffff);
    let none =
        "FAIL cannot advance clock to the next deadline because there is no pending deadline";
    check(
        "-accel qtest -bios none -serial null -rtc base=2020-01-01,clock=vm",
        &[
            ("clock_step", none),
            ("readl 0x101000", &start_low),
            ("readl 0x101004", &start_high),
            ("irq_intercept_in device[0]", "OK"),
            ("writel 0x101010 1", "OK"),
            (&high, "OK"),
            (&low, "OK"),
            ("clock_step 4999999", "OK 4999999"),
            ("readl 0x101000", &later_low),
            ("readl 0x101018", "OK 0x0000000000000001"),
            ("clock_step", "IRQ raise 11; OK 5000000"),
            ("readl 0x101018", "OK 0x0000000000000000"),
            ("writel 0x10101c 1", "IRQ lower 11; OK"),
            ("clock_step", none),
            ("clock_set 1000", "FAIL 5000000"),
            ("clock_set 6000000", "OK 6000000"),
            ("clock_step -1", "FAIL could not advance time"),
            ("clock_step 0", "FAIL could not advance time"),
        ],
    );
}

/// QEMU leaves the CLINT out under `-accel qtest`.
#[test]
fn mtime_follows_the_stepped_clock() {
    let mut machine = Driven::start(ours(), "-accel qtest -smp 2").unwrap();
    for (command, answer) in [
        ("readq 0x200bff8", "OK 0x0000000000000000"),
        ("irq_intercept_in /machine/soc0/harts[1]", "OK"),
        // MTIMECMP of hart 1 is zero after reset, and the line has been high since.
        ("writeq 0x2004008 100", "OK"),
        ("clock_step 9900", "OK 9900"),
        ("readq 0x200bff8", "OK 0x0000000000000063"),
        ("clock_step", "IRQ raise 7; OK 10000"),
        ("readq 0x200bff8", "OK 0x0000000000000064"),
        ("writeq 0x2004008 101", "IRQ lower 7; OK"),
        ("writel 0x2000004 1", "IRQ raise 3; OK"),
        ("writel 0x2000000 1", "OK"),
        ("set_irq_in harts[1] unnamed-gpio-in 9 1", "IRQ raise 9; OK"),
        ("csr get_csr 1 0x344 0", "OK 0 0000000000000208"),
    ] {
        assert_eq!(machine.ask(command), answer, "{command}");
    }
}

/// The machine that test programs ask about what there is.
#[test]
fn an_empty_machine_has_ram_and_monitors_only() {
    let mut machine = Driven::start(ours(), "-M none -m 1 -cpu rv64 -accel qtest").unwrap();
    for (command, answer) in [
        ("writeq 0xffffc 0x1122334455667788", "OK"),
        ("readq 0xffffc", "OK 0x0000000055667788"),
        ("readl 0x10001000", "OK 0x0000000000000000"),
        ("irq_intercept_in device[0]", "FAIL Unknown device"),
        ("csr get_csr 0 0x300 0", "ERR csr: no such hart or register: 0x300"),
        ("clock_step 5", "OK 5"),
    ] {
        assert_eq!(machine.ask(command), answer, "{command}");
    }
}

/// The command line and the first words of QEMU's libqtest, and the end of the machine by the
/// finisher, whose answer is not lost.
#[test]
fn libqtest_finds_what_it_expects() {
    let directory = tempfile::tempdir().unwrap();
    let sockets = ["qtest", "qmp"].map(|name| directory.path().join(name));
    let [qtest, qmp] = sockets.each_ref().map(|path| UnixListener::bind(path).unwrap());
    let mut child = ours()
        .arg("-qtest")
        .arg(format!("unix:{}", sockets[0].display()))
        .args(["-qtest-log", "/dev/null", "-chardev"])
        .arg(format!("socket,path={},id=char0", sockets[1].display()))
        .args("-mon chardev=char0,mode=control -display none -audio none".split(' '))
        .args("-machine virt -m 64 -accel qtest".split(' '))
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    let qtest = accept(&qtest, &mut child).expect("the command line is taken");
    let mut qmp = BufReader::new(accept(&qmp, &mut child).expect("a monitor connects"));
    let mut machine = Driven { child, qtest: BufReader::new(qtest), directory };
    let mut converse = |command: &str| {
        qmp.get_mut().write_all(command.as_bytes()).unwrap();
        let mut line = String::new();
        qmp.read_line(&mut line).unwrap();
        line
    };
    assert!(converse("").contains("\"QMP\""));
    assert_eq!(converse("{'execute': 'qmp_capabilities'}").trim_end(), "{\"return\": {}}");
    let mut status = converse("{'execute': 'query-status'}");
    if status.contains("RESUME") {
        // The monitor was there before the machine ran.
        status = converse("");
    }
    assert!(status.contains("\"status\": \"running\", \"running\": true"), "{status}");
    // Paused, memory and devices answer as before.
    assert!(converse("{'execute': 'stop'}").contains("STOP"));
    assert_eq!(machine.ask("writel 0x80000000 1"), "OK");
    assert_eq!(machine.ask("clock_step 10"), "OK 10");
    assert_eq!(machine.ask("writel 0x100000 0x5555"), "OK");
    let mut rest = String::new();
    machine.qtest.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "");
    assert_eq!(machine.child.wait().unwrap().code(), Some(0));
    assert!(Path::new(machine.directory.path()).exists());
}
