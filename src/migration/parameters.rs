//! Migration parameters: QAPI `MigrationParameters` with QEMU's defaults and ranges.

use super::bitmap_mapping::{self, NodeAlias};
use super::status::ErrorDesc;

/// QAPI `MultiFDCompression`, as far as a build without the others has it.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize, schemars::JsonSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum MultifdCompression {
    None,
    Zlib,
    Zstd,
}

/// QAPI `ZeroPageDetection`.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize, schemars::JsonSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum ZeroPageDetection {
    None,
    Legacy,
    Multifd,
}

/// QAPI `MigMode`.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize, schemars::JsonSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum MigMode {
    Normal,
    CprReboot,
    CprTransfer,
}

/// Every parameter, in QAPI's order and units.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct Parameters {
    /// ms
    pub announce_initial: u64,
    /// ms
    pub announce_max: u64,
    pub announce_rounds: u64,
    /// ms
    pub announce_step: u64,
    /// percent
    pub throttle_trigger_threshold: u8,
    /// percent
    pub cpu_throttle_initial: u8,
    /// percent
    pub cpu_throttle_increment: u8,
    pub cpu_throttle_tailslow: bool,
    /// Id of a `tls-creds-*` object, or empty.
    pub tls_creds: String,
    pub tls_hostname: String,
    /// Id of an `authz-*` object, or empty.
    pub tls_authz: String,
    /// bytes/s; 0 is no limit
    pub max_bandwidth: u64,
    /// bytes/s; 0 is "measure it"
    pub avail_switchover_bandwidth: u64,
    /// ms
    pub downtime_limit: u64,
    /// ms
    pub x_checkpoint_delay: u32,
    pub multifd_channels: u8,
    /// bytes
    pub xbzrle_cache_size: u64,
    /// bytes/s; 0 is no limit
    pub max_postcopy_bandwidth: u64,
    /// percent
    pub max_cpu_throttle: u8,
    pub multifd_compression: MultifdCompression,
    pub multifd_zlib_level: u8,
    pub multifd_qatzip_level: u8,
    pub multifd_zstd_level: u8,
    /// How dirty bitmaps are called under way; there once it was set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub block_bitmap_mapping: Option<Vec<NodeAlias>>,
    /// ms
    #[serde(rename = "x-vcpu-dirty-limit-period")]
    pub vcpu_dirty_limit_period: u64,
    /// MB/s
    pub vcpu_dirty_limit: u64,
    pub mode: MigMode,
    pub zero_page_detection: ZeroPageDetection,
    pub direct_io: bool,
}

/// Longest downtime that can be allowed, in ms.
const MAX_DOWNTIME: u64 = 2_000_000;
/// Bytes of a guest page.
const PAGE_SIZE: u64 = 4096;

impl Parameters {
    /// Whether the stream is encrypted.
    pub fn uses_tls(&self) -> bool {
        !self.tls_creds.is_empty()
    }

    /// Whether multifd channels compress.
    pub fn compresses(&self) -> bool {
        self.multifd_compression != MultifdCompression::None
    }

    /// Whether every value is in its range; refused in QEMU's words and order.
    pub fn check(&self) -> Result<(), ErrorDesc> {
        let cache = self.xbzrle_cache_size;
        let limits = [
            (
                (1..=100).contains(&self.throttle_trigger_threshold),
                "throttle_trigger_threshold",
                "an integer in the range of 1 to 100",
            ),
            (
                (1..=99).contains(&self.cpu_throttle_initial),
                "cpu_throttle_initial",
                "an integer in the range of 1 to 99",
            ),
            (
                (1..=99).contains(&self.cpu_throttle_increment),
                "cpu_throttle_increment",
                "an integer in the range of 1 to 99",
            ),
            (
                self.downtime_limit <= MAX_DOWNTIME,
                "downtime_limit",
                "an integer in the range of 0 to (2000 * 1000) ms",
            ),
            (self.multifd_channels >= 1, "multifd_channels", "a value between 1 and 255"),
            (self.multifd_zlib_level <= 9, "multifd_zlib_level", "a value between 0 and 9"),
            (
                (1..=9).contains(&self.multifd_qatzip_level),
                "multifd_qatzip_level",
                "a value between 1 and 9",
            ),
            (self.multifd_zstd_level <= 20, "multifd_zstd_level", "a value between 0 and 20"),
            (
                cache >= PAGE_SIZE && cache.is_power_of_two(),
                "xbzrle_cache_size",
                "a power of two no less than the target page size",
            ),
            (
                (self.cpu_throttle_initial..=99).contains(&self.max_cpu_throttle),
                "max_cpu_throttle",
                "an integer in the range of cpu_throttle_initial to 99",
            ),
            (self.announce_initial <= 100_000, "announce_initial", "a value between 0 and 100000"),
            (self.announce_max <= 100_000, "announce_max", "a value between 0 and 100000"),
            (self.announce_rounds <= 1000, "announce_rounds", "a value between 0 and 1000"),
            (
                (1..=10_000).contains(&self.announce_step),
                "announce_step",
                "a value between 0 and 10000",
            ),
        ];
        let expects =
            |name, range| Err(ErrorDesc::from(format!("Parameter '{name}' expects {range}")));
        if let Some((_, name, range)) = limits.into_iter().find(|(fits, ..)| !fits) {
            return expects(name, range);
        }
        if let Some(mapping) = &self.block_bitmap_mapping {
            bitmap_mapping::check(mapping)?;
        }
        if !(1..=1000).contains(&self.vcpu_dirty_limit_period) {
            return expects("x-vcpu-dirty-limit-period", "a value between 1 and 1000");
        }
        if self.vcpu_dirty_limit == 0 {
            let sentence = "Parameter 'vcpu_dirty_limit' must be greater than 1 MB/s";
            return Err(ErrorDesc::new(sentence));
        }
        match self.mode {
            MigMode::Normal => Ok(()),
            MigMode::CprReboot | MigMode::CprTransfer => {
                Err(ErrorDesc::new("Checkpoint and restart modes are not available"))
            }
        }
    }
}

impl Default for Parameters {
    fn default() -> Self {
        Self {
            announce_initial: 50,
            announce_max: 550,
            announce_rounds: 5,
            announce_step: 100,
            throttle_trigger_threshold: 50,
            cpu_throttle_initial: 20,
            cpu_throttle_increment: 10,
            cpu_throttle_tailslow: false,
            tls_creds: String::new(),
            tls_hostname: String::new(),
            tls_authz: String::new(),
            max_bandwidth: 128 << 20,
            avail_switchover_bandwidth: 0,
            downtime_limit: 300,
            x_checkpoint_delay: 20_000,
            multifd_channels: 2,
            xbzrle_cache_size: 64 << 20,
            max_postcopy_bandwidth: 0,
            max_cpu_throttle: 99,
            multifd_compression: MultifdCompression::None,
            multifd_zlib_level: 1,
            multifd_qatzip_level: 1,
            multifd_zstd_level: 1,
            block_bitmap_mapping: None,
            vcpu_dirty_limit_period: 1000,
            vcpu_dirty_limit: 1,
            mode: MigMode::Normal,
            zero_page_detection: ZeroPageDetection::Multifd,
            direct_io: false,
        }
    }
}
