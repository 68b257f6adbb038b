//! Life cycle with mocked vCPUs and devices.

use parking_lot::Mutex;

use super::*;
use crate::actors::probe::Probe;
use crate::block::message::{Activate, Inactivate};
use crate::machine::memory::RAM_BASE;

struct Mocks {
    pause: Probe<Pause>,
    resume: Probe<Resume>,
    reset: Probe<ResetHart>,
    device_reset: Probe<Reset>,
    events: Probe<VmEvent>,
    exit: Probe<Exited>,
    clock: Arc<VirtualClock>,
    reset_asked: Arc<AtomicBool>,
    /// What the second of two drives says when it is to be taken; and the calls of both.
    lock: Arc<Mutex<Result<(), String>>>,
    drives: Arc<Mutex<Vec<&'static str>>>,
}

impl Mocks {
    fn drive(&self, [take, leave]: [&'static str; 2], locked: bool) -> Ownership {
        let (lock, calls) = (Arc::clone(&self.lock), Arc::clone(&self.drives));
        let activate = Probe::answering(move |_: &Activate| {
            calls.lock().push(take);
            if locked { lock.lock().clone() } else { Ok(()) }
        });
        let calls = Arc::clone(&self.drives);
        let inactivate = Probe::answering(move |_: &Inactivate| {
            calls.lock().push(leave);
            Ok(())
        });
        Ownership { inactivate: inactivate.recipient(), activate: activate.recipient() }
    }

    fn calls(&self) -> Vec<&'static str> {
        std::mem::take(&mut *self.drives.lock())
    }
}

struct OneHart;

impl Boot for OneHart {
    fn install(&mut self) -> Result<Vec<HartStart>, VmError> {
        Ok(vec![HartStart::Machine { pc: 0x1000 }])
    }
}

fn vm(reboot: RebootAction, shutdown: ShutdownAction) -> (Addr<Vm>, Mocks) {
    let mocks = Mocks {
        pause: Probe::new(),
        resume: Probe::new(),
        reset: Probe::new(),
        device_reset: Probe::new(),
        events: Probe::new(),
        exit: Probe::new(),
        clock: Arc::default(),
        reset_asked: Arc::default(),
        lock: Arc::new(Mutex::new(Ok(()))),
        drives: Arc::default(),
    };
    let vcpu = VcpuLink {
        pause: mocks.pause.recipient(),
        resume: mocks.resume.recipient(),
        reset: mocks.reset.recipient(),
        snapshot: Probe::answering(|_| panic!("no snapshot in this test")).recipient(),
        read: Probe::answering(|_| Ok(vec![1])).recipient(),
        translate: Probe::answering(|_| None).recipient(),
        limit: Probe::answering(|_| true).recipient(),
        terminate: Probe::new().recipient(),
        thread_id: Arc::default(),
    };
    let device = Lifecycle {
        name: "device".into(),
        reset: mocks.device_reset.recipient(),
        pause: Probe::new().recipient(),
        resume: Probe::new().recipient(),
    };
    let parts = VmParts {
        panic: PanicAction::Shutdown,
        watchdog: WatchdogAction::Reset,
        vcpus: vec![vcpu],
        devices: vec![device],
        drives: vec![
            mocks.drive(["take a", "leave a"], false),
            mocks.drive(["take b", "leave b"], true),
        ],
        clock: Arc::clone(&mocks.clock),
        ram: Arc::new(GuestRam::new(RAM_BASE, 1 << 20).unwrap()),
        boot: Box::new(OneHart),
        tree: Arc::default(),
        smp: Smp::default(),
        reboot,
        shutdown,
        exit: mocks.exit.outlet(),
        reset_asked: Arc::clone(&mocks.reset_asked),
    };
    let addr = Vm::new(parts).start();
    addr.do_send(SubscribeEvents(mocks.events.recipient()));
    (addr, mocks)
}

async fn state(vm: &Addr<Vm>) -> RunState {
    vm.send(QueryStatus).await.unwrap().unwrap().state
}

#[actix::test]
async fn power_on_stop_and_cont_drive_vcpus_time_and_events() {
    let (vm, m) = vm(RebootAction::Reset, ShutdownAction::Poweroff);
    assert_eq!(state(&vm).await, RunState::Prelaunch);
    vm.send(PowerOn { run: true, incoming: false }).await.unwrap().unwrap();
    assert_eq!(state(&vm).await, RunState::Running);
    assert_eq!(m.reset.take()[0].start, HartStart::Machine { pc: 0x1000 });
    assert_eq!((m.resume.take().len(), m.pause.take().len()), (1, 0));
    assert!(m.clock.is_running());
    vm.send(Stop).await.unwrap().unwrap();
    assert_eq!(state(&vm).await, RunState::Paused);
    assert_eq!(m.pause.take().len(), 1);
    assert!(!m.clock.is_running());
    vm.send(Stop).await.unwrap().unwrap();
    assert_eq!(m.pause.take().len(), 0);
    vm.send(Cont).await.unwrap().unwrap();
    assert_eq!(m.events.take(), [VmEvent::Resume, VmEvent::Stop, VmEvent::Resume]);
}

#[actix::test]
async fn a_guest_reset_resets_devices_and_harts_and_runs_on() {
    let (vm, m) = vm(RebootAction::Reset, ShutdownAction::Poweroff);
    vm.send(PowerOn { run: true, incoming: false }).await.unwrap().unwrap();
    let cause = ShutdownCause::GuestReset;
    vm.send(RequestReset { cause }).await.unwrap().unwrap();
    assert_eq!((m.reset.take().len(), m.device_reset.take().len()), (2, 2));
    assert_eq!(state(&vm).await, RunState::Running);
    assert_eq!(m.events.take(), [VmEvent::Resume, VmEvent::Reset { cause }]);
}

#[actix::test]
async fn a_flood_of_guest_resets_is_one_reset() {
    let (vm, m) = vm(RebootAction::Reset, ShutdownAction::Poweroff);
    vm.send(PowerOn { run: true, incoming: false }).await.unwrap().unwrap();
    m.reset.take();
    let outlet = guest_reset(&vm, &m.reset_asked);
    for _ in 0..1000 {
        outlet.send(RequestReset { cause: ShutdownCause::GuestReset });
    }
    assert_eq!(state(&vm).await, RunState::Running);
    assert_eq!(m.reset.take().len(), 1);
    outlet.send(RequestReset { cause: ShutdownCause::GuestReset });
    assert_eq!(state(&vm).await, RunState::Running);
    assert_eq!(m.reset.take().len(), 1, "after a reset the guest can ask again");
}

#[actix::test]
async fn no_reboot_turns_a_reset_into_exit_whoever_asks() {
    for cause in [ShutdownCause::GuestReset, ShutdownCause::HostQmpSystemReset] {
        let (vm, m) = vm(RebootAction::Shutdown, ShutdownAction::Poweroff);
        vm.send(PowerOn { run: true, incoming: false }).await.unwrap().unwrap();
        vm.send(RequestReset { cause }).await.unwrap().unwrap();
        assert_eq!(m.exit.take(), [Exited { code: 0 }]);
        assert_eq!(m.reset.take().len(), 1, "only that of power-on");
    }
}

#[actix::test]
async fn a_machine_that_is_stopped_already_is_shut_down_in_words_only() {
    let (vm, m) = vm(RebootAction::Shutdown, ShutdownAction::Pause);
    vm.send(PowerOn { run: true, incoming: false }).await.unwrap().unwrap();
    vm.send(Stop).await.unwrap().unwrap();
    m.events.take();
    let cause = ShutdownCause::HostQmpSystemReset;
    vm.send(RequestReset { cause }).await.unwrap().unwrap();
    assert_eq!(m.events.take(), [VmEvent::Shutdown { cause }]);
    assert_eq!(state(&vm).await, RunState::Paused);
    vm.send(Cont).await.unwrap().unwrap();
    assert_eq!(state(&vm).await, RunState::Running);
}

#[actix::test]
async fn no_shutdown_pauses_and_needs_a_reset_before_cont() {
    let (vm, m) = vm(RebootAction::Reset, ShutdownAction::Pause);
    vm.send(PowerOn { run: true, incoming: false }).await.unwrap().unwrap();
    let cause = ShutdownCause::GuestShutdown;
    vm.send(RequestShutdown { cause, exit_code: 0 }).await.unwrap().unwrap();
    assert_eq!(state(&vm).await, RunState::Shutdown);
    assert_eq!(m.events.take(), [VmEvent::Resume, VmEvent::Shutdown { cause }, VmEvent::Stop]);
    let refused = vm.send(Cont).await.unwrap().unwrap_err();
    assert_eq!(refused.0, "Resetting the Virtual Machine is required");
    vm.send(RequestReset { cause: ShutdownCause::HostQmpSystemReset }).await.unwrap().unwrap();
    assert_eq!(state(&vm).await, RunState::Prelaunch);
    vm.send(RequestShutdown { cause: ShutdownCause::HostQmpQuit, exit_code: 0 })
        .await
        .unwrap()
        .unwrap();
    assert_eq!(m.exit.take(), [Exited { code: 0 }]);
}

#[actix::test]
async fn a_dead_device_is_internal_error_and_is_told() {
    let (vm, m) = vm(RebootAction::Reset, ShutdownAction::Poweroff);
    vm.send(PowerOn { run: true, incoming: false }).await.unwrap().unwrap();
    m.events.take();
    vm.send(ActorFailed { name: "uart".into(), reason: "boom".into() }).await.unwrap();
    assert_eq!(state(&vm).await, RunState::InternalError);
    let failed = VmEvent::DeviceFailed { name: "uart".into(), reason: "boom".into() };
    assert_eq!(m.events.take(), [failed, VmEvent::Stop]);
    assert_eq!(m.pause.take().len(), 1);
}

#[actix::test]
async fn a_migration_that_comes_to_nothing_lets_the_machine_run_on() {
    let (vm, m) = vm(RebootAction::Reset, ShutdownAction::Poweroff);
    vm.send(PowerOn { run: true, incoming: false }).await.unwrap().unwrap();
    let held = vm.send(Quiesce).await.unwrap().unwrap();
    assert_eq!(state(&vm).await, RunState::FinishMigrate);
    assert!(vm.send(Cont).await.unwrap().is_err());
    // The holder dies.
    drop(held);
    assert_eq!(state(&vm).await, RunState::Running);
    assert_eq!((m.pause.take().len(), m.resume.take().len()), (1, 2));
    assert!(m.clock.is_running());

    vm.send(Stop).await.unwrap().unwrap();
    vm.send(Quiesce).await.unwrap().unwrap().undo().await.unwrap();
    assert_eq!(state(&vm).await, RunState::Paused);

    vm.send(Quiesce).await.unwrap().unwrap().hand_over();
    vm.send(HandOver).await.unwrap().unwrap();
    assert_eq!(state(&vm).await, RunState::Postmigrate);
}

#[actix::test]
async fn an_incoming_machine_runs_when_it_arrives_as_the_source_did() {
    for (run, stop, was, then) in [
        (true, false, RunState::Running, RunState::Running),
        (false, false, RunState::Running, RunState::Paused),
        (true, true, RunState::Running, RunState::Paused),
        (true, false, RunState::Paused, RunState::Paused),
    ] {
        let (vm, m) = vm(RebootAction::Reset, ShutdownAction::Poweroff);
        vm.send(PowerOn { run, incoming: true }).await.unwrap().unwrap();
        assert_eq!((state(&vm).await, m.resume.take().len()), (RunState::Inmigrate, 0));
        if stop {
            vm.send(Stop).await.unwrap().unwrap();
        }
        vm.send(Arrived { was }).await.unwrap().unwrap();
        assert_eq!(state(&vm).await, then);
        assert!(vm.send(Arrived { was }).await.unwrap().is_err());
    }
}

#[actix::test]
async fn drives_go_with_the_machine_and_come_back_with_it() {
    let (vm, m) = vm(RebootAction::Reset, ShutdownAction::Poweroff);
    vm.send(PowerOn { run: true, incoming: false }).await.unwrap().unwrap();
    assert!(vm.send(ReleaseDrives).await.unwrap().is_err(), "not while it runs");
    let held = vm.send(Quiesce).await.unwrap().unwrap();
    vm.send(ReleaseDrives).await.unwrap().unwrap();
    held.undo().await.unwrap();
    assert_eq!(m.calls(), ["leave a", "leave b", "take a", "take b"]);
    assert_eq!(state(&vm).await, RunState::Running);

    // Somebody else has them.
    let held = vm.send(Quiesce).await.unwrap().unwrap();
    vm.send(ReleaseDrives).await.unwrap().unwrap();
    *m.lock.lock() = Err("Failed to get \"write\" lock".to_owned());
    assert_eq!(held.undo().await.unwrap_err().0, "Failed to get \"write\" lock");
    assert_eq!(state(&vm).await, RunState::Paused);
    let calls = m.calls();
    let round = ["take a", "take b", "leave a"];
    assert_eq!(calls[..2], ["leave a", "leave b"]);
    assert!(calls[2..].chunks(3).all(|calls| calls == round), "{calls:?}");
    m.events.take();
    assert!(vm.send(Cont).await.unwrap().is_err());
    assert_eq!((m.calls(), m.events.take()), (round.to_vec(), vec![]));
    assert_eq!(state(&vm).await, RunState::Paused);
    *m.lock.lock() = Ok(());
    vm.send(Cont).await.unwrap().unwrap();
    assert_eq!(m.events.take(), [VmEvent::Resume]);

    // Handed over, and nobody has them.
    let held = vm.send(Quiesce).await.unwrap().unwrap();
    vm.send(ReleaseDrives).await.unwrap().unwrap();
    held.hand_over();
    vm.send(HandOver).await.unwrap().unwrap();
    m.calls();
    vm.send(Cont).await.unwrap().unwrap();
    assert_eq!((m.calls(), state(&vm).await), (vec!["take a", "take b"], RunState::Running));
}

#[actix::test]
async fn an_incoming_machine_takes_its_drives_once() {
    let (vm, m) = vm(RebootAction::Reset, ShutdownAction::Poweroff);
    vm.send(PowerOn { run: true, incoming: true }).await.unwrap().unwrap();
    assert!(m.calls().is_empty());
    vm.send(TakeDrives { only_to_run: None }).await.unwrap().unwrap();
    vm.send(Arrived { was: RunState::Running }).await.unwrap().unwrap();
    assert_eq!((m.calls(), state(&vm).await), (vec!["take a", "take b"], RunState::Running));
}

#[actix::test]
async fn a_machine_that_arrives_stopped_may_leave_its_drives_alone_until_it_runs() {
    for (run, was, before) in
        [(true, RunState::Paused, 0), (false, RunState::Running, 0), (true, RunState::Running, 2)]
    {
        let (vm, m) = vm(RebootAction::Reset, ShutdownAction::Poweroff);
        vm.send(PowerOn { run, incoming: true }).await.unwrap().unwrap();
        vm.send(TakeDrives { only_to_run: Some(was) }).await.unwrap().unwrap();
        assert_eq!(m.calls().len(), before, "{run} {was:?}");
        vm.send(Arrived { was }).await.unwrap().unwrap();
        if before == 0 {
            assert!(m.calls().is_empty());
            vm.send(Cont).await.unwrap().unwrap();
            assert_eq!(m.calls(), ["take a", "take b"]);
        }
        assert_eq!(state(&vm).await, RunState::Running);
    }
}
