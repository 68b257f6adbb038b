//! Unmodified libvirt drives this program: its probe, and the life of a domain. `virsh` runs with
//! the driver inside (`qemu:///embed`), so that no daemon is needed; where it is not installed,
//! nothing is tested, which is said on standard error.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

/// The account under which virsh runs in place of root: the driver insists on accounts of its own
/// otherwise.
const NOBODY: &str = "65534";

/// A place for libvirt's files, with this program in it under the name that libvirt looks for.
struct Host {
    dir: TempDir,
}

impl Host {
    /// `None` where there is no virsh with a driver for QEMU.
    fn new() -> Option<Self> {
        let version = Command::new("virsh").args(["version", "--daemon"]).output();
        if version.is_err() {
            eprintln!("skipped: virsh is not installed");
            return None;
        }
        let dir = tempfile::tempdir().expect("a directory");
        let anybody = || Permissions::from_mode(0o777);
        fs::set_permissions(dir.path(), anybody()).expect("a mode");
        for name in ["bin", "root"] {
            fs::create_dir(dir.path().join(name)).expect("a directory");
            fs::set_permissions(dir.path().join(name), anybody()).expect("a mode");
        }
        let host = Self { dir };
        fs::copy(env!("CARGO_BIN_EXE_understudy"), host.emulator()).expect("a copy");
        let (_, _, errors) = host.try_virsh(&["uri"]);
        if errors.contains("no connection driver available") {
            eprintln!("skipped: virsh has no driver for QEMU");
            return None;
        }
        Some(host)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn emulator(&self) -> PathBuf {
        self.path("bin/qemu-system-riscv64")
    }

    /// Commands of one session of virsh: what they print. They have to succeed.
    fn virsh(&self, commands: &[&str]) -> String {
        let (succeeded, out, err) = self.try_virsh(commands);
        assert!(succeeded, "virsh {commands:?}: {err}{out}");
        out
    }

    fn try_virsh(&self, commands: &[&str]) -> (bool, String, String) {
        let root = self.path("root");
        let mut virsh = if rustix::process::geteuid().is_root() {
            let mut setpriv = Command::new("setpriv");
            setpriv.args(["--reuid", NOBODY, "--regid", NOBODY, "--clear-groups", "virsh"]);
            setpriv
        } else {
            Command::new("virsh")
        };
        let path = format!("{}:/usr/bin:/bin", self.path("bin").display());
        virsh.env_clear().env("PATH", path).env("HOME", &root).env("XDG_RUNTIME_DIR", &root);
        virsh.current_dir(&root).arg("-c").arg(format!("qemu:///embed?root={}", root.display()));
        let output = virsh.arg(commands.join("; ")).output().expect("virsh runs");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.success(), text(&output.stdout), text(&output.stderr))
    }
}

/// What is between `<name ...>` and the end of that element, the first time.
fn element<'a>(xml: &'a str, name: &str) -> &'a str {
    let start = xml.find(&format!("<{name}")).unwrap_or_else(|| panic!("no <{name}>: {xml}"));
    let rest = &xml[start..];
    let end = rest.find(&format!("</{name}>")).or_else(|| rest.find("/>"));
    &rest[..end.expect("an end")]
}

#[test]
fn the_probe_succeeds() {
    let Some(host) = Host::new() else { return };
    let emulator = host.emulator().display().to_string();
    let everything = host.virsh(&["capabilities"]);
    let guest =
        &everything[everything.find("<arch name='riscv64'>").expect("a guest of this arch")..];
    assert!(element(guest, "emulator").ends_with(&emulator), "{guest}");
    assert!(element(guest, "machine").ends_with(">virt"), "{guest}");

    let domain = format!("domcapabilities --arch riscv64 --machine virt --emulatorbin {emulator}");
    let domain = host.virsh(&[&domain]);
    assert!(domain.contains(&format!("<path>{emulator}</path>")), "{domain}");
    assert!(domain.contains("<machine>virt</machine>"), "{domain}");
    assert!(element(&domain, "rng").contains("<value>virtio</value>"), "{domain}");
}

/// A machine without a kernel: what is tested is how libvirt starts, stops and moves it.
const DOMAIN: &str = "<domain type='qemu'>
  <name>vm</name>
  <memory unit='MiB'>64</memory>
  <vcpu>2</vcpu>
  <os><type arch='riscv64' machine='virt'>hvm</type></os>
  <devices>
    <emulator>EMULATOR</emulator>
    <controller type='usb' model='none'/>
    <disk type='file' device='disk'>
      <driver name='qemu' type='raw'/>
      <source file='DISK'/>
      <target dev='vda' bus='virtio'/>
      <address type='virtio-mmio'/>
    </disk>
    <serial type='pty'/>
    <memballoon model='none'/>
    <rng model='virtio'><backend model='builtin'/><address type='virtio-mmio'/></rng>
  </devices>
</domain>";

#[test]
fn a_domain_lives() {
    let Some(host) = Host::new() else { return };
    let disk = host.path("root/disk");
    fs::write(&disk, vec![0; 1 << 20]).expect("an image");
    fs::set_permissions(&disk, Permissions::from_mode(0o666)).expect("a mode");
    let replace =
        |text: &str, name: &str, path: &Path| text.replace(name, &path.display().to_string());
    let domain = replace(&replace(DOMAIN, "EMULATOR", &host.emulator()), "DISK", &disk);
    fs::write(host.path("domain"), domain).expect("a file");
    let (domain, saved) = (host.path("domain"), host.path("root/saved"));
    let (define, save) =
        (format!("define {}", domain.display()), format!("save vm {}", saved.display()));
    let restore = format!("restore {}", saved.display());
    let state = "domstate vm --reason";
    let out = host.virsh(&[
        &define,
        "start vm",
        state,
        "suspend vm",
        state,
        "resume vm",
        state,
        "qemu-monitor-command vm --hmp info block",
        "domblklist vm",
        "reset vm",
        &save,
        state,
        &restore,
        state,
        "ttyconsole vm",
        "vcpuinfo vm",
        "destroy vm",
        state,
        "undefine vm",
    ]);
    let mut rest = out.as_str();
    for expected in [
        "running (booted)",
        "paused (user)",
        "running (unpaused)",
        "Attached to:      virtio-disk0",
        "vda ",
        "Domain 'vm' was reset",
        "shut off (saved)",
        "running (restored)",
        "/dev/pts/",
        "VCPU:           1",
        "shut off (destroyed)",
        "Domain 'vm' has been undefined",
    ] {
        let at =
            rest.find(expected).unwrap_or_else(|| panic!("no '{expected}' where expected: {out}"));
        rest = &rest[at + expected.len()..];
    }
}
