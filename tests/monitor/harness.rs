//! A machine that is only messages, and a character device whose client is the test.

use std::sync::Arc;
use std::time::Duration;

use actix::{Actor, Addr, Context, Handler, Message, MessageResult, Recipient, ResponseFuture};
use serde_json::Value;
use tokio::sync::mpsc;
use understudy::actors::outlet::Outlet;
use understudy::chardev::message::*;
use understudy::cpu::isa::IsaConfig;
use understudy::cpu::state::HartState;
use understudy::machine::message::*;
use understudy::qmp::link::{MachineInfo, MachineLink, MachineType};
use understudy::qmp::monitor::{Execute, ExecuteHuman, Monitor};

/// How long a test waits for what must come.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a test waits to see that nothing comes.
const SILENCE: Duration = Duration::from_millis(60);

/// The machine's side of every message that monitors send.
#[derive(Debug)]
pub struct MockVm {
    pub state: RunState,
    pub listeners: Vec<Recipient<VmEvent>>,
    pub hart: HartState,
    /// Guest memory from 0x8000_0000.
    pub ram: Vec<u8>,
    /// `QueryStatus` is never answered.
    pub deaf: bool,
    pub tree: Arc<MachineTree>,
    pub actions: Vec<SetAction>,
    pub shutdowns: Vec<ShutdownCause>,
}

pub const RAM_BASE: u64 = 0x8000_0000;

impl Default for MockVm {
    fn default() -> Self {
        Self {
            state: RunState::Prelaunch,
            listeners: Vec::new(),
            hart: HartState::default(),
            ram: vec![0; 64 << 10],
            deaf: false,
            tree: Arc::default(),
            actions: Vec::new(),
            shutdowns: Vec::new(),
        }
    }
}

impl Actor for MockVm {
    type Context = Context<Self>;
}

impl MockVm {
    pub fn tell(&self, event: VmEvent) {
        self.listeners.iter().for_each(|listener| listener.do_send(event.clone()));
    }
}

/// Run a closure in the mock.
#[derive(Message)]
#[rtype(result = "()")]
pub struct With(pub Box<dyn FnOnce(&mut MockVm) + Send>);

impl Handler<With> for MockVm {
    type Result = ();
    fn handle(&mut self, message: With, _: &mut Self::Context) {
        (message.0)(self)
    }
}

impl Handler<QueryStatus> for MockVm {
    type Result = ResponseFuture<Result<Status, VmError>>;
    fn handle(&mut self, _: QueryStatus, _: &mut Self::Context) -> Self::Result {
        if self.deaf {
            return Box::pin(std::future::pending());
        }
        let state = self.state;
        Box::pin(async move { Ok(Status { state }) })
    }
}

macro_rules! answers {
    ($($message:ty, |$vm:ident, $m:pat_param| $body:expr;)*) => {
        $(impl Handler<$message> for MockVm {
            type Result = MessageResult<$message>;
            fn handle(&mut self, $m: $message, _: &mut Self::Context) -> Self::Result {
                let $vm = self;
                MessageResult($body)
            }
        })*
    };
}

answers! {
    Stop, |vm, _| {
        if vm.state == RunState::Running {
            vm.state = RunState::Paused;
            vm.tell(VmEvent::Stop);
        }
        Ok(())
    };
    Cont, |vm, _| {
        match vm.state {
            RunState::Shutdown => Err(VmError("Resetting the Virtual Machine is required".into())),
            RunState::Running => Ok(()),
            _ => {
                vm.state = RunState::Running;
                vm.tell(VmEvent::Resume);
                Ok(())
            }
        }
    };
    RequestReset, |vm, RequestReset { cause }| {
        if vm.state != RunState::Running {
            vm.state = RunState::Prelaunch;
        }
        vm.tell(VmEvent::Reset { cause });
        Ok(())
    };
    RequestPowerdown, |vm, _| {
        vm.tell(VmEvent::Powerdown);
        Ok(())
    };
    RequestShutdown, |vm, RequestShutdown { cause, .. }| {
        vm.shutdowns.push(cause);
        vm.tell(VmEvent::Shutdown { cause });
        Ok(())
    };
    SetAction, |vm, action| {
        vm.actions.push(action);
        Ok(())
    };
    QueryCpus, |_vm, _| {
        Ok((0..2)
            .map(|index| CpuInfo {
                index,
                thread_id: 100 + index,
                socket_id: 0,
                core_id: index,
                thread_in_core: 0,
            })
            .collect())
    };
    QueryHart, |vm, QueryHart { cpu }| {
        let _ = cpu;
        Ok(HartSnapshot {
            state: Box::new(vm.hart.clone()),
            mip: 0x80,
            isa: Arc::new(IsaConfig::rv64()),
            jit: vec![("blocks".into(), 7)],
        })
    };
    ReadMemory, |vm, ReadMemory { addr, len, .. }| {
        let start = addr.checked_sub(RAM_BASE).map(|start| start as usize);
        let bytes = start.and_then(|start| vm.ram.get(start..start.checked_add(len as usize)?));
        bytes.map(<[u8]>::to_vec).ok_or(VmError("no memory here".into()))
    };
    QueryTree, |vm, _| Ok(Arc::clone(&vm.tree));
    TranslateVirtual, |_vm, TranslateVirtual { addr, .. }| {
        Ok((addr < 0x1000).then_some(addr).or((addr >= RAM_BASE).then(|| addr - RAM_BASE)))
    };
    SetOneInsnPerTb, |_vm, _| Err(VmError("not here".into()));
    LocateMemory, |_vm, LocateMemory { addr }| Ok(match addr {
        0 => MemoryPlace::Nowhere,
        1..RAM_BASE => MemoryPlace::NotRam,
        _ => MemoryPlace::Ram { region: "ram".into(), host: addr + 0x10 },
    });
    SubscribeEvents, |vm, SubscribeEvents(listener)| vm.listeners.push(listener);
}

/// A back end whose peer is the test.
#[derive(Debug)]
pub struct MockChardev {
    front: Option<Attach>,
    credit: usize,
    typed: Vec<u8>,
    written: mpsc::UnboundedSender<Vec<u8>>,
    /// The peer does not read: outputs are not acknowledged.
    stuck: bool,
    unacknowledged: usize,
}

impl Actor for MockChardev {
    type Context = Context<Self>;
}

impl MockChardev {
    fn feed(&mut self) {
        let Some(front) = &self.front else { return };
        let n = self.typed.len().min(self.credit);
        if n > 0 {
            self.credit -= n;
            front.input.do_send(CharInput(self.typed.drain(..n).collect()));
        }
    }
}

impl Handler<Attach> for MockChardev {
    type Result = ();
    fn handle(&mut self, attach: Attach, _: &mut Self::Context) {
        self.front = Some(attach);
    }
}

impl Handler<CharCredit> for MockChardev {
    type Result = ();
    fn handle(&mut self, credit: CharCredit, _: &mut Self::Context) {
        self.credit += credit.0;
        self.feed();
    }
}

impl Handler<CharOutput> for MockChardev {
    type Result = ();
    fn handle(&mut self, output: CharOutput, _: &mut Self::Context) {
        assert_eq!(self.unacknowledged, 0, "one output at a time");
        let n = output.0.len();
        self.written.send(output.0).unwrap();
        match &self.front {
            Some(front) if !self.stuck => front.written.do_send(CharWritten(n)),
            _ => self.unacknowledged = n,
        }
    }
}

#[derive(Debug, Message)]
#[rtype(result = "usize")]
enum Client {
    Type(Vec<u8>),
    Event(CharEvent),
    Stuck(bool),
    /// Bytes that the session has not taken.
    Waiting,
}

impl Handler<Client> for MockChardev {
    type Result = usize;
    fn handle(&mut self, client: Client, _: &mut Self::Context) -> usize {
        match client {
            Client::Type(bytes) => {
                self.typed.extend(bytes);
                self.feed();
            }
            Client::Event(event) => self.front.as_ref().unwrap().event.do_send(event),
            Client::Stuck(stuck) => {
                self.stuck = stuck;
                if !stuck && self.unacknowledged > 0 {
                    let n = std::mem::take(&mut self.unacknowledged);
                    self.front.as_ref().unwrap().written.do_send(CharWritten(n));
                }
            }
            Client::Waiting => {}
        }
        self.typed.len()
    }
}

/// The test's end of a session.
pub struct Terminal {
    chardev: Addr<MockChardev>,
    written: mpsc::UnboundedReceiver<Vec<u8>>,
    buffer: Vec<u8>,
}

impl Terminal {
    /// A back end and the test's end of it.
    pub fn new() -> (CharBackend, Self) {
        let (sender, written) = mpsc::unbounded_channel();
        let chardev = MockChardev {
            front: None,
            credit: 0,
            typed: Vec::new(),
            written: sender,
            stuck: false,
            unacknowledged: 0,
        }
        .start();
        let backend = CharBackend {
            attach: chardev.clone().recipient(),
            output: chardev.clone().recipient(),
            credit: chardev.clone().recipient(),
            place: Place::default(),
        };
        (backend, Self { chardev, written, buffer: Vec::new() })
    }

    pub async fn event(&self, event: CharEvent) {
        // The session attaches in its first poll.
        tokio::time::sleep(Duration::from_millis(5)).await;
        self.chardev.send(Client::Event(event)).await.unwrap();
    }

    pub async fn type_bytes(&self, bytes: &[u8]) {
        self.chardev.send(Client::Type(bytes.to_vec())).await.unwrap();
    }

    pub async fn stuck(&self, stuck: bool) {
        self.chardev.send(Client::Stuck(stuck)).await.unwrap();
    }

    /// Bytes typed that the session has given no credit for, once that has settled.
    pub async fn waiting(&self) -> usize {
        tokio::time::sleep(SILENCE).await;
        self.chardev.send(Client::Waiting).await.unwrap()
    }

    /// The next line of output, without its `\r\n`.
    pub async fn line(&mut self) -> String {
        loop {
            if let Some(end) = self.buffer.windows(2).position(|pair| pair == b"\r\n") {
                let rest = self.buffer.split_off(end + 2);
                let mut line = std::mem::replace(&mut self.buffer, rest);
                line.truncate(end);
                return String::from_utf8(line).unwrap();
            }
            let more = tokio::time::timeout(PATIENCE, self.written.recv()).await;
            self.buffer.extend(more.expect("a line of output").unwrap());
        }
    }

    /// Output up to and with `end`.
    pub async fn until(&mut self, end: &str) -> String {
        loop {
            if let Some(at) = self.buffer.windows(end.len()).position(|w| w == end.as_bytes()) {
                let rest = self.buffer.split_off(at + end.len());
                return String::from_utf8(std::mem::replace(&mut self.buffer, rest)).unwrap();
            }
            let more = tokio::time::timeout(PATIENCE, self.written.recv()).await;
            let seen = String::from_utf8_lossy(&self.buffer).into_owned();
            self.buffer.extend(more.unwrap_or_else(|_| panic!("{end:?} in {seen:?}")).unwrap());
        }
    }

    /// Whatever has come already.
    pub fn written_so_far(&mut self) -> Vec<u8> {
        while let Ok(more) = self.written.try_recv() {
            self.buffer.extend(more);
        }
        std::mem::take(&mut self.buffer)
    }

    /// Whatever comes within a short while.
    pub async fn rest(&mut self) -> Vec<u8> {
        while let Ok(Some(more)) = tokio::time::timeout(SILENCE, self.written.recv()).await {
            self.buffer.extend(more);
        }
        std::mem::take(&mut self.buffer)
    }
}

/// What the tests' machine is.
pub fn info() -> MachineInfo {
    MachineInfo {
        machines: vec![MachineType {
            hotpluggable_cpus: false,
            name: "virt".into(),
            numa_mem_supported: false,
            default_cpu_type: Some("rv64-riscv-cpu".into()),
            acpi: false,
            cpu_max: 512,
            deprecated: false,
            default_ram_id: Some("riscv_virt_board.ram".into()),
            is_default: Some(true),
            compat_props: None,
        }],
        ..Default::default()
    }
}

/// A monitor over a mocked machine.
pub fn monitor(vm: MockVm) -> (Addr<MockVm>, Addr<Monitor>) {
    monitor_with(vm, info())
}

/// A monitor over a mocked machine that is this.
pub fn monitor_with(vm: MockVm, info: MachineInfo) -> (Addr<MockVm>, Addr<Monitor>) {
    let vm = vm.start();
    let link = MachineLink::to(&vm, Outlet::Unconnected);
    (vm, Monitor::start_bounded(link, info, Duration::from_millis(200)))
}

/// `\xNN` in a transcript is a byte; JSON has no such escape.
pub fn bytes_of(line: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = line;
    while let Some(at) = rest.find("\\x") {
        out.extend_from_slice(&rest.as_bytes()[..at]);
        out.push(u8::from_str_radix(&rest[at + 2..at + 4], 16).unwrap());
        rest = &rest[at + 4..];
    }
    out.extend_from_slice(rest.as_bytes());
    out
}

/// A command and its reply, or the sentence of its error.
pub async fn qmp(monitor: &Addr<Monitor>, command: &str, arguments: Value) -> String {
    let Value::Object(arguments) = arguments else { panic!("{arguments}") };
    let command = command.to_owned();
    let request = Execute { command, arguments, out_of_band: false, passed: Default::default() };
    match monitor.send(request).await.unwrap() {
        Ok(reply) => reply.to_string(),
        Err(error) => error.desc,
    }
}

/// What a line prints.
pub async fn hmp(monitor: &Addr<Monitor>, line: &str) -> String {
    let state = Default::default();
    let request = ExecuteHuman { line: line.into(), state, passed: Default::default() };
    monitor.send(request).await.unwrap().text
}
