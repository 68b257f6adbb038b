//! The device tree of `virt`, node by node and property by property as QEMU 10.0 makes it, for
//! what this machine has. Node order is QEMU's too: guests number devices by it.

use super::devicetree::{DeviceTree, Node};
use super::memory::RAM_BASE;
use super::memory_map as map;

/// Everything the tree depends on.
#[derive(Debug, Clone)]
pub struct FdtInput {
    /// Bytes of RAM at `RAM_BASE`.
    pub ram_size: u64,
    /// Number of harts, 1 or more.
    pub harts: u32,
    /// `time` frequency in Hz.
    pub timebase_hz: u32,
    pub isa: FdtIsa,
    pub has_flash: bool,
    /// `-M aclint=on`: MSWI, MTIMER and SSWI in place of one CLINT.
    pub aclint: bool,
    /// `/chosen/rng-seed`; fresh random bytes at every reset.
    pub rng_seed: [u8; 32],
}

/// What the tree says of every hart.
#[derive(Debug, Clone)]
pub struct FdtIsa {
    /// `riscv,isa`, such as `rv64imafdc_zicsr`.
    pub isa: String,
    /// `riscv,isa-extensions`.
    pub extensions: Vec<String>,
    /// `mmu-type` of the widest translation: `riscv,sv57`, `riscv,sv48`, `riscv,sv39`, `riscv,none`.
    pub mmu: &'static str,
    /// Cache-block size in bytes where Zicbom / Zicboz / Zicbop is implemented.
    pub cbom_block: Option<u32>,
    pub cboz_block: Option<u32>,
    pub cbop_block: Option<u32>,
    /// Bit n: `mhpmcounter n` is implemented. No `/pmu` node when 0.
    pub pmu_counters: u32,
}

/// Interrupt numbers within a hart (Privileged spec table 14).
const IRQ_S_SOFT: u32 = 1;
const IRQ_M_SOFT: u32 = 3;
const IRQ_M_TIMER: u32 = 7;
const IRQ_S_EXT: u32 = 9;
const IRQ_M_EXT: u32 = 11;

/// Phandles, given out in QEMU's order: harts from the last to the first, each followed by its
/// interrupt controller, then the PLIC, then the finisher.
struct Phandles {
    harts: u32,
}

impl Phandles {
    fn cpu(&self, hart: u32) -> u32 {
        2 * (self.harts - 1 - hart) + 1
    }
    fn intc(&self, hart: u32) -> u32 {
        self.cpu(hart) + 1
    }
    fn plic(&self) -> u32 {
        2 * self.harts + 1
    }
    fn finisher(&self) -> u32 {
        self.plic() + 1
    }
    /// `interrupts-extended` that gives each hart these interrupts.
    fn to_harts(&self, interrupts: &[u32]) -> Vec<u32> {
        (0..self.harts)
            .flat_map(|hart| interrupts.iter().flat_map(move |&irq| [self.intc(hart), irq]))
            .collect()
    }
}

/// Make the tree. `/chosen` gets the kernel's part from the loader (`loader::BootPlan`).
pub fn virt(input: &FdtInput) -> DeviceTree {
    let phandles = Phandles { harts: input.harts };
    let mut root = Node::new("");
    root.set_cells("#address-cells", &[2])
        .set_cells("#size-cells", &[2])
        .set_strings("compatible", &["riscv-virtio"])
        .set_strings("model", &["riscv-virtio,qemu"]);

    for (name, value) in [("poweroff", 0x5555), ("reboot", 0x7777)] {
        root.add(name)
            .set_cells("value", &[value])
            .set_cells("offset", &[0])
            .set_cells("regmap", &[phandles.finisher()])
            .set_strings("compatible", &[&format!("syscon-{name}")]);
    }
    root.add(format!("memory@{RAM_BASE:x}"))
        .set_strings("device_type", &["memory"])
        .set_ranges("reg", &[(RAM_BASE, input.ram_size)]);
    cpus(root.add("cpus"), input, &phandles);
    if input.isa.pmu_counters != 0 {
        pmu(root.add("pmu"), input.isa.pmu_counters);
    }
    root.add(format!("fw-cfg@{:x}", map::FW_CFG.base))
        .set_flag("dma-coherent")
        .set_ranges("reg", &[map::FW_CFG.pair()])
        .set_strings("compatible", &["qemu,fw-cfg-mmio"]);
    if input.has_flash {
        let (base, bank) = (map::FLASH.base, map::FLASH.size / 2);
        root.add(format!("flash@{base:x}"))
            .set_cells("bank-width", &[4])
            .set_ranges("reg", &[(base, bank), (base + bank, bank)])
            .set_strings("compatible", &["cfi-flash"]);
    }
    let uart = format!("/soc/serial@{:x}", map::UART.base);
    root.add("aliases").set_strings("serial0", &[&uart]);
    root.add("chosen").set_strings("stdout-path", &[&uart]).set("rng-seed", input.rng_seed);
    soc(root.add("soc"), &phandles, input.aclint);
    DeviceTree { root, ..DeviceTree::default() }
}

fn cpus(cpus: &mut Node, input: &FdtInput, phandles: &Phandles) {
    cpus.set_cells("#address-cells", &[1])
        .set_cells("#size-cells", &[0])
        .set_cells("timebase-frequency", &[input.timebase_hz]);
    let isa = &input.isa;
    for hart in 0..input.harts {
        let cpu = cpus.add(format!("cpu@{hart:x}"));
        cpu.set_cells("phandle", &[phandles.cpu(hart)])
            .set_strings("device_type", &["cpu"])
            .set_cells("reg", &[hart])
            .set_strings("status", &["okay"])
            .set_strings("compatible", &["riscv"]);
        for (name, size) in
            [("cbop", isa.cbop_block), ("cboz", isa.cboz_block), ("cbom", isa.cbom_block)]
        {
            if let Some(size) = size {
                cpu.set_cells(&format!("riscv,{name}-block-size"), &[size]);
            }
        }
        let extensions: Vec<&str> = isa.extensions.iter().map(String::as_str).collect();
        cpu.set_strings("riscv,isa-extensions", &extensions)
            .set_strings("riscv,isa-base", &["rv64i"])
            .set_strings("riscv,isa", &[&isa.isa])
            .set_strings("mmu-type", &[isa.mmu]);
        cpu.add("interrupt-controller")
            .set_cells("#interrupt-cells", &[1])
            .set_flag("interrupt-controller")
            .set_strings("compatible", &["riscv,cpu-intc"])
            .set_cells("phandle", &[phandles.intc(hart)]);
    }
    // QEMU's map knows one cluster a NUMA node and no threads, whatever `-smp` says.
    let cluster = cpus.add("cpu-map").add("cluster0");
    for hart in 0..input.harts {
        cluster.add(format!("core{hart:x}")).set_cells("cpu", &[phandles.cpu(hart)]);
    }
}

/// The event-to-counter map that OpenSBI reads: (first event, last event, counters). Cycles and
/// instructions also count in their fixed counters, 0 and 2; the rest are DTLB read misses, DTLB
/// write misses and ITLB read misses (SBI 11.2).
fn pmu(pmu: &mut Node, counters: u32) {
    let rows = [
        (0x1, counters | 1),
        (0x2, counters | 1 << 2),
        (0x10019, counters),
        (0x1001b, counters),
        (0x10021, counters),
    ];
    let cells: Vec<u32> =
        rows.iter().flat_map(|&(event, counters)| [event, event, counters]).collect();
    pmu.set_cells("riscv,event-to-mhpmcounters", &cells).set_strings("compatible", &["riscv,pmu"]);
}

fn soc(soc: &mut Node, phandles: &Phandles, aclint: bool) {
    soc.set_cells("#address-cells", &[2])
        .set_cells("#size-cells", &[2])
        .set_strings("compatible", &["simple-bus"])
        .set_flag("ranges");

    let plic = phandles.plic();
    soc.add(format!("rtc@{:x}", map::RTC.base))
        .set_cells("interrupts", &[map::RTC_IRQ])
        .set_cells("interrupt-parent", &[plic])
        .set_ranges("reg", &[map::RTC.pair()])
        .set_strings("compatible", &["google,goldfish-rtc"]);
    soc.add(format!("serial@{:x}", map::UART.base))
        .set_cells("interrupts", &[map::UART_IRQ])
        .set_cells("interrupt-parent", &[plic])
        .set_cells("clock-frequency", &[map::UART_CLOCK_HZ])
        .set_ranges("reg", &[map::UART.pair()])
        .set_strings("compatible", &["ns16550a"]);
    soc.add(format!("test@{:x}", map::FINISHER.base))
        .set_cells("phandle", &[phandles.finisher()])
        .set_ranges("reg", &[map::FINISHER.pair()])
        .set_strings("compatible", &["sifive,test1", "sifive,test0", "syscon"]);
    // From the last to the first, so that Linux calls the first disk on the command line vda.
    for slot in (0..map::VIRTIO_COUNT).rev() {
        let region = map::virtio(slot);
        soc.add(format!("virtio_mmio@{:x}", region.base))
            .set_cells("interrupts", &[map::virtio_irq(slot)])
            .set_cells("interrupt-parent", &[plic])
            .set_ranges("reg", &[region.pair()])
            .set_strings("compatible", &["virtio,mmio"]);
    }
    soc.add(format!("plic@{:x}", map::PLIC.base))
        .set_cells("phandle", &[plic])
        .set_cells("riscv,ndev", &[map::PLIC_SOURCES])
        .set_ranges("reg", &[map::PLIC.pair()])
        .set_cells("interrupts-extended", &phandles.to_harts(&[IRQ_M_EXT, IRQ_S_EXT]))
        .set_flag("interrupt-controller")
        .set_strings("compatible", &["sifive,plic-1.0.0", "riscv,plic0"])
        .set_cells("#address-cells", &[0])
        .set_cells("#interrupt-cells", &[1]);
    if aclint {
        self::aclint(soc, phandles);
    } else {
        soc.add(format!("clint@{:x}", map::CLINT.base))
            .set_cells("interrupts-extended", &phandles.to_harts(&[IRQ_M_SOFT, IRQ_M_TIMER]))
            .set_ranges("reg", &[map::CLINT.pair()])
            .set_strings("compatible", &["sifive,clint0", "riscv,clint0"]);
    }
}

/// The ACLINT's three devices (RISC-V ACLINT 1.0).
fn aclint(soc: &mut Node, phandles: &Phandles) {
    let software = |soc: &mut Node, name: &str, base: u64, interrupt: u32| {
        soc.add(format!("{name}@{base:x}"))
            .set_cells("#interrupt-cells", &[0])
            .set_flag("interrupt-controller")
            .set_cells("interrupts-extended", &phandles.to_harts(&[interrupt]))
            .set_ranges("reg", &[(base, map::ACLINT_SWI_SIZE)])
            .set_strings("compatible", &[&format!("riscv,aclint-{name}")]);
    };
    software(soc, "sswi", map::ACLINT_SSWI.base, IRQ_S_SOFT);
    let mtimer = map::CLINT.base + map::ACLINT_SWI_SIZE;
    let mtime = map::CLINT.base + map::CLINT_MTIME;
    soc.add(format!("mtimer@{mtimer:x}"))
        .set_cells("interrupts-extended", &phandles.to_harts(&[IRQ_M_TIMER]))
        .set_ranges("reg", &[(mtime, map::CLINT.end() - mtime), (mtimer, mtime - mtimer)])
        .set_strings("compatible", &["riscv,aclint-mtimer"]);
    software(soc, "mswi", map::CLINT.base, IRQ_M_SOFT);
}

/// Put the kernel's part into `/chosen`, as QEMU does for its own tree and for `-dtb` alike. An
/// empty command line leaves a `bootargs` of the user's tree alone. New properties come first, the
/// latest before the others, as libfdt has it.
pub fn set_boot_info(tree: &mut DeviceTree, cmdline: &str, initrd: Option<(u64, u64)>) {
    let chosen = tree.root.child_mut("chosen");
    let mut set = |name: &str, value: Vec<u8>| {
        if chosen.property(name).is_none() {
            chosen.properties.insert(0, (name.into(), Vec::new()));
        }
        chosen.set(name, value);
    };
    if let Some((start, end)) = initrd {
        set("linux,initrd-start", start.to_be_bytes().into());
        set("linux,initrd-end", end.to_be_bytes().into());
    }
    if !cmdline.is_empty() {
        // A NUL ends the text early, as it would in C.
        let text = cmdline.bytes().take_while(|&byte| byte != 0);
        set("bootargs", text.chain([0]).collect());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    fn input(harts: u32) -> FdtInput {
        FdtInput {
            ram_size: 256 << 20,
            harts,
            timebase_hz: 10_000_000,
            isa: FdtIsa {
                isa: "rv64imafdc_zicsr".into(),
                extensions: ["i", "m", "a", "f", "d", "c", "zicsr"].map(String::from).to_vec(),
                mmu: "riscv,sv57",
                cbom_block: Some(64),
                cboz_block: Some(64),
                cbop_block: Some(64),
                pmu_counters: 0x7fff8,
            },
            has_flash: true,
            aclint: false,
            rng_seed: [0x5a; 32],
        }
    }

    /// The tree of the QEMU that is installed, with the nodes that we have not (yet) taken out.
    fn reference(harts: u32, aclint: bool) -> Option<DeviceTree> {
        let version = Command::new("qemu-system-riscv64").arg("--version").output();
        let version = version.map(|v| String::from_utf8_lossy(&v.stdout).into_owned());
        if !version.is_ok_and(|v| v.contains(" version 10.0")) {
            eprintln!("skipped: qemu-system-riscv64 10.0 is not installed");
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("virt.dtb");
        let status = Command::new("qemu-system-riscv64")
            .arg("-M")
            .arg(format!(
                "virt,aclint={},dumpdtb={}",
                if aclint { "on" } else { "off" },
                file.display()
            ))
            .args(["-m", "256M", "-smp", &harts.to_string()])
            .stderr(Stdio::null())
            .status();
        assert!(status.unwrap().success(), "QEMU wrote its tree");
        let mut tree = DeviceTree::parse(&std::fs::read(file).unwrap()).unwrap();
        tree.root.children.retain(|c| c.name != "platform-bus@4000000");
        tree.root.child_mut("soc").children.retain(|c| c.name != "pci@30000000");
        tree.root.child_mut("chosen").set("rng-seed", [0x5a; 32]);
        for hart in 0..harts {
            let cpu = tree.root.child_mut("cpus").child_mut(&format!("cpu@{hart}"));
            let ours = virt(&input(harts));
            let ours = ours.root.child("cpus").unwrap().child("cpu@0").unwrap();
            for name in ["riscv,isa", "riscv,isa-extensions"] {
                cpu.set(name, ours.property(name).unwrap());
            }
        }
        Some(tree)
    }

    #[test]
    fn equals_qemus_tree() {
        for (harts, aclint) in [(1, false), (2, true), (8, false)] {
            let Some(theirs) = reference(harts, aclint) else { return };
            let ours = virt(&FdtInput { aclint, ..input(harts) });
            assert_eq!(lines(&ours.root), lines(&theirs.root));
        }
    }

    /// One line a node and property, in order, for a readable difference; properties sorted, as
    /// their order carries no meaning.
    fn lines(node: &Node) -> Vec<String> {
        let mut out = vec![format!("{} {{", node.name)];
        let mut properties: Vec<_> =
            node.properties.iter().map(|(n, v)| format!("{n} = {:?}", v.escape_ascii())).collect();
        properties.sort();
        out.append(&mut properties);
        for child in &node.children {
            out.append(&mut lines(child));
        }
        out.push("}".into());
        out
    }

    #[test]
    fn phandles_meet_their_references() {
        let tree = virt(&input(3)).root;
        let word = |bytes: &[u8], at: usize| {
            u32::from_be_bytes(bytes[4 * at..4 * at + 4].try_into().unwrap())
        };
        let cpu = |n: &str| tree.child("cpus").unwrap().child(n).unwrap();
        let soc = tree.child("soc").unwrap();
        let plic = soc.child("plic@c000000").unwrap();
        let wired = plic.property("interrupts-extended").unwrap();
        for hart in 0..3 {
            let intc = cpu(&format!("cpu@{hart}")).child("interrupt-controller").unwrap();
            let phandle = word(intc.property("phandle").unwrap(), 0);
            let at = 4 * hart;
            assert_eq!(
                [0, 1, 2, 3].map(|i| word(wired, at + i)),
                [phandle, IRQ_M_EXT, phandle, IRQ_S_EXT]
            );
        }
        let uart = soc.child("serial@10000000").unwrap();
        assert_eq!(uart.property("interrupt-parent"), plic.property("phandle"));
        let finisher = soc.child("test@100000").unwrap();
        assert_eq!(
            tree.child("poweroff").unwrap().property("regmap"),
            finisher.property("phandle")
        );
    }

    #[test]
    fn boot_info_replaces_and_keeps() {
        let mut tree = DeviceTree::default();
        set_boot_info(&mut tree, "quiet", None);
        set_boot_info(&mut tree, "", Some((0x8820_0000, 0x8820_1000)));
        let chosen = tree.root.child("chosen").unwrap();
        assert_eq!(chosen.property("bootargs"), Some(&b"quiet\0"[..]));
        assert_eq!(chosen.property("linux,initrd-end"), Some(&0x8820_1000u64.to_be_bytes()[..]));
    }
}
