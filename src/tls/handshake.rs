//! Handshakes, from either end, bounded in time.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use rustls::client::Resumption;
use rustls::pki_types::ServerName;
use rustls::server::ServerSessionMemoryCache;
use rustls::{ClientConfig, ProtocolVersion, ServerConfig};
use tokio::io::{AsyncBufRead as _, AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::time::error::Elapsed;
use tokio_rustls::{TlsAcceptor, TlsConnector, client};

use super::credentials::X509Credentials;
use super::error::HandshakeError;
use super::stream::{Seen, TlsStream, Wire, of_io};
use super::verify::{Refusal, Verifier};
use crate::objects::authz::Authorization;

/// How long a handshake may take, unless somebody says otherwise.
const BOUND: Duration = Duration::from_secs(10);
/// How long a client waits to hear whether it is accepted. Other servers may say nothing.
const VERDICT: Duration = Duration::from_millis(300);
/// How long a refused peer is listened to, so that it learns why before the connection is gone.
const LINGER: Duration = Duration::from_secs(1);
/// How many bytes it may say meanwhile.
const LINGER_BYTES: u64 = 1 << 20;

/// What a client brings to a handshake.
#[derive(Debug, Clone)]
pub struct ClientTls {
    pub credentials: Arc<X509Credentials>,
    /// Whom the server's certificate has to name, in place of the host that is connected to.
    pub hostname: Option<String>,
    pub bound: Duration,
}

impl ClientTls {
    pub fn new(credentials: Arc<X509Credentials>, hostname: Option<String>) -> Self {
        Self { credentials, hostname, bound: BOUND }
    }
}

/// What a server brings to a handshake.
#[derive(Debug, Clone)]
pub struct ServerTls {
    pub credentials: Arc<X509Credentials>,
    /// Which of the clients with good certificates may come in; all, if `None`.
    pub authorization: Option<Authorization>,
    pub bound: Duration,
}

impl ServerTls {
    pub fn new(credentials: Arc<X509Credentials>, authorization: Option<Authorization>) -> Self {
        Self { credentials, authorization, bound: BOUND }
    }
}

fn refused(error: rustls::Error) -> HandshakeError {
    HandshakeError::Other(error.to_string())
}

/// Shake hands as a client of `host`.
pub async fn connect<S>(
    io: S,
    tls: &ClientTls,
    host: Option<&str>,
) -> Result<TlsStream<S>, HandshakeError>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let credentials = &tls.credentials;
    let host = tls.hostname.as_deref().filter(|name| !name.is_empty()).or(host);
    let nameless = host.is_none();
    // Without one nobody looks at it.
    let host = host.unwrap_or("localhost");
    let name = ServerName::try_from(host.to_owned())
        .map_err(|_| HandshakeError::BadHostname(host.to_owned()))?;
    let refusal = Refusal::default();
    let verifier = Verifier {
        credentials: Arc::clone(credentials),
        authorization: None,
        nameless,
        refusal: Arc::clone(&refusal),
    };
    let builder = ClientConfig::builder_with_provider(Arc::clone(&credentials.provider))
        .with_safe_default_protocol_versions()
        .map_err(refused)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let mut config = match &credentials.identity {
        Some(identity) => builder
            .with_client_auth_cert(identity.chain.clone(), identity.key.clone_key())
            .map_err(refused)?,
        None => builder.with_no_client_auth(),
    };
    config.resumption = Resumption::disabled();
    config.enable_sni = !nameless;
    let seen = Arc::new(Seen::default());
    let wire = Wire::new(io, Arc::clone(&seen));
    let handshake = TlsConnector::from(Arc::new(config)).connect(name, wire).into_fallible();
    let outcome = tokio::time::timeout(tls.bound, handshake).await;
    let mut shaken = conclude(outcome, tls.bound, &seen, &refusal, credentials)?;
    if shaken.get_ref().1.protocol_version() == Some(ProtocolVersion::TLSv1_3)
        && let Ok(Err(error)) = tokio::time::timeout(VERDICT, verdict(&mut shaken)).await
    {
        return Err(reason(&error, &seen, credentials));
    }
    Ok(TlsStream::new(shaken, Arc::clone(credentials)))
}

/// Under TLS 1.3 a client is done before the server has seen its certificate, and one that only
/// writes would not hear that it is refused. Our servers send a session ticket once they are
/// content; what is not a ticket stays to be read.
async fn verdict<S>(tls: &mut client::TlsStream<Wire<S>>) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    poll_fn(|cx| match Pin::new(&mut *tls).poll_fill_buf(cx).map_ok(drop) {
        Poll::Pending if tls.get_ref().1.tls13_tickets_received() == 0 => Poll::Pending,
        Poll::Pending => Poll::Ready(Ok(())),
        heard => heard,
    })
    .await
}

/// Shake hands as a server.
pub async fn accept<S>(io: S, tls: &ServerTls) -> Result<TlsStream<S>, HandshakeError>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let credentials = &tls.credentials;
    let refusal = Refusal::default();
    let builder = ServerConfig::builder_with_provider(Arc::clone(&credentials.provider))
        .with_safe_default_protocol_versions()
        .map_err(refused)?;
    let builder = match credentials.verify_peer {
        false => builder.with_no_client_auth(),
        true => builder.with_client_cert_verifier(Arc::new(Verifier {
            credentials: Arc::clone(credentials),
            authorization: tls.authorization.clone(),
            nameless: false,
            refusal: Arc::clone(&refusal),
        })),
    };
    let Some(identity) = &credentials.identity else {
        return Err(HandshakeError::Other(credentials.missing.clone()));
    };
    let mut config = builder
        .with_single_cert(identity.chain.clone(), identity.key.clone_key())
        .map_err(refused)?;
    // No session is resumed. The ticket says that the client is accepted.
    config.session_storage = ServerSessionMemoryCache::new(1);
    config.send_tls13_tickets = 1;
    let seen = Arc::new(Seen::default());
    let wire = Wire::new(io, Arc::clone(&seen));
    let handshake = TlsAcceptor::from(Arc::new(config)).accept(wire).into_fallible();
    let outcome = tokio::time::timeout(tls.bound, handshake).await;
    let shaken = conclude(outcome, tls.bound, &seen, &refusal, credentials)?;
    Ok(TlsStream::new(shaken, Arc::clone(credentials)))
}

/// The stream of a handshake that has come to an end, or why there is none.
fn conclude<T, S>(
    outcome: Result<Result<T, (io::Error, Wire<S>)>, Elapsed>,
    bound: Duration,
    seen: &Seen,
    refusal: &Refusal,
    credentials: &X509Credentials,
) -> Result<T, HandshakeError>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    match outcome {
        Ok(Ok(shaken)) => Ok(shaken),
        Ok(Err((error, wire))) => {
            tokio::spawn(linger(wire));
            let refusal = refusal.lock().take();
            Err(refusal.unwrap_or_else(|| reason(&error, seen, credentials)))
        }
        Err(Elapsed { .. }) => {
            Err(HandshakeError::TimedOut { seconds: bound.as_secs(), seen: seen.amount() })
        }
    }
}

fn reason(error: &io::Error, seen: &Seen, credentials: &X509Credentials) -> HandshakeError {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match inner {
        Some(rustls::Error::NoCertificatesPresented) => HandshakeError::NoCertificate,
        Some(rustls::Error::InvalidMessage(_) | rustls::Error::PeerSentOversizedRecord)
            if seen.other_language().is_some() =>
        {
            HandshakeError::NotTls(seen.other_language().unwrap_or_default())
        }
        Some(rustls::Error::PeerIncompatible(how)) => {
            HandshakeError::Other(format!("the peer has no protocol in common with us: {how:?}"))
        }
        Some(_) => {
            of_io(error, credentials).unwrap_or_else(|| HandshakeError::Other(error.to_string()))
        }
        None if error.kind() == io::ErrorKind::UnexpectedEof => {
            HandshakeError::Closed(seen.amount())
        }
        None => HandshakeError::Broken { error: error.to_string(), seen: seen.amount() },
    }
}

/// Let a peer read why it is refused: closing at once, with its bytes unread, would reset the
/// connection and take our alert with it.
async fn linger<S: AsyncRead + AsyncWrite + Unpin>(mut wire: Wire<S>) {
    let listening = async {
        wire.shutdown().await?;
        tokio::io::copy(&mut wire.take(LINGER_BYTES), &mut tokio::io::sink()).await
    };
    // Neither a peer that is gone nor one that stays is of interest any more.
    let _ = tokio::time::timeout(LINGER, listening).await;
}
