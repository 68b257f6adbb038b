//! The session between a mocked character device, mocked devices and a real stepped clock.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::*;
use crate::actors::message::{IrqLevel, MmioFault};
use crate::actors::outlet::Outlet;
use crate::actors::probe::Probe;
use crate::actors::timer::{TimerFired, TimerLine, Timers};
use crate::chardev::message::Place;
use crate::devices::bus::{Bus, MmioTarget, Region};
use crate::machine::clock::VirtualClock;
use crate::machine::memory::GuestRam;
use crate::qtest::gpio::{Device, Direction, Pin};

const RAM: u64 = 0x8000_0000;
const DOORBELL: u64 = 0x1000;
const PATIENCE: Duration = Duration::from_secs(10);

/// A register whose lowest bit is its interrupt line.
struct Doorbell(Outlet<IrqLevel>);

impl MmioTarget for Doorbell {
    fn read(&self, _: u64, _: u8) -> Result<u64, MmioFault> {
        Ok(0x0123_4567_89ab_cdef)
    }

    fn write(&self, _: u64, _: u8, value: u64) -> Result<(), MmioFault> {
        self.0.send(IrqLevel { line: 3, level: value & 1 != 0 });
        Ok(())
    }
}

#[derive(Clone, Default)]
struct Transcript(Arc<Mutex<Vec<u8>>>);

impl io::Write for Transcript {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Rig {
    session: Addr<Session>,
    output: Probe<CharOutput>,
    credit: Probe<CharCredit>,
    csr: Probe<AccessCsr>,
    transcript: Transcript,
    timer: TimerLine,
    fired: Probe<TimerFired>,
}

fn rig() -> Rig {
    let taps = crate::qtest::gpio::Taps::default();
    let line = taps.tap(Outlet::Unconnected, |number| {
        vec![Pin { device: 0, direction: Direction::In, number }]
    });
    let plic = Device { path: "/machine/plic".into(), groups: vec![None], inputs: None };
    let region = Region {
        name: "doorbell".into(),
        range: DOORBELL..DOORBELL + 8,
        target: Box::new(Doorbell(line)),
    };
    let clock = Arc::new(VirtualClock::stepped());
    let (timers, _) = Timers::start(Arc::clone(&clock), Outlet::Unconnected).unwrap();
    let fired = Probe::new();
    let timer = timers.register(Outlet::Mailbox(fired.recipient())).unwrap();
    let (attach, output, credit) = (Probe::<Attach>::new(), Probe::new(), Probe::new());
    let csr = Probe::answering(|access: &AccessCsr| (access.csr != 0xfff).then_some(7));
    let transcript = Transcript::default();
    let session = Session::new(SessionParts {
        backend: CharBackend {
            attach: attach.recipient(),
            output: output.recipient(),
            credit: credit.recipient(),
            place: Place::default(),
        },
        memory: AddressSpace {
            ram: Arc::new(GuestRam::new(RAM, 0x1000).unwrap()),
            bus: Arc::new(Bus::new(vec![region])),
        },
        gpios: Gpios { devices: vec![plic], taps },
        clock: Some(SteppedClock { clock, timers }),
        harts: vec![csr.recipient()],
        log: Log::new(Some(Box::new(transcript.clone()))),
    });
    let session = session.start();
    session.do_send(CharEvent::Opened);
    Rig { session, output, credit, csr, transcript, timer, fired }
}

impl Rig {
    /// Send `input` and take all output that comes of it.
    async fn say(&self, input: &str) -> String {
        self.session.send(CharInput(input.into())).await.unwrap();
        self.heard().await
    }

    async fn heard(&self) -> String {
        // Handled after everything that is under way, unless a command waits for others.
        let delivered = self.session.send(Delivered);
        let written = async {
            let mut heard = Vec::new();
            loop {
                for CharOutput(bytes) in self.output.take() {
                    self.session.send(CharWritten(bytes.len())).await.unwrap();
                    heard.extend(bytes);
                }
                tokio::task::yield_now().await;
                if self.session.send(Idle).await.unwrap() && heard_all(&self.output) {
                    return String::from_utf8(heard).unwrap();
                }
            }
        };
        let heard = tokio::time::timeout(PATIENCE, written).await.unwrap();
        delivered.await.unwrap();
        heard
    }
}

fn heard_all(output: &Probe<CharOutput>) -> bool {
    let rest = output.take();
    assert!(rest.is_empty(), "output after the session said that it is idle: {rest:?}");
    true
}

/// True when nothing is under way.
#[derive(Message)]
#[rtype(result = "bool")]
struct Idle;

impl Handler<Idle> for Session {
    type Result = bool;

    fn handle(&mut self, _: Idle, _: &mut Self::Context) -> bool {
        !self.busy && !self.writing && self.output.is_empty()
    }
}

#[actix::test]
async fn memory_and_registers() {
    let rig = rig();
    for (line, answer) in [
        ("endianness", "OK little"),
        ("writeq 0x80000000 0x1122334455667788", "OK"),
        ("readl 0x80000000", "OK 0x0000000055667788"),
        ("readw 0x80000001", "OK 0x0000000000006677"),
        ("read 0x80000000 3", "OK 0x887766"),
        ("b64read 0x80000000 3", "OK iHdm"),
        ("memset 0x80000ffe 16 0x5a", "OK"),
        ("read 0x80000ffe 4", "OK 0x5a5a0000"),
        ("readq 0x1000", "OK 0x0123456789abcdef"),
        ("readb 0", "OK 0x0000000000000000"),
        ("inw 0x3f8", "OK 0xffff"),
        ("inb 0x3f8", "OK 0x00ff"),
        ("outl 1 2", "OK"),
        ("module_load hw- x", "FAIL"),
        ("irq_intercept_in nosuch", "FAIL Unknown device"),
    ] {
        assert_eq!(rig.say(&format!("{line}\n")).await, format!("{answer}\n"), "{line}");
    }
}

#[actix::test]
async fn lines_are_told_before_the_answer_to_what_moved_them() {
    let rig = rig();
    assert_eq!(rig.say("writeb 0x1000 1\n").await, "OK\n");
    assert_eq!(rig.say("irq_intercept_in plic\nwriteb 0x1000 0\n").await, "OK\nOK\n");
    assert_eq!(rig.say("writeb 0x1000 1\nwriteb 0x1000 1\n").await, "IRQ raise 3\nOK\nOK\n");
    assert_eq!(rig.say("writeb 0x1000 0\n").await, "IRQ lower 3\nOK\n");
}

#[actix::test]
async fn time_goes_from_deadline_to_deadline() {
    let rig = rig();
    let none =
        "FAIL cannot advance clock to the next deadline because there is no pending deadline\n";
    assert_eq!(rig.say("clock_step\n").await, none);
    assert_eq!(rig.say("clock_step 100\nclock_set 100\n").await, "OK 100\nOK 100\n");
    rig.timer.arm(Some(250));
    assert_eq!(rig.say("clock_step 149\n").await, "OK 249\n");
    assert!(rig.fired.take().is_empty());
    assert_eq!(rig.say("clock_step\nclock_step\n").await, format!("OK 250\n{none}"));
    assert_eq!(rig.fired.take(), [TimerFired { slot: rig.timer.slot(), deadline_ns: 250 }]);
    assert_eq!(
        rig.say("clock_set 7\nclock_step -1\n").await,
        "FAIL 250\nFAIL could not advance time\n"
    );
}

#[actix::test]
async fn registers_of_a_hart_are_waited_for_in_order() {
    let rig = rig();
    let answers = rig.say("csr get_csr 0x0 3857 0x0\nendianness\ncsr set_csr 0 0x350 0xff\n").await;
    assert_eq!(answers, "OK 0 0000000000000007\nOK little\nOK 0 00000000000000ff\n");
    let access = |csr, write| AccessCsr { csr, write };
    assert_eq!(rig.csr.take(), [access(0xf11, None), access(0x350, Some(0xff))]);
    assert_eq!(rig.say("csr get_csr 0 0xfff 0\n").await, "ERR csr: 0xfff cannot be accessed\n");
    assert_eq!(rig.say("csr get_csr 9 1 0\n").await, "ERR csr: no such hart or register: 0x1\n");
}

#[actix::test]
async fn lines_come_in_any_pieces_and_too_long_ones_are_dropped() {
    let rig = rig();
    assert_eq!(rig.say("endian").await, "");
    assert_eq!(rig.credit.take(), [CharCredit(INPUT_WINDOW)]);
    assert_eq!(rig.say("ness\nend").await, "OK little\n");
    // As much again as was read, and no more.
    assert!(rig.credit.take().is_empty());
    assert_eq!(rig.say(&"x".repeat(INPUT_WINDOW)).await, "");
    assert_eq!(rig.credit.take(), [CharCredit(INPUT_WINDOW)]);
    let long = "x".repeat(LONGEST_LINE);
    assert_eq!(rig.say(&long).await, "ERR invalid argument size\n");
    assert_eq!(rig.say("y\nendianness\n").await, "OK little\n");
}

#[actix::test]
async fn the_transcript_has_both_directions() {
    let rig = rig();
    rig.say("endianness\n\n").await;
    rig.session.send(CharEvent::Closed).await.unwrap();
    let text = String::from_utf8(rig.transcript.0.lock().clone()).unwrap();
    // The times differ from run to run.
    let lines: Vec<_> = text
        .lines()
        .map(|line| {
            let (stamp, rest) = line.split_once(']').unwrap();
            let (kind, time) = stamp.split_once(' ').unwrap();
            assert_eq!(time.split_once('.').unwrap().1.len(), 6, "{line}");
            format!("{kind}{rest}")
        })
        .collect();
    let expected = [
        "[I OPENED",
        "[R endianness",
        "[S OK little",
        "[R ",
        "[S FAIL Unknown command ''",
        "[I CLOSED",
    ];
    assert_eq!(lines, expected);
    assert!(text.starts_with("[I 0.000000] OPENED\n[R +0."), "{text}");
}
