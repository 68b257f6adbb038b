//! virtio-serial (virtio 1.2 §5.3): ports, each a pair of queues with a character back end behind
//! it, and a pair of control queues over which driver and device agree what ports there are.
//!
//! Nothing is lost: input flows only against credit that this device grants, and a chain of output
//! goes back to the driver when the back end has acknowledged its last byte.

mod relay;
mod state;

use std::collections::VecDeque;

use actix::{Actor as _, Addr, Handler, Message, Recipient};
use virtio_bindings::virtio_ids::VIRTIO_ID_CONSOLE;

use super::create::PortDevice;
use super::device::{VirtioDevice, VirtioState, guest_error};
use super::inspect::PortReport;
use super::properties::DeviceError;
use super::queue::Chain;
use super::transport::VirtioMmio;
use crate::actors::outlet::Outlet;
use crate::chardev::message::{
    Attach, CharBackend, CharCredit, CharEvent, CharInput, CharOutput, CharWritten, PortOpened,
};
use crate::devices::dma::{gather, scatter};
use crate::devices::shell::Shell;
use crate::migration::vmstate::{StateError, Vmsd};
use crate::trace;
use relay::{OfPort, Relay, Said};
use state::ConsoleState;

const F_MULTIPORT: u32 = 1;
const F_EMERG_WRITE: u32 = 2;

const PORT_QUEUE_SIZE: u16 = 128;
const CONTROL_QUEUE_SIZE: u16 = 32;
const CONTROL_RX: usize = 2;
const CONTROL_TX: usize = 3;
/// Offset of `emerg_wr` in `struct virtio_console_config`.
const CONFIG_EMERG_WR: usize = 8;

/// Input bytes that one port holds or has granted credit for at most.
const INPUT_WINDOW: usize = 4096;
/// Output bytes handed to the back end at once.
const OUTPUT_CHUNK: usize = 4096;
/// Control messages that wait for buffers at most; a driver that asks more and gives none loses.
const CONTROL_BACKLOG: usize = 256;

/// Events of `struct virtio_console_control`.
mod event {
    pub(super) const DEVICE_READY: u16 = 0;
    pub(super) const DEVICE_ADD: u16 = 1;
    pub(super) const DEVICE_REMOVE: u16 = 2;
    pub(super) const PORT_READY: u16 = 3;
    pub(super) const CONSOLE_PORT: u16 = 4;
    pub(super) const PORT_OPEN: u16 = 6;
    pub(super) const PORT_NAME: u16 = 7;
}

/// A port as it is plugged in.
#[derive(Debug, Clone)]
pub struct PortOptions {
    /// Its number on the bus, below `max_ports`.
    pub nr: u32,
    /// `virtconsole`, as against `virtserialport`.
    pub console: bool,
    /// Shown by the guest; empty for none.
    pub name: String,
    pub backend: Option<CharBackend>,
    /// Who announces that the guest opens or closes its end, and of which port.
    pub announce: Option<(String, Outlet<PortOpened>)>,
}

/// Whoever plugs devices → bus: here is another port. Its number.
#[derive(Debug, Message)]
#[rtype(result = "Result<u32, DeviceError>")]
pub struct PlugPort {
    pub port: PortDevice,
    pub backend: Option<CharBackend>,
    /// Who announces what the guest does with it, and of which port.
    pub announce: Option<(String, Outlet<PortOpened>)>,
}

/// Whoever unplugs devices → bus: this port goes. Its back end is let go of by whoever gave it.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "()")]
pub struct UnplugPort {
    pub nr: u32,
}

/// A bus of ports, for whoever plugs devices.
#[derive(Debug, Clone)]
pub struct PortBus {
    pub plug: Recipient<PlugPort>,
    pub unplug: Recipient<UnplugPort>,
}

#[derive(Debug)]
struct Port {
    /// No other port of this bus has had it.
    key: u64,
    options: PortOptions,
    /// Somebody is at the host's end. Always so for a console.
    host_open: bool,
    /// The guest has opened its end.
    guest_open: bool,
    /// Input that waits for buffers of the driver.
    input: VecDeque<u8>,
    /// Credit granted and not used.
    credit: usize,
    /// Output chain being sent, and how much of it is acknowledged.
    output: Option<(Chain, u64)>,
    /// A `CharOutput` is at the back end.
    writing: bool,
    /// How much of the chain is in it.
    offered: u64,
}

impl Port {
    fn new(key: u64, options: PortOptions) -> Self {
        if let Some(backend) = &options.backend {
            backend.place.set_open(options.console);
        }
        Self {
            key,
            host_open: options.console,
            options,
            guest_open: false,
            input: VecDeque::new(),
            credit: 0,
            output: None,
            writing: false,
            offered: 0,
        }
    }

    /// The guest has opened its end, or closed it.
    fn set_guest_open(&mut self, open: bool) {
        self.guest_open = open;
        self.announce();
    }

    fn announce(&self) {
        if let Some(backend) = self.options.backend.as_ref().filter(|_| !self.options.console) {
            backend.place.set_open(self.guest_open);
        }
        if let Some((id, to)) = &self.options.announce {
            to.send(PortOpened { id: id.clone(), open: self.guest_open });
        }
    }

    fn receive_queue(&self) -> usize {
        match self.options.nr {
            0 => 0,
            nr => 2 + 2 * nr as usize,
        }
    }

    /// Let the back end send what there is room for.
    fn grant(&mut self) {
        let room = INPUT_WINDOW.saturating_sub(self.input.len() + self.credit);
        // Small grants would cost a message for each byte of a busy stream.
        let worth_it = room >= INPUT_WINDOW / 2 || self.input.is_empty() && self.credit == 0;
        if let Some(backend) = self.options.backend.as_ref().filter(|_| self.guest_open && worth_it)
        {
            self.credit += room;
            backend.credit.do_send(CharCredit(room));
        }
    }

    /// Move waiting input into the driver's buffers.
    fn receive(&mut self, state: &mut VirtioState) {
        let queue = self.receive_queue();
        while self.guest_open && !self.input.is_empty() {
            let Some(chain) = state.pop(queue) else { break };
            let bytes = self.input.make_contiguous();
            let copied = scatter(state.ram(), &chain.writable, 0, bytes);
            let Some(copied) = state.unless_outside(copied) else { return };
            self.input.drain(..copied);
            state.push(queue, chain.head, copied as u32);
        }
        self.grant();
    }

    /// Send the driver's output, a piece at a time.
    fn transmit(&mut self, state: &mut VirtioState) {
        let queue = self.receive_queue() + 1;
        while !self.writing {
            let Some((chain, sent)) = self.output.take().or_else(|| Some((state.pop(queue)?, 0)))
            else {
                return;
            };
            let left = (chain.readable_len() - sent).min(OUTPUT_CHUNK as u64) as usize;
            // With nobody at the host's end a port's output is dropped.
            let backend = self.options.backend.as_ref().filter(|_| self.host_open);
            let Some(backend) = backend.filter(|_| left > 0) else {
                state.push(queue, chain.head, 0);
                continue;
            };
            let mut bytes = vec![0; left];
            let copied = gather(state.ram(), &chain.readable, sent, &mut bytes);
            if state.unless_outside(copied).is_none() {
                return;
            }
            self.output = Some((chain, sent));
            self.writing = true;
            self.offered = bytes.len() as u64;
            backend.output.do_send(CharOutput(bytes));
        }
    }

    fn written(&mut self, count: usize, state: &mut VirtioState) {
        self.writing = false;
        self.offered = 0;
        if let Some((_, sent)) = &mut self.output {
            *sent += count as u64;
        }
        self.transmit(state);
    }

    fn reset(&mut self) {
        if self.guest_open {
            self.set_guest_open(false);
        }
        self.output = None;
        self.offered = 0;
    }
}

/// The device: a bus of ports.
#[derive(Debug)]
pub struct Console {
    max_ports: u32,
    emergency_write: bool,
    ports: Vec<Port>,
    /// Key of the next port.
    next_key: u64,
    /// The port whose back end talks to this device without a relay.
    direct: Option<u64>,
    address: Option<Addr<Shell<VirtioMmio<Self>>>>,
    control: VecDeque<Vec<u8>>,
}

impl Console {
    /// A device with room for `max_ports` ports (1..=511) and these in it. Ports beyond are left
    /// out: `create` refuses them in words.
    pub fn new(max_ports: u32, emergency_write: bool, ports: Vec<PortOptions>) -> Self {
        let ports = ports.into_iter().filter(|port| port.nr < max_ports);
        let ports: Vec<_> = (0..).zip(ports).map(|(key, port)| Port::new(key, port)).collect();
        let backed = ports.iter().find(|port| port.options.backend.is_some());
        Self {
            max_ports,
            emergency_write,
            next_key: ports.len() as u64,
            direct: backed.map(|port| port.key),
            ports,
            address: None,
            control: VecDeque::new(),
        }
    }

    fn port_of_queue(&mut self, queue: usize) -> Option<&mut Port> {
        self.ports.iter_mut().find(|p| p.receive_queue() == queue & !1)
    }

    fn with_key(&mut self, key: Option<u64>) -> Option<&mut Port> {
        self.ports.iter_mut().find(|port| Some(port.key) == key)
    }

    /// Tell a port's back end who it is for.
    fn attach(&self, port: &Port, address: &Addr<Shell<VirtioMmio<Self>>>) {
        let Some(backend) = &port.options.backend else { return };
        let attach = if self.direct == Some(port.key) {
            Attach {
                input: address.clone().recipient(),
                written: address.clone().recipient(),
                event: address.clone().recipient(),
                descriptor: None,
            }
        } else {
            let relay = Relay { key: port.key, device: address.clone().recipient() }.start();
            Attach {
                input: relay.clone().recipient(),
                written: relay.clone().recipient(),
                event: relay.recipient(),
                descriptor: None,
            }
        };
        backend.attach.do_send(attach);
    }

    /// What a back end has told.
    fn said(&mut self, key: Option<u64>, said: Said, state: &mut VirtioState) {
        // A port that is gone hears nothing any more.
        let Some(port) = self.with_key(key) else { return };
        match said {
            Said::Input(bytes) => {
                port.credit = port.credit.saturating_sub(bytes.len());
                port.input.extend(bytes);
                port.receive(state);
            }
            Said::Written(count) => port.written(count, state),
            Said::Event(CharEvent::Opened) => self.host_opened(key, true, state),
            Said::Event(CharEvent::Closed) => self.host_opened(key, false, state),
            Said::Event(CharEvent::Break | CharEvent::MuxIn | CharEvent::MuxOut) => (),
        }
    }

    /// The driver has agreed to hear of ports, and does.
    fn is_heard(&self, state: &VirtioState) -> bool {
        state.has_feature(F_MULTIPORT) && state.is_driver_ok()
    }

    fn plug(&mut self, plug: PlugPort, state: &mut VirtioState) -> Result<u32, DeviceError> {
        let others =
            self.ports.iter().map(|Port { options, .. }| (options.nr, options.name.as_str()));
        let others = others.collect::<Vec<_>>();
        let options = plug.port.place(&others, self.max_ports, plug.backend, plug.announce)?;
        let nr = options.nr;
        let port = Port::new(self.next_key, options);
        self.next_key += 1;
        if let Some(address) = &self.address {
            self.attach(&port, address);
        }
        self.ports.push(port);
        if self.is_heard(state) {
            self.send_control(nr, event::DEVICE_ADD, 1, &[]);
            self.flush_control(state);
        }
        Ok(nr)
    }

    fn unplug(&mut self, nr: u32, state: &mut VirtioState) {
        let Some(at) = self.ports.iter().position(|port| port.options.nr == nr) else { return };
        let mut port = self.ports.remove(at);
        if std::mem::take(&mut port.guest_open) {
            port.announce();
        }
        if self.direct == Some(port.key) {
            self.direct = None;
        }
        let queue = port.receive_queue() + 1;
        if let Some((chain, _)) = port.output {
            state.push(queue, chain.head, 0);
        }
        while let Some(chain) = state.pop(queue) {
            state.push(queue, chain.head, 0);
        }
        if self.is_heard(state) {
            self.send_control(nr, event::DEVICE_REMOVE, 1, &[]);
            self.flush_control(state);
        }
    }

    fn port(&mut self, nr: u32) -> Option<&mut Port> {
        self.ports.iter_mut().find(|port| port.options.nr == nr)
    }

    /// `struct virtio_console_control` and what follows it.
    fn send_control(&mut self, nr: u32, event: u16, value: u16, rest: &[u8]) {
        if self.control.len() >= CONTROL_BACKLOG {
            guest_error!("virtio-serial-bus: control message {event} dropped: no buffers");
            return;
        }
        trace::virtio_serial_send_control_event(nr, event, value);
        let mut message = nr.to_le_bytes().to_vec();
        message.extend(event.to_le_bytes());
        message.extend(value.to_le_bytes());
        message.extend(rest);
        self.control.push_back(message);
    }

    fn flush_control(&mut self, state: &mut VirtioState) {
        while !self.control.is_empty() {
            let Some(chain) = state.pop(CONTROL_RX) else { return };
            let Some(message) = self.control.pop_front() else { return };
            let copied = scatter(state.ram(), &chain.writable, 0, &message);
            let Some(copied) = state.unless_outside(copied) else { return };
            state.push(CONTROL_RX, chain.head, copied as u32);
        }
    }

    fn take_control(&mut self, state: &mut VirtioState) {
        while let Some(chain) = state.pop(CONTROL_TX) {
            let mut raw = [0; 8];
            let copied = gather(state.ram(), &chain.readable, 0, &mut raw);
            match state.unless_outside(copied) {
                None => return,
                Some(8) => {
                    let value = u64::from_le_bytes(raw);
                    self.on_control(
                        value as u32,
                        (value >> 32) as u16,
                        (value >> 48) as u16,
                        state,
                    );
                }
                Some(_) => guest_error!("virtio-serial-bus: control message cut short"),
            }
            state.push(CONTROL_TX, chain.head, 0);
        }
        self.flush_control(state);
    }

    fn on_control(&mut self, nr: u32, event: u16, value: u16, state: &mut VirtioState) {
        trace::virtio_serial_handle_control_message(nr, event, value);
        if event == event::DEVICE_READY {
            if value == 0 {
                guest_error!("virtio-serial-bus: guest failure in adding device");
                return;
            }
            let numbers: Vec<u32> = self.ports.iter().map(|port| port.options.nr).collect();
            for nr in numbers {
                self.send_control(nr, event::DEVICE_ADD, 1, &[]);
            }
            return;
        }
        let Some(port) = self.port(nr) else {
            guest_error!("virtio-serial-bus: unexpected port id {nr} in control message");
            return;
        };
        match event {
            event::PORT_READY if value == 0 => {
                guest_error!("virtio-serial-bus: guest failure in adding port {nr}");
            }
            event::PORT_READY => {
                let (console, open) = (port.options.console, port.host_open);
                let mut name = port.options.name.clone().into_bytes();
                if console {
                    self.send_control(nr, event::CONSOLE_PORT, 1, &[]);
                }
                if !name.is_empty() {
                    name.push(0);
                    self.send_control(nr, event::PORT_NAME, 1, &name);
                }
                if open {
                    self.send_control(nr, event::PORT_OPEN, 1, &[]);
                }
            }
            event::PORT_OPEN => {
                port.set_guest_open(value != 0);
                port.receive(state);
            }
            _ => guest_error!("virtio-serial-bus: unexpected control event {event}"),
        }
    }

    fn host_opened(&mut self, key: Option<u64>, open: bool, state: &mut VirtioState) {
        let Some(port) = self.with_key(key) else { return };
        if port.options.console || port.host_open == open {
            return;
        }
        port.host_open = open;
        let nr = port.options.nr;
        if !open {
            // What the back end has in hand is acknowledged as dropped.
            port.transmit(state);
        }
        if self.is_heard(state) {
            self.send_control(nr, event::PORT_OPEN, u16::from(open), &[]);
            self.flush_control(state);
        }
    }
}

impl VirtioDevice for Console {
    const NAME: &'static str = "virtio-serial-bus";
    const VMSD: Vmsd = Vmsd::new("virtio-console", 3);
    type State = ConsoleState;
    const ID: u32 = VIRTIO_ID_CONSOLE;

    fn features(&self) -> u64 {
        u64::from(self.max_ports > 1) << F_MULTIPORT
            | u64::from(self.emergency_write) << F_EMERG_WRITE
    }

    fn queues(&self) -> Vec<u16> {
        let mut sizes = vec![PORT_QUEUE_SIZE; 2 + 2 * self.max_ports as usize];
        for size in sizes.iter_mut().skip(CONTROL_RX).take(2) {
            *size = CONTROL_QUEUE_SIZE;
        }
        sizes
    }

    /// `struct virtio_console_config`: columns, rows, ports, emergency write.
    fn config(&self) -> Vec<u8> {
        let mut config = vec![0; 4];
        config.extend(self.max_ports.to_le_bytes());
        config.extend([0; 4]);
        config
    }

    fn ports(&self) -> Vec<PortReport> {
        let report = |port: &Port| PortReport {
            nr: port.options.nr,
            guest_open: port.guest_open,
            host_open: port.host_open,
            throttled: port.writing,
        };
        self.ports.iter().map(report).collect()
    }

    /// Early output of a driver that has no queues yet.
    fn write_config(&mut self, offset: usize, bytes: &[u8], _: &mut VirtioState) {
        if !self.emergency_write || offset != CONFIG_EMERG_WR {
            return;
        }
        let console = self.ports.iter_mut().find(|port| port.options.console);
        // One piece of output may be under way at a time; a byte that meets one is lost, as the
        // specification allows.
        if let (Some(port), Some(&byte)) = (console, bytes.first())
            && !port.writing
            && let Some(backend) = &port.options.backend
        {
            port.writing = true;
            backend.output.do_send(CharOutput(vec![byte]));
        }
    }

    fn started(&mut self, address: Addr<Shell<VirtioMmio<Self>>>) {
        self.ports.iter().for_each(|port| self.attach(port, &address));
        self.address = Some(address);
    }

    /// Without the control queues there is one port, and it is open.
    fn driver_ok(&mut self, state: &mut VirtioState) {
        if !state.has_feature(F_MULTIPORT)
            && let Some(port) = self.port(0)
        {
            port.guest_open = true;
            port.receive(state);
        }
    }

    fn notify(&mut self, queue: usize, state: &mut VirtioState) {
        match queue {
            CONTROL_RX => self.flush_control(state),
            CONTROL_TX => self.take_control(state),
            _ => match self.port_of_queue(queue) {
                Some(port) if queue & 1 == 0 => port.receive(state),
                Some(port) => port.transmit(state),
                // A port that is not plugged in swallows what is written to it.
                None if queue & 1 == 1 => {
                    while let Some(chain) = state.pop(queue) {
                        state.push(queue, chain.head, 0);
                    }
                }
                None => (),
            },
        }
    }

    fn queue_reset(&mut self, queue: usize) {
        if let Some(port) = self.port_of_queue(queue).filter(|_| queue & 1 == 1) {
            port.output = None;
            port.offered = 0;
        }
    }

    /// Input that was delivered survives.
    fn reset(&mut self, _: &mut VirtioState) {
        self.control.clear();
        self.ports.iter_mut().for_each(Port::reset);
    }

    fn save(&self, _: &VirtioState) -> Result<ConsoleState, StateError> {
        Ok(ConsoleState::of(self))
    }

    fn load(
        &mut self,
        loaded: ConsoleState,
        _: &[u8],
        state: &mut VirtioState,
    ) -> Result<(), StateError> {
        loaded.restore(self, state)?;
        self.ports.iter().filter(|port| port.guest_open).for_each(Port::announce);
        Ok(())
    }
}

impl Handler<CharInput> for Shell<VirtioMmio<Console>> {
    type Result = ();

    fn handle(&mut self, CharInput(bytes): CharInput, _: &mut Self::Context) {
        let (device, state) = self.0.parts();
        device.said(device.direct, Said::Input(bytes), state);
    }
}

impl Handler<CharWritten> for Shell<VirtioMmio<Console>> {
    type Result = ();

    fn handle(&mut self, CharWritten(count): CharWritten, _: &mut Self::Context) {
        let (device, state) = self.0.parts();
        device.said(device.direct, Said::Written(count), state);
    }
}

impl Handler<CharEvent> for Shell<VirtioMmio<Console>> {
    type Result = ();

    fn handle(&mut self, event: CharEvent, _: &mut Self::Context) {
        let (device, state) = self.0.parts();
        device.said(device.direct, Said::Event(event), state);
    }
}

impl Handler<OfPort> for Shell<VirtioMmio<Console>> {
    type Result = ();

    fn handle(&mut self, OfPort { key, said }: OfPort, _: &mut Self::Context) {
        let (device, state) = self.0.parts();
        device.said(Some(key), said, state);
    }
}

impl Handler<PlugPort> for Shell<VirtioMmio<Console>> {
    type Result = Result<u32, DeviceError>;

    fn handle(&mut self, plug: PlugPort, _: &mut Self::Context) -> Self::Result {
        let (device, state) = self.0.parts();
        device.plug(plug, state)
    }
}

impl Handler<UnplugPort> for Shell<VirtioMmio<Console>> {
    type Result = ();

    fn handle(&mut self, UnplugPort { nr }: UnplugPort, _: &mut Self::Context) {
        let (device, state) = self.0.parts();
        device.unplug(nr, state);
    }
}

#[cfg(test)]
mod tests;
