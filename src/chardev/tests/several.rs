//! Back ends with several front ends, a front end with several back ends, and what is spoken over
//! sockets beside bytes.

use std::io::ErrorKind;
use std::net::TcpStream;

use tokio_tungstenite::tungstenite::{self, Message, client};

use super::*;

async fn all_of(specs: &[(&str, ChardevKind)]) -> Chardevs {
    let all = Chardevs::default();
    for (id, kind) in specs {
        all.open(&ChardevSpec { id: (*id).into(), ..spec(kind.clone()) }, 0).await.unwrap();
    }
    all
}

#[actix::test]
async fn one_of_several_front_ends_leaves() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let base = ChardevKind::Socket(unix(&path, true));
    let mux = ChardevKind::Mux { chardev: "base".into() };
    let all = all_of(&[("base", base), ("mux", mux)]).await;
    let (base, mux) = (all.get("base").unwrap(), all.get("mux").unwrap());
    assert!(base.has_front_end() && !base.is_front_end_open());
    let mut client = UnixStream::connect(&path).unwrap();
    let mut first = Front::on(&mux);
    first.event(CharEvent::MuxIn).await;
    first.event(CharEvent::Opened).await;
    assert!(base.is_front_end_open() && mux.is_front_end_open());
    let mut second = Front::on(&mux);
    first.event(CharEvent::MuxOut).await;
    second.event(CharEvent::MuxIn).await;
    second.event(CharEvent::Opened).await;

    // As a port that the guest has not opened.
    second.backend.place.set_open(false);
    assert!(!mux.is_front_end_open());
    mux.release(&second.backend.place);
    assert!(mux.has_front_end() && !mux.is_front_end_open());
    assert!(all.remove("mux").is_err(), "the other is still there");

    // Nobody has the focus: input is for nobody, until the key gives it to the one that is left.
    client.write_all(b"lost\x01ckept").unwrap();
    first.event(CharEvent::MuxIn).await;
    assert_eq!(first.read(4, 4).await, b"kept");
    assert!(mux.is_front_end_open());
    for _ in 1..MAX_MUX {
        mux.room().unwrap();
        mux.front_end();
    }
    let full = mux.room().unwrap_err().to_string();
    assert_eq!(full, "too many uses of multiplexed chardev 'mux' (maximum is 4)");
}

#[actix::test]
async fn a_hub_speaks_to_all_that_listen_and_hears_all() {
    let dir = tempfile::tempdir().unwrap();
    let paths = ["a", "b"].map(|name| dir.path().join(name));
    let [a, b] = paths.clone().map(|path| ChardevKind::Socket(unix(&path, true)));
    let all = all_of(&[("a", a), ("b", b), ("free", ChardevKind::Null)]).await;
    let hub = |id: &str, bases: &[&str]| {
        let chardevs = bases.iter().map(|&base| base.to_owned()).collect();
        ChardevSpec { id: id.into(), ..spec(ChardevKind::Hub { chardevs }) }
    };
    all.open(&hub("hub", &["a", "b"]), 0).await.unwrap();
    for (bases, why) in [
        (&[] as &[&str], "hub: 'chardevs' list is not defined"),
        (&["none"], "hub: chardev can't be found by id 'none'"),
        (&["free", "a"], "chardev 'a' is already in use"),
        (
            &["hub"],
            "hub: multiplexers and hub devices can't be stacked, check chardev 'hub', chardev \
             should not be a hub device or have 'mux=on' enabled",
        ),
    ] {
        let refused = all.open(&hub("other", bases), 0).await.unwrap_err();
        assert_eq!(refused.to_string(), why);
    }
    assert!(!all.get("free").unwrap().has_front_end(), "given back");
    assert!(all.remove("a").is_err(), "in use");

    let mut front = Front::on(&all.get("hub").unwrap());
    front.write(b"for nobody").await;
    let mut first = UnixStream::connect(&paths[0]).unwrap();
    front.event(CharEvent::Opened).await;
    front.write(b"for one").await;
    let mut second = UnixStream::connect(&paths[1]).unwrap();
    second.write_all(b"from the other").unwrap();
    assert_eq!(front.read(14, 64).await, b"from the other");
    front.write(b", for both").await;
    let said = |client: &mut UnixStream, length| {
        let mut bytes = vec![0; length];
        client.read_exact(&mut bytes).unwrap();
        String::from_utf8(bytes).unwrap()
    };
    assert_eq!(said(&mut first, 17), "for one, for both");
    assert_eq!(said(&mut second, 10), ", for both");
    drop(first);
    second.write_all(b"still there").unwrap();
    assert_eq!(front.read(11, 64).await, b"still there");
    drop(second);
    front.event(CharEvent::Closed).await;
}

/// The first bytes that a server at `address` answers a request with, and what is left of it.
fn answer(address: (&str, u16), request: &str) -> (TcpStream, String) {
    let mut client = TcpStream::connect(address).unwrap();
    client.write_all(request.as_bytes()).unwrap();
    let mut status = [0; 12];
    client.read_exact(&mut status).unwrap();
    (client, String::from_utf8_lossy(&status).into_owned())
}

#[actix::test]
async fn websocket() {
    let address = SocketAddress::Inet { at: localhost(0), to: None };
    let socket = SocketSpec { address, websocket: true, ..unix(Path::new(""), true) };
    let chardev = opened(ChardevKind::Socket(socket)).await;
    let name = chardev.filename.lock().clone();
    let port = name.strip_prefix("disconnected:websocket:127.0.0.1:").expect(&name);
    let port: u16 = port.strip_suffix(",server=on").expect(&name).parse().unwrap();
    let mut front = Front::on(&chardev);
    let pattern = pattern(100_000);
    let theirs = pattern.clone();
    let client = tokio::task::spawn_blocking(move || {
        let address = ("127.0.0.1", port);
        let upgrade = "Host: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                       Sec-WebSocket-Version: 13\r\n\
                       Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
        let odd = format!("GET / HTTP/1.1\r\n{upgrade}Sec-WebSocket-Protocol: text\r\n\r\n");
        assert_eq!(answer(address, &odd).1, "HTTP/1.1 400");
        let lost = format!("GET /x HTTP/1.1\r\n{upgrade}\r\n");
        assert_eq!(answer(address, &lost).1, "HTTP/1.1 404");

        let stream = TcpStream::connect(address).unwrap();
        let (mut socket, response) = client("ws://localhost/", stream).unwrap();
        assert_eq!(response.status(), 101);
        socket.send(Message::Ping(b"?".to_vec().into())).unwrap();
        theirs.chunks(30_000).for_each(|part| {
            socket.send(Message::binary(part.to_vec())).unwrap();
        });
        let mut said = Vec::new();
        let mut pongs = 0;
        while said.len() < 6 {
            match socket.read().unwrap() {
                Message::Binary(bytes) => said.extend(&bytes[..]),
                Message::Pong(bytes) => pongs += usize::from(&bytes[..] == b"?"),
                other => panic!("{other:?}"),
            }
        }
        // Text is not what is spoken.
        socket.send(Message::text("text")).unwrap();
        let end = loop {
            match socket.read() {
                Ok(_) => {}
                Err(tungstenite::Error::Io(error)) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => break error,
            }
        };
        (said, pongs, end.to_string())
    });
    front.event(CharEvent::Opened).await;
    assert!(chardev.filename.lock().starts_with("websocket:127.0.0.1:"));
    assert_eq!(front.read(pattern.len(), 200_000).await, pattern);
    front.write(b"answer").await;
    let (said, pongs, _) = client.await.unwrap();
    assert_eq!((said.as_slice(), pongs), (b"answer".as_slice(), 1));
    front.event(CharEvent::Closed).await;
}
