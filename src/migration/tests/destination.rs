//! The destination: what it accepts, what it refuses and in which words, and both sides together.

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::mocks::*;
use crate::machine::message::RunState;
use crate::migration::capability::Capability;
use crate::migration::channel::{Address, Channel};
use crate::migration::message::{Settings, StartIncoming, StartMigration};
use crate::migration::return_path::ReturnMessage;
use crate::migration::status::{ErrorDesc, MigrationState};

fn incoming(exit_on_error: bool) -> StartIncoming {
    let address = Address::parse("tcp:mock:1").unwrap();
    StartIncoming { address, settings: Settings::default(), exit_on_error }
}

fn outgoing(capabilities: &[Capability]) -> StartMigration {
    let mut settings = Settings::default();
    for &capability in capabilities {
        settings.capabilities.set(capability, true);
    }
    StartMigration { address: Address::parse("tcp:mock:1").unwrap(), settings, resume: false }
}

/// The stream of a mocked source.
async fn stream() -> Vec<u8> {
    let (near, mut far) = Channel::pair(1 << 20);
    let mut rig = source(Line::Open(near));
    rig.actor.send(outgoing(&[])).await.unwrap().unwrap();
    let mut bytes = Vec::new();
    far.read_to_end(&mut bytes).await.unwrap();
    assert_eq!(rig.told.states().await.last(), Some(&MigrationState::Completed));
    bytes
}

/// Load `bytes`; the states, and whether the machine was started.
async fn load(bytes: &[u8]) -> (MigrationState, bool) {
    let (near, mut far) = Channel::pair(bytes.len() + 1);
    let mut rig = destination(Line::Open(near), "virt");
    far.write_all(bytes).await.unwrap();
    far.shutdown().await.unwrap();
    rig.actor.send(incoming(false)).await.unwrap().unwrap();
    let states = rig.told.states().await;
    assert_eq!(states[..2], [MigrationState::Setup, MigrationState::Active]);
    (states[2].clone(), !rig.arrived.take().is_empty())
}

#[actix::test]
async fn a_machine_arrives() {
    for capabilities in [&[][..], &[Capability::ReturnPath]] {
        let (near, far) = Channel::pair(1 << 12);
        let (mut from, mut to) = (source(Line::Open(near)), destination(Line::Open(far), "virt"));
        to.actor.send(incoming(true)).await.unwrap().unwrap();
        from.actor.send(outgoing(capabilities)).await.unwrap().unwrap();
        assert_eq!(from.told.states().await.last(), Some(&MigrationState::Completed));
        assert_eq!(to.told.states().await.last(), Some(&MigrationState::Completed));
        let arrived = to.arrived.take();
        assert!(matches!(arrived[..], [a] if a.was == RunState::Running));
        assert!(to.exited.take().is_empty());
    }
}

#[actix::test]
async fn a_refusal_reaches_both_ends() {
    let (near, far) = Channel::pair(1 << 10);
    let (mut from, mut to) = (source(Line::Open(near)), destination(Line::Open(far), "none"));
    to.actor.send(incoming(true)).await.unwrap().unwrap();
    // The name is refused before the return path is open, so this one is told by the symptom.
    from.actor.send(outgoing(&[Capability::ReturnPath])).await.unwrap().unwrap();
    let refused = "load of migration failed: Invalid argument: \
                   Machine type received is 'virt' and local is 'none'";
    let states = to.told.states().await;
    assert_eq!(states.last(), Some(&MigrationState::Failed(ErrorDesc::new(refused))));
    assert_eq!(to.exited.take().len(), 1);
    assert!(matches!(from.told.states().await.last(), Some(MigrationState::Failed(_))));
    assert_eq!(to.arrived.take().len(), 0);
}

#[actix::test]
async fn a_reason_goes_back_over_the_return_path() {
    let bytes = stream().await;
    let (near, far) = Channel::pair(bytes.len() * 2);
    let mut rig = destination(Line::Open(near), "virt");
    // Open the return path, then a section that is not there.
    let head = 8 + 1 + 4 + 4;
    let mut sent = bytes[..head].to_vec();
    sent.extend([8, 0, 1, 0, 0, 8, 0, 2, 0, 4, 0, 0, 0, 9]);
    sent.extend([4, 0, 0, 0, 1, 3, b'x', b'y', b'z', 0, 0, 0, 0, 0, 0, 0, 1]);
    let (mut back, mut to) = far.split();
    to.write_all(&sent).await.unwrap();
    rig.actor.send(incoming(false)).await.unwrap().unwrap();
    let pong = ReturnMessage::read(&mut back, 0).await.unwrap();
    assert_eq!(pong, Some(ReturnMessage::Pong(9)));
    let Some(ReturnMessage::Reason(reason)) = ReturnMessage::read(&mut back, 0).await.unwrap()
    else {
        panic!("no reason")
    };
    assert!(reason.starts_with("Unknown savevm section or instance 'xyz' 0."), "{reason}");
    let shut = ReturnMessage::read(&mut back, 0).await.unwrap();
    assert_eq!(shut, Some(ReturnMessage::Shut(1)));
    let states = rig.told.states().await;
    assert!(matches!(states.last(), Some(MigrationState::Failed(r)) if r.as_str().contains("xyz")));
    assert!(rig.exited.take().is_empty());
}

#[actix::test]
async fn no_cut_and_no_broken_byte_starts_a_machine_by_mistake() {
    let whole = stream().await;
    assert_eq!(load(&whole).await, (MigrationState::Completed, true));
    let description = whole.iter().rposition(|&b| b == 0x7e).unwrap() + 5;
    let cuts = (0..60).chain((60..description).step_by(8191)).chain(description - 150..description);
    for end in cuts {
        let (state, started) = load(&whole[..end]).await;
        let MigrationState::Failed(reason) = state else { panic!("cut at {end}: {state:?}") };
        assert!(reason.as_str().contains("the stream ends after"), "cut at {end}: {reason}");
        assert!(!started);
    }
    // Every byte of the head and of the tail, where the lengths are.
    for at in (0..120).chain(description - 150..description + 5) {
        let mut bytes = whole.clone();
        bytes[at] ^= 0xff;
        let (state, started) = load(&bytes).await;
        assert_eq!(started, matches!(state, MigrationState::Completed), "byte {at}: {state:?}");
    }
}

#[actix::test]
async fn a_source_that_dies_does_not_leave_a_machine_on_both_sides() {
    // Everything but the last byte before the end of the sections.
    let whole = stream().await;
    let description = whole.iter().rposition(|&b| b == 0x7e).unwrap() + 5;
    let (state, started) = load(&whole[..description]).await;
    assert!(matches!(state, MigrationState::Failed(_)), "{state:?}");
    assert!(!started);
}

#[actix::test]
async fn a_listener_that_is_refused_can_be_tried_again() {
    let mut rig = destination(Line::Refused("Address already in use"), "virt");
    let answer = rig.actor.send(incoming(true)).await.unwrap();
    assert_eq!(answer, Err(ErrorDesc::new("Address already in use")));
    assert!(rig.exited.take().is_empty());
    let again = rig.actor.send(incoming(true));
    let waits = tokio::time::timeout(std::time::Duration::from_millis(50), again).await;
    assert!(waits.is_err(), "the mocked listener is silent now: {waits:?}");
    rig.told.clear();
}

#[actix::test]
async fn a_machine_that_cannot_have_the_drives_does_not_run() {
    let lock = "Failed to get \"write\" lock: is another process using the image [d]?";
    let (near, far) = Channel::pair(1 << 12);
    let (mut from, mut to) = (source(Line::Open(near)), destination(Line::Open(far), "virt"));
    *to.taken.lock() = Some(lock);
    to.actor.send(incoming(false)).await.unwrap().unwrap();
    from.actor.send(outgoing(&[Capability::ReturnPath])).await.unwrap().unwrap();
    let end = MigrationState::Failed(ErrorDesc::new(lock));
    assert_eq!(to.told.states().await.last(), Some(&end));
    let end = MigrationState::Failed(ErrorDesc::from(format!("destination: {lock}")));
    assert_eq!(from.told.states().await.last(), Some(&end));
    assert_eq!((from.released.take().len(), from.undone.take().len()), (1, 1));
    assert_eq!((to.arrived.take().len(), to.released.take().len()), (0, 0));
}

#[actix::test]
async fn drives_are_left_to_a_source_that_does_not_hear_of_the_end() {
    let bytes = stream().await;
    // Room for what opens the return path, not for an answer.
    let (near, mut far) = Channel::pair(1);
    let mut rig = destination(Line::Open(near), "virt");
    rig.actor.send(incoming(false)).await.unwrap().unwrap();
    let head = 8 + 1 + 4 + 4;
    far.write_all(&bytes[..head]).await.unwrap();
    far.write_all(&[8, 0, 1, 0, 0]).await.unwrap();
    far.write_all(&bytes[head..]).await.unwrap();
    drop(far);
    let states = rig.told.states().await;
    let Some(MigrationState::Failed(reason)) = states.last() else { panic!("{states:?}") };
    assert!(reason.as_str().starts_with("cannot tell the source that all is loaded"), "{reason}");
    assert_eq!((rig.released.take().len(), rig.arrived.take().len()), (1, 0));
}
