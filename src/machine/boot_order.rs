//! The list of boot devices that firmware finds in fw_cfg, by `bootindex=`.

use super::build::BuildError;
use super::memory_map as map;
use super::spec::MachineSpec;

/// The content of `bootorder`: firmware paths in order, ended by a zero; with `-boot strict=on`
/// nothing else is to be tried. Empty when no device has an index.
pub(super) fn content(spec: &MachineSpec) -> Result<Vec<u8>, BuildError> {
    let mut entries: Vec<(i64, String)> = Vec::new();
    // As `virtio_slots` plugs them: from the last slot on.
    let takes_slot = |driver: &str| driver.starts_with("virtio-") && driver.ends_with("-device");
    let plugged = spec.devices.iter().filter(|device| takes_slot(&device.driver));
    for (device, slot) in plugged.zip((0..map::VIRTIO_COUNT).rev()) {
        let index = device.prop("bootindex").and_then(|text| text.parse::<i64>().ok());
        let Some(index) = index.filter(|index| *index >= 0) else { continue };
        if entries.iter().any(|(taken, _)| *taken == index) {
            let reason = format!("The bootindex {index} has already been used");
            return Err(BuildError::Device { origin: device.origin.clone(), reason });
        }
        let base = map::virtio(slot).base;
        entries.push((index, format!("/virtio-mmio@{base:016x}/disk@0,0")));
    }
    if entries.is_empty() {
        return Ok(Vec::new());
    }
    entries.sort_by_key(|(index, _)| *index);
    let mut lines: Vec<&str> = entries.iter().map(|(_, path)| path.as_str()).collect();
    if spec.boot.strict {
        lines.push("HALT");
    }
    let mut content = lines.join("\n").into_bytes();
    content.push(0);
    Ok(content)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Invocation, parse};

    fn of(options: &str) -> Result<Vec<u8>, String> {
        let disks = "understudy -M virt -drive if=none,id=a,file=a,format=raw -drive \
                     if=none,id=b,file=b,format=raw -device virtio-rng-device";
        let words = disks.split_whitespace().chain(options.split_whitespace());
        match parse(words.map(Into::into)) {
            Ok(Invocation::Run { spec, .. }) => content(&spec).map_err(|error| error.to_string()),
            other => panic!("{other:?}"),
        }
    }

    /// What QEMU's guest finds.
    #[test]
    fn paths_in_the_order_of_their_indices() {
        let both = "-device virtio-blk-device,drive=a,bootindex=2 \
                    -device virtio-blk-device,drive=b,bootindex=1";
        let paths =
            "/virtio-mmio@0000000010006000/disk@0,0\n/virtio-mmio@0000000010007000/disk@0,0";
        assert_eq!(of(both).unwrap(), format!("{paths}\0").into_bytes());
        let strict = format!("-boot strict=on {both}");
        assert_eq!(of(&strict).unwrap(), format!("{paths}\nHALT\0").into_bytes());
        let none = "-boot strict=on -device virtio-blk-device,drive=a,bootindex=-1";
        assert_eq!(of(none).unwrap(), b"");
        let twice = of(&both.replace("=2", "=1")).unwrap_err();
        assert!(twice.ends_with("The bootindex 1 has already been used"), "{twice}");
    }
}
