//! What the user says of an object: QAPI's `ObjectOptions`, as the arguments of `object-add`, as
//! JSON or as `key=value` text.

use serde::Deserialize;

use super::ObjectError;
use super::authz::{Authz, Policy, Rule};
use super::secret::SecretOptions;
use crate::cli::opts::Opts;
use crate::cli::value;
use crate::machine::spec::{ObjectKind, ObjectSpec};
use crate::qmp::visit::{self, Size};
use crate::tls::Endpoint;

/// Granularity of guest memory, in bytes.
const MEMORY_GRANULARITY: u64 = 8192;

/// QAPI `ObjectOptions`: each kind's own members, and the identifier.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, schemars::JsonSchema)]
#[serde(rename = "union qom-type", rename_all = "kebab-case")]
pub enum ObjectOptions {
    AuthzList(ListOptions),
    AuthzSimple(SimpleOptions),
    MemoryBackendRam(MemoryOptions),
    RngBuiltin(NoOptions),
    RngRandom(RandomOptions),
    Secret(SecretOptions),
    TlsCredsAnon(AnonOptions),
    TlsCredsPsk(PskOptions),
    #[serde(rename = "tls-creds-x509")]
    TlsCredsX509(X509Options),
}

/// The kinds that can be made, for help.
pub const TYPES: &[&str] = &[
    "authz-list",
    "authz-simple",
    "memory-backend-ram",
    "rng-builtin",
    "rng-random",
    "secret",
    "tls-creds-x509",
];

/// QAPI `AuthZListProperties`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, schemars::JsonSchema)]
pub struct ListOptions {
    pub id: String,
    pub policy: Option<Policy>,
    pub rules: Option<Vec<Rule>>,
}

/// QAPI `AuthZSimpleProperties`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, schemars::JsonSchema)]
pub struct SimpleOptions {
    pub id: String,
    pub identity: String,
}

/// QAPI `MemoryBackendProperties`, as far as they are known.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, schemars::JsonSchema)]
pub struct MemoryOptions {
    pub id: String,
    pub size: Size,
}

/// An object without properties.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, schemars::JsonSchema)]
pub struct NoOptions {
    pub id: String,
}

/// QAPI `RngRandomProperties`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, schemars::JsonSchema)]
pub struct RandomOptions {
    pub id: String,
    pub filename: Option<String>,
}

/// QAPI `TlsCredsX509Properties`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct X509Options {
    pub id: String,
    pub verify_peer: Option<bool>,
    pub dir: Option<String>,
    pub endpoint: Option<Endpoint>,
    pub priority: Option<String>,
    pub sanity_check: Option<bool>,
    pub passwordid: Option<String>,
}

/// QAPI `TlsCredsAnonProperties`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct AnonOptions {
    pub id: String,
    pub verify_peer: Option<bool>,
    pub dir: Option<String>,
    pub endpoint: Option<Endpoint>,
    pub priority: Option<String>,
}

/// QAPI `TlsCredsPskProperties`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct PskOptions {
    pub id: String,
    pub verify_peer: Option<bool>,
    pub dir: Option<String>,
    pub endpoint: Option<Endpoint>,
    pub priority: Option<String>,
    pub username: Option<String>,
}

fn refused<T>(sentence: String) -> Result<T, ObjectError> {
    Err(ObjectError::Refused(sentence))
}

impl ObjectOptions {
    /// `TYPE,id=ID,...`, or the JSON form.
    pub fn parse(text: &str) -> Result<Self, ObjectError> {
        if text.starts_with('{') {
            return match crate::qmp::parser::parse_object(text) {
                Ok(members) => Ok(visit::arguments(members)?),
                Err(sentence) => refused(sentence),
            };
        }
        let opts = Opts::parse_keyval(text, "qom-type")
            .map_err(|error| ObjectError::Refused(error.to_string()))?;
        Ok(visit::text_arguments(opts.items)?)
    }

    /// What is to be made.
    pub fn into_spec(self) -> Result<ObjectSpec, ObjectError> {
        let (id, kind) = match self {
            Self::AuthzList(ListOptions { id, policy, rules }) => {
                let (policy, rules) = (policy.unwrap_or_default(), rules.unwrap_or_default());
                (id, ObjectKind::Authz(Authz::List { policy, rules }))
            }
            Self::AuthzSimple(SimpleOptions { id, identity }) => {
                (id, ObjectKind::Authz(Authz::Simple { identity }))
            }
            Self::MemoryBackendRam(MemoryOptions { id, size: Size(size) }) => {
                if size == 0 || size % MEMORY_GRANULARITY != 0 {
                    return refused(format!(
                        "property 'size' of memory-backend-ram doesn't take value '{size}' \
                         (valid: multiples of {MEMORY_GRANULARITY})"
                    ));
                }
                (id, ObjectKind::MemoryBackendRam { size })
            }
            Self::RngBuiltin(NoOptions { id }) => (id, ObjectKind::RngBuiltin),
            Self::RngRandom(RandomOptions { id, filename }) => {
                let filename = filename.unwrap_or_else(|| "/dev/urandom".to_owned()).into();
                (id, ObjectKind::RngRandom { filename })
            }
            Self::Secret(options) => (options.id.clone(), ObjectKind::Secret(options)),
            Self::TlsCredsX509(options) => (options.id.clone(), ObjectKind::TlsCredsX509(options)),
            Self::TlsCredsAnon(_) => {
                return refused(
                    "tls-creds-anon: TLS without certificates is not available; use \
                     tls-creds-x509"
                        .into(),
                );
            }
            Self::TlsCredsPsk(_) => {
                return refused(
                    "tls-creds-psk: TLS with pre-shared keys is not available; use tls-creds-x509"
                        .into(),
                );
            }
        };
        match value::identifier(&id) {
            Ok(id) => Ok(ObjectSpec { id, kind }),
            Err(_) => Err(ObjectError::Identifier),
        }
    }
}
