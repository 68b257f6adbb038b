//! The files of `tls-creds-x509`, read once when the object is made. Sentences are QEMU's.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{
    CertificateDer, CertificateRevocationListDer, PrivateKeyDer, PrivatePkcs8KeyDer,
};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::sign::CertifiedKey;
use serde::{Deserialize, Serialize};

use super::sanity;
use crate::qmp::error::os_words;

/// Names of the files in the directory.
const CA_CERT: &str = "ca-cert.pem";
const CA_CRL: &str = "ca-crl.pem";
/// Largest credentials file, in bytes.
const FILE_MAX: u64 = 4 << 20;
/// How a key that is encrypted as PKCS #8 begins.
const ENCRYPTED: &str = "-----BEGIN ENCRYPTED PRIVATE KEY-----";
/// How the older way of encrypting a key shows.
const LEGACY_ENCRYPTED: &str = "Proc-Type: 4,ENCRYPTED";

/// QAPI `QCryptoTLSCredsEndpoint`.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum Endpoint {
    #[default]
    Client,
    Server,
}

impl Endpoint {
    /// `client` or `server`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Server => "server",
        }
    }
}

/// Why credentials cannot be loaded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CredentialsError {
    #[error("Unable to access credentials {path}: {reason}")]
    Access { path: String, reason: String },
    #[error("Unable to import CA certificate list {0}")]
    NoAuthority(String),
    #[error("Unable to import {endpoint} certificate {path}: {reason}")]
    Import { endpoint: &'static str, path: String, reason: String },
    #[error("Cannot load CA certificate '{path}': {reason}")]
    Authority { path: String, reason: String },
    #[error("Cannot load CRL '{path}': {reason}")]
    Crl { path: String, reason: String },
    #[error("Cannot load certificate '{certificate}' & key '{key}': {reason}")]
    Key { certificate: String, key: String, reason: String },
    #[error("The {whose} certificate {path} has expired")]
    Expired { whose: &'static str, path: String },
    #[error("The {whose} certificate {path} is not yet active")]
    NotYetActive { whose: &'static str, path: String },
    #[error("The certificate {path} basic constraints show a CA, but we need one for a {endpoint}")]
    IsAuthority { path: String, endpoint: &'static str },
    #[error("The certificate {path} basic constraints do not show a CA")]
    IsNoAuthority { path: String },
    #[error("The certificate {path} is missing basic constraints for a CA")]
    NoConstraints { path: String },
    #[error("Certificate {path} usage does not permit {usage}")]
    Usage { path: String, usage: &'static str },
    #[error("Certificate {path} purpose does not allow use with a TLS {endpoint}")]
    Purpose { path: String, endpoint: &'static str },
    #[error("Our own certificate {path} failed validation against {authority}: {reason}")]
    Validation { path: String, authority: String, reason: String },
}

/// Where credentials are, and what is asked of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct X509Files {
    pub dir: PathBuf,
    pub endpoint: Endpoint,
    /// Refuse a peer without a certificate that an authority has signed.
    pub verify_peer: bool,
    /// Look at our own certificates first.
    pub sanity_check: bool,
    /// Of an encrypted key.
    pub password: Option<Vec<u8>>,
}

/// A certificate to show, with its key.
pub(super) struct Identity {
    pub(super) chain: Vec<CertificateDer<'static>>,
    pub(super) key: PrivateKeyDer<'static>,
}

/// Credentials that are loaded.
pub struct X509Credentials {
    pub(super) endpoint: Endpoint,
    pub(super) verify_peer: bool,
    pub(super) provider: Arc<CryptoProvider>,
    pub(super) identity: Option<Identity>,
    /// Why there is no identity.
    pub(super) missing: String,
    /// The file of the authorities, for sentences.
    pub(super) authority: String,
    pub(super) servers: Arc<dyn ServerCertVerifier>,
    pub(super) clients: Arc<dyn ClientCertVerifier>,
}

impl fmt::Debug for X509Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { endpoint, verify_peer, authority, .. } = self;
        f.debug_struct("X509Credentials")
            .field("endpoint", endpoint)
            .field("verify_peer", verify_peer)
            .field("authority", authority)
            .finish_non_exhaustive()
    }
}

/// A file that may be missing.
fn read(path: &Path) -> Result<Option<Vec<u8>>, CredentialsError> {
    let failed = |error: &io::Error| CredentialsError::Access {
        path: path.display().to_string(),
        reason: os_words(error),
    };
    let size = match std::fs::metadata(path) {
        Ok(metadata) => metadata.len(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(&error)),
    };
    if size > FILE_MAX {
        return Err(failed(&io::ErrorKind::FileTooLarge.into()));
    }
    std::fs::read(path).map(Some).map_err(|error| failed(&error))
}

/// A file that has to be there.
fn required(path: &Path) -> Result<Vec<u8>, CredentialsError> {
    read(path)?.ok_or_else(|| CredentialsError::Access {
        path: path.display().to_string(),
        reason: os_words(&io::Error::from(rustix::io::Errno::NOENT)),
    })
}

fn certificates(pem: &[u8]) -> Option<Vec<CertificateDer<'static>>> {
    let found: Vec<_> = CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>().ok()?;
    (!found.is_empty()).then_some(found)
}

impl X509Credentials {
    /// Read and check the files. Blocks for as long as the disk, or the decryption of a key, does.
    pub fn load(files: &X509Files) -> Result<Self, CredentialsError> {
        let X509Files { dir, endpoint, .. } = files;
        let provider = Arc::new(ring::default_provider());
        let name = endpoint.name();
        let authority_path = dir.join(CA_CERT);
        let authority = authority_path.display().to_string();
        let authority_pem = required(&authority_path)?;
        let crl_path = dir.join(CA_CRL);
        let crls = read(&crl_path)?;
        let certificate_path = dir.join(format!("{name}-cert.pem"));
        let key_path = dir.join(format!("{name}-key.pem"));
        let (certificate_pem, key_pem) = match endpoint {
            Endpoint::Server => (Some(required(&certificate_path)?), Some(required(&key_path)?)),
            Endpoint::Client => (read(&certificate_path)?, read(&key_path)?),
        };

        let shown = certificate_path.display().to_string();
        let chain = certificate_pem.map(|pem| {
            certificates(&pem).ok_or_else(|| CredentialsError::Import {
                endpoint: name,
                path: shown.clone(),
                reason: "Base64 unexpected header error.".to_owned(),
            })
        });
        let chain = chain.transpose()?;
        let authorities = certificates(&authority_pem)
            .ok_or_else(|| CredentialsError::NoAuthority(authority.clone()))?;
        let mut roots = RootCertStore::empty();
        for certificate in &authorities {
            roots.add(certificate.clone()).map_err(|error| CredentialsError::Authority {
                path: authority.clone(),
                reason: error.to_string(),
            })?;
        }
        if files.sanity_check {
            sanity::check(&sanity::Own {
                endpoint: *endpoint,
                chain: chain.as_deref(),
                path: &shown,
                authorities: &authorities,
                authority: &authority,
                roots: &roots,
                algorithms: &provider.signature_verification_algorithms,
            })?;
        }
        let mut missing = String::new();
        let identity = match (chain, key_pem) {
            (Some(chain), Some(pem)) => {
                let identity = identity(chain, &pem, files.password.as_deref(), &provider);
                Some(identity.map_err(|reason| CredentialsError::Key {
                    certificate: shown.clone(),
                    key: key_path.display().to_string(),
                    reason,
                })?)
            }
            (None, _) => {
                missing = format!("there is no {shown}");
                None
            }
            (Some(_), None) => {
                missing = format!("there is no {}", key_path.display());
                None
            }
        };
        let crls: Vec<_> = match crls {
            None => Vec::new(),
            Some(pem) => CertificateRevocationListDer::pem_slice_iter(&pem)
                .collect::<Result<_, _>>()
                .map_err(|error| CredentialsError::Crl {
                    path: crl_path.display().to_string(),
                    reason: error.to_string(),
                })?,
        };
        let refused = |error: &dyn fmt::Display| CredentialsError::Crl {
            path: crl_path.display().to_string(),
            reason: error.to_string(),
        };
        let roots = Arc::new(roots);
        let servers =
            WebPkiServerVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(&provider))
                .with_crls(crls.clone())
                .allow_unknown_revocation_status()
                .build()
                .map_err(|error| refused(&error))?;
        let clients = WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(&provider))
            .with_crls(crls)
            .allow_unknown_revocation_status()
            .build()
            .map_err(|error| refused(&error))?;
        Ok(Self {
            endpoint: *endpoint,
            verify_peer: files.verify_peer,
            provider,
            identity,
            missing,
            authority,
            servers,
            clients,
        })
    }

    /// Which end of a connection they are for.
    pub fn endpoint(&self) -> Endpoint {
        self.endpoint
    }

    /// Whether a peer has to show who it is.
    pub fn verifies_peer(&self) -> bool {
        self.verify_peer
    }
}

/// The key for a chain of certificates; the error is its reason.
fn identity(
    chain: Vec<CertificateDer<'static>>,
    pem: &[u8],
    password: Option<&[u8]>,
    provider: &CryptoProvider,
) -> Result<Identity, String> {
    let text = String::from_utf8_lossy(pem);
    let key = if let Some(at) = text.find(ENCRYPTED) {
        let password = password
            .ok_or("The key is encrypted, and passwordid names no secret with its password.")?;
        decrypt(&text[at..], password)?
    } else if text.contains(LEGACY_ENCRYPTED) {
        return Err("The key is encrypted in the legacy PEM format; PKCS #8 is needed.".into());
    } else {
        PrivateKeyDer::from_pem_slice(pem)
            .map_err(|_| "Base64 unexpected header error.".to_owned())?
    };
    let signing = provider
        .key_provider
        .load_private_key(key.clone_key())
        .map_err(|error| error.to_string())?;
    match CertifiedKey::new(chain.clone(), signing).keys_match() {
        Ok(()) => Ok(Identity { chain, key }),
        Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) => {
            Ok(Identity { chain, key })
        }
        Err(rustls::Error::InconsistentKeys(_)) => {
            Err("The certificate and the given key do not match.".into())
        }
        Err(error) => Err(error.to_string()),
    }
}

/// Decrypt a key (RFC 5958 section 3) that `text` starts with.
fn decrypt(text: &str, password: &[u8]) -> Result<PrivateKeyDer<'static>, String> {
    let malformed = |error: &dyn fmt::Display| format!("The encrypted key is malformed: {error}.");
    let (_, document) =
        pkcs8::SecretDocument::from_pem(text.trim_end()).map_err(|error| malformed(&error))?;
    let encrypted = pkcs8::EncryptedPrivateKeyInfoRef::try_from(document.as_bytes())
        .map_err(|error| malformed(&error))?;
    let key = encrypted.decrypt(password).map_err(|_| "Decryption has failed.".to_owned())?;
    Ok(PrivatePkcs8KeyDer::from(key.as_bytes().to_vec()).into())
}
