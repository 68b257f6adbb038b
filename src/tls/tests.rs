//! Handshakes between good, bad and strange peers; each names the fault at both ends.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use pkcs8::der::pem::LineEnding;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyIdMethod, KeyPair, KeyUsagePurpose, RevocationReason,
    RevokedCertParams, SerialNumber, date_time_ymd,
};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;
use crate::migration::channel::{
    Address, Channel, ChannelContext, Listener, ServerTlsChoice, connect, listen,
};
use crate::objects::authz::{Authorization, Authz};

type Issuer = CertifiedIssuer<'static, KeyPair>;

const SERVER: &str = "O=oracle,CN=server";
pub(crate) const CLIENT: &str = "O=oracle,CN=client1";

fn authority(name: &str) -> Issuer {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// A certificate to be signed; good unless changed.
fn leaf(name: &str, hosts: &[&str]) -> CertificateParams {
    let hosts: Vec<String> = hosts.iter().map(|host| (*host).to_owned()).collect();
    let mut params = CertificateParams::new(hosts).unwrap();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "oracle");
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = date_time_ymd(2120, 1, 1);
    params.serial_number = Some(SerialNumber::from(7_u64));
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![match name {
        "server" => ExtendedKeyUsagePurpose::ServerAuth,
        _ => ExtendedKeyUsagePurpose::ClientAuth,
    }];
    params
}

/// Directories of credentials, and the two authorities that sign them.
pub(crate) struct Pki {
    root: TempDir,
    ours: Issuer,
    other: Issuer,
}

impl Pki {
    pub(crate) fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        Self { root, ours: authority("our CA"), other: authority("other CA") }
    }

    fn path(&self, name: &str) -> PathBuf {
        let path = self.root.path().join(name);
        std::fs::create_dir_all(&path).unwrap();
        path
    }

    /// A directory with our authority, and a certificate signed by `issuer`.
    fn dir(
        &self,
        name: &str,
        endpoint: Endpoint,
        params: &CertificateParams,
        issuer: &Issuer,
    ) -> PathBuf {
        let dir = self.path(name);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, issuer).unwrap();
        let end = endpoint.name();
        std::fs::write(dir.join("ca-cert.pem"), self.ours.pem()).unwrap();
        std::fs::write(dir.join(format!("{end}-cert.pem")), certificate.pem()).unwrap();
        std::fs::write(dir.join(format!("{end}-key.pem")), key.serialize_pem()).unwrap();
        dir
    }

    pub(crate) fn server(
        &self,
        name: &str,
        change: impl FnOnce(&mut CertificateParams),
    ) -> PathBuf {
        let mut params = leaf("server", &["127.0.0.1", "localhost"]);
        change(&mut params);
        self.dir(name, Endpoint::Server, &params, &self.ours)
    }

    pub(crate) fn client(
        &self,
        name: &str,
        change: impl FnOnce(&mut CertificateParams),
    ) -> PathBuf {
        let mut params = leaf("client1", &[]);
        change(&mut params);
        self.dir(name, Endpoint::Client, &params, &self.ours)
    }

    /// A client and a server that somebody else has signed.
    pub(crate) fn foreign(&self) -> [PathBuf; 2] {
        let (client, server) = (leaf("client1", &[]), leaf("server", &["127.0.0.1"]));
        [
            self.dir("foreign-client", Endpoint::Client, &client, &self.other),
            self.dir("foreign-server", Endpoint::Server, &server, &self.other),
        ]
    }
}

fn load(
    dir: &Path,
    endpoint: Endpoint,
    sanity_check: bool,
) -> Result<X509Credentials, CredentialsError> {
    X509Credentials::load(&X509Files {
        dir: dir.to_owned(),
        endpoint,
        verify_peer: true,
        sanity_check,
        password: None,
    })
}

/// What a peer brings, whatever is wrong with its own certificate.
fn client_tls(dir: &Path) -> ClientTls {
    ClientTls::new(Arc::new(load(dir, Endpoint::Client, false).unwrap()), None)
}

fn server_tls(dir: &Path) -> ServerTls {
    ServerTls::new(Arc::new(load(dir, Endpoint::Server, false).unwrap()), None)
}

async fn listener(tls: Option<ServerTls>) -> (Listener, Address) {
    let server_tls = tls.map(ServerTlsChoice::from).unwrap_or_default();
    let context = ChannelContext { server_tls, ..ChannelContext::default() };
    let listener = listen(&Address::parse("tcp:127.0.0.1:0").unwrap(), &context).await.unwrap();
    let port = listener.addresses()[0]["port"].as_str().unwrap();
    let address = Address::parse(&format!("tcp:127.0.0.1:{port}")).unwrap();
    (listener, address)
}

/// How a client that says hello and waits for the answer fares.
async fn greet(address: &Address, tls: ClientTls) -> String {
    let context = ChannelContext { client_tls: Some(tls), ..ChannelContext::default() };
    let talk = async {
        let mut channel = connect(address, &context).await.map_err(|error| error.to_string())?;
        let mut answer = [0; 2];
        let talk = async {
            channel.write_all(b"hello").await?;
            channel.read_exact(&mut answer).await.map(drop)
        };
        talk.await.map_err(|error: std::io::Error| error.to_string())?;
        Ok("ok".to_owned())
    };
    talk.await.unwrap_or_else(|error: String| error)
}

async fn answer(listener: &mut Listener) -> String {
    let talk = async {
        let mut channel = listener.accept().await.map_err(|error| error.to_string())?;
        let mut hello = [0; 5];
        channel.read_exact(&mut hello).await.map_err(|error| error.to_string())?;
        channel.write_all(b"ok").await.map_err(|error| error.to_string())?;
        channel.shutdown().await.map_err(|error| error.to_string())?;
        Ok(String::from_utf8_lossy(&hello).into_owned())
    };
    talk.await.unwrap_or_else(|error: String| error)
}

/// What the client and the server have to say of their meeting.
async fn meet(client: ClientTls, server: ServerTls) -> (String, String) {
    let (mut listener, address) = listener(Some(server)).await;
    tokio::join!(greet(&address, client), answer(&mut listener))
}

#[tokio::test]
async fn certificates_are_told_good_from_bad_at_both_ends() {
    let pki = Pki::new();
    let server = pki.server("server", |_| {});
    let client = pki.client("client", |_| {});
    let foreign_server =
        pki.dir("foreign-server", Endpoint::Server, &leaf("server", &["127.0.0.1"]), &pki.other);
    let foreign_client =
        pki.dir("foreign-client", Endpoint::Client, &leaf("client1", &[]), &pki.other);
    let old = |params: &mut CertificateParams| params.not_after = date_time_ymd(2021, 2, 3);
    let future = |params: &mut CertificateParams| params.not_before = date_time_ymd(2110, 2, 3);
    let old_server = pki.server("old-server", old);
    let old_client = pki.client("old-client", old);
    let future_server = pki.server("future-server", future);
    let elsewhere = pki.dir(
        "elsewhere",
        Endpoint::Server,
        &leaf("server", &["other.example", "192.0.2.1"]),
        &pki.ours,
    );
    let unable = pki.server("unable", |params| {
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    });
    let bare = pki.path("bare");
    std::fs::copy(client.join("ca-cert.pem"), bare.join("ca-cert.pem")).unwrap();
    let alert = "TLS handshake failed: A TLS fatal alert has been received: ";
    let authority = |dir: &Path| dir.join("ca-cert.pem").display().to_string();

    for (client, server, client_says, server_says) in [
        (&client, &server, "ok".to_owned(), "hello".to_owned()),
        (
            &client,
            &foreign_server,
            format!(
                "The certificate hasn't got a known issuer: server certificate \"{SERVER}\" was \
                 issued by \"CN=other CA\", which is not among the authorities in {}",
                authority(&client)
            ),
            format!(
                "{alert}unknown CA: the peer does not know the issuer \"CN=other CA\" of our \
                 certificate \"{SERVER}\""
            ),
        ),
        (
            &client,
            &old_server,
            format!(
                "The certificate is not trusted: server certificate \"{SERVER}\" expired on \
                 2021-02-03 00:00:00 UTC"
            ),
            format!(
                "{alert}certificate expired: the peer refuses our certificate \"{SERVER}\", which \
                 is valid from 2020-01-01 00:00:00 UTC to 2021-02-03 00:00:00 UTC"
            ),
        ),
        (
            &client,
            &future_server,
            format!(
                "The certificate is not trusted: server certificate \"{SERVER}\" is not valid \
                 before 2110-02-03 00:00:00 UTC"
            ),
            format!(
                "{alert}certificate expired: the peer refuses our certificate \"{SERVER}\", which \
                 is valid from 2110-02-03 00:00:00 UTC to 2120-01-01 00:00:00 UTC"
            ),
        ),
        (
            &client,
            &elsewhere,
            format!(
                "Certificate does not match the hostname 127.0.0.1: server certificate \
                 \"{SERVER}\" is for other.example, 192.0.2.1"
            ),
            format!("{alert}bad certificate: the peer refuses our certificate \"{SERVER}\""),
        ),
        (
            &client,
            &unable,
            format!(
                "The certificate is not trusted: server certificate \"{SERVER}\" may not be used \
                 by a TLS server"
            ),
            format!(
                "{alert}unsupported certificate: the peer refuses our certificate \"{SERVER}\" \
                 for this purpose"
            ),
        ),
        (
            &bare,
            &server,
            format!(
                "{alert}certificate required: the peer wants a certificate and we have none: \
                 there is no {}",
                bare.join("client-cert.pem").display()
            ),
            "Verify failed: No certificate was found: the client sent none, and verify-peer is on"
                .to_owned(),
        ),
        (
            &foreign_client,
            &server,
            format!(
                "{alert}unknown CA: the peer does not know the issuer \"CN=other CA\" of our \
                 certificate \"{CLIENT}\""
            ),
            format!(
                "The certificate hasn't got a known issuer: client certificate \"{CLIENT}\" was \
                 issued by \"CN=other CA\", which is not among the authorities in {}",
                authority(&server)
            ),
        ),
        (
            &old_client,
            &server,
            format!(
                "{alert}certificate expired: the peer refuses our certificate \"{CLIENT}\", which \
                 is valid from 2020-01-01 00:00:00 UTC to 2021-02-03 00:00:00 UTC"
            ),
            format!(
                "The certificate is not trusted: client certificate \"{CLIENT}\" expired on \
                 2021-02-03 00:00:00 UTC"
            ),
        ),
    ] {
        let (said_client, said_server) = meet(client_tls(client), server_tls(server)).await;
        let case = format!("{} with {}", client.display(), server.display());
        assert_eq!(said_client, client_says, "{case}");
        assert_eq!(said_server, server_says, "{case}");
    }

    // Another name than that of the host.
    let named = ClientTls { hostname: Some("other.example".into()), ..client_tls(&client) };
    assert_eq!(meet(named, server_tls(&elsewhere)).await, ("ok".into(), "hello".into()));
    let wrong = ClientTls { hostname: Some("wrong.example".into()), ..client_tls(&client) };
    let (said, _) = meet(wrong, server_tls(&server)).await;
    assert_eq!(
        said,
        format!(
            "Certificate does not match the hostname wrong.example: server certificate \
             \"{SERVER}\" is for 127.0.0.1, localhost"
        )
    );
    let odd = ClientTls { hostname: Some("no host".into()), ..client_tls(&client) };
    let (_listener, address) = listener(None).await;
    assert_eq!(
        greet(&address, odd).await,
        "'no host' is not a hostname for certificate validation"
    );
    // The server hears of it too.
    let (a, b) = Channel::pair(1 << 16);
    let (ours, theirs) = (client_tls(&client), server_tls(&server));
    let (a, b) = tokio::join!(a.secured_as_client(&ours, None), b.secured_as_server(&theirs));
    assert_eq!(a.unwrap_err().to_string(), "No hostname for certificate validation");
    let heard = b.unwrap_err().to_string();
    assert!(heard.contains("bad certificate: the peer refuses our certificate"), "{heard}");
}

#[tokio::test]
async fn peers_are_let_in_by_name_or_unseen() {
    let pki = Pki::new();
    let (server, client) = (pki.server("server", |_| {}), pki.client("client", |_| {}));
    let only = |identity: &str| {
        let rules = Arc::new(Authz::Simple { identity: identity.into() });
        let authorization = Some(Authorization { id: "az".into(), rules });
        ServerTls { authorization, ..server_tls(&server) }
    };
    let good = ("ok".to_owned(), "hello".to_owned());
    assert_eq!(meet(client_tls(&client), only(CLIENT)).await, good);
    let (said_client, said_server) = meet(client_tls(&client), only("CN=client1,O=oracle")).await;
    assert_eq!(
        said_server,
        format!(
            "TLS x509 authz check for {CLIENT} is denied: authorization refused for DN \
             \"{CLIENT}\" by 'az'"
        )
    );
    assert_eq!(
        said_client,
        format!(
            "TLS handshake failed: A TLS fatal alert has been received: access denied: the peer \
             refuses authorization to our certificate \"{CLIENT}\""
        )
    );
    // Without verification nobody has to show anything.
    let bare = pki.path("bare");
    std::fs::copy(client.join("ca-cert.pem"), bare.join("ca-cert.pem")).unwrap();
    let unverified = |dir: &Path, endpoint| {
        let credentials = load(dir, endpoint, false).unwrap();
        Arc::new(X509Credentials { verify_peer: false, ..credentials })
    };
    let open = ServerTls::new(unverified(&server, Endpoint::Server), None);
    assert_eq!(meet(client_tls(&bare), open.clone()).await, good);
    let foreign = pki.dir("foreign", Endpoint::Server, &leaf("server", &["x"]), &pki.other);
    let careless = ClientTls::new(unverified(&client, Endpoint::Client), None);
    assert_eq!(meet(careless, server_tls(&foreign)).await.0, "ok");
}

#[tokio::test]
async fn a_revoked_certificate_is_refused() {
    let pki = Pki::new();
    let (server, client) = (pki.server("server", |_| {}), pki.client("client", |_| {}));
    let revoked = CertificateRevocationListParams {
        this_update: date_time_ymd(2021, 1, 1),
        next_update: date_time_ymd(2120, 1, 1),
        crl_number: SerialNumber::from(1_u64),
        issuing_distribution_point: None,
        revoked_certs: vec![RevokedCertParams {
            serial_number: SerialNumber::from(7_u64),
            revocation_time: date_time_ymd(2021, 1, 1),
            reason_code: Some(RevocationReason::KeyCompromise),
            invalidity_date: None,
        }],
        key_identifier_method: KeyIdMethod::Sha256,
    };
    let list = revoked.signed_by(&pki.ours).unwrap().pem().unwrap();
    std::fs::write(server.join("ca-crl.pem"), list).unwrap();
    let (said_client, said_server) = meet(client_tls(&client), server_tls(&server)).await;
    assert_eq!(
        said_server,
        format!("The certificate has been revoked: client certificate \"{CLIENT}\"")
    );
    assert_eq!(
        said_client,
        format!(
            "TLS handshake failed: A TLS fatal alert has been received: certificate revoked: the \
             peer refuses our certificate \"{CLIENT}\""
        )
    );
}

#[tokio::test]
async fn a_client_that_is_refused_learns_it_before_it_writes() {
    let pki = Pki::new();
    let server = pki.server("server", |_| {});
    let bare = pki.path("bare");
    std::fs::copy(server.join("ca-cert.pem"), bare.join("ca-cert.pem")).unwrap();
    let (mut listener, address) = listener(Some(server_tls(&server))).await;
    let client_tls = Some(client_tls(&bare));
    let connecting = async {
        let context = ChannelContext { client_tls, ..ChannelContext::default() };
        connect(&address, &context).await.map(drop).unwrap_err().to_string()
    };
    let (said, refused) = tokio::join!(connecting, answer(&mut listener));
    assert!(refused.starts_with("Verify failed: No certificate was found"), "{refused}");
    let expected =
        "TLS handshake failed: A TLS fatal alert has been received: certificate required";
    assert!(said.starts_with(expected), "{said}");
}

/// A server that sends `words` to whoever connects, and then reads, or closes.
async fn stranger(words: &'static [u8], stays: bool) -> Address {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut hello = [0; 4096];
        let _ = stream.read(&mut hello).await;
        stream.write_all(words).await.unwrap();
        if stays {
            std::future::pending::<()>().await;
        }
    });
    Address::parse(&format!("tcp:127.0.0.1:{port}")).unwrap()
}

#[tokio::test]
async fn strange_servers_are_recognised() {
    let pki = Pki::new();
    let client = pki.client("client", |_| {});
    // Version 3.3, handshake failure (RFC 8446 section 6).
    let alert = &[21, 3, 3, 0, 2, 2, 40];
    for (words, stays, expected) in [
        (
            &b"HTTP/1.1 400 Bad Request\r\n\r\n"[..],
            true,
            "TLS handshake failed: An unexpected TLS packet was received: the peer is not \
             speaking TLS: it has sent \"HTTP/1.1 400 Bad\"",
        ),
        (b"", true, "TLS handshake failed: timed out after 1 s: the peer has sent nothing"),
        (
            b"",
            false,
            "TLS handshake failed: The TLS connection was non-properly terminated: the peer \
             closed the connection during the handshake (the peer has sent nothing)",
        ),
        (
            alert,
            true,
            "TLS handshake failed: A TLS fatal alert has been received: HandshakeFailure (40): \
             the peer has no protocol in common with us",
        ),
        (
            &[22, 3, 3, 0, 80, 2],
            true,
            "TLS handshake failed: timed out after 1 s: the peer has sent 6 bytes",
        ),
    ] {
        let address = stranger(words, stays).await;
        let tls = ClientTls { bound: Duration::from_secs(1), ..client_tls(&client) };
        assert_eq!(greet(&address, tls).await, expected);
    }
}

#[tokio::test]
async fn strange_clients_are_told_apart_and_hold_up_nobody() {
    let pki = Pki::new();
    let (server, client) = (pki.server("server", |_| {}), pki.client("client", |_| {}));
    let tls = ServerTls { bound: Duration::from_secs(1), ..server_tls(&server) };
    let (mut listener, address) = listener(Some(tls)).await;
    let plain = ChannelContext::default();
    // One that says nothing comes first, and the others do not wait for it.
    let silent = connect(&address, &plain).await.unwrap();
    let mut quick = connect(&address, &plain).await.unwrap();
    quick.write_all(b"QEVM\0\0\0\x03").await.unwrap();
    assert_eq!(
        answer(&mut listener).await,
        "TLS handshake failed: An unexpected TLS packet was received: the peer is not speaking \
         TLS: it has sent a migration stream"
    );
    let (said, heard) = tokio::join!(greet(&address, client_tls(&client)), answer(&mut listener));
    assert_eq!((said.as_str(), heard.as_str()), ("ok", "hello"));
    assert_eq!(
        answer(&mut listener).await,
        "TLS handshake failed: timed out after 1 s: the peer has sent nothing"
    );
    drop(silent);
}

#[tokio::test]
async fn a_shutdown_ends_a_channel_inside_tls() {
    let pki = Pki::new();
    let (server, client) = (pki.server("server", |_| {}), pki.client("client", |_| {}));
    let (mut listener, address) = listener(Some(server_tls(&server))).await;
    let client_tls = Some(client_tls(&client));
    let context = ChannelContext { client_tls, ..ChannelContext::default() };
    let (channel, peer) = tokio::join!(connect(&address, &context), listener.accept());
    let (mut channel, mut peer) = (channel.unwrap(), peer.unwrap());
    let control = channel.control();
    let reading = tokio::spawn(async move { channel.read(&mut [0]).await });
    tokio::task::yield_now().await;
    control.shutdown();
    assert_eq!(reading.await.unwrap().unwrap_err().to_string(), "Channel was shut down");
    assert_eq!(
        peer.read(&mut [0]).await.unwrap_err().to_string(),
        "Cannot read from TLS channel: The TLS connection was non-properly terminated: the peer \
         closed the connection in mid-stream"
    );
}

#[test]
fn credentials_are_refused_in_the_words_of_qemu() {
    let pki = Pki::new();
    let good = pki.client("good", |_| {});
    let at = |dir: &Path, name: &str| dir.join(name).display().to_string();
    let pems = ["client-cert.pem", "client-key.pem", "ca-cert.pem"];
    // A copy of the good ones, of which `change` makes bad ones.
    let spoiled = |name: &str, change: &dyn Fn(&Path)| {
        let dir = pki.path(name);
        for pem in pems {
            std::fs::copy(good.join(pem), dir.join(pem)).unwrap();
        }
        change(&dir);
        dir
    };
    let empty = pki.path("empty");
    let other = pki.client("other", |_| {});
    let garbage = spoiled("garbage", &|dir| {
        std::fs::write(dir.join(pems[0]), "garbage").unwrap();
    });
    let garbage_authority = spoiled("garbage-ca", &|dir| {
        std::fs::write(dir.join(pems[2]), "garbage").unwrap();
    });
    let mismatch = spoiled("mismatch", &|dir| {
        std::fs::copy(other.join(pems[1]), dir.join(pems[1])).unwrap();
    });
    let no_key = spoiled("no-key", &|dir| std::fs::remove_file(dir.join(pems[1])).unwrap());
    let expired = pki.client("expired", |p| p.not_after = date_time_ymd(2021, 1, 1));
    let future = pki.client("future", |p| p.not_before = date_time_ymd(2110, 1, 1));
    let purpose = pki.client("purpose", |p| {
        p.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    });
    let mixed = pki.dir("mixed", Endpoint::Client, &leaf("client1", &[]), &pki.other);
    let is_authority = pki.client("ca", |p| p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained));
    let crl = spoiled("crl", &|dir| {
        std::fs::write(
            dir.join("ca-crl.pem"),
            "-----BEGIN X509 CRL-----\nMAA=\n-----END X509 CRL-----\n",
        )
        .unwrap();
    });
    for (dir, expected) in [
        (&good, "ok".to_owned()),
        (&no_key, "ok".to_owned()),
        (
            &empty,
            format!(
                "Unable to access credentials {}: No such file or directory",
                at(&empty, "ca-cert.pem")
            ),
        ),
        (
            &garbage,
            format!(
                "Unable to import client certificate {}: Base64 unexpected header error.",
                at(&garbage, pems[0])
            ),
        ),
        (
            &garbage_authority,
            format!("Unable to import CA certificate list {}", at(&garbage_authority, pems[2])),
        ),
        (
            &mismatch,
            format!(
                "Cannot load certificate '{}' & key '{}': The certificate and the given key do \
                 not match.",
                at(&mismatch, pems[0]),
                at(&mismatch, pems[1])
            ),
        ),
        (&expired, format!("The client certificate {} has expired", at(&expired, pems[0]))),
        (&future, format!("The client certificate {} is not yet active", at(&future, pems[0]))),
        (
            &purpose,
            format!(
                "Certificate {} purpose does not allow use with a TLS client",
                at(&purpose, pems[0])
            ),
        ),
        (
            &mixed,
            format!(
                "Our own certificate {} failed validation against {}: The certificate hasn't got \
                 a known issuer",
                at(&mixed, pems[0]),
                at(&mixed, pems[2])
            ),
        ),
        (
            &is_authority,
            format!(
                "The certificate {} basic constraints show a CA, but we need one for a client",
                at(&is_authority, pems[0])
            ),
        ),
        (&crl, format!("Cannot load CRL '{}': ", at(&crl, "ca-crl.pem"))),
    ] {
        let said =
            load(dir, Endpoint::Client, true).map_or_else(|e| e.to_string(), |_| "ok".into());
        assert!(
            said == expected || expected.ends_with(": ") && said.starts_with(&expected),
            "{said}"
        );
    }
    let error = load(&good, Endpoint::Server, true).unwrap_err();
    let missing = at(&good, "server-cert.pem");
    assert_eq!(
        error.to_string(),
        format!("Unable to access credentials {missing}: No such file or directory")
    );
}

#[test]
fn keys_may_be_encrypted() {
    let pki = Pki::new();
    let dir = pki.client("client", |_| {});
    let key_path = dir.join("client-key.pem");
    let key = KeyPair::from_pem(&std::fs::read_to_string(&key_path).unwrap()).unwrap();
    let der = key.serialize_der();
    let parameters = pkcs8::pkcs5::pbes2::Parameters::generate_pbkdf2_sha256_aes256cbc(
        1000,
        b"salt salt",
        [7; 16],
    )
    .unwrap();
    let info = pkcs8::PrivateKeyInfoRef::try_from(der.as_slice()).unwrap();
    let encrypted = info.encrypt_with_params(parameters, "hunter2").unwrap();
    let pem = encrypted.to_pem("ENCRYPTED PRIVATE KEY", LineEnding::LF).unwrap();
    std::fs::write(&key_path, format!("Of a test.\n{}", pem.as_str())).unwrap();
    let legacy = "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n";
    let prefix = format!(
        "Cannot load certificate '{}' & key '{}': ",
        dir.join("client-cert.pem").display(),
        key_path.display()
    );
    let load = |password: Option<&str>| {
        let loaded = X509Credentials::load(&X509Files {
            dir: dir.clone(),
            endpoint: Endpoint::Client,
            verify_peer: true,
            sanity_check: true,
            password: password.map(|text| text.as_bytes().to_vec()),
        });
        match loaded {
            Ok(credentials) => format!("ok {}", credentials.identity.is_some()),
            Err(error) => error.to_string().replace(&prefix, ""),
        }
    };
    assert_eq!(load(Some("hunter2")), "ok true");
    assert_eq!(load(Some("wrong")), "Decryption has failed.");
    assert_eq!(
        load(None),
        "The key is encrypted, and passwordid names no secret with its password."
    );
    std::fs::write(&key_path, legacy).unwrap();
    assert_eq!(
        load(Some("hunter2")),
        "The key is encrypted in the legacy PEM format; PKCS #8 is needed."
    );
}
