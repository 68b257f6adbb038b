//! Rate limits of events on a clock that is stepped.

use std::sync::Arc;

use understudy::actors::message::Reset;
use understudy::actors::outlet::Outlet;
use understudy::actors::timer::Timers;
use understudy::chardev::message::PortOpened;
use understudy::machine::clock::VirtualClock;
use understudy::machine::message::VmEvent;
use understudy::qmp::session;
use understudy::qmp::throttle::MeasureBy;
use understudy::qtest::stepped::SteppedClock;

use crate::harness::{MockVm, Terminal, With, monitor};

const SECOND: i64 = 1_000_000_000;

#[actix::test]
async fn a_second_is_one_of_the_stepped_clock() {
    let clock = Arc::new(VirtualClock::stepped());
    let (timers, _thread) = Timers::start(Arc::clone(&clock), Outlet::Unconnected).unwrap();
    let stepped = SteppedClock { clock, timers: timers.clone() };
    let (vm, monitor) = monitor(MockVm::default());
    monitor.send(MeasureBy(stepped.clone())).await.unwrap();
    let (backend, mut terminal) = Terminal::new();
    session::attach(backend, monitor, false);
    terminal.event(understudy::chardev::message::CharEvent::Opened).await;
    terminal.line().await;
    terminal.type_bytes(b"{'execute':'qmp_capabilities'}").await;
    terminal.line().await;
    for open in [true, false, true] {
        let opened = VmEvent::PortOpened(PortOpened { id: "p".into(), open });
        vm.send(With(Box::new(move |vm| vm.tell(opened)))).await.unwrap();
    }
    let told = |line: String| line.split_once("\"data\": ").map(|(_, data)| data.to_owned());
    let data = |open| Some(format!("{{\"open\": {open}, \"id\": \"p\"}}}}"));
    assert_eq!(told(terminal.line().await), data(true));
    assert_eq!(terminal.rest().await, b"");
    // A reset of the machine is nothing to the monitor's timer.
    timers.addr().send(Reset).await.unwrap();
    assert_eq!(stepped.to_next_deadline(), Some(SECOND));
    stepped.advance(SECOND - 1).await;
    assert_eq!(terminal.rest().await, b"");
    stepped.advance(SECOND).await;
    assert_eq!(told(terminal.line().await), data(true));
    assert_eq!(stepped.to_next_deadline(), Some(SECOND), "another interval has begun");
    stepped.advance(2 * SECOND).await;
    assert_eq!(stepped.to_next_deadline(), None);
    assert_eq!(terminal.rest().await, b"");
}
