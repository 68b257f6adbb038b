//! Saving: bytes for the stream, and the JSON that says what they are.

use serde_json::{Map, Value, json};

use super::{Fields, Part, SUBSECTION, StateError, VmState, Vmsd};

/// A saved state.
#[derive(Debug, Clone, PartialEq)]
pub struct Section {
    pub version: u32,
    pub bytes: Vec<u8>,
    /// Members `vmsd_name`, `version`, `fields` and, if there are any, `subsections`.
    pub description: Map<String, Value>,
}

/// Save `state`.
pub fn save<S: VmState>(state: &mut S) -> Result<Section, StateError> {
    let mut save = Save { out: Vec::new(), levels: vec![Level::new(S::VMSD)] };
    state.fields(&mut save)?;
    let description = save.levels.pop().map(Level::describe).unwrap_or_default();
    Ok(Section { version: S::VMSD.version, bytes: save.out, description })
}

/// A description under way.
struct Level {
    vmsd: Vmsd,
    fields: Vec<Value>,
    subsections: Vec<Value>,
}

impl Level {
    fn new(vmsd: Vmsd) -> Self {
        Self { vmsd, fields: Vec::new(), subsections: Vec::new() }
    }

    fn describe(self) -> Map<String, Value> {
        let mut object = Map::new();
        object.insert("vmsd_name".to_owned(), self.vmsd.name.into());
        object.insert("version".to_owned(), self.vmsd.version.into());
        object.insert("fields".to_owned(), self.fields.into());
        if !self.subsections.is_empty() {
            object.insert("subsections".to_owned(), self.subsections.into());
        }
        object
    }
}

struct Save {
    out: Vec<u8>,
    /// From the section itself to the innermost structure.
    levels: Vec<Level>,
}

impl Save {
    fn vmsd(&self) -> Vmsd {
        self.levels.last().map_or(Vmsd::new("", 0), |level| level.vmsd)
    }

    fn describe(&mut self, field: Value) {
        if let Some(level) = self.levels.last_mut() {
            debug_assert!(level.subsections.is_empty(), "fields come before subsections");
            level.fields.push(field);
        }
    }

    /// Save `part` as a description of its own.
    fn level(
        &mut self,
        vmsd: Vmsd,
        part: &mut dyn FnMut(&mut dyn Fields) -> Result<(), StateError>,
    ) -> Result<Map<String, Value>, StateError> {
        self.levels.push(Level::new(vmsd));
        let result = part(self);
        let described = self.levels.pop().map(Level::describe).unwrap_or_default();
        result.map(|()| described)
    }
}

/// A field of the JSON, its members in QEMU's order.
fn field(name: &str, count: usize, kind: &str, of: Option<Value>, size: usize) -> Value {
    let mut object = Map::new();
    object.insert("name".to_owned(), name.into());
    if count > 1 {
        object.insert("array_len".to_owned(), count.into());
    }
    object.insert("type".to_owned(), kind.into());
    if let Some(of) = of {
        object.insert("struct".to_owned(), of);
    }
    object.insert("size".to_owned(), json!(size));
    object.into()
}

impl Fields for Save {
    fn loading(&self) -> bool {
        false
    }

    fn version(&self) -> u32 {
        self.vmsd().version
    }

    fn elements(
        &mut self,
        name: &'static str,
        kind: &'static str,
        size: usize,
        bytes: &mut [u8],
    ) -> Result<(), StateError> {
        if !bytes.is_empty() {
            self.out.extend_from_slice(bytes);
            self.describe(field(name, bytes.len() / size.max(1), kind, None, size));
        }
        Ok(())
    }

    fn structures(
        &mut self,
        name: &'static str,
        vmsd: Vmsd,
        count: usize,
        part: &mut dyn FnMut(usize, &mut dyn Fields) -> Result<(), StateError>,
    ) -> Result<(), StateError> {
        // The first element stands for all in the JSON.
        let mut first = None;
        for i in 0..count {
            let start = self.out.len();
            let described = self.level(vmsd, &mut |f| part(i, f))?;
            let size = self.out.len() - start;
            first.get_or_insert((described, size));
        }
        if let Some((described, size)) = first {
            self.describe(field(name, count, "struct", Some(described.into()), size));
        }
        Ok(())
    }

    fn opaque(
        &mut self,
        name: &'static str,
        kind: &'static str,
        part: Part<'_>,
    ) -> Result<(), StateError> {
        let start = self.out.len();
        let vmsd = self.vmsd();
        self.level(vmsd, part)?;
        let size = self.out.len() - start;
        self.describe(field(name, 1, kind, None, size));
        Ok(())
    }

    fn embedded(&mut self, vmsd: Vmsd, part: Part<'_>) -> Result<(), StateError> {
        self.level(vmsd, part).map(drop)
    }

    fn subsection(&mut self, vmsd: Vmsd, needed: bool, part: Part<'_>) -> Result<(), StateError> {
        if !needed {
            return Ok(());
        }
        self.out.push(SUBSECTION);
        self.out.push(vmsd.name.len() as u8);
        self.out.extend_from_slice(vmsd.name.as_bytes());
        self.out.extend_from_slice(&vmsd.version.to_be_bytes());
        let described = self.level(vmsd, part)?;
        if let Some(level) = self.levels.last_mut() {
            level.subsections.push(described.into());
        }
        Ok(())
    }

    fn refuse(&self, field: &'static str, reason: String) -> StateError {
        StateError::Field { name: self.vmsd().name, field, reason }
    }
}
