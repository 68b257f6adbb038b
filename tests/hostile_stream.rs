//! A real stream of a machine with every device, cut off at every byte and with every byte changed,
//! all lengths among them: a sentence or a whole load, never a panic, a hang or a machine that
//! starts by mistake.

#[path = "../fuzz/src/target.rs"]
mod target;

use target::Target;
use understudy::migration::status::MigrationState;

/// Where the description begins, without which a stream is whole.
fn description(stream: &[u8]) -> usize {
    stream.windows(6).rposition(|w| w[0] == 6 && w[5] == b'{').expect("a description")
}

#[actix::test]
async fn every_cut_is_a_failure() {
    let target = Target::new().await;
    let whole = target.stream().await;
    let loaded = target.load(&whole).await;
    assert_eq!((loaded.state, loaded.arrived), (MigrationState::Completed, true));
    for end in 0..description(&whole) {
        let loaded = target.load(&whole[..end]).await;
        let MigrationState::Failed(reason) = loaded.state else {
            panic!("cut at {end}: {:?}", loaded.state)
        };
        assert!(reason.as_str().contains("the stream ends after"), "cut at {end}: {reason}");
        assert!(!loaded.arrived, "cut at {end}");
    }
}

#[actix::test]
async fn every_changed_byte_is_noticed_or_harmless() {
    let target = Target::new().await;
    let whole = target.stream().await;
    let (mut refused, mut taken) = (0, 0);
    for at in 0..description(&whole) + 5 {
        // Alternately the highest bit, the lowest, and all.
        let bits = [0x80, 0x01, 0xff][at % 3];
        let mut bytes = whole.clone();
        bytes[at] ^= bits;
        let loaded = target.load(&bytes).await;
        match &loaded.state {
            MigrationState::Completed => taken += 1,
            MigrationState::Failed(reason) => {
                refused += 1;
                assert!(reason.as_str().len() > 20, "byte {at}: {reason}");
            }
            other => panic!("byte {at}: {other:?}"),
        }
        assert_eq!(loaded.arrived, loaded.state == MigrationState::Completed, "byte {at}");
    }
    // Registers may hold anything; heads and lengths may not.
    assert!(refused > 1000 && taken > 1000, "{refused} refused, {taken} taken");
}
