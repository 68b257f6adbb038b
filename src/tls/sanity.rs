//! The checks of our own certificates that `sanity-check=on` makes before anybody relies on them.

use rustls::RootCertStore;
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::ParsedCertificate;
use x509_cert::der::oid::db::rfc5280::{
    ANY_EXTENDED_KEY_USAGE, ID_KP_CLIENT_AUTH, ID_KP_SERVER_AUTH,
};
use x509_cert::ext::pkix::{BasicConstraints, ExtendedKeyUsage, KeyUsage};

use super::certificate::Parsed;
use super::credentials::{CredentialsError, Endpoint};

/// What there is of our own.
pub(super) struct Own<'a> {
    pub(super) endpoint: Endpoint,
    pub(super) chain: Option<&'a [CertificateDer<'static>]>,
    pub(super) path: &'a str,
    pub(super) authorities: &'a [CertificateDer<'static>],
    pub(super) authority: &'a str,
    pub(super) roots: &'a RootCertStore,
    pub(super) algorithms: &'a WebPkiSupportedAlgorithms,
}

/// Check each certificate, and then that the authorities vouch for ours.
pub(super) fn check(own: &Own<'_>) -> Result<(), CredentialsError> {
    let name = own.endpoint.name();
    if let Some(certificate) = own.chain.and_then(<[_]>::first) {
        let parsed = Parsed::new(certificate).ok_or_else(|| CredentialsError::Import {
            endpoint: name,
            path: own.path.to_owned(),
            reason: "ASN1 parser: Error in DER parsing.".to_owned(),
        })?;
        times(&parsed, name, own.path)?;
        end_entity(&parsed, own.endpoint, own.path)?;
    }
    for certificate in own.authorities {
        let parsed = Parsed::new(certificate)
            .ok_or_else(|| CredentialsError::NoAuthority(own.authority.to_owned()))?;
        times(&parsed, "CA", own.authority)?;
        authority(&parsed, own.authority)?;
    }
    own.chain.map_or(Ok(()), |chain| vouched_for(own, chain))
}

fn times(parsed: &Parsed, whose: &'static str, path: &str) -> Result<(), CredentialsError> {
    let now = UnixTime::now().as_secs();
    let (not_before, not_after) = parsed.validity();
    let path = path.to_owned();
    if not_after < now {
        Err(CredentialsError::Expired { whose, path })
    } else if not_before > now {
        Err(CredentialsError::NotYetActive { whose, path })
    } else {
        Ok(())
    }
}

/// What a certificate says of its use; nothing, if it does not say.
fn constraints(parsed: &Parsed) -> Option<BasicConstraints> {
    parsed.0.tbs_certificate().get_extension().ok().flatten().map(|(_, found)| found)
}

fn usage(parsed: &Parsed) -> Option<(bool, KeyUsage)> {
    parsed.0.tbs_certificate().get_extension().ok().flatten()
}

fn authority(parsed: &Parsed, path: &str) -> Result<(), CredentialsError> {
    let path = || path.to_owned();
    match constraints(parsed) {
        None => return Err(CredentialsError::NoConstraints { path: path() }),
        Some(constraints) if !constraints.ca => {
            return Err(CredentialsError::IsNoAuthority { path: path() });
        }
        Some(_) => {}
    }
    match usage(parsed) {
        Some((true, usage)) if !usage.key_cert_sign() => {
            Err(CredentialsError::Usage { path: path(), usage: "certificate signing" })
        }
        _ => Ok(()),
    }
}

fn end_entity(parsed: &Parsed, endpoint: Endpoint, path: &str) -> Result<(), CredentialsError> {
    let path = || path.to_owned();
    let name = endpoint.name();
    if constraints(parsed).is_some_and(|constraints| constraints.ca) {
        return Err(CredentialsError::IsAuthority { path: path(), endpoint: name });
    }
    if let Some((true, usage)) = usage(parsed)
        && !usage.digital_signature()
    {
        return Err(CredentialsError::Usage { path: path(), usage: "digital signature" });
    }
    let purposes = parsed.0.tbs_certificate().get_extension::<ExtendedKeyUsage>().ok().flatten();
    let Some((_, ExtendedKeyUsage(purposes))) = purposes else { return Ok(()) };
    let wanted = match endpoint {
        Endpoint::Client => ID_KP_CLIENT_AUTH,
        Endpoint::Server => ID_KP_SERVER_AUTH,
    };
    match purposes.contains(&wanted) || purposes.contains(&ANY_EXTENDED_KEY_USAGE) {
        true => Ok(()),
        false => Err(CredentialsError::Purpose { path: path(), endpoint: name }),
    }
}

fn vouched_for(own: &Own<'_>, chain: &[CertificateDer<'static>]) -> Result<(), CredentialsError> {
    let Some((certificate, intermediates)) = chain.split_first() else { return Ok(()) };
    let verified = match own.endpoint {
        Endpoint::Server => ParsedCertificate::try_from(certificate).and_then(|certificate| {
            verify_server_cert_signed_by_trust_anchor(
                &certificate,
                own.roots,
                intermediates,
                UnixTime::now(),
                own.algorithms.all,
            )
        }),
        Endpoint::Client => {
            let roots = std::sync::Arc::new(own.roots.clone());
            let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
            rustls::server::WebPkiClientVerifier::builder_with_provider(roots, provider)
                .build()
                .map_err(|error| rustls::Error::General(error.to_string()))
                .and_then(|verifier| {
                    verifier.verify_client_cert(certificate, intermediates, UnixTime::now())
                })
                .map(drop)
        }
    };
    let reason = match verified {
        Ok(()) => return Ok(()),
        Err(rustls::Error::InvalidCertificate(
            rustls::CertificateError::UnknownIssuer | rustls::CertificateError::BadSignature,
        )) => "The certificate hasn't got a known issuer".to_owned(),
        Err(error) => format!("The certificate is not trusted ({error})"),
    };
    Err(CredentialsError::Validation {
        path: own.path.to_owned(),
        authority: own.authority.to_owned(),
        reason,
    })
}
