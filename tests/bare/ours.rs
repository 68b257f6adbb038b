//! The cases on the reference interpreter.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use understudy::actors::message::MmioFault;
use understudy::actors::outlet::Outlet;
use understudy::cpu::hart::{Hart, HartEnv};
use understudy::cpu::inbox::Peers;
use understudy::cpu::irq::MTIP;
use understudy::cpu::isa::IsaConfig;
use understudy::cpu::{interpret, trap};
use understudy::devices::bus::{Bus, MmioTarget, Region};
use understudy::machine::clock::VirtualClock;
use understudy::machine::memory::GuestRam;

use crate::guest::{self, BASE, DONE, MEMORY, Outcome, UART};

/// A UART that notices the end of the program.
struct EndOfProgram(Arc<AtomicBool>);

impl MmioTarget for EndOfProgram {
    fn read(&self, _offset: u64, _width: u8) -> Result<u64, MmioFault> {
        Ok(0)
    }

    fn write(&self, _offset: u64, _width: u8, value: u64) -> Result<(), MmioFault> {
        self.0.fetch_or(value as u8 == DONE, Ordering::Relaxed);
        Ok(())
    }
}

/// Outcomes of `count` cases in `image`.
pub fn run(cpu: &str, image: &[u8], count: usize) -> Vec<Outcome> {
    let (_, isa) = IsaConfig::from_cpu_option(cpu).expect("a valid -cpu option");
    let ram = Arc::new(GuestRam::new(BASE, MEMORY).expect("guest memory"));
    ram.write(BASE, image).expect("the image fits");
    let done = Arc::new(AtomicBool::new(false));
    let uart = Region {
        name: "uart".into(),
        range: UART..UART + 8,
        target: Box::new(EndOfProgram(done.clone())),
    };
    let peers = Peers::new(1);
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
    });
    trap::reset(&mut hart, BASE);
    // `mtimecmp` is zero at reset.
    hart.env.irq.set_lines(MTIP, true);
    let most = 1000 * count + 1000;
    for _ in 0..most {
        if done.load(Ordering::Relaxed) {
            let (address, len) = guest::results_range(count);
            let mut bytes = vec![0; len];
            ram.read(address, &mut bytes).expect("results are in memory");
            return guest::outcomes(&bytes);
        }
        let event = trap::pending_interrupt(&hart).map_or_else(|| interpret::step(&mut hart), Err);
        if let Err(trap) = event {
            trap::take(&mut hart, trap);
        }
    }
    panic!("the program does not end; pc is {:#x}", hart.state.pc);
}
