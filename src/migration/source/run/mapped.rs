//! Memory into a file, each page at its place (capability `mapped-ram`). Pages go through the same
//! threads as those of `multifd`, so that nobody here waits for a disk: one without it, and as many
//! as it has channels with it. They write through one descriptor, for every write says where to.

use std::sync::Arc;

use tokio::io::AsyncWriteExt;

use super::super::Memory;
use super::super::multifd::{PageSender, SideChannels};
use super::{Run, no_line};
use crate::migration::capability::Capability;
use crate::migration::channel::{Channel, ChannelKind, FileAccess};
use crate::migration::parameters::ZeroPageDetection;
use crate::migration::ram::mapped::{MappedError, MappedSaver, PageBuffer};
use crate::migration::ram::multifd::PacketPages;
use crate::migration::ram::saver::PageBatch;
use crate::migration::status::ErrorDesc;

/// The file.
pub(super) struct Mapped {
    file: FileAccess,
    /// There once memory is begun.
    saver: Option<Arc<MappedSaver>>,
}

fn refused(error: MappedError) -> ErrorDesc {
    ErrorDesc::from(error.to_string())
}

/// Do what waits for the disk somewhere else.
async fn on_disk<F>(work: F) -> Result<(), ErrorDesc>
where
    F: FnOnce() -> Result<(), MappedError> + Send + 'static,
{
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|died| ErrorDesc::of_task(died, "writing the migration file"))?.map_err(refused)
}

impl Run {
    /// Whether the channel can be what the settings want: a file is written anywhere, and never
    /// answers.
    pub(super) fn check_file(&mut self, channel: &Channel, listens: bool) -> Result<(), ErrorDesc> {
        if listens && channel.kind() == ChannelKind::File {
            return Err(ErrorDesc::new("Unable to open return-path: a file does not answer"));
        }
        if self.has(Capability::MappedRam) {
            let seekable = || ErrorDesc::new("Migration requires seekable transport (e.g. file)");
            let file = channel.file().cloned().ok_or_else(seekable)?;
            self.mapped = Some(Mapped { file, saver: None });
        }
        Ok(())
    }

    /// Write what the section begins with behind `out`, and prepare for pages.
    pub(super) async fn begin_file(
        &mut self,
        out: &mut Vec<u8>,
        memory: &mut dyn Memory,
    ) -> Result<(), ErrorDesc> {
        self.send(out, memory).await?;
        out.clear();
        let line = self.line.as_mut().ok_or_else(no_line)?;
        line.to.flush().await.map_err(|error| ErrorDesc::from(error.to_string()))?;
        let parameters = &self.settings.parameters;
        let find_zero = parameters.zero_page_detection != ZeroPageDetection::None;
        let threads = match self.has(Capability::Multifd) {
            true => parameters.multifd_channels,
            false => 1,
        };
        let Some(Mapped { file, saver }) = &mut self.mapped else { return Ok(()) };
        let blocks = memory.saver().ok_or_else(no_line)?;
        let (mapped, end) = MappedSaver::new(blocks, file.position(), find_zero);
        let mapped = Arc::clone(saver.insert(Arc::new(mapped)));
        let (begun, to) = (Arc::clone(&mapped), file.clone());
        on_disk(move || begun.begin(&to)).await?;
        file.set_position(end);
        let sender = |_| -> (Box<dyn PageSender>, _) {
            let (saver, file) = (Arc::clone(&mapped), file.for_pages());
            (Box::new(Pages { saver, file, buffer: PageBuffer::new() }), None)
        };
        self.sides = Some(SideChannels::of((0..threads).map(sender).collect())?);
        Ok(())
    }

    /// All pages are there: the file says so.
    pub(super) async fn finish_file(&mut self) -> Result<(), ErrorDesc> {
        let Some(Mapped { file, saver: Some(saver) }) = &self.mapped else { return Ok(()) };
        let (saver, file) = (Arc::clone(saver), file.clone());
        on_disk(move || saver.finish(&file)).await
    }
}

/// Writes pages to their places.
struct Pages {
    saver: Arc<MappedSaver>,
    file: FileAccess,
    buffer: PageBuffer,
}

impl PageSender for Pages {
    fn pages(&mut self, batch: &PageBatch, _: u64) -> Result<(PacketPages, usize), ErrorDesc> {
        self.saver.save(batch, &self.file, &mut self.buffer).map_err(refused)
    }

    fn sync(&mut self, _: u64) -> Result<usize, ErrorDesc> {
        Ok(0)
    }

    fn end(&mut self) -> Result<(), ErrorDesc> {
        Ok(())
    }
}
