//! Back ends against real sockets, terminals and files, with a front end that records.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::Duration;

use actix::{Actor, Addr, Context, Handler};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::message::*;
use super::spec::*;
use super::*;

mod several;
mod tls;

/// What a front end hears.
#[derive(Debug, PartialEq, Eq)]
enum Heard {
    Input(Vec<u8>),
    Written(usize),
    Event(CharEvent),
}

struct Probe(UnboundedSender<Heard>);

impl Actor for Probe {
    type Context = Context<Self>;
}

impl Handler<CharInput> for Probe {
    type Result = ();
    fn handle(&mut self, CharInput(bytes): CharInput, _: &mut Context<Self>) {
        let _ = self.0.send(Heard::Input(bytes));
    }
}

impl Handler<CharWritten> for Probe {
    type Result = ();
    fn handle(&mut self, CharWritten(length): CharWritten, _: &mut Context<Self>) {
        let _ = self.0.send(Heard::Written(length));
    }
}

impl Handler<CharEvent> for Probe {
    type Result = ();
    fn handle(&mut self, event: CharEvent, _: &mut Context<Self>) {
        let _ = self.0.send(Heard::Event(event));
    }
}

/// A front end on a back end.
struct Front {
    backend: CharBackend,
    heard: UnboundedReceiver<Heard>,
    _probe: Addr<Probe>,
}

impl Front {
    fn on(chardev: &Chardev) -> Self {
        let (sender, heard) = unbounded_channel();
        let probe = Probe(sender).start();
        let backend = chardev.front_end();
        backend.attach.do_send(Attach {
            input: probe.clone().recipient(),
            written: probe.clone().recipient(),
            event: probe.clone().recipient(),
            descriptor: None,
        });
        Self { backend, heard, _probe: probe }
    }

    fn credit(&self, room: usize) {
        self.backend.credit.do_send(CharCredit(room));
    }

    fn send(&self, bytes: &[u8]) {
        self.backend.output.do_send(CharOutput(bytes.into()));
    }

    async fn next(&mut self) -> Heard {
        let next = tokio::time::timeout(Duration::from_secs(10), self.heard.recv()).await;
        next.expect("nothing heard in 10 s").expect("probe gone")
    }

    /// Nothing is heard for a while.
    async fn quiet(&mut self) {
        let next = tokio::time::timeout(Duration::from_millis(150), self.heard.recv()).await;
        if let Ok(heard) = next {
            panic!("unexpected {heard:?}");
        }
    }

    async fn event(&mut self, event: CharEvent) {
        assert_eq!(self.next().await, Heard::Event(event));
    }

    /// Read exactly `count` bytes, with credit for no more than `step` at a time.
    async fn read(&mut self, count: usize, step: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut room = 0;
        while bytes.len() < count {
            if room == 0 {
                room = step.min(count - bytes.len());
                self.credit(room);
            }
            match self.next().await {
                Heard::Input(input) => {
                    assert!(input.len() <= room, "more input than credit");
                    room -= input.len();
                    bytes.extend(input);
                }
                other => panic!("{other:?}"),
            }
        }
        bytes
    }

    async fn write(&mut self, bytes: &[u8]) {
        self.send(bytes);
        assert_eq!(self.next().await, Heard::Written(bytes.len()));
    }
}

fn spec(kind: ChardevKind) -> ChardevSpec {
    ChardevSpec { id: "c".into(), kind, mux: false, log: None, origin: "-chardev c".into() }
}

/// Open what this says, alone.
async fn open(spec: &ChardevSpec) -> Result<Chardev, ChardevError> {
    let all = Chardevs::default();
    all.open(spec, 1).await?;
    Ok(all.get(&spec.id).expect("it is there"))
}

async fn opened(kind: ChardevKind) -> Chardev {
    open(&spec(kind)).await.expect("opens")
}

fn unix(path: &Path, server: bool) -> SocketSpec {
    SocketSpec {
        address: SocketAddress::Unix { path: path.into(), is_abstract: false, tight: true },
        server,
        wait: false,
        nodelay: false,
        telnet: false,
        tn3270: false,
        websocket: false,
        reconnect: None,
        tls: None,
        given: Value::Null,
    }
}

/// Bytes in which a lost, doubled or swapped one shows.
fn pattern(count: usize) -> Vec<u8> {
    (0_u32..).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).take(count).collect()
}

#[actix::test]
async fn a_unix_server_loses_nothing_and_takes_the_next_client() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let chardev = opened(ChardevKind::Socket(unix(&path, true))).await;
    assert_eq!(*chardev.filename.lock(), format!("disconnected:unix:{},server=on", path.display()));
    let mut front = Front::on(&chardev);
    front.write(b"nobody is there").await;

    let mut client = UnixStream::connect(&path).unwrap();
    front.event(CharEvent::Opened).await;
    assert_eq!(*chardev.filename.lock(), format!("unix:{},server=on", path.display()));
    let data = pattern(300_000);
    let sent = data.clone();
    let mut sender = client.try_clone().unwrap();
    let thread = std::thread::spawn(move || sender.write_all(&sent).unwrap());
    assert_eq!(front.read(data.len(), 1000).await, data);
    thread.join().unwrap();

    // More than a socket's buffers hold: acknowledged only when the client has read.
    let batch = pattern(8 << 20);
    front.send(&batch);
    front.quiet().await;
    let reader = std::thread::spawn(move || {
        let mut bytes = vec![0; 8 << 20];
        client.read_exact(&mut bytes).unwrap();
        (client, bytes)
    });
    assert_eq!(front.next().await, Heard::Written(batch.len()));
    let (client, bytes) = reader.join().unwrap();
    assert!(bytes == batch);

    // A client that leaves with output pending: it is dropped, and acknowledged.
    front.send(&batch);
    front.quiet().await;
    drop(client);
    let mut left = vec![front.next().await, front.next().await];
    left.sort_by_key(|heard| matches!(heard, Heard::Event(_)));
    assert_eq!(left, [Heard::Written(batch.len()), Heard::Event(CharEvent::Closed)]);
    front.write(b"nobody again").await;

    let mut client = UnixStream::connect(&path).unwrap();
    front.event(CharEvent::Opened).await;
    client.write_all(b"hello").unwrap();
    assert_eq!(front.read(5, 5).await, b"hello");
}

#[actix::test]
async fn input_before_the_end_is_delivered_and_answered() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let chardev = opened(ChardevKind::Socket(unix(&path, true))).await;
    let mut front = Front::on(&chardev);
    let mut client = UnixStream::connect(&path).unwrap();
    front.event(CharEvent::Opened).await;
    client.write_all(b"question").unwrap();
    client.shutdown(std::net::Shutdown::Write).unwrap();
    front.quiet().await;
    assert_eq!(front.read(8, 100).await, b"question");
    front.write(b"answer").await;
    front.event(CharEvent::Closed).await;
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "answer");
}

#[actix::test]
async fn a_client_connects_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let mut socket = unix(&path, false);
    let refused = open(&spec(ChardevKind::Socket(socket.clone()))).await;
    assert_eq!(
        refused.unwrap_err().to_string(),
        format!("Failed to connect to '{}': No such file or directory", path.display())
    );
    socket.reconnect = Some(Duration::from_millis(20));
    let chardev = opened(ChardevKind::Socket(socket)).await;
    let mut front = Front::on(&chardev);
    front.quiet().await;
    let listener = UnixListener::bind(&path).unwrap();
    front.event(CharEvent::Opened).await;
    drop(listener.accept().unwrap());
    front.event(CharEvent::Closed).await;
    front.event(CharEvent::Opened).await;
    let mut peer = listener.accept().unwrap().0;
    front.write(b"back").await;
    let mut bytes = [0; 4];
    peer.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"back");
}

#[actix::test]
async fn refusals_in_the_words_of_qemu() {
    let inet = |host: &str, port: String, server| {
        ChardevKind::Socket(SocketSpec {
            address: SocketAddress::Inet {
                at: Host { host: host.into(), port, ipv4: None, ipv6: None, numeric: false },
                to: None,
            },
            nodelay: true,
            ..unix(Path::new(""), server)
        })
    };
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let free = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap().port()
    };
    let missing = Path::new("/nonexistent/a");
    let long = format!("/{}", "a".repeat(120));
    for (kind, expect) in [
        (
            inet("127.0.0.1", free.to_string(), false),
            format!("Failed to connect to '127.0.0.1:{free}': Connection refused"),
        ),
        (
            inet("127.0.0.1", port.to_string(), true),
            "Failed to find an available port: Address already in use".into(),
        ),
        (
            inet("", "1234x".into(), true),
            "address resolution failed for :1234x: Servname not supported for ai_socktype".into(),
        ),
        (
            ChardevKind::Socket(unix(missing, true)),
            "Failed to bind socket to /nonexistent/a: No such file or directory".into(),
        ),
        (
            ChardevKind::Socket(unix(Path::new(&long), true)),
            format!("UNIX socket path '{long}' is too long"),
        ),
        (
            ChardevKind::Socket(SocketSpec {
                address: SocketAddress::Fd("9999".into()),
                ..unix(missing, false)
            }),
            "File descriptor '9999' is not a socket".into(),
        ),
        (
            ChardevKind::File { out: missing.into(), append: false, input: None },
            "Could not open '/nonexistent/a': No such file or directory".into(),
        ),
        (
            ChardevKind::Pipe { path: missing.into() },
            "Could not open '/nonexistent/a': No such file or directory".into(),
        ),
        (ChardevKind::Mux { chardev: "x".into() }, "mux: base chardev x not found".into()),
    ] {
        let error = open(&spec(kind)).await.unwrap_err();
        assert_eq!(error.to_string(), expect);
    }
}

#[actix::test]
async fn a_server_waits_for_its_client() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let mut socket = unix(&path, true);
    socket.wait = true;
    let spec = spec(ChardevKind::Socket(socket));
    let opening = open(&spec);
    tokio::pin!(opening);
    assert!(tokio::time::timeout(Duration::from_millis(100), &mut opening).await.is_err());
    let _client = UnixStream::connect(&path).unwrap();
    let chardev = opening.await.unwrap();
    Front::on(&chardev).event(CharEvent::Opened).await;
}

#[actix::test]
async fn a_descriptor_of_the_parent_listens() {
    use std::os::fd::AsRawFd;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let listener = UnixListener::bind(&path).unwrap();
    let address = SocketAddress::Fd(listener.as_raw_fd().to_string());
    let chardev = opened(ChardevKind::Socket(SocketSpec { address, ..unix(&path, true) })).await;
    let mut front = Front::on(&chardev);
    let mut client = UnixStream::connect(&path).unwrap();
    front.event(CharEvent::Opened).await;
    client.write_all(b"x").unwrap();
    assert_eq!(front.read(1, 1).await, b"x");
}

#[actix::test]
async fn a_terminal_comes_and_goes() {
    let dir = tempfile::tempdir().unwrap();
    let link = dir.path().join("tty");
    let chardev = opened(ChardevKind::Pty { link: Some(link.clone()) }).await;
    assert!(chardev.filename.lock().starts_with("pty:/dev/pts/"));
    let mut front = Front::on(&chardev);
    front.write(b"nobody is there").await;
    for round in 0..2 {
        let mut tty = std::fs::OpenOptions::new().read(true).write(true).open(&link).unwrap();
        front.event(CharEvent::Opened).await;
        tty.write_all(b"in\x03\r\n").unwrap();
        assert_eq!(front.read(5, 5).await, b"in\x03\r\n", "round {round}: raw");
        front.write(b"out\n").await;
        let mut bytes = [0; 4];
        tty.read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes, b"out\n");
        drop(tty);
        front.event(CharEvent::Closed).await;
    }
}

#[actix::test]
async fn files_pipes_rings_and_logs() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    std::fs::write(at("out"), "old ").unwrap();
    std::fs::write(at("in"), "typed").unwrap();
    std::fs::write(at("log"), "old ").unwrap();
    for (append, expect) in [(true, "old new"), (false, "new")] {
        let kind = ChardevKind::File { out: at("out"), append, input: Some(at("in")) };
        let log = Some(LogSpec { path: at("log"), append });
        let chardev = open(&ChardevSpec { log, ..spec(kind) }).await.unwrap();
        let mut front = Front::on(&chardev);
        front.event(CharEvent::Opened).await;
        assert_eq!(front.read(5, 2).await, b"typed");
        front.event(CharEvent::Closed).await;
        front.write(b"new").await;
        assert_eq!(std::fs::read_to_string(at("out")).unwrap(), expect);
        assert_eq!(std::fs::read_to_string(at("log")).unwrap(), expect);
    }

    for name in ["p.in", "p.out"] {
        let made = rustix::fs::mknodat(
            rustix::fs::CWD,
            at(name),
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::from_raw_mode(0o600),
            0,
        );
        made.unwrap();
    }
    let chardev = opened(ChardevKind::Pipe { path: at("p") }).await;
    let mut front = Front::on(&chardev);
    front.event(CharEvent::Opened).await;
    for _ in 0..2 {
        let mut input = std::fs::OpenOptions::new().write(true).open(at("p.in")).unwrap();
        input.write_all(b"abc").unwrap();
        drop(input);
        assert_eq!(front.read(3, 9).await, b"abc", "a writer that leaves is not the end");
    }
    front.write(b"xyz").await;
    let mut bytes = [0; 3];
    std::fs::File::open(at("p.out")).unwrap().read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"xyz");

    let chardev = opened(ChardevKind::Ringbuf { size: 8 }).await;
    let mut front = Front::on(&chardev);
    front.event(CharEvent::Opened).await;
    front.write(b"0123456789").await;
    let ring = chardev.ring().unwrap();
    assert_eq!(ring.read(3), b"234");
    ring.write(b"abcd");
    assert_eq!(ring.read(100), b"6789abcd");
}

/// A multiplexer on a socket with two front ends, of which the second has the focus.
struct MuxBench {
    client: UnixStream,
    monitor: Front,
    console: Front,
    down: UnboundedReceiver<RequestShutdown>,
    _dir: tempfile::TempDir,
}

impl MuxBench {
    /// The console has room for so much.
    async fn new(room: usize) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let (sender, down) = unbounded_channel();
        let shutdown = Outlet::fold(move |request| {
            let _ = sender.send(request);
        });
        let all = Chardevs::new(OpenContext { shutdown, ..OpenContext::default() });
        let spec = ChardevSpec { mux: true, ..spec(ChardevKind::Socket(unix(&path, true))) };
        all.open(&spec, 2).await.unwrap();
        let chardev = all.get("c").unwrap();
        let client = UnixStream::connect(&path).unwrap();
        let mut monitor = Front::on(&chardev);
        monitor.event(CharEvent::MuxIn).await;
        monitor.quiet().await;
        let mut console = Front::on(&chardev);
        monitor.event(CharEvent::MuxOut).await;
        console.event(CharEvent::MuxIn).await;
        monitor.event(CharEvent::Opened).await;
        console.event(CharEvent::Opened).await;
        monitor.credit(1 << 20);
        console.credit(room);
        Self { client, monitor, console, down, _dir: dir }
    }

    fn keys(&mut self, bytes: &[u8]) {
        self.client.write_all(bytes).unwrap();
    }

    /// The next bytes at the client.
    async fn screen(&self, count: usize) -> String {
        let mut client = self.client.try_clone().unwrap();
        let bytes = tokio::task::spawn_blocking(move || {
            client.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
            let mut bytes = vec![0; count];
            client.read_exact(&mut bytes).unwrap();
            bytes
        });
        String::from_utf8(bytes.await.unwrap()).unwrap()
    }
}

#[actix::test]
async fn mux_keys() {
    let mut bench = MuxBench::new(1 << 20).await;
    bench.keys(b"a\x01\x01b");
    assert_eq!(bench.console.next().await, Heard::Input(b"a\x01b".to_vec()));

    bench.keys(b"\x01c");
    bench.console.event(CharEvent::MuxOut).await;
    bench.monitor.event(CharEvent::MuxIn).await;
    bench.keys(b"info\r\x01cX\x01bY\x01zZ");
    assert_eq!(bench.monitor.next().await, Heard::Input(b"info\r".to_vec()));
    bench.monitor.event(CharEvent::MuxOut).await;
    bench.console.event(CharEvent::MuxIn).await;
    assert_eq!(bench.console.next().await, Heard::Input(b"X".to_vec()));
    bench.console.event(CharEvent::Break).await;
    assert_eq!(bench.console.next().await, Heard::Input(b"YZ".to_vec()));

    // The escape may be split over two reads.
    bench.keys(b"\x01");
    bench.console.quiet().await;
    bench.keys(b"h");
    let help = "\n\rC-a h    print this help\n\rC-a x    exit emulator\n\r\
        C-a s    save disk data back to file (if -snapshot)\n\r\
        C-a t    toggle console timestamps\n\rC-a b    send break (magic sysrq)\n\r\
        C-a c    switch between console and monitor\n\rC-a C-a  sends C-a\n\r";
    assert_eq!(bench.screen(help.len()).await, help);

    // Whoever writes is seen, focus or not; each batch is acknowledged to its writer.
    bench.monitor.write(b"one").await;
    bench.console.write(b"two").await;
    assert_eq!(bench.screen(6).await, "onetwo");

    bench.keys(b"\x01t");
    bench.console.quiet().await;
    bench.console.write(b"a\nb").await;
    assert_eq!(bench.screen(18).await, "a\n[00:00:00.000] b");
}

#[actix::test]
async fn mux_exit_says_so_first() {
    let mut bench = MuxBench::new(1 << 20).await;
    bench.keys(b"\x01x");
    assert_eq!(bench.screen(18).await, "QEMU: Terminated\n\r");
    let request = tokio::time::timeout(Duration::from_secs(10), bench.down.recv()).await;
    let request = request.unwrap().unwrap();
    assert_eq!(
        (request.cause, request.exit_code),
        (crate::machine::message::ShutdownCause::HostQmpQuit, 0)
    );
}

#[actix::test]
async fn mux_keys_work_while_the_guest_does_not_read() {
    let mut bench = MuxBench::new(0).await;
    let data: Vec<u8> = pattern(2000).into_iter().filter(|byte| *byte != 1).collect();
    bench.keys(&data);
    bench.console.quiet().await;
    bench.keys(b"\x01cm");
    bench.console.event(CharEvent::MuxOut).await;
    bench.monitor.event(CharEvent::MuxIn).await;
    assert_eq!(bench.monitor.next().await, Heard::Input(b"m".to_vec()));
    assert_eq!(bench.console.read(data.len(), 100).await, data);
}

fn localhost(port: u16) -> Host {
    Host {
        host: "127.0.0.1".into(),
        port: port.to_string(),
        ipv4: None,
        ipv6: None,
        numeric: false,
    }
}

#[actix::test]
async fn datagrams() {
    let peer = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let remote = localhost(peer.local_addr().unwrap().port());
    let udp = UdpSpec { remote, local: Some(localhost(0)) };
    let mut front = Front::on(&opened(ChardevKind::Udp(udp)).await);
    front.event(CharEvent::Opened).await;
    let mut bytes = [0; 16];
    let mut from = None;
    for text in [b"one".as_slice(), b"another"] {
        front.write(text).await;
        let (length, address) = peer.recv_from(&mut bytes).unwrap();
        assert_eq!(&bytes[..length], text, "one write, one datagram");
        from = Some(address);
    }
    // An empty one is not the end.
    for datagram in [b"".as_slice(), b"back ", b"again"] {
        peer.send_to(datagram, from.unwrap()).unwrap();
    }
    assert_eq!(front.read(10, 3).await, b"back again");
}

#[actix::test]
async fn telnet() {
    let address = SocketAddress::Inet { at: localhost(0), to: None };
    let socket = SocketSpec { address, telnet: true, ..unix(Path::new(""), true) };
    let chardev = opened(ChardevKind::Socket(socket)).await;
    let name = chardev.filename.lock().clone();
    let port = name.strip_prefix("disconnected:telnet:127.0.0.1:").expect(&name);
    let port: u16 = port.strip_suffix(",server=on").expect(&name).parse().unwrap();
    let mut front = Front::on(&chardev);
    let mut client = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
    front.event(CharEvent::Opened).await;
    let mut offer = [0; 12];
    client.read_exact(&mut offer).unwrap();
    assert_eq!(offer, telnet::Telnet::new(false).offer());
    client.write_all(b"a\xff\xfd\x01b\xff\xf3").unwrap();
    front.event(CharEvent::Break).await;
    assert_eq!(front.read(2, 2).await, b"ab");
}

#[actix::test]
async fn devices_are_changed_and_removed() {
    let all = Chardevs::default();
    for id in ["fixed", "free", "port"] {
        all.open(&ChardevSpec { id: id.into(), ..spec(ChardevKind::Null) }, 1).await.unwrap();
    }
    let get = |id: &str| all.get(id).unwrap();
    let _fixed = Front::on(&get("fixed"));
    let port = get("port");
    let (sender, heard) = unbounded_channel();
    let probe = Probe(sender).start();
    let backend = port.front_end_of_any();
    backend.attach.do_send(Attach {
        input: probe.clone().recipient(),
        written: probe.clone().recipient(),
        event: probe.clone().recipient(),
        descriptor: None,
    });
    let mut front = Front { backend, heard, _probe: probe };
    front.event(CharEvent::Opened).await;

    let ring =
        |id: &str| Ok(ChardevSpec { id: id.to_owned(), ..spec(ChardevKind::Ringbuf { size: 8 }) });
    let refused = |result: Result<Option<Chardev>, ChardevError>| result.unwrap_err().to_string();
    let missing = refused(all.change("nobody", || ring("nobody")).await);
    assert_eq!(missing, "Chardev 'nobody' does not exist");
    let fixed = refused(all.change("fixed", || ring("fixed")).await);
    assert_eq!(fixed, "Chardev user does not support chardev hotswap");
    // The new one is open as the old one was: nothing to tell of.
    assert!(all.change("port", || ring("port")).await.unwrap().is_some());
    front.write(b"kept").await;
    assert_eq!(port.ring().unwrap().read(9), b"kept");
    assert!(all.change("free", || ring("free")).await.unwrap().is_none(), "it is to be added");

    assert_eq!(all.remove("free").unwrap_err().to_string(), "Chardev 'free' not found");
    assert_eq!(all.remove("port").unwrap_err().to_string(), "Chardev 'port' is busy");
    let mux = |id: &str| ChardevSpec {
        id: id.to_owned(),
        ..spec(ChardevKind::Mux { chardev: "base".into() })
    };
    all.add(&ChardevSpec { id: "base".into(), ..spec(ChardevKind::Null) }).await.unwrap();
    all.add(&mux("mux")).await.unwrap();
    let twice = all.add(&mux("other")).await.unwrap_err().to_string();
    assert_eq!(twice, "chardev 'base' is already in use");
    assert_eq!(all.remove("base").unwrap_err().to_string(), "Chardev 'base' is busy");
    all.remove("mux").unwrap();
    all.remove("base").unwrap();
    assert_eq!(all.list().len(), 2);
}
