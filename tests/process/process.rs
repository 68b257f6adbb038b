//! The process around the machine: daemon, its number in a file, messages, logs, and what the
//! command line puts into guest memory and fw_cfg.

use rustix::process::Pid;

use crate::bare::{self, PARAMETERS};
use crate::greeter::{PROMPT, guest};
use crate::harness::qmp::Qmp;
use crate::harness::stream::Stream;
use crate::harness::{machine, poll};
use crate::oracle;

/// A process that is not our child, ended with the test.
struct Daemon(Pid);

impl Daemon {
    fn runs(&self) -> bool {
        rustix::process::test_kill_process(self.0).is_ok()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = rustix::process::kill_process(self.0, rustix::process::Signal::KILL);
    }
}

#[test]
fn a_daemon() {
    let mut parent = guest(
        "-daemonize -pidfile pid -qmp unix:qmp,server=on,wait=off \
         -serial unix:serial,server=on,wait=off -D log -d guest_errors",
    )
    .start();
    // The daemon holds neither output open: whoever waits for their end does not wait for it.
    assert_eq!(parent.console.rest(), b"");
    assert_eq!(parent.exit_code(), 0);
    assert_eq!(parent.errors(), "");
    // Ready means that all of it is there, without a second try.
    let number = std::fs::read_to_string(parent.path("pid")).expect("a number");
    let number: i32 = number.trim_end().parse().expect("a number");
    let daemon = Daemon(Pid::from_raw(number).expect("a process"));
    assert!(daemon.runs() && daemon.0 != parent.pid());
    let socket = std::os::unix::net::UnixStream::connect(parent.path("qmp")).expect("a monitor");
    let mut qmp = Qmp::negotiate(Stream::over("qmp", socket));
    assert_eq!(qmp.status(), "running");
    let proc = std::path::PathBuf::from(format!("/proc/{number}"));
    let link = |name: &str| std::fs::read_link(proc.join(name)).expect("a link");
    assert_eq!(link("cwd"), std::path::Path::new("/"));
    for fd in ["fd/0", "fd/1", "fd/2"] {
        assert_eq!(link(fd), std::path::Path::new("/dev/null"), "{fd}");
    }
    assert_eq!(rustix::process::getsid(Some(daemon.0)).ok(), Some(daemon.0), "a session's leader");
    let mut serial = parent.connect("serial");
    serial.send("\r");
    serial.expect(PROMPT);

    // A second machine with the same file fails, through its parent, and harms nothing.
    let pidfile = parent.path("pid");
    let second = machine("-daemonize -pidfile").word(&pidfile).run();
    let refused = "understudy: cannot create PID file: Cannot lock pid file: Resource temporarily \
                   unavailable\n";
    assert_eq!(second, (1, String::new(), refused.into()));

    qmp.send("{'execute': 'quit'}");
    qmp.ended();
    poll("the end of the daemon", || (!daemon.runs()).then_some(()));
    assert!(!pidfile.exists());
}

#[test]
fn a_daemon_that_fails() {
    for (words, line) in [
        ("-kernel missing", "could not load kernel 'missing': No such file or directory"),
        ("-nographic", "-daemonize: -nographic cannot be used with -daemonize"),
    ] {
        let (code, output, errors) = machine(&format!("-daemonize {words}")).run();
        assert_eq!((code, output.as_str()), (1, ""), "{words}");
        assert_eq!(errors, format!("understudy: {line}\n"));
    }
}

#[test]
fn messages_as_asked_for() {
    let words = "-msg timestamp=on,guest-name=on -name web -display none -kernel missing";
    let (code, _, errors) = machine(words).run();
    assert_eq!(code, 1);
    let (time, rest) = errors.split_once(' ').expect(&errors);
    assert_eq!(
        rest,
        "web understudy: could not load kernel 'missing': No such file or directory\n"
    );
    let shape: String = time.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
    assert_eq!(shape, "0000-00-00T00:00:00.000000Z");
}

/// Both emulators load the same program, and data for it, where they are told to.
#[test]
fn loaders() {
    let data = format!("addr={PARAMETERS:#x},data-len=2,data");
    for words in [
        format!("-bios program -device loader,{data}=42"),
        format!("-bios program -device loader,{data}=0x2a00000000000000,data-be=on"),
        format!("-bios none -device loader,file=program,addr=0x80000000 -device loader,{data}=42"),
        format!(
            "-bios none -device loader,file=program,addr=0x80200000,cpu-num=0 \
             -device loader,{data}=42"
        ),
        format!("-bios program -device loader,file=number,addr={PARAMETERS:#x},force-raw=on"),
    ] {
        let words = format!("-M virt -display none {words}");
        let setup =
            |words: &str| machine(words).file("program", &bare::fails()).file("number", &[42, 0]);
        let (code, _, errors) = setup(&words).run();
        assert_eq!((code, errors.as_str()), (42, ""), "{words}");
        if oracle::qemu().is_some() {
            let (theirs, _, _) = setup(&words).program("qemu-system-riscv64").run();
            assert_eq!(theirs, code, "{words}");
        }
    }
}

/// Bytes that the guest reads of a fw_cfg item.
fn fw_cfg(words: &str, selector: u16, length: u64) -> Vec<u8> {
    let [low, high] = selector.to_be_bytes();
    let selector = u16::from_le_bytes([low, high]);
    let length_at = PARAMETERS + 8;
    let setup = machine(&format!(
        "-display none -bios program -serial file:out {words} \
         -device loader,addr={PARAMETERS:#x},data-len=2,data={selector} \
         -device loader,addr={length_at:#x},data-len=8,data={length}"
    ));
    let setup = setup.file("program", &bare::prints_fw_cfg()).file("blob", b"from\0a file");
    let mut machine = setup.start();
    assert_eq!(machine.exit_code(), 0, "{}", machine.errors());
    let bytes = std::fs::read(machine.path("out")).expect("the output");
    assert_eq!(bytes.len() as u64, length, "{words}");
    bytes
}

#[test]
fn fw_cfg_items() {
    const DIRECTORY: u16 = 0x19;
    let words = "-fw_cfg name=opt/org.example/text,string=value \
                 -fw_cfg name=opt/org.example/blob,file=blob";
    assert_eq!(fw_cfg(words, 0, 4), b"QEMU");
    let count = fw_cfg(words, DIRECTORY, 4);
    let count = u32::from_be_bytes(count.try_into().expect("four bytes"));
    let directory = fw_cfg(words, DIRECTORY, 4 + 64 * u64::from(count));
    let mut found = 0;
    for entry in directory[4..].chunks(64) {
        let size = u32::from_be_bytes(entry[..4].try_into().expect("four bytes"));
        let selector = u16::from_be_bytes(entry[4..6].try_into().expect("two bytes"));
        let name = String::from_utf8_lossy(&entry[8..]);
        let expected: &[u8] = match name.trim_end_matches('\0') {
            "opt/org.example/text" => b"value",
            "opt/org.example/blob" => b"from\0a file",
            _ => continue,
        };
        found += 1;
        assert_eq!(size as usize, expected.len(), "{name}");
        assert_eq!(fw_cfg(words, selector, u64::from(size)), expected, "{name}");
    }
    assert_eq!(found, 2, "{}", directory.escape_ascii());
}

/// `-d int` says of each trap what QEMU says.
#[test]
fn a_log_of_traps() {
    let words = "-M virt -display none -bios program -d int,unimp -D log";
    let log = |program: Option<&str>| {
        let mut setup = machine(words).file("program", &bare::traps());
        if let Some(program) = program {
            setup = setup.program(program);
        }
        let mut machine = setup.start();
        assert_eq!(machine.exit_code(), 0, "{}", machine.errors());
        assert_eq!(machine.errors(), "");
        std::fs::read_to_string(machine.path("log")).expect("the log")
    };
    let ours = log(None);
    let causes: Vec<_> =
        ours.lines().filter(|line| line.contains("riscv_cpu_do_interrupt")).collect();
    assert_eq!(causes.len(), 4, "{ours}");
    if oracle::qemu().is_some() {
        assert_eq!(ours, log(Some("qemu-system-riscv64")));
    }
}

/// Without `-D` the log goes to standard error; with it, translated code can be read there.
#[test]
fn a_log_of_translation() {
    let setup = machine("-display none -bios program -d in_asm,op,out_asm -D log");
    let mut machine = setup.file("program", &bare::traps()).start();
    assert_eq!(machine.exit_code(), 0);
    assert_eq!(machine.errors(), "");
    let log = std::fs::read_to_string(machine.path("log")).expect("the log");
    for part in ["IN:\n", "OP:\n", "OUT: [size=", "ecall", "csrw"] {
        assert!(log.contains(part), "{part} in {log}");
    }
}
