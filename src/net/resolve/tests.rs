//! Look-ups against a name server that a test runs on loopback.

use std::time::Instant;

use hickory_resolver::config::{ConnectionConfig, NameServerConfig};
use tokio::net::UdpSocket;

use super::*;

const NXDOMAIN: u8 = 3;
const SERVFAIL: u8 = 2;
const TYPE_A: u16 = 1;
const TYPE_AAAA: u16 = 28;

/// The response code and the addresses of a name; `None` for a server that stays silent.
fn records(name: &str, kind: u16) -> Option<(u8, Vec<Vec<u8>>)> {
    let v4 = || vec![vec![192, 0, 2, 1], vec![192, 0, 2, 2]];
    let v6 = || vec![Ipv6Addr::LOCALHOST.octets().to_vec()];
    Some(match (name, kind) {
        ("both.test", TYPE_A) | ("v4.test", TYPE_A) => (0, v4()),
        ("both.test", TYPE_AAAA) => (0, v6()),
        ("v4.test" | "nodata.test", _) => (0, Vec::new()),
        ("half.test", TYPE_A) => (SERVFAIL, Vec::new()),
        ("half.test", _) => (0, Vec::new()),
        ("servfail.test", _) => (SERVFAIL, Vec::new()),
        ("silent.test", _) => return None,
        _ => (NXDOMAIN, Vec::new()),
    })
}

/// Answer one query (RFC 1035 section 4).
fn answer(query: &[u8]) -> Option<Vec<u8>> {
    let mut labels = Vec::new();
    let mut at = 12;
    while let Some(&length) = query.get(at).filter(|&&length| length > 0) {
        let end = at + 1 + usize::from(length);
        labels.push(String::from_utf8(query.get(at + 1..end)?.to_vec()).ok()?);
        at = end;
    }
    let kind = u16::from_be_bytes([*query.get(at + 1)?, *query.get(at + 2)?]);
    let (code, addresses) = records(&labels.join(".").to_lowercase(), kind)?;
    let mut reply = query.get(..2)?.to_vec();
    reply.extend([0x81, 0x80 | code, 0, 1, 0, addresses.len() as u8, 0, 0, 0, 0]);
    reply.extend(query.get(12..at + 5)?);
    for address in addresses {
        // The name of the question; type, class IN, 60 seconds.
        reply.extend([0xc0, 12]);
        reply.extend(kind.to_be_bytes());
        reply.extend([0, 1, 0, 0, 0, 60, 0, address.len() as u8]);
        reply.extend(address);
    }
    Some(reply)
}

/// A resolver that asks the test's server, and knows what this hosts file says.
async fn resolver(hosts: &str) -> Resolver {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let port = socket.local_addr().unwrap().port();
    tokio::spawn(async move {
        let mut query = [0; 512];
        while let Ok((length, client)) = socket.recv_from(&mut query).await {
            if let Some(reply) = answer(&query[..length]) {
                socket.send_to(&reply, client).await.unwrap();
            }
        }
    });
    let mut connection = ConnectionConfig::udp();
    connection.port = port;
    let server = NameServerConfig::new(Ipv4Addr::LOCALHOST.into(), true, vec![connection]);
    let mut options = ResolverOpts::default();
    options.attempts = 1;
    options.timeout = Duration::from_millis(300);
    let mut known = Hosts::default();
    known.read_hosts_conf(hosts.as_bytes()).unwrap();
    let servers = ResolverConfig::from_name_servers(vec![server]);
    Resolver::new(known, servers, options, Duration::from_secs(5))
}

async fn shown(resolver: &Resolver, host: &str, service: &str, families: Families) -> String {
    match resolver.resolve(host, service, families).await {
        Ok(list) => list.iter().map(SocketAddr::to_string).collect::<Vec<_>>().join(" "),
        Err(error) => error.to_string(),
    }
}

const V4: Families = Families { ipv4: true, ipv6: false };
const V6: Families = Families { ipv4: false, ipv6: true };

#[tokio::test]
async fn names_are_told_apart_as_getaddrinfo_does() {
    let resolver = resolver("192.0.2.9 printer\n2001:db8::9 printer\n192.0.2.8 old\n").await;
    for (host, families, expected) in [
        ("both.test", Families::ANY, "[::1]:90 192.0.2.1:90 192.0.2.2:90"),
        ("both.test", V4, "192.0.2.1:90 192.0.2.2:90"),
        ("both.test", V6, "[::1]:90"),
        ("v4.test", Families::ANY, "192.0.2.1:90 192.0.2.2:90"),
        ("v4.test", V6, "No address associated with hostname"),
        ("nodata.test", Families::ANY, "No address associated with hostname"),
        ("no-such.test", Families::ANY, "Name or service not known"),
        ("servfail.test", Families::ANY, "Temporary failure in name resolution"),
        ("half.test", Families::ANY, "Temporary failure in name resolution"),
        ("no-such-host.invalid", Families::ANY, "Name or service not known"),
        ("", Families::ANY, "Name or service not known"),
        ("a..b", Families::ANY, "Name or service not known"),
        // What the hosts file has is not asked of a server.
        ("printer", Families::ANY, "[2001:db8::9]:90 192.0.2.9:90"),
        ("old", V6, "Address family for hostname not supported"),
        ("localhost", Families::ANY, "[::1]:90 127.0.0.1:90"),
        // Numbers.
        ("127.1", Families::ANY, "127.0.0.1:90"),
        ("0", Families::ANY, "0.0.0.0:90"),
        ("0x7f000001", V4, "127.0.0.1:90"),
        ("::1", Families::ANY, "[::1]:90"),
        ("fe80::1%3", Families::ANY, "[fe80::1%3]:90"),
        ("::1", V4, "Address family for hostname not supported"),
        ("127.0.0.1", V6, "Address family for hostname not supported"),
        ("1.2.3.256", Families::ANY, "Name or service not known"),
    ] {
        let found = shown(&resolver, host, "90", families).await;
        let sentence = format!("address resolution failed for {host}:90: {expected}");
        assert!(found == expected || found == sentence, "{host} {families:?}: {found}");
    }
}

#[tokio::test]
async fn ports_are_numbers_or_services() {
    let resolver = resolver("").await;
    for service in ["", "-1", "abc!", "9000x", "65536", "+1", "0x10"] {
        let expected = format!(
            "address resolution failed for 127.0.0.1:{service}: Servname not supported for \
             ai_socktype"
        );
        assert_eq!(shown(&resolver, "127.0.0.1", service, V4).await, expected);
    }
    let table = "# comment\nsmtp 25/tcp mail\nsyslog 514/udp\nbad x/tcp\n";
    for (name, port) in
        [("smtp", Some(25)), ("mail", Some(25)), ("syslog", None), ("bad", None), ("#", None)]
    {
        assert_eq!(named_port(table, name), port, "{name}");
    }
}

#[tokio::test]
async fn a_silent_server_is_given_up() {
    let mut resolver = resolver("").await;
    resolver.bound = Duration::from_millis(50);
    let started = Instant::now();
    let found = shown(&resolver, "silent.test", "1", Families::ANY).await;
    assert_eq!(
        found,
        "address resolution failed for silent.test:1: Temporary failure in name resolution"
    );
    assert!(started.elapsed() < Duration::from_secs(5));
    let nowhere = Resolver { servers: None, ..resolver };
    let found = shown(&nowhere, "both.test", "1", Families::ANY).await;
    assert!(found.ends_with(": Temporary failure in name resolution"), "{found}");
}

#[test]
fn switches_choose_families() {
    let any = Some(Families::ANY);
    for (ipv4, ipv6, expected) in [
        (None, None, any),
        (Some(true), None, Some(V4)),
        (None, Some(true), Some(V6)),
        (Some(false), None, Some(V6)),
        (None, Some(false), Some(V4)),
        (Some(true), Some(true), any),
        (Some(true), Some(false), Some(V4)),
        (Some(false), Some(false), None),
    ] {
        assert_eq!(Families::from_switches(ipv4, ipv6), expected, "{ipv4:?} {ipv6:?}");
    }
}
