//! Objects that the user makes by name, with `-object` and `object-add`, for others to refer to:
//! secrets, TLS credentials, authorization, entropy, memory, threads.
#![forbid(unsafe_code)]

pub mod authz;
mod composition;
pub mod iothread;
pub mod memory;
pub mod options;
pub mod properties;
pub mod secret;

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::machine::spec::{ObjectKind, ObjectSpec};
use crate::qmp::error::{QmpError, os_words};
use crate::qmp::hash_order::HashOrder;
use crate::tls::{ClientTls, CredentialsError, Endpoint, ServerTls, X509Credentials, X509Files};
use authz::{Authorization, Authz};
use iothread::{IoThread, IoThreadInfo};
use memory::{Memdev, MemoryBackend, MemoryDefaults, MemorySpec};
use options::X509Options;
use properties::{ObjectView, Property};

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
    #[error("Memory backend '{0}' not found")]
    NoMemory(String),
    #[error("Device '{0}' not found")]
    NoIoThread(String),
    #[error("Invalid parameter type for 'iothread', expected: iothread")]
    NotAnIoThread,
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
    Memory(Arc<MemoryBackend>),
    IoThread(Arc<IoThread>),
    /// What only devices made at start refer to.
    Plain,
}

#[derive(Debug)]
struct Entry {
    type_name: &'static str,
    properties: Vec<Property>,
    object: Object,
    in_use: bool,
}

/// The objects of a machine; clones are the same set. Its lock is held only to look up, insert or
/// remove, never while an object is made.
#[derive(Debug, Clone, Default)]
pub struct Objects {
    entries: Arc<Mutex<Entries>>,
    memory_defaults: MemoryDefaults,
}

#[derive(Debug, Default)]
struct Entries {
    by_id: HashMap<String, Entry>,
    /// In which QEMU would list them.
    order: HashOrder,
}

impl Objects {
    /// None yet.
    pub fn new(memory_defaults: MemoryDefaults) -> Self {
        Self { entries: Arc::default(), memory_defaults }
    }

    fn contains(&self, id: &str) -> bool {
        self.entries.lock().by_id.contains_key(id)
    }

    /// Make an object, on a thread of the actix system. Its files are read, and its memory is
    /// allocated, elsewhere.
    pub async fn add(&self, spec: ObjectSpec) -> Result<(), ObjectError> {
        if self.contains(&spec.id) {
            return Err(ObjectError::Duplicate(spec.id));
        }
        let ObjectSpec { id, kind } = spec;
        let type_name = kind.type_name();
        let (object, properties) = match kind {
            ObjectKind::IoThread(limits) => {
                (Object::IoThread(IoThread::start(&id, limits).await?), Vec::new())
            }
            kind => {
                let (objects, id) = (self.clone(), id.clone());
                let made = tokio::task::spawn_blocking(move || {
                    let properties = properties::of(&kind);
                    let object = objects.make(&id, kind)?;
                    Ok(match &object {
                        Object::Memory(memory) => (object.clone(), properties::of_memory(memory)),
                        _ => (object, properties),
                    })
                });
                let made = made.await;
                made.unwrap_or_else(|panic| Err(ObjectError::Refused(panic.to_string())))?
            }
        };
        let mut entries = self.entries.lock();
        // Somebody else may have been faster.
        if entries.by_id.contains_key(&id) {
            return Err(ObjectError::Duplicate(id));
        }
        entries.order.insert(&id);
        entries.by_id.insert(id, Entry { type_name, properties, object, in_use: false });
        Ok(())
    }

    /// Remove an object. Who uses it already keeps it.
    pub fn del(&self, id: &str) -> Result<(), ObjectError> {
        let mut entries = self.entries.lock();
        match entries.by_id.get(id) {
            None => return Err(ObjectError::NotFound(id.to_owned())),
            Some(Entry { in_use: true, .. }) => return Err(ObjectError::InUse(id.to_owned())),
            Some(_) => {}
        }
        entries.order.remove(id);
        let gone = entries.by_id.remove(id);
        // Memory takes its time to be given back.
        drop(entries);
        drop(gone);
        Ok(())
    }

    /// The machine cannot do without this one.
    pub fn keep(&self, id: &str) {
        let mut entries = self.entries.lock();
        if let Some(entry) = entries.by_id.get_mut(id) {
            entry.in_use = true;
        }
    }

    /// Every object as others see it.
    pub fn list(&self) -> Vec<ObjectView> {
        self.of(|id, entry| {
            Some(ObjectView {
                id: id.to_owned(),
                type_name: entry.type_name,
                properties: match &entry.object {
                    Object::IoThread(thread) => thread.properties(),
                    _ => entry.properties.clone(),
                },
            })
        })
    }

    /// `query-memdev`.
    pub fn memdevs(&self) -> Vec<Memdev> {
        let mut all = self.of(|_, entry| match &entry.object {
            Object::Memory(backend) => Some(Memdev::from(&**backend)),
            _ => None,
        });
        // The one that QEMU comes upon last is first in its list.
        all.reverse();
        all
    }

    /// `query-iothreads`.
    pub fn iothreads(&self) -> Vec<IoThreadInfo> {
        self.of(|id, entry| match &entry.object {
            Object::IoThread(thread) => Some(IoThreadInfo::of(id, thread)),
            _ => None,
        })
    }

    fn of<T>(&self, describe: impl Fn(&str, &Entry) -> Option<T>) -> Vec<T> {
        let Entries { by_id, order } = &*self.entries.lock();
        order.iter().filter_map(|id| describe(id, by_id.get(id)?)).collect()
    }

    /// The memory of a `memory-backend-…`.
    pub fn memory(&self, id: &str) -> Result<Arc<MemoryBackend>, ObjectError> {
        match self.find(id) {
            Some(Object::Memory(backend)) => Ok(backend),
            _ => Err(ObjectError::NoMemory(id.to_owned())),
        }
    }

    /// An `iothread`.
    pub fn iothread(&self, id: &str) -> Result<Arc<IoThread>, ObjectError> {
        match self.find(id) {
            Some(Object::IoThread(thread)) => Ok(thread),
            Some(_) => Err(ObjectError::NotAnIoThread),
            None => Err(ObjectError::NoIoThread(id.to_owned())),
        }
    }

    fn find(&self, id: &str) -> Option<Object> {
        let entries = self.entries.lock();
        entries.by_id.get(id).map(|entry| entry.object.clone())
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
    fn make(&self, id: &str, kind: ObjectKind) -> Result<Object, ObjectError> {
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
            ObjectKind::Memory(spec) => self.allocate(id, &spec),
            // A thread of the actix system starts the one, and the other has nothing to be made of.
            ObjectKind::IoThread(_) | ObjectKind::RngBuiltin => Ok(Object::Plain),
        }
    }

    fn allocate(&self, id: &str, spec: &MemorySpec) -> Result<Object, ObjectError> {
        let backend = MemoryBackend::new(id, spec, self.memory_defaults)?;
        Ok(Object::Memory(Arc::new(backend)))
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
