//! Memory over channels of its own: both sides together, and what becomes of them when one of the
//! channels does not do its part.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::mocks::*;
use crate::cpu::inbox::Peers;
use crate::machine::memory::{GuestRam, PAGE_SIZE, RAM_BASE};
use crate::migration::capability::Capability;
use crate::migration::channel::{Address, Channel};
use crate::migration::message::{CancelMigration, Settings, StartIncoming, StartMigration};
use crate::migration::parameters::{MultifdCompression, ZeroPageDetection};
use crate::migration::ram::machine::MachineMemory;
use crate::migration::status::MigrationState;

const PAGES_OF_RAM: u64 = 600;

/// A machine every third page of which holds something.
fn machine(written: bool) -> MachineMemory {
    let ram = Arc::new(GuestRam::new(RAM_BASE, PAGES_OF_RAM * PAGE_SIZE).unwrap());
    for page in (0..PAGES_OF_RAM).step_by(3).filter(|_| written) {
        let text = format!("page {page} ").repeat(300);
        ram.write(RAM_BASE + page * PAGE_SIZE, text.as_bytes()).unwrap();
    }
    MachineMemory { ram, harts: Peers::new(1), devices: Vec::new() }
}

fn settings(capabilities: &[Capability]) -> Settings {
    let mut settings = Settings::default();
    settings.parameters.max_bandwidth = 0;
    for &capability in capabilities {
        settings.capabilities.set(capability, true);
    }
    settings
}

fn start(settings: &Settings) -> StartMigration {
    let address = Address::parse("tcp:mock:1").unwrap();
    StartMigration { address, settings: settings.clone(), resume: false }
}

fn incoming(settings: &Settings) -> StartIncoming {
    let address = Address::parse("tcp:mock:1").unwrap();
    StartIncoming { address, settings: settings.clone(), exit_on_error: false }
}

/// Both ends of so many connections.
fn lines(count: usize, buffer: usize) -> (Vec<Channel>, Vec<Channel>) {
    (0..count).map(|_| Channel::pair(buffer)).unzip()
}

fn several(channels: Vec<Channel>) -> Line {
    Line::Several(channels.into())
}

fn reason(states: &[MigrationState]) -> String {
    let reason = states.last().and_then(MigrationState::reason);
    reason.unwrap_or_else(|| panic!("no failure: {states:?}")).to_string()
}

#[actix::test]
async fn a_machine_arrives_over_several_channels() {
    use MultifdCompression::{None, Zlib, Zstd};
    for (case, compression) in [None, Zlib, Zstd, None].into_iter().enumerate() {
        let mut settings = settings(&[Capability::Multifd, Capability::ReturnPath]);
        settings.parameters.multifd_compression = compression;
        settings.parameters.multifd_channels = 3;
        if case == 3 {
            settings.parameters.zero_page_detection = ZeroPageDetection::Legacy;
        }
        let (near, mut far) = lines(4, 64 << 10);
        // They need not come in the order in which they were opened.
        far.rotate_left(case);
        let (from, to) = (machine(true), machine(false));
        let mut source = source_of(several(near), Some(from.clone()));
        let mut destination = destination_of(several(far), "virt", Some(to.clone()));
        destination.actor.send(incoming(&settings)).await.unwrap().unwrap();
        source.actor.send(start(&settings)).await.unwrap().unwrap();
        let states = source.told.states().await;
        assert_eq!(states.last(), Some(&MigrationState::Completed), "{case}: {states:?}");
        let states = destination.told.states().await;
        assert_eq!(states.last(), Some(&MigrationState::Completed), "{case}");
        assert!(content(&from.ram) == content(&to.ram), "{case}");
        let ram = source.told.progress().ram;
        assert_eq!((ram.normal, ram.duplicate), (200, 400), "{case}");
        assert!(ram.transferred > ram.multifd_bytes && ram.multifd_bytes > 0);
        let plain = compression == None;
        assert_eq!(ram.multifd_bytes > 200 * PAGE_SIZE, plain, "{case}: {}", ram.multifd_bytes);
        assert!(!from.ram.dirty_map().is_on());
    }
}

#[actix::test]
async fn a_channel_that_breaks_ends_the_migration_at_both_ends() {
    // Within the greeting, within a packet's head, within pages.
    for cut in [10, 64 + 100, 64 + 2000, 200_000] {
        let settings = settings(&[Capability::Multifd, Capability::ReturnPath]);
        let (near, mut far) = lines(3, 4096);
        let (mut broken, other) = Channel::pair(4096);
        let relayed = std::mem::replace(&mut far[2], other);
        actix::spawn(async move {
            let (mut from, _) = relayed.split();
            let mut left = cut;
            let mut bytes = [0; 1000];
            while left > 0 {
                let most = left.min(bytes.len());
                let Ok(read @ 1..) = from.read(&mut bytes[..most]).await else { return };
                if broken.write_all(&bytes[..read]).await.is_err() {
                    return;
                }
                left -= read;
            }
        });
        let from = machine(true);
        let mut source = source_of(several(near), Some(from.clone()));
        let mut destination = destination_of(several(far), "virt", Some(machine(false)));
        destination.actor.send(incoming(&settings)).await.unwrap().unwrap();
        source.actor.send(start(&settings)).await.unwrap().unwrap();
        let said = reason(&source.told.states().await);
        assert!(
            said.starts_with("destination: ") || said.starts_with("multifd channel "),
            "{cut}: {said}"
        );
        let said = reason(&destination.told.states().await);
        assert!(said.contains("the stream ends after"), "{cut}: {said}");
        assert!(destination.arrived.take().is_empty());
        assert!(!from.ram.dirty_map().is_on());
    }
}

#[actix::test]
async fn a_channel_that_is_not_served_can_be_cancelled() {
    let settings = settings(&[Capability::Multifd]);
    let (near, mut far) = lines(3, 1000);
    let from = machine(true);
    let mut source = source_of(several(near), Some(from.clone()));
    let mut main = far.remove(0);
    let drained = actix::spawn(async move { main.read_to_end(&mut Vec::new()).await });
    source.actor.send(start(&settings)).await.unwrap().unwrap();
    tokio::time::sleep(Duration::from_millis(20)).await;
    source.actor.send(CancelMigration).await.unwrap().unwrap();
    let states = source.told.states().await;
    assert_eq!(states.last(), Some(&MigrationState::Cancelled(None)));
    assert!(drained.await.unwrap().unwrap() > 0);
    // The others end, too.
    for mut side in far {
        side.read_to_end(&mut Vec::new()).await.unwrap();
    }
    assert!(!from.ram.dirty_map().is_on());
}

#[actix::test]
async fn a_source_that_sends_so_unasked_is_refused_in_words() {
    let on = settings(&[Capability::Multifd, Capability::ReturnPath]);
    let (near, mut far) = lines(3, 64 << 10);
    let mut source = source_of(several(near), Some(machine(true)));
    let line = Line::Open(far.remove(0));
    let mut destination = destination_of(line, "virt", Some(machine(false)));
    let off = settings(&[]);
    destination.actor.send(incoming(&off)).await.unwrap().unwrap();
    source.actor.send(start(&on)).await.unwrap().unwrap();
    let sentence = "Capability multifd is off, but the source sends over channels of that kind";
    assert!(reason(&destination.told.states().await).contains(sentence));
    assert!(reason(&source.told.states().await).contains(sentence));
}

/// Pages over a channel that nobody reads would be lost.
#[actix::test]
async fn a_source_with_more_channels_is_refused_in_words() {
    for early in [true, false] {
        let mut four = settings(&[Capability::Multifd, Capability::ReturnPath]);
        four.parameters.multifd_channels = 4;
        let mut two = four.clone();
        two.parameters.multifd_channels = 2;
        let (near, mut far) = lines(5, 1 << 20);
        if early {
            // The main one comes last.
            far.rotate_left(1);
        }
        let mut source = source_of(several(near), Some(machine(true)));
        let mut destination = destination_of(several(far), "virt", Some(machine(false)));
        destination.actor.send(incoming(&two)).await.unwrap().unwrap();
        source.actor.send(start(&four)).await.unwrap().unwrap();
        let sentence = "the source has more multifd channels than multifd-channels is here: 2";
        let said = reason(&destination.told.states().await);
        assert!(said.contains(sentence), "{said}");
        let said = reason(&source.told.states().await);
        assert!(said.contains(sentence), "{said}");
    }
}
