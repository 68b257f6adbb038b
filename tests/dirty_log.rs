//! No write is lost between the dirty log and the copy: harts under translated code, a hart under
//! the interpreter and a device write to random pages while a collector keeps a copy up to date.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use dynasmrt::riscv::RiscvRelocation;
use dynasmrt::{DynasmApi, DynasmLabelApi, VecAssembler, dynasm};
use understudy::actors::outlet::Outlet;
use understudy::cpu::hart::{Hart, HartEnv};
use understudy::cpu::inbox::{HartInbox, Peers};
use understudy::cpu::isa::IsaConfig;
use understudy::cpu::{interpret, trap};
use understudy::devices::bus::Bus;
use understudy::jit::engine::{Engine, Exit};
use understudy::machine::clock::VirtualClock;
use understudy::machine::dirty_log::DirtyLog;
use understudy::machine::memory::{GuestRam, PAGE_SIZE, RAM_BASE};

const PAGES: u64 = 512;
/// What the writers write to; the program is before it.
const DATA: u64 = RAM_BASE + PAGES / 2 * PAGE_SIZE;
const DATA_BYTES: u64 = PAGES / 2 * PAGE_SIZE;
/// Where the device writes, too, and the stores that always take the slow path; not everywhere,
/// or their marks would make up for the others'.
const DEVICE_BYTES: u64 = 16 * PAGE_SIZE;
const BREAKPOINT: u64 = 3;

/// Writes at random places by every kind of store there is, a2 times round, with the seed in a1:
/// to a0 plus what the mask a3 leaves, and across the page's end at a4.
fn program() -> Vec<u8> {
    let mut ops = VecAssembler::<RiscvRelocation>::new(RAM_BASE as usize);
    dynasm!(ops
        ; .arch riscv64i
        ; .feature gc
        ; again:
    );
    let random = |ops: &mut VecAssembler<RiscvRelocation>| {
        dynasm!(ops
            ; .arch riscv64i
            ; slli t0, a1, 13
            ; xor a1, a1, t0
            ; srli t0, a1, 7
            ; xor a1, a1, t0
            ; slli t0, a1, 17
            ; xor a1, a1, t0
            ; and t0, a1, a3
            ; add t0, t0, a0
        );
    };
    random(&mut ops);
    dynasm!(ops ; .arch riscv64i ; sd a1, [t0, 0] ; sb a1, [t0, 8] ; sh a1, [t0, 20]);
    random(&mut ops);
    dynasm!(ops ; .arch riscv64i ; .feature gc ; amoadd.d t1, a1, [t0]);
    random(&mut ops);
    dynasm!(ops ; .arch riscv64i ; .feature gc ; lr.d t1, [t0] ; sc.d t2, a1, [t0]);
    random(&mut ops);
    dynasm!(ops ; .arch riscv64i ; .feature gc ; fcvt.d.l fa0, a1 ; fsd fa0, [t0, 0]);
    random(&mut ops);
    // cbo.zero 0(t0), and a store across a page's end.
    dynasm!(ops
        ; .arch riscv64i
        ; .feature gc
        ; .u32 0x0042_a00f
        ; sd a1, [a4, -4]
        ; addi a2, a2, -1
        ; bnez a2, <again
        ; ebreak
    );
    ops.finalize().unwrap()
}

fn hart(ram: &Arc<GuestRam>, peers: &Peers, number: usize) -> Hart {
    let mut hart = Hart::new(HartEnv {
        hartid: number as u64,
        isa: Arc::new(IsaConfig::max()),
        ram: Arc::clone(ram),
        bus: Arc::new(Bus::default()),
        irq: Arc::clone(&peers.0[number].irq),
        clock: Arc::new(VirtualClock::default()),
        inbox: Arc::clone(&peers.0[number].inbox),
        peers: peers.clone(),
        stimer: Outlet::Unconnected,
        random: Default::default(),
    });
    trap::reset(&mut hart, RAM_BASE);
    hart.state.mstatus |= 3 << 13;
    hart.context_changed();
    hart
}

/// Says that its hart no longer runs, also when it panicked.
struct InGuest(Arc<HartInbox>);

impl Drop for InGuest {
    fn drop(&mut self) {
        self.0.set_in_guest(false);
    }
}

/// Run `hart` as its vCPU does, until the program ends.
fn run(hart: &mut Hart, engine: &mut Option<Engine>) {
    let inbox = Arc::clone(&hart.env.inbox);
    let _in_guest = InGuest(Arc::clone(&inbox));
    loop {
        inbox.set_in_guest(true);
        hart.drain_inbox();
        let end = match engine {
            Some(engine) => match engine.run(hart) {
                Exit::Trap(trap) => Some(trap),
                Exit::Polled => None,
            },
            None => interpret::step(hart).err(),
        };
        hart.env.irq.take_kick();
        if let Some(trap) = end {
            assert_eq!(trap.cause, BREAKPOINT, "{trap:x?} at {:#x}", hart.state.pc);
            return;
        }
    }
}

fn copy(ram: &GuestRam, mirror: &mut [u8], pages: std::ops::Range<u64>) {
    let (from, to) = (pages.start * PAGE_SIZE, pages.end * PAGE_SIZE);
    ram.read(RAM_BASE + from, &mut mirror[from as usize..to as usize]).unwrap();
}

#[test]
fn a_collector_that_copies_what_it_is_told_of_has_every_write() {
    const ROUNDS: [u64; 3] = [400_000, 400_000, 3_000];
    let ram = Arc::new(GuestRam::new(RAM_BASE, PAGES * PAGE_SIZE).unwrap());
    let peers = Peers::new(ROUNDS.len());
    ram.observe_code(Arc::new(peers.clone()));
    ram.write(RAM_BASE, &program()).unwrap();
    let collected = AtomicBool::new(false);
    let mut mirror = vec![0; (PAGES * PAGE_SIZE) as usize];
    std::thread::scope(|scope| {
        let mut writers = Vec::new();
        for (number, rounds) in ROUNDS.into_iter().enumerate() {
            let (ram, peers) = (&ram, &peers);
            writers.push(scope.spawn(move || {
                let mut hart = hart(ram, peers, number);
                let mut engine = (number != 2).then(|| Engine::new(1 << 20).unwrap());
                let seed = 0x1234_5678_9abc_def1 + number as u64;
                let arguments = [DATA, seed, rounds, (DATA_BYTES - 1) & !63, DATA + DEVICE_BYTES];
                hart.state.x[10..15].copy_from_slice(&arguments);
                run(&mut hart, &mut engine);
            }));
        }
        let device = scope.spawn(|| {
            let mut at = 1u64;
            while !collected.load(Ordering::SeqCst) {
                at = at.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let place = DATA + (at >> 33) % DEVICE_BYTES;
                ram.fill(place, 5000, at as u8).unwrap();
                std::thread::yield_now();
            }
        });
        let log = DirtyLog::start(Arc::clone(&ram), peers.clone()).unwrap();
        copy(&ram, &mut mirror, 0..PAGES);
        let mut syncs = 0;
        while !writers.iter().all(|w| w.is_finished()) {
            let half = if syncs % 2 == 0 { 0..PAGES * 3 / 4 } else { PAGES / 2..PAGES };
            log.take(half, &mut |pages| copy(&ram, &mut mirror, pages));
            syncs += 1;
        }
        assert!(syncs > 3, "the writers ended before they were watched");
        collected.store(true, Ordering::SeqCst);
        device.join().unwrap();
        log.take(0..PAGES, &mut |pages| copy(&ram, &mut mirror, pages));
    });
    let mut now = vec![0; mirror.len()];
    copy(&ram, &mut now, 0..PAGES);
    let page = PAGE_SIZE as usize;
    let stale: Vec<usize> = (0..PAGES as usize)
        .filter(|p| now[p * page..][..page] != mirror[p * page..][..page])
        .collect();
    assert_eq!(stale, [0; 0], "pages whose last writes the copy lacks");
}
