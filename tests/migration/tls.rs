//! TLS between processes: each bad certificate is named at both ends, and peers that are silent or
//! speak something else hold nothing up.

use std::io::Write;
use std::net::{TcpListener, TcpStream};

use serde_json::json;
use tempfile::TempDir;

use crate::certificates::{Issuer, authority, credentials, expose, secure};
use crate::harness::poll;
use crate::live_settings::waiting;
use crate::side::Side;

#[test]
fn certificates() {
    let root: TempDir = tempfile::tempdir().expect("a directory");
    let (ours, other) = (authority("our CA"), authority("other CA"));
    let make = |name: &str, end: &str, host: &str, last_year: i32, by: &Issuer| {
        credentials(&root.path().join(name), end, host, last_year, by, &ours);
    };
    make("server", "server", "127.0.0.1", 2120, &ours);
    make("elsewhere", "server", "other.example", 2120, &ours);
    make("expired", "server", "127.0.0.1", 2021, &ours);
    make("foreign", "server", "127.0.0.1", 2120, &other);
    make("client", "client", "client", 2120, &ours);
    make("expired-client", "client", "client", 2021, &ours);
    make("foreign-client", "client", "client", 2120, &other);
    make("bare", "client", "client", 2120, &ours);
    for file in ["client-cert.pem", "client-key.pem"] {
        std::fs::remove_file(root.path().join("bare").join(file)).expect("a file");
    }

    let mut source = Side::source("");
    for (client, server, says, peer_says) in [
        (
            "client",
            "foreign",
            "The certificate hasn't got a known issuer: server certificate \"CN=server\" was issued \
             by \"CN=other CA\", which is not among the authorities in ",
            "unknown CA: the peer does not know the issuer \"CN=other CA\" of our certificate",
        ),
        (
            "client",
            "expired",
            "The certificate is not trusted: server certificate \"CN=server\" expired on 2021-02-03",
            "certificate expired: the peer refuses our certificate \"CN=server\"",
        ),
        (
            "client",
            "elsewhere",
            "Certificate does not match the hostname 127.0.0.1: server certificate \"CN=server\" \
             is for other.example",
            "bad certificate: the peer refuses our certificate \"CN=server\"",
        ),
        (
            "bare",
            "server",
            "certificate required: the peer wants a certificate and we have none: there is no ",
            "Verify failed: No certificate was found: the client sent none, and verify-peer is on",
        ),
        (
            "expired-client",
            "server",
            "certificate expired: the peer refuses our certificate \"CN=client\"",
            "The certificate is not trusted: client certificate \"CN=client\" expired on 2021-02-03",
        ),
        (
            "foreign-client",
            "server",
            "unknown CA: the peer does not know the issuer \"CN=other CA\" of our certificate",
            "The certificate hasn't got a known issuer: client certificate \"CN=client\" was issued \
             by \"CN=other CA\"",
        ),
    ] {
        secure(&mut source, &root.path().join(client), "client");
        let mut destination = Side::destination("");
        secure(&mut destination, &root.path().join(server), "server");
        let uri = destination.listen_tcp();
        source.migrate(&uri);
        let said = source.fails();
        assert!(said.contains(says), "{client} with {server}: {said}");
        let heard = poll("what the destination says", || {
            Some(destination.machine.errors()).filter(|errors| errors.ends_with('\n'))
        });
        assert!(heard.contains(peer_says), "{client} with {server}: {heard}");
        expose(&mut source);
        source.lives();

        // One that is not allowed in leaves the listener to those who are.
        assert_eq!(destination.query()["status"], "setup");
    }

    // Unless it is to end with what it waits for: a source that does not like its certificate would
    // not like it again. QEMU's ends too.
    secure(&mut source, &root.path().join("client"), "client");
    let (mut waiting, uri) = waiting();
    secure(&mut waiting, &root.path().join("elsewhere"), "server");
    source.migrate(&uri);
    source.fails();
    assert_eq!(waiting.machine.exit_code(), 1);
    let errors = waiting.machine.errors();
    assert!(errors.contains("the peer refuses our certificate \"CN=server\""), "{errors}");

    // Not on the list.
    let mut strict = Side::destination("-object authz-simple,id=only,identity=CN=somebody");
    secure(&mut strict, &root.path().join("server"), "server");
    strict.set(json!({"tls-authz": "only"}));
    let uri = strict.listen_tcp();
    source.migrate(&uri);
    let said = source.fails();
    assert!(said.contains("access denied: the peer refuses authorization"), "{said}");
    let denied = "TLS x509 authz check for CN=client is denied: authorization refused for DN \
                  \"CN=client\" by 'only'";
    poll("the refusal", || strict.machine.errors().contains(denied).then_some(()));

    // Speaks something else.
    let web = TcpListener::bind("127.0.0.1:0").expect("a port");
    let uri = format!("tcp:{}", web.local_addr().expect("its address"));
    source.migrate(&uri);
    let (mut connection, _) = web.accept().expect("a connection");
    connection.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").expect("it is sent");
    let said = source.fails();
    assert!(said.contains("the peer is not speaking TLS: it has sent \"HTTP/1.1 400"), "{said}");

    // Says nothing: monitors answer meanwhile, and a cancel ends it.
    source.migrate(&uri);
    let (_silent, _) = web.accept().expect("a connection");
    assert_eq!(source.query()["status"], "setup");
    source.lives();
    source.qmp.execute("migrate_cancel");
    assert_eq!(source.reaches("cancelled"), json!({"status": "cancelled"}));
    source.lives();

    // Expects no TLS: what comes is no stream.
    let mut plain = Side::destination("");
    let uri = plain.listen_tcp();
    source.migrate(&uri);
    let said = source.fails();
    assert!(said.contains("TLS"), "{said}");
    let heard = plain.fails();
    assert!(heard.contains("Not a migration stream"), "{heard}");
    source.lives();

    // And a good one, which others have come to before: one that says nothing, and a plain source.
    let mut destination = Side::destination("");
    // It may have listened before it was told of them.
    let uri = destination.listen_tcp();
    secure(&mut destination, &root.path().join("server"), "server");
    let address = uri.strip_prefix("tcp:").expect("an address").to_owned();
    let _silent = TcpStream::connect(&address).expect("it listens");
    let mut open = Side::source("");
    // There is something left to send when it is refused.
    open.set(json!({"max-bandwidth": 50_000}));
    open.migrate(&uri);
    let heard = "TLS handshake failed: An unexpected TLS packet was received: the peer is not \
                 speaking TLS: it has sent a migration stream";
    poll("what the destination says", || {
        destination.machine.errors().contains(heard).then_some(())
    });
    let said = open.fails();
    assert!(said.starts_with("Unable to write to socket: "), "{said}");
    open.lives();
    for side in [&mut source, &mut destination] {
        side.switch("return-path", true);
    }
    source.migrate(&uri);
    source.reaches("completed");
    destination.reaches("completed");
    destination.lives();
}
