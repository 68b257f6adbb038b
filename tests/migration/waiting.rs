//! `migrate` in the human monitor on a terminal: it shows how far it is while it waits, and a key
//! or another monitor ends it.

use crate::harness::machine;
use crate::harness::poll;

#[test]
fn on_a_terminal() {
    let image = understudy::machine::greeter::image();
    let words = "-display none -serial mon:stdio -m 64M -kernel greeter \
         -qmp unix:qmp,server=on,wait=off";
    let mut machine = machine(words).file("greeter", &image).on_a_terminal().start();
    let mut qmp = machine.qmp("qmp");
    let screen = &mut machine.console;
    screen.expect("\n> ");
    screen.send("dirty 64 1 16\r");
    screen.expect("0 errors\r\r\n> ");
    screen.send("\x01c");
    screen.expect("(qemu) ");
    let migrate = |screen: &mut crate::harness::stream::Stream, rate: &str| {
        screen.send(format!("migrate_set_parameter max-bandwidth {rate}\r"));
        screen.expect("(qemu) ");
        screen.send("migrate \"exec:cat >/dev/null\"\r");
        screen.expect("/dev/null\"\x1b[K\r\r\n");
    };

    // Ctrl-C, after it has shown some progress.
    migrate(screen, "2M");
    let first = screen.expect(" %\r");
    assert!(first.starts_with("Completed "), "{first:?}");
    // Keys wait for the prompt.
    screen.send("info status\r\x03");
    let rest = screen.expect("VM status: running");
    assert!(rest.contains("(qemu) "), "{rest:?}");
    screen.expect("(qemu) ");
    let info = qmp.execute("query-migrate");
    assert_eq!(info["status"], "cancelled", "{info}");

    // Another monitor.
    migrate(screen, "2M");
    screen.expect(" %\r");
    qmp.execute("migrate_cancel");
    screen.expect("(qemu) ");
    poll("the end", || {
        Some(qmp.execute("query-migrate")).filter(|info| info["status"] == "cancelled")
    });

    // Its own end.
    migrate(screen, "1G");
    screen.expect("(qemu) ");
    assert_eq!(qmp.execute("query-migrate")["status"], "completed");
    assert_eq!(qmp.status(), "postmigrate");
    screen.send("\x01x");
    assert_eq!(machine.exit_code(), 0);
}
