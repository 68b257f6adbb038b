//! What the program cannot do it says in one line that starts with its name, and ends with 1.
//! `cli::tests` has many more options; these show that the line reaches the user, alone, also when
//! it is found out late: with the devices open and the machine half built.

use crate::harness::machine;

#[test]
fn one_line_and_exit_code_1() {
    for (words, line) in [
        ("-foo", "-foo: invalid option"),
        ("-m", "-m: requires an argument"),
        (
            "-M pc",
            "-M pc: unsupported machine type: \"pc\" (use -machine help to list supported \
             machines; there are virt and none)",
        ),
        (
            "-smp 513",
            "-smp 513: Invalid SMP CPUs 513. The max CPUs supported by machine 'virt' is 512",
        ),
        (
            "-action panic=x",
            "-action panic=x: Parameter 'panic' does not accept value 'x' (valid: pause, shutdown, exit-failure, none)",
        ),
        ("-kernel missing", "could not load kernel 'missing': No such file or directory"),
        ("-kernel /", "could not load kernel '/': Is a directory"),
        ("-bios missing", "-bios missing: Unable to find the RISC-V BIOS \"missing\""),
        (
            "-kernel some -initrd missing",
            "could not load ramdisk 'missing': No such file or directory",
        ),
        (
            "-kernel some -dtb missing",
            "Unable to get size of device tree file 'missing': No such file or directory",
        ),
        (
            "-drive file=missing,format=raw,if=virtio",
            "-drive file=missing,format=raw,if=virtio: Could not open 'missing': No such file or \
             directory",
        ),
        (
            "-device loader,file=missing",
            "-device loader,file=missing: Cannot load specified image missing: No such file or \
             directory",
        ),
        (
            "-fw_cfg name=opt/x,file=missing",
            "-fw_cfg name=opt/x,file=missing: can't load missing: No such file or directory",
        ),
        (
            "-serial tcp:127.0.0.1:1",
            "-serial tcp:127.0.0.1:1: Failed to connect to '127.0.0.1:1': Connection refused",
        ),
        (
            "-qmp unix:missing/s,server=on,wait=off",
            "-qmp unix:missing/s,server=on,wait=off: Failed to bind socket to missing/s: No such \
             file or directory",
        ),
        (
            "-chardev file,id=f,path=missing/f -serial chardev:f",
            "-chardev file,id=f,path=missing/f: Could not open 'missing/f': No such file or \
             directory",
        ),
        (
            "-serial pipe:missing",
            "-serial pipe:missing: Could not open 'missing': No such file or directory",
        ),
        (
            "-pidfile missing/p",
            "cannot create PID file: Could not create 'missing/p': No such file or directory",
        ),
        ("-D missing/l", "Error opening logfile missing/l: No such file or directory"),
    ] {
        let setup = machine(&format!("-display none {words}")).file("some", b"kernel");
        let (code, output, errors) = setup.run();
        let line = format!("understudy: {line}\n");
        assert_eq!((code, output.as_str(), errors), (1, "", line), "{words}");
    }
}
