//! A Linux guest that checks itself goes from process to process over every channel, and nothing
//! is lost on the way: no byte of memory or of the disk, no segment of a connection, no tick.

use std::os::unix::net::UnixStream;
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::certificates::{authority, credentials, expose, secure};
use crate::descriptors::{MONITOR, Passing};
use crate::harness::debian::{self, Guest, Shell, linux};
use crate::harness::poll;
use crate::load::{self, Clock, Counts, Ticks};
use crate::proxy::Proxy;
use crate::side::Side;

/// What the guest may be late by besides the downtime, on a machine that is busy.
const LATE: Duration = Duration::from_secs(2);

/// How a guest goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Tcp,
    Unix,
    Exec,
    Fd,
    File,
    Tls,
}

#[derive(Debug, Clone, Copy)]
struct Leg {
    way: Way,
    capabilities: &'static [&'static str],
    /// Bytes a second; 0 is no limit.
    bandwidth: u64,
    /// The guest goes before its memory, and loses its line on the way so often.
    postcopy: Option<u32>,
}

const fn leg(way: Way, capabilities: &'static [&'static str]) -> Leg {
    Leg { way, capabilities, bandwidth: 0, postcopy: None }
}

const fn postcopy(way: Way, losses: u32) -> Leg {
    Leg { way, capabilities: &["postcopy-ram"], bandwidth: 50_000_000, postcopy: Some(losses) }
}

const LEGS: [Leg; 11] = [
    leg(Way::Tcp, &["return-path"]),
    Leg {
        way: Way::Unix,
        capabilities: &["xbzrle", "auto-converge", "return-path"],
        bandwidth: 100_000_000,
        postcopy: None,
    },
    leg(Way::Exec, &[]),
    leg(Way::Fd, &["return-path"]),
    leg(Way::File, &[]),
    leg(Way::Tls, &["return-path", "switchover-ack"]),
    postcopy(Way::Tcp, 0),
    leg(Way::Tcp, &["multifd", "return-path"]),
    postcopy(Way::Tcp, 2),
    postcopy(Way::Tls, 0),
    leg(Way::Tcp, &[]),
];
const CAPABILITIES: [&str; 6] =
    ["xbzrle", "auto-converge", "return-path", "switchover-ack", "multifd", "postcopy-ram"];

/// Where the guest is.
struct Here {
    side: Side,
    ticks: Ticks,
}

struct Journey {
    guest: &'static Guest,
    root: TempDir,
    clock: Clock,
    counts: Counts,
    /// The move that the next tick comes after: its leg, and the downtime that it told.
    crossing: Option<(Leg, Duration)>,
    moves: u32,
    longest: Duration,
    /// The guest has come here over a line that was lost.
    lost: bool,
}

impl Journey {
    fn new(guest: &'static Guest) -> Self {
        let root = tempfile::tempdir().expect("a directory");
        std::fs::write(root.path().join("disk"), vec![0; load::DISK]).expect("an image");
        let ours = authority("our CA");
        for (dir, host) in [("server", "127.0.0.1"), ("client", "client")] {
            credentials(&root.path().join(dir), dir, host, 2120, &ours, &ours);
        }
        Self {
            guest,
            root,
            clock: Clock::default(),
            counts: Counts::default(),
            crossing: None,
            moves: 0,
            longest: Duration::ZERO,
            lost: false,
        }
    }

    fn start(&self, words: &str) -> (Side, Ticks) {
        let words = format!(
            "-smp 2 -display none -serial unix:serial,server=on,wait=off \
             -qmp unix:qmp,server=on,wait=off {MONITOR} \
             -device virtio-serial-device -chardev socket,id=t,path=ticks,server=on,wait=off \
             -device virtconsole,chardev=t -device virtio-rng-device \
             -drive file={}/disk,format=raw,if=none,id=d -device virtio-blk-device,drive=d {words}",
            self.root.path().display()
        );
        let side = Side::start(linux(self.guest, &words, ""));
        let path = side.machine.path("ticks");
        let console = poll("the ticks", || UnixStream::connect(&path).ok());
        (side, Ticks::of(console))
    }

    /// Boot, and start what is to go on for as long as the guest lives.
    fn boot(&mut self) -> Here {
        let (mut side, ticks) = self.start("");
        poll("a shell", || {
            side.serial.send("\n");
            let seen = side.serial.within(Duration::from_millis(300));
            seen.windows(2).any(|two| two == b"# ").then_some(())
        });
        load::start(&mut Shell::begun(&mut side.serial));
        poll("the first tick", || ticks.come().then_some(()));
        self.counts = load::goes_on(&mut Shell(&mut side.serial), &self.counts);
        Here { side, ticks }
    }

    /// Go on.
    fn go(&mut self, here: Here, leg: Leg) -> Here {
        let Here { side: mut source, ticks } = here;
        let (mut destination, new_ticks) = self.start("-incoming defer");
        for side in [&mut source, &mut destination] {
            let all = CAPABILITIES
                .map(|name| json!({"capability": name, "state": leg.capabilities.contains(&name)}));
            side.qmp.execute_with("migrate-set-capabilities", json!({"capabilities": all}));
            side.set(json!({"max-bandwidth": leg.bandwidth}));
            if leg.capabilities.contains(&"multifd") {
                side.set(json!({"multifd-channels": 3, "multifd-compression": "zstd"}));
            }
        }
        let root = self.root.path().display().to_string();
        let mut proxy = None;
        match leg.way {
            Way::Tcp => {
                let port = destination.listen("tcp:127.0.0.1:0").expect("a port");
                proxy = Some(Proxy::tcp(port));
            }
            Way::Unix => {
                let [from, to] = ["from", "to"].map(|name| destination.machine.path(name));
                destination.listen(&format!("unix:{}", to.display()));
                proxy = Some(Proxy::unix(&from, to));
            }
            Way::Exec => {
                let fifo = format!("{root}/fifo");
                if !std::fs::exists(&fifo).expect("a look") {
                    rustix::fs::mknodat(
                        rustix::fs::CWD,
                        &fifo,
                        rustix::fs::FileType::Fifo,
                        0o600.into(),
                        0,
                    )
                    .expect("a pipe");
                }
                destination.listen(&format!("exec:cat {fifo}"));
                source.migrate(&format!("exec:cat >{fifo}"));
            }
            Way::Fd => {
                let (from, to) = UnixStream::pair().expect("sockets");
                Passing::to(&source).name("line", from);
                Passing::to(&destination).name("line", to);
                Passing::to(&destination).listen("line");
                Passing::to(&source).migrate("line");
            }
            Way::File => {
                source.migrate(&format!("file:{root}/stream"));
                source.reaches("completed");
                destination.listen(&format!("file:{root}/stream"));
            }
            Way::Tls => {
                secure(&mut source, &self.root.path().join("client"), "client");
                secure(&mut destination, &self.root.path().join("server"), "server");
                let uri = destination.listen_tcp();
                source.migrate(&uri);
            }
        }
        if let Some(proxy) = &proxy {
            source.migrate(&proxy.uri);
        }
        if let Some(losses) = leg.postcopy {
            source.reaches("active");
            // Slow enough to be interrupted.
            source.set(json!({"max-postcopy-bandwidth": if losses > 0 { 1_000_000 } else { 0 }}));
            source.qmp.execute("migrate-start-postcopy");
            for loss in 0..losses {
                lose(&mut source, &mut destination, loss);
                // What was on its way is sent again.
                proxy = None;
            }
            source.set(json!({"max-postcopy-bandwidth": 0}));
        }
        let info = source.reaches("completed");
        destination.reaches("completed");
        assert_eq!(source.qmp.status(), "postmigrate");
        assert_eq!(destination.qmp.status(), "running");
        self.figures(leg, &info, proxy.as_ref());
        if leg.way == Way::Tls {
            expose(&mut destination);
        }
        source.qmp.execute("quit");
        assert_eq!(source.machine.exit_code(), 0);
        // What either end says of a line that is lost stays on its standard error.
        let loses = leg.postcopy.unwrap_or(0) > 0;
        if !std::mem::replace(&mut self.lost, loses) && !loses {
            assert_eq!(source.machine.errors(), "", "{leg:?}");
        }

        self.ticked(ticks);
        let downtime = info["downtime"].as_u64().expect("milliseconds");
        // A guest that has lost its line waits for it.
        let crossing = Some((leg, Duration::from_millis(downtime)));
        self.crossing = crossing.filter(|_| leg.postcopy.unwrap_or(0) == 0);
        self.moves += 1;
        self.counts = load::counts(&mut Shell(&mut destination.serial), &self.counts);
        Here { side: destination, ticks: new_ticks }
    }

    /// The figures are those of the line.
    fn figures(&self, leg: Leg, info: &Value, proxy: Option<&Proxy>) {
        let ram = &info["ram"];
        let number = |name: &str| ram[name].as_u64().unwrap_or_else(|| panic!("{name}: {info}"));
        if let Some(proxy) = proxy {
            assert_eq!(number("transferred"), proxy.forward(), "{leg:?}: {info}");
        }
        if leg.way == Way::File {
            let stream = self.root.path().join("stream");
            let length = std::fs::metadata(stream).expect("a stream").len();
            assert_eq!(number("transferred"), length, "{info}");
        }
        // Noise cannot be packed: it is in the stream whole.
        assert!(number("transferred") > 60 << 20, "{leg:?}: {info}");
        let parts = ["precopy-bytes", "downtime-bytes", "postcopy-bytes"].map(number);
        assert_eq!(number("transferred"), parts.iter().sum::<u64>(), "{leg:?}: {info}");
        assert_eq!(leg.postcopy.is_some(), number("postcopy-bytes") > 0, "{leg:?}: {info}");
        assert_eq!(number("normal-bytes"), number("normal") * 4096, "{leg:?}: {info}");
        assert_eq!(number("remaining"), 0, "{leg:?}: {info}");
        assert!(number("total") > 256 << 20, "{leg:?}: {info}");
        if leg.capabilities.contains(&"xbzrle") {
            let cache = &info["xbzrle-cache"];
            assert!(cache["cache-size"].as_u64() > Some(0), "{info}");
        }
        if leg.capabilities.contains(&"multifd") {
            // Everything but the devices and what heads the pieces goes beside the main channel.
            assert!(number("multifd-bytes") > 60 << 20, "{info}");
        }
    }

    /// What came out of a side that has ended goes on from what came out of the one before, and
    /// that move took no longer than it told.
    fn ticked(&mut self, ticks: Ticks) {
        let (Some(gap), Some((leg, downtime))) = (self.clock.take(ticks), self.crossing) else {
            return;
        };
        let most = downtime + gap.usual + LATE;
        assert!(gap.guest <= most, "{leg:?}: {gap:?} at a downtime of {downtime:?}");
        // A file waits to be read.
        assert!(
            leg.way == Way::File || gap.host <= most,
            "{leg:?}: {gap:?} at a downtime of {downtime:?}"
        );
        self.longest = self.longest.max(downtime);
    }

    /// Everything has arrived: the guest is whole, and so is the disk.
    fn end(&mut self, here: Here) {
        let Here { side: mut last, ticks } = here;
        let shell = &mut Shell(&mut last.serial);
        load::goes_on(shell, &self.counts);
        let blocks = load::blocks(shell);
        assert_eq!(shell.run("cat /t/fault 2>/dev/null"), "");
        shell.0.send("poweroff -f\n");
        shell.0.expect("reboot: Power down");
        assert_eq!(last.machine.exit_code(), 0);
        assert_eq!(last.machine.errors(), "");
        self.ticked(ticks);
        let image = std::fs::read(self.root.path().join("disk")).expect("the image");
        assert_eq!(load::sums(&image), blocks);
    }

    /// Go as often as this, over one leg after the other.
    fn travel(&mut self, moves: usize) {
        let mut here = self.boot();
        for leg in LEGS.into_iter().cycle().take(moves) {
            here = self.go(here, leg);
            if self.moves.is_multiple_of(100) {
                eprintln!("{} moves, longest downtime {:?}", self.moves, self.longest);
            }
        }
        self.end(here);
        eprintln!("{} moves, longest downtime {:?}", self.moves, self.longest);
    }
}

/// The line of a postcopy is lost while the guest runs, and another is found. Meanwhile both
/// machines can be talked to, and the guest can be stopped.
fn lose(source: &mut Side, destination: &mut Side, loss: u32) {
    for side in [&mut *source, &mut *destination] {
        side.reaches("postcopy-active");
    }
    let paused = if loss.is_multiple_of(2) { &mut *source } else { &mut *destination };
    paused.qmp.execute("migrate-pause");
    for side in [&mut *source, &mut *destination] {
        let info = side.reaches("postcopy-paused");
        assert!(info["error-desc"].is_string(), "{info}");
    }
    destination.qmp.execute("query-cpus-fast");
    destination.qmp.execute("stop");
    let human = |line: &str| json!({"command-line": line});
    for line in ["info registers", "x /4x $sp", "xp /4x 0x80200000"] {
        let text = destination.qmp.execute_with("human-monitor-command", human(line));
        assert!(!text.as_str().expect("text").is_empty(), "{line}");
    }
    destination.qmp.execute("cont");
    let uri = json!({"uri": "tcp:127.0.0.1:0"});
    destination.qmp.execute_with("migrate-recover", uri);
    let port = destination.query()["socket-address"][0]["port"].as_str().map(str::to_owned);
    let uri = format!("tcp:127.0.0.1:{}", port.expect("a port"));
    source.qmp.execute_with("migrate", json!({"uri": uri, "resume": true}));
}

#[test]
fn over_every_channel() {
    let Some(guest) = debian::guest() else { return };
    Journey::new(guest).travel(LEGS.len());
}

/// The long run; see README.
#[test]
#[ignore = "takes a quarter of an hour"]
fn to_and_fro() {
    let Some(guest) = debian::guest() else { return };
    let moves = std::env::var("UNDERSTUDY_MOVES").map_or(1000, |text| text.parse().expect("moves"));
    Journey::new(guest).travel(moves);
}
