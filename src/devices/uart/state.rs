//! The port's state as it travels. Output that was handed to the back end stays behind and goes
//! out there; what still waits for the transmitter, and input that the back end has already given,
//! come along.

use super::registers::{FCR_KEPT, FIFO, IER_THRI, IIR_THRI, LSR_TEMT, MCR_MASK};
use super::{Timeout, Uart, UartState};
use crate::devices::shell::Migrate;
use crate::migration::vmstate::{Fields, StateError, VmState, Vmsd};

/// Most input that comes along: a window, and what windows before it have left unread.
const BACKLOG_MAX: usize = 64 << 10;

/// `serial`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UartMigration {
    registers: UartState,
    /// When the receive FIFO times out, in virtual nanoseconds.
    timeout: Option<u64>,
}

/// One of QEMU's byte queues, 16 bytes in a circle.
fn fifo(f: &mut dyn Fields, name: &'static str, queue: &mut Vec<u8>) -> Result<(), StateError> {
    f.structure(name, Vmsd::new("Fifo8", 1), &mut |f| {
        let mut data = [0; FIFO];
        for (slot, byte) in data.iter_mut().zip(queue.iter()) {
            *slot = *byte;
        }
        f.buffer("data", &mut data)?;
        let (mut head, mut count) = (0, queue.len() as u32);
        f.u32("head", &mut head)?;
        f.u32("num", &mut count)?;
        if head as usize >= FIFO || count as usize > FIFO {
            let reason = format!("{count} bytes from {head} are not in a queue of {FIFO}");
            return Err(f.refuse("num", reason));
        }
        *queue = (head..head + count).map(|i| data[i as usize % FIFO]).collect();
        Ok(())
    })
}

impl VmState for UartMigration {
    const VMSD: Vmsd = Vmsd::new("serial", 3).since(2);

    fn before_load(&mut self) {
        self.registers = UartState::default();
        self.timeout = None;
    }

    fn fields(&mut self, f: &mut dyn Fields) -> Result<(), StateError> {
        f.structure("serial", Vmsd::new("serial", 3).since(2), &mut |f| self.port(f))
    }
}

impl UartMigration {
    fn port(&mut self, f: &mut dyn Fields) -> Result<(), StateError> {
        let s = &mut self.registers;
        let mut divider = s.divider;
        f.u16("divider", &mut divider)?;
        f.u8("rbr", &mut s.rbr)?;
        f.u8("ier", &mut s.ier)?;
        f.u8("iir", &mut s.iir)?;
        f.u8("lcr", &mut s.lcr)?;
        f.u8("mcr", &mut s.mcr)?;
        f.u8("lsr", &mut s.lsr)?;
        f.u8("msr", &mut s.msr)?;
        f.u8("scr", &mut s.scr)?;
        if f.version() >= 3 {
            f.u8("fcr_vmstate", &mut s.fcr)?;
        }
        s.ier &= 0xf;
        s.mcr &= MCR_MASK;
        s.fcr &= FCR_KEPT;
        s.set_divider(divider);
        // Unless the stream says otherwise it is pending exactly when IIR shows it.
        let shown = s.iir & 0xf == IIR_THRI;
        let differs = s.ier & IER_THRI != 0 && s.thre_pending != shown;
        let mut pending = i32::from(if f.loading() { shown } else { s.thre_pending });
        f.subsection(Vmsd::new("serial/thr_ipending", 1), differs, &mut |f| {
            f.i32("thr_ipending", &mut pending)
        })?;
        // Of what waits for the transmitter the first byte is in the shift register.
        let mut waiting: Vec<u8> = s.tx_fifo.iter().copied().collect();
        let mut shifting = (!waiting.is_empty()).then(|| waiting.remove(0));
        f.subsection(Vmsd::new("serial/tsr", 1), shifting.is_some(), &mut |f| {
            let mut retry = u32::from(shifting.is_some());
            f.u32("tsr_retry", &mut retry)?;
            f.u8("thr", &mut 0)?;
            let mut byte = shifting.unwrap_or(0);
            f.u8("tsr", &mut byte)?;
            shifting = (retry != 0).then_some(byte);
            Ok(())
        })?;
        let mut received: Vec<u8> = s.rx_fifo.iter().copied().collect();
        let needed = !received.is_empty();
        f.subsection(Vmsd::new("serial/recv_fifo", 1), needed, &mut |f| {
            fifo(f, "recv_fifo", &mut received)
        })?;
        let needed = !waiting.is_empty();
        f.subsection(Vmsd::new("serial/xmit_fifo", 1), needed, &mut |f| {
            fifo(f, "xmit_fifo", &mut waiting)
        })?;
        f.subsection(
            Vmsd::new("serial/fifo_timeout_timer", 1),
            self.timeout.is_some(),
            &mut |f| f.timer("fifo_timeout_timer", &mut self.timeout),
        )?;
        let mut timed_out = i32::from(s.timeout_pending);
        f.subsection(Vmsd::new("serial/timeout_ipending", 1), s.timeout_pending, &mut |f| {
            f.i32("timeout_ipending", &mut timed_out)
        })?;
        // Not QEMU's, whose back ends keep what the port has no room for.
        let mut backlog: Vec<u8> = s.backlog.iter().copied().collect();
        f.subsection(Vmsd::new("serial/backlog", 1), !backlog.is_empty(), &mut |f| {
            f.counted(("length", "bytes"), BACKLOG_MAX, &mut backlog)
        })?;
        if f.loading() {
            if shifting.is_some() == (s.lsr & LSR_TEMT != 0) {
                let reason = "LSR and the transmitter disagree".to_owned();
                return Err(f.refuse("lsr", reason));
            }
            s.thre_pending = pending != 0;
            s.timeout_pending = timed_out != 0;
            s.tx_fifo = shifting.into_iter().chain(waiting).take(FIFO).collect();
            s.rx_fifo = received.into();
            s.backlog = backlog.into();
        }
        Ok(())
    }
}

impl Migrate for Uart {
    type State = UartMigration;

    fn save(&self) -> Result<UartMigration, StateError> {
        let timeout = match &self.timer {
            Timeout::Line { deadline, .. } => *deadline,
            Timeout::Port(_) => None,
        };
        Ok(UartMigration { registers: self.state.clone(), timeout })
    }

    fn load(&mut self, state: UartMigration) -> Result<(), StateError> {
        let out = std::mem::take(&mut self.state.out);
        let in_flight = self.state.in_flight;
        self.state = UartState { out, in_flight, ..state.registers };
        if let Timeout::Line { line, deadline } = &mut self.timer {
            *deadline = state.timeout;
            line.arm(*deadline);
        }
        let level = self.state.interrupt();
        self.irq.set(level);
        Ok(())
    }
}
