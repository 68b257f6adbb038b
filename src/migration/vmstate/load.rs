//! Loading: everything in the stream is hostile until it is checked.

use super::{Fields, Part, SUBSECTION, StateError, VmState, Vmsd};

/// Set `state` from the beginning of `bytes`, which has it in `version`; how many bytes it took.
pub fn load<S: VmState>(state: &mut S, version: u32, bytes: &[u8]) -> Result<usize, StateError> {
    let mut load = Load { bytes, at: 0, levels: Vec::new() };
    state.before_load();
    load.level(S::VMSD, version, &mut |f| state.fields(f))?;
    Ok(load.at)
}

struct Load<'a> {
    bytes: &'a [u8],
    at: usize,
    /// From the section itself to the innermost structure, each with the stream's version.
    levels: Vec<(Vmsd, u32)>,
}

impl Load<'_> {
    fn name(&self) -> &'static str {
        self.levels.last().map_or("", |(vmsd, _)| vmsd.name)
    }

    fn take(&mut self, length: usize, field: &'static str) -> Result<&[u8], StateError> {
        let end = self.at.checked_add(length);
        let bytes = end.and_then(|end| self.bytes.get(self.at..end));
        let bytes = bytes.ok_or(StateError::Truncated { name: self.name(), field })?;
        self.at += length;
        Ok(bytes)
    }

    /// The name of the subsection that comes next, if one does.
    fn next_subsection(&self) -> Result<Option<&[u8]>, StateError> {
        let truncated = StateError::Truncated { name: self.name(), field: "subsections" };
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        match rest {
            [] | [SUBSECTION] => Err(truncated),
            [SUBSECTION, length, name @ ..] => {
                name.get(..usize::from(*length)).map(Some).ok_or(truncated)
            }
            _ => Ok(None),
        }
    }

    /// Load `part` as a description of its own, to its last subsection.
    fn level(
        &mut self,
        vmsd: Vmsd,
        version: u32,
        part: &mut dyn FnMut(&mut dyn Fields) -> Result<(), StateError>,
    ) -> Result<(), StateError> {
        let Vmsd { name, version: local, minimum } = vmsd;
        if version > local {
            return Err(StateError::TooNew { name, version, local });
        }
        if version < minimum {
            return Err(StateError::TooOld { name, version, minimum });
        }
        self.levels.push((vmsd, version));
        part(self)?;
        // One that begins with another name belongs to what this is part of.
        if let Some(next) = self.next_subsection()?
            && let Some(b'/') = next.strip_prefix(name.as_bytes()).and_then(|rest| rest.first())
        {
            let subsection = String::from_utf8_lossy(next).into_owned();
            return Err(StateError::Subsection { name, subsection });
        }
        self.levels.pop();
        Ok(())
    }
}

impl Fields for Load<'_> {
    fn loading(&self) -> bool {
        true
    }

    fn version(&self) -> u32 {
        self.levels.last().map_or(0, |(_, version)| *version)
    }

    fn elements(
        &mut self,
        name: &'static str,
        _: &'static str,
        _: usize,
        bytes: &mut [u8],
    ) -> Result<(), StateError> {
        bytes.copy_from_slice(self.take(bytes.len(), name)?);
        Ok(())
    }

    fn structures(
        &mut self,
        _: &'static str,
        vmsd: Vmsd,
        count: usize,
        part: &mut dyn FnMut(usize, &mut dyn Fields) -> Result<(), StateError>,
    ) -> Result<(), StateError> {
        for i in 0..count {
            self.level(vmsd, vmsd.version, &mut |f| part(i, f))?;
        }
        Ok(())
    }

    fn opaque(
        &mut self,
        _: &'static str,
        _: &'static str,
        part: Part<'_>,
    ) -> Result<(), StateError> {
        part(self)
    }

    fn embedded(&mut self, vmsd: Vmsd, part: Part<'_>) -> Result<(), StateError> {
        self.level(vmsd, vmsd.version, part)
    }

    fn subsection(&mut self, vmsd: Vmsd, _: bool, part: Part<'_>) -> Result<(), StateError> {
        if self.next_subsection()? != Some(vmsd.name.as_bytes()) {
            return Ok(());
        }
        self.take(2 + vmsd.name.len(), "subsections")?;
        let mut version = [0; 4];
        version.copy_from_slice(self.take(4, "subsections")?);
        self.level(vmsd, u32::from_be_bytes(version), part)
    }

    fn refuse(&self, field: &'static str, reason: String) -> StateError {
        StateError::Field { name: self.name(), field, reason }
    }
}
