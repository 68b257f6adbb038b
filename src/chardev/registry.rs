//! All character devices of a process, by label: those of the command line, and what clients add,
//! change and remove. A lock is held for a look-up only, never while a device is opened.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

use super::spec::{ChardevKind, ChardevSpec};
use super::{
    Change, Chardev, ChardevError, OpenContext, Opened, Port, join, multiplex, open, open_parts,
};
use crate::net::descriptors::Names;
use crate::qmp::hash_order::HashOrder;

/// The devices; clones are the same set.
#[derive(Debug, Clone, Default)]
pub struct Chardevs {
    shared: Arc<Shared>,
    /// Of whoever adds and changes them.
    names: Names,
}

#[derive(Debug, Default)]
struct Shared {
    table: Mutex<Table>,
    context: OpenContext,
}

#[derive(Debug, Default)]
struct Table {
    open: HashMap<String, Chardev>,
    order: HashOrder,
    /// Those that are sockets, the oldest first.
    sockets: Vec<String>,
}

impl Table {
    fn insert(&mut self, chardev: Chardev) -> Result<(), ChardevError> {
        // Every object has a property that says what it is.
        if chardev.id == "type" || self.open.contains_key(&chardev.id) {
            chardev.close();
            return Err(ChardevError::Duplicate(chardev.id));
        }
        self.order.insert(&chardev.id);
        self.note_socket(&chardev);
        self.open.insert(chardev.id.clone(), chardev);
        Ok(())
    }

    /// It has become what it is. One that stays a socket keeps its place.
    fn note_socket(&mut self, chardev: &Chardev) {
        let listed = self.sockets.contains(&chardev.id);
        if listed && !chardev.is_socket() {
            self.sockets.retain(|id| *id != chardev.id);
        } else if !listed && chardev.is_socket() {
            self.sockets.push(chardev.id.clone());
        }
    }

    fn remove(&mut self, id: &str) {
        self.order.remove(id);
        self.sockets.retain(|socket| socket != id);
        if let Some(chardev) = self.open.remove(id) {
            chardev.close();
        }
    }
}

impl Chardevs {
    /// None yet.
    pub fn new(context: OpenContext) -> Self {
        let shared = Arc::new(Shared { table: Mutex::default(), context });
        Self { shared, names: Names::default() }
    }

    /// The same set, for the clients of the monitor that has these names.
    pub fn named_by(&self, names: &Names) -> Self {
        Self { shared: Arc::clone(&self.shared), names: names.clone() }
    }

    /// The device of this label.
    pub fn get(&self, id: &str) -> Option<Chardev> {
        self.shared.table.lock().open.get(id).cloned()
    }

    /// Every device, in the order in which QEMU lists them.
    pub fn list(&self) -> Vec<Chardev> {
        let table = self.shared.table.lock();
        let mut list: Vec<_> =
            table.order.iter().filter_map(|id| table.open.get(id).cloned()).collect();
        list.reverse();
        list
    }

    /// Those that are sockets, connected or not, the oldest first.
    pub fn sockets(&self) -> Vec<Chardev> {
        let table = self.shared.table.lock();
        table.sockets.iter().filter_map(|id| table.open.get(id).cloned()).collect()
    }

    /// Open a device of the command line, which names sockets of the parent process by number; a
    /// multiplexer opens when `front_ends` have attached. Its actors run on the current arbiter.
    /// With `wait=on` this takes until a client has connected.
    pub async fn open(&self, spec: &ChardevSpec, front_ends: usize) -> Result<(), ChardevError> {
        self.make(spec, front_ends, &self.shared.context).await.map(drop)
    }

    /// Open a device that a monitor's client asks for.
    pub async fn add(&self, spec: &ChardevSpec) -> Result<Chardev, ChardevError> {
        self.make(spec, 0, &self.context_of_clients()).await
    }

    fn context_of_clients(&self) -> OpenContext {
        let context = &self.shared.context;
        OpenContext { named: Some(self.names.clone()), ..context.clone() }
    }

    async fn make(
        &self,
        spec: &ChardevSpec,
        front_ends: usize,
        context: &OpenContext,
    ) -> Result<Chardev, ChardevError> {
        if let ChardevKind::Mux { chardev } = &spec.kind {
            let base = self.get(chardev).ok_or_else(|| ChardevError::NoBase(chardev.clone()))?;
            let mux = multiplex(&spec.id, &base, front_ends, context)?;
            self.shared.table.lock().insert(mux.clone())?;
            return Ok(mux);
        }
        if let ChardevKind::Hub { chardevs } = &spec.kind {
            let missing = |id: &String| ChardevError::NoBaseOfHub(id.clone());
            let find = |id: &String| self.get(id).ok_or_else(|| missing(id));
            let hub = join(&spec.id, &chardevs.iter().map(find).collect::<Result<Vec<_>, _>>()?)?;
            self.shared.table.lock().insert(hub.clone())?;
            return Ok(hub);
        }
        let is_stdio = matches!(spec.kind, ChardevKind::Stdio { .. });
        if is_stdio && self.list().iter().any(|other| *other.filename.lock() == "stdio") {
            return Err(ChardevError::StdioInUse);
        }
        if !spec.mux {
            let device = open(spec, context).await?;
            self.shared.table.lock().insert(device.clone())?;
            return Ok(device);
        }
        let base = ChardevSpec { id: format!("{}-base", spec.id), mux: false, ..spec.clone() };
        let base = open(&base, context).await?;
        self.shared.table.lock().insert(base.clone())?;
        let mux = multiplex(&spec.id, &base, front_ends, context)?;
        let inserted = self.shared.table.lock().insert(mux.clone());
        if inserted.is_err() {
            self.shared.table.lock().remove(&base.id);
        }
        inserted.map(|()| mux)
    }

    /// Close a device that nobody uses.
    pub fn remove(&self, id: &str) -> Result<(), ChardevError> {
        let mut table = self.shared.table.lock();
        let chardev = table.open.get(id).ok_or_else(|| ChardevError::NotFound(id.to_owned()))?;
        if chardev.has_front_end() {
            return Err(ChardevError::Busy(id.to_owned()));
        }
        table.remove(id);
        Ok(())
    }

    /// Put another device, what `spec` says, in one's place. `None` if nobody used that one, which is closed then: the
    /// other is to be added.
    pub async fn change(
        &self,
        id: &str,
        spec: impl FnOnce() -> Result<ChardevSpec, ChardevError>,
    ) -> Result<Option<Chardev>, ChardevError> {
        let chardev = self.get(id).ok_or_else(|| ChardevError::Missing(id.to_owned()))?;
        let Port::Device(device) = &chardev.port else { return Err(ChardevError::MuxHotswap) };
        if !chardev.has_front_end() {
            self.shared.table.lock().remove(id);
            return Ok(None);
        }
        if !chardev.front_ends.lock().hotswap {
            return Err(ChardevError::NoHotswap);
        }
        let spec = spec()?;
        if let ChardevKind::Mux { chardev: base } = &spec.kind {
            return Err(match self.get(base) {
                None => ChardevError::NoBase(base.clone()),
                Some(_) => ChardevError::MuxHotswap,
            });
        }
        if let ChardevKind::Hub { .. } = &spec.kind {
            return Err(ChardevError::MuxHotswap);
        }
        let Opened { parts, filename, what } =
            open_parts(&spec, &self.context_of_clients()).await?;
        *chardev.filename.lock() = filename;
        *chardev.what.lock() = what;
        self.shared.table.lock().note_socket(&chardev);
        device.do_send(Change(parts));
        Ok(Some(chardev))
    }
}
