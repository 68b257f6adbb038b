//! `BlockNode`: the actor behind a drive. Requests reach its threads without a detour through its
//! mailbox; pausing and resuming are messages to the actor.

use std::sync::Arc;

use actix::{Actor, Addr, Context, Handler, Recipient, ResponseFuture};

use super::accounting::BlockAccount;
use super::image::{ImageError, RawImage};
use super::lock::Permissions;
use super::message::{Activate, BlockInfo, BlockRequest, DriveReport, Inactivate, QueryDrive};
use super::worker::{self, WorkQueue, Workers};
use crate::actors::message::{ActorFailed, Pause, Reset, Resume};
use crate::actors::outlet::Outlet;
use crate::machine::message::VmError;
use crate::machine::spec::DriveSpec;
use crate::net::descriptors::Descriptors;

/// A drive before the machine runs: opened, locked, perhaps taken by a device.
#[derive(Debug)]
pub struct Drive {
    id: String,
    image: RawImage,
    info: BlockInfo,
}

impl Drive {
    /// Open the image of `spec`; `active` is false while another machine is to have it.
    pub fn open(
        spec: &DriveSpec,
        active: bool,
        descriptors: &Descriptors,
    ) -> Result<Self, ImageError> {
        let image = RawImage::open(spec, active, descriptors)?;
        let info = BlockInfo {
            size: image.size(),
            read_only: image.read_only(),
            writeback: image.cache().writeback,
            write_error: spec.write_error,
            read_error: spec.read_error,
        };
        Ok(Self { id: spec.id.clone(), image, info })
    }

    /// The user's identifier.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// What a device needs to know.
    pub fn info(&self) -> BlockInfo {
        self.info
    }

    /// A device takes the drive: others may no longer write to the image unless `share_write`.
    pub fn attach(&mut self, share_write: bool) -> Result<(), ImageError> {
        if !self.info.read_only {
            self.image.writable()?;
        }
        self.image.use_for(Permissions::of_device(!self.info.read_only, share_write))
    }

    /// All of a small image.
    pub fn contents(&self) -> Result<Vec<u8>, ImageError> {
        self.image.contents()
    }

    /// Make the actor, which the caller starts on an arbiter.
    pub fn into_node(self, failure: Outlet<ActorFailed>) -> Result<BlockNode, ImageError> {
        self.node(failure, worker::THREADS_MAX)
    }

    /// The same of a drive whose requests no more than so many threads carry out.
    pub fn into_bounded_node(
        self,
        failure: Outlet<ActorFailed>,
        most_threads: usize,
    ) -> Result<BlockNode, ImageError> {
        self.node(failure, most_threads.clamp(1, worker::THREADS_MAX))
    }

    /// Make the actor of a drive whose requests are carried out in order.
    pub fn into_ordered_node(self, failure: Outlet<ActorFailed>) -> Result<BlockNode, ImageError> {
        self.node(failure, 1)
    }

    fn node(
        self,
        failure: Outlet<ActorFailed>,
        most_threads: usize,
    ) -> Result<BlockNode, ImageError> {
        let path = self.image.path().display().to_string();
        let workers = Workers::start(self.image, failure, most_threads)
            .map_err(|e| ImageError::Thread { path, reason: (&e).into() })?;
        Ok(BlockNode { workers })
    }
}

/// A drive as the machine hands it to another machine and takes it.
#[derive(Debug, Clone)]
pub struct Ownership {
    pub inactivate: Recipient<Inactivate>,
    pub activate: Recipient<Activate>,
}

impl Ownership {
    /// That of `node`.
    pub fn of(node: &Addr<BlockNode>) -> Self {
        Self { inactivate: node.clone().recipient(), activate: node.clone().recipient() }
    }
}

/// The actor behind a drive.
#[derive(Debug)]
pub struct BlockNode {
    workers: Workers,
}

impl BlockNode {
    /// Where a device sends its requests: straight into the queue of the drive's threads.
    pub fn requests(&self) -> Outlet<BlockRequest> {
        let queue: WorkQueue = self.workers.queue();
        Outlet::fold(move |request| queue.submit(request))
    }

    /// Where its device tells what is to be counted besides requests.
    pub fn account(&self) -> Outlet<BlockAccount> {
        let accounting = Arc::clone(self.workers.accounting());
        Outlet::fold(move |what| accounting.told(what))
    }
}

impl Actor for BlockNode {
    type Context = Context<Self>;
}

impl Handler<Pause> for BlockNode {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, _: Pause, _: &mut Self::Context) -> Self::Result {
        let drained = self.workers.drain();
        Box::pin(async move {
            // The sender lives as long as the threads' queue, which outlives this actor's drop.
            let _ = drained.await;
        })
    }
}

impl Handler<Resume> for BlockNode {
    type Result = ();

    fn handle(&mut self, _: Resume, _: &mut Self::Context) {
        self.workers.resume();
    }
}

impl Handler<QueryDrive> for BlockNode {
    type Result = ResponseFuture<Result<DriveReport, VmError>>;

    fn handle(&mut self, _: QueryDrive, _: &mut Self::Context) -> Self::Result {
        let statistics = self.workers.accounting().read();
        let seen = self.workers.with_image(move |image| DriveReport {
            size: image.size(),
            allocated: image.allocated(),
            active: image.is_active(),
            read_only: image.read_only(),
            statistics,
        });
        Box::pin(async move { seen.await.ok_or_else(|| VmError("the drive has failed".into())) })
    }
}

impl Handler<Inactivate> for BlockNode {
    type Result = ResponseFuture<Result<(), String>>;

    fn handle(&mut self, _: Inactivate, _: &mut Self::Context) -> Self::Result {
        let drained = self.workers.drain();
        let given = self.workers.with_image(RawImage::inactivate);
        Box::pin(async move {
            let _ = drained.await;
            given.await.map_or_else(gone, told)
        })
    }
}

impl Handler<Activate> for BlockNode {
    type Result = ResponseFuture<Result<(), String>>;

    fn handle(&mut self, _: Activate, _: &mut Self::Context) -> Self::Result {
        let taken = self.workers.with_image(RawImage::activate);
        Box::pin(async move { taken.await.map_or_else(gone, told) })
    }
}

fn gone() -> Result<(), String> {
    Err("the drive has failed".to_owned())
}

/// QEMU's sentence on one line: it becomes part of others.
fn told(result: Result<(), ImageError>) -> Result<(), String> {
    result.map_err(|error| match error {
        ImageError::Locked { path, lock } => {
            format!("{lock}: is another process using the image [{path}]?")
        }
        other => other.to_string(),
    })
}

impl Handler<Reset> for BlockNode {
    type Result = ();

    /// A drive has no state that a machine reset clears: requests of the guest before are disowned
    /// by their device.
    fn handle(&mut self, _: Reset, _: &mut Self::Context) {}
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;
    use std::time::Duration;

    use actix::System;

    use super::*;
    use crate::actors::probe::Probe;
    use crate::block::message::{BlockDone, BlockOp};
    use crate::machine::spec::{CacheMode, DriveInterface, ErrorAction, NodeNames};

    fn spec(path: &Path) -> DriveSpec {
        DriveSpec {
            id: "d0".to_owned(),
            is_back_end: true,
            nodes: NodeNames::default(),
            interface: DriveInterface::None,
            index: 0,
            file: path.to_owned(),
            format: None,
            read_only: false,
            auto_read_only: false,
            cache: CacheMode::default(),
            discard: false,
            write_error: ErrorAction::Report,
            read_error: ErrorAction::Report,
            origin: String::new(),
        }
    }

    #[test]
    fn images_that_cannot_be_used() {
        let error = |path: &str| {
            Drive::open(&spec(Path::new(path)), true, &Descriptors::default())
                .unwrap_err()
                .to_string()
        };
        let missing = "Could not open '/no/such': No such file or directory";
        assert_eq!(error("/no/such"), missing);
        assert_eq!(error("/"), "'file' driver requires '/' to be a regular file");
        assert_eq!(error("/dev/null"), "'file' driver requires '/dev/null' to be a regular file");
    }

    #[test]
    fn two_writers_are_told_apart() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let path = file.path().display();
        let mut first = Drive::open(&spec(file.path()), true, &Descriptors::default()).unwrap();
        let mut second = Drive::open(&spec(file.path()), true, &Descriptors::default()).unwrap();
        let read_only = DriveSpec { read_only: true, ..spec(file.path()) };
        let mut reader = Drive::open(&read_only, true, &Descriptors::default()).unwrap();
        first.attach(false).unwrap();
        let hint = format!("Is another process using the image [{path}]?");
        let refused = second.attach(false).unwrap_err().to_string();
        assert_eq!(refused, format!("Failed to get \"write\" lock\n{hint}"));
        let refused = reader.attach(false).unwrap_err().to_string();
        assert_eq!(refused, format!("Failed to get shared \"write\" lock\n{hint}"));
        drop(first);
        second.attach(true).unwrap();
        reader.attach(true).unwrap();
    }

    #[test]
    fn an_image_changes_hands() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(4096).unwrap();
        let open = |active| {
            let mut drive =
                Drive::open(&spec(file.path()), active, &Descriptors::default()).unwrap();
            drive.attach(false).unwrap();
            drive.into_node(Outlet::Unconnected).unwrap()
        };
        System::new().block_on(async {
            let (first, second) = (open(true), open(false));
            let done: Arc<Probe<BlockDone>> = Arc::new(Probe::new());
            let store = |node: &BlockNode, byte| {
                let op = BlockOp::Store { offset: 0, bytes: vec![byte] };
                node.requests().send(BlockRequest { tag: 0, op, done: done.outlet() });
                done.expect_within(Duration::from_secs(10)).result.is_ok()
            };
            assert_eq!((store(&first, 1), store(&second, 2)), (true, false));
            let (first, second) = (first.start(), second.start());
            let path = file.path().display();
            let refused = format!(
                "Failed to get \"write\" lock: is another process using the image [{path}]?"
            );
            assert_eq!(second.send(Activate).await.unwrap(), Err(refused.clone()));
            first.send(Inactivate).await.unwrap().unwrap();
            second.send(Activate).await.unwrap().unwrap();
            assert_eq!(first.send(Activate).await.unwrap(), Err(refused));
            second.send(Inactivate).await.unwrap().unwrap();
            file.as_file().set_len(8192).unwrap();
            let changed = format!("The size of '{path}' has changed from 4096 to 8192 bytes");
            assert_eq!(first.send(Activate).await.unwrap(), Err(changed));
            // A refusal leaves no lock behind.
            let mut third = Drive::open(&spec(file.path()), true, &Descriptors::default()).unwrap();
            third.attach(false).unwrap();
            assert_eq!(std::fs::read(file.path()).unwrap()[0], 1);
        });
    }

    #[test]
    fn a_pause_is_answered_when_nothing_is_in_flight() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let node = Drive::open(&spec(file.path()), true, &Descriptors::default())
            .unwrap()
            .into_node(Outlet::Unconnected)
            .unwrap();
        let requests = node.requests();
        let done: Arc<Probe<BlockDone>> = Arc::new(Probe::new());
        let flush = |tag| BlockRequest { tag, op: BlockOp::Flush, done: done.outlet() };
        System::new().block_on(async {
            let node = node.start();
            for tag in 0..100 {
                requests.send(flush(tag));
            }
            node.send(Pause).await.unwrap();
            assert_eq!(done.take().len(), 100);
            requests.send(flush(100));
            tokio::time::sleep(Duration::from_millis(30)).await;
            assert!(done.take().is_empty(), "held while paused");
            node.send(Resume).await.unwrap();
            assert_eq!(done.expect_within(Duration::from_secs(10)).tag, 100);
        });
    }
}
