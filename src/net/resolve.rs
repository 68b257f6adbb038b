//! Host names and services into socket addresses, with the sentences of `getaddrinfo`.
//!
//! Numbers need no look-up. Names are looked for in the system's hosts file and then asked of the
//! servers in its `resolv.conf`, both read anew each time, over hickory: nothing blocks, a look-up
//! has a time limit, and dropping its future ends it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::sync::Arc;
use std::time::Duration;

use hickory_resolver::config::{ResolveHosts, ResolverConfig, ResolverOpts};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::{Query, ResponseCode};
use hickory_resolver::proto::rr::{Name, RecordType};
use hickory_resolver::system_conf::read_system_conf;
use hickory_resolver::{Hosts, TokioResolver};

/// Longest look-up, whatever `resolv.conf` says of attempts and time-outs.
const LOOKUP_BOUND: Duration = Duration::from_secs(20);

/// Which kinds of address are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Families {
    pub ipv4: bool,
    pub ipv6: bool,
}

impl Families {
    /// Either kind.
    pub const ANY: Self = Self { ipv4: true, ipv6: true };

    /// From the `ipv4` and `ipv6` switches of an address: one that is asked for excludes the
    /// other, unless that is asked for too. `None` if both are ruled out.
    pub fn from_switches(ipv4: Option<bool>, ipv6: Option<bool>) -> Option<Self> {
        let families = Self {
            ipv4: ipv4.unwrap_or(ipv6 != Some(true)),
            ipv6: ipv6.unwrap_or(ipv4 != Some(true)),
        };
        (families.ipv4 || families.ipv6).then_some(families)
    }

    fn has(self, address: &IpAddr) -> bool {
        if address.is_ipv4() { self.ipv4 } else { self.ipv6 }
    }
}

/// Why a host and service have no address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("address resolution failed for {host}:{port}: {cause}")]
pub struct ResolveError {
    pub host: String,
    pub port: String,
    pub cause: ResolveCause,
}

/// The errors of `getaddrinfo`, in the words of `gai_strerror`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ResolveCause {
    #[error("Name or service not known")]
    NoSuchName,
    #[error("No address associated with hostname")]
    NoAddress,
    #[error("Temporary failure in name resolution")]
    Temporary,
    #[error("Servname not supported for ai_socktype")]
    NoSuchService,
    #[error("Address family for hostname not supported")]
    WrongFamily,
}

/// Where names are looked up.
#[derive(Clone)]
pub struct Resolver {
    hosts: Arc<Hosts>,
    /// None without a usable `resolv.conf`.
    servers: Option<TokioResolver>,
    bound: Duration,
}

impl std::fmt::Debug for Resolver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Resolver").field("bound", &self.bound).finish_non_exhaustive()
    }
}

impl Resolver {
    /// The system's hosts file and `resolv.conf`, as they are now.
    pub fn system() -> Self {
        let hosts = Hosts::from_system().unwrap_or_default();
        match read_system_conf() {
            Ok((config, options)) => Self::new(hosts, config, options, LOOKUP_BOUND),
            Err(error) => {
                tracing::debug!("resolv.conf: {error}");
                Self { hosts: Arc::new(hosts), servers: None, bound: LOOKUP_BOUND }
            }
        }
    }

    /// These servers, and a look-up's time limit.
    pub fn new(
        hosts: Hosts,
        servers: ResolverConfig,
        mut options: ResolverOpts,
        bound: Duration,
    ) -> Self {
        // The hosts file is looked at here: a name that it has is not asked for elsewhere.
        options.use_hosts_file = ResolveHosts::Never;
        options.cache_size = 0;
        let mut builder =
            TokioResolver::builder_with_config(servers, TokioRuntimeProvider::default());
        *builder.options_mut() = options;
        let servers = match builder.build() {
            Ok(servers) => Some(servers),
            Err(error) => {
                tracing::warn!("the resolver's configuration: {error}");
                None
            }
        };
        Self { hosts: Arc::new(hosts), servers, bound }
    }

    /// The addresses of `host` (a name or a number) with the port of `service` (likewise), IPv6
    /// first. An empty host is a name that nobody has.
    pub async fn resolve(
        &self,
        host: &str,
        service: &str,
        families: Families,
    ) -> Result<Vec<SocketAddr>, ResolveError> {
        let failed =
            |cause| ResolveError { host: host.to_owned(), port: service.to_owned(), cause };
        let port = port(service).await.map_err(failed)?;
        if let Some((address, scope)) = numeric(host) {
            if !families.has(&address) {
                return Err(failed(ResolveCause::WrongFamily));
            }
            return Ok(vec![match address {
                IpAddr::V6(v6) => SocketAddr::V6(SocketAddrV6::new(v6, port, 0, scope)),
                v4 => SocketAddr::new(v4, port),
            }]);
        }
        let name = Name::from_utf8(host).ok().filter(|name| !name.is_root() && !host.is_empty());
        let name = name.ok_or_else(|| failed(ResolveCause::NoSuchName))?;
        let found = tokio::time::timeout(self.bound, self.look_up(name, families)).await;
        match found {
            Ok(Ok(addresses)) => {
                Ok(addresses.into_iter().map(|address| SocketAddr::new(address, port)).collect())
            }
            Ok(Err(cause)) => Err(failed(cause)),
            Err(_) => Err(failed(ResolveCause::Temporary)),
        }
    }

    async fn look_up(&self, name: Name, families: Families) -> Result<Vec<IpAddr>, ResolveCause> {
        if let Some(known) = self.local(&name) {
            let wanted: Vec<_> = known.into_iter().filter(|a| families.has(a)).collect();
            return match wanted.is_empty() {
                true => Err(ResolveCause::WrongFamily),
                false => Ok(wanted),
            };
        }
        let v6 = self.ask(&name, RecordType::AAAA, families.ipv6);
        let v4 = self.ask(&name, RecordType::A, families.ipv4);
        let (v6, v4) = tokio::join!(v6, v4);
        let mut addresses = Vec::new();
        let mut causes = Vec::new();
        for answer in [v6, v4].into_iter().flatten() {
            match answer {
                Ok(found) => addresses.extend(found),
                Err(cause) => causes.push(cause),
            }
        }
        if !addresses.is_empty() {
            return Ok(addresses);
        }
        // A server that cannot say leaves it open; a name without one kind of address exists.
        for cause in [ResolveCause::Temporary, ResolveCause::NoAddress] {
            if causes.contains(&cause) {
                return Err(cause);
            }
        }
        Err(ResolveCause::NoSuchName)
    }

    /// What the hosts file has, and `localhost` without one (RFC 6761 section 6.3).
    fn local(&self, name: &Name) -> Option<Vec<IpAddr>> {
        let mut found = Vec::new();
        for kind in [RecordType::AAAA, RecordType::A] {
            if let Some(lookup) = self.hosts.lookup_static_host(&Query::query(name.clone(), kind)) {
                found.extend(lookup.answers().iter().filter_map(|record| record.data.ip_addr()));
            }
        }
        if found.is_empty() && name.is_localhost() {
            found = vec![Ipv6Addr::LOCALHOST.into(), Ipv4Addr::LOCALHOST.into()];
        }
        (!found.is_empty()).then_some(found)
    }

    /// One kind of address, if it is wanted.
    async fn ask(
        &self,
        name: &Name,
        kind: RecordType,
        wanted: bool,
    ) -> Option<Result<Vec<IpAddr>, ResolveCause>> {
        if !wanted {
            return None;
        }
        let Some(servers) = &self.servers else { return Some(Err(ResolveCause::Temporary)) };
        Some(match servers.lookup(name.clone(), kind).await {
            Ok(lookup) => {
                let addresses: Vec<_> =
                    lookup.answers().iter().filter_map(|record| record.data.ip_addr()).collect();
                match addresses.is_empty() {
                    true => Err(ResolveCause::NoAddress),
                    false => Ok(addresses),
                }
            }
            Err(error) => {
                tracing::debug!("{name} {kind}: {error}");
                Err(cause(&error))
            }
        })
    }
}

/// Look up with the system's configuration.
pub async fn resolve(
    host: &str,
    service: &str,
    families: Families,
) -> Result<Vec<SocketAddr>, ResolveError> {
    Resolver::system().resolve(host, service, families).await
}

fn cause(error: &NetError) -> ResolveCause {
    match error {
        NetError::Dns(DnsError::NoRecordsFound(none)) => match none.response_code {
            ResponseCode::NXDomain => ResolveCause::NoSuchName,
            ResponseCode::NoError => ResolveCause::NoAddress,
            _ => ResolveCause::Temporary,
        },
        NetError::Dns(DnsError::ResponseCode(ResponseCode::NXDomain)) => ResolveCause::NoSuchName,
        _ => ResolveCause::Temporary,
    }
}

/// A port by number, or by its name in `/etc/services`.
async fn port(service: &str) -> Result<u16, ResolveCause> {
    if !service.is_empty() && service.bytes().all(|b| b.is_ascii_digit()) {
        return service.parse().map_err(|_| ResolveCause::NoSuchService);
    }
    let table = tokio::fs::read_to_string("/etc/services").await.unwrap_or_default();
    named_port(&table, service).ok_or(ResolveCause::NoSuchService)
}

/// Find `NAME PORT/tcp ALIAS...` in the text of services(5).
fn named_port(table: &str, service: &str) -> Option<u16> {
    table.lines().find_map(|line| {
        let line = line.split('#').next().unwrap_or_default();
        let mut words = line.split_whitespace();
        let name = words.next()?;
        let port = words.next()?.strip_suffix("/tcp")?;
        (name == service || words.any(|alias| alias == service)).then(|| port.parse().ok())?
    })
}

/// True for a host that needs no look-up.
pub fn is_numeric(host: &str) -> bool {
    numeric(host).is_some()
}

/// A numeric host and its IPv6 scope: what `inet_aton` takes, and IPv6 with `%INTERFACE`.
fn numeric(host: &str) -> Option<(IpAddr, u32)> {
    if let Some(v4) = inet_aton(host) {
        return Some((v4.into(), 0));
    }
    let (address, zone) = host.split_once('%').map_or((host, None), |(a, zone)| (a, Some(zone)));
    let address: Ipv6Addr = address.parse().ok()?;
    let scope = match zone {
        None => 0,
        Some(zone) => zone.parse().ok().or_else(|| interface_index(zone))?,
    };
    Some((address.into(), scope))
}

fn interface_index(name: &str) -> Option<u32> {
    let path = format!("/sys/class/net/{name}/ifindex");
    let plain = !name.is_empty() && !name.contains('/');
    plain.then(|| std::fs::read_to_string(path).ok()?.trim().parse().ok())?
}

/// One to four numbers, the last filling what is left of 32 bits (`0`, `127.1`, `10.0.0.1`),
/// each decimal, octal or hexadecimal.
fn inet_aton(text: &str) -> Option<Ipv4Addr> {
    let parts: Vec<u32> = text.split('.').map(number).collect::<Option<_>>()?;
    let (&last, leading) = parts.split_last()?;
    if leading.len() > 3 || leading.iter().any(|&part| part > 0xff) {
        return None;
    }
    let rest_bits = 32 - 8 * leading.len() as u32;
    if u64::from(last) >> rest_bits != 0 {
        return None;
    }
    let high = leading.iter().fold(0_u64, |sum, &part| sum << 8 | u64::from(part));
    Some(Ipv4Addr::from((high << rest_bits) as u32 | last))
}

fn number(text: &str) -> Option<u32> {
    let (digits, radix) = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(hex) => (hex, 16),
        None if text.len() > 1 && text.starts_with('0') => (&text[1..], 8),
        None => (text, 10),
    };
    let plain = digits.starts_with(|c: char| c.is_digit(radix));
    plain.then(|| u32::from_str_radix(digits, radix).ok())?
}

#[cfg(test)]
mod tests;
