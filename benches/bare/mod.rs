//! A hart that runs bare-metal M-mode programs by translated code, without a machine around it.

use std::sync::Arc;

use dynasmrt::VecAssembler;
use dynasmrt::riscv::RiscvRelocation;
use understudy::actors::outlet::Outlet;
use understudy::cpu::hart::{Hart, HartEnv};
use understudy::cpu::inbox::Peers;
use understudy::cpu::isa::IsaConfig;
use understudy::cpu::trap;
use understudy::devices::bus::Bus;
use understudy::jit::engine::{Engine, Exit};
use understudy::machine::clock::VirtualClock;
use understudy::machine::memory::{GuestRam, RAM_BASE};

/// RAM in bytes: the program at its start, then what the program takes.
pub const RAM: u64 = 256 << 20;
/// The cause of the `ebreak` that ends a program.
const BREAKPOINT: u64 = 3;

/// `asm!(assembler ; instructions)`.
macro_rules! asm {
    ($ops:expr ; $($code:tt)*) => {
        dynasmrt::dynasm!($ops ; .arch riscv64i ; .feature gc ; $($code)*)
    };
}
pub(crate) use asm;

/// A hart with a program.
pub struct Bare {
    pub hart: Hart,
    pub engine: Engine,
}

impl Bare {
    /// A hart whose program is what `write` assembles; it must end in `ebreak`.
    pub fn new(write: impl FnOnce(&mut VecAssembler<RiscvRelocation>)) -> Self {
        let mut ops = VecAssembler::new(RAM_BASE as usize);
        write(&mut ops);
        let program = ops.finalize().expect("the program's labels are defined");
        let peers = Peers::new(1);
        let env = HartEnv {
            hartid: 0,
            isa: Arc::new(IsaConfig::max()),
            ram: Arc::new(GuestRam::new(RAM_BASE, RAM).expect("memory is lazily backed")),
            bus: Arc::new(Bus::default()),
            irq: Arc::clone(&peers.0[0].irq),
            clock: Arc::new(VirtualClock::default()),
            inbox: Arc::clone(&peers.0[0].inbox),
            peers,
            stimer: Outlet::Unconnected,
            random: Default::default(),
        };
        env.ram.observe_code(Arc::new(env.peers.clone()));
        env.ram.write(RAM_BASE, &program).expect("the program fits");
        let mut hart = Hart::new(env);
        trap::reset(&mut hart, RAM_BASE);
        // mstatus.FS: floating point is on.
        hart.state.mstatus |= 3 << 13;
        hart.context_changed();
        let engine = Engine::new(8 << 20).expect("this host has a translator");
        Self { hart, engine }
    }

    /// Run the program from its start with `arguments` in a0 and up; a0 at its end.
    pub fn run(&mut self, arguments: &[u64]) -> u64 {
        self.hart.state.pc = RAM_BASE;
        self.hart.state.x[10..10 + arguments.len()].copy_from_slice(arguments);
        loop {
            match self.engine.run(&mut self.hart) {
                Exit::Trap(trap) if trap.cause == BREAKPOINT => return self.hart.state.x[10],
                Exit::Trap(trap) => panic!("{trap:x?} at {:#x}", self.hart.state.pc),
                Exit::Polled => {
                    self.hart.env.irq.take_kick();
                }
            }
        }
    }
}
