use super::registers::*;
use super::*;
use crate::actors::cell::DeviceCell;
use crate::actors::message::{MmioFault, Reset, Resume};
use crate::actors::probe::Probe;
use crate::actors::timer::ArmTimer;
use crate::chardev::message::Place;
use crate::devices::bus::MmioTarget;
use crate::migration::vmstate::tests::{assert_described_as_qemus, migrate};

struct Rig {
    uart: DeviceCell<Shell<Uart>>,
    irq: Probe<IrqLevel>,
    attach: Probe<Attach>,
    output: Probe<CharOutput>,
    credit: Probe<CharCredit>,
    armed: Probe<ArmTimer>,
}

impl Rig {
    fn new() -> Self {
        let (irq, attach, output) = (Probe::new(), Probe::new(), Probe::new());
        let (credit, armed) = (Probe::new(), Probe::new());
        let backend = CharBackend {
            attach: attach.recipient(),
            output: output.recipient(),
            credit: credit.recipient(),
            place: Place::default(),
        };
        let timer = TimerPort::played_by(armed.outlet());
        let uart = Uart::new(irq.outlet(), 10, Some(backend), Arc::default(), timer);
        let uart = DeviceCell::new(Shell(uart), "serial", Outlet::Unconnected);
        Self { uart, irq, attach, output, credit, armed }
    }

    fn read(&self, register: u64) -> u8 {
        self.uart.read(register, 1).unwrap() as u8
    }

    fn write(&self, register: u64, value: u8) {
        self.uart.write(register, 1, value.into()).unwrap();
    }

    fn input(&self, bytes: &[u8]) {
        self.uart.call(CharInput(bytes.to_vec())).unwrap();
    }

    fn edges(&self) -> Vec<bool> {
        self.irq.take().iter().map(|e| e.level).collect()
    }

    fn read_all(&self) -> Vec<u8> {
        let mut got = Vec::new();
        while self.read(5) & LSR_DR != 0 {
            got.push(self.read(0));
        }
        got
    }
}

#[test]
fn registers_after_reset_and_what_they_hold() {
    let rig = Rig::new();
    let all = || (0..8).map(|i| rig.read(i)).collect::<Vec<u8>>();
    let power_on = [0, 0, 1, 0, 8, 0x60, 0xb0, 0];
    assert_eq!(all(), power_on);
    for (register, written, read) in
        [(1, 0xff, 0x0f), (3, 0x7f, 0x7f), (4, 0xff, 0x1f), (7, 0x5a, 0x5a), (5, 0, 0x60)]
    {
        rig.write(register, written);
        assert_eq!(rig.read(register), read, "register {register}");
    }
    rig.write(3, 0x80);
    assert_eq!((rig.read(0), rig.read(1)), (12, 0));
    rig.write(0, 0x34);
    rig.write(1, 0x12);
    assert_eq!((rig.read(0), rig.read(1)), (0x34, 0x12));
    assert!(rig.output.take().is_empty(), "the divisor is not output");
    rig.uart.call(Reset).unwrap();
    assert_eq!(all(), power_on);
    assert_eq!(rig.uart.read(4, 4), Ok(8));
    assert_eq!(rig.uart.read(4, 8), Err(MmioFault::Width));
    assert_eq!(rig.uart.read(8, 1), Err(MmioFault::Unmapped));
}

#[test]
fn one_batch_in_flight_and_the_rest_after_it() {
    let rig = Rig::new();
    for byte in b"hello" {
        rig.write(0, *byte);
        assert_eq!(rig.read(5) & (LSR_THRE | LSR_TEMT), 0x60);
    }
    assert_eq!(rig.output.take(), [CharOutput(b"h".to_vec())]);
    rig.uart.call(CharWritten(1)).unwrap();
    assert_eq!(rig.output.take(), [CharOutput(b"ello".to_vec())]);
    rig.uart.call(CharWritten(4)).unwrap();
    assert!(rig.output.take().is_empty());
}

#[test]
fn a_slow_back_end_stops_the_guest_and_every_byte_arrives_in_order() {
    let rig = Rig::new();
    rig.write(2, FCR_ENABLE);
    rig.write(1, IER_THRI);
    let sent: Vec<u8> = (0..TX_LIMIT + FIFO).map(|i| i as u8).collect();
    for byte in &sent {
        rig.write(0, *byte);
    }
    assert_eq!(rig.read(5) & (LSR_THRE | LSR_TEMT), 0);
    assert_eq!(rig.edges().last(), Some(&false), "no THRE interrupt while it waits");
    let mut got = Vec::new();
    for _ in 0..3 {
        for CharOutput(batch) in rig.output.take() {
            got.extend_from_slice(&batch);
            rig.uart.call(CharWritten(batch.len())).unwrap();
        }
    }
    assert!(got == sent, "{} of {} bytes", got.len(), sent.len());
    assert_eq!(rig.read(5) & (LSR_THRE | LSR_TEMT), 0x60);
    assert_eq!(rig.edges(), [true]);
    assert_eq!(rig.uart.call(Snapshot::<UartState>::new()).unwrap().unsent(), 0);
}

#[test]
fn input_waits_for_room_and_credit_follows_consumption() {
    let rig = Rig::new();
    assert_eq!(rig.attach.take().len(), 1);
    assert_eq!(rig.credit.take(), [CharCredit(RX_WINDOW)]);
    rig.write(2, FCR_ENABLE);
    let sent: Vec<u8> = (0..RX_WINDOW).map(|i| (i * 7) as u8).collect();
    for chunk in sent.chunks(100) {
        rig.input(chunk);
    }
    assert_eq!(rig.credit.take(), []);
    assert_eq!(rig.read(5) & LSR_OE, 0);
    let got = rig.read_all();
    assert!(got == sent);
    let granted: usize = rig.credit.take().iter().map(|c| c.0).sum();
    assert!((RX_WINDOW / 2..=RX_WINDOW).contains(&granted), "{granted}");
}

#[test]
fn receive_interrupts_follow_trigger_level_and_timeout() {
    let rig = Rig::new();
    rig.write(2, FCR_ENABLE | 0xc0);
    rig.write(1, IER_RDI);
    rig.input(&[1; 13]);
    assert_eq!((rig.read(2), rig.edges()), (0xc1, vec![]));
    rig.input(&[2]);
    assert_eq!((rig.read(2), rig.edges()), (0xc4, vec![true]));
    rig.read(0);
    assert_eq!((rig.read(2), rig.edges()), (0xc1, vec![false]));
    let late = rig.armed.take().pop().unwrap().deadline_ns.unwrap();
    assert_eq!(late, 4 * (1_000_000_000 / 9600 * 10));
    rig.uart.call(TimerFired { slot: 0, deadline_ns: late - 1 }).unwrap();
    assert!(rig.edges().is_empty(), "overtaken");
    rig.uart.call(TimerFired { slot: 0, deadline_ns: late }).unwrap();
    assert_eq!((rig.read(2), rig.edges()), (0xcc, vec![true]));
    rig.read(0);
    assert_eq!((rig.read(2), rig.edges()), (0xc1, vec![false]));
}

#[test]
fn thre_interrupt_is_cleared_by_reading_it_and_set_by_enabling_it() {
    let rig = Rig::new();
    rig.write(1, IER_THRI);
    assert_eq!((rig.read(2), rig.read(2)), (IIR_THRI, IIR_NO_INT));
    rig.write(0, 1);
    assert_eq!((rig.read(2), rig.read(2)), (IIR_THRI, IIR_NO_INT));
    rig.write(1, 0);
    rig.write(1, IER_THRI);
    assert_eq!(rig.read(2), IIR_THRI);
    assert_eq!(rig.edges(), [true, false, true, false, true, false]);
}

#[test]
fn loopback_overrun_and_line_status() {
    let rig = Rig::new();
    rig.write(4, 0x1f);
    assert_eq!(rig.read(6), 0xf0);
    for byte in [0x41, 0x42, 0x43] {
        rig.write(0, byte);
    }
    assert_eq!((rig.read(5), rig.read(0), rig.read(5)), (0x63, 0x43, 0x60));
    rig.write(2, FCR_ENABLE | FCR_CLEAR_RX | FCR_CLEAR_TX | 0xc0);
    rig.write(1, IER_RDI | IER_RLSI);
    for byte in 0..18 {
        rig.write(0, byte);
    }
    assert_eq!(rig.read(2), 0xc6, "line status outranks received data");
    assert_eq!((rig.read(5), rig.read(5), rig.read(2)), (0x63, 0x61, 0xc4));
    assert_eq!(rig.read_all(), (0..16).collect::<Vec<u8>>());
    assert!(rig.output.take().is_empty(), "nothing leaves a looped port");
    rig.input(b"x");
    assert_eq!(rig.read(5) & LSR_DR, 0, "nor enters");
    rig.write(4, 0);
    assert_eq!(rig.read(0), b'x');
    rig.edges();
    rig.uart.call(CharEvent::Break).unwrap();
    assert_eq!((rig.read(2), rig.read(5)), (0xc6, 0x71));
    assert_eq!(rig.read(0), 0);
}

#[test]
fn reset_lowers_the_interrupt_and_keeps_what_is_under_way() {
    let rig = Rig::new();
    rig.write(2, FCR_ENABLE);
    rig.write(1, IER_RDI | IER_THRI);
    for byte in b"bye" {
        rig.write(0, *byte);
    }
    rig.input(&[b'i'; FIFO + 1]);
    rig.edges();
    rig.uart.call(Reset).unwrap();
    assert_eq!(rig.edges(), [false]);
    rig.output.take();
    rig.uart.call(CharWritten(1)).unwrap();
    assert_eq!(rig.output.take(), [CharOutput(b"ye".to_vec())]);
    assert_eq!(rig.read_all(), [b'i']);
}

#[test]
fn a_back_end_that_is_gone_does_not_stop_the_guest() {
    let armed = Probe::new();
    let timer = TimerPort::played_by(armed.outlet());
    let uart = Uart::new(Outlet::Unconnected, 10, None, Arc::default(), timer);
    let uart = DeviceCell::new(Shell(uart), "serial", Outlet::Unconnected);
    for _ in 0..2 * TX_LIMIT {
        uart.write(0, 1, 0x55).unwrap();
    }
    assert_eq!(uart.read(5, 1), Ok(0x60));
}

#[test]
fn state_travels() {
    let section = migrate(&Rig::new().uart, &Rig::new().uart);
    assert_eq!(section.bytes, [0, 12, 0, 0, 1, 0, 8, 0x60, 0xb0, 0, 0]);
    assert_described_as_qemus(&section);
    let (from, to) = (Rig::new(), Rig::new());
    from.write(2, FCR_ENABLE | 0xc0);
    from.write(1, IER_RDI | IER_THRI);
    from.write(7, 0x5a);
    let sent: Vec<u8> = (0..FIFO as u8 + 4).collect();
    from.input(&sent);
    for i in 0..TX_LIMIT + 3 {
        from.write(0, i as u8);
    }
    let timeout = from.armed.take().pop().unwrap();
    migrate(&from.uart, &to.uart);
    assert_eq!(to.armed.take().pop(), Some(timeout));
    assert_eq!(to.edges().last(), Some(&true));
    to.output.take();
    to.uart.call(Resume).unwrap();
    assert_eq!(to.output.take(), [CharOutput(vec![0, 1, 2])], "what waited for the transmitter");
    assert_eq!((to.read(7), to.read(2)), (0x5a, 0xc4));
    assert_eq!(to.read_all(), sent, "the FIFO, and what had no room in it");
    // A FIFO that has timed out with a byte in it.
    let (from, to) = (Rig::new(), Rig::new());
    from.write(2, FCR_ENABLE | 0x40);
    from.write(1, IER_RDI);
    from.input(b"x");
    let deadline_ns = from.armed.take().pop().unwrap().deadline_ns.unwrap();
    from.uart.call(TimerFired { slot: 0, deadline_ns }).unwrap();
    migrate(&from.uart, &to.uart);
    assert_eq!((to.edges().last(), to.read(2)), (Some(&true), 0xcc));
}
