//! What runs in the Linux guest while it moves: programs that check themselves, and a clock that
//! ticks to the outside.
//!
//! Each program counts its rounds in `/t/n.NAME`, and writes what is wrong to `/t/fault`.

use std::io::Read;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::harness::debian::{Shell, sha256};
use crate::harness::poll;

/// Random memory whose sums are known, in files of 4 MiB.
const FILES: u32 = 16;
/// Bytes of a block on the disk, and how many there are.
const BLOCK: usize = 1 << 20;
const BLOCKS: usize = 8;
pub const DISK: usize = BLOCK * BLOCKS;

/// Microseconds of the wall clock, by `clock_gettime`.
const NOW: &str = r#"now() { t=$EPOCHREALTIME; t=${t%.*}${t#*.}; }"#;

const PROGRAMS: [(&str, &str); 6] = [
    ("counter", "n=0; while :; do n=$((n+1)); echo $n >/t/n.counter; usleep 1000; done"),
    (
        "memory",
        r#"n=0
while :; do
    md5sum -c -s /t/sums || echo "memory: a sum differs in round $n" >>/t/fault
    cat /t/data/$((n % 4)) >/t/copy
    cmp -s /t/copy /t/data/$((n % 4)) || echo "memory: a copy differs in round $n" >>/t/fault
    n=$((n+1)); echo $n >/t/n.memory
    usleep 300000
done"#,
    ),
    (
        // A sleep takes no less than it should, and no clock goes back.
        "timers",
        r#". /t/now
n=0; now; last=$t; lastup=0
while :; do
    usleep 20000
    now
    [ $((t - last)) -ge 19999 ] || echo "timers: slept $((t - last)) us" >>/t/fault
    last=$t
    read up rest </proc/uptime; up=${up%.*}${up#*.}
    [ "$up" -ge "$lastup" ] || echo "timers: up $up after $lastup" >>/t/fault
    lastup=$up
    n=$((n+1)); echo $n >/t/n.timers
done"#,
    ),
    (
        "server",
        r#"n=0
while read x; do
    [ "$x" = $n ] || echo "server: $x in place of $n" >>/t/fault
    n=$((n+1)); echo $n
done
echo "server: the connection has ended after $n" >>/t/fault"#,
    ),
    (
        "client",
        r#"n=0
while :; do
    echo $n
    read x || { echo "client: the connection has ended after $n" >>/t/fault; exit; }
    n=$((n+1))
    [ "$x" = $n ] || echo "client: $x in place of $n" >>/t/fault
    echo $n >/t/n.client
    usleep 2000
done"#,
    ),
    (
        // What is read back comes from the disk.
        "disk",
        r#"n=0
while [ ! -e /t/stop ]; do
    at=$((n % 8))
    dd if=/t/data/$((n % 16)) of=/dev/vda bs=1M count=1 seek=$at conv=fsync,notrunc 2>/dev/null
    echo 1 >/proc/sys/vm/drop_caches
    dd if=/dev/vda bs=1M count=1 skip=$at 2>/dev/null >/t/back
    head -c 1048576 /t/data/$((n % 16)) | cmp -s - /t/back ||
        echo "disk: block $at differs in round $n" >>/t/fault
    n=$((n+1)); echo $n >/t/n.disk
    usleep 100000
done
touch /t/stopped"#,
    ),
];
/// Those that count.
const COUNTED: [&str; 5] = ["counter", "memory", "timers", "client", "disk"];

/// Start it all.
pub fn start(shell: &mut Shell<'_>) {
    shell.run("mkdir -p /t; mount -t tmpfs -o size=100m t /t; mkdir /t/data; ip link set lo up");
    let fill = format!(
        "for i in $(seq 0 {}); do head -c 4194304 /dev/urandom >/t/data/$i; done; \
         md5sum /t/data/* >/t/sums",
        FILES - 1
    );
    shell.run(&fill);
    shell.run(&format!("cat >/t/now <<'EOF'\n{NOW}\nEOF"));
    for (name, program) in PROGRAMS {
        shell.run(&format!("cat >/t/{name} <<'EOF'\n{program}\nEOF"));
    }
    shell.run("stty raw -echo </dev/hvc0");
    // In shells of their own: this one says nothing when one of them ends.
    shell.run(
        "(n=0; while :; do echo $n $EPOCHREALTIME; n=$((n+1)); usleep 10000; done >/dev/hvc0 &)",
    );
    shell.run("(nc -l -p 7000 -e sh /t/server &)");
    shell.run("for p in counter memory timers disk; do (sh /t/$p &); done");
    shell.run("(until nc 127.0.0.1 7000 -e sh /t/client; do usleep 100000; done 2>/dev/null &)");
}

/// How many rounds each program has made.
pub type Counts = [u64; COUNTED.len()];

/// Nothing is wrong so far, and no program is behind where it was.
pub fn counts(shell: &mut Shell<'_>, before: &Counts) -> Counts {
    assert_eq!(shell.run("cat /t/fault 2>/dev/null"), "");
    let mut counts = *before;
    for (count, name) in counts.iter_mut().zip(COUNTED) {
        // Between two rounds the file is empty.
        let now = poll(name, || shell.run(&format!("cat /t/n.{name} 2>&1")).trim().parse().ok());
        assert!(now >= *count, "{name}: {now} after {count}");
        *count = now;
    }
    counts
}

/// Every program goes on from where it was.
pub fn goes_on(shell: &mut Shell<'_>, before: &Counts) -> Counts {
    let first = counts(shell, before);
    poll("each program's next round", || {
        let now = counts(shell, &first);
        now.iter().zip(&first).all(|(now, first)| now > first).then_some(now)
    })
}

/// End what writes to the disk; the sums of what its blocks have to contain.
pub fn blocks(shell: &mut Shell<'_>) -> Vec<String> {
    shell.run("touch /t/stop");
    shell.run("until [ -e /t/stopped ]; do usleep 100000; done");
    let rounds: usize = shell.run("cat /t/n.disk").trim().parse().expect("a count");
    let last = |block| (0..rounds).rev().find(|round| round % BLOCKS == block);
    let written = (0..BLOCKS).map(|block| match last(block) {
        Some(round) => format!("head -c {BLOCK} /t/data/{}", round % FILES as usize),
        None => format!("head -c {BLOCK} /dev/zero"),
    });
    written.map(|block| shell.run(&format!("{block} | sha256sum | cut -c 1-64"))).collect()
}

/// The sums of the blocks of an image.
pub fn sums(image: &[u8]) -> Vec<String> {
    image.chunks(BLOCK).map(|block| sha256(block) + "\n").collect()
}

/// What has come, and when.
type Chunks = Vec<(Instant, Vec<u8>)>;

/// The ticks that come out of one side, each with when it came.
pub struct Ticks {
    chunks: Arc<Mutex<Chunks>>,
    reader: JoinHandle<()>,
}

impl Ticks {
    pub fn of(mut console: UnixStream) -> Self {
        let chunks = Arc::new(Mutex::new(Vec::new()));
        let into = Arc::clone(&chunks);
        let reader = std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = console.read(&mut buffer) {
                into.lock().expect("a list").push((Instant::now(), buffer[..count].to_vec()));
            }
        });
        Self { chunks, reader }
    }

    /// Whether any have come.
    pub fn come(&self) -> bool {
        !self.chunks.lock().expect("a list").is_empty()
    }

    /// All of them, up to the end of the process.
    fn rest(self) -> Chunks {
        self.reader.join().expect("a reader");
        std::mem::take(&mut self.chunks.lock().expect("a list"))
    }
}

/// The ticks of one guest, wherever it was.
#[derive(Default)]
pub struct Clock {
    /// What has come of a line that is not whole.
    begun: Vec<u8>,
    next: u64,
    /// The last tick: the host's time, and the guest's in µs.
    last: Option<(Instant, u64)>,
    /// The longest between two ticks on one side.
    usual: Duration,
}

/// The longest between two ticks, of which the first came from one side and the second from the
/// other: by the host's clock, and by the guest's.
#[derive(Debug, Clone, Copy)]
pub struct Gap {
    pub host: Duration,
    pub guest: Duration,
    /// What there was between two ticks on one side, so far.
    pub usual: Duration,
}

impl Clock {
    /// Take what came out of a side that has ended. Not a byte may be missing or come twice.
    pub fn take(&mut self, ticks: Ticks) -> Option<Gap> {
        let mut crossed = None;
        let mut here = false;
        for (at, bytes) in ticks.rest() {
            for byte in bytes {
                if byte != b'\n' {
                    self.begun.push(byte);
                    continue;
                }
                let line = String::from_utf8(std::mem::take(&mut self.begun)).expect("text");
                let mut words = line.trim_end().split(' ');
                let number: Option<u64> = words.next().and_then(|word| word.parse().ok());
                assert_eq!(number, Some(self.next), "ticks: {line:?}");
                let time = words.next().map(|word| word.replace('.', ""));
                let micros: u64 = time.and_then(|t| t.parse().ok()).expect("a time");
                if let Some((before, last)) = self.last {
                    assert!(micros >= last, "the guest's clock goes back from {last} to {micros}");
                    let host = at.saturating_duration_since(before);
                    let guest = Duration::from_micros(micros - last);
                    if here {
                        self.usual = self.usual.max(host).max(guest);
                    } else {
                        crossed = Some(Gap { host, guest, usual: self.usual });
                    }
                }
                here = true;
                self.next += 1;
                self.last = Some((at, micros));
            }
        }
        crossed
    }
}
