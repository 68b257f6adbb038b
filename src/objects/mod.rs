//! Objects that the user makes by name, with `-object` and `object-add`, for others to refer to:
//! secrets, TLS credentials, authorization, entropy, memory.
#![forbid(unsafe_code)]

pub mod authz;
pub mod options;
pub mod secret;

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::machine::spec::{ObjectKind, ObjectSpec};
use crate::qmp::error::{QmpError, os_words};
use crate::tls::{ClientTls, CredentialsError, Endpoint, ServerTls, X509Credentials, X509Files};
use authz::{Authorization, Authz};
use options::X509Options;

/// Why an object cannot be made, found or removed. Sentences are QEMU's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ObjectError {
    #[error("attempt to add duplicate property '{0}' to object (type 'container')")]
    Duplicate(String),
    #[error("Parameter 'id' expects an identifier")]
    Identifier,
    #[error("object '{0}' not found")]
    NotFound(String),
    #[error("object '{0}' is in use, can not be deleted")]
    InUse(String),
    #[error("No secret with id '{0}'")]
    NoSecret(String),
    #[error("Object with id '{0}' is not a secret")]
    NotASecret(String),
    #[error("No TLS credentials with id '{0}'")]
    NoCredentials(String),
    #[error("Object with id '{0}' is not TLS credentials")]
    NotCredentials(String),
    #[error("Expected TLS credentials for a {0} endpoint")]
    WrongEndpoint(&'static str),
    #[error("Cannot find QAuthZ object ID {0}")]
    NoAuthorization(String),
    #[error("Object '{0}' is not a QAuthZ subclass")]
    NotAuthorization(String),
    #[error("tls-authz needs credentials with verify-peer=on, and those of '{0}' have it off")]
    Unverified(String),
    #[error("Missing 'dir' property value")]
    NoDirectory,
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    #[error(transparent)]
    Argument(#[from] QmpError),
    /// Anything said of one kind only.
    #[error("{0}")]
    Refused(String),
}

/// An object that exists.
#[derive(Debug, Clone)]
enum Object {
    Secret(Arc<[u8]>),
    Credentials(Arc<X509Credentials>),
    Authz(Arc<Authz>),
    /// What only devices made at start refer to.
    Plain,
}

#[derive(Debug)]
struct Entry {
    object: Object,
    in_use: bool,
}

/// The objects of a machine; clones are the same set. Its lock is held only to look up, insert or
/// remove, never while an object is made.
#[derive(Debug, Clone, Default)]
pub struct Objects(Arc<Mutex<BTreeMap<String, Entry>>>);

impl Objects {
    /// Make an object. Its files are read off this thread.
    pub async fn add(&self, spec: ObjectSpec) -> Result<(), ObjectError> {
        if self.0.lock().contains_key(&spec.id) {
            return Err(ObjectError::Duplicate(spec.id));
        }
        let ObjectSpec { id, kind } = spec;
        let objects = self.clone();
        let made = tokio::task::spawn_blocking(move || objects.make(kind)).await;
        let object = made.unwrap_or_else(|panic| Err(ObjectError::Refused(panic.to_string())))?;
        match self.0.lock().entry(id) {
            std::collections::btree_map::Entry::Vacant(place) => {
                place.insert(Entry { object, in_use: false });
                Ok(())
            }
            // Somebody else was faster.
            std::collections::btree_map::Entry::Occupied(place) => {
                Err(ObjectError::Duplicate(place.key().clone()))
            }
        }
    }

    /// Remove an object. Who uses it already keeps it.
    pub fn del(&self, id: &str) -> Result<(), ObjectError> {
        let mut objects = self.0.lock();
        match objects.get(id) {
            None => Err(ObjectError::NotFound(id.to_owned())),
            Some(Entry { in_use: true, .. }) => Err(ObjectError::InUse(id.to_owned())),
            Some(_) => {
                objects.remove(id);
                Ok(())
            }
        }
    }

    /// The machine cannot do without this one.
    pub fn keep(&self, id: &str) {
        if let Some(entry) = self.0.lock().get_mut(id) {
            entry.in_use = true;
        }
    }

    /// Names of all objects.
    pub fn ids(&self) -> Vec<String> {
        self.0.lock().keys().cloned().collect()
    }

    fn find(&self, id: &str) -> Option<Object> {
        self.0.lock().get(id).map(|entry| entry.object.clone())
    }

    /// The bytes of a `secret`.
    pub fn secret(&self, id: &str) -> Result<Arc<[u8]>, ObjectError> {
        match self.find(id) {
            Some(Object::Secret(bytes)) => Ok(bytes),
            Some(_) => Err(ObjectError::NotASecret(id.to_owned())),
            None => Err(ObjectError::NoSecret(id.to_owned())),
        }
    }

    /// The credentials of `tls-creds-x509` for one end of a connection.
    pub fn credentials(
        &self,
        id: &str,
        endpoint: Endpoint,
    ) -> Result<Arc<X509Credentials>, ObjectError> {
        match self.find(id) {
            Some(Object::Credentials(found)) if found.endpoint() == endpoint => Ok(found),
            Some(Object::Credentials(_)) => Err(ObjectError::WrongEndpoint(endpoint.name())),
            Some(_) => Err(ObjectError::NotCredentials(id.to_owned())),
            None => Err(ObjectError::NoCredentials(id.to_owned())),
        }
    }

    /// The rules of an `authz-simple` or `authz-list`.
    pub fn authorization(&self, id: &str) -> Result<Authorization, ObjectError> {
        match self.find(id) {
            Some(Object::Authz(rules)) => Ok(Authorization { id: id.to_owned(), rules }),
            Some(_) => Err(ObjectError::NotAuthorization(id.to_owned())),
            None => Err(ObjectError::NoAuthorization(id.to_owned())),
        }
    }

    /// What a source brings to TLS: the parameters `tls-creds` and `tls-hostname`.
    pub fn client_tls(
        &self,
        credentials: &str,
        hostname: Option<&str>,
    ) -> Result<ClientTls, ObjectError> {
        let credentials = self.credentials(credentials, Endpoint::Client)?;
        Ok(ClientTls::new(credentials, hostname.map(str::to_owned)))
    }

    /// What a destination brings to TLS: the parameters `tls-creds` and `tls-authz`.
    pub fn server_tls(
        &self,
        credentials: &str,
        authorization: Option<&str>,
    ) -> Result<ServerTls, ObjectError> {
        let found = self.credentials(credentials, Endpoint::Server)?;
        let authorization = authorization.filter(|id| !id.is_empty());
        if authorization.is_some() && !found.verifies_peer() {
            return Err(ObjectError::Unverified(credentials.to_owned()));
        }
        let authorization = authorization.map(|id| self.authorization(id)).transpose()?;
        Ok(ServerTls::new(found, authorization))
    }

    /// Make what `kind` describes; blocks for as long as its files do.
    fn make(&self, kind: ObjectKind) -> Result<Object, ObjectError> {
        match kind {
            ObjectKind::Secret(options) => {
                let key = |id: &str| self.secret(id).map(|bytes| bytes.to_vec());
                Ok(Object::Secret(secret::load(&options, key)?.into()))
            }
            ObjectKind::TlsCredsX509(options) => {
                let files = self.files(options)?;
                Ok(Object::Credentials(Arc::new(X509Credentials::load(&files)?)))
            }
            ObjectKind::Authz(rules) => Ok(Object::Authz(Arc::new(rules))),
            ObjectKind::RngRandom { filename } => match std::fs::File::open(&filename) {
                Ok(_) => Ok(Object::Plain),
                Err(error) => {
                    let (path, reason) = (filename.display(), os_words(&error));
                    Err(ObjectError::Refused(format!("Could not open '{path}': {reason}")))
                }
            },
            ObjectKind::RngBuiltin | ObjectKind::MemoryBackendRam { .. } => Ok(Object::Plain),
        }
    }

    fn files(&self, options: X509Options) -> Result<X509Files, ObjectError> {
        let X509Options { dir, endpoint, verify_peer, sanity_check, passwordid, priority, .. } =
            options;
        if let Some(priority) = priority {
            return Err(ObjectError::Refused(format!(
                "priority '{priority}': choosing protocol versions and ciphers is not available; \
                 TLS 1.3 and 1.2 are offered"
            )));
        }
        let password = passwordid.map(|id| self.secret(&id)).transpose()?;
        Ok(X509Files {
            dir: dir.ok_or(ObjectError::NoDirectory)?.into(),
            endpoint: endpoint.unwrap_or_default(),
            verify_peer: verify_peer.unwrap_or(true),
            sanity_check: sanity_check.unwrap_or(true),
            password: password.map(|bytes| bytes.to_vec()),
        })
    }
}

#[cfg(test)]
mod tests;
