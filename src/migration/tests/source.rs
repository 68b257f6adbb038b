//! The source: every way out of it, with the states on the way and the sentence at the end.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::mocks::*;
use crate::migration::capability::Capability;
use crate::migration::channel::{Address, Channel};
use crate::migration::message::{CancelMigration, ContinueMigration, Settings, StartMigration};
use crate::migration::return_path::ReturnMessage;
use crate::migration::status::{ErrorDesc, MigrationState, MigrationStatus};

const SETUP: MigrationState = MigrationState::Setup;
const ACTIVE: MigrationState = MigrationState::Active;
const DEVICE: MigrationState = MigrationState::Device;

fn start(settings: Settings) -> StartMigration {
    StartMigration { address: Address::parse("tcp:mock:1").unwrap(), settings, resume: false }
}

fn with(capabilities: &[Capability]) -> Settings {
    let mut settings = Settings::default();
    settings.parameters.max_bandwidth = 0;
    for &capability in capabilities {
        settings.capabilities.set(capability, true);
    }
    settings
}

fn failed(sentence: &str) -> MigrationState {
    MigrationState::Failed(ErrorDesc::new(sentence))
}

impl SourceRig {
    async fn migrate(&self, settings: Settings) -> Result<(), ErrorDesc> {
        self.actor.send(start(settings)).await.unwrap()
    }

    /// Nothing that a migration takes is kept.
    fn assert_released(&self) {
        assert_eq!(std::sync::Arc::strong_count(&self.log), 2, "the dirty log is on");
    }
}

/// Read the stream to its end.
fn drain(mut channel: Channel) -> tokio::task::JoinHandle<usize> {
    actix::spawn(async move {
        let mut bytes = Vec::new();
        channel.read_to_end(&mut bytes).await.unwrap();
        bytes.len()
    })
}

/// Read `count` bytes, then hang up.
fn cut(mut channel: Channel, count: usize) {
    actix::spawn(async move {
        let mut bytes = vec![0; count];
        let _ = channel.read_exact(&mut bytes).await;
    });
}

#[actix::test]
async fn a_refused_connection_is_told_and_leaves_the_machine_alone() {
    let mut rig = source(Line::Refused("Error connecting to socket: Connection refused"));
    // Over a network the command has been answered before.
    rig.migrate(with(&[])).await.unwrap();
    let end = failed("Error connecting to socket: Connection refused");
    assert_eq!(rig.told.states().await, [SETUP, end]);
    assert!(rig.undone.take().is_empty());
    rig.assert_released();
}

#[actix::test]
async fn what_is_opened_on_the_spot_answers_the_command_too() {
    let mut rig = source(Line::Refused("no such command"));
    let address = Address::parse("exec:nothing").unwrap();
    let message = StartMigration { address, settings: with(&[]), resume: false };
    let answer = rig.actor.send(message).await.unwrap();
    assert_eq!(answer, Err(ErrorDesc::new("no such command")));
    assert_eq!(rig.told.states().await, [SETUP, failed("no such command")]);
}

#[actix::test]
async fn a_migration_goes_through_its_states_and_hands_the_machine_over() {
    let (near, far) = Channel::pair(1 << 16);
    let mut rig = source(Line::Open(near));
    let read = drain(far);
    rig.migrate(with(&[])).await.unwrap();
    assert_eq!(rig.told.states().await, [SETUP, ACTIVE, DEVICE, MigrationState::Completed]);
    assert_eq!(rig.handed_over.take().len(), 1);
    assert!(rig.undone.take().is_empty());
    assert!(read.await.unwrap() > 64 * 4096);
    rig.assert_released();
}

#[actix::test]
async fn every_cut_of_the_stream_fails_and_lets_the_machine_go_on() {
    let (near, far) = Channel::pair(1 << 16);
    let mut rig = source(Line::Open(near));
    let read = drain(far);
    rig.migrate(with(&[])).await.unwrap();
    rig.told.states().await;
    let whole = read.await.unwrap();
    rig.told.clear();
    rig.handed_over.take();
    // Small buffers, so that what is not read is not taken.
    for count in (0..whole - 600).step_by(whole / 40).chain(0..30) {
        let (near, far) = Channel::pair(512);
        *rig.line.lock() = Some(Line::Open(near));
        cut(far, count);
        rig.migrate(with(&[])).await.unwrap();
        let states = rig.told.states().await;
        let Some(MigrationState::Failed(reason)) = states.last() else {
            panic!("cut at {count}: {states:?}")
        };
        assert!(reason.as_str().starts_with("Unable to write to socket"), "{reason}");
        // It runs again exactly if it was stopped.
        let stopped = states.contains(&DEVICE);
        assert_eq!(rig.undone.take().len(), usize::from(stopped), "cut at {count}");
        assert!(rig.handed_over.take().is_empty());
        rig.assert_released();
        rig.told.clear();
    }
}

#[actix::test]
async fn faults_of_the_machine_are_told_too() {
    for (fault, sentence) in [
        (Fault::Begin, "no dirty log"),
        (Fault::Collect, "a hart does not answer"),
        (Fault::Panic, "the migration's source has panicked: memory is mocked badly"),
    ] {
        let (near, far) = Channel::pair(1 << 16);
        let mut rig = source(Line::Open(near));
        *rig.fault.lock() = fault;
        drain(far);
        rig.migrate(with(&[])).await.unwrap();
        assert_eq!(rig.told.states().await.last(), Some(&failed(sentence)));
        rig.assert_released();
        // It can be tried again.
        *rig.fault.lock() = Fault::None;
        let (near, far) = Channel::pair(1 << 16);
        *rig.line.lock() = Some(Line::Open(near));
        drain(far);
        rig.told.clear();
        rig.migrate(with(&[])).await.unwrap();
        assert_eq!(rig.told.states().await.last(), Some(&MigrationState::Completed));
    }
}

#[actix::test]
async fn a_cancellation_ends_a_connect_that_never_does() {
    let mut rig = source(Line::Silent);
    rig.migrate(with(&[])).await.unwrap();
    assert!(rig.migrate(with(&[])).await.is_err(), "one at a time");
    rig.actor.send(CancelMigration).await.unwrap().unwrap();
    let end = [SETUP, MigrationState::Cancelling, MigrationState::Cancelled(None)];
    assert_eq!(rig.told.states().await, end);
    rig.assert_released();
}

#[actix::test]
async fn a_cancellation_ends_a_stream_that_nobody_reads() {
    let (near, far) = Channel::pair(100);
    let mut rig = source(Line::Open(near));
    rig.migrate(with(&[])).await.unwrap();
    tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    rig.actor.send(CancelMigration).await.unwrap().unwrap();
    assert_eq!(rig.told.states().await.last(), Some(&MigrationState::Cancelled(None)));
    rig.assert_released();
    drop(far);
}

#[actix::test]
async fn it_waits_before_the_switchover_if_it_is_to() {
    let (near, far) = Channel::pair(1 << 16);
    let mut rig = source(Line::Open(near));
    drain(far);
    assert!(rig.actor.send(ContinueMigration).await.unwrap().is_err());
    rig.migrate(with(&[Capability::PauseBeforeSwitchover])).await.unwrap();
    rig.told.until(MigrationStatus::PreSwitchover).await;
    rig.actor.send(ContinueMigration).await.unwrap().unwrap();
    let way = [SETUP, ACTIVE, MigrationState::PreSwitchover, DEVICE, MigrationState::Completed];
    assert_eq!(rig.told.states().await, way);

    // Cancelled there, the machine goes on.
    let (near, far) = Channel::pair(1 << 16);
    *rig.line.lock() = Some(Line::Open(near));
    drain(far);
    rig.told.clear();
    rig.migrate(with(&[Capability::PauseBeforeSwitchover])).await.unwrap();
    rig.told.until(MigrationStatus::PreSwitchover).await;
    rig.actor.send(CancelMigration).await.unwrap().unwrap();
    assert_eq!(rig.told.states().await.last(), Some(&MigrationState::Cancelled(None)));
    assert_eq!(rig.undone.take().len(), 1);
}

#[actix::test]
async fn the_destinations_reason_is_the_reason() {
    let (near, mut far) = Channel::pair(1 << 10);
    let mut rig = source(Line::Open(near));
    actix::spawn(async move {
        far.read_exact(&mut [0; 3000]).await.unwrap();
        let reason = ReturnMessage::Reason("Size mismatch: ram: 1 != 2".to_owned());
        far.write_all(&reason.encode()).await.unwrap();
        far.write_all(&ReturnMessage::Shut(1).encode()).await.unwrap();
    });
    rig.migrate(with(&[Capability::ReturnPath])).await.unwrap();
    let end = failed("destination: Size mismatch: ram: 1 != 2");
    assert_eq!(rig.told.states().await.last(), Some(&end));
}

#[actix::test]
async fn without_the_destinations_word_the_machine_goes_on_here() {
    let (near, far) = Channel::pair(1 << 16);
    let mut rig = source(Line::Open(near));
    // It takes everything and hangs up.
    actix::spawn(async move {
        let (mut from, to) = far.split();
        let mut bytes = vec![0; 64 << 10];
        let mut taken = 0;
        while taken < 64 * 4097 {
            taken += from.read(&mut bytes).await.unwrap();
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        drop((from, to));
    });
    rig.migrate(with(&[Capability::ReturnPath])).await.unwrap();
    let end = failed("the destination closed the connection before it was done");
    assert_eq!(rig.told.states().await.last(), Some(&end));
    assert_eq!(rig.undone.take().len(), 1);
    assert!(rig.handed_over.take().is_empty());
}

#[actix::test]
async fn passes_go_on_until_what_is_left_fits_into_the_downtime() {
    let (near, far) = Channel::pair(1 << 16);
    let mut rig = source(Line::Open(near));
    drain(far);
    // 200 pages dirty after the first pass, too many at 1 MiB/s for 1 ms; then none.
    *rig.again.lock() = vec![0, 200];
    let mut settings = with(&[]);
    settings.parameters.max_bandwidth = 1 << 20;
    settings.parameters.downtime_limit = 1;
    rig.migrate(settings).await.unwrap();
    assert_eq!(rig.told.states().await.last(), Some(&MigrationState::Completed));
    assert!(rig.again.lock().is_empty());
}

#[actix::test]
async fn a_pass_that_takes_long_is_looked_into_for_the_sake_of_convergence() {
    tokio::time::pause();
    let (near, far) = Channel::pair(1 << 16);
    let mut rig = source(Line::Open(near));
    drain(far);
    // The second pass takes 12.5 s: after 5 and 10 of them, and at its end, nothing was written.
    *rig.again.lock() = vec![0, 0, 0, 200];
    let mut settings = with(&[Capability::AutoConverge]);
    settings.parameters.max_bandwidth = 64 << 10;
    settings.parameters.downtime_limit = 1;
    rig.migrate(settings).await.unwrap();
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert_eq!(rig.told.states().await.last(), Some(&MigrationState::Completed));
    assert!(rig.again.lock().is_empty());
}

#[actix::test]
async fn drives_are_released_before_the_other_side_may_run() {
    let (near, mut far) = Channel::pair(1 << 16);
    let mut rig = source(Line::Open(near));
    *rig.keeps.lock() = Some("Could not write to 'disk': No space left on device");
    let read = actix::spawn(async move {
        let mut bytes = Vec::new();
        far.read_to_end(&mut bytes).await.unwrap();
        bytes
    });
    rig.migrate(with(&[])).await.unwrap();
    let end = failed("Could not write to 'disk': No space left on device");
    assert_eq!(rig.told.states().await, [SETUP, ACTIVE, DEVICE, end]);
    assert_eq!((rig.released.take().len(), rig.undone.take().len()), (1, 1));
    assert!(rig.handed_over.take().is_empty());
    rig.assert_released();
    // The stream has no end: nothing can be made of it. The last footer is that of 'globalstate'.
    let bytes = read.await.unwrap();
    assert_eq!(bytes[bytes.len() - 5], 0x7e, "{:?}", &bytes[bytes.len() - 8..]);
}

#[actix::test]
async fn a_machine_whose_drives_are_gone_says_that_it_stays() {
    let lock = "Failed to get \"write\" lock: is another process using the image [d]?";
    for (cancel, sentence) in [
        (false, format!("no pages; this side stays paused: {lock}")),
        (true, format!("this side stays paused: {lock}")),
    ] {
        let (near, mut far) = Channel::pair(1 << 12);
        let mut rig = source(Line::Open(near));
        *rig.lost.lock() = Some(lock);
        let settings = with(&[Capability::ReturnPath, Capability::PauseBeforeSwitchover]);
        let (go_on, hears) = tokio::sync::oneshot::channel::<()>();
        actix::spawn(async move {
            far.read_exact(&mut vec![0; 64 * 4097]).await.unwrap();
            let _ = hears.await;
            let reason = ReturnMessage::Reason("no pages".to_owned());
            far.write_all(&reason.encode()).await.unwrap();
            let mut rest = Vec::new();
            far.read_to_end(&mut rest).await.unwrap();
        });
        rig.migrate(settings).await.unwrap();
        rig.told.until(MigrationStatus::PreSwitchover).await;
        if cancel {
            rig.actor.send(CancelMigration).await.unwrap().unwrap();
        } else {
            rig.actor.send(ContinueMigration).await.unwrap().unwrap();
            go_on.send(()).unwrap();
        }
        let states = rig.told.states().await;
        let end = ErrorDesc::from(sentence.replace("no pages", "destination: no pages"));
        let end = match cancel {
            true => MigrationState::Cancelled(Some(end)),
            false => MigrationState::Failed(end),
        };
        assert_eq!(states.last(), Some(&end));
        assert_eq!(rig.undone.take().len(), 1);
    }
}
