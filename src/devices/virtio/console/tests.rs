//! The console as a driver and a character back end see it.

use super::*;
use crate::actors::message::MmioWrite;
use crate::actors::probe::Probe;
use crate::chardev::message::Place;
use crate::devices::virtio::test_driver::{DATA, Driver, WRITE};

const MULTIPORT: u64 = 1 << F_MULTIPORT;

struct Rig {
    driver: Driver<Console>,
    attach: Probe<Attach>,
    output: Probe<CharOutput>,
    credit: Probe<CharCredit>,
    opened: Probe<PortOpened>,
    place: Place,
}

fn rig(legacy: bool, console: bool) -> Rig {
    let (attach, output, credit) = (Probe::new(), Probe::new(), Probe::new());
    let backend = CharBackend {
        attach: attach.recipient(),
        output: output.recipient(),
        credit: credit.recipient(),
        place: Place::default(),
    };
    let place = backend.place.clone();
    let (nr, name) = if console { (0, String::new()) } else { (1, "org.x".to_owned()) };
    let opened = Probe::new();
    let announce = Some(("p0".to_owned(), Outlet::Mailbox(opened.recipient())));
    let ports = vec![PortOptions { nr, console, name, backend: Some(backend), announce }];
    let driver = Driver::new(legacy, Console::new(31, true, ports));
    Rig { driver, attach, output, credit, opened, place }
}

/// Give the device buffers for control messages, send it one, and return those it sends.
fn control(driver: &mut Driver<Console>, nr: u32, event: u16, value: u16) -> Vec<Vec<u8>> {
    for i in 0..4 {
        driver.offer(CONTROL_RX, &[(DATA + 0x100 + i * 0x40, 0x40, WRITE)]);
    }
    driver.kick(CONTROL_RX);
    let message = u64::from(nr) | u64::from(event) << 32 | u64::from(value) << 48;
    driver.ram.store_u64(DATA, message).unwrap();
    driver.offer(CONTROL_TX, &[(DATA, 8, 0)]);
    driver.kick(CONTROL_TX);
    assert_eq!(driver.used_now(CONTROL_TX).len(), 1);
    let answers = driver.used_now(CONTROL_RX);
    let messages: Vec<Vec<u8>> = answers
        .iter()
        .enumerate()
        .map(|(i, &(_, len))| driver.bytes(DATA + 0x100 + i as u64 * 0x40, len as usize))
        .collect();
    messages
}

fn message(nr: u32, event: u16, value: u16, rest: &[u8]) -> Vec<u8> {
    let mut bytes = nr.to_le_bytes().to_vec();
    bytes.extend(event.to_le_bytes());
    bytes.extend(value.to_le_bytes());
    bytes.extend(rest);
    bytes
}

#[test]
fn handshake_of_a_console() {
    for legacy in [true, false] {
        let Rig { mut driver, .. } = rig(legacy, true);
        let offered = driver.start(MULTIPORT | if legacy { 0 } else { 1 << 32 });
        assert_eq!(offered, if legacy { 0x3900_0006 } else { 0x101_3000_0006 });
        assert_eq!((driver.read(0x104), driver.read(0x10c)), (31, u32::MAX));
        let ready = control(&mut driver, 0, event::DEVICE_READY, 1);
        assert_eq!(ready, [message(0, event::DEVICE_ADD, 1, &[])]);
    }
    let Rig { mut driver, credit, .. } = rig(true, true);
    driver.start(MULTIPORT);
    let ready = control(&mut driver, 0, event::PORT_READY, 1);
    let expected = [message(0, event::CONSOLE_PORT, 1, &[]), message(0, event::PORT_OPEN, 1, &[])];
    assert_eq!(ready, expected);
    assert!(credit.take().is_empty(), "no input before the guest opens the port");
    control(&mut driver, 0, event::PORT_OPEN, 1);
    assert_eq!(credit.take(), [CharCredit(INPUT_WINDOW)]);
}

#[test]
fn a_named_port_opens_with_its_back_end() {
    let Rig { mut driver, attach, output, opened, place, .. } = rig(true, false);
    driver.start(MULTIPORT);
    let ready = control(&mut driver, 1, event::PORT_READY, 1);
    assert_eq!(ready, [message(1, event::PORT_NAME, 1, b"org.x\0")]);
    // Nobody at the host's end: output is dropped.
    let head = driver.offer(5, &[(DATA, 8, 0)]);
    driver.kick(5);
    assert_eq!(driver.used_now(5), [(head, 0)]);
    assert!(output.take().is_empty());
    attach.take().remove(0).event.do_send(CharEvent::Opened);
    driver.used_now(CONTROL_RX);
    driver.offer(5, &[(DATA, 8, 0)]);
    driver.kick(5);
    assert_eq!(output.take().len(), 1);
    // What the guest does with its end is told, as is that a reset closes it.
    let told = |open| [PortOpened { id: "p0".into(), open }];
    assert_eq!(opened.take(), []);
    control(&mut driver, 1, event::PORT_OPEN, 1);
    assert_eq!(opened.take(), told(true));
    assert!(place.is_open());
    driver.start(MULTIPORT);
    assert_eq!(opened.take(), told(false));
    assert!(!place.is_open());
}

#[test]
fn output_is_acknowledged_piece_by_piece() {
    let Rig { mut driver, attach, output, .. } = rig(true, true);
    driver.start(MULTIPORT);
    let front = attach.take().remove(0);
    let len = OUTPUT_CHUNK + 100;
    let bytes: Vec<u8> = (0..len).map(|i| i as u8).collect();
    driver.ram.write(DATA, &bytes).unwrap();
    let first = driver.offer(1, &[(DATA, 10, 0), (DATA + 10, len as u32 - 10, 0)]);
    let second = driver.offer(1, &[(DATA, 3, 0)]);
    driver.kick(1);
    let mut sent = Vec::new();
    let mut used = Vec::new();
    for _ in 0..3 {
        assert!(driver.used_now(1).is_empty());
        let CharOutput(piece) = output.take().remove(0);
        front.written.do_send(CharWritten(piece.len()));
        sent.push(piece);
        if sent.len() > 1 {
            used.extend(driver.used_now(1));
        }
    }
    assert_eq!(sent.concat(), [&bytes[..], &bytes[..3]].concat());
    assert_eq!(used, [(first, 0), (second, 0)]);
    assert!(output.take().is_empty());
}

#[test]
fn input_waits_for_buffers_and_survives_a_reset() {
    let Rig { mut driver, attach, credit, .. } = rig(true, true);
    driver.start(0);
    let front = attach.take().remove(0);
    assert_eq!(credit.take(), [CharCredit(INPUT_WINDOW)], "one port, open at once");
    front.input.do_send(CharInput(b"hello".to_vec()));
    assert_eq!(driver.used_now(0), []);
    driver.start(0);
    driver.offer(0, &[(DATA, 3, WRITE)]);
    driver.offer(0, &[(DATA + 3, 16, WRITE)]);
    driver.kick(0);
    assert_eq!(driver.used_now(0).iter().map(|u| u.1).collect::<Vec<_>>(), [3, 2]);
    assert_eq!(driver.bytes(DATA, 5), b"hello");
    front.input.do_send(CharInput(vec![0; INPUT_WINDOW - 5]));
    driver.offer(0, &[(DATA, 8192, WRITE)]);
    driver.kick(0);
    driver.used_now(0);
    assert_eq!(credit.take(), [CharCredit(INPUT_WINDOW)]);
}

#[test]
fn emergency_writes_need_no_queues() {
    let Rig { driver, output, .. } = rig(true, true);
    let write = MmioWrite { offset: 0x108, width: 4, value: u64::from(b'!') };
    driver.cell.call(write).unwrap().unwrap();
    assert_eq!(output.take(), [CharOutput(b"!".to_vec())]);
}

#[test]
fn a_driver_that_only_asks_costs_nothing() {
    let Rig { mut driver, .. } = rig(true, true);
    driver.start(MULTIPORT);
    driver.ram.store_u64(DATA, 1 << 48).unwrap();
    for _ in 0..4 * CONTROL_BACKLOG {
        driver.offer(CONTROL_TX, &[(DATA, 8, 0)]);
        driver.kick(CONTROL_TX);
    }
    assert_eq!(driver.used_now(CONTROL_TX).len(), 4 * CONTROL_BACKLOG);
    for _ in 0..60 {
        driver.offer(CONTROL_RX, &[(DATA, 8, WRITE)]);
    }
    let mut messages = 0;
    for _ in 0..10 {
        driver.kick(CONTROL_RX);
        messages += driver.used_now(CONTROL_RX).len();
        for _ in 0..60 {
            driver.offer(CONTROL_RX, &[(DATA, 8, WRITE)]);
        }
    }
    assert_eq!(messages, CONTROL_BACKLOG);
}

#[test]
fn state_travels_in_the_middle_of_output_and_input() {
    let other = |rig: &Rig| {
        let backend = CharBackend {
            attach: rig.attach.recipient(),
            output: rig.output.recipient(),
            credit: rig.credit.recipient(),
            place: Place::default(),
        };
        let name = String::new();
        let port =
            PortOptions { nr: 0, console: true, name, backend: Some(backend), announce: None };
        Console::new(31, true, vec![port])
    };
    for legacy in [true, false] {
        let (mut from, to) = (rig(legacy, true), rig(legacy, true));
        from.driver.start(1 << 32);
        let long = OUTPUT_CHUNK as u32 + 100;
        let chain = [(DATA, 50, 0), (DATA + 50, long - 50, 0)];
        let bytes: Vec<u8> = (0..long).map(|i| (i * 7) as u8).collect();
        from.driver.ram.write(DATA, &bytes).unwrap();
        let head = from.driver.offer(1, &chain);
        from.driver.kick(1);
        let CharOutput(first) = from.output.take().remove(0);
        from.driver.cell.call(CharInput(b"typed".to_vec())).unwrap();
        from.driver.move_to(other(&to));
        let outputs = to.output.take();
        let CharOutput(rest) = &outputs[0];
        assert_eq!([first, rest.clone()].concat(), bytes, "no byte twice, none lost");
        assert_eq!(from.driver.used_now(1), []);
        from.driver.cell.call(CharWritten(rest.len())).unwrap();
        assert_eq!(from.driver.used_now(1), [(head, 0)]);
        let head = from.driver.offer(0, &[(DATA + 0x8000, 64, WRITE)]);
        from.driver.kick(0);
        assert_eq!(from.driver.used_now(0), [(head, 5)]);
        assert_eq!(from.driver.bytes(DATA + 0x8000, 5), b"typed");
    }
}

#[actix::test]
async fn ports_come_and_go() {
    let Rig { mut driver, attach: first, .. } = rig(true, false);
    driver.start(MULTIPORT);
    control(&mut driver, 0, event::DEVICE_READY, 1);
    let (attach, output, credit) = (Probe::new(), Probe::new(), Probe::<CharCredit>::new());
    let backend = CharBackend {
        attach: attach.recipient(),
        output: output.recipient(),
        credit: credit.recipient(),
        place: Place::default(),
    };
    // The n-th control message that the device has sent; the first was for the port at start.
    let sent = |driver: &Driver<Console>, n: u64| driver.bytes(DATA + 0x100 + n % 4 * 0x40, 8);
    let port = |text: &str| {
        let given = text.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()));
        crate::devices::virtio::create::port(false, &Vec::from_iter(given)).unwrap()
    };
    let plug = |driver: &Driver<Console>, text: &str, backend| {
        driver.cell.call(PlugPort { port: port(text), backend, announce: None }).unwrap()
    };
    assert_eq!(plug(&driver, "", Some(backend)), Ok(2));
    assert_eq!(sent(&driver, 1), message(2, event::DEVICE_ADD, 1, &[]));
    for (text, refusal) in [
        ("nr=2", "virtio-serial-bus: A port already exists at id 2"),
        ("nr=31", "virtio-serial-bus: Out-of-range port id specified, max. allowed: 30"),
    ] {
        assert_eq!(plug(&driver, text, None).unwrap_err().to_string(), refusal);
    }

    let front = attach.take().remove(0);
    front.event.send(CharEvent::Opened).await.unwrap();
    driver.cell.drain();
    assert_eq!(sent(&driver, 2), message(2, event::PORT_OPEN, 1, &[]));
    control(&mut driver, 2, event::PORT_OPEN, 1);
    assert_eq!(credit.take(), [CharCredit(INPUT_WINDOW)]);
    let buffer = driver.offer(6, &[(DATA, 8, WRITE)]);
    driver.kick(6);
    front.input.send(CharInput(b"hi".to_vec())).await.unwrap();
    driver.cell.drain();
    assert_eq!(driver.used_now(6), [(buffer, 2)]);
    // The first port hears its own back end only.
    first.take().remove(0).input.do_send(CharInput(b"one".to_vec()));
    driver.cell.drain();
    assert_eq!(driver.used_now(4), []);

    // What is on its way to the back end comes back to the guest with the port's end.
    let head = driver.offer(7, &[(DATA, 8, 0)]);
    driver.kick(7);
    assert_eq!((output.take().len(), driver.used_now(7).len()), (1, 0));
    driver.cell.call(UnplugPort { nr: 2 }).unwrap();
    assert_eq!(driver.used_now(7), [(head, 0)]);
    assert_eq!(sent(&driver, 3), message(2, event::DEVICE_REMOVE, 1, &[]));
    front.written.send(CharWritten(8)).await.unwrap();
    driver.cell.drain();
    assert_eq!(plug(&driver, "nr=2", None), Ok(2), "the number is free again");
}
