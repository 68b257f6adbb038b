//! Features and states of virtio devices in QEMU's words.

use virtio_bindings::virtio_ids::{VIRTIO_ID_BLOCK, VIRTIO_ID_CONSOLE, VIRTIO_ID_RNG};

use super::virtio::{VirtioDeviceFeatures, VirtioDeviceStatus};

type Names = &'static [(u32, &'static str)];

/// Bits of every device.
const TRANSPORT: Names = &[
    (24, "VIRTIO_F_NOTIFY_ON_EMPTY: Notify when device runs out of avail. descs. on VQ"),
    (27, "VIRTIO_F_ANY_LAYOUT: Device accepts arbitrary desc. layouts"),
    (32, "VIRTIO_F_VERSION_1: Device compliant for v1 spec (legacy)"),
    (33, "VIRTIO_F_IOMMU_PLATFORM: Device can be used on IOMMU platform"),
    (34, "VIRTIO_F_RING_PACKED: Device supports packed VQ layout"),
    (35, "VIRTIO_F_IN_ORDER: Device uses buffers in same order as made available by driver"),
    (36, "VIRTIO_F_ORDER_PLATFORM: Memory accesses ordered by platform"),
    (37, "VIRTIO_F_SR_IOV: Device supports single root I/O virtualization"),
    (40, "VIRTIO_F_RING_RESET: Driver can reset a queue individually"),
    (28, "VIRTIO_RING_F_INDIRECT_DESC: Indirect descriptors supported"),
    (29, "VIRTIO_RING_F_EVENT_IDX: Used & avail. event fields enabled"),
];

const LOG_ALL: (u32, &str) = (26, "VHOST_F_LOG_ALL: Logging write descriptors supported");
const PROTOCOL: (u32, &str) =
    (30, "VHOST_USER_F_PROTOCOL_FEATURES: Vhost-user protocol features negotiation supported");

const BLOCK: Names = &[
    (1, "VIRTIO_BLK_F_SIZE_MAX: Max segment size is size_max"),
    (2, "VIRTIO_BLK_F_SEG_MAX: Max segments in a request is seg_max"),
    (4, "VIRTIO_BLK_F_GEOMETRY: Legacy geometry available"),
    (5, "VIRTIO_BLK_F_RO: Device is read-only"),
    (6, "VIRTIO_BLK_F_BLK_SIZE: Block size of disk available"),
    (10, "VIRTIO_BLK_F_TOPOLOGY: Topology information available"),
    (12, "VIRTIO_BLK_F_MQ: Multiqueue supported"),
    (13, "VIRTIO_BLK_F_DISCARD: Discard command supported"),
    (14, "VIRTIO_BLK_F_WRITE_ZEROES: Write zeroes command supported"),
    (16, "VIRTIO_BLK_F_SECURE_ERASE: Secure erase supported"),
    (17, "VIRTIO_BLK_F_ZONED: Zoned block devices"),
    (0, "VIRTIO_BLK_F_BARRIER: Request barriers supported"),
    (7, "VIRTIO_BLK_F_SCSI: SCSI packet commands supported"),
    (9, "VIRTIO_BLK_F_FLUSH: Flush command supported"),
    (11, "VIRTIO_BLK_F_CONFIG_WCE: Cache writeback and writethrough modes supported"),
    LOG_ALL,
    PROTOCOL,
];

const CONSOLE: Names = &[
    (0, "VIRTIO_CONSOLE_F_SIZE: Host providing console size"),
    (1, "VIRTIO_CONSOLE_F_MULTIPORT: Multiple ports for device supported"),
    (2, "VIRTIO_CONSOLE_F_EMERG_WRITE: Emergency write supported"),
];

const RNG: Names = &[LOG_ALL, PROTOCOL];

/// Device status bits.
const STATUS: Names = &[
    (2, "VIRTIO_CONFIG_S_DRIVER_OK: Driver setup and ready"),
    (3, "VIRTIO_CONFIG_S_FEATURES_OK: Feature negotiation complete"),
    (1, "VIRTIO_CONFIG_S_DRIVER: Guest OS compatible with device"),
    (6, "VIRTIO_CONFIG_S_NEEDS_RESET: Irrecoverable error, device needs reset"),
    (7, "VIRTIO_CONFIG_S_FAILED: Error in guest, device failed"),
    (0, "VIRTIO_CONFIG_S_ACKNOWLEDGE: Valid virtio device found"),
];

/// The names of the bits that are set and have one, the last of the table first; the bits lose them.
fn named(names: Names, bits: &mut u64) -> Vec<String> {
    let mut found = Vec::new();
    for (bit, name) in names {
        if *bits & (1 << bit) != 0 {
            *bits ^= 1 << bit;
            found.push((*name).to_owned());
        }
    }
    found.reverse();
    found
}

/// Features of a device of this ID.
pub(super) fn features(id: u32, mut bits: u64) -> VirtioDeviceFeatures {
    let transports = named(TRANSPORT, &mut bits);
    let of_device = match id {
        VIRTIO_ID_BLOCK => BLOCK,
        VIRTIO_ID_CONSOLE => CONSOLE,
        VIRTIO_ID_RNG => RNG,
        _ => &[],
    };
    let dev_features = Some(named(of_device, &mut bits));
    let unknown_dev_features = (bits != 0).then_some(bits);
    VirtioDeviceFeatures { transports, dev_features, unknown_dev_features }
}

/// The status register.
pub(super) fn status(bits: u8) -> VirtioDeviceStatus {
    let mut left = u64::from(bits);
    let statuses = named(STATUS, &mut left);
    VirtioDeviceStatus { statuses, unknown_statuses: (left != 0).then_some(left as u8) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_have_qemus_names_in_its_order() {
        let words = |names: Vec<String>| {
            let first = |name: &String| name.split(':').next().map(str::to_owned);
            names.iter().filter_map(first).collect::<Vec<_>>().join(" ")
        };
        let of = features(VIRTIO_ID_CONSOLE, 1 << 40 | 1 << 29 | 1 << 24 | 1 << 50 | 0b110);
        assert_eq!(
            words(of.transports),
            "VIRTIO_RING_F_EVENT_IDX VIRTIO_F_RING_RESET VIRTIO_F_NOTIFY_ON_EMPTY"
        );
        assert_eq!(
            words(of.dev_features.unwrap()),
            "VIRTIO_CONSOLE_F_EMERG_WRITE VIRTIO_CONSOLE_F_MULTIPORT"
        );
        assert_eq!(of.unknown_dev_features, Some(1 << 50));
        let of = status(0x2f);
        let expected = "VIRTIO_CONFIG_S_ACKNOWLEDGE VIRTIO_CONFIG_S_DRIVER \
                        VIRTIO_CONFIG_S_FEATURES_OK VIRTIO_CONFIG_S_DRIVER_OK";
        assert_eq!((words(of.statuses).as_str(), of.unknown_statuses), (expected, Some(0x20)));
    }
}
