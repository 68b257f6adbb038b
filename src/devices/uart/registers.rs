//! The register file of the 16550A, pure data.

use std::collections::VecDeque;

use actix::MessageResponse;

/// Depth of the FIFOs.
pub(super) const FIFO: usize = 16;
/// Output bytes not yet acknowledged at which the transmitter stands still.
pub(super) const TX_LIMIT: usize = 4096;
/// Baud rate at divisor 1, as QEMU's `virt` wires it; only timeouts depend on it.
const BAUD_BASE: u64 = 399_193;

pub(super) const IER_RDI: u8 = 1;
pub(super) const IER_THRI: u8 = 2;
pub(super) const IER_RLSI: u8 = 4;
const IER_MSI: u8 = 8;

const IIR_MSI: u8 = 0x0;
pub(super) const IIR_NO_INT: u8 = 0x1;
pub(super) const IIR_THRI: u8 = 0x2;
const IIR_RDI: u8 = 0x4;
const IIR_RLSI: u8 = 0x6;
const IIR_TIMEOUT: u8 = 0xc;
pub(super) const IIR_FIFO_ENABLED: u8 = 0xc0;

pub(super) const FCR_ENABLE: u8 = 1;
pub(super) const FCR_CLEAR_RX: u8 = 2;
pub(super) const FCR_CLEAR_TX: u8 = 4;
pub(super) const FCR_KEPT: u8 = 0xc9;

const LCR_DLAB: u8 = 0x80;
const MCR_LOOP: u8 = 0x10;
pub(super) const MCR_MASK: u8 = 0x1f;

pub(super) const LSR_DR: u8 = 0x01;
pub(super) const LSR_OE: u8 = 0x02;
const LSR_BI: u8 = 0x10;
/// Error conditions: OE, PE, FE, BI.
const LSR_ERRORS: u8 = 0x1e;
pub(super) const LSR_THRE: u8 = 0x20;
pub(super) const LSR_TEMT: u8 = 0x40;

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
    pub(super) char_ns: u64,
    /// The receive FIFO was touched: its timeout starts anew.
    pub(super) rx_touched: bool,
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

    pub(super) fn fifo_enabled(&self) -> bool {
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

    pub(super) fn read(&mut self, register: u64) -> u8 {
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

    pub(super) fn write(&mut self, register: u64, value: u8) {
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
    pub(super) fn set_divider(&mut self, divider: u16) {
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

    pub(super) fn receive_break(&mut self) {
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
    pub(super) fn transfer(&mut self) {
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
    pub(super) fn interrupt(&mut self) -> bool {
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
    pub(super) fn reset(&mut self) {
        let mut out = std::mem::take(&mut self.out);
        out.extend(&self.tx_fifo);
        let backlog = std::mem::take(&mut self.backlog);
        *self = Self { out, backlog, in_flight: self.in_flight, ..Self::default() };
    }
}
