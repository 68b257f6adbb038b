//! Memory that lies in a file beside the stream (capability `mapped-ram`).

use super::Load;
use crate::migration::capability::Capability;
use crate::migration::ram::mapped::MappedFile;
use crate::migration::stream::LoadError;

impl Load {
    /// The first piece of memory, and all pages; the stream goes on behind them.
    pub(super) fn memory_in_file(&mut self) -> Result<(), LoadError> {
        let seekable = || LoadError::invalid("Migration requires seekable transport (e.g. file)");
        let file = self.file.as_ref().ok_or_else(seekable)?;
        let threads = match self.settings.capabilities.has(Capability::Multifd) {
            true => self.settings.parameters.multifd_channels,
            false => 1,
        };
        // What has been read of the stream and not been looked at is behind its position.
        let ahead = self.input.ahead().len() as u64;
        let position = file.position().saturating_sub(ahead);
        let pages = file.for_pages();
        let gone = || LoadError::invalid("memory inside a package");
        let memory = self.memory.as_mut().ok_or_else(gone)?;
        let end = memory.mapped(MappedFile { file, pages: &pages, threads }, position)?;
        file.set_position(end);
        self.input.skip(ahead)
    }
}
