//! HMP sessions and commands.

use std::sync::Arc;

use actix::Addr;
use understudy::chardev::message::CharEvent;
use understudy::hmp::session;
use understudy::machine::message::{MachineTree, MemoryNode, RomNode, RunState};
use understudy::qmp::link::MachineInfo;
use understudy::qmp::monitor::{ExecuteHuman, Monitor};
use understudy::qom::{Node, Qom};

use crate::harness::{MockVm, RAM_BASE, Terminal, With, bytes_of, info, monitor, monitor_with};

const BANNER: &str = "QEMU 10.0.2 monitor - type 'help' for more information\r\n";

async fn run(monitor: &Addr<Monitor>, lines: &[(&str, &str)]) {
    let mut state = Default::default();
    for (line, expected) in lines {
        let reply = monitor
            .send(ExecuteHuman { line: (*line).into(), state, passed: Default::default() })
            .await
            .unwrap();
        assert_eq!(reply.text, *expected, "{line}");
        state = reply.state;
    }
}

#[actix::test]
async fn a_session_on_a_socket() {
    let vm = MockVm { state: RunState::Running, ..Default::default() };
    let (vm, monitor) = monitor(vm);
    let (backend, mut terminal) = Terminal::new();
    session::attach(backend, session::MonitorLink::to(&monitor));
    terminal.event(CharEvent::Opened).await;
    assert_eq!(terminal.until("(qemu) ").await, format!("{BANNER}(qemu) "));
    terminal.type_bytes(b"c\r\n").await;
    assert_eq!(terminal.until("(qemu) \r\n(qemu) ").await, "c\x1b[K\r\n(qemu) \r\n(qemu) ");
    terminal.type_bytes(b"?\x08info status\n").await;
    let echoed = terminal.until("(qemu) ").await;
    assert!(echoed.ends_with("info status\x1b[K\r\nVM status: running\r\n(qemu) "), "{echoed:?}");
    // Another client gets a banner of its own and none of the first one's line.
    terminal.type_bytes(b"half a li").await;
    terminal.rest().await;
    terminal.event(CharEvent::Closed).await;
    terminal.event(CharEvent::Opened).await;
    assert_eq!(terminal.until("(qemu) ").await, format!("{BANNER}(qemu) "));
    // Nothing follows the command that ends the process.
    terminal.type_bytes(b"q\n").await;
    assert_eq!(terminal.rest().await, b"q\x1b[K\r\n");
    let seen = Box::new(|vm: &mut MockVm| assert_eq!(vm.shutdowns.len(), 1));
    vm.send(With(seen)).await.unwrap();
}

/// As `-nographic` has it: the banner waits for the focus, and a line does not survive losing it.
#[actix::test]
async fn a_session_behind_a_mux() {
    let (_vm, monitor) = monitor(MockVm::default());
    let (backend, mut terminal) = Terminal::new();
    session::attach(backend, session::MonitorLink::to(&monitor));
    terminal.event(CharEvent::MuxOut).await;
    terminal.event(CharEvent::Opened).await;
    assert_eq!(terminal.rest().await, b"");
    terminal.event(CharEvent::MuxIn).await;
    assert_eq!(terminal.until("(qemu) ").await, format!("{BANNER}(qemu) "));
    terminal.type_bytes(b"in").await;
    assert_eq!(terminal.rest().await, b"i\x1b[K\x1b[Din\x1b[K");
    terminal.event(CharEvent::MuxOut).await;
    assert_eq!(terminal.rest().await, b"\r\n");
    terminal.event(CharEvent::MuxIn).await;
    terminal.type_bytes(b"p 1\r").await;
    let expected = "(qemu) p\x1b[K\x1b[Dp \x1b[K\x1b[D\x1b[Dp 1\x1b[K\r\n0x1\r\n(qemu) ";
    assert_eq!(String::from_utf8(terminal.rest().await).unwrap(), expected);
}

/// Transcript D31: every byte that comes back for each burst of keys.
#[actix::test]
async fn echo() {
    let (_vm, monitor) = monitor(MockVm { state: RunState::Running, ..Default::default() });
    let (backend, mut terminal) = Terminal::new();
    session::attach(backend, session::MonitorLink::to(&monitor));
    terminal.event(CharEvent::Opened).await;
    terminal.until("(qemu) ").await;
    for line in include_str!("data/echo.txt").lines() {
        if let Some(keys) = line.strip_prefix("C: ") {
            terminal.type_bytes(&bytes_of(keys)).await;
        } else if let Some(expected) = line.strip_prefix("S: ") {
            let found = terminal.rest().await;
            assert_eq!(
                found.escape_ascii().to_string(),
                bytes_of(expected).escape_ascii().to_string()
            );
        }
    }
}

#[actix::test]
async fn command_lines() {
    let (_vm, monitor) = {
        let mut vm = MockVm { state: RunState::Running, ..Default::default() };
        vm.ram[..3].copy_from_slice(&[2, 4, 1]);
        monitor(vm)
    };
    run(
        &monitor,
        &[
            ("", ""),
            ("   ", ""),
            ("nosuch", "unknown command: 'nosuch'\n"),
            ("# comment", "unknown command: '#'\n"),
            ("INFO status", "unknown command: 'INFO'\n"),
            ("info  nosuch x", "unknown command: 'info  nosuch'\n"),
            ("info  status", "VM status: running\n"),
            (
                "info status extra",
                "status: extraneous characters at the end of line\nTry \"help info status\" for more information\n",
            ),
            (
                "stop extra",
                "stop|s: extraneous characters at the end of line\nTry \"help stop\" for more information\n",
            ),
            ("s", ""),
            ("info status", "VM status: paused\n"),
            ("system_reset", ""),
            ("info status", "VM status: paused (prelaunch)\n"),
            ("x", "unexpected end of expression\nTry \"help x\" for more information\n"),
            ("info name", ""),
            ("info uuid", "00000000-0000-0000-0000-000000000000\n"),
            ("info kvm", "kvm support: not compiled\n"),
            ("cpu 1", ""),
            ("info cpus", "  CPU #0: thread_id=100\n* CPU #1: thread_id=101\n"),
            ("cpu 9", "invalid CPU index\n"),
            ("info registers 5", "CPU#5 not available\n"),
            ("info mem", "No translation or protection\n"),
            ("log int,in_asm", ""),
            ("logfile a%b", "Bad logfile template: a%b\n"),
            (
                "logfile /nonexistent/x",
                "Error opening logfile /nonexistent/x: No such file or directory\n",
            ),
            ("gva2gpa 0", "gpa: 0\n"),
            ("gva2gpa 0x80000010", "gpa: 0x10\n"),
            ("gva2gpa 0x2000", "Unmapped\n"),
            ("gpa2hva 0", "No memory is mapped at address 0x0\n"),
            ("gpa2hva 0x1000", "Memory at address 0x1000 is not RAM\n"),
            ("gpa2hva 0x80000000", "Host virtual address for 0x80000000 (ram) is 0x80000010\n"),
            ("sum 0 1", "00000\n"),
            ("sum 0x80000000 3", "32771\n"),
            (
                "one-insn-per-tb",
                "This accelerator does not support setting one-insn-per-tb\n",
            ),
            ("dumpdtb x", "Error: This machine doesn't have an FDT\n"),
            ("help nosuch", "unknown command: 'nosuch'\n"),
            ("help info nosuch", "unknown command: 'info nosuch'\n"),
            ("help cont x", "cont|c  -- let the guest run\n"),
            ("help info uuid", "info uuid  -- the machine's UUID\n"),
            ("memsave 0 1 \"/nonexistent/x\"", "Error: Could not open '/nonexistent/x': No such file or directory\n"),
        ],
    )
    .await;
    let info = monitor
        .send(ExecuteHuman {
            line: "info".into(),
            state: Default::default(),
            passed: Default::default(),
        })
        .await
        .unwrap()
        .text;
    let help = monitor
        .send(ExecuteHuman {
            line: "? info".into(),
            state: Default::default(),
            passed: Default::default(),
        })
        .await
        .unwrap()
        .text;
    assert!(info == help && info.lines().all(|line| line.starts_with("info ")), "{info}");
    let bad = monitor
        .send(ExecuteHuman {
            line: "log x".into(),
            state: Default::default(),
            passed: Default::default(),
        })
        .await
        .unwrap()
        .text;
    let help = monitor
        .send(ExecuteHuman {
            line: "help log".into(),
            state: Default::default(),
            passed: Default::default(),
        })
        .await
        .unwrap()
        .text;
    assert!(bad == help && bad.starts_with("Log items (comma separated):\nnone   "), "{bad}");
}

/// OpenSBI's first instructions, as QEMU shows them.
#[actix::test]
async fn memory_dumps() {
    let mut vm = MockVm::default();
    for (i, word) in
        [0x0005_0433u32, 0x0005_84b3, 0x0006_0933, 0x65c0_00ef, 0x8082].iter().enumerate()
    {
        vm.ram[i * 4..i * 4 + 4].copy_from_slice(&word.to_le_bytes());
    }
    vm.hart.pc = RAM_BASE;
    vm.hart.x[10] = 42;
    let (_vm, monitor) = monitor(vm);
    run(
        &monitor,
        &[
            ("xp/4xw 0x80000000", "0000000080000000: 0x00050433 0x000584b3 0x00060933 0x65c000ef\n"),
            ("xp/3xb 0x80000001", "0000000080000001: 0x04 0x05 0x00\n"),
            ("xp/2xh 0x80000000", "0000000080000000: 0x0433 0x0005\n"),
            (
                "xp/3xg 0x80000000",
                "0000000080000000: 0x000584b300050433 0x65c000ef00060933\n0000000080000010: 0x0000000000008082\n",
            ),
            ("x 0x80000000", "0000000080000000: 0x000584b300050433\n"),
            ("x/2d 0x80000000", "0000000080000000:     1553279217894451  7331861219856746803\n"),
            (
                "x/1c 0x80000000",
                "0000000080000000: '3' '\\x04' '\\x05' '\\x00' '\\xb3' '\\x84' '\\x05' '\\x00'\n",
            ),
            ("x/0x 0", ""),
            ("x/x 0", "0000000000000000: Cannot access memory\n"),
            ("xp/x 0xfffffffffffffff0", "fffffffffffffff0: Cannot access memory\n"),
            (
                "x/2i $pc",
                "0x80000000:  00050433          add                     s0,a0,zero\n0x80000004:  000584b3          add                     s1,a1,zero\n",
            ),
            ("x/1i $pc+16", "0x80000010:  8082              ret                     \n"),
            ("p/i 4", "4\n"),
            ("p/d -1", "-1\n"),
            ("p/u -1", "18446744073709551615\n"),
            ("p/c 65", "'A'\n"),
            ("p/o 8", "010\n"),
            ("p 'a'", "0141\n"),
            ("p/x $a0 + $x10", "0x54\n"),
            ("p $mip", "0x80\n"),
            ("p $nosuch", "unknown register\nTry \"help p\" for more information\n"),
            ("p 1 1", "print|p: extraneous characters at the end of line\nTry \"help p\" for more information\n"),
        ],
    )
    .await;
}

#[actix::test]
async fn registers_are_laid_out_as_qemu_lays_them_out() {
    let mut vm = MockVm::default();
    vm.hart.pc = 0x8000_04f0;
    vm.hart.x[31] = 4;
    vm.hart.f[31] = 0xffff_ffff_0000_0000;
    vm.hart.frm = 1;
    vm.hart.fflags = 3;
    let (_vm, monitor) = monitor(vm);
    let one = monitor
        .send(ExecuteHuman {
            line: "info registers".into(),
            state: Default::default(),
            passed: Default::default(),
        })
        .await
        .unwrap();
    let lines: Vec<&str> = one.text.lines().collect();
    assert_eq!(
        lines[..4],
        ["", "CPU#0", " pc       00000000800004f0", " mhartid  0000000000000000"]
    );
    assert_eq!(lines[5], " mip      0000000000000080");
    assert_eq!(lines[19], " satp     0000000000000000");
    assert_eq!(
        lines[27],
        " x28/t3   0000000000000000 x29/t4   0000000000000000 x30/t5   0000000000000000 x31/t6   0000000000000004"
    );
    assert_eq!(lines[28], " fcsr     0000000000000023");
    assert_eq!(
        lines[36],
        " f28/ft8  0000000000000000 f29/ft9  0000000000000000 f30/ft10 0000000000000000 f31/ft11 ffffffff00000000"
    );
    let all = monitor
        .send(ExecuteHuman {
            line: "info registers -a".into(),
            state: Default::default(),
            passed: Default::default(),
        })
        .await
        .unwrap();
    assert_eq!(
        all.text,
        format!(
            "{}{}",
            one.text,
            one.text
                .replace("CPU#0", "CPU#1")
                .replace("mhartid  0000000000000000", "mhartid  0000000000000001")
        )
    );
}

/// Sv39: a gigapage, two pages that continue each other, one with other flags, and a table that
/// points to itself.
#[actix::test]
async fn page_tables() {
    let mut vm = MockVm::default();
    let mut entry = |table: usize, index: usize, value: u64| {
        let at = table * 4096 + index * 8;
        vm.ram[at..at + 8].copy_from_slice(&value.to_le_bytes());
    };
    let pointer = |table: u64| (RAM_BASE + table * 4096) >> 12 << 10 | 1;
    entry(0, 0, pointer(1));
    entry(1, 0, pointer(2));
    entry(2, 4, 0x80000 << 10 | 0xcf);
    entry(2, 5, 0x80001 << 10 | 0xcf);
    entry(2, 6, 0x80002 << 10 | 0x4b);
    entry(0, 510, 0x80000 << 10 | 0xef);
    entry(0, 511, 0);
    vm.hart.satp = 8 << 60 | RAM_BASE >> 12;
    let (vm, monitor) = monitor(vm);
    let head = "vaddr            paddr            size             attr\n---------------- ---------------- ---------------- -------\n";
    let last = "0000000000006000 0000000080002000 0000000000001000 r-x--a-\n\
                ffffffff80000000 0000000080000000 0000000040000000 rwx-gad\n";
    let merged = "0000000000004000 0000000080000000 0000000000002000 rwx--ad\n";
    let single = "0000000000004000 0000000080000000 0000000000001000 rwx--ad\n\
                  0000000000005000 0000000080001000 0000000000001000 rwx--ad\n";
    run(
        &monitor,
        &[
            ("info mem", &format!("{head}{merged}{last}")),
            ("info tlb", &format!("{head}{single}{last}")),
        ],
    )
    .await;
    // Every entry of the root leads back to it: the walk ends and says so.
    let circle = move |vm: &mut MockVm| {
        vm.ram[..4096].chunks_mut(8).for_each(|e| e.copy_from_slice(&pointer(0).to_le_bytes()));
        vm.hart.satp = 10 << 60 | RAM_BASE >> 12;
    };
    vm.send(With(Box::new(circle))).await.unwrap();
    run(&monitor, &[("info mem", &format!("{head}(there is more: too many page tables)\n"))]).await;
}

#[actix::test]
async fn trees() {
    let region = |start, end_inclusive, kind, name: &str| MemoryNode {
        start,
        end_inclusive,
        kind,
        name: name.into(),
    };
    let tree = MachineTree {
        memory: vec![
            region(0x8000_0000, 0x8fff_ffff, "ram", "riscv_virt_board.ram"),
            region(0x1000, 0xffff, "rom", "riscv_virt_board.mrom"),
        ],
        roms: vec![
            RomNode { addr: 0x1000, size: 0x28, name: "mrom.reset".into() },
            RomNode { addr: 0x8000_0000, size: 0x42868, name: "fw.bin".into() },
        ],
        ..Default::default()
    };
    let path = "/machine/unattached/device[0]";
    let bus = format!("{path}/virtio-mmio-bus.0");
    let at = |addr: u64, size: u64| {
        let region = Node::new("memory-region").with("container", "/machine/unattached/system[0]");
        region.with("addr", addr).with("size", size)
    };
    let mut slots = Node::new("virtio-mmio-bus");
    slots.holds_device("virtio-rng-device", "/machine/peripheral/rng0", 0);
    let mut transport = Node::new("virtio-mmio")
        .holding("virtio-mmio-bus.0", slots)
        .holding("virtio-mmio[0]", at(0x1000_1000, 0x200));
    transport.link("sysbus-irq[0]", "irq", "/machine/plic/unnamed-gpio-in[1]");
    let mut system = Node::new("System");
    system.holds_device("virtio-mmio", path, 0);
    let unattached = Node::new("container")
        .holding("sysbus", system)
        .holding("system[0]", Node::new("memory-region").with("size", u64::MAX))
        .holding("io[0]", Node::new("memory-region").with("size", 0x1_0000))
        .holding("riscv_virt_board.mrom[0]", at(0x1000, 0xf000))
        .holding("device[0]", transport);
    let rng = Node::new("virtio-rng-device").with("parent_bus", bus);
    let machine = Node::new("virt-machine")
        .holding("unattached", unattached)
        .holding("peripheral", Node::new("container").holding("rng0", rng));
    let info = MachineInfo { qom: Qom::new(machine, None), ..info() };
    let vm = MockVm { tree: Arc::new(tree), ..Default::default() };
    let (_vm, monitor) = monitor_with(vm, info);
    run(
        &monitor,
        &[
            (
                "info mtree",
                "address-space: cpu-memory-0
address-space: cpu-memory-1
address-space: memory
  0000000000000000-ffffffffffffffff (prio 0, i/o): system
    0000000000001000-000000000000ffff (prio 0, rom): riscv_virt_board.mrom
    0000000010001000-00000000100011ff (prio 0, i/o): virtio-mmio

address-space: I/O
  0000000000000000-000000000000ffff (prio 0, i/o): io

",
            ),
            (
                "info mtree -f -d -o",
                "FlatView #0
 AS \"I/O\", root: io
 Root memory region: io
  0000000000000000-000000000000ffff (prio 0, i/o): io parent:{obj path=/machine/unattached}
  Dispatch
    Physical sections
      #0 @0000000000000000..ffffffffffffffff (noname) [unassigned]
      #1 @0000000000000000..000000000000ffff io

FlatView #1
 AS \"memory\", root: system
 AS \"cpu-memory-0\", root: system
 AS \"cpu-memory-1\", root: system
 Root memory region: system
  0000000000001000-000000000000ffff (prio 0, rom): riscv_virt_board.mrom \
                parent:{obj path=/machine/unattached}
  0000000010001000-00000000100011ff (prio 0, i/o): virtio-mmio \
                owner:{dev path=/machine/unattached/device[0]}
  Dispatch
    Physical sections
      #0 @0000000000000000..ffffffffffffffff (noname) [unassigned]
      #1 @0000000000001000..000000000000ffff riscv_virt_board.mrom
      #2 @0000000010001000..00000000100011ff virtio-mmio

",
            ),
            (
                "info mtree -x",
                "mtree: unsupported option -x\nTry \"help info mtree\" for more information\n",
            ),
            (
                "info qtree",
                "bus: main-system-bus
  type System
  dev: virtio-mmio, id \"\"
    gpio-out \"sysbus-irq\" 1
    format_transport_address = true
    force-legacy = true
    ioeventfd = true
    mmio 0000000010001000/0000000000000200
    bus: virtio-mmio-bus.0
      type virtio-mmio-bus
      dev: virtio-rng-device, id \"rng0\"
        max-bytes = 9223372036854775807 (0x7fffffffffffffff)
        period = 65536 (0x10000)
        indirect_desc = true
        event_idx = true
        notify_on_empty = true
        any_layout = true
        iommu_platform = false
        packed = false
        queue_reset = true
        in_order = false
        use-started = true
        use-disabled-flag = true
        x-disable-legacy-check = false
",
            ),
            (
                "info qtree -b",
                "bus: main-system-bus
  type System
  dev: virtio-mmio, id \"\"
    bus: virtio-mmio-bus.0
      type virtio-mmio-bus
      dev: virtio-rng-device, id \"rng0\"
",
            ),
            ("info irq", ""),
            ("info pic", ""),
            ("i/h 0x10", "portw[0x0010] = 0xffff\n"),
            ("i/w 0xfffd .7", "portl[0xfffe] = 0x0000ffff\n"),
            ("i/g 5", "portb[0x0005] = 0x00000000000000ff\n"),
            ("o/b 5 6", ""),
            ("info virtio", "Error: No virtio devices found\n"),
            ("info virtio-status rng0", "Error: Path rng0 is not a realized VirtIODevice\n"),
            (
                "info roms",
                "addr=0000000000001000 size=0x000028 mem=rom name=\"mrom.reset\"
addr=0000000080000000 size=0x042868 mem=ram name=\"fw.bin\"
",
            ),
        ],
    )
    .await;
}

/// What QEMU answers to the same lines.
#[actix::test]
async fn character_devices() {
    use understudy::chardev::spec::{ChardevKind, ChardevSpec};
    let info = info();
    for (id, kind, mux) in [
        ("m", ChardevKind::Null, true),
        ("n", ChardevKind::Null, false),
        ("r", ChardevKind::Ringbuf { size: 16 }, false),
    ] {
        let (id, origin) = (id.to_owned(), String::new());
        let spec = ChardevSpec { id, kind, mux, log: None, origin };
        info.chardevs.open(&spec, 1).await.unwrap();
    }
    let [front, other] = ["m", "n"].map(|id| info.chardevs.get(id).unwrap());
    let (_vm, monitor) = monitor_with(MockVm::default(), info);
    let errors = "Error: n is not a ringbuf device\n";
    run(
        &monitor,
        &[
            (
                "info chardev",
                "m: filename=mux\nm-base: filename=null\nr: filename=ringbuf\nn: filename=null\n",
            ),
            ("ringbuf_write r hé", ""),
            ("ringbuf_read r 100", "hé\n"),
            ("ringbuf_write r \"a\\\\b\"", ""),
            ("ringbuf_read r 2", "a\\\\\n"),
            ("ringbuf_read r 9", "b\n"),
            ("ringbuf_read r 9", "\n"),
            ("ringbuf_read n 1", errors),
            ("ringbuf_write n 1", errors),
            ("ringbuf_write zz a", "Error: Device 'zz' not found\n"),
            ("ringbuf_read r 0", "Error: size must be greater than zero\n"),
            ("chardev-send-break zz", "Error: Chardev 'zz' not found\n"),
            ("chardev-send-break n", ""),
        ],
    )
    .await;
    assert!(!front.has_front_end() && !other.has_front_end());
    let _front = front.front_end();
    assert!(front.has_front_end() && !other.has_front_end());
}
