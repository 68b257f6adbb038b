//! Why a handshake fails: QEMU's words first, then which certificate, and what is wrong with it.

use rustls::pki_types::CertificateDer;
use rustls::{AlertDescription, CertificateError};

use super::certificate::{Parsed, date, seconds};

/// Why two peers cannot talk.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HandshakeError {
    #[error("No hostname for certificate validation")]
    NoHostname,
    #[error("'{0}' is not a hostname for certificate validation")]
    BadHostname(String),
    #[error("The certificate hasn't got a known issuer: {0}")]
    UnknownIssuer(String),
    #[error("The certificate is not trusted: {0}")]
    NotTrusted(String),
    #[error("The certificate has been revoked: {0}")]
    Revoked(String),
    #[error("Certificate does not match the hostname {expected}: {found}")]
    Hostname { expected: String, found: String },
    #[error("Verify failed: No certificate was found: the client sent none, and verify-peer is on")]
    NoCertificate,
    #[error(
        "TLS x509 authz check for {dn} is denied: authorization refused for DN \"{dn}\" by \
         '{authz}'"
    )]
    Denied { dn: String, authz: String },
    #[error(
        "TLS handshake failed: An unexpected TLS packet was received: the peer is not speaking \
         TLS{0}"
    )]
    NotTls(String),
    #[error("TLS handshake failed: timed out after {seconds} s: {seen}")]
    TimedOut { seconds: u64, seen: String },
    #[error(
        "TLS handshake failed: The TLS connection was non-properly terminated: the peer closed \
         the connection during the handshake ({0})"
    )]
    Closed(String),
    #[error(
        "TLS handshake failed: Error in the pull function.: {error}: the peer broke the handshake \
         off ({seen})"
    )]
    Broken { error: String, seen: String },
    #[error("TLS handshake failed: A TLS fatal alert has been received: {0}")]
    Alert(String),
    /// The peer has looked at our certificate.
    #[error("TLS handshake failed: A TLS fatal alert has been received: {0}")]
    Refused(String),
    #[error("TLS handshake failed: {0}")]
    Other(String),
}

/// Whose certificate is being looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Whose {
    Server,
    Client,
}

impl Whose {
    pub(super) fn noun(self) -> &'static str {
        match self {
            Self::Server => "server",
            Self::Client => "client",
        }
    }
}

/// What is wrong with a peer's certificate; `authority` is the file of those who may sign.
pub(super) fn of_certificate(
    error: &CertificateError,
    whose: Whose,
    certificate: &CertificateDer<'_>,
    authority: &str,
) -> HandshakeError {
    let noun = whose.noun();
    let Some(parsed) = Parsed::new(certificate) else {
        return HandshakeError::NotTrusted(format!("the {noun} certificate cannot be read"));
    };
    let subject = parsed.subject();
    let (not_before, not_after) = parsed.validity();
    // The moment may be that of a certificate between this one and the authority's.
    let which = |own: bool| match own {
        true => format!("{noun} certificate \"{subject}\""),
        false => format!("a certificate that vouches for {noun} certificate \"{subject}\""),
    };
    let this = which(true);
    match error {
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            let issuer = parsed.issuer();
            HandshakeError::UnknownIssuer(format!(
                "{this} was issued by \"{issuer}\", which is not among the authorities in \
                 {authority}"
            ))
        }
        CertificateError::Expired => HandshakeError::NotTrusted(format!("{this} has expired")),
        CertificateError::ExpiredContext { not_after: end, .. } => {
            let which = which(end.as_secs() == not_after);
            HandshakeError::NotTrusted(format!("{which} expired on {}", date(*end)))
        }
        CertificateError::NotValidYet => {
            HandshakeError::NotTrusted(format!("{this} is not yet valid"))
        }
        CertificateError::NotValidYetContext { not_before: start, .. } => {
            let which = which(start.as_secs() == not_before);
            HandshakeError::NotTrusted(format!("{which} is not valid before {}", date(*start)))
        }
        CertificateError::NotValidForNameContext { expected, .. } => HandshakeError::Hostname {
            expected: expected.to_str().into_owned(),
            found: match parsed.hosts().as_slice() {
                [] => format!("{this} names no host as an alternative name"),
                hosts => format!("{this} is for {}", hosts.join(", ")),
            },
        },
        CertificateError::Revoked => HandshakeError::Revoked(this),
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            HandshakeError::NotTrusted(format!("{this} may not be used by a TLS {noun}"))
        }
        other => HandshakeError::NotTrusted(format!("{this}: {other}")),
    }
}

/// What the peer complains of. `own` is our certificate, if we have one to show, and `missing`
/// why not otherwise.
pub(super) fn of_alert(
    alert: AlertDescription,
    own: Option<&CertificateDer<'_>>,
    missing: &str,
) -> HandshakeError {
    let code = u8::from(alert);
    let parsed = own.and_then(Parsed::new);
    let ours = match &parsed {
        Some(parsed) => format!("our certificate \"{}\"", parsed.subject()),
        None => "our certificate".to_owned(),
    };
    let told = match alert {
        AlertDescription::CertificateRequired | AlertDescription::NoCertificate => {
            format!(
                "certificate required: the peer wants a certificate and we have none: {missing}"
            )
        }
        AlertDescription::UnknownCA => {
            let issuer = parsed.map(|parsed| format!(" \"{}\"", parsed.issuer()));
            let issuer = issuer.unwrap_or_default();
            format!("unknown CA: the peer does not know the issuer{issuer} of {ours}")
        }
        AlertDescription::CertificateExpired => {
            let validity = parsed.as_ref().map(Parsed::validity).map(|(from, to)| {
                format!(", which is valid from {} to {}", seconds(from), seconds(to))
            });
            let validity = validity.unwrap_or_default();
            format!("certificate expired: the peer refuses {ours}{validity}")
        }
        AlertDescription::CertificateRevoked => {
            format!("certificate revoked: the peer refuses {ours}")
        }
        AlertDescription::BadCertificate => format!("bad certificate: the peer refuses {ours}"),
        AlertDescription::UnsupportedCertificate => {
            format!("unsupported certificate: the peer refuses {ours} for this purpose")
        }
        AlertDescription::CertificateUnknown | AlertDescription::DecryptError => {
            format!("certificate unknown: the peer cannot verify {ours}")
        }
        AlertDescription::AccessDenied => {
            format!("access denied: the peer refuses authorization to {ours}")
        }
        AlertDescription::HandshakeFailure
        | AlertDescription::ProtocolVersion
        | AlertDescription::InsufficientSecurity => {
            format!("{alert:?} ({code}): the peer has no protocol in common with us")
        }
        other => format!("{other:?} ({code})"),
    };
    match alert {
        AlertDescription::UnknownCA
        | AlertDescription::CertificateExpired
        | AlertDescription::CertificateRevoked
        | AlertDescription::BadCertificate
        | AlertDescription::UnsupportedCertificate
        | AlertDescription::CertificateUnknown => HandshakeError::Refused(told),
        _ => HandshakeError::Alert(told),
    }
}
