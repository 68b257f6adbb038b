//! State descriptions, QEMU's VMState: what a device sends of itself, under which names, in which
//! order and sizes. A description is one function over [`Fields`], which saving and loading share,
//! so they cannot disagree; saving also makes the JSON that the stream carries at its end.
//!
//! - A [`VmState`] is plain data, apart from the device: the device makes it and takes it back, so
//!   a stream that breaks off or breaks the rules has changed nothing.
//! - Fields come first, then subsections. A subsection travels only when it is needed, so that
//!   what one side has never heard of is in its way only when it matters.
//! - Nothing in the stream says how long a section is. A loader is given what there is, at least
//!   one byte past the section's end, and says how much it took; [`StateError::Truncated`] asks
//!   for more.

mod load;
pub mod machine;
mod save;
#[cfg(test)]
pub(crate) mod tests;

pub use load::load;
pub use save::{Section, save};

/// Marks a subsection in the stream (QEMU_VM_SUBSECTION).
const SUBSECTION: u8 = 5;

/// Name and versions of a description.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Vmsd {
    pub name: &'static str,
    /// What is saved.
    pub version: u32,
    /// The oldest that can be loaded.
    pub minimum: u32,
}

impl Vmsd {
    /// A description that knows one version.
    pub const fn new(name: &'static str, version: u32) -> Self {
        Self { name, version, minimum: version }
    }

    /// The same, which also loads versions from `minimum` on.
    pub const fn since(self, minimum: u32) -> Self {
        Self { minimum, ..self }
    }
}

/// Why state was not saved or not loaded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StateError {
    #[error("{name}: incoming version_id {version} is too new for local version_id {local}")]
    TooNew { name: &'static str, version: u32, local: u32 },
    // Two spaces, as QEMU has them.
    #[error(
        "{name}: incoming version_id {version} is too old for local minimum version_id  {minimum}"
    )]
    TooOld { name: &'static str, version: u32, minimum: u32 },
    #[error("Failed to load {name}:{field}: {reason}")]
    Field { name: &'static str, field: &'static str, reason: String },
    #[error("Failed to load {name}: unknown subsection '{subsection}'")]
    Subsection { name: &'static str, subsection: String },
    #[error("Failed to load {name}:{field}: the stream ends in it")]
    Truncated { name: &'static str, field: &'static str },
    #[error("{name}: {reason}")]
    Busy { name: &'static str, reason: String },
    /// The state refers to guest memory that a postcopy has not brought yet.
    #[error("guest address {addr:#x} (length {len:#x}) has not arrived yet")]
    Missing { addr: u64, len: u64 },
    #[error("{0} has failed")]
    Dead(String),
}

impl StateError {
    /// More bytes of the stream might help.
    pub fn is_truncated(&self) -> bool {
        matches!(self, Self::Truncated { .. })
    }
}

/// State as it travels.
pub trait VmState {
    const VMSD: Vmsd;

    /// Loading begins: set what the stream may leave out (QEMU's `pre_load`).
    fn before_load(&mut self) {}

    /// Visit every field, then every subsection, in the order of the stream.
    fn fields(&mut self, f: &mut dyn Fields) -> Result<(), StateError>;
}

/// Part of a description: what is visited inside a structure or a subsection.
pub type Part<'a> = &'a mut dyn FnMut(&mut dyn Fields) -> Result<(), StateError>;

macro_rules! integers {
    ($($one:ident, $many:ident, $type:ty, $kind:literal;)*) => {
        $(
            fn $one(&mut self, name: &'static str, value: &mut $type) -> Result<(), StateError> {
                self.$many(name, std::slice::from_mut(value))
            }

            fn $many(
                &mut self,
                name: &'static str,
                values: &mut [$type],
            ) -> Result<(), StateError> {
                const SIZE: usize = size_of::<$type>();
                let mut bytes: Vec<u8> = values.iter().flat_map(|v| v.to_be_bytes()).collect();
                self.elements(name, $kind, SIZE, &mut bytes)?;
                for (value, bytes) in values.iter_mut().zip(bytes.chunks_exact(SIZE)) {
                    let mut raw = [0; SIZE];
                    raw.copy_from_slice(bytes);
                    *value = <$type>::from_be_bytes(raw);
                }
                Ok(())
            }
        )*
    };
}

/// A visitor of descriptions: it reads every field out, or sets it.
pub trait Fields {
    /// Fields are being set.
    fn loading(&self) -> bool;

    /// The version of the description under way that the stream has.
    fn version(&self) -> u32;

    /// Elements of `size` bytes each, as the stream has them; `kind` is the type's name in the
    /// JSON.
    fn elements(
        &mut self,
        name: &'static str,
        kind: &'static str,
        size: usize,
        bytes: &mut [u8],
    ) -> Result<(), StateError>;

    /// An array of `count` structures.
    fn structures(
        &mut self,
        name: &'static str,
        vmsd: Vmsd,
        count: usize,
        part: &mut dyn FnMut(usize, &mut dyn Fields) -> Result<(), StateError>,
    ) -> Result<(), StateError>;

    /// Fields that the JSON shows as one field of type `kind`.
    fn opaque(
        &mut self,
        name: &'static str,
        kind: &'static str,
        part: Part<'_>,
    ) -> Result<(), StateError>;

    /// Another description's state right here, with subsections of its own; inside `opaque`.
    fn embedded(&mut self, vmsd: Vmsd, part: Part<'_>) -> Result<(), StateError>;

    /// A subsection, which is there if `needed` (saving) or if the stream has it (loading).
    fn subsection(&mut self, vmsd: Vmsd, needed: bool, part: Part<'_>) -> Result<(), StateError>;

    /// What is loaded of `field` cannot be.
    fn refuse(&self, field: &'static str, reason: String) -> StateError;

    integers! {
        u8, u8s, u8, "uint8";
        u16, u16s, u16, "uint16";
        u32, u32s, u32, "uint32";
        u64, u64s, u64, "uint64";
        i32, i32s, i32, "int32";
        i64, i64s, i64, "int64";
    }

    /// One structure.
    fn structure(
        &mut self,
        name: &'static str,
        vmsd: Vmsd,
        part: Part<'_>,
    ) -> Result<(), StateError> {
        self.structures(name, vmsd, 1, &mut |_, f| part(f))
    }

    /// One byte, 0 or 1.
    fn bool(&mut self, name: &'static str, value: &mut bool) -> Result<(), StateError> {
        let mut byte = [u8::from(*value)];
        self.elements(name, "bool", 1, &mut byte)?;
        match byte[0] {
            0 => *value = false,
            1 => *value = true,
            other => return Err(self.refuse(name, format!("{other} is neither 0 nor 1"))),
        }
        Ok(())
    }

    /// A truth value that QEMU keeps as an integer of 32 bits.
    fn bool32(&mut self, name: &'static str, value: &mut bool) -> Result<(), StateError> {
        let mut word = u32::from(*value);
        self.u32(name, &mut word)?;
        *value = word != 0;
        Ok(())
    }

    /// A deadline in virtual nanoseconds; all ones for none.
    fn timer(&mut self, name: &'static str, deadline: &mut Option<u64>) -> Result<(), StateError> {
        let mut bytes = deadline.unwrap_or(u64::MAX).to_be_bytes();
        self.elements(name, "timer", 8, &mut bytes)?;
        *deadline = Some(u64::from_be_bytes(bytes)).filter(|&ns| ns != u64::MAX);
        Ok(())
    }

    /// Bytes of a length that both sides know.
    fn buffer(&mut self, name: &'static str, bytes: &mut [u8]) -> Result<(), StateError> {
        let size = bytes.len();
        self.elements(name, "buffer", size, bytes)
    }

    /// Bytes with their length in front, at most `most`.
    fn counted(
        &mut self,
        names: (&'static str, &'static str),
        most: usize,
        bytes: &mut Vec<u8>,
    ) -> Result<(), StateError> {
        let mut length = bytes.len() as u32;
        self.u32(names.0, &mut length)?;
        if length as usize > most {
            return Err(self.refuse(names.0, format!("{length} is more than {most}")));
        }
        bytes.resize(length as usize, 0);
        self.buffer(names.1, bytes)
    }

    /// Bytes that mean nothing any more.
    fn unused(&mut self, size: usize) -> Result<(), StateError> {
        self.elements("unused", "unused_buffer", size, &mut vec![0; size])
    }
}
