//! What a stream says of a postcopy before the machine runs: that there may be one, which pages
//! are to be forgotten, and, in a package, the devices of a machine whose memory comes later.

use std::io::Cursor;
use std::sync::Arc;
use std::time::Duration;

use super::{Load, Turn};
use crate::machine::memory::GuestRam;
use crate::migration::capability::Capability;
use crate::migration::destination::postcopy::{Listener, ReturnQueue, Shared};
use crate::migration::ram::PAGE;
use crate::migration::ram::loader::Incoming;
use crate::migration::stream::{Input, LoadError, Record, StreamInput};

/// Most bytes of a package.
const PACKAGE_MAX: u32 = 32 << 20;
/// Bytes of the shortest discard: version, an empty name and its end, one range.
const DISCARD_LEAST: u16 = 1 + 1 + 1 + 1 + 16;
/// How often it is looked whether memory that no hart asks for has come.
const LOOK: Duration = Duration::from_millis(1);

/// How far a postcopy is.
#[derive(Default)]
pub(super) enum Postcopy {
    #[default]
    None,
    /// There may be one.
    Advised,
    /// A package is being loaded; the rest of the stream comes after it.
    Package(StreamInput),
    /// A thread takes the rest of the stream.
    Listening(Listening),
}

pub(super) struct Listening {
    shared: Arc<Shared>,
    ram: Arc<GuestRam>,
    blocks: Option<Arc<[Incoming]>>,
}

impl Listening {
    /// Wait for guest memory that a device's state refers to.
    pub(super) fn wait(&self, addr: u64, len: u64) -> Result<(), LoadError> {
        let waited = self.ram.presence().wait(self.ram.pages(addr, len));
        waited.map_err(|lost| self.shared.fail(LoadError::io(lost.to_string())))
    }

    /// Nothing comes of it; the first reason.
    pub(super) fn fail(&self, error: LoadError) -> LoadError {
        let first = self.shared.fail(error);
        self.ram.presence().abandon(&first.cause);
        first
    }
}

impl Load {
    pub(super) fn advise(&mut self, length: u16) -> Result<(), LoadError> {
        if !matches!(self.postcopy, Postcopy::None) {
            return Err(LoadError::invalid("CMD_POSTCOPY_ADVISE in wrong postcopy state"));
        }
        let on = self.settings.capabilities.has(Capability::PostcopyRam);
        match (length, on) {
            (0, false) => return Ok(()),
            (0, true) => {
                let text = "RAM postcopy is enabled but have 0 byte advise";
                return Err(LoadError::invalid(text));
            }
            (16, false) => {
                let text = "RAM postcopy is disabled but have 16 byte advise";
                return Err(LoadError::invalid(text));
            }
            (16, true) => {}
            _ => {
                let text = format!("CMD_POSTCOPY_ADVISE invalid length ({length})");
                return Err(LoadError::invalid(text));
            }
        }
        let (sizes, page) = (self.input.u64()?, self.input.u64()?);
        if sizes != PAGE as u64 {
            let text = format!("Postcopy needs matching RAM page sizes (s={sizes:x} d={PAGE:x})");
            return Err(LoadError::invalid(text));
        }
        if page != PAGE as u64 {
            let text = format!("Postcopy needs matching target page sizes (s={page} d={PAGE})");
            return Err(LoadError::invalid(text));
        }
        self.postcopy = Postcopy::Advised;
        Ok(())
    }

    pub(super) fn discard(&mut self, length: u16) -> Result<(), LoadError> {
        let refuse = |what| Err(LoadError::invalid(format!("CMD_POSTCOPY_RAM_DISCARD {what}")));
        if !matches!(self.postcopy, Postcopy::Advised) {
            return refuse("in wrong postcopy state".to_owned());
        }
        if length < DISCARD_LEAST {
            return refuse(format!("invalid length ({length})"));
        }
        let version = self.input.u8()?;
        if version != 0 {
            return refuse(format!("invalid version ({version})"));
        }
        let count = usize::from(self.input.u8()?);
        let name = String::from_utf8_lossy(self.input.take(count)?).into_owned();
        let end = self.input.u8()?;
        if end != 0 {
            return refuse(format!("missing nil ({end})"));
        }
        let rest = usize::from(length).checked_sub(3 + count).filter(|rest| rest % 16 == 0);
        let Some(rest) = rest else { return refuse(format!("invalid length ({length})")) };
        for _ in 0..rest / 16 {
            let (start, len) = (self.input.u64()?, self.input.u64()?);
            let not_begun = || LoadError::invalid("a discard before the section ram");
            let loader = self.memory.as_mut().and_then(|memory| memory.loader());
            loader.ok_or_else(not_begun)?.discard(&name, start, len)?;
        }
        Ok(())
    }

    /// Read a package, and go on inside it.
    pub(super) fn package(&mut self) -> Result<(), LoadError> {
        if !matches!(self.postcopy, Postcopy::Advised) {
            return Err(LoadError::invalid("CMD_PACKAGED in wrong postcopy state"));
        }
        let length = self.input.u32()?;
        if length > PACKAGE_MAX {
            let text = format!("Unreasonably large packaged state: {length}");
            return Err(LoadError::invalid(text));
        }
        // It grows as it comes: the length alone is nothing to trust.
        let mut package = Vec::new();
        let mut left = length as usize;
        while left > 0 {
            let step = left.min(64 << 10);
            package.extend_from_slice(self.input.take(step)?);
            left -= step;
        }
        let inside: StreamInput = Input::new(Box::new(Cursor::new(package)));
        self.postcopy = Postcopy::Package(std::mem::replace(&mut self.input, inside));
        Ok(())
    }

    /// From here on pages come on a thread of their own.
    pub(super) fn listen(&mut self) -> Result<(), LoadError> {
        let input = match std::mem::take(&mut self.postcopy) {
            Postcopy::Package(outer) => outer,
            other => {
                self.postcopy = other;
                return Err(LoadError::invalid("CMD_POSTCOPY_LISTEN in wrong postcopy state"));
            }
        };
        let broken = |what: &str| LoadError::invalid(format!("a postcopy without {what}"));
        let mut memory = self.memory.take().ok_or_else(|| broken("memory"))?;
        let section = *self.pieces.keys().next().ok_or_else(|| broken("a section ram"))?;
        let afterwards = self.afterwards.take().ok_or_else(|| broken("its actor"))?;
        let on = |capability| self.settings.capabilities.has(capability);
        let (preempts, measured) =
            (on(Capability::PostcopyPreempt), on(Capability::PostcopyBlocktime));
        let shared = Shared::new(self.control.clone());
        let ram = memory.listen(shared.ask())?;
        let queue = self.back.queue(&self.runtime).ok_or_else(|| broken("a return path"))?;
        let blocks = memory.incoming();
        self.postcopy = Postcopy::Listening(Listening {
            shared: Arc::clone(&shared),
            ram: Arc::clone(&ram),
            blocks,
        });
        let listener = Listener {
            memory,
            ram,
            input,
            queue,
            section,
            shared,
            actor: afterwards.actor,
            channels: afterwards.channels,
            runtime: self.runtime.clone(),
            recovering: false,
            measured,
        };
        if preempts {
            listener.start_urgent(afterwards.urgents)?;
        }
        listener.start()?;
        self.rest_of_devices()
    }

    /// Devices keep memory of their own, and do not know of missing pages: all of it has to be
    /// here before their state is loaded. Our source has sent it by now, QEMU's may not have.
    fn rest_of_devices(&self) -> Result<(), LoadError> {
        let Postcopy::Listening(listening) = &self.postcopy else { return Ok(()) };
        let blocks = || listening.blocks.iter().flat_map(|blocks| blocks.iter());
        while blocks().any(|block| !block.is_ram() && !block.missing().is_empty()) {
            listening.shared.check()?;
            std::thread::sleep(LOOK);
        }
        Ok(())
    }

    /// The machine may run: what it lacks can be asked for.
    pub(super) fn run_machine(&mut self) -> Result<Turn, LoadError> {
        let Postcopy::Listening(Listening { shared, .. }) = &self.postcopy else {
            return Err(LoadError::invalid("CMD_POSTCOPY_RUN in wrong postcopy state"));
        };
        let shared = Arc::clone(shared);
        let arrived = self.complete()?;
        shared.loaded()?;
        Ok(Turn::Run(arrived, shared))
    }

    /// Whether `record` may come here: neither memory nor the end does in a package.
    pub(super) fn fits(&self, record: Record) -> Result<(), LoadError> {
        let in_package = matches!(self.postcopy, Postcopy::Package(_) | Postcopy::Listening(_));
        let ends = matches!(record, Record::Eof | Record::SectionPart | Record::SectionEnd);
        match in_package && ends {
            true => {
                let number = record as u8;
                let text = format!("Unknown savevm section type {number} (in a package)");
                Err(LoadError::invalid(text))
            }
            false => Ok(()),
        }
    }
}

impl super::Back {
    /// The same way to the source, for several to use.
    fn queue(&mut self, runtime: &tokio::runtime::Handle) -> Option<ReturnQueue> {
        if !self.open {
            return None;
        }
        if self.queue.is_none() {
            self.queue = Some(ReturnQueue::start(self.to.take()?, runtime));
        }
        self.queue.clone()
    }
}
