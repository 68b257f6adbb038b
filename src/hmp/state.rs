//! What a human monitor remembers from one line to the next.

use super::arguments::Format;

/// The selected vCPU, and the format that `x`, `xp` and `print` fall back to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HmpState {
    pub cpu: u32,
    /// The last format letter used.
    pub letter: u8,
    /// The last item size used, in bytes.
    pub size: u8,
}

impl Default for HmpState {
    fn default() -> Self {
        Self { cpu: 0, letter: b'x', size: 4 }
    }
}

impl HmpState {
    /// The format of a command without `/fmt`.
    pub fn format(&self) -> Format {
        Format { count: 1, letter: self.letter, size: self.size }
    }
}
