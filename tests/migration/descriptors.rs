//! Descriptors that clients pass to a monitor, or leave open for the process: taken in by name and
//! in sets, migrated over, opened as drives and files, and never leaked.

use std::fs::{File, OpenOptions};
use std::io::{IoSlice, PipeReader, Read as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use serde_json::{Value, json};

use crate::harness::machine;
use crate::harness::poll;
use crate::harness::qmp::Qmp;
use crate::harness::stream::Stream;
use crate::side::Side;

/// The monitor of such a session.
pub const MONITOR: &str = "-qmp unix:fds,server=on,wait=off";

/// A QMP session that passes descriptors.
pub struct Passing {
    socket: UnixStream,
    qmp: Qmp,
}

fn send(socket: &UnixStream, bytes: &[u8], fds: &[BorrowedFd<'_>]) {
    let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(64))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    assert!(fds.is_empty() || control.push(SendAncillaryMessage::ScmRights(fds)));
    let sent = sendmsg(socket, &[IoSlice::new(bytes)], &mut control, SendFlags::empty());
    assert_eq!(sent.expect("it is sent"), bytes.len());
}

impl Passing {
    pub fn to(side: &Side) -> Self {
        let path = side.machine.path("fds");
        let socket = poll("the monitor", || UnixStream::connect(&path).ok());
        let stream = Stream::over("fds", socket.try_clone().expect("a duplicate"));
        Self { socket, qmp: Qmp::negotiate(stream) }
    }

    fn send(&mut self, command: &str, arguments: Value, fds: &[BorrowedFd<'_>]) {
        let request = json!({"execute": command, "arguments": arguments});
        send(&self.socket, format!("{request}\n").as_bytes(), fds);
    }

    fn pass(&mut self, command: &str, arguments: Value, fds: &[BorrowedFd<'_>]) -> Value {
        self.send(command, arguments, fds);
        self.qmp.reply()
    }

    pub fn name(&mut self, name: &str, fd: impl AsFd) {
        let reply = self.pass("getfd", json!({"fdname": name}), &[fd.as_fd()]);
        assert_eq!(reply, json!({"return": {}}));
    }

    /// Migrate over a descriptor of this monitor.
    pub fn migrate(&mut self, name: &str) {
        let reply = self.pass("migrate", json!({"uri": format!("fd:{name}")}), &[]);
        assert_eq!(reply, json!({"return": {}}));
    }

    /// Wait for a migration over a descriptor of this monitor.
    pub fn listen(&mut self, name: &str) {
        let arguments = json!({"uri": format!("fd:{name}"), "exit-on-error": false});
        assert_eq!(self.pass("migrate-incoming", arguments, &[]), json!({"return": {}}));
    }

    fn refusal(&mut self, command: &str, arguments: Value) -> String {
        let reply = self.pass(command, arguments, &[]);
        reply["error"]["desc"].as_str().unwrap_or_else(|| panic!("{reply}")).to_owned()
    }
}

/// Everybody has closed the other end.
fn is_closed(mut pipe: PipeReader) -> bool {
    pipe.read(&mut [0]).expect("a pipe") == 0
}

fn open_descriptors(side: &Side) -> usize {
    let directory = format!("/proc/{}/fd", side.machine.pid().as_raw_nonzero());
    std::fs::read_dir(directory).expect("descriptors").count()
}

#[test]
fn passed_to_a_monitor() {
    let mut side = Side::start(crate::side::guest(MONITOR));
    let mut client = Passing::to(&side);
    for (command, arguments, sentence) in [
        ("getfd", json!({"fdname": "x"}), "No file descriptor supplied via SCM_RIGHTS"),
        ("add-fd", json!({"fdset-id": 1}), "No file descriptor supplied via SCM_RIGHTS"),
        ("closefd", json!({"fdname": "x"}), "File descriptor named 'x' not found"),
        ("remove-fd", json!({"fdset-id": 1}), "File descriptor named 'fdset-id:1' not found"),
        (
            "remove-fd",
            json!({"fdset-id": 1, "fd": 3}),
            "File descriptor named 'fdset-id:1, fd:3' not found",
        ),
        ("migrate", json!({"uri": "fd:nope"}), "File descriptor named 'nope' has not been found"),
    ] {
        assert_eq!(client.refusal(command, arguments), sentence, "{command}");
    }
    let null = File::open("/dev/null").expect("a device");
    for (command, arguments, sentence) in [
        (
            "getfd",
            json!({"fdname": "1x"}),
            "Parameter 'fdname' expects a name not starting with a digit",
        ),
        ("add-fd", json!({"fdset-id": -1}), "Parameter 'fdset-id' expects a non-negative value"),
    ] {
        let reply = client.pass(command, arguments, &[null.as_fd()]);
        assert_eq!(reply["error"]["desc"], sentence);
        // It is gone with its command.
        let next = client.refusal("getfd", json!({"fdname": "x"}));
        assert_eq!(next, "No file descriptor supplied via SCM_RIGHTS");
    }

    // The first of a message counts; the others are closed.
    let (reader, writer) = std::io::pipe().expect("a pipe");
    let reply = client.pass("getfd", json!({"fdname": "x"}), &[null.as_fd(), writer.as_fd()]);
    assert_eq!(reply, json!({"return": {}}));
    drop(writer);
    assert!(is_closed(reader));
    assert_eq!(client.pass("closefd", json!({"fdname": "x"}), &[]), json!({"return": {}}));

    // Commands that do not wait for each other's replies get their own, and one that comes early
    // waits for the command that takes it.
    let pipes: Vec<_> = (0..20).map(|_| std::io::pipe().expect("a pipe")).collect();
    for (n, (_, writer)) in pipes.iter().enumerate() {
        client.send("getfd", json!({"fdname": format!("p{n}")}), &[writer.as_fd()]);
    }
    client.send("query-status", json!({}), &[null.as_fd()]);
    client.send("getfd", json!({"fdname": "late"}), &[]);
    for _ in 0..pipes.len() + 2 {
        let reply = client.qmp.reply();
        assert!(reply["return"].is_object(), "{reply}");
    }
    for (n, (reader, writer)) in pipes.into_iter().enumerate() {
        drop(writer);
        client.pass("closefd", json!({"fdname": format!("p{n}")}), &[]);
        assert!(is_closed(reader), "p{n}");
    }
    client.pass("closefd", json!({"fdname": "late"}), &[]);

    // Sets are everybody's.
    let added = client.pass("add-fd", json!({"opaque": "rw:null"}), &[null.as_fd()]);
    let fd = added["return"]["fd"].clone();
    assert_eq!(added["return"]["fdset-id"], 0);
    let sets = side.qmp.execute("query-fdsets");
    assert_eq!(sets, json!([{"fds": [{"fd": fd, "opaque": "rw:null"}], "fdset-id": 0}]));
    client.pass("remove-fd", json!({"fdset-id": 0}), &[]);
    assert_eq!(side.qmp.execute("query-fdsets"), json!([]));

    // What nobody asks for is bounded while the client is there, and gone when it leaves.
    let before = open_descriptors(&side);
    let (reader, writer) = std::io::pipe().expect("a pipe");
    let many = vec![writer.as_fd(); 64];
    for _ in 0..400 {
        send(&client.socket, b" ", &many);
    }
    client.pass("query-status", json!({}), &[writer.as_fd()]);
    let during = open_descriptors(&side);
    assert!(during < before + 200, "{before} before, {during} now");
    drop(writer);
    drop(client);
    assert!(is_closed(reader));
    // The session is as good as new for the next.
    let mut client = Passing::to(&side);
    client.name("again", &null);
    assert_eq!(client.pass("query-status", json!({}), &[])["return"]["status"], "running");
}

#[test]
fn passed_to_human_monitors() {
    let side = Side::start(crate::side::guest(""));
    let path = side.machine.path("hmp");
    let socket = poll("the monitor", || UnixStream::connect(&path).ok());
    let mut screen = Stream::over("hmp", socket.try_clone().expect("a duplicate"));
    screen.expect("(qemu) ");
    let (reader, writer) = std::io::pipe().expect("a pipe");
    send(&socket, b"getfd x\n", &[writer.as_fd()]);
    screen.expect("getfd x\u{1b}[K\r\n(qemu) ");
    drop(writer);
    screen.send("getfd y\n");
    screen.expect("Error: No file descriptor supplied via SCM_RIGHTS\r\n(qemu) ");
    screen.send("closefd x\n");
    screen.expect("(qemu) ");
    assert!(is_closed(reader));
    screen.send("closefd x\n");
    screen.expect("Error: File descriptor named 'x' not found\r\n(qemu) ");
}

/// Both sides with a session that passes descriptors.
fn sides() -> (Side, Side, Passing, Passing) {
    let (source, destination) = (Side::source(MONITOR), Side::destination(MONITOR));
    let (from, to) = (Passing::to(&source), Passing::to(&destination));
    (source, destination, from, to)
}

fn arrives(mut source: Side, mut destination: Side) {
    source.reaches("completed");
    destination.reaches("completed");
    destination.lives();
}

#[test]
fn migrations_over_names() {
    let (mut source, mut destination, mut from, mut to) = sides();
    let (here, there) = UnixStream::pair().expect("two sockets");
    from.name("mig", here);
    to.name("mig", there);
    // They are of one monitor, whoever is its client.
    let missing = "File descriptor named 'mig' has not been found";
    let incoming = json!({"uri": "fd:mig", "exit-on-error": false});
    let of_another = json!({"execute": "migrate-incoming", "arguments": incoming});
    assert_eq!(destination.qmp.ask(&of_another)["error"]["desc"], missing);
    let of_another = json!({"execute": "migrate", "arguments": {"uri": "fd:mig"}});
    assert_eq!(source.qmp.ask(&of_another)["error"]["desc"], missing);
    let within = from.pass("human-monitor-command", json!({"command-line": "closefd mig"}), &[]);
    assert_eq!(within["return"], "Error: File descriptor named 'mig' not found\r\n");
    drop(from);
    to.listen("mig");
    Passing::to(&source).migrate("mig");
    arrives(source, destination);
}

#[test]
fn migrations_over_sets() {
    let (mut source, mut destination, mut from, mut to) = sides();
    let path = source.machine.path("stream");
    let refused = |client: &mut Passing, uri: &str| client.refusal("migrate", json!({"uri": uri}));
    let missing = "Failed to find fdset /dev/fdset/1";
    assert_eq!(refused(&mut from, "file:/dev/fdset/1"), missing);
    assert_eq!(refused(&mut from, "file:/dev/fdset/x"), "Could not parse fdset /dev/fdset/x");

    let open = |path: &Path, write: bool| {
        OpenOptions::new().read(!write).write(write).create(write).open(path).expect("a file")
    };
    let writer = open(&path, true);
    let reader = open(&path, false);
    from.pass("add-fd", json!({"fdset-id": 1}), &[reader.as_fd()]);
    let unfit = "Failed to find file descriptor with matching flags=0x41";
    assert_eq!(refused(&mut from, "file:/dev/fdset/1"), unfit);
    source.lives();
    from.pass("add-fd", json!({"fdset-id": 1}), &[writer.as_fd()]);
    to.pass("add-fd", json!({"fdset-id": 1}), &[reader.as_fd()]);
    source.migrate("file:/dev/fdset/1,offset=0x1000");
    source.reaches("completed");
    destination.listen("file:/dev/fdset/1,offset=0x1000");
    arrives(source, destination);
}

#[test]
fn left_open_by_the_parent() {
    let image = understudy::machine::greeter::image();
    let program = env!("CARGO_BIN_EXE_understudy");
    let script = "exec \"$@\" 7<>disk 8>out";
    let words = "-display none -kernel greeter -m 64M -qmp unix:qmp,server=on,wait=off \
         -add-fd fd=7,set=2,opaque=rdwr:disk -add-fd fd=7,set=5 -add-fd fd=8,set=3 \
         -drive file=/dev/fdset/2,format=raw,if=none,id=d -device virtio-blk-device,drive=d \
         -serial file:/dev/fdset/3";
    let setup = machine("-c").word(script).word("sh").word(program);
    let setup = words.split_whitespace().fold(setup, |setup, word| setup.word(word));
    let setup = setup.program("sh").file("greeter", &image).file("disk", &[0; 4096]);
    let started = setup.start();
    let mut qmp = started.qmp("qmp");
    let sets = qmp.execute("query-fdsets");
    let told: Vec<_> =
        sets.as_array().expect("a list").iter().map(|set| set["fdset-id"].clone()).collect();
    assert_eq!(told, [5, 3, 2]);
    assert_eq!(sets[2]["fds"][0]["opaque"], "rdwr:disk");
    poll("the guest's words", || {
        let out = std::fs::read_to_string(started.path("out")).expect("what it writes");
        out.contains("> ").then_some(())
    });

    for (option, says) in [
        ("fd=70,set=1", "fd is not valid or already in use"),
        ("fd=1,set=1", "fd cannot be a standard I/O stream"),
        ("set=1", "fd option is required and must be non-negative"),
    ] {
        let (code, _, errors) = machine("-add-fd").word(option).run();
        assert_eq!(code, 1, "{option}");
        assert!(errors.ends_with(&format!(": -add-fd {option}: {says}\n")), "{errors}");
    }
    let (code, _, errors) = machine("-drive file=/dev/fdset/4,format=raw,if=none,id=d").run();
    assert_eq!(code, 1);
    assert!(errors.contains("Failed to find fdset /dev/fdset/4"), "{errors}");
}
