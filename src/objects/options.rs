//! What the user says of an object: QAPI's `ObjectOptions`, as the arguments of `object-add`, as
//! JSON or as `key=value` text.

use serde::Deserialize;

use super::ObjectError;
use super::authz::{Authz, Policy, Rule};
use super::iothread::IoThreadOptions;
use super::memory::{FileOptions, MemfdOptions, MemorySpec, RamOptions, ShmOptions};
use super::secret::SecretOptions;
use crate::cli::opts::Opts;
use crate::cli::value;
use crate::machine::memory::host::NODES;
use crate::machine::spec::{ObjectKind, ObjectSpec};
use crate::qmp::visit;
use crate::qom::types;
use crate::tls::Endpoint;

/// QAPI `ObjectOptions`: each kind's own members, and the identifier. The kinds that introspection
/// does not list are refused in words.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, schemars::JsonSchema)]
#[serde(rename = "union qom-type", rename_all = "kebab-case")]
pub enum ObjectOptions {
    AuthzList(ListOptions),
    AuthzSimple(SimpleOptions),
    Iothread(IoThreadOptions),
    MemoryBackendFile(FileOptions),
    MemoryBackendMemfd(MemfdOptions),
    MemoryBackendRam(RamOptions),
    MemoryBackendShm(ShmOptions),
    RngBuiltin(NoOptions),
    RngRandom(RandomOptions),
    Secret(SecretOptions),
    #[schemars(skip)]
    TlsCredsAnon(AnonOptions),
    #[schemars(skip)]
    TlsCredsPsk(PskOptions),
    #[serde(rename = "tls-creds-x509")]
    TlsCredsX509(X509Options),
}

/// The kinds that can be made, for help.
pub const TYPES: &[&str] = &[
    "authz-list",
    "authz-simple",
    "iothread",
    "memory-backend-file",
    "memory-backend-memfd",
    "memory-backend-ram",
    "memory-backend-shm",
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

/// What `help`, or `TYPE,help`, prints.
pub fn help(text: &str) -> Option<String> {
    let opts = Opts::parse_keyval(text, "qom-type").ok().filter(|_| !text.starts_with('{'))?;
    if !opts.wants_help() {
        return None;
    }
    if let Some(name) = opts.get("qom-type") {
        // One that there is not is refused.
        let of = TYPES.contains(&name).then(|| types::find(name)).flatten()?;
        return Some(crate::qom::object_help(of));
    }
    let types: Vec<_> = TYPES.iter().map(|name| format!("  {name}\n")).collect();
    Some(format!("List of user creatable objects:\n{}", types.concat()))
}

/// `TYPE,id=ID,...` as a command of the human monitor has it: with dotted keys.
pub fn parse_dotted(text: &str) -> Result<ObjectOptions, ObjectError> {
    Ok(visit::dotted_arguments(items(text)?)?)
}

fn items(text: &str) -> Result<Vec<(String, String)>, ObjectError> {
    match Opts::parse_keyval(text, "qom-type") {
        Ok(opts) => Ok(opts.items),
        Err(error) => refused(error.to_string()),
    }
}

/// `host-nodes=A-B`, as often as it is given, with a key for every node.
fn spread_nodes(items: Vec<(String, String)>) -> Result<Vec<(String, String)>, ObjectError> {
    let name = "host-nodes";
    let mut all = Vec::new();
    let mut count = 0;
    for (key, value) in items {
        if key != name {
            all.push((key, value));
            continue;
        }
        let (first, last) = value.split_once('-').unwrap_or((&value, &value));
        let range = first.parse::<u16>().ok().zip(last.parse::<u16>().ok());
        let Some((first, last)) = range.filter(|(first, last)| first <= last) else {
            return refused(format!("Parameter '{name}' expects a uint64 value or range"));
        };
        // One beyond those that there can be is enough to be refused.
        for node in first..=last.min(first.saturating_add(NODES)) {
            all.push((format!("{name}.{count}"), node.to_string()));
            count += 1;
        }
    }
    Ok(all)
}

impl ObjectOptions {
    /// `TYPE,id=ID,...` as an option has it, or the JSON form.
    pub fn parse(text: &str) -> Result<Self, ObjectError> {
        if text.starts_with('{') {
            return match crate::qmp::parser::parse_object(text) {
                Ok(members) => Ok(visit::arguments(members)?),
                Err(sentence) => refused(sentence),
            };
        }
        let items = items(text)?;
        // Keys do not nest here, but for the one list that can be written flat.
        match items.iter().any(|(key, _)| key == "host-nodes") {
            true => Ok(visit::dotted_arguments(spread_nodes(items)?)?),
            false => Ok(visit::text_arguments(items)?),
        }
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
            Self::Iothread(options) => {
                (options.id.clone(), ObjectKind::IoThread((&options).try_into()?))
            }
            Self::MemoryBackendRam(options) => memory(&options.id, (&options).into())?,
            Self::MemoryBackendFile(options) => memory(&options.id, (&options).try_into()?)?,
            Self::MemoryBackendShm(options) => memory(&options.id, (&options).try_into()?)?,
            Self::MemoryBackendMemfd(options) => memory(&options.id, (&options).into())?,
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

fn memory(id: &str, spec: MemorySpec) -> Result<(String, ObjectKind), ObjectError> {
    spec.check()?;
    Ok((id.to_owned(), ObjectKind::Memory(spec)))
}
