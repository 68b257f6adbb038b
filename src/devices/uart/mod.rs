//! The serial port of `virt`: a 16550A (registers as National's PC16550D data sheet has them, the
//! choices that it leaves open as QEMU makes them).
//!
//! `registers` is the register file, pure data; [`Uart`] is what it drives: the interrupt pin, the
//! timeout's timer and the talk with the character back end.
//!
//! Nothing is lost in either direction. Input arrives against credit and waits in `backlog` until
//! the receive FIFO has room. Output goes to `out`, of which one batch is in flight at a time; a
//! byte costs a message only when nothing is in flight. When `TX_LIMIT` bytes are not yet
//! acknowledged the transmitter stands still and THRE stays clear, so the guest waits.

mod registers;
mod state;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use actix::{Addr, Handler};

use super::irq::IrqPin;
use super::shell::{Access, Device, Shell};
use crate::actors::message::{IrqLevel, Snapshot};
use crate::actors::outlet::Outlet;
use crate::actors::timer::{TimerFired, TimerLine, TimerPort};
use crate::chardev::message::{
    Attach, CharBackend, CharCredit, CharEvent, CharInput, CharOutput, CharWritten,
};
use crate::machine::clock::VirtualClock;
pub use registers::UartState;

/// Input bytes that the back end may send ahead of the guest.
const RX_WINDOW: usize = 512;

/// The device.
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

/// The receive timeout's timer, before and after the device has an address.
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

impl Device for Uart {
    const SIZE: u64 = 8;

    /// Any width accesses one register.
    fn decodes(&self, _: Access, offset: u64, width: u8) -> bool {
        offset.is_multiple_of(width.into())
    }

    fn read(&mut self, offset: u64, _: u8) -> u64 {
        let value = self.state.read(offset);
        self.settle();
        u64::from(value)
    }

    fn write(&mut self, offset: u64, _: u8, value: u64) {
        self.state.write(offset, value as u8);
        self.settle();
    }

    fn started(&mut self, address: &Addr<Shell<Self>>) {
        if let Timeout::Port(port) = &mut self.timer
            && let Some(port) = port.take()
        {
            let fired = Outlet::Mailbox(address.clone().recipient());
            self.timer = Timeout::Line { line: port.connect(fired), deadline: None };
        }
        if let Some(backend) = &self.backend {
            backend.attach.do_send(Attach {
                input: address.clone().recipient(),
                written: address.clone().recipient(),
                event: address.clone().recipient(),
                descriptor: None,
            });
        }
        self.grant_credit();
    }

    fn reset(&mut self) {
        self.state.reset();
        if let Timeout::Line { line, deadline } = &mut self.timer {
            *deadline = None;
            line.arm(None);
        }
        self.settle();
    }

    fn resume(&mut self) {
        self.settle();
    }

    // There is nothing to pause: output that the guest has already sent keeps flowing to the back
    // end, so that its last words before a power-off are not cut short; input waits in the
    // backlog's window.
}

impl Handler<CharInput> for Shell<Uart> {
    type Result = ();

    fn handle(&mut self, CharInput(bytes): CharInput, _: &mut Self::Context) {
        let uart = &mut self.0;
        uart.credit = uart.credit.saturating_sub(bytes.len());
        uart.state.backlog.extend(bytes);
        uart.settle();
    }
}

impl Handler<CharWritten> for Shell<Uart> {
    type Result = ();

    fn handle(&mut self, _: CharWritten, _: &mut Self::Context) {
        self.0.state.in_flight = 0;
        self.0.settle();
    }
}

impl Handler<CharEvent> for Shell<Uart> {
    type Result = ();

    fn handle(&mut self, event: CharEvent, _: &mut Self::Context) {
        if event == CharEvent::Break {
            self.0.state.receive_break();
            self.0.settle();
        }
    }
}

impl Handler<TimerFired> for Shell<Uart> {
    type Result = ();

    fn handle(&mut self, fired: TimerFired, _: &mut Self::Context) {
        // A message that a later touch of the FIFO has overtaken does not count.
        let uart = &mut self.0;
        if let Timeout::Line { deadline, .. } = &mut uart.timer
            && *deadline == Some(fired.deadline_ns)
        {
            *deadline = None;
            if !uart.state.rx_fifo.is_empty() {
                uart.state.timeout_pending = true;
                uart.settle();
            }
        }
    }
}

impl Handler<Snapshot<UartState>> for Shell<Uart> {
    type Result = UartState;

    fn handle(&mut self, _: Snapshot<UartState>, _: &mut Self::Context) -> UartState {
        self.0.state.clone()
    }
}
