//! Memory in a file beside the stream: both sides one after the other, what becomes of a file that
//! cannot be written or is not whole, and settings that do not fit a file.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use super::mocks::*;
use crate::cpu::inbox::Peers;
use crate::machine::memory::{GuestRam, PAGE_SIZE, RAM_BASE};
use crate::migration::capability::Capability;
use crate::migration::channel::{self, Address, Channel, ChannelContext};
use crate::migration::message::{Settings, StartIncoming, StartMigration};
use crate::migration::parameters::ZeroPageDetection;
use crate::migration::ram::machine::MachineMemory;
use crate::migration::status::MigrationState;

const PAGES_OF_RAM: u64 = 600;

/// A machine every third page of which holds something.
fn machine(written: bool) -> MachineMemory {
    let ram = Arc::new(GuestRam::new(RAM_BASE, PAGES_OF_RAM * PAGE_SIZE).unwrap());
    for page in (0..PAGES_OF_RAM).step_by(3).filter(|_| written) {
        ram.fill(RAM_BASE + page * PAGE_SIZE, PAGE_SIZE, page as u8 | 1).unwrap();
    }
    MachineMemory { ram, harts: Peers::new(1), devices: Vec::new() }
}

fn settings(capabilities: &[Capability]) -> Settings {
    let mut settings = Settings::default();
    settings.parameters.max_bandwidth = 0;
    settings.capabilities.set(Capability::MappedRam, true);
    for &capability in capabilities {
        settings.capabilities.set(capability, true);
    }
    settings
}

fn uri(path: &Path) -> Address {
    Address::parse(&format!("file:{},offset=1000", path.display())).unwrap()
}

async fn open(path: &Path, direct_io: bool) -> Channel {
    let context = ChannelContext { direct_io, ..ChannelContext::default() };
    channel::connect(&uri(path), &context).await.unwrap()
}

/// Save `machine`; how it ended, and the bytes that were written.
async fn save(
    machine: &MachineMemory,
    channel: Channel,
    settings: &Settings,
) -> (MigrationState, u64) {
    let mut rig = source_of(Line::Open(channel), Some(machine.clone()));
    let address = Address::parse("file:mock").unwrap();
    let start = StartMigration { address, settings: settings.clone(), resume: false };
    let answer = rig.actor.send(start).await.unwrap();
    let state = rig.told.states().await.pop().unwrap();
    if let Err(refusal) = answer {
        assert_eq!(state, MigrationState::Failed(refusal));
    }
    let (handed, undone) = (rig.handed_over.take().len(), rig.undone.take().len());
    match state {
        MigrationState::Completed => assert_eq!((handed, undone), (1, 0)),
        _ => assert_eq!(handed, 0),
    }
    assert!(!machine.ram.dirty_map().is_on());
    (state, rig.told.progress().ram.transferred)
}

/// Load what is at `path`.
async fn load(path: &Path, settings: &Settings) -> (MigrationState, MachineMemory) {
    let context = ChannelContext { direct_io: settings.direct_io(), ..Default::default() };
    let channel = channel::listen(&uri(path), &context).await.unwrap().accept().await.unwrap();
    let machine = machine(false);
    let mut rig = destination_of(Line::Open(channel), "virt", Some(machine.clone()));
    let (address, settings) = (Address::parse("file:mock").unwrap(), settings.clone());
    let start = StartIncoming { address, settings, exit_on_error: false };
    rig.actor.send(start).await.unwrap().unwrap();
    let state = rig.told.states().await.pop().unwrap();
    assert_eq!(rig.arrived.take().len(), usize::from(state == MigrationState::Completed));
    (state, machine)
}

fn reason(state: &MigrationState) -> String {
    state.reason().unwrap_or_else(|| panic!("no failure: {state:?}")).to_string()
}

#[actix::test]
async fn a_machine_is_kept_in_a_file_and_comes_back() {
    use ZeroPageDetection::{Legacy, Multifd, None};
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("f");
    for (several, direct_io, detection) in
        [(false, false, Multifd), (true, false, Legacy), (true, true, Multifd), (false, true, None)]
    {
        let mut settings = settings(if several { &[Capability::Multifd] } else { &[] });
        settings.parameters.direct_io = direct_io;
        settings.parameters.zero_page_detection = detection;
        settings.parameters.multifd_channels = 3;
        let what = format!("{several} {direct_io} {detection:?}");
        std::fs::write(&path, vec![0xff; 1000]).unwrap();
        let from = machine(true);
        let channel = open(&path, settings.direct_io()).await;
        let (state, transferred) = save(&from, channel, &settings).await;
        assert_eq!(state, MigrationState::Completed, "{what}");
        // All that was counted, and nothing else.
        let pages = if detection == None { PAGES_OF_RAM } else { PAGES_OF_RAM / 3 };
        let rest = transferred - pages * PAGE_SIZE;
        assert!((200..2000).contains(&rest), "{what}: {transferred}");
        let bytes = std::fs::read(&path).unwrap();
        assert!(bytes[..1000].iter().all(|&byte| byte == 0xff));
        let first = bytes.windows(8).position(|w| w == [1; 8]).unwrap();
        assert_eq!(first % (1 << 20), 0, "{what}: pages begin at {first:#x}");
        // Either reads what the other has written.
        for several in [false, true] {
            settings.capabilities.set(Capability::Multifd, several);
            let (state, to) = load(&path, &settings).await;
            assert_eq!(state, MigrationState::Completed, "{what}");
            assert!(content(&from.ram) == content(&to.ram), "{what}");
        }
    }
}

/// Cut off anywhere, with every number of the list changed: a sentence, and no machine.
#[actix::test]
async fn a_file_that_is_not_whole_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (path, bad) = (dir.path().join("f"), dir.path().join("bad"));
    let settings = settings(&[]);
    std::fs::write(&path, vec![0; 1000]).unwrap();
    let saved = save(&machine(true), open(&path, false).await, &settings).await;
    assert_eq!(saved.0, MigrationState::Completed);
    let bytes = std::fs::read(&path).unwrap();
    let pages = 1 << 20;
    // What follows the description at the end may be missing; nothing else may.
    let eof = (0..bytes.len()).rev().find(|&at| bytes[at] == 6 && bytes[at + 5] == b'{').unwrap();
    let head = 1000..1180;
    let ends = head.clone().chain((pages..eof - 40).step_by(70_001)).chain(eof - 40..eof);
    for end in ends {
        std::fs::write(&bad, &bytes[..end]).unwrap();
        let (state, _) = load(&bad, &settings).await;
        let said = reason(&state);
        let sentence = ["the stream ends after", "it ends too early"];
        assert!(sentence.iter().any(|s| said.contains(s)), "{end}: {said}");
    }
    std::fs::write(&bad, &bytes).unwrap();
    let file = OpenOptions::new().write(true).open(&bad).unwrap();
    for at in head {
        for bit in [0x01, 0x80] {
            file.write_all_at(&[bytes[at] ^ bit], at as u64).unwrap();
            let (state, _) = load(&bad, &settings).await;
            // Some bits are free: the bitmap's offset may point at any bits.
            let harmless = matches!(state, MigrationState::Completed);
            assert!(harmless || !reason(&state).is_empty(), "{at}");
        }
        file.write_all_at(&bytes[at..=at], at as u64).unwrap();
    }
    assert_eq!(load(&bad, &settings).await.0, MigrationState::Completed);
}

#[actix::test]
async fn what_cannot_be_written_fails_the_migration_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("f");
    std::fs::write(&path, "").unwrap();
    let closed = OpenOptions::new().read(true).open(&path).unwrap();
    let number = std::os::fd::AsRawFd::as_raw_fd(&closed);
    let address = Address::parse(&format!("fd:{number}")).unwrap();
    let unwritable = channel::connect(&address, &ChannelContext::default()).await.unwrap();
    let (state, _) = save(&machine(true), unwritable, &settings(&[])).await;
    assert_eq!(reason(&state), "Unable to write to file: Bad file descriptor");

    let seekable = "Migration requires seekable transport (e.g. file)";
    let (near, far) = Channel::pair(1 << 20);
    let (state, _) = save(&machine(true), near, &settings(&[])).await;
    assert_eq!(reason(&state), seekable);
    drop(far);

    let answers = settings(&[Capability::ReturnPath]);
    let (state, _) = save(&machine(true), open(&path, false).await, &answers).await;
    assert_eq!(reason(&state), "Unable to open return-path: a file does not answer");
}
