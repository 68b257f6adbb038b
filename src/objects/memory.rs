//! `memory-backend-*`: memory of the host, under a name, for a machine to have as its RAM.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::ObjectError;
use crate::machine::memory::host::{
    FileSource, HostMemPolicy, HostMemory, MemoryRequest, MemorySource, NODES,
};
use crate::qmp::visit::Size;

/// A QAPI type of properties that has those of `MemoryBackendProperties`, and some of its own.
macro_rules! memory_options {
    ($($(#[$doc:meta])* $name:ident { $($field:ident: $type:ty,)* })*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Deserialize, schemars::JsonSchema)]
        #[serde(rename_all = "kebab-case")]
        pub struct $name {
            pub id: String,
            pub dump: Option<bool>,
            pub host_nodes: Option<Vec<u16>>,
            pub merge: Option<bool>,
            pub policy: Option<HostMemPolicy>,
            pub prealloc: Option<bool>,
            pub prealloc_threads: Option<u32>,
            pub share: Option<bool>,
            pub reserve: Option<bool>,
            pub size: Size,
            $(pub $field: $type,)*
        }

        impl $name {
            /// What all kinds have.
            fn general(&self, type_name: &'static str, source: MemorySource) -> MemorySpec {
                MemorySpec {
                    type_name,
                    source,
                    size: self.size.0,
                    dump: self.dump,
                    host_nodes: self.host_nodes.clone().unwrap_or_default(),
                    merge: self.merge,
                    policy: self.policy.unwrap_or_default(),
                    prealloc: self.prealloc,
                    prealloc_threads: self.prealloc_threads,
                    share: self.share,
                    reserve: self.reserve.unwrap_or(true),
                }
            }
        }
    )*};
}

memory_options! {
    /// QAPI `MemoryBackendProperties`, which `memory-backend-ram` has.
    RamOptions {}

    /// QAPI `MemoryBackendFileProperties`.
    FileOptions {
        align: Option<Size>,
        offset: Option<Size>,
        discard_data: Option<bool>,
        mem_path: String,
        readonly: Option<bool>,
        rom: Option<OnOffAuto>,
    }

    /// QAPI `MemoryBackendShmProperties`.
    ShmOptions {}

    /// QAPI `MemoryBackendMemfdProperties`.
    MemfdOptions {
        hugetlb: Option<bool>,
        hugetlbsize: Option<Size>,
        seal: Option<bool>,
    }
}

impl From<&RamOptions> for MemorySpec {
    fn from(options: &RamOptions) -> Self {
        options.general("memory-backend-ram", MemorySource::Anonymous)
    }
}

/// QAPI `OnOffAuto`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum OnOffAuto {
    Auto,
    On,
    Off,
}

impl TryFrom<&FileOptions> for MemorySpec {
    type Error = ObjectError;

    fn try_from(options: &FileOptions) -> Result<Self, ObjectError> {
        let refused = |sentence: &str| Err(ObjectError::Refused(sentence.to_owned()));
        let readonly = options.readonly.unwrap_or(false);
        let share = options.share.unwrap_or(false);
        let rom = match options.rom.unwrap_or(OnOffAuto::Auto) {
            OnOffAuto::Auto => readonly,
            OnOffAuto::On if !readonly => {
                return refused("property 'rom' = 'on' is not supported with 'readonly' = 'off'");
            }
            OnOffAuto::Off if readonly && share => {
                return refused(
                    "property 'rom' = 'off' is incompatible with 'readonly' = 'on' and 'share' = \
                     'on'",
                );
            }
            rom => rom == OnOffAuto::On,
        };
        let source = MemorySource::File(FileSource {
            path: options.mem_path.clone().into(),
            offset: options.offset.map_or(0, |offset| offset.0),
            align: options.align.map_or(0, |align| align.0),
            discard_data: options.discard_data.unwrap_or(false),
            readonly,
            rom,
        });
        Ok(options.general("memory-backend-file", source))
    }
}

impl TryFrom<&ShmOptions> for MemorySpec {
    type Error = ObjectError;

    fn try_from(options: &ShmOptions) -> Result<Self, ObjectError> {
        if options.share == Some(false) {
            let sentence = "can't create shm backend with `share=off`";
            return Err(ObjectError::Refused(sentence.to_owned()));
        }
        Ok(options.general("memory-backend-shm", MemorySource::Shm))
    }
}

impl From<&MemfdOptions> for MemorySpec {
    fn from(options: &MemfdOptions) -> Self {
        let size = options.hugetlbsize.map(|size| size.0).filter(|size| *size != 0);
        let source = MemorySource::Memfd {
            huge: options.hugetlb.unwrap_or(false).then_some(size),
            seal: options.seal.unwrap_or(true),
        };
        options.general("memory-backend-memfd", source)
    }
}

/// A back end to be made: what its user has said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemorySpec {
    pub type_name: &'static str,
    pub source: MemorySource,
    /// Bytes.
    pub size: u64,
    pub dump: Option<bool>,
    pub host_nodes: Vec<u16>,
    pub merge: Option<bool>,
    pub policy: HostMemPolicy,
    pub prealloc: Option<bool>,
    pub prealloc_threads: Option<u32>,
    /// A memory file is shared unless it is said otherwise; everything else is not.
    pub share: Option<bool>,
    pub reserve: bool,
}

impl MemorySpec {
    /// Memory of which nothing is said but its size, perhaps in a file (`-mem-path`).
    pub fn plain(size: u64, path: Option<std::path::PathBuf>) -> Self {
        let (type_name, source) = match path {
            None => ("memory-backend-ram", MemorySource::Anonymous),
            Some(path) => (
                "memory-backend-file",
                MemorySource::File(FileSource { path, ..FileSource::default() }),
            ),
        };
        Self {
            type_name,
            source,
            size,
            dump: None,
            host_nodes: Vec::new(),
            merge: None,
            policy: HostMemPolicy::Default,
            prealloc: None,
            prealloc_threads: None,
            share: None,
            reserve: true,
        }
    }

    /// What is refused before anything is allocated.
    pub fn check(&self) -> Result<(), ObjectError> {
        let refused = |sentence: String| Err(ObjectError::Refused(sentence));
        let value = |name: &str| {
            refused(format!("property '{name}' of {} doesn't take value '0'", self.type_name))
        };
        if self.size == 0 {
            return value("size");
        }
        if self.prealloc_threads == Some(0) {
            return value("prealloc-threads");
        }
        if let Some(node) = self.host_nodes.iter().find(|node| **node >= NODES) {
            return refused(format!("Invalid host-nodes value: {node}"));
        }
        if self.prealloc == Some(true) && !self.reserve {
            return refused("'prealloc=on' and 'reserve=off' are incompatible".to_owned());
        }
        match (self.policy, self.host_nodes.is_empty()) {
            (HostMemPolicy::Default, false) => refused(
                "host-nodes must be empty for policy default, or you should explicitly specify a \
                 policy other than default"
                    .to_owned(),
            ),
            (HostMemPolicy::Default, true) | (_, false) => Ok(()),
            (policy, true) => {
                refused(format!("host-nodes must be set for policy {}", policy.name()))
            }
        }
    }

    /// With the machine's defaults for what is not said.
    fn request(&self, name: &str, defaults: MemoryDefaults) -> MemoryRequest {
        let prealloc = self.prealloc.unwrap_or(defaults.prealloc_threads.is_some());
        let threads = self.prealloc_threads.or(defaults.prealloc_threads).unwrap_or(1);
        MemoryRequest {
            name: name.to_owned(),
            size: self.size,
            source: self.source.clone(),
            share: self
                .share
                .unwrap_or(matches!(self.source, MemorySource::Memfd { .. } | MemorySource::Shm)),
            reserve: self.reserve,
            prealloc: (prealloc && self.reserve).then_some(threads),
            merge: self.merge.unwrap_or(defaults.merge),
            dump: self.dump.unwrap_or(defaults.dump),
            policy: self.policy,
            host_nodes: self.host_nodes.clone(),
        }
    }
}

/// What the command line says of all memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryDefaults {
    /// `-machine mem-merge=`.
    pub merge: bool,
    /// `-machine dump-guest-core=`.
    pub dump: bool,
    /// `-mem-prealloc`: allocate everything ahead, with so many threads.
    pub prealloc_threads: Option<u32>,
}

impl Default for MemoryDefaults {
    fn default() -> Self {
        Self { merge: true, dump: true, prealloc_threads: None }
    }
}

/// A back end that exists.
#[derive(Debug)]
pub struct MemoryBackend {
    pub type_name: &'static str,
    pub request: MemoryRequest,
    pub memory: Arc<HostMemory>,
}

impl MemoryBackend {
    /// Allocate it.
    pub(super) fn new(
        id: &str,
        spec: &MemorySpec,
        defaults: MemoryDefaults,
    ) -> Result<Self, ObjectError> {
        spec.check()?;
        let request = spec.request(id, defaults);
        let memory = HostMemory::new(&request);
        let memory = memory.map_err(|error| ObjectError::Refused(error.to_string()))?;
        Ok(Self { type_name: spec.type_name, request, memory: Arc::new(memory) })
    }
}

/// QAPI `Memdev`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct Memdev {
    pub id: String,
    pub size: u64,
    pub merge: bool,
    pub dump: bool,
    pub prealloc: bool,
    pub share: bool,
    pub reserve: bool,
    pub host_nodes: Vec<u16>,
    pub policy: HostMemPolicy,
}

impl From<&MemoryBackend> for Memdev {
    fn from(backend: &MemoryBackend) -> Self {
        let request = &backend.request;
        Self {
            id: request.name.clone(),
            size: request.size,
            merge: request.merge,
            dump: request.dump,
            prealloc: request.prealloc.is_some(),
            share: request.share,
            reserve: request.reserve,
            host_nodes: request.host_nodes.clone(),
            policy: request.policy,
        }
    }
}
