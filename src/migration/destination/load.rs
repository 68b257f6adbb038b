//! Loading a stream, on a thread that may wait.
//!
//! The other side is not trusted: every record is checked against what this machine has, nothing
//! is kept whose size the stream alone decides, and the first thing that is not as it must be ends
//! the load with a sentence.

mod mapped;
mod postcopy;

use std::collections::HashMap;
use std::io::{self, Cursor, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use actix::Addr;
use tokio::io::AsyncWriteExt;
use tokio::runtime::Handle as Runtime;
use tokio::sync::mpsc;

use super::blocking::{Blocking, Until};
use super::multifd::SideChannels;
use super::postcopy::{ReturnQueue, Shared};
use super::{DestinationPeers, MemoryTarget, MigrationDestination};
use crate::cli::value::uuid_text;
use crate::machine::message::{Arrived, ReleaseDrives, RunState, TakeDrives, VmError};
use crate::migration::capability::Capability;
use crate::migration::channel::{Channel, ChannelControl, ChannelWriter, FileAccess};
use crate::migration::message::Settings;
use crate::migration::return_path::ReturnMessage;
use crate::migration::sections::StateSource;
use crate::migration::status::ErrorDesc;
use crate::migration::stream::{Input, LoadError, LoadKind, Record, StreamCommand, StreamInput};
use crate::migration::vmstate::machine::{Configuration, GlobalState};
use crate::migration::vmstate::{self, StateError, VmState};
use postcopy::Postcopy;

/// Bytes read at once until what the machines have to have alike has been compared: a source that is
/// refused is to learn of it before it has sent everything.
const HEAD: usize = 4096;
/// Longest description at the stream's end that is read.
const DESCRIPTION_MAX: u32 = 16 << 20;

/// A load under way.
pub(super) struct Load {
    peers: Arc<DestinationPeers>,
    settings: Settings,
    /// Until a thread of a postcopy has it.
    memory: Option<Box<dyn MemoryTarget>>,
    input: StreamInput,
    /// Bytes that it reads at once.
    at_once: Arc<AtomicUsize>,
    /// Where the stream is, if it is in a file.
    file: Option<FileAccess>,
    control: ChannelControl,
    back: Back,
    sides: Option<SideChannels>,
    runtime: Runtime,
    /// Sections that come in pieces (there is one, RAM), by the number that the stream gives them.
    pieces: HashMap<u32, String>,
    /// What has been loaded, as (idstr, instance).
    loaded: Vec<(String, u32)>,
    run_state: Option<GlobalState>,
    postcopy: Postcopy,
    afterwards: Option<Afterwards>,
}

/// What a postcopy needs while the machine runs.
pub(super) struct Afterwards {
    pub actor: Addr<MigrationDestination>,
    /// Channels to go on with, when one is lost.
    pub channels: mpsc::UnboundedReceiver<Channel>,
    /// Channels for pages that are waited for.
    pub urgents: mpsc::UnboundedReceiver<Channel>,
}

/// A stream that has been loaded as far as the machine needs it.
pub(super) enum Loaded {
    Whole(Arrived),
    /// The rest of its memory comes while it runs.
    Begun(Arrived, Arc<Shared>),
}

/// What follows a command.
enum Turn {
    On,
    Run(Arrived, Arc<Shared>),
}

/// The return path, opened if the source asks for it.
struct Back {
    /// Until it is `queue`'s.
    to: Option<ChannelWriter>,
    /// There is somebody at the other end.
    heard: bool,
    open: bool,
    queue: Option<ReturnQueue>,
}

/// The connections of a migration.
pub(super) struct Connected {
    pub channel: Channel,
    /// What has been read of it.
    pub head: Vec<u8>,
    pub sides: Option<SideChannels>,
}

impl Load {
    pub(super) fn new(
        peers: Arc<DestinationPeers>,
        settings: Settings,
        memory: Box<dyn MemoryTarget>,
        connected: Connected,
        afterwards: Afterwards,
    ) -> Self {
        let Connected { channel, head, sides } = connected;
        let file = channel.file().cloned();
        let (control, runtime) = (channel.control(), Runtime::current());
        let (from, to) = channel.split();
        let never = || -> Until { Box::pin(std::future::pending()) };
        let until = sides.as_ref().map_or_else(never, SideChannels::breaks);
        let at_once = Arc::new(AtomicUsize::new(HEAD));
        let from = Blocking::new(from, runtime.clone(), until).limited_by(Arc::clone(&at_once));
        let from = Cursor::new(head).chain(from);
        Self {
            at_once,
            peers,
            settings,
            memory: Some(memory),
            input: Input::new(Box::new(from)),
            control,
            back: Back { to: Some(to), heard: file.is_none(), open: false, queue: None },
            file,
            sides,
            runtime,
            pieces: HashMap::new(),
            loaded: Vec::new(),
            run_state: None,
            postcopy: Postcopy::default(),
            afterwards: Some(afterwards),
        }
    }

    /// Load everything, and tell the source how it went if it listens.
    pub(super) fn run(mut self) -> Result<Loaded, ErrorDesc> {
        let loaded = self.stream();
        match loaded {
            Ok(Loaded::Begun(arrived, shared)) => Ok(Loaded::Begun(arrived, shared)),
            Ok(Loaded::Whole(arrived)) => {
                let late = self.settings.capabilities.has(Capability::LateBlockActivate);
                let take = TakeDrives { only_to_run: late.then_some(arrived.was) };
                let taken = self.runtime.block_on(self.peers.take_drives.send(take));
                let gone = |_| Err(VmError("the machine has failed".to_owned()));
                if let Err(VmError(refusal)) = taken.unwrap_or_else(gone) {
                    self.give_up(&refusal);
                    return Err(ErrorDesc::from(refusal));
                }
                // Before the machine runs: a source that does not hear this goes on itself.
                if let Err(error) = self.tell(&ReturnMessage::Shut(0)) {
                    // It needs the drives, and learns from the channel's end that it may have them.
                    let released = self.peers.release_drives.send(ReleaseDrives);
                    let _ = self.runtime.block_on(released);
                    let text = format!("cannot tell the source that all is loaded: {error}");
                    return Err(ErrorDesc::from(text));
                }
                Ok(Loaded::Whole(arrived))
            }
            Err(error) => {
                // The main channel was given up because of one beside it.
                let first = self.sides.as_ref().and_then(SideChannels::failure);
                let mut first = first.unwrap_or(error);
                if let Postcopy::Listening(listening) = &self.postcopy {
                    first = listening.fail(first);
                }
                let LoadError { kind, cause } = first;
                self.give_up(&cause);
                let words = kind.words();
                Err(ErrorDesc::from(format!("load of migration failed: {words}: {cause}")))
            }
        }
    }

    fn give_up(&mut self, reason: &str) {
        // What is refused before the source opens the path (a configuration) is told as well: with
        // `return-path` on here, the source listens.
        let on = |capability| self.settings.capabilities.has(capability);
        self.back.open |= on(Capability::ReturnPath) || on(Capability::PostcopyRam);
        // The source may be gone; the reason is known here all the same.
        let _ = self.tell(&ReturnMessage::Reason(reason.to_owned()));
        let _ = self.tell(&ReturnMessage::Shut(1));
        if let Some(queue) = &self.back.queue {
            queue.flush(&self.runtime);
            // Another thread reads of it.
            self.control.shutdown();
        }
    }

    fn tell(&mut self, message: &ReturnMessage) -> io::Result<()> {
        if !self.back.open {
            return Ok(());
        }
        if let Some(queue) = &self.back.queue {
            queue.tell(message.clone());
            return Ok(());
        }
        if !self.back.heard {
            return Err(io::Error::other("nobody hears what is said to a file"));
        }
        let Some(to) = &mut self.back.to else { return Ok(()) };
        self.runtime.block_on(async {
            to.write_all(&message.encode()).await?;
            to.flush().await
        })
    }

    fn stream(&mut self) -> Result<Loaded, LoadError> {
        self.input.header()?;
        self.configuration()?;
        loop {
            let record = self.input.record()?;
            self.fits(record)?;
            match record {
                Record::Eof => break,
                record @ (Record::SectionStart | Record::SectionFull) => self.section(record)?,
                Record::SectionPart | Record::SectionEnd => self.piece()?,
                Record::Command => match self.command()? {
                    Turn::On => {}
                    Turn::Run(arrived, shared) => return Ok(Loaded::Begun(arrived, shared)),
                },
                record => {
                    let number = record as u8;
                    return Err(LoadError::invalid(format!(
                        "Unknown savevm section type {number}"
                    )));
                }
            }
        }
        self.description()?;
        self.complete().map(Loaded::Whole)
    }

    /// The section that says what the machine is.
    fn configuration(&mut self) -> Result<(), LoadError> {
        if self.input.record()? != Record::Configuration {
            return Err(LoadError::invalid("Configuration section missing"));
        }
        let mut theirs = Configuration::default();
        take(&mut self.input, &mut theirs, Configuration::VMSD.version)?;
        let machine = &self.peers.machine;
        if theirs.machine != *machine {
            return Err(LoadError::invalid(format!(
                "Machine type received is '{}' and local is '{machine}'",
                theirs.machine.escape_debug()
            )));
        }
        for name in &theirs.capabilities {
            if !Capability::ALL.iter().any(|c| c.name() == name) {
                let name = name.escape_debug();
                return Err(LoadError::invalid(format!("Received unknown capability {name}")));
            }
        }
        for capability in [Capability::XIgnoreShared, Capability::MappedRam] {
            let ours = self.settings.capabilities.has(capability);
            if theirs.capabilities.iter().any(|name| name == capability.name()) != ours {
                let (here, there) = if ours { ("on", "off") } else { ("off", "on") };
                return Err(LoadError::invalid(format!(
                    "Capability {} is {here}, but received capability is {there}",
                    capability.name()
                )));
            }
        }
        // Whether this is looked at is for the source to say.
        match (theirs.uuid, self.peers.uuid) {
            (Some(theirs), Some(ours)) if theirs != ours => Err(LoadError::invalid(format!(
                "UUID received is {} and local is {}",
                uuid_text(&theirs),
                uuid_text(&ours)
            ))),
            (Some(theirs), None) => {
                let theirs = uuid_text(&theirs);
                crate::report::line(&format!(
                    "warning: UUID is received {theirs}, but local uuid isn't set"
                ));
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// A whole section, or the first piece of RAM.
    fn section(&mut self, record: Record) -> Result<(), LoadError> {
        let id = self.input.u32()?;
        let name = self.input.name()?;
        let instance = self.input.u32()?;
        let version = self.input.u32()?;
        let place =
            || format!("error while loading state for instance 0x{instance:x} of device '{name}'");
        match name.as_str() {
            "ram" if instance == 0 && record == Record::SectionStart => {
                let Some(memory) = &mut self.memory else {
                    return Err(LoadError::invalid("a section ram during a postcopy"));
                };
                memory.begin(version).map_err(|error| error.within(place()))?;
                if let (Some(sides), Some(blocks)) = (&mut self.sides, memory.incoming()) {
                    sides.start(blocks);
                }
                let first = match self.settings.capabilities.has(Capability::MappedRam) {
                    true => self.memory_in_file(),
                    false => self.memory_piece(),
                };
                first.map_err(|error| error.within(place()))?;
                self.pieces.insert(id, name.clone());
                self.at_once.store(usize::MAX, Ordering::Relaxed);
                if self.settings.capabilities.has(Capability::SwitchoverAck) {
                    // No device here needs time before it agrees.
                    self.tell(&ReturnMessage::SwitchoverAck)
                        .map_err(|error| LoadError::io(error.to_string()))?;
                }
            }
            "globalstate" if instance == 0 => {
                let mut state = GlobalState::default();
                take(&mut self.input, &mut state, version).map_err(|e| e.within(place()))?;
                self.run_state = Some(state);
            }
            _ => {
                let Some(source) = self.peers.sections.find(&name, instance).cloned() else {
                    return Err(LoadError::invalid(format!(
                        "Unknown savevm section or instance '{}' {instance}. Make sure that your \
                         current VM setup matches your saved VM setup, including any hotplugged \
                         devices",
                        name.escape_debug()
                    )));
                };
                self.device(&source, version).map_err(|error| error.within(place()))?;
            }
        }
        self.input.footer(id, &name)?;
        if !self.loaded.iter().any(|(n, i)| *n == name && *i == instance) {
            self.loaded.push((name, instance));
        }
        Ok(())
    }

    fn device(&mut self, source: &StateSource, version: u32) -> Result<(), LoadError> {
        let local = source.vmsd.version;
        if version > local {
            return Err(LoadError::invalid(format!(
                "savevm: unsupported version {version} for '{}' v{local}",
                source.idstr
            )));
        }
        loop {
            let ahead = self.input.ahead().to_vec();
            match self.runtime.block_on(source.load(version, ahead)) {
                Ok(length) => {
                    self.input.skip(length as u64)?;
                    return Ok(());
                }
                Err(error) if error.is_truncated() => self.input.more()?,
                Err(StateError::Missing { addr, len })
                    if let Postcopy::Listening(listening) = &self.postcopy =>
                {
                    listening.wait(addr, len)?;
                }
                Err(error) => return Err(refused(&error)),
            }
        }
    }

    /// A later piece of RAM.
    fn piece(&mut self) -> Result<(), LoadError> {
        let id = self.input.u32()?;
        let Some(name) = self.pieces.get(&id).cloned() else {
            return Err(LoadError::invalid(format!("Unknown savevm section {id}")));
        };
        let place = || format!("error while loading state section id {id}({name})");
        self.memory_piece().map_err(|error| error.within(place()))?;
        self.input.footer(id, &name)
    }

    fn memory_piece(&mut self) -> Result<(), LoadError> {
        let sides = &mut self.sides;
        let gone = || LoadError::invalid("memory inside a package");
        self.memory.as_mut().ok_or_else(gone)?.piece(&mut self.input, &mut || match sides {
            Some(sides) => sides.flush(),
            None => Err(LoadError::invalid(
                "Capability multifd is off, but the source sends over channels of that kind",
            )),
        })
    }

    fn command(&mut self) -> Result<Turn, LoadError> {
        let number = self.input.u16()?;
        let length = self.input.u16()?;
        let known = StreamCommand::of(number);
        let Some(command) = known else {
            return Err(LoadError::invalid(format!(
                "MIG_CMD 0x{number:x} unknown (len 0x{length:x})"
            )));
        };
        let expected = match command {
            StreamCommand::Ping | StreamCommand::Packaged => 4,
            _ => 0,
        };
        match command {
            StreamCommand::OpenReturnPath
            | StreamCommand::Ping
            | StreamCommand::SwitchoverStart
            | StreamCommand::PostcopyListen
            | StreamCommand::PostcopyRun
            | StreamCommand::Packaged
                if length != expected =>
            {
                Err(LoadError::invalid(format!(
                    "{command:?} received with bad length - expecting {expected}, got {length}"
                )))
            }
            StreamCommand::OpenReturnPath if self.back.open => {
                Err(LoadError::invalid("CMD_OPEN_RETURN_PATH called when RP already open"))
            }
            StreamCommand::OpenReturnPath => {
                self.back.open = true;
                Ok(Turn::On)
            }
            StreamCommand::Ping => {
                let value = self.input.u32()?;
                if !self.back.open {
                    return Err(LoadError::invalid(format!(
                        "CMD_PING (0x{value:x}) received with no return path"
                    )));
                }
                self.tell(&ReturnMessage::Pong(value))
                    .map_err(|error| LoadError::io(format!("return path: {error}")))?;
                Ok(Turn::On)
            }
            StreamCommand::SwitchoverStart => Ok(Turn::On),
            StreamCommand::PostcopyAdvise => self.advise(length).map(|()| Turn::On),
            StreamCommand::PostcopyRamDiscard => self.discard(length).map(|()| Turn::On),
            StreamCommand::Packaged => self.package().map(|()| Turn::On),
            StreamCommand::PostcopyListen => self.listen().map(|()| Turn::On),
            StreamCommand::PostcopyRun => self.run_machine(),
            other => Err(LoadError::unsupported(format!(
                "the stream asks for {other:?}, which this machine does not have now"
            ))),
        }
    }

    /// The description that follows the end: read, so that the source can finish, and not needed.
    fn description(&mut self) -> Result<(), LoadError> {
        if self.input.ahead().is_empty() && self.input.more().is_err() {
            // The stream may end here.
            return Ok(());
        }
        match self.input.u8()? {
            byte if byte == Record::VmDescription as u8 => {
                let length = self.input.u32()?;
                if length > DESCRIPTION_MAX {
                    return Err(LoadError::invalid(format!(
                        "a description of {length} bytes: most are {DESCRIPTION_MAX}"
                    )));
                }
                self.input.skip(length.into())
            }
            byte => {
                Err(LoadError::invalid(format!("Expected vmdescription section, but got {byte}")))
            }
        }
    }

    /// Nothing that a machine cannot do without is missing.
    fn complete(&mut self) -> Result<Arrived, LoadError> {
        let has =
            |name: &str, instance| self.loaded.iter().any(|(n, i)| n == name && *i == instance);
        if !has("ram", 0) {
            return Err(LoadError::invalid("the stream has no section 'ram'"));
        }
        for source in &self.peers.sections.sources {
            if source.idstr == "cpu" && !has("cpu", source.instance_id) {
                return Err(LoadError::invalid(format!(
                    "the stream has no section 'cpu' {}: the source has fewer harts",
                    source.instance_id
                )));
            }
        }
        let Some(state) = &self.run_state else {
            return Err(LoadError::invalid("the stream has no section 'globalstate'"));
        };
        let name = serde_json::Value::String(state.run_state.clone());
        let was: RunState = serde_json::from_value(name).map_err(|_| {
            let state = state.run_state.escape_debug();
            LoadError::invalid(format!("Unknown savevm run state '{state}'"))
        })?;
        Ok(Arrived { was })
    }
}

/// Take a state whose owner is not an actor.
fn take<S: VmState>(input: &mut StreamInput, state: &mut S, version: u32) -> Result<(), LoadError> {
    loop {
        match vmstate::load(state, version, input.ahead()) {
            Ok(length) => return input.skip(length as u64),
            Err(error) if error.is_truncated() => input.more()?,
            Err(error) => return Err(refused(&error)),
        }
    }
}

fn refused(error: &StateError) -> LoadError {
    LoadError { kind: LoadKind::Invalid, cause: error.to_string() }
}
