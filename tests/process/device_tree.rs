//! The device tree against QEMU's, node by node and property by property.

use understudy::machine::devicetree::{DeviceTree, Node};

use crate::harness::machine;
use crate::oracle;

/// Nodes of QEMU's `virt` whose devices this machine may not have.
const MAY_BE_ABSENT: [&str; 3] = ["/platform-bus@4000000", "/flash@20000000", "/soc/pci@30000000"];

/// What is random is the same with the same seed, on either.
const SEED: &str = "0x1234567890abcdef";

fn compare(path: &str, ours: &Node, theirs: &Node, differences: &mut Vec<String>) {
    let own = |name: &str| format!("{path}/{name}");
    let names = |node: &Node| -> Vec<String> {
        node.properties.iter().map(|(name, _)| name.clone()).collect()
    };
    if names(ours) != names(theirs) {
        differences.push(format!("{path}: {:?}, not {:?}", names(ours), names(theirs)));
    }
    for (name, value) in &ours.properties {
        let expected = theirs.property(name).unwrap_or_default();
        if ["riscv,isa", "riscv,isa-extensions"].contains(&name.as_str()) {
            if let Some(difference) = isa_difference(value, expected) {
                differences.push(format!("{}: {difference}", own(name)));
            }
        } else if value != expected {
            let text = |bytes: &[u8]| bytes.escape_ascii().to_string();
            differences.push(format!("{} = {}, not {}", own(name), text(value), text(expected)));
        }
    }
    let children = |node: &Node| -> Vec<String> {
        node.children.iter().map(|child| child.name.clone()).collect()
    };
    let mut expected = children(theirs);
    expected
        .retain(|name| ours.child(name).is_some() || !MAY_BE_ABSENT.contains(&own(name).as_str()));
    if children(ours) != expected {
        differences.push(format!("{path}: has {:?}, not {expected:?}", children(ours)));
    }
    for child in &ours.children {
        if let Some(other) = theirs.child(&child.name) {
            compare(&own(&child.name), child, other, differences);
        }
    }
}

/// Extensions are in QEMU's order. What is not implemented here is not named; of that, only what
/// `-cpu max` adds and what belongs to the hypervisor extension may be missing.
fn isa_difference(ours: &[u8], theirs: &[u8]) -> Option<String> {
    let words = |bytes: &[u8]| -> Vec<String> {
        let text = String::from_utf8_lossy(bytes).replace('\0', "_");
        text.split('_').filter(|word| !word.is_empty()).map(str::to_owned).collect()
    };
    let (ours, theirs) = (words(ours), words(theirs));
    let max = theirs.iter().any(|word| word == "zvbb");
    let mut rest = ours.iter().peekable();
    let mut missing = Vec::new();
    for word in &theirs {
        if rest.next_if_eq(&word).is_none() && !max && !word.starts_with("sh") {
            missing.push(word);
        }
    }
    let extra: Vec<_> = rest.collect();
    let same = missing.is_empty() && extra.is_empty();
    (!same).then(|| format!("without {missing:?}; out of place from {extra:?}"))
}

#[test]
fn as_qemu_makes_it() {
    if oracle::qemu().is_none() {
        return;
    }
    let mut differences = Vec::new();
    for words in [
        "-M virt,dumpdtb=tree -cpu rv64,{absent}",
        "-M virt,aclint=on,dumpdtb=tree -smp 4 -m 3G -cpu rv64,{absent}",
        "-M virt,dumpdtb=tree -smp 8,sockets=2,cores=2,threads=2 -m 64M -cpu max,{absent}",
        "-M virt,dumpdtb=tree -cpu rv64,sv57=off,zbb=off,sstc=off,zfh=on,{absent}",
        "-M virt,dumpdtb=tree -cpu rv64,sv39=on,zicboz=off,cbom_blocksize=64,pmu-mask=0x18,{absent}",
        "-M virt,dumpdtb=tree -cpu rv64,mmu=off,{absent}",
        "-M virt,dumpdtb=tree -kernel Image -initrd initrd -append root=/dev/x -cpu rv64,{absent}",
        "-M virt,dumpdtb=tree -device virtio-rng-device -cpu rv64,{absent}",
    ] {
        // Neither is implemented here; the model has them unless told not to.
        let absent = words.replace("{absent}", "h=off,v=off");
        let words = words.replace(",{absent}", "");
        let tree = |setup: crate::harness::Setup| {
            let setup = setup.word("-display").word("none").word("-seed").word(SEED);
            let setup = setup.file("Image", &image());
            let setup = setup.file("initrd", &[7; 5000]);
            let file = setup.directory().join("tree");
            let mut machine = setup.start();
            assert_eq!(machine.exit_code(), 0, "{words}: {}", machine.errors());
            DeviceTree::parse(&std::fs::read(file).expect("a tree")).expect("a valid tree")
        };
        let ours = tree(machine(&words));
        let theirs = tree(machine(&absent).program("qemu-system-riscv64"));
        assert_eq!(ours.reservations, theirs.reservations, "{words}");
        assert_eq!(ours.boot_cpuid, theirs.boot_cpuid, "{words}");
        let mut found = Vec::new();
        compare("", &ours.root, &theirs.root, &mut found);
        differences.extend(found.into_iter().map(|text| format!("{words}: {text}")));
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

/// A Linux `Image` of four instructions' length.
fn image() -> Vec<u8> {
    let mut image = vec![0; 80];
    image[16..24].copy_from_slice(&0x10_0000_u64.to_le_bytes());
    image[32..36].copy_from_slice(&2_u32.to_le_bytes());
    image[48..56].copy_from_slice(b"RISCV\0\0\0");
    image[56..60].copy_from_slice(b"RSC\x05");
    image
}
