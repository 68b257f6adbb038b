//! The vCPU on its own thread with mocked peers: pause, resume, reset, kick, and how it dies.

use std::time::Duration;

use super::*;
use crate::actors::message::{LoadState, SaveState};
use crate::actors::probe::Probe;
use crate::cpu::inbox::Peers;
use crate::cpu::irq::MSIP;
use crate::cpu::isa::IsaConfig;
use crate::cpu::vmstate::{CommonState, CpuState};
use crate::devices::bus::{Bus, MmioTarget, Region};
use crate::machine::clock::VirtualClock;
use crate::machine::memory::{GuestRam, RAM_BASE};
use crate::migration::vmstate::VmState;

/// A device that panics when it is read.
struct Bomb;

impl MmioTarget for Bomb {
    fn read(&self, _: u64, _: u8) -> Result<u64, crate::actors::message::MmioFault> {
        panic!("bomb")
    }
    fn write(&self, _: u64, _: u8, _: u64) -> Result<(), crate::actors::message::MmioFault> {
        Ok(())
    }
}

const BOMB: u64 = 0x1000_0000;

struct Bench {
    vcpu: VcpuThread,
    env: HartEnv,
    failure: Probe<ActorFailed>,
}

/// A vCPU that starts at `program` in M-mode.
async fn bench(accel: Accel, program: &[u32]) -> Bench {
    let peers = Peers::new(1);
    let bomb = Region { name: "bomb".into(), range: BOMB..BOMB + 8, target: Box::new(Bomb) };
    let env = HartEnv {
        hartid: 0,
        isa: Arc::new(IsaConfig::max()),
        ram: Arc::new(GuestRam::new(RAM_BASE, 1 << 20).unwrap()),
        bus: Arc::new(Bus::new(vec![bomb])),
        irq: Arc::clone(&peers.0[0].irq),
        clock: Arc::new(VirtualClock::default()),
        inbox: Arc::clone(&peers.0[0].inbox),
        peers,
        stimer: Outlet::Unconnected,
        random: Default::default(),
    };
    env.ram.observe_code(Arc::new(env.peers.clone()));
    for (i, word) in program.iter().enumerate() {
        env.ram.store_u32(RAM_BASE + 4 * i as u64, *word).unwrap();
    }
    let failure = Probe::new();
    let vcpu = Vcpu::start(VcpuParts {
        env: env.clone(),
        accel,
        start_line: StartLine::new(1),
        firmware: None,
        failure: failure.outlet(),
    })
    .unwrap();
    let start = HartStart::Machine { pc: RAM_BASE };
    vcpu.addr.send(ResetHart { start }).await.unwrap();
    Bench { vcpu, env, failure }
}

impl Bench {
    async fn x(&self, register: usize) -> u64 {
        self.vcpu.addr.send(SnapshotHart).await.unwrap().state.x[register]
    }

    /// Wait until register `x` is not `old`; what it is then.
    async fn changed(&self, register: usize, old: u64) -> u64 {
        for _ in 0..2000 {
            let now = self.x(register).await;
            if now != old {
                return now;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        panic!("x{register} is still {old:#x}");
    }

    async fn end(self) {
        self.vcpu.addr.send(Terminate).await.unwrap();
        self.vcpu.thread.join().unwrap();
    }
}

const BOTH: [Accel; 2] = [Accel::Jit { cache: 1 << 20, one_insn: false }, Accel::Interp];
/// `addi x5, x5, 1; j -4`
const COUNT: [u32; 2] = [0x0012_8293, 0xffdf_f06f];

#[actix::test]
async fn a_vcpu_runs_only_between_resume_and_pause() {
    for accel in BOTH {
        let b = bench(accel, &COUNT).await;
        assert_eq!(b.x(5).await, 0);
        b.vcpu.addr.send(Resume).await.unwrap();
        b.changed(5, 0).await;
        b.vcpu.addr.send(Pause).await.unwrap();
        let stopped = b.x(5).await;
        tokio::time::sleep(Duration::from_millis(5)).await;
        assert_eq!(b.x(5).await, stopped, "{accel:?}");
        b.vcpu.addr.send(Resume).await.unwrap();
        b.changed(5, stopped).await;
        b.end().await;
    }
}

#[actix::test]
async fn a_vcpu_that_rests_runs_nothing_until_it_has_rested() {
    for accel in BOTH {
        let b = bench(accel, &COUNT).await;
        b.vcpu.addr.send(Resume).await.unwrap();
        b.changed(5, 0).await;
        b.vcpu.addr.send(TakeRest { time: Duration::from_secs(3600) }).await.unwrap();
        let stopped = b.x(5).await;
        tokio::time::sleep(Duration::from_millis(5)).await;
        assert_eq!(b.x(5).await, stopped, "{accel:?}");
        b.vcpu.addr.send(TakeRest { time: Duration::from_millis(1) }).await.unwrap();
        b.changed(5, stopped).await;
        b.end().await;
    }
}

#[actix::test]
async fn a_reset_hart_starts_over() {
    for accel in BOTH {
        let b = bench(accel, &COUNT).await;
        b.vcpu.addr.send(Resume).await.unwrap();
        b.changed(5, 0).await;
        b.vcpu.addr.send(Pause).await.unwrap();
        let start = HartStart::Machine { pc: RAM_BASE + 4 };
        b.vcpu.addr.send(ResetHart { start }).await.unwrap();
        let snapshot = b.vcpu.addr.send(SnapshotHart).await.unwrap();
        assert_eq!((snapshot.state.x[5], snapshot.state.pc), (0, RAM_BASE + 4));
        b.end().await;
    }
}

#[actix::test]
async fn an_interrupt_wakes_a_waiting_hart() {
    // csrwi mie, 8; wfi; addi x5, x5, 1; j .
    let program = [0x3044_5073, 0x1050_0073, 0x0012_8293, 0x0000_006f];
    for accel in BOTH {
        let b = bench(accel, &program).await;
        b.vcpu.addr.send(Resume).await.unwrap();
        for _ in 0..2000 {
            if b.vcpu.addr.send(SnapshotHart).await.unwrap().state.waiting {
                break;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert_eq!(b.x(5).await, 0);
        b.env.irq.set_lines(MSIP, true);
        assert_eq!(b.changed(5, 0).await, 1);
        b.end().await;
    }
}

#[actix::test]
async fn a_panic_under_a_vcpu_is_reported_and_its_mailbox_closes() {
    // lui x6, 0x10000; lw x5, 0(x6)
    let program = [0x1000_0337, 0x0003_2283];
    for accel in BOTH {
        let b = bench(accel, &program).await;
        b.vcpu.addr.do_send(Resume);
        let failed = b.failure.expect_within(Duration::from_secs(5));
        assert_eq!((&*failed.name, failed.reason.as_str()), ("CPU 0", "bomb"), "{accel:?}");
        b.vcpu.thread.join().unwrap();
        assert!(b.vcpu.addr.send(SnapshotHart).await.is_err());
    }
}

/// Have `to` go on where `from` is; both are paused.
async fn move_hart(from: &Bench, to: &Bench) {
    for vmsd in [CommonState::VMSD, CpuState::VMSD] {
        let (name, version) = (vmsd.name, vmsd.version);
        let section = from.vcpu.addr.send(SaveState { name }).await.unwrap().unwrap();
        let length = section.bytes.len();
        let mut bytes = section.bytes;
        // Half of it changes nothing.
        let before = to.vcpu.addr.send(SaveState { name }).await.unwrap().unwrap();
        let half = LoadState { name, version, bytes: bytes[..length / 2].to_vec() };
        assert!(to.vcpu.addr.send(half).await.unwrap().unwrap_err().is_truncated());
        let after = to.vcpu.addr.send(SaveState { name }).await.unwrap().unwrap();
        assert_eq!(after.bytes, before.bytes);
        bytes.push(0x7e);
        let taken = to.vcpu.addr.send(LoadState { name, version, bytes }).await.unwrap();
        assert_eq!(taken, Ok(length));
    }
}

#[actix::test]
async fn a_hart_goes_on_in_another_vcpu() {
    for (from, to) in [(0, 1), (1, 0)] {
        let from = bench(BOTH[from], &COUNT).await;
        from.vcpu.addr.send(Resume).await.unwrap();
        from.changed(5, 0).await;
        from.vcpu.addr.send(Pause).await.unwrap();
        let to = bench(BOTH[to], &COUNT).await;
        move_hart(&from, &to).await;
        let state = |b: &Bench| b.vcpu.addr.send(SnapshotHart);
        let [a, b] = [state(&from).await.unwrap().state, state(&to).await.unwrap().state];
        assert_eq!((a.x, a.pc, a.privilege), (b.x, b.pc, b.privilege));
        to.vcpu.addr.send(Resume).await.unwrap();
        assert!(to.changed(5, a.x[5]).await > a.x[5]);
        assert_eq!(from.x(5).await, a.x[5]);
        from.end().await;
        to.end().await;
    }
}

#[actix::test]
async fn a_waiting_hart_waits_in_another_vcpu() {
    // csrwi mie, 8; wfi; addi x5, x5, 1; j .
    let program = [0x3044_5073, 0x1050_0073, 0x0012_8293, 0x0000_006f];
    for accel in BOTH {
        let from = bench(accel, &program).await;
        from.vcpu.addr.send(Resume).await.unwrap();
        while !from.vcpu.addr.send(SnapshotHart).await.unwrap().state.waiting {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        from.vcpu.addr.send(Pause).await.unwrap();
        let to = bench(accel, &program).await;
        move_hart(&from, &to).await;
        to.vcpu.addr.send(Resume).await.unwrap();
        assert_eq!(to.x(5).await, 0);
        assert!(to.vcpu.addr.send(SnapshotHart).await.unwrap().state.waiting);
        to.env.irq.set_lines(MSIP, true);
        assert_eq!(to.changed(5, 0).await, 1);
        from.end().await;
        to.end().await;
    }
}
