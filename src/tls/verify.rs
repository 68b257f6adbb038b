//! What looks at the peer's certificate during a handshake: webpki's verifiers, with an ear for
//! why they refuse, and authorization on top.

use std::fmt;
use std::sync::Arc;

use parking_lot::Mutex;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};

use super::certificate::Parsed;
use super::credentials::X509Credentials;
use super::error::{HandshakeError, Whose, of_certificate};
use crate::objects::authz::Authorization;

/// Why the peer's certificate was refused, once it was.
pub(super) type Refusal = Arc<Mutex<Option<HandshakeError>>>;

/// The verifier of one handshake.
pub(super) struct Verifier {
    pub(super) credentials: Arc<X509Credentials>,
    pub(super) authorization: Option<Authorization>,
    /// There is no name for the server's certificate to have.
    pub(super) nameless: bool,
    pub(super) refusal: Refusal,
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verifier").field("credentials", &self.credentials).finish_non_exhaustive()
    }
}

impl Verifier {
    /// Keep why a certificate was refused.
    fn explain<T>(
        &self,
        verdict: Result<T, Error>,
        whose: Whose,
        certificate: &CertificateDer<'_>,
    ) -> Result<T, Error> {
        if let Err(Error::InvalidCertificate(reason)) = &verdict {
            let authority = &self.credentials.authority;
            *self.refusal.lock() = Some(of_certificate(reason, whose, certificate, authority));
        }
        verdict
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if !self.credentials.verify_peer {
            // The user has asked for an encrypted connection with whoever answers.
            return Ok(ServerCertVerified::assertion());
        }
        if self.nameless {
            *self.refusal.lock() = Some(HandshakeError::NoHostname);
            // The server hears that it is its certificate that nobody here can judge.
            return Err(CertificateError::NotValidForName.into());
        }
        let verdict = self.credentials.servers.verify_server_cert(
            end_entity,
            intermediates,
            server_name,
            ocsp_response,
            now,
        );
        self.explain(verdict, Whose::Server, end_entity)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.credentials.servers.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.credentials.servers.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.credentials.servers.supported_verify_schemes()
    }
}

impl ClientCertVerifier for Verifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.credentials.clients.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verdict = self.credentials.clients.verify_client_cert(end_entity, intermediates, now);
        let verified = self.explain(verdict, Whose::Client, end_entity)?;
        let Some(authorization) = &self.authorization else { return Ok(verified) };
        let dn = Parsed::new(end_entity).map(|parsed| parsed.subject()).unwrap_or_default();
        if authorization.rules.is_allowed(&dn) {
            return Ok(verified);
        }
        let authz = authorization.id.clone();
        *self.refusal.lock() = Some(HandshakeError::Denied { dn, authz });
        // Tells the peer "access denied".
        Err(CertificateError::ApplicationVerificationFailure.into())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.credentials.clients.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.credentials.clients.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.credentials.clients.supported_verify_schemes()
    }
}
