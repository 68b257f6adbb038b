//! Postcopy: both sides together, over channels that break anywhere; and what each makes of a peer
//! that says what it should not.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::thread::JoinHandle;

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::mocks::*;
use crate::cpu::inbox::Peers;
use crate::machine::memory::{GuestRam, PAGE_SIZE, RAM_BASE};
use crate::machine::message::RunState;
use crate::migration::capability::Capability;
use crate::migration::channel::{Address, Channel};
use crate::migration::message::{
    CancelMigration, PauseMigration, RecoverIncoming, Settings, StartIncoming, StartMigration,
    StartPostcopy, UpdateParameters,
};
use crate::migration::ram::block::Bytes;
use crate::migration::ram::device::DeviceBlock;
use crate::migration::ram::machine::{MachineMemory, RAM_NAME};
use crate::migration::return_path::ReturnMessage;
use crate::migration::status::{MigrationState, MigrationStatus};

const PAGES_OF_RAM: u64 = 300;
const ENDS: [MigrationStatus; 3] =
    [MigrationStatus::Completed, MigrationStatus::Failed, MigrationStatus::PostcopyPaused];

/// A machine every third page of whose RAM holds something, and a flash bank.
fn machine(written: bool) -> (MachineMemory, Arc<Bytes>) {
    let ram = Arc::new(GuestRam::new(RAM_BASE, PAGES_OF_RAM * PAGE_SIZE).unwrap());
    for page in (0..PAGES_OF_RAM).step_by(3).filter(|_| written) {
        let text = format!("page {page} ").repeat(300);
        ram.write(RAM_BASE + page * PAGE_SIZE, text.as_bytes()).unwrap();
    }
    let byte = if written { 7 } else { 0 };
    let flash = Arc::new(Bytes::new(vec![byte; 5000], 2 * PAGE_SIZE));
    let devices = vec![DeviceBlock::new("virt.flash0", 0x2000_0000, &flash)];
    (MachineMemory { ram, harts: Peers::new(1), devices }, flash)
}

fn settings() -> Settings {
    let mut settings = Settings::default();
    settings.capabilities.set(Capability::PostcopyRam, true);
    settings.capabilities.set(Capability::PostcopyBlocktime, true);
    // Few pages go before the machine does.
    settings.parameters.max_bandwidth = 20_000;
    settings
}

fn address() -> Address {
    Address::parse("tcp:mock:1").unwrap()
}

/// A connection that is cut when so many bytes have gone from the source to the destination, and
/// what has gone.
fn relay(cut: usize) -> (Channel, Channel, Arc<Mutex<Vec<u8>>>) {
    let ((near, source), (far, destination)) = (Channel::pair(1 << 16), Channel::pair(1 << 16));
    let controls = [source.control(), destination.control()];
    let ((mut from, mut back), (mut answers, mut to)) = (source.split(), destination.split());
    let passed = Arc::new(Mutex::new(Vec::new()));
    let kept = Arc::clone(&passed);
    actix::spawn(async move {
        let mut buffer = vec![0; 4096];
        while let Ok(count @ 1..) = from.read(&mut buffer).await {
            let so_far = kept.lock().len();
            let count = count.min(cut - so_far);
            kept.lock().extend(&buffer[..count]);
            if to.write_all(&buffer[..count]).await.is_err() || so_far + count == cut {
                break;
            }
        }
        controls.iter().for_each(|control| control.shutdown());
    });
    actix::spawn(async move {
        let mut buffer = vec![0; 4096];
        while let Ok(count @ 1..) = answers.read(&mut buffer).await {
            if back.write_all(&buffer[..count]).await.is_err() {
                break;
            }
        }
    });
    (near, far, passed)
}

struct Both {
    source: SourceRig,
    destination: DestinationRig,
    from: MachineMemory,
    to: MachineMemory,
    flash: [Arc<Bytes>; 2],
}

impl Both {
    /// A migration that is to become a postcopy at once, over such a connection.
    async fn start(near: Channel, far: Channel) -> Self {
        Self::start_over(vec![near], vec![far], settings()).await
    }

    async fn start_over(near: Vec<Channel>, far: Vec<Channel>, settings: Settings) -> Self {
        let ((from, sent), (to, got)) = (machine(true), machine(false));
        let source = source_of(Line::Several(near.into()), Some(from.clone()));
        let destination = destination_of(Line::Several(far.into()), "virt", Some(to.clone()));
        let exit_on_error = false;
        let incoming =
            StartIncoming { address: address(), settings: settings.clone(), exit_on_error };
        destination.actor.send(incoming).await.unwrap().unwrap();
        let start = StartMigration { address: address(), settings, resume: false };
        source.actor.send(start).await.unwrap().unwrap();
        source.actor.send(StartPostcopy).await.unwrap().unwrap();
        Self { source, destination, from, to, flash: [sent, got] }
    }

    /// Go on over such a connection.
    async fn recover(&self, near: Channel, far: Channel) {
        self.recover_over(vec![near], vec![far], settings()).await;
    }

    async fn recover_over(&self, near: Vec<Channel>, far: Vec<Channel>, settings: Settings) {
        *self.source.line.lock() = Some(Line::Several(near.into()));
        *self.destination.line.lock() = Some(Line::Several(far.into()));
        let recover = RecoverIncoming { address: address() };
        self.destination.actor.send(recover).await.unwrap().unwrap();
        let resume = StartMigration { address: address(), settings, resume: true };
        self.source.actor.send(resume).await.unwrap().unwrap();
    }

    async fn ends(&mut self) -> (MigrationState, MigrationState) {
        let source = self.source.told.next(&ENDS).await;
        (source, self.destination.told.next(&ENDS).await)
    }

    /// Everything is there, and nothing is kept.
    fn assert_whole(&self) {
        assert!(content(&self.from.ram) == content(&self.to.ram));
        let [sent, got] = &self.flash;
        assert_eq!(sent.to_vec(), got.to_vec());
        assert!(!self.to.ram.presence().is_on() && !self.from.ram.dirty_map().is_on());
        assert_eq!(self.source.handed_over.take().len(), 1);
        assert!(self.source.undone.take().is_empty());
    }
}

/// A guest that looks at its pages, each when it has come, in an order that is not theirs.
fn guest(ram: &Arc<GuestRam>, expected: Vec<u8>) -> JoinHandle<()> {
    let ram = Arc::clone(ram);
    std::thread::spawn(move || {
        for i in 0..PAGES_OF_RAM {
            let page = i * 77 % PAGES_OF_RAM;
            ram.presence().wait(page..page + 1).unwrap();
            let mut bytes = vec![1; PAGE_SIZE as usize];
            ram.read(RAM_BASE + page * PAGE_SIZE, &mut bytes).unwrap();
            let at = (page * PAGE_SIZE) as usize;
            assert!(bytes == expected[at..at + bytes.len()], "page {page}");
        }
    })
}

#[actix::test]
async fn a_machine_runs_before_its_memory_has_come() {
    let (near, far, _) = relay(usize::MAX);
    let mut both = Both::start(near, far).await;
    let told = &mut both.destination.told;
    told.until(MigrationStatus::PostcopyActive).await;
    let guest = guest(&both.to.ram, content(&both.from.ram));
    let states = both.source.told.states().await;
    use MigrationState as S;
    let expected = [S::Setup, S::Active, S::Device, S::PostcopyActive, S::Completed];
    assert_eq!(states, expected);
    let expected = [S::Setup, S::Active, S::PostcopyActive, S::Completed];
    assert_eq!(both.destination.told.states().await, expected);
    guest.join().unwrap();
    both.assert_whole();
    let arrived = both.destination.arrived.take();
    assert!(matches!(arrived[..], [a] if a.was == RunState::Running));
    let ram = both.source.told.progress().ram;
    assert_eq!(ram.transferred, ram.precopy_bytes + ram.downtime_bytes + ram.postcopy_bytes);
    assert!(ram.postcopy_bytes > 90 * PAGE_SIZE && ram.remaining == 0, "{ram:?}");
}

#[actix::test]
async fn it_goes_on_from_wherever_a_channel_breaks() {
    let (near, far, passed) = relay(usize::MAX);
    let mut both = Both::start(near, far).await;
    assert_eq!(both.ends().await, (MigrationState::Completed, MigrationState::Completed));
    let whole = passed.lock().len();
    let mut outcomes = BTreeSet::new();
    let cuts = (1..12_000).step_by(613).chain((12_000..whole).step_by(60_011)).chain([whole - 1]);
    for (i, cut) in cuts.enumerate() {
        let (near, far, _) = relay(cut);
        let mut both = Both::start(near, far).await;
        let (source, destination) = both.ends().await;
        let arrived = !both.destination.arrived.take().is_empty();
        outcomes.insert((source.status().name(), destination.status().name(), arrived));
        if destination.status() == MigrationStatus::Failed {
            assert!(!arrived, "cut at {cut}");
            // Beyond the last byte of the package nobody but the destination knows.
            let lost = source.status() == MigrationStatus::PostcopyPaused;
            assert!(!lost || both.source.undone.take().is_empty(), "cut at {cut}");
            assert!(both.source.handed_over.take().is_empty(), "cut at {cut}");
            continue;
        }
        assert!(arrived && source.status() == MigrationStatus::PostcopyPaused, "cut at {cut}");
        let cancel = both.source.actor.send(CancelMigration).await.unwrap().unwrap_err();
        assert_eq!(cancel.as_str(), "Postcopy migration in progress, cannot cancel.");
        let guest = guest(&both.to.ram, content(&both.from.ram));
        // Within the bitmaps, within the handshake, among pages.
        for again in [1, 20, 30, 44, 47, 52, 60].into_iter().skip(i % 6).take(2) {
            let (near, far, _) = relay(again);
            both.recover(near, far).await;
            let paused = MigrationStatus::PostcopyPaused;
            let (source, destination) = both.ends().await;
            assert_eq!((source.status(), destination.status()), (paused, paused), "{cut} {again}");
            assert!(source.reason().is_some() && destination.reason().is_some());
        }
        let (near, far, _) = relay(usize::MAX);
        both.recover(near, far).await;
        let ends = both.ends().await;
        assert_eq!(ends, (MigrationState::Completed, MigrationState::Completed), "cut at {cut}");
        guest.join().unwrap();
        both.assert_whole();
    }
    assert!(outcomes.contains(&("failed", "failed", false)), "{outcomes:?}");
    assert!(outcomes.contains(&("postcopy-paused", "postcopy-paused", true)), "{outcomes:?}");
}

#[actix::test]
async fn either_side_may_pause_it() {
    for at_source in [true, false] {
        let (near, far, _) = relay(usize::MAX);
        let mut slow = settings();
        slow.parameters.max_postcopy_bandwidth = 4096;
        let mut both = Both::start_over(vec![near], vec![far], slow).await;
        let resume = StartMigration { address: address(), settings: settings(), resume: true };
        let early = both.source.actor.send(resume).await.unwrap().unwrap_err();
        assert_eq!(early.as_str(), "Cannot resume if there is no paused migration");
        let active = [MigrationStatus::PostcopyActive];
        both.source.told.next(&active).await;
        both.destination.told.next(&active).await;
        let paused = match at_source {
            true => both.source.actor.send(PauseMigration).await,
            false => both.destination.actor.send(PauseMigration).await,
        };
        paused.unwrap().unwrap();
        let (source, destination) = both.ends().await;
        let here = if at_source { &source } else { &destination };
        assert_eq!(here.status(), MigrationStatus::PostcopyPaused);
        let reason = here.reason().unwrap().as_str();
        assert_eq!(reason, "Postcopy migration is paused by the user");
        let parameters = settings().parameters;
        both.source.actor.send(UpdateParameters(parameters)).await.unwrap();
        let (near, far, _) = relay(usize::MAX);
        both.recover(near, far).await;
        assert_eq!(both.ends().await, (MigrationState::Completed, MigrationState::Completed));
        both.assert_whole();
        for refused in [
            both.source.actor.send(PauseMigration).await.unwrap(),
            both.destination.actor.send(PauseMigration).await.unwrap(),
        ] {
            let sentence = refused.unwrap_err();
            assert!(sentence.as_str().starts_with("migrate-pause is currently only supported"));
        }
    }
}

#[actix::test]
async fn pages_that_are_waited_for_overtake_the_others() {
    let mut settings = settings();
    settings.capabilities.set(Capability::PostcopyPreempt, true);
    // All of it would take a minute.
    settings.parameters.max_postcopy_bandwidth = 8192;
    // The second channel lasts, or breaks within a page's head or a page.
    for cut in [usize::MAX, 10, 9000] {
        let (near, far, _) = relay(usize::MAX);
        let (near_urgent, far_urgent, urgent) = relay(cut);
        let (near, far) = (vec![near, near_urgent], vec![far, far_urgent]);
        let mut both = Both::start_over(near, far, settings.clone()).await;
        both.destination.told.until(MigrationStatus::PostcopyActive).await;
        let guest = guest(&both.to.ram, content(&both.from.ram));
        if cut < usize::MAX {
            let (source, destination) = both.ends().await;
            let paused = MigrationStatus::PostcopyPaused;
            assert_eq!((source.status(), destination.status()), (paused, paused));
            let (near, far, _) = relay(usize::MAX);
            let (near_urgent, far_urgent, _) = relay(usize::MAX);
            let (near, far) = (vec![near, near_urgent], vec![far, far_urgent]);
            both.recover_over(near, far, settings.clone()).await;
        }
        assert_eq!(both.ends().await, (MigrationState::Completed, MigrationState::Completed));
        guest.join().unwrap();
        both.assert_whole();
        assert!(urgent.lock().len() >= cut.min(100_000), "{cut}");
    }
}

/// The source's stream has come as far as the machine's start; the rest of it, and the way back.
async fn started() -> (SourceRig, Channel) {
    let (near, mut far) = Channel::pair(1 << 22);
    let mut source = source_of(Line::Open(near), Some(machine(true).0));
    let start = StartMigration { address: address(), settings: settings(), resume: false };
    source.actor.send(start).await.unwrap().unwrap();
    source.actor.send(StartPostcopy).await.unwrap().unwrap();
    source.told.next(&[MigrationStatus::PostcopyActive]).await;
    let mut some = [0; 4096];
    far.read_exact(&mut some).await.unwrap();
    (source, far)
}

#[actix::test]
async fn a_destination_that_asks_for_nonsense_is_not_served() {
    let pages = |block: Option<&str>, start, len| ReturnMessage::ReqPages {
        block: block.map(str::to_owned),
        start,
        len,
    };
    let end = PAGES_OF_RAM * PAGE_SIZE;
    let bitmap = |bitmap| ReturnMessage::RecvBitmap { block: RAM_NAME.to_owned(), bitmap };
    for (message, expected) in [
        (pages(None, 0, 4096), "MIG_RP_MSG_REQ_PAGES has no previous block"),
        (pages(Some("nope"), 0, 4096), "MIG_RP_MSG_REQ_PAGES has no block 'nope'"),
        (pages(Some(RAM_NAME), 12, 4096), "Misaligned page request, start:c len: 4096"),
        (pages(Some(RAM_NAME), 0, 12), "Misaligned page request, start:0 len: 12"),
        (pages(Some(RAM_NAME), end, 4096), "MIG_RP_MSG_REQ_PAGES request overrun, start=12c000"),
        (pages(Some(RAM_NAME), end - 4096, 8192), "request overrun"),
        (pages(Some(RAM_NAME), u64::MAX - 4095, 4096), "request overrun"),
        (pages(Some(RAM_NAME), 0, 0), "request overrun"),
        (ReturnMessage::ResumeAck(1), "at a time when it means nothing"),
        (bitmap(vec![0; 8]), "bitmap size mismatch (0x8 > 0x0)"),
    ] {
        let (mut source, mut far) = started().await;
        far.write_all(&message.encode()).await.unwrap();
        let state = source.told.next(&ENDS).await;
        assert_eq!(state.status(), MigrationStatus::PostcopyPaused, "{message:?}");
        let reason = state.reason().unwrap().as_str();
        assert!(reason.contains(expected), "{message:?}: {reason}");
        assert!(source.undone.take().is_empty());
    }
    // One that could not load the machine says so, and the source has it still.
    let (mut source, mut far) = started().await;
    for message in [ReturnMessage::Reason("no such device".to_owned()), ReturnMessage::Shut(1)] {
        far.write_all(&message.encode()).await.unwrap();
    }
    let state = source.told.next(&ENDS).await;
    assert_eq!(state.status(), MigrationStatus::Failed);
    assert_eq!(state.reason().unwrap().as_str(), "destination: no such device");
    assert_eq!(source.undone.take().len(), 1);
}

#[actix::test]
async fn bitmaps_that_fit_no_block_end_a_recovery_and_nothing_else() {
    let (mut source, far) = started().await;
    drop(far);
    source.told.next(&[MigrationStatus::PostcopyPaused]).await;
    let block = RAM_NAME.to_owned();
    let whole = PAGES_OF_RAM.div_ceil(64) as usize * 8;
    for (message, expected) in [
        (ReturnMessage::RecvBitmap { block: block.clone(), bitmap: vec![0; 8] }, "(0x8 != 0x28)"),
        (ReturnMessage::RecvBitmap { block, bitmap: vec![0; whole + 8] }, "(0x30 > 0x28)"),
        (ReturnMessage::RecvBitmap { block: "x".to_owned(), bitmap: vec![] }, "means nothing"),
        (ReturnMessage::ResumeAck(1), "means nothing"),
    ] {
        let (near, mut far) = Channel::pair(1 << 16);
        *source.line.lock() = Some(Line::Open(near));
        let resume = StartMigration { address: address(), settings: settings(), resume: true };
        source.actor.send(resume).await.unwrap().unwrap();
        far.write_all(&message.encode()).await.unwrap();
        let state = source.told.next(&[MigrationStatus::PostcopyPaused]).await;
        let reason = state.reason().unwrap().as_str();
        assert!(reason.contains(expected), "{message:?}: {reason}");
    }
    let resume = StartMigration { address: address(), settings: settings(), resume: true };
    *source.line.lock() = Some(Line::Refused("nobody is there"));
    source.actor.send(resume).await.unwrap().unwrap();
    let state = source.told.next(&[MigrationStatus::PostcopyPaused]).await;
    assert_eq!(state.reason().unwrap().as_str(), "nobody is there");
}

#[actix::test]
async fn no_broken_byte_of_a_stream_hangs_a_destination_or_completes_it_wrongly() {
    let (near, far, passed) = relay(usize::MAX);
    let mut both = Both::start(near, far).await;
    assert_eq!(both.ends().await, (MigrationState::Completed, MigrationState::Completed));
    let (stream, expected) = (passed.lock().clone(), content(&both.from.ram));
    // From what is said before memory to the first page, and from the discards to the pages that
    // follow the machine's start.
    let package = stream.windows(5).position(|w| w == [8, 0, 7, 0, 4]).unwrap();
    let first = stream.windows(5).position(|w| w == [8, 0, 6, 0, 0x2f]).unwrap_or(package - 200);
    let damaged = (8..200).step_by(5).chain((first.min(package - 100)..package + 330).step_by(7));
    for at in damaged {
        let mut bytes = stream.clone();
        bytes[at] ^= 0x51;
        let (near, mut far) = Channel::pair(bytes.len() + 1);
        let (to, _) = machine(false);
        let mut rig = destination_of(Line::Open(near), "virt", Some(to.clone()));
        let (settings, exit_on_error) = (settings(), false);
        let incoming = StartIncoming { address: address(), settings, exit_on_error };
        rig.actor.send(incoming).await.unwrap().unwrap();
        far.write_all(&bytes).await.unwrap();
        far.shutdown().await.unwrap();
        let state = rig.told.next(&ENDS).await;
        if state == MigrationState::Completed {
            // It was a byte of a page.
            let differ = content(&to.ram).iter().zip(&expected).filter(|(a, b)| a != b).count();
            assert!(differ <= 4096, "byte {at}: {differ} bytes differ");
        }
    }
}
