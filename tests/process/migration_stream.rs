//! A migration to a file: what is in the stream, as a reader of our own and QEMU's script see it,
//! what becomes of the drives, and that a machine goes on from it.

use std::path::PathBuf;
use std::process::Command;

use serde_json::{Value, json};

use crate::greeter::{PROMPT, guest};
use crate::harness::qmp::Qmp;
use crate::harness::{Machine, machine, poll};
use crate::oracle;
use crate::stream_reader::{self, Stream};

const RAM: u64 = 48 << 20;
const FLASH: u64 = 32 << 20;

/// Devices of every kind, on images that are somewhere else.
fn devices(disk: &str, flash: &str) -> String {
    format!(
        "-m 48M -smp 2 -display none -serial unix:serial,server=on,wait=off \
         -qmp unix:qmp,server=on,wait=off \
         -drive if=pflash,unit=1,format=raw,file={flash} \
         -drive if=none,id=d,format=raw,file={disk} -device virtio-blk-device,drive=d \
         -device virtio-rng-device -device virtio-serial-device \
         -chardev ringbuf,id=c -device virtconsole,chardev=c"
    )
}

/// Wait for the end of a migration, which has to be a good one.
fn completed(qmp: &mut Qmp) -> Value {
    poll("the end of a migration", || {
        let state = qmp.execute("query-migrate");
        let status = state["status"].as_str().unwrap_or_default().to_owned();
        assert!(!["failed", "cancelled"].contains(&status.as_str()), "{state}");
        (status == "completed").then_some(state)
    })
}

fn read(machine: &Machine, name: &str) -> Stream {
    let stream = stream_reader::read(&std::fs::read(machine.path(name)).expect("a stream"));
    assert_eq!(stream.machine, "virt");
    stream
}

fn block<'a>(stream: &'a Stream, name: &str) -> &'a [u8] {
    let (_, bytes) = stream.memory.iter().find(|(n, _)| n == name).expect("a block");
    bytes
}

#[test]
fn a_machine_in_a_file() {
    let images = tempfile::tempdir().expect("a directory");
    let image = |name: &str, size, start: &[u8]| {
        let path = images.path().join(name);
        std::fs::write(&path, start).expect("an image is written");
        std::fs::OpenOptions::new()
            .write(true)
            .open(&path)
            .and_then(|file| file.set_len(size))
            .expect("it has a size");
        path.display().to_string()
    };
    let words = devices(&image("disk", 1 << 20, b""), &image("flash", FLASH, b"what was there"));
    let source = guest(&words).start();
    let mut qmp = source.qmp("qmp");
    let mut serial = source.connect("serial");
    serial.send("\r");
    serial.expect(PROMPT);
    serial.send("dirty 8 1 4\r");
    serial.expect("0 errors");
    serial.expect(PROMPT);
    // The other side has its images open, and does not have them yet.
    let destination = guest(&format!("{words} -incoming defer")).start();
    let mut other = destination.qmp("qmp");
    assert_eq!(other.status(), "inmigrate");

    qmp.execute_with("migrate", json!({"uri": "file:stream"}));
    let state = completed(&mut qmp);
    assert_eq!(qmp.status(), "postmigrate");
    let stream = read(&source, "stream");
    check_memory(&mut qmp, &source, &stream);
    check_sections(&stream);
    assert!(stream.pieces > 2, "memory comes in pieces: {}", stream.pieces);
    let length = std::fs::metadata(source.path("stream")).expect("a stream").len();
    assert_eq!(state["ram"]["transferred"], length);
    check_with_qemus_script(&source, &stream);

    let uri = format!("file:{}", source.path("stream").display());
    other.execute_with("migrate-incoming", json!({"uri": uri}));
    completed(&mut other);
    assert_eq!(other.status(), "running");
    let mut serial = destination.connect("serial");
    serial.send("echo here now\r");
    serial.expect("here now");
    // Both name the images, and one has them.
    let refused = qmp.ask(&json!({"execute": "cont"}));
    let sentence = refused["error"]["desc"].as_str().expect("a refusal");
    assert!(sentence.starts_with("Failed to get \"write\" lock"), "{sentence}");
    assert_eq!(qmp.status(), "postmigrate");
    drop(destination);
    qmp.execute("cont");
    assert_eq!(qmp.status(), "running");
}

/// Memory is what the machine, which stands still, has.
fn check_memory(qmp: &mut Qmp, source: &Machine, stream: &Stream) {
    let sizes: Vec<_> = stream.memory.iter().map(|(n, bytes)| (n.as_str(), bytes.len())).collect();
    let flash = FLASH as usize;
    assert_eq!(
        sizes,
        [
            ("riscv_virt_board.ram", RAM as usize),
            ("virt.flash0", flash),
            ("virt.flash1", flash),
            ("riscv_virt_board.mrom", 0xf000),
        ]
    );
    let place = json!({"val": 0x8000_0000_u64, "size": RAM, "filename": "ram"});
    qmp.execute_with("pmemsave", place);
    let ram = std::fs::read(source.path("ram")).expect("the memory");
    let differs = block(stream, "riscv_virt_board.ram").iter().zip(&ram).position(|(a, b)| a != b);
    assert_eq!((ram.len() as u64, differs), (RAM, None));
    assert!(block(stream, "virt.flash0").iter().all(|&byte| byte == 0));
    let flash = block(stream, "virt.flash1");
    assert!(flash.starts_with(b"what was there\0") && flash[14..].iter().all(|&byte| byte == 0));
}

/// Every device is there, in QEMU's order.
fn check_sections(stream: &Stream) {
    let names: Vec<_> = stream.sections.iter().map(|s| (s.name.as_str(), s.instance)).collect();
    assert_eq!(
        names,
        [
            ("timer", 0),
            ("cpu_common", 0),
            ("cpu", 0),
            ("cpu_common", 1),
            ("cpu", 1),
            ("riscv_mtimer", 0),
            ("riscv_sifive_plic", 0),
            ("fw_cfg", 0),
            ("serial", 0),
            ("goldfish_rtc", 0),
            ("pflash_cfi01", 0),
            ("pflash_cfi01", 1),
            ("virtio-mmio@0000000010008000/virtio-blk", 0),
            ("virtio-mmio@0000000010007000/virtio-rng", 0),
            ("virtio-mmio@0000000010006000/virtio-console", 0),
            ("globalstate", 0),
        ]
    );
    let bytes = &stream.section("globalstate", 0).bytes;
    assert_eq!(bytes[..12], *b"\0\0\0\x08running\0");
    assert_eq!(stream.section("pflash_cfi01", 1).bytes, [0, 0, 0x80, 0, 0, 0, 0, 0, 0, 0, 0]);
}

/// QEMU's own reader of streams has nothing to say against it, and sees the same.
fn check_with_qemus_script(source: &Machine, stream: &Stream) {
    let Some(script) = std::env::var_os("UNDERSTUDY_ANALYZE_MIGRATION") else {
        eprintln!(
            "skipped: UNDERSTUDY_ANALYZE_MIGRATION does not name QEMU's analyze-migration.py"
        );
        return;
    };
    let run = |words: &[&str]| {
        let mut command = Command::new("python3");
        command.arg(&script).args(["-f", "stream"]).args(words);
        let output = command.current_dir(source.path("")).output().expect("python3 runs");
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success() && errors.is_empty(), "{words:?}: {errors}");
        String::from_utf8(output.stdout).expect("text")
    };
    let seen: Value = serde_json::from_str(&run(&["-d", "desc"])).expect("JSON");
    assert_eq!(seen, stream.description);
    let state: Value = serde_json::from_str(&run(&["-d", "state"])).expect("JSON");
    let sections = state.as_object().expect("sections");
    // Those of devices, and memory.
    assert_eq!(sections.len(), stream.sections.len() + 1, "{:?}", sections.keys());
    run(&["-x"]);
    for (name, bytes) in &stream.memory {
        let path: PathBuf = source.path(name);
        assert!(std::fs::read(path).expect("a block") == *bytes, "{name}");
    }
}

/// The same with each page at its place.
#[test]
fn a_machine_in_a_file_with_its_memory_in_place() {
    let images = tempfile::tempdir().expect("a directory");
    let image = |name: &str, start: &[u8], size| {
        let (path, mut bytes) = (images.path().join(name), start.to_vec());
        bytes.resize(size, 0);
        std::fs::write(&path, bytes).expect("an image is written");
        path.display().to_string()
    };
    let flash = image("flash", b"what was there", FLASH as usize);
    let words = devices(&image("disk", b"", 1 << 20), &flash);
    let source = guest(&words).start();
    let mut qmp = source.qmp("qmp");
    let mut serial = source.connect("serial");
    serial.send("\r");
    serial.expect(PROMPT);
    serial.send("dirty 8 1 4\r");
    serial.expect("0 errors");
    serial.expect(PROMPT);
    let mapped = json!([{"capability": "mapped-ram", "state": true}]);
    qmp.execute_with("migrate-set-capabilities", json!({"capabilities": mapped}));
    qmp.execute_with("migrate", json!({"uri": "file:stream"}));
    completed(&mut qmp);
    let stream = read(&source, "stream");
    check_memory(&mut qmp, &source, &stream);
    check_sections(&stream);
    assert_eq!(stream.pieces, 2, "the list of blocks with all pages, and the end");
}

/// The reader knows the format, not just ours.
#[test]
fn the_reader_reads_qemus_streams() {
    for mapped in [false, true] {
        read_qemus_stream(mapped);
    }
}

fn read_qemus_stream(mapped: bool) {
    let Some(qemu) = oracle::qemu() else { return };
    let words = "-M virt -m 48M -smp 2 -S -display none -nic none -serial null \
                 -device virtio-rng-device -qmp unix:qmp,server=on,wait=off";
    let qemu = machine(words).program(qemu.get_program()).start();
    let mut qmp = qemu.qmp("qmp");
    let mapped = json!([{"capability": "mapped-ram", "state": mapped}]);
    qmp.execute_with("migrate-set-capabilities", json!({"capabilities": mapped}));
    qmp.execute_with("migrate", json!({"uri": "file:stream"}));
    completed(&mut qmp);
    let stream = read(&qemu, "stream");
    assert_eq!(block(&stream, "riscv_virt_board.ram").len() as u64, RAM);
    assert_eq!(stream.section("cpu", 1).version, 10);
    qmp.execute("quit");
}

/// The other side cannot have its drive: it says so, and this side goes on with its own.
#[test]
fn a_drive_that_somebody_else_has() {
    let images = tempfile::tempdir().expect("a directory");
    let words = |name: &str| {
        let path = images.path().join(name);
        format!(
            "-m 32M -display none -serial unix:serial,server=on,wait=off \
             -qmp unix:qmp,server=on,wait=off -device virtio-blk-device,drive=d \
             -drive if=none,id=d,format=raw,file={}",
            path.display()
        )
    };
    for name in ["ours", "theirs"] {
        std::fs::write(images.path().join(name), [0; 4096]).expect("an image is written");
    }
    let source = guest(&words("ours")).start();
    let mut qmp = source.qmp("qmp");
    let third = guest(&words("theirs")).start();
    assert_eq!(third.qmp("qmp").status(), "running");
    let mut destination = guest(&format!("{} -incoming unix:here", words("theirs"))).start();
    let mut other = destination.qmp("qmp");
    assert_eq!(other.status(), "inmigrate");
    // A client may be there before the machine listens.
    poll("a listener", || (other.execute("query-migrate")["status"] == "setup").then_some(()));

    let return_path = json!([{"capability": "return-path", "state": true}]);
    qmp.execute_with("migrate-set-capabilities", json!({"capabilities": return_path}));
    let uri = format!("unix:{}", destination.path("here").display());
    qmp.execute_with("migrate", json!({"uri": uri}));
    let reason = poll("the end of a migration", || {
        let state = qmp.execute("query-migrate");
        assert_ne!(state["status"], "completed");
        (state["status"] == "failed").then(|| state["error-desc"].clone())
    });
    let sentence = format!(
        "Failed to get \"write\" lock: is another process using the image [{}]?",
        images.path().join("theirs").display()
    );
    assert_eq!(reason, format!("destination: {sentence}"));
    assert_eq!(destination.exit_code(), 1);
    assert!(destination.errors().contains(&sentence), "{}", destination.errors());
    assert_eq!(qmp.status(), "running");
    let mut serial = source.connect("serial");
    serial.send("echo still here\r");
    serial.expect("still here");
    // Its drive is its own again.
    let (code, _, errors) = guest(&words("ours")).run();
    assert_eq!(code, 1);
    assert!(errors.contains("Failed to get \"write\" lock"), "{errors}");
}
