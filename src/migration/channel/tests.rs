//! Channels of every kind, end to end.

use std::io::Write as _;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt as _;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;
use crate::net::descriptors::Names;

async fn open(uri: &str) -> Result<Channel, ChannelError> {
    connect(&Address::parse(uri).unwrap(), &ChannelContext::default()).await
}

async fn serve(uri: &str) -> Result<Listener, ChannelError> {
    listen(&Address::parse(uri).unwrap(), &ChannelContext::default()).await
}

async fn refusal(uri: &str) -> String {
    match open(uri).await {
        Ok(channel) => format!("{channel:?}"),
        Err(error) => error.to_string(),
    }
}

/// A port that nobody listens at.
fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn port(listener: &Listener) -> String {
    listener.addresses()[0]["port"].as_str().unwrap().to_owned()
}

/// Bytes go both ways, are counted, and the end is seen.
async fn exchange(mut a: Channel, mut b: Channel) {
    let (to, back) = (vec![7; 300_000], b"back");
    let control = a.control();
    let sending = async {
        a.write_all(&to).await.unwrap();
        let mut answer = [0; 4];
        a.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, back);
        a.shutdown().await.unwrap();
        a
    };
    let receiving = async {
        let mut received = vec![0; to.len()];
        b.read_exact(&mut received).await.unwrap();
        assert_eq!(received, to);
        b.write_all(back).await.unwrap();
        assert_eq!(b.read(&mut [0]).await.unwrap(), 0);
        b.control()
    };
    let (_a, theirs) = tokio::join!(sending, receiving);
    assert_eq!((control.bytes_written(), control.bytes_read()), (300_000, 4));
    assert_eq!((theirs.bytes_written(), theirs.bytes_read()), (4, 300_000));
    assert!(control.idle() < Duration::from_secs(60));
}

#[tokio::test]
async fn sockets_carry_bytes_and_say_where_they_listen() {
    let mut listener = serve("tcp:127.0.0.1:0").await.unwrap();
    let shown = serde_json::to_string(listener.addresses()).unwrap();
    let port = port(&listener);
    let expected = format!(r#"[{{"host":"127.0.0.1","port":"{port}","ipv4":true,"type":"inet"}}]"#);
    assert_eq!(shown, expected);
    let uri = format!("tcp:localhost:{port}");
    let (client, server) = tokio::join!(open(&uri), listener.accept());
    exchange(client.unwrap(), server.unwrap()).await;

    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let uri = format!("unix:{}", path.display());
    // A socket that an earlier process left behind is replaced.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert_eq!(refusal(&uri).await, "Error connecting to socket: Connection refused");
    let mut listener = serve(&uri).await.unwrap();
    assert_eq!(listener.addresses()[0]["path"], path.to_str().unwrap());
    let (client, server) = tokio::join!(open(&uri), listener.accept());
    exchange(client.unwrap(), server.unwrap()).await;
    drop(listener);
    assert!(!path.exists());

    let name = format!("understudy-test-{}", std::process::id());
    let address = Address::Unix(UnixAddress {
        path: name.into(),
        is_abstract: Some(true),
        tight: Some(false),
    });
    let context = ChannelContext::default();
    let mut listener = listen(&address, &context).await.unwrap();
    let (client, server) = tokio::join!(connect(&address, &context), listener.accept());
    exchange(client.unwrap(), server.unwrap()).await;
}

#[tokio::test]
async fn refusals_are_told_in_full() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).display().to_string();
    std::fs::write(at("regular"), "x").unwrap();
    let port = free_port();
    let long = "a".repeat(108);
    for (uri, expected) in [
        (format!("tcp:127.0.0.1:{port}"), "Error connecting to socket: Connection refused".into()),
        (format!("tcp:localhost:{port}"), "Error connecting to socket: Connection refused".into()),
        (format!("tcp:[::1]:{port}"), "Error connecting to socket: Connection refused".into()),
        (
            "tcp:127.0.0.1:1,ipv4=off,ipv6=off".into(),
            "Cannot disable IPv4 and IPv6 at same time".into(),
        ),
        ("tcp::1".into(), "address resolution failed for :1: Name or service not known".into()),
        (
            "tcp:127.0.0.1:abc!".into(),
            "address resolution failed for 127.0.0.1:abc!: Servname not supported for ai_socktype"
                .into(),
        ),
        (
            format!("unix:{}", at("none")),
            "Error connecting to socket: No such file or directory".into(),
        ),
        (
            format!("unix:{}", at("regular")),
            "Error connecting to socket: Connection refused".into(),
        ),
        (
            format!("unix:{long}"),
            format!("UNIX socket path '{long}' is too long: at most 108 bytes fit"),
        ),
        ("vsock:x:1".into(), "Failed to parse cid 'x'".into()),
        ("vsock:1:2:3".into(), "Failed to parse port '2:3'".into()),
        ("fd:nosuch".into(), "File descriptor named 'nosuch' has not been found".into()),
        ("fd:99".into(), "File descriptor named '99' has not been found".into()),
        (
            "file:/no/such/dir/file".into(),
            "Could not create '/no/such/dir/file': No such file or directory".into(),
        ),
        ("file:".into(), "Could not create '': No such file or directory".into()),
        (
            "file:/dev/full".into(),
            "failed to truncate migration file to offset 0: Invalid argument".into(),
        ),
    ] {
        assert_eq!(refusal(&uri).await, expected, "{uri}");
    }
    let spawn = Address::Exec(vec!["/no/such/cmd".into()]);
    let error = connect(&spawn, &ChannelContext::default()).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "Failed to execute child process “/no/such/cmd” (No such file or directory)"
    );
}

/// Management programs listen at `[::]` and connect by IPv4.
#[tokio::test]
async fn any_ipv6_address_is_any_address_unless_told_otherwise() {
    // A host without IPv6 has nothing to test.
    let Ok(mut listener) = serve("tcp:[::]:0").await else { return };
    let uri = format!("tcp:127.0.0.1:{}", port(&listener));
    let (client, server) = tokio::join!(open(&uri), listener.accept());
    exchange(client.unwrap(), server.unwrap()).await;

    let only = serve("tcp:[::]:0,ipv6=on").await.unwrap();
    let refused = refusal(&format!("tcp:127.0.0.1:{}", port(&only))).await;
    assert_eq!(refused, "Error connecting to socket: Connection refused");

    // Where somebody has the port for IPv4, IPv6 is left.
    let taken = std::net::TcpListener::bind("0.0.0.0:0").unwrap();
    serve(&format!("tcp:[::]:{}", taken.local_addr().unwrap().port())).await.unwrap();
}

#[tokio::test]
async fn listeners_say_why_not() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    for (uri, expected) in [
        (
            format!("tcp:127.0.0.1:{port}"),
            "Failed to find an available port: Address already in use".to_owned(),
        ),
        (
            "unix:/no/such/dir/s".into(),
            "Failed to bind socket to /no/such/dir/s: No such file or directory".into(),
        ),
        ("fd:nope".into(), "Invalid file descriptor number 'nope'".into()),
        ("fd:9999".into(), "File descriptor '9999': Bad file descriptor".into()),
        (
            "file:/no/such/file".into(),
            "Could not open '/no/such/file': No such file or directory".into(),
        ),
        ("file:/".into(), "Could not open '/': Is a directory".into()),
    ] {
        let error = serve(&uri).await.map(drop).unwrap_err();
        assert_eq!(error.to_string(), expected, "{uri}");
    }
    // The range of `to` is gone through.
    let listener = serve(&format!("tcp:127.0.0.1:{port},to=65535")).await.unwrap();
    assert_ne!(listener.addresses()[0]["port"], port.to_string());
}

/// The error that writing into a command and closing it ends with.
async fn fate(command: &str) -> String {
    let mut channel = open(&format!("exec:{command}")).await.unwrap();
    let chunk = vec![0; 64 << 10];
    for _ in 0..64 {
        if let Err(error) = channel.write_all(&chunk).await {
            return error.to_string();
        }
    }
    match channel.shutdown().await {
        Ok(()) => "ok".into(),
        Err(error) => error.to_string(),
    }
}

#[tokio::test]
async fn commands_take_and_give_streams_and_say_how_they_ended() {
    for (command, expected) in [
        ("cat >/dev/null", "ok"),
        ("exit 3", "exec: command exited with status 3"),
        (
            "echo first >&2; echo 'no space' >&2; exit 3",
            "exec: command exited with status 3: no space",
        ),
        ("true", "exec: command exited before it had read the whole stream"),
        ("kill -9 $$", "exec: command was killed by signal 9"),
        ("head -c 1000 >/dev/null", "exec: command exited before it had read the whole stream"),
        // Only the end shows that not everything was kept.
        (
            "cat >/dev/null; echo too late >&2; exit 1",
            "exec: command exited with status 1: too late",
        ),
    ] {
        assert_eq!(fate(command).await, expected, "{command}");
    }
    for (command, expected) in [
        ("printf hello", Ok("hello")),
        ("printf hello; exit 4", Err("exec: command exited with status 4")),
        ("echo gone >&2; false", Err("exec: command exited with status 1: gone")),
    ] {
        let mut listener = serve(&format!("exec:{command}")).await.unwrap();
        let mut channel = listener.accept().await.unwrap();
        let mut text = String::new();
        let result = channel.read_to_string(&mut text).await.map_err(|error| error.to_string());
        match expected {
            Ok(expected) => assert_eq!(text, expected),
            Err(expected) => assert_eq!(result.unwrap_err(), expected),
        }
        let error = listener.accept().await.unwrap_err();
        assert_eq!(error.to_string(), "multiple channels are not available over a command");
    }
}

#[tokio::test]
async fn files_are_written_from_an_offset_and_read_back_anywhere() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("f");
    std::fs::write(&path, "kept, and cut off").unwrap();
    let uri = format!("file:{},offset=4", path.display());
    let mut channel = open(&uri).await.unwrap();
    let file = channel.file().unwrap().clone();
    channel.write_all(b"stream").await.unwrap();
    channel.flush().await.unwrap();
    assert_eq!(file.position(), 10);
    file.write_all_at(b"page", 20).unwrap();
    file.set_position(24);
    channel.write_all(b"end").await.unwrap();
    channel.shutdown().await.unwrap();
    let bytes = std::fs::read(&path).unwrap();
    assert_eq!(bytes, b"keptstream\0\0\0\0\0\0\0\0\0\0pageend");

    let mut listener = serve(&uri).await.unwrap();
    let mut first = listener.accept().await.unwrap();
    let mut start = [0; 3];
    first.read_exact(&mut start).await.unwrap();
    assert_eq!((&start, first.file().unwrap().position()), (b"str", 7));
    // Another channel over the same file starts anew.
    let mut second = listener.accept().await.unwrap();
    let mut rest = Vec::new();
    second.read_to_end(&mut rest).await.unwrap();
    assert_eq!(rest, bytes[4..]);
    let mut page = [0; 4];
    second.file().unwrap().read_exact_at(&mut page, 20).unwrap();
    assert_eq!(&page, b"page");
    let error = second.file().unwrap().read_exact_at(&mut page, 26).unwrap_err();
    assert_eq!(error.to_string(), "Unable to read from file: it ends too early");
}

#[tokio::test]
async fn descriptors_may_be_pipes_sockets_and_files() {
    let named_by_client = |uri: &str| ["fd:pipe", "fd:socket", "fd:file"].contains(&uri);
    let (mut read, write) = std::io::pipe().unwrap();
    let (ours, mut theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    let file = tempfile::tempfile().unwrap();
    let again = file.try_clone().unwrap();
    let inherited = tempfile::tempfile().unwrap();
    let number = std::os::fd::AsRawFd::as_raw_fd(&inherited);
    let context = ChannelContext::default();
    let named = [("pipe", write.into()), ("socket", ours.into()), ("file", OwnedFd::from(file))];
    let names = Names::default();
    for (name, fd) in named {
        names.name(name, fd).unwrap();
    }
    let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&again));
    let writer = std::fs::OpenOptions::new().write(true).open(path).unwrap();
    context.descriptors.add(Some(7), writer.into(), None).unwrap();
    for (uri, kind) in [
        ("fd:pipe".to_owned(), ChannelKind::Pipe),
        ("fd:socket".into(), ChannelKind::Unix),
        ("fd:file".into(), ChannelKind::File),
        ("file:/dev/fdset/7,offset=5".into(), ChannelKind::File),
        (format!("fd:{number}"), ChannelKind::File),
    ] {
        let address = Address::parse(&uri).unwrap().named_by(&names);
        let mut channel = connect(&address, &context).await.unwrap();
        assert_eq!(channel.kind(), kind, "{uri}");
        channel.write_all(b"hello").await.unwrap();
        channel.shutdown().await.unwrap();
        drop(channel);
        // A name is good for one use. A set is not used up, but what was written would be cut off.
        if kind != ChannelKind::File || uri.starts_with("fd:") {
            assert_eq!(connect(&address, &context).await.is_err(), named_by_client(&uri), "{uri}");
        }
    }
    for reader in [&mut read as &mut dyn std::io::Read, &mut theirs] {
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "hello");
    }
    let mut text = [0; 10];
    again.read_exact_at(&mut text, 0).unwrap();
    assert_eq!(&text, b"hellohello");
}

#[tokio::test]
async fn a_shutdown_ends_whatever_waits() {
    let mut listener = serve("tcp:127.0.0.1:0").await.unwrap();
    let uri = format!("tcp:127.0.0.1:{}", port(&listener));
    let silent = "exec:sleep 1000".to_owned();
    for uri in [uri, silent] {
        let channel = open(&uri).await.unwrap();
        let control = channel.control();
        let (mut reader, mut writer) = channel.split();
        let reading = tokio::spawn(async move { reader.read(&mut [0]).await });
        let writing = tokio::spawn(async move {
            let chunk = vec![0; 1 << 20];
            loop {
                writer.write_all(&chunk).await?;
            }
            #[expect(unreachable_code, reason = "the type of the block")]
            std::io::Result::Ok(())
        });
        // Until the peer's buffers are full.
        let mut before = 0;
        while control.bytes_written() == 0 || control.bytes_written() != before {
            before = control.bytes_written();
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        control.shutdown();
        assert_eq!(reading.await.unwrap().unwrap_err().to_string(), "Channel was shut down");
        assert_eq!(writing.await.unwrap().unwrap_err().to_string(), "Channel was shut down");
    }
    // The peer sees the end, and what had been written before.
    let mut peer = listener.accept().await.unwrap();
    let mut received = Vec::new();
    let _ = peer.read_to_end(&mut received).await;
    assert!(!received.is_empty());
}

#[tokio::test]
async fn a_dropped_channel_is_closed_even_if_its_control_is_held() {
    let mut listener = serve("tcp:127.0.0.1:0").await.unwrap();
    let channel = open(&format!("tcp:127.0.0.1:{}", port(&listener))).await.unwrap();
    let control = channel.control();
    let mut peer = listener.accept().await.unwrap();
    drop(channel);
    assert_eq!(peer.read(&mut [0]).await.unwrap(), 0);
    control.shutdown();
}

#[tokio::test]
async fn errors_of_the_host_are_sentences() {
    let mut listener = serve("tcp:127.0.0.1:0").await.unwrap();
    let address = format!("127.0.0.1:{}", port(&listener));
    let mut raw = std::net::TcpStream::connect(address).unwrap();
    let mut channel = listener.accept().await.unwrap();
    channel.write_all(b"x").await.unwrap();
    raw.write_all(b"y").unwrap();
    // Unread bytes make its end a reset.
    raw.set_nonblocking(false).unwrap();
    std::thread::sleep(Duration::from_millis(20));
    drop(raw);
    let mut error = String::new();
    for _ in 0..1000 {
        match channel.write_all(&[0; 1 << 16]).await {
            Ok(()) => tokio::time::sleep(Duration::from_millis(1)).await,
            Err(refused) => {
                error = refused.to_string();
                break;
            }
        }
    }
    assert!(
        [
            "Unable to write to socket: Connection reset by peer",
            "Unable to write to socket: Broken pipe"
        ]
        .contains(&error.as_str()),
        "{error}"
    );
}
