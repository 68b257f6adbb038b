//! The cases on the reference interpreter and on the translator.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use understudy::actors::message::MmioFault;
use understudy::actors::outlet::Outlet;
use understudy::cpu::hart::{Hart, HartEnv};
use understudy::cpu::inbox::Peers;
use understudy::cpu::irq::{HartIrq, MTIP};
use understudy::cpu::isa::IsaConfig;
use understudy::cpu::{interpret, trap};
use understudy::devices::bus::{Bus, MmioTarget, Region};
use understudy::jit::engine::{Engine, Exit, default_cache};
use understudy::machine::clock::VirtualClock;
use understudy::machine::memory::GuestRam;

use crate::guest::{self, BASE, DONE, MEMORY, Outcome, UART};

/// A UART that notices the end of the program.
struct EndOfProgram {
    done: Arc<AtomicBool>,
    irq: Arc<HartIrq>,
}

impl MmioTarget for EndOfProgram {
    fn read(&self, _offset: u64, _width: u8) -> Result<u64, MmioFault> {
        Ok(0)
    }

    fn write(&self, _offset: u64, _width: u8, value: u64) -> Result<(), MmioFault> {
        if value as u8 == DONE {
            self.done.store(true, Ordering::Relaxed);
            self.irq.request_exit();
        }
        Ok(())
    }
}

/// What runs the cases.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Runner {
    Interpreter,
    Translator,
}

/// Outcomes of `count` cases in `image`.
pub fn run(runner: Runner, cpu: &str, image: &[u8], count: usize) -> Vec<Outcome> {
    let (_, isa) = IsaConfig::from_cpu_option(cpu).expect("a valid -cpu option");
    let ram = Arc::new(GuestRam::new(BASE, MEMORY).expect("guest memory"));
    ram.write(BASE, image).expect("the image fits");
    let done = Arc::new(AtomicBool::new(false));
    let peers = Peers::new(1);
    let uart = Region {
        name: "uart".into(),
        range: UART..UART + 8,
        target: Box::new(EndOfProgram { done: done.clone(), irq: peers.0[0].irq.clone() }),
    };
    let clock = Arc::new(VirtualClock::default());
    clock.start();
    let mut hart = Hart::new(HartEnv {
        hartid: 0,
        isa: Arc::new(isa),
        ram: ram.clone(),
        bus: Arc::new(Bus::new(vec![uart])),
        irq: peers.0[0].irq.clone(),
        clock,
        inbox: peers.0[0].inbox.clone(),
        peers,
        stimer: Outlet::Unconnected,
        random: Default::default(),
    });
    trap::reset(&mut hart, BASE);
    // `mtimecmp` is zero at reset.
    hart.env.irq.set_lines(MTIP, true);
    let mut engine = (runner == Runner::Translator)
        .then(|| Engine::new(default_cache(1)).expect("a host that can run translated code"));
    ram.observe_code(Arc::new(hart.env.peers.clone()));
    let most = 1000 * count + 1000;
    for _ in 0..most {
        if done.load(Ordering::Relaxed) {
            let (address, len) = guest::results_range(count);
            let mut bytes = vec![0; len];
            ram.read(address, &mut bytes).expect("results are in memory");
            return guest::outcomes(&bytes);
        }
        hart.env.irq.take_kick();
        hart.drain_inbox();
        let event = match (trap::pending_interrupt(&hart), &mut engine) {
            (Some(interrupt), _) => Err(interrupt),
            (None, None) => interpret::step(&mut hart),
            (None, Some(engine)) => match engine.run(&mut hart) {
                Exit::Polled => Ok(()),
                Exit::Trap(trap) => Err(trap),
            },
        };
        if let Err(trap) = event {
            trap::take(&mut hart, trap);
        }
    }
    panic!("the program does not end; pc is {:#x}", hart.state.pc);
}
