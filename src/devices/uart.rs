//! The serial port of `virt`: a 16550A (registers as National's PC16550D data sheet has them, the
//! choices that it leaves open as QEMU makes them).
//!
//! [`UartState`] is the register file, pure data; [`Uart`] is the actor around it, which owns the
//! interrupt pin, the timeout's timer and the talk with the character back end.
//!
//! Nothing is lost in either direction. Input arrives against credit and waits in `backlog` until
//! the receive FIFO has room. Output goes to `out`, of which one batch is in flight at a time; a
//! byte costs a message only when nothing is in flight. When `TX_LIMIT` bytes are not yet
//! acknowledged the transmitter stands still and THRE stays clear, so the guest waits.

use std::collections::VecDeque;
use std::sync::Arc;

use actix::{Actor, Handler, MessageResponse};

use super::irq::IrqPin;
use crate::actors::context::InlineContext;
use crate::actors::message::{
    IrqLevel, MmioFault, MmioRead, MmioWrite, Pause, Reset, Resume, Snapshot,
};
use crate::actors::outlet::Outlet;
use crate::actors::timer::{TimerFired, TimerLine, TimerPort};
use crate::chardev::message::{
    Attach, CharBackend, CharCredit, CharEvent, CharInput, CharOutput, CharWritten,
};
use crate::machine::clock::VirtualClock;

/// Size of the register window in bytes.
pub const SIZE: u64 = 8;
/// Depth of the FIFOs.
const FIFO: usize = 16;
/// Input bytes that the back end may send ahead of the guest.
const RX_WINDOW: usize = 512;
/// Output bytes not yet acknowledged at which the transmitter stands still.
const TX_LIMIT: usize = 4096;
/// Baud rate at divisor 1, as QEMU's `virt` wires it; only timeouts depend on it.
const BAUD_BASE: u64 = 399_193;

const IER_RDI: u8 = 1;
const IER_THRI: u8 = 2;
const IER_RLSI: u8 = 4;
const IER_MSI: u8 = 8;

const IIR_MSI: u8 = 0x0;
const IIR_NO_INT: u8 = 0x1;
const IIR_THRI: u8 = 0x2;
const IIR_RDI: u8 = 0x4;
const IIR_RLSI: u8 = 0x6;
const IIR_TIMEOUT: u8 = 0xc;
const IIR_FIFO_ENABLED: u8 = 0xc0;

const FCR_ENABLE: u8 = 1;
const FCR_CLEAR_RX: u8 = 2;
const FCR_CLEAR_TX: u8 = 4;
const FCR_KEPT: u8 = 0xc9;

const LCR_DLAB: u8 = 0x80;
const MCR_LOOP: u8 = 0x10;
const MCR_MASK: u8 = 0x1f;

const LSR_DR: u8 = 0x01;
const LSR_OE: u8 = 0x02;
const LSR_BI: u8 = 0x10;
/// Error conditions: OE, PE, FE, BI.
const LSR_ERRORS: u8 = 0x1e;
const LSR_THRE: u8 = 0x20;
const LSR_TEMT: u8 = 0x40;

const MSR_DELTAS: u8 = 0x0f;
/// DCD, DSR and CTS: the other side is always there.
const MSR_CONNECTED: u8 = 0xb0;
const MCR_OUT2: u8 = 0x08;

/// The port as plain data.
#[derive(Debug, Clone, PartialEq, Eq, MessageResponse)]
pub struct UartState {
    pub divider: u16,
    pub rbr: u8,
    pub ier: u8,
    /// Identification of the highest interrupt, with the FIFO bits.
    pub iir: u8,
    pub fcr: u8,
    pub lcr: u8,
    pub mcr: u8,
    pub lsr: u8,
    pub msr: u8,
    pub scr: u8,
    /// THRE's interrupt has not been seen yet.
    pub thre_pending: bool,
    /// The receive FIFO has been left alone for four characters' time.
    pub timeout_pending: bool,
    pub rx_fifo: VecDeque<u8>,
    /// Bytes that wait for the transmitter; without FIFOs, THR alone.
    pub tx_fifo: VecDeque<u8>,
    /// Input that waits for room in the receive FIFO.
    pub backlog: VecDeque<u8>,
    /// Output that waits for the batch in flight.
    pub out: Vec<u8>,
    /// Length of the batch in flight.
    pub in_flight: usize,
    /// Duration of one character on the line, in nanoseconds.
    char_ns: u64,
    /// The receive FIFO was touched: its timeout starts anew.
    rx_touched: bool,
}

impl Default for UartState {
    fn default() -> Self {
        Self {
            divider: 12,
            rbr: 0,
            ier: 0,
            iir: IIR_NO_INT,
            fcr: 0,
            lcr: 0,
            mcr: MCR_OUT2,
            lsr: LSR_TEMT | LSR_THRE,
            msr: MSR_CONNECTED,
            scr: 0,
            thre_pending: false,
            timeout_pending: false,
            rx_fifo: VecDeque::with_capacity(FIFO),
            tx_fifo: VecDeque::with_capacity(FIFO),
            backlog: VecDeque::new(),
            out: Vec::new(),
            in_flight: 0,
            char_ns: 1_000_000_000 / 9600 * 10,
            rx_touched: false,
        }
    }
}

impl UartState {
    /// Output bytes that the back end has not acknowledged.
    pub fn unsent(&self) -> usize {
        self.out.len() + self.in_flight
    }

    fn fifo_enabled(&self) -> bool {
        self.fcr & FCR_ENABLE != 0
    }

    fn looped(&self) -> bool {
        self.mcr & MCR_LOOP != 0
    }

    fn dlab(&self) -> bool {
        self.lcr & LCR_DLAB != 0
    }

    fn trigger(&self) -> usize {
        [1, 4, 8, 14][usize::from(self.fcr >> 6)]
    }

    fn read(&mut self, register: u64) -> u8 {
        match register {
            0 if self.dlab() => self.divider as u8,
            0 => self.read_rbr(),
            1 if self.dlab() => (self.divider >> 8) as u8,
            1 => self.ier,
            2 => {
                let iir = self.iir;
                if iir & 0xf == IIR_THRI {
                    self.thre_pending = false;
                }
                iir
            }
            3 => self.lcr,
            4 => self.mcr,
            5 => {
                let lsr = self.lsr;
                self.lsr &= !(LSR_BI | LSR_OE);
                lsr
            }
            6 if self.looped() => (self.mcr & 0xc) << 4 | (self.mcr & 2) << 3 | (self.mcr & 1) << 5,
            6 => {
                let msr = self.msr;
                self.msr &= !MSR_DELTAS;
                msr
            }
            _ => self.scr,
        }
    }

    fn read_rbr(&mut self) -> u8 {
        if !self.fifo_enabled() {
            self.lsr &= !(LSR_DR | LSR_BI);
            return self.rbr;
        }
        let byte = self.rx_fifo.pop_front().unwrap_or(0);
        self.timeout_pending = false;
        if self.rx_fifo.is_empty() {
            self.lsr &= !(LSR_DR | LSR_BI);
        } else {
            self.rx_touched = true;
        }
        byte
    }

    fn write(&mut self, register: u64, value: u8) {
        match register {
            0 if self.dlab() => self.set_divider(self.divider & 0xff00 | u16::from(value)),
            0 => self.write_thr(value),
            1 if self.dlab() => self.set_divider(self.divider & 0xff | u16::from(value) << 8),
            1 => {
                let changed = (self.ier ^ value) & 0xf;
                self.ier = value & 0xf;
                if changed & IER_THRI != 0 {
                    self.thre_pending = self.ier & IER_THRI != 0 && self.lsr & LSR_THRE != 0;
                }
            }
            2 => self.write_fcr(value),
            3 => {
                self.lcr = value;
                self.set_divider(self.divider);
            }
            4 => self.mcr = value & MCR_MASK,
            7 => self.scr = value,
            // LSR and MSR are read-only.
            _ => {}
        }
    }

    fn write_thr(&mut self, byte: u8) {
        let depth = if self.fifo_enabled() { FIFO } else { 1 };
        if self.tx_fifo.len() >= depth {
            // The guest writes against a clear THRE.
            self.tx_fifo.pop_front();
        }
        self.tx_fifo.push_back(byte);
        self.thre_pending = false;
        self.lsr &= !(LSR_THRE | LSR_TEMT);
    }

    fn write_fcr(&mut self, value: u8) {
        let toggled = (value ^ self.fcr) & FCR_ENABLE != 0;
        if toggled || value & FCR_CLEAR_RX != 0 {
            self.lsr &= !(LSR_DR | LSR_BI);
            self.timeout_pending = false;
            self.rx_fifo.clear();
        }
        if toggled || value & FCR_CLEAR_TX != 0 {
            self.tx_fifo.clear();
            self.lsr |= LSR_THRE | LSR_TEMT;
            self.thre_pending = true;
        }
        self.fcr = value & FCR_KEPT;
    }

    /// Note the divider and with it the line's speed; a speed that no line has changes nothing.
    fn set_divider(&mut self, divider: u16) {
        self.divider = divider;
        if divider != 0 {
            let parity = u64::from(self.lcr >> 3 & 1);
            let stop = 1 + u64::from(self.lcr >> 2 & 1);
            let bits = 1 + 5 + u64::from(self.lcr & 3) + parity + stop;
            self.char_ns = 1_000_000_000 * u64::from(divider) / BAUD_BASE * bits;
        }
    }

    /// A byte arrives in the receiver.
    fn receive(&mut self, byte: u8) {
        if self.fifo_enabled() {
            if self.rx_fifo.len() < FIFO {
                self.rx_fifo.push_back(byte);
            } else {
                self.lsr |= LSR_OE;
            }
            self.rx_touched = true;
        } else {
            if self.lsr & LSR_DR != 0 {
                self.lsr |= LSR_OE;
            }
            self.rbr = byte;
        }
        self.lsr |= LSR_DR;
    }

    fn receive_break(&mut self) {
        self.receive(0);
        self.lsr |= LSR_BI;
    }

    /// Room for input: never overruns.
    fn rx_room(&self) -> usize {
        if self.looped() {
            0
        } else if self.fifo_enabled() {
            FIFO - self.rx_fifo.len()
        } else {
            usize::from(self.lsr & LSR_DR == 0)
        }
    }

    /// Move bytes along: THR to the line (or to the receiver, looped), input to the receiver.
    fn transfer(&mut self) {
        if !self.tx_fifo.is_empty() && (self.looped() || self.unsent() < TX_LIMIT) {
            if self.looped() {
                while let Some(byte) = self.tx_fifo.pop_front() {
                    self.receive(byte);
                }
            } else {
                self.out.extend(self.tx_fifo.drain(..));
            }
            self.lsr |= LSR_THRE | LSR_TEMT;
            self.thre_pending = true;
        }
        if !self.backlog.is_empty() {
            for _ in 0..self.rx_room() {
                let Some(byte) = self.backlog.pop_front() else { break };
                self.receive(byte);
            }
        }
    }

    /// Recompute IIR; the interrupt pin's level.
    fn interrupt(&mut self) -> bool {
        let ready = self.lsr & LSR_DR != 0
            && (!self.fifo_enabled() || self.rx_fifo.len() >= self.trigger());
        let id = if self.ier & IER_RLSI != 0 && self.lsr & LSR_ERRORS != 0 {
            IIR_RLSI
        } else if self.ier & IER_RDI != 0 && self.timeout_pending {
            IIR_TIMEOUT
        } else if self.ier & IER_RDI != 0 && ready {
            IIR_RDI
        } else if self.ier & IER_THRI != 0 && self.thre_pending {
            IIR_THRI
        } else if self.ier & IER_MSI != 0 && self.msr & MSR_DELTAS != 0 {
            IIR_MSI
        } else {
            IIR_NO_INT
        };
        self.iir = if self.fifo_enabled() { id | IIR_FIFO_ENABLED } else { id };
        id != IIR_NO_INT
    }

    /// Power-on state; what is on its way between the port and the back end stays.
    fn reset(&mut self) {
        let mut out = std::mem::take(&mut self.out);
        out.extend(&self.tx_fifo);
        let backlog = std::mem::take(&mut self.backlog);
        *self = Self { out, backlog, in_flight: self.in_flight, ..Self::default() };
    }
}

/// The actor.
#[derive(Debug)]
pub struct Uart {
    state: UartState,
    irq: IrqPin,
    backend: Option<CharBackend>,
    clock: Arc<VirtualClock>,
    timer: Timeout,
    /// Credit that the back end has not used yet.
    credit: usize,
}

/// The receive timeout's timer, before and after the actor has an address.
#[derive(Debug)]
enum Timeout {
    Port(Option<TimerPort>),
    Line { line: TimerLine, deadline: Option<u64> },
}

impl Uart {
    /// A port whose interrupt is source `line` of what `irq` leads to. Without a back end output
    /// is dropped.
    pub fn new(
        irq: Outlet<IrqLevel>,
        line: u32,
        backend: Option<CharBackend>,
        clock: Arc<VirtualClock>,
        timer: TimerPort,
    ) -> Self {
        Self {
            state: UartState::default(),
            irq: IrqPin::new(irq, line),
            backend,
            clock,
            timer: Timeout::Port(Some(timer)),
            credit: 0,
        }
    }

    /// Bring everything outside the registers in line with them.
    fn settle(&mut self) {
        self.state.transfer();
        self.send_batch();
        self.grant_credit();
        if std::mem::take(&mut self.state.rx_touched)
            && let Timeout::Line { line, deadline } = &mut self.timer
        {
            *deadline = Some(self.clock.now_ns() + 4 * self.state.char_ns);
            line.arm(*deadline);
        }
        let level = self.state.interrupt();
        self.irq.set(level);
    }

    fn send_batch(&mut self) {
        if self.state.in_flight != 0 || self.state.out.is_empty() {
            return;
        }
        match &self.backend {
            Some(backend) if backend.output.connected() => {
                let batch = std::mem::take(&mut self.state.out);
                self.state.in_flight = batch.len();
                backend.output.do_send(CharOutput(batch));
            }
            _ => self.state.out.clear(),
        }
    }

    /// Let the back end send more once half of the window is free.
    fn grant_credit(&mut self) {
        let Some(backend) = &self.backend else { return };
        let room = RX_WINDOW.saturating_sub(self.state.backlog.len() + self.credit);
        if room >= RX_WINDOW / 2 {
            self.credit += room;
            backend.credit.do_send(CharCredit(room));
        }
    }
}

fn check(offset: u64, width: u8) -> Result<(), MmioFault> {
    if offset >= SIZE {
        Err(MmioFault::Unmapped)
    } else if !matches!(width, 1 | 2 | 4 | 8) || !offset.is_multiple_of(u64::from(width)) {
        Err(MmioFault::Width)
    } else {
        Ok(())
    }
}

impl Actor for Uart {
    type Context = InlineContext<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        if let Timeout::Port(port) = &mut self.timer
            && let Some(port) = port.take()
        {
            let fired = Outlet::Mailbox(ctx.address().recipient());
            self.timer = Timeout::Line { line: port.connect(fired), deadline: None };
        }
        if let Some(backend) = &self.backend {
            backend.attach.do_send(Attach {
                input: ctx.address().recipient(),
                written: ctx.address().recipient(),
                event: ctx.address().recipient(),
            });
        }
        self.grant_credit();
    }
}

impl Handler<MmioRead> for Uart {
    type Result = Result<u64, MmioFault>;

    /// Any width reads one register.
    fn handle(
        &mut self,
        MmioRead { offset, width }: MmioRead,
        _: &mut Self::Context,
    ) -> Self::Result {
        check(offset, width)?;
        let value = self.state.read(offset);
        self.settle();
        Ok(u64::from(value))
    }
}

impl Handler<MmioWrite> for Uart {
    type Result = Result<(), MmioFault>;

    fn handle(&mut self, write: MmioWrite, _: &mut Self::Context) -> Self::Result {
        check(write.offset, write.width)?;
        self.state.write(write.offset, write.value as u8);
        self.settle();
        Ok(())
    }
}

impl Handler<CharInput> for Uart {
    type Result = ();

    fn handle(&mut self, CharInput(bytes): CharInput, _: &mut Self::Context) {
        self.credit = self.credit.saturating_sub(bytes.len());
        self.state.backlog.extend(bytes);
        self.settle();
    }
}

impl Handler<CharWritten> for Uart {
    type Result = ();

    fn handle(&mut self, _: CharWritten, _: &mut Self::Context) {
        self.state.in_flight = 0;
        self.settle();
    }
}

impl Handler<CharEvent> for Uart {
    type Result = ();

    fn handle(&mut self, event: CharEvent, _: &mut Self::Context) {
        if event == CharEvent::Break {
            self.state.receive_break();
            self.settle();
        }
    }
}

impl Handler<TimerFired> for Uart {
    type Result = ();

    fn handle(&mut self, fired: TimerFired, _: &mut Self::Context) {
        // A message that a later touch of the FIFO has overtaken does not count.
        if let Timeout::Line { deadline, .. } = &mut self.timer
            && *deadline == Some(fired.deadline_ns)
        {
            *deadline = None;
            if !self.state.rx_fifo.is_empty() {
                self.state.timeout_pending = true;
                self.settle();
            }
        }
    }
}

impl Handler<Reset> for Uart {
    type Result = ();

    fn handle(&mut self, _: Reset, _: &mut Self::Context) {
        self.state.reset();
        if let Timeout::Line { line, deadline } = &mut self.timer {
            *deadline = None;
            line.arm(None);
        }
        self.settle();
    }
}

impl Handler<Pause> for Uart {
    type Result = ();

    /// Output that the guest has already sent keeps flowing to the back end while paused, so that
    /// its last words before a power-off are not cut short; input waits in the backlog's window.
    fn handle(&mut self, _: Pause, _: &mut Self::Context) {}
}

impl Handler<Resume> for Uart {
    type Result = ();

    fn handle(&mut self, _: Resume, _: &mut Self::Context) {}
}

impl Handler<Snapshot<UartState>> for Uart {
    type Result = UartState;

    fn handle(&mut self, _: Snapshot<UartState>, _: &mut Self::Context) -> UartState {
        self.state.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::actors::cell::DeviceCell;
    use crate::actors::probe::Probe;
    use crate::actors::timer::ArmTimer;
    use crate::devices::bus::MmioTarget;

    struct Rig {
        uart: DeviceCell<Uart>,
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
            };
            let timer = TimerPort::played_by(armed.outlet());
            let uart = Uart::new(irq.outlet(), 10, Some(backend), Arc::default(), timer);
            let uart = DeviceCell::new(uart, "serial", Outlet::Unconnected);
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
        let uart = DeviceCell::new(uart, "serial", Outlet::Unconnected);
        for _ in 0..2 * TX_LIMIT {
            uart.write(0, 1, 0x55).unwrap();
        }
        assert_eq!(uart.read(5, 1), Ok(0x60));
    }
}
