//! Sockets over TLS: who is let in, who is not, and that a server outlives those.

use std::net::TcpStream;

use super::*;
use crate::objects::options::ObjectOptions;
use crate::tls::tests::{CLIENT, Pki};

async fn with_objects(options: &[String]) -> Chardevs {
    let objects = Objects::default();
    for options in options {
        let spec = ObjectOptions::parse(options).unwrap().into_spec().unwrap();
        objects.add(spec).await.unwrap();
    }
    Chardevs::new(OpenContext { objects, ..OpenContext::default() })
}

/// A socket on this port of the local host, with the credentials of that name.
fn secured(id: &str, port: u16, server: bool, credentials: &str, by: Option<&str>) -> ChardevSpec {
    let tls = TlsSpec { credentials: credentials.into(), authorization: by.map(str::to_owned) };
    let address = SocketAddress::Inet { at: localhost(port), to: None };
    let socket = SocketSpec { address, tls: Some(tls), ..unix(Path::new(""), server) };
    ChardevSpec { id: id.into(), ..spec(ChardevKind::Socket(socket)) }
}

fn port_of(chardev: &Chardev) -> u16 {
    let name = chardev.filename.lock().clone();
    let port = name.strip_prefix("disconnected:tcp:127.0.0.1:").expect(&name);
    port.strip_suffix(",server=on").expect(&name).parse().unwrap()
}

#[actix::test]
async fn peers_are_let_in_by_their_certificates_and_names() {
    let pki = Pki::new();
    let object = |id: &str, end: &str, dir: &Path| {
        format!("tls-creds-x509,id={id},endpoint={end},sanity-check=off,dir={}", dir.display())
    };
    let (server, client) = (pki.server("server", |_| ()), pki.client("client", |_| ()));
    let stranger = pki.client("stranger", |params| {
        params.distinguished_name.push(rcgen::DnType::CommonName, "stranger");
    });
    let [foreign, impostor] = pki.foreign();
    let all = with_objects(&[
        object("server", "server", &server),
        object("impostor", "server", &impostor),
        object("client", "client", &client),
        object("stranger", "client", &stranger),
        object("foreign", "client", &foreign),
        format!("authz-simple,id=only,identity={}", CLIENT.replace(',', ",,")),
    ])
    .await;
    all.open(&secured("s", 0, true, "server", Some("only")), 1).await.unwrap();
    all.open(&secured("i", 0, true, "impostor", None), 1).await.unwrap();
    let (server, impostor) = (all.get("s").unwrap(), all.get("i").unwrap());
    let (port, false_port) = (port_of(&server), port_of(&impostor));
    let mut front = Front::on(&server);

    // Somebody who speaks something else is turned away, and holds up nobody.
    let mut odd = TcpStream::connect(("127.0.0.1", port)).unwrap();
    odd.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    for (credentials, port, why) in [
        ("foreign", port, "certificate"),
        ("stranger", port, "denied"),
        ("client", false_port, "The certificate hasn't got a known issuer"),
    ] {
        let refused = all.add(&secured("c", port, false, credentials, None)).await.unwrap_err();
        let sentence = refused.to_string();
        let prefix = format!("Failed to connect to '127.0.0.1:{port}': ");
        let reason = sentence.strip_prefix(&prefix).unwrap_or_else(|| panic!("{sentence}"));
        assert!(reason.contains(why), "{credentials}: {reason}");
    }
    front.quiet().await;

    let client = all.add(&secured("c", port, false, "client", None)).await.unwrap();
    let mut other = Front::on(&client);
    other.event(CharEvent::Opened).await;
    front.event(CharEvent::Opened).await;
    let data = pattern(200_000);
    other.send(&data);
    assert_eq!(front.read(data.len(), 70_000).await, data);
    front.write(b"and back").await;
    assert_eq!(other.next().await, Heard::Written(data.len()));
    assert_eq!(other.read(8, 8).await, b"and back");
    let (_, node) = server.node();
    assert_eq!(node.value("connected"), Some(true.into()));
    client.hang_up();
    front.event(CharEvent::Closed).await;

    let side = |credentials, server| secured("x", 0, server, credentials, None);
    let mismatch = all.open(&side("client", true), 1).await.unwrap_err().to_string();
    assert_eq!(mismatch, "Expected TLS credentials for a server endpoint");
    let missing = all.open(&side("none", true), 1).await.unwrap_err().to_string();
    assert_eq!(missing, "No TLS credentials with id 'none'");
}
