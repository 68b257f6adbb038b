//! Whatever dies, and whenever: the source, the destination, or the line between them. Afterwards
//! one side runs, or none does and it is said why; never two.

use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;

use crate::harness::poll;
use crate::proxy::Proxy;
use crate::side::{PROMPT, Side};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Victim {
    Source,
    Destination,
    Line,
}
const VICTIMS: [Victim; 3] = [Victim::Source, Victim::Destination, Victim::Line];

/// Numbers without a pattern, the same in every run (splitmix).
struct Chance(u64);

impl Chance {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % end
    }
}

/// How it ended for a side that is left.
fn ended(side: &mut Side) -> Value {
    poll("the end of the migration", || {
        let info = side.query();
        let over = matches!(info["status"].as_str(), Some("failed" | "completed"));
        over.then_some(info)
    })
}

/// A failure has a reason.
fn explained(info: &Value) -> bool {
    info["status"] != "failed" || info["error-desc"].as_str().is_some_and(|text| !text.is_empty())
}

/// The guest goes on writing and checking what it wrote.
fn unharmed(side: &mut Side, what: &str) {
    // A key ends the writing.
    side.serial.send("q");
    let checked = side.serial.expect(PROMPT);
    assert!(checked.contains("pages checked, 0 errors"), "{what}: {checked}");
    side.lives();
}

/// How many rounds ended with the guest where.
#[derive(Debug, Default)]
struct Tally {
    at_the_source: u32,
    at_the_destination: u32,
    /// Its host died with it, or neither side may take it.
    nowhere: u32,
}

/// A guest that writes, a migration, and a death `moment` into it.
fn round(victim: Victim, returns: bool, moment: Moment, tally: &mut Tally) {
    let what = format!("{victim:?} at {moment:?}, return path {returns}");
    let (mut source, mut destination) = (Side::source("-m 128M"), Side::destination("-m 128M"));
    for side in [&mut source, &mut destination] {
        side.switch("return-path", returns);
        side.set(serde_json::json!({"max-bandwidth": 0}));
    }
    let port = destination.listen("tcp:127.0.0.1:0").expect("a port");
    let proxy = Proxy::tcp(port);
    if let Moment::Bytes(bytes) = moment {
        proxy.cut_after(bytes);
    }
    source.serial.send("dirty 100 600 32\r");
    source.serial.expect("dirty 100 600 32");
    source.migrate(&proxy.uri);
    match moment {
        Moment::Bytes(_) => {}
        Moment::Time(time) => std::thread::sleep(time),
    }
    match victim {
        Victim::Source => {
            source.machine.signal(Signal::KILL);
            source.machine.exit();
            let info = ended(&mut destination);
            assert!(explained(&info), "{what}: {info}");
            if info["status"] == "completed" {
                assert_eq!(destination.qmp.status(), "running", "{what}");
                unharmed(&mut destination, &what);
                tally.at_the_destination += 1;
            } else {
                assert_eq!(destination.qmp.status(), "inmigrate", "{what}");
                tally.nowhere += 1;
            }
        }
        Victim::Destination => {
            destination.machine.signal(Signal::KILL);
            destination.machine.exit();
            let info = ended(&mut source);
            assert!(explained(&info), "{what}: {info}");
            let status = source.qmp.status();
            if info["status"] == "completed" {
                assert_eq!(status, "postmigrate", "{what}");
                // It had arrived; who knows that the other side is gone takes it back.
                source.qmp.execute("cont");
                tally.nowhere += 1;
            } else if status == "running" {
                tally.at_the_source += 1;
            } else {
                // The destination had everything and may have run.
                assert_eq!(status, "postmigrate", "{what}: {info}");
                source.qmp.execute("cont");
                tally.nowhere += 1;
            }
            unharmed(&mut source, &what);
        }
        Victim::Line => {
            let (here, there) = (ended(&mut source), ended(&mut destination));
            let at = [source.qmp.status(), destination.qmp.status()];
            assert!(explained(&here) && explained(&there), "{what}: {here} {there}");
            match [at[0] == "running", at[1] == "running"] {
                [true, true] => panic!("{what}: both sides run: {here} {there}"),
                [true, false] => {
                    assert_eq!(here["status"], "failed", "{what}");
                    assert_eq!(there["status"], "failed", "{what}");
                    unharmed(&mut source, &what);
                    tally.at_the_source += 1;
                }
                [false, true] => {
                    assert_eq!(there["status"], "completed", "{what}");
                    unharmed(&mut destination, &what);
                    tally.at_the_destination += 1;
                }
                [false, false] => {
                    // One of them says so.
                    let failed = [&here, &there].iter().any(|info| info["status"] == "failed");
                    assert!(failed, "{what}: {here} {there} {at:?}");
                    source.qmp.execute("cont");
                    unharmed(&mut source, &what);
                    tally.nowhere += 1;
                }
            }
        }
    }
}

/// When it happens: so long after the beginning, or when so much has passed.
#[derive(Debug, Clone, Copy)]
enum Moment {
    Time(Duration),
    Bytes(u64),
}

fn rounds(count: u32) {
    let mut chance = Chance(0x5eed);
    let mut tally = Tally::default();
    for number in 0..count {
        let victim = VICTIMS[number as usize % VICTIMS.len()];
        let returns = chance.below(2) == 0;
        // A migration here takes 100 ms to 1 s, and moves 33 MiB and what is written anew.
        let moment = match victim {
            Victim::Line => Moment::Bytes(chance.below(40 << 20)),
            _ => Moment::Time(Duration::from_micros(chance.below(400_000))),
        };
        round(victim, returns, moment, &mut tally);
        if (number + 1) % 50 == 0 || number + 1 == count {
            eprintln!("{} deaths: {tally:?}", number + 1);
        }
    }
}

#[test]
fn a_few() {
    rounds(6);
}

/// The long run; see README.
#[test]
#[ignore = "takes some minutes"]
fn two_hundred() {
    rounds(std::env::var("UNDERSTUDY_DEATHS").map_or(200, |text| text.parse().expect("rounds")));
}
