//! The ports' state as it travels. Output that is at the back end counts as sent: it goes out there.

use super::{CONTROL_BACKLOG, Console, Port};
use crate::devices::virtio::device::{DeviceState, VirtioState};
use crate::devices::virtio::queue::{Chain, QUEUE_SIZE_MAX};
use crate::migration::vmstate::{Fields, StateError, Vmsd};

/// Most input of a port that comes along: a window, and what windows before it have left unread.
const INPUT_MAX: usize = 64 << 10;
/// Longest control message that comes along.
const CONTROL_MAX: usize = 4096;
/// `VirtQueueElementOld`: a structure of QEMU's, in its host's byte order. Three counts, padding,
/// guest addresses of the device-writable and then the device-readable parts, and for each of
/// both an `iovec`.
const ELEMENT: usize = 16 + 2 * 8 * PARTS + 2 * 16 * PARTS;
const PARTS: usize = QUEUE_SIZE_MAX as usize;

/// A chain under way: as saved, the chain; as loaded, its head.
#[derive(Debug, Clone, Default)]
struct Output {
    head: u16,
    sent: u64,
    /// Readable parts of the chain: address and length.
    parts: Vec<(u64, u32)>,
}

#[derive(Debug, Clone)]
struct PortState {
    nr: u32,
    guest_open: bool,
    host_open: bool,
    output: Option<Output>,
    input: Vec<u8>,
}

/// `virtio-console`'s own part.
#[derive(Debug, Clone)]
pub struct ConsoleState {
    max_ports: u32,
    ports: Vec<PortState>,
    control: Vec<Vec<u8>>,
}

impl Output {
    fn of(port: &Port) -> Option<Self> {
        let (chain, sent) = port.output.as_ref()?;
        let parts = chain.readable.iter().map(|part| (part.addr, part.len)).collect();
        Some(Self { head: chain.head, sent: sent + port.offered, parts })
    }

    /// Part and offset in it of the next byte to send.
    fn position(&self) -> (u32, u64) {
        let mut left = self.sent;
        for (i, (_, len)) in self.parts.iter().enumerate() {
            if left < u64::from(*len) {
                return (i as u32, left);
            }
            left -= u64::from(*len);
        }
        (self.parts.len() as u32, left)
    }

    fn fields(&mut self, f: &mut dyn Fields) -> Result<(), StateError> {
        let (mut part, mut offset) = self.position();
        f.u32("iov_idx", &mut part)?;
        f.u64("iov_offset", &mut offset)?;
        let mut element = vec![0; ELEMENT];
        let count = self.parts.len() as u32;
        element[..4].copy_from_slice(&u32::from(self.head).to_le_bytes());
        element[4..8].copy_from_slice(&count.to_le_bytes());
        let (addresses, lengths) = (16 + 8 * PARTS, 16 + 16 * PARTS + 16 * PARTS + 8);
        for (i, (addr, len)) in self.parts.iter().enumerate().take(PARTS) {
            element[addresses + 8 * i..][..8].copy_from_slice(&addr.to_le_bytes());
            let len = u64::from(*len).to_le_bytes();
            element[lengths + 16 * i..][..8].copy_from_slice(&len);
        }
        f.buffer("elem", &mut element)?;
        let word = |at: usize| u32::from_le_bytes(std::array::from_fn(|i| element[at + i]));
        let (head, count) = (word(0), word(4) as usize);
        if head >= QUEUE_SIZE_MAX.into() || count > PARTS || part as usize > count {
            let reason = format!("part {part} of {count} of element {head}");
            return Err(f.refuse("elem", reason));
        }
        self.head = head as u16;
        self.parts = (0..count)
            .map(|i| {
                let at = |from: usize| std::array::from_fn(|k| element[from + k]);
                let addr = u64::from_le_bytes(at(addresses + 8 * i));
                (addr, u64::from_le_bytes(at(lengths + 16 * i)) as u32)
            })
            .collect();
        let before = self.parts.iter().take(part as usize).map(|(_, len)| u64::from(*len));
        self.sent = before.sum::<u64>().saturating_add(offset);
        Ok(())
    }
}

impl ConsoleState {
    pub(super) fn of(console: &Console) -> Self {
        let port = |port: &Port| PortState {
            nr: port.options.nr,
            guest_open: port.guest_open,
            host_open: port.host_open,
            output: Output::of(port),
            input: port.input.iter().copied().collect(),
        };
        Self {
            max_ports: console.max_ports,
            ports: console.ports.iter().map(port).collect(),
            control: console.control.iter().cloned().collect(),
        }
    }

    pub(super) fn restore(
        self,
        console: &mut Console,
        state: &mut VirtioState,
    ) -> Result<(), StateError> {
        console.control = self.control.into();
        for from in self.ports {
            let Some(port) = console.port(from.nr) else { continue };
            port.guest_open = from.guest_open;
            port.input = from.input.into();
            port.output = None;
            if let Some(output) = from.output {
                let chain = state.chain_at(port.receive_queue() + 1, output.head)?;
                let chain: Option<Chain> = chain.filter(|c| output.sent <= c.readable_len());
                let chain = chain.ok_or_else(|| StateError::Field {
                    name: "virtio-console",
                    field: "elem",
                    reason: format!("no such chain at {}", output.head),
                })?;
                port.output = Some((chain, output.sent));
            }
        }
        Ok(())
    }
}

impl DeviceState for ConsoleState {
    fn fields(&mut self, f: &mut dyn Fields) -> Result<(), StateError> {
        // The configuration space; ignored by the other side, as by QEMU's.
        f.u16("cols", &mut 0)?;
        f.u16("rows", &mut 0)?;
        f.u32("max_nr_ports", &mut { self.max_ports })?;
        for first in (0..self.max_ports).step_by(32) {
            let here = self.ports.iter().filter_map(|port| port.nr.checked_sub(first));
            let here = here.filter(|bit| *bit < 32).fold(0u32, |map, bit| map | 1 << bit);
            let mut map = here;
            f.u32("ports_map", &mut map)?;
            if map != here {
                let reason = format!("ports {map:#x} at the source, here {here:#x}");
                return Err(f.refuse("ports_map", reason));
            }
        }
        let mut count = self.ports.len() as u32;
        f.u32("nr_active_ports", &mut count)?;
        if count as usize != self.ports.len() {
            let reason = format!("{count} at the source, here {}", self.ports.len());
            return Err(f.refuse("nr_active_ports", reason));
        }
        for next in 0..self.ports.len() {
            // The other side may have plugged them in another order.
            let mut nr = self.ports[next].nr;
            f.u32("id", &mut nr)?;
            let found = self.ports[next..].iter().position(|port| port.nr == nr);
            let Some(found) = found else {
                return Err(f.refuse("id", format!("port {nr} is not among those that are due")));
            };
            self.ports.swap(next, next + found);
            let port = &mut self.ports[next];
            f.bool("guest_connected", &mut port.guest_open)?;
            f.bool("host_connected", &mut port.host_open)?;
            let mut taken = u32::from(port.output.is_some());
            f.u32("elem_popped", &mut taken)?;
            port.output = if taken == 0 {
                None
            } else {
                let mut output = port.output.take().unwrap_or_default();
                output.fields(f)?;
                Some(output)
            };
        }
        if f.loading() {
            self.control.clear();
            self.ports.iter_mut().for_each(|port| port.input.clear());
        }
        Ok(())
    }

    fn subsections(&mut self, f: &mut dyn Fields) -> Result<(), StateError> {
        let needed = self.ports.iter().any(|port| !port.input.is_empty());
        f.subsection(Vmsd::new("virtio/serial_input", 1), needed, &mut |f| {
            self.ports
                .iter_mut()
                .try_for_each(|port| f.counted(("length", "bytes"), INPUT_MAX, &mut port.input))
        })?;
        let control = &mut self.control;
        let needed = !control.is_empty();
        f.subsection(Vmsd::new("virtio/serial_control", 1), needed, &mut |f| {
            let mut count = control.len() as u32;
            f.u32("count", &mut count)?;
            if count as usize > CONTROL_BACKLOG {
                return Err(f.refuse("count", format!("{count} is more than {CONTROL_BACKLOG}")));
            }
            control.resize(count as usize, Vec::new());
            control
                .iter_mut()
                .try_for_each(|message| f.counted(("length", "message"), CONTROL_MAX, message))
        })
    }
}
