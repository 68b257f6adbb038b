//! TLS: X.509 credentials as QEMU's `tls-creds-x509` has them, and handshakes by rustls that fail
//! in whole sentences, told from the certificate's point of view.
#![forbid(unsafe_code)]

mod certificate;
mod credentials;
mod error;
mod handshake;
mod sanity;
mod stream;
mod verify;

pub use credentials::{CredentialsError, Endpoint, X509Credentials, X509Files};
pub use error::HandshakeError;
pub use handshake::{ClientTls, ServerTls, accept, connect};
pub use stream::TlsStream;

#[cfg(test)]
pub(crate) mod tests;
