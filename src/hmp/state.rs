//! What a human monitor remembers from one line to the next.

use std::sync::Arc;

use super::arguments::Format;

/// The selected vCPU, and what was typed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HmpState {
    /// Lines of this session, from the oldest; none where there is no line editor.
    pub history: Arc<[String]>,
    pub cpu: u32,
}

/// The format that `x`, `xp`, `print`, `i` and `o` fall back to: the last one that was used at any of
/// the human monitors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LastFormat {
    pub letter: u8,
    /// Bytes an item.
    pub size: u8,
}

impl Default for LastFormat {
    fn default() -> Self {
        Self { letter: b'x', size: 4 }
    }
}

impl LastFormat {
    /// The format of a command without `/fmt`.
    pub fn format(self) -> Format {
        Format { count: 1, letter: self.letter, size: self.size }
    }
}
