//! The cases on QEMU.

use std::fs;
use std::io::Write;
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::guest::{self, DONE, MEMORY, Outcome};
use crate::oracle;

/// Outcomes of `count` cases in `image`; `None` where there is no QEMU to compare with.
pub fn run(cpu: &str, image: &[u8], count: usize) -> Option<Vec<Outcome>> {
    const LONGEST: Duration = Duration::from_secs(120);
    let dir = tempfile::tempdir().expect("a temporary directory");
    let file = |name: &str| dir.path().join(name);
    fs::write(file("image"), image).expect("the image is written");
    fs::write(file("serial"), "").expect("the serial file is made");
    let mut qemu = oracle::qemu()?
        .args(["-M", "virt", "-display", "none", "-qmp", "stdio", "-cpu", cpu])
        .args(["-m", &format!("{}M", MEMORY >> 20)])
        .arg("-bios")
        .arg(file("image"))
        .arg("-serial")
        .arg(format!("file:{}", file("serial").display()))
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .expect("QEMU starts");
    let started = Instant::now();
    while !fs::read(file("serial")).is_ok_and(|bytes| bytes.contains(&DONE)) {
        if started.elapsed() > LONGEST || qemu.try_wait().is_ok_and(|status| status.is_some()) {
            let _ = qemu.kill();
            let _ = qemu.wait();
            panic!("QEMU did not finish {count} cases on {cpu}");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let (address, len) = guest::results_range(count);
    let dump = file("results");
    let commands = format!(
        r#"{{"execute":"qmp_capabilities"}}
{{"execute":"pmemsave","arguments":{{"val":{address},"size":{len},"filename":"{}"}}}}
{{"execute":"quit"}}
"#,
        dump.display()
    );
    qemu.stdin
        .take()
        .expect("a pipe")
        .write_all(commands.as_bytes())
        .expect("QEMU reads its monitor");
    qemu.wait().expect("QEMU ends");
    Some(guest::outcomes(&fs::read(dump).expect("QEMU dumped the results")))
}
