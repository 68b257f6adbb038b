//! Migration parameters: QAPI `MigrationParameters` with QEMU's defaults.

/// QAPI `MultiFDCompression`, as far as a build without the others has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MultifdCompression {
    None,
    Zlib,
    Zstd,
}

/// QAPI `ZeroPageDetection`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ZeroPageDetection {
    None,
    Legacy,
    Multifd,
}

/// QAPI `MigMode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MigMode {
    Normal,
    CprReboot,
    CprTransfer,
}

/// Every parameter, in QAPI's order and units.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
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
    /// ms
    #[serde(rename = "x-vcpu-dirty-limit-period")]
    pub vcpu_dirty_limit_period: u64,
    /// MB/s
    pub vcpu_dirty_limit: u64,
    pub mode: MigMode,
    pub zero_page_detection: ZeroPageDetection,
    pub direct_io: bool,
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
            vcpu_dirty_limit_period: 1000,
            vcpu_dirty_limit: 1,
            mode: MigMode::Normal,
            zero_page_detection: ZeroPageDetection::Multifd,
            direct_io: false,
        }
    }
}
