//! What sentences say of a certificate.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use rustls::pki_types::{CertificateDer, UnixTime};
use x509_cert::Certificate;
use x509_cert::der::{DateTime, Decode as _};
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;
use x509_cert::name::Name;

/// A certificate that could be read.
#[derive(Debug, Clone)]
pub(super) struct Parsed(pub(super) Certificate);

impl Parsed {
    pub(super) fn new(der: &CertificateDer<'_>) -> Option<Self> {
        Certificate::from_der(der).ok().map(Self)
    }

    /// Whose it is.
    pub(super) fn subject(&self) -> String {
        distinguished_name(self.0.tbs_certificate().subject())
    }

    /// Who signed it.
    pub(super) fn issuer(&self) -> String {
        distinguished_name(self.0.tbs_certificate().issuer())
    }

    /// The hosts that it is for.
    pub(super) fn hosts(&self) -> Vec<String> {
        let names = self.0.tbs_certificate().get_extension::<SubjectAltName>();
        let Ok(Some((_, SubjectAltName(names)))) = names else { return Vec::new() };
        names.iter().filter_map(host).collect()
    }

    /// Seconds since 1970 in which it is valid.
    pub(super) fn validity(&self) -> (u64, u64) {
        let validity = self.0.tbs_certificate().validity();
        let seconds = |time: x509_cert::time::Time| time.to_unix_duration().as_secs();
        (seconds(validity.not_before), seconds(validity.not_after))
    }
}

fn host(name: &GeneralName) -> Option<String> {
    match name {
        GeneralName::DnsName(name) => Some(name.to_string()),
        GeneralName::IpAddress(bytes) => {
            let bytes = bytes.as_bytes();
            <[u8; 4]>::try_from(bytes)
                .map(|v4| Ipv4Addr::from(v4).to_string())
                .or_else(|_| <[u8; 16]>::try_from(bytes).map(|v6| Ipv6Addr::from(v6).to_string()))
                .ok()
        }
        _ => None,
    }
}

/// In the order of the encoding, as QEMU has it for `authz` objects.
fn distinguished_name(name: &Name) -> String {
    let parts: Vec<_> = name.iter_rdn().map(ToString::to_string).collect();
    parts.join(",")
}

/// A moment, as `2026-11-23 01:02:03 UTC`.
pub(super) fn date(time: UnixTime) -> String {
    seconds(time.as_secs())
}

/// The same of seconds since 1970.
pub(super) fn seconds(since: u64) -> String {
    match DateTime::from_unix_duration(Duration::from_secs(since)) {
        Ok(date) => date.to_string().replace('T', " ").replace('Z', " UTC"),
        Err(_) => format!("{since} seconds after 1970-01-01"),
    }
}
