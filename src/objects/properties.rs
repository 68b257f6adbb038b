//! Objects as others see them: their types and properties, under QEMU's names.

use serde_json::{Value, json};

use super::authz::Authz;
use super::memory::MemoryBackend;
use crate::machine::memory::host::MemorySource;
use crate::machine::spec::ObjectKind;

/// A property of an object that exists.
#[derive(Debug, Clone, PartialEq)]
pub struct Property {
    pub name: &'static str,
    /// As QEMU's object model calls it.
    pub type_name: &'static str,
    pub value: Value,
}

/// An object that exists.
#[derive(Debug, Clone, PartialEq)]
pub struct ObjectView {
    pub id: String,
    pub type_name: &'static str,
    pub properties: Vec<Property>,
}

impl ObjectKind {
    /// The name of its type.
    pub fn type_name(&self) -> &'static str {
        match self {
            Self::RngRandom { .. } => "rng-random",
            Self::RngBuiltin => "rng-builtin",
            Self::Memory(spec) => spec.type_name,
            Self::IoThread(_) => "iothread",
            Self::Secret(_) => "secret",
            Self::TlsCredsX509(_) => "tls-creds-x509",
            Self::Authz(Authz::Simple { .. }) => "authz-simple",
            Self::Authz(Authz::List { .. }) => "authz-list",
        }
    }
}

fn property(name: &'static str, type_name: &'static str, value: Value) -> Property {
    Property { name, type_name, value }
}

/// What was said of an object.
pub(super) fn of(kind: &ObjectKind) -> Vec<Property> {
    let text = |name, text: &Option<String>| property(name, "string", json!(text));
    match kind {
        ObjectKind::RngRandom { filename } => {
            vec![property("filename", "string", json!(filename.to_string_lossy()))]
        }
        ObjectKind::Secret(secret) => vec![
            property("format", "QCryptoSecretFormat", json!(secret.format.unwrap_or_default())),
            text("file", &secret.file),
            // Whoever may ask for it could have it in other ways, and QEMU shows it.
            text("data", &secret.data),
            text("keyid", &secret.keyid),
            text("iv", &secret.iv),
        ],
        ObjectKind::TlsCredsX509(tls) => vec![
            property(
                "endpoint",
                "QCryptoTLSCredsEndpoint",
                json!(tls.endpoint.unwrap_or_default()),
            ),
            property("verify-peer", "bool", json!(tls.verify_peer.unwrap_or(true))),
            property("sanity-check", "bool", json!(tls.sanity_check.unwrap_or(true))),
            text("dir", &tls.dir),
            text("passwordid", &tls.passwordid),
        ],
        ObjectKind::Authz(Authz::Simple { identity }) => {
            vec![property("identity", "string", json!(identity))]
        }
        ObjectKind::Authz(Authz::List { policy, rules }) => vec![
            property("policy", "QAuthZListPolicy", json!(policy)),
            property("rules", "QAuthZListRule", json!(rules)),
        ],
        ObjectKind::Memory(_) | ObjectKind::IoThread(_) | ObjectKind::RngBuiltin => Vec::new(),
    }
}

/// Memory, as it was allocated.
pub(super) fn of_memory(backend: &MemoryBackend) -> Vec<Property> {
    let request = &backend.request;
    let int = |name, value: u64| property(name, "int", json!(value));
    let switch = |name, value: bool| property(name, "bool", json!(value));
    let mut all = vec![
        int("size", request.size),
        switch("merge", request.merge),
        switch("dump", request.dump),
        switch("prealloc", request.prealloc.is_some()),
        int("prealloc-threads", request.prealloc.unwrap_or(1).into()),
        switch("share", request.share),
        switch("reserve", request.reserve),
        property("host-nodes", "int", json!(request.host_nodes)),
        property("policy", "HostMemPolicy", json!(request.policy)),
    ];
    match &request.source {
        MemorySource::Anonymous | MemorySource::Shm => {}
        MemorySource::File(source) => {
            all.push(property("mem-path", "string", json!(source.path.to_string_lossy())));
            all.push(int("offset", source.offset));
            all.push(int("align", source.align));
            all.push(switch("discard-data", source.discard_data));
            all.push(switch("readonly", source.readonly));
            all.push(property("rom", "OnOffAuto", json!(if source.rom { "on" } else { "off" })));
        }
        MemorySource::Memfd { huge, seal } => {
            all.push(switch("hugetlb", huge.is_some()));
            all.push(int("hugetlbsize", huge.flatten().unwrap_or(0)));
            all.push(switch("seal", *seal));
        }
    }
    all
}
