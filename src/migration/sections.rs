//! The sections of a machine's devices and harts: who has which, in the order in which they travel
//! (QEMU's).

use std::fmt;

use actix::dev::ToEnvelope;
use actix::{Actor, Addr, Handler, Recipient};
use serde_json::{Map, Value};

use super::vmstate::{Section, StateError, Vmsd};
use crate::actors::message::{LoadState, SaveState};

/// A section and the actor whose state it is.
#[derive(Clone)]
pub struct StateSource {
    /// The device's path and the description's name, e.g. `virtio-mmio@…/virtio-blk`.
    pub idstr: String,
    /// Tells sections of the same name apart.
    pub instance_id: u32,
    pub vmsd: Vmsd,
    save: Recipient<SaveState>,
    load: Recipient<LoadState>,
}

impl StateSource {
    /// The state `vmsd` of `actor`.
    pub fn of<A>(idstr: impl Into<String>, instance_id: u32, vmsd: Vmsd, actor: &Addr<A>) -> Self
    where
        A: Actor + Handler<SaveState> + Handler<LoadState>,
        A::Context: ToEnvelope<A, SaveState> + ToEnvelope<A, LoadState>,
    {
        Self {
            idstr: idstr.into(),
            instance_id,
            vmsd,
            save: actor.clone().recipient(),
            load: actor.clone().recipient(),
        }
    }

    /// The state now. The machine is stopped: what moves would be lost.
    pub async fn save(&self) -> Result<Section, StateError> {
        let answer = self.save.send(SaveState { name: self.vmsd.name }).await;
        answer.unwrap_or_else(|_| Err(StateError::Dead(self.idstr.clone())))
    }

    /// Take the state at the beginning of `bytes`, which has it in `version` and goes at least a
    /// byte further; the number of bytes that it was. A state that is refused changes nothing.
    pub async fn load(&self, version: u32, bytes: Vec<u8>) -> Result<usize, StateError> {
        let answer = self.load.send(LoadState { name: self.vmsd.name, version, bytes }).await;
        answer.unwrap_or_else(|_| Err(StateError::Dead(self.idstr.clone())))
    }
}

impl fmt::Debug for StateSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StateSource({} {})", self.idstr, self.instance_id)
    }
}

/// What a machine saves.
#[derive(Debug, Clone, Default)]
pub struct Sections {
    /// In the order of the stream. Between the first and the last of them RAM is elsewhere: this
    /// is what follows it.
    pub sources: Vec<StateSource>,
    /// Why this machine cannot migrate, a sentence each.
    pub blockers: Vec<String>,
}

impl Sections {
    /// The section that a stream calls `idstr` and `instance_id`.
    pub fn find(&self, idstr: &str, instance_id: u32) -> Option<&StateSource> {
        let mut sources = self.sources.iter();
        sources.find(|source| source.idstr == idstr && source.instance_id == instance_id)
    }
}

/// The entry of a section in the JSON at the stream's end.
pub fn described(idstr: &str, instance_id: u32, section: &Section) -> Value {
    let mut entry = Map::new();
    entry.insert("name".to_owned(), idstr.into());
    entry.insert("instance_id".to_owned(), instance_id.into());
    entry.extend(section.description.clone());
    entry.into()
}

/// The JSON at the stream's end, of the configuration and the entries of the sections.
pub fn vmdesc(configuration: &Section, page_size: u64, devices: Vec<Value>) -> Value {
    let mut whole = Map::new();
    whole.insert("configuration".to_owned(), configuration.description.clone().into());
    whole.insert("page_size".to_owned(), page_size.into());
    whole.insert("devices".to_owned(), devices.into());
    whole.into()
}
