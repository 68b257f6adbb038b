//! What a human monitor remembers from one line to the next.

use std::sync::Arc;

use super::arguments::Format;

/// The selected vCPU, the format that `x`, `xp` and `print` fall back to, and what was typed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HmpState {
    /// Lines of this session, from the oldest; none where there is no line editor.
    pub history: Arc<[String]>,
    pub cpu: u32,
    /// The last format letter used.
    pub letter: u8,
    /// The last item size used, in bytes.
    pub size: u8,
}

impl Default for HmpState {
    fn default() -> Self {
        Self { history: Arc::default(), cpu: 0, letter: b'x', size: 4 }
    }
}

impl HmpState {
    /// The format of a command without `/fmt`.
    pub fn format(&self) -> Format {
        Format { count: 1, letter: self.letter, size: self.size }
    }
}
