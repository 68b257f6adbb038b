//! Unmodified libvirt drives this program: its probe, the life of a domain, and its way from one
//! host to another. `virsh` runs with the driver inside (`qemu:///embed`) where no daemon is needed,
//! and with two of them, of a user's own, for a migration. Where they are not installed, nothing is
//! tested, which is said on standard error.

use std::fs::{self, Permissions};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// The account under which virsh runs in place of root: the driver insists on accounts of its own
/// otherwise.
const NOBODY: &str = "65534";

/// How many seconds a session of virsh may take.
const LIMIT: &str = "120";

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
        let anybody = Permissions::from_mode(0o777);
        fs::set_permissions(dir.path(), anybody).expect("a mode");
        let host = Self { dir };
        host.directory("bin");
        host.directory("root");
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

    /// A directory that anybody may write to.
    fn directory(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        fs::create_dir(&path).expect("a directory");
        fs::set_permissions(&path, Permissions::from_mode(0o777)).expect("a mode");
        path
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
        let uri = format!("qemu:///embed?root={}", self.path("root").display());
        self.virsh_at(&uri, commands)
    }

    fn virsh_at(&self, uri: &str, commands: &[&str]) -> (bool, String, String) {
        // It has no time limit of its own.
        let mut virsh = self.program("timeout", "root");
        virsh.args(["-k", "1", LIMIT, "virsh", "-c", uri]).arg(commands.join("; "));
        let output = virsh.output().expect("virsh runs");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.success(), text(&output.stdout), text(&output.stderr))
    }

    /// A program of libvirt's, at home in this directory.
    fn program(&self, name: &str, home: &str) -> Command {
        let home = self.path(home);
        let mut program = if rustix::process::geteuid().is_root() {
            let mut setpriv = Command::new("setpriv");
            setpriv.args(["--reuid", NOBODY, "--regid", NOBODY, "--clear-groups", name]);
            setpriv
        } else {
            Command::new(name)
        };
        let path = format!("{}:/usr/bin:/bin:/usr/sbin", self.path("bin").display());
        program.env_clear().env("PATH", path).env("HOME", &home).env("XDG_RUNTIME_DIR", &home);
        program.current_dir(home);
        program
    }

    /// The domain's description in a file, and its disk.
    fn domain(&self) -> String {
        let disk = self.path("root/disk");
        fs::write(&disk, vec![0; 1 << 20]).expect("an image");
        fs::set_permissions(&disk, Permissions::from_mode(0o666)).expect("a mode");
        let path = |path: &Path| path.display().to_string();
        let domain = DOMAIN.replace("EMULATOR", &path(&self.emulator()));
        fs::write(self.path("domain"), domain.replace("DISK", &path(&disk))).expect("a file");
        format!("define {}", path(&self.path("domain")))
    }
}

/// libvirt's daemon, which takes itself for a host of its own.
struct Daemon<'a> {
    host: &'a Host,
    home: PathBuf,
    child: Child,
}

/// How long a daemon may take to be there.
const START: Duration = Duration::from_secs(60);

impl<'a> Daemon<'a> {
    /// `None` where there is none to start.
    fn start(host: &'a Host, name: &str, uuid: &str) -> Option<Self> {
        let home = host.directory(name);
        let settings = home.join("libvirtd.conf");
        fs::write(&settings, format!("host_uuid = \"{uuid}\"\n")).expect("a file");
        let version = host.program("libvirtd", name).arg("--version").output();
        if !version.is_ok_and(|output| output.status.success()) {
            eprintln!("skipped: libvirtd is not installed");
            return None;
        }
        let mut daemon = host.program("libvirtd", name);
        daemon.arg("-f").arg(&settings).stdin(Stdio::null());
        let log = fs::File::create(home.join("log")).expect("a file");
        daemon.stdout(log.try_clone().expect("a file")).stderr(log);
        let child = daemon.spawn().expect("libvirtd starts");
        let mut daemon = Self { host, home, child };
        let began = Instant::now();
        while !daemon.virsh(&["uri"]).0 {
            let ended = daemon.child.try_wait().expect("a child");
            let log = fs::read_to_string(daemon.home.join("log")).unwrap_or_default();
            assert!(ended.is_none(), "libvirtd has ended: {log}");
            assert!(began.elapsed() < START, "libvirtd does not answer: {log}");
            std::thread::sleep(Duration::from_millis(50));
        }
        Some(daemon)
    }

    fn uri(&self) -> String {
        format!("qemu:///session?socket={}/libvirt/libvirt-sock", self.home.display())
    }

    fn virsh(&self, commands: &[&str]) -> (bool, String, String) {
        self.host.virsh_at(&self.uri(), commands)
    }

    /// The same; they have to succeed.
    fn does(&self, commands: &[&str]) -> String {
        let (succeeded, out, err) = self.virsh(commands);
        assert!(succeeded, "{}: {commands:?}: {err}{out}", self.home.display());
        out
    }
}

impl Drop for Daemon<'_> {
    fn drop(&mut self) {
        // The machines of a daemon outlive it.
        let pid = fs::read_to_string(self.home.join("libvirt/qemu/run/vm.pid"));
        let pid = pid.ok().and_then(|pid| Pid::from_raw(pid.trim().parse().ok()?));
        if let Some(pid) = pid {
            let _ = kill_process(pid, Signal::KILL);
        }
        let _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
        let _ = self.child.wait();
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
  <memoryBacking><source type='memfd'/><access mode='shared'/></memoryBacking>
  <vcpu>2</vcpu>
  <iothreads>2</iothreads>
  <os><type arch='riscv64' machine='virt'>hvm</type></os>
  <devices>
    <emulator>EMULATOR</emulator>
    <controller type='usb' model='none'/>
    <disk type='file' device='disk'>
      <driver name='qemu' type='raw' io='threads' discard='unmap' iothread='1'/>
      <source file='DISK'/>
      <target dev='vda' bus='virtio'/>
      <address type='virtio-mmio'/>
    </disk>
    <serial type='pty'/>
    <controller type='virtio-serial' index='0'><address type='virtio-mmio'/></controller>
    <console type='pty'><target type='virtio' port='1'/></console>
    <channel type='unix'><source mode='bind'/><target type='virtio' name='org.channel'/></channel>
    <memballoon model='none'/>
    <rng model='virtio'><backend model='builtin'/><address type='virtio-mmio'/></rng>
  </devices>
  <seclabel type='none'/>
</domain>";

#[test]
fn a_domain_lives() {
    let Some(host) = Host::new() else { return };
    let saved = host.path("root/saved");
    let (define, save) = (host.domain(), format!("save vm {}", saved.display()));
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
        "domstats vm",
        "iothreadset vm 1 --poll-max-ns 100",
        "iothreadadd vm 3",
        "qemu-monitor-command vm --hmp info iothreads",
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
        "iothread.1.poll-max-ns=32768",
        "poll-max-ns=100",
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

#[test]
fn a_domain_moves_from_host_to_host() {
    let Some(host) = Host::new() else { return };
    let one = Daemon::start(&host, "one", "11111111-2222-3333-4444-555555555555");
    let Some(one) = one else { return };
    let Some(two) = Daemon::start(&host, "two", "66666666-7777-8888-9999-aaaaaaaaaaaa") else {
        return;
    };
    let state = "domstate vm --reason";
    one.does(&[&host.domain(), "start vm"]);
    let migrate = |to: &Daemon<'_>, port: u16, more: &str| {
        format!(
            "migrate --live --unsafe {more} vm --desturi {} --migrateuri tcp:127.0.0.1:{port}",
            to.uri()
        )
    };
    let free_port = || {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        listener.local_addr().expect("its address").port()
    };

    // For IPv4 too: otherwise the emulator would take what is left.
    let occupied = TcpListener::bind("[::]:0").or_else(|_| TcpListener::bind("0.0.0.0:0"));
    let occupied = occupied.expect("a port");
    let port = occupied.local_addr().expect("its address").port();
    let (succeeded, _, error) = one.virsh(&[&migrate(&two, port, "")]);
    assert!(!succeeded && error.contains("Address already in use"), "{error}");
    assert!(one.does(&[state]).contains("running"), "it goes on where it was");

    one.does(&[&migrate(&two, free_port(), "--undefinesource --persistent")]);
    assert!(two.does(&[state]).contains("running (migrated)"));
    assert!(!one.does(&["list --all"]).contains(" vm "), "it is there no more");
    let status = two.does(&["qemu-monitor-command vm --hmp info status"]);
    assert!(status.contains("VM status: running"), "{status}");

    // Back, paused, over several connections that the emulator makes itself.
    two.does(&["suspend vm"]);
    two.does(&[&migrate(&one, free_port(), "--parallel --parallel-connections 2")]);
    assert!(one.does(&[state]).contains("paused"));
    one.does(&["resume vm", "destroy vm"]);
    assert!(two.does(&[state, "undefine vm"]).contains("shut off (migrated)"));
}
