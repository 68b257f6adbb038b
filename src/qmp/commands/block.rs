//! Drives: what they are and what they have done. A drive is a back end that a device uses, over
//! one or two nodes: the format, which for `-blockdev driver=file` is not there, and the file.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::block::accounting::{Count, IoStatus, Statistics};
use crate::block::message::{DriveReport, QueryDrive};
use crate::machine::spec::CacheMode;
use crate::qmp::command::Command;
use crate::qmp::error::QmpError;
use crate::qmp::link::{DriveLink, Services};

/// QAPI `BlockdevCacheInfo`.
#[derive(Debug, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct BlockdevCacheInfo {
    pub writeback: bool,
    pub direct: bool,
    pub no_flush: bool,
}

impl From<CacheMode> for BlockdevCacheInfo {
    fn from(cache: CacheMode) -> Self {
        Self { writeback: cache.writeback, direct: cache.direct, no_flush: cache.no_flush }
    }
}

/// QAPI `BlockdevDetectZeroesOptions`.
#[derive(Debug, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum DetectZeroes {
    Off,
}

/// QAPI `ImageInfoSpecificFile`: nothing is known of the kind of file.
#[derive(Debug, Serialize, schemars::JsonSchema)]
pub struct ImageInfoSpecificFile {}

/// QAPI `ImageInfoSpecific`.
#[derive(Debug, Serialize, schemars::JsonSchema)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum ImageInfoSpecific {
    File { data: ImageInfoSpecificFile },
}

/// QAPI `ImageInfo`.
#[derive(Debug, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct ImageInfo {
    pub filename: String,
    pub format: &'static str,
    pub dirty_flag: bool,
    /// Bytes that the file takes up.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub actual_size: Option<i64>,
    /// Bytes that the guest sees.
    pub virtual_size: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub format_specific: Option<ImageInfoSpecific>,
}

/// QAPI `BlockDeviceInfo`: a node.
#[derive(Debug, Serialize, schemars::JsonSchema)]
pub struct BlockDeviceInfo {
    pub file: String,
    #[serde(rename = "node-name")]
    pub node_name: String,
    pub ro: bool,
    pub drv: &'static str,
    pub backing_file_depth: i64,
    pub active: bool,
    pub encrypted: bool,
    pub detect_zeroes: DetectZeroes,
    pub bps: i64,
    pub bps_rd: i64,
    pub bps_wr: i64,
    pub iops: i64,
    pub iops_rd: i64,
    pub iops_wr: i64,
    pub image: ImageInfo,
    pub cache: BlockdevCacheInfo,
    pub write_threshold: i64,
}

/// QAPI `BlockInfo`: a back end.
#[derive(Debug, Serialize, schemars::JsonSchema)]
pub struct BlockInfo {
    pub device: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub qdev: Option<String>,
    #[serde(rename = "type")]
    pub kind: &'static str,
    pub removable: bool,
    pub locked: bool,
    pub inserted: BlockDeviceInfo,
    #[serde(rename = "io-status", skip_serializing_if = "Option::is_none")]
    pub io_status: Option<IoStatus>,
}

/// The level of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Level {
    Format,
    File,
}

impl Level {
    fn driver(self) -> &'static str {
        match self {
            Self::Format => "raw",
            Self::File => "file",
        }
    }
}

/// The topmost node of a drive.
fn top(drive: &DriveLink) -> Level {
    if drive.nodes.format.is_some() { Level::Format } else { Level::File }
}

fn node(drive: &DriveLink, level: Level, report: &DriveReport) -> BlockDeviceInfo {
    let filename = drive.file.display().to_string();
    let format = drive.nodes.format.as_ref().filter(|_| level == Level::Format);
    let data = ImageInfoSpecificFile {};
    BlockDeviceInfo {
        file: filename.clone(),
        node_name: format.unwrap_or(&drive.nodes.file).clone(),
        ro: report.read_only,
        drv: level.driver(),
        backing_file_depth: 0,
        active: report.active,
        encrypted: false,
        detect_zeroes: DetectZeroes::Off,
        bps: 0,
        bps_rd: 0,
        bps_wr: 0,
        iops: 0,
        iops_rd: 0,
        iops_wr: 0,
        image: ImageInfo {
            filename,
            format: level.driver(),
            dirty_flag: false,
            actual_size: report.allocated.map(u64::cast_signed),
            virtual_size: report.size.cast_signed(),
            format_specific: (level == Level::File).then_some(ImageInfoSpecific::File { data }),
        },
        // Whether the device shows a write cache is the back end's matter.
        cache: CacheMode { writeback: true, ..drive.cache }.into(),
        write_threshold: 0,
    }
}

/// Ask every drive; back ends with a name come first, as in QEMU.
async fn reports(services: &Services) -> Result<Vec<(&DriveLink, DriveReport)>, QmpError> {
    let drives = &services.info.drives;
    let (named, nameless): (Vec<_>, Vec<_>) =
        drives.iter().partition(|drive| !drive.device.is_empty());
    let mut reports = Vec::with_capacity(drives.len());
    for drive in named.into_iter().chain(nameless) {
        reports.push((drive, services.ask(&drive.query, "drive", QueryDrive).await?));
    }
    Ok(reports)
}

/// Whether it is a back end, rather than a node that nothing uses.
fn is_back_end(drive: &DriveLink) -> bool {
    !drive.device.is_empty() || drive.qdev.is_some()
}

/// Every node once, in the order in which they were made: `-blockdev`'s, then `-drive`'s.
fn nodes<'a>(
    reports: &'a [(&'a DriveLink, DriveReport)],
) -> Vec<(&'a DriveLink, Level, &'a DriveReport)> {
    let (named, nameless): (Vec<_>, Vec<_>) =
        reports.iter().partition(|(drive, _)| !drive.device.is_empty());
    let mut nodes: Vec<(&DriveLink, Level, &DriveReport)> = Vec::new();
    for &(drive, ref report) in nameless.into_iter().chain(named) {
        let file = &drive.nodes.file;
        // What has been put under a format is a drive of its own as well.
        if !nodes.iter().any(|(known, level, _)| *level == Level::File && known.nodes.file == *file)
        {
            nodes.push((drive, Level::File, report));
        }
        if drive.nodes.format.is_some() {
            nodes.push((drive, Level::Format, report));
        }
    }
    nodes
}

/// `query-block`.
#[derive(Debug, Deserialize, schemars::JsonSchema)]
pub struct QueryBlock {}

impl Command for QueryBlock {
    const NAME: &'static str = "query-block";
    type Return = Vec<BlockInfo>;

    async fn run(self, services: &Arc<Services>) -> Result<Vec<BlockInfo>, QmpError> {
        let reports = reports(services).await?;
        let back_ends = reports.iter().filter(|(drive, _)| is_back_end(drive));
        let inserted = |drive: &DriveLink, report| BlockDeviceInfo {
            cache: drive.cache.into(),
            ..node(drive, top(drive), report)
        };
        let info = back_ends.map(|(drive, report)| BlockInfo {
            device: drive.device.clone(),
            qdev: drive.qdev.clone(),
            kind: "unknown",
            removable: drive.qdev.is_none(),
            locked: false,
            inserted: inserted(drive, report),
            io_status: drive.stops_the_machine.then_some(report.statistics.io_status),
        });
        Ok(info.collect())
    }
}

/// `query-named-block-nodes`.
#[derive(Debug, Deserialize, schemars::JsonSchema)]
pub struct QueryNamedBlockNodes {
    /// Leave backing files out; there are none.
    pub flat: Option<bool>,
}

impl Command for QueryNamedBlockNodes {
    const NAME: &'static str = "query-named-block-nodes";
    type Return = Vec<BlockDeviceInfo>;

    async fn run(self, services: &Arc<Services>) -> Result<Vec<BlockDeviceInfo>, QmpError> {
        let reports = reports(services).await?;
        let latest_first = nodes(&reports).into_iter().rev();
        Ok(latest_first.map(|(drive, level, report)| node(drive, level, report)).collect())
    }
}

/// QAPI `BlockDeviceTimedStats`: statistics over an interval of `stats-intervals`, which no drive
/// has.
#[derive(Debug, Serialize, schemars::JsonSchema)]
pub struct BlockDeviceTimedStats {
    pub interval_length: i64,
    pub min_rd_latency_ns: i64,
    pub max_rd_latency_ns: i64,
    pub avg_rd_latency_ns: i64,
    pub min_wr_latency_ns: i64,
    pub max_wr_latency_ns: i64,
    pub avg_wr_latency_ns: i64,
    pub min_zone_append_latency_ns: i64,
    pub max_zone_append_latency_ns: i64,
    pub avg_zone_append_latency_ns: i64,
    pub min_flush_latency_ns: i64,
    pub max_flush_latency_ns: i64,
    pub avg_flush_latency_ns: i64,
    pub avg_rd_queue_depth: f64,
    pub avg_wr_queue_depth: f64,
    pub avg_zone_append_queue_depth: f64,
}

/// QAPI `BlockDeviceStats`.
#[derive(Debug, Default, Serialize, schemars::JsonSchema)]
pub struct BlockDeviceStats {
    pub rd_bytes: i64,
    pub wr_bytes: i64,
    pub zone_append_bytes: i64,
    pub unmap_bytes: i64,
    pub rd_operations: i64,
    pub wr_operations: i64,
    pub zone_append_operations: i64,
    pub flush_operations: i64,
    pub unmap_operations: i64,
    pub rd_total_time_ns: i64,
    pub wr_total_time_ns: i64,
    pub zone_append_total_time_ns: i64,
    pub flush_total_time_ns: i64,
    pub unmap_total_time_ns: i64,
    pub wr_highest_offset: i64,
    pub rd_merged: i64,
    pub wr_merged: i64,
    pub zone_append_merged: i64,
    pub unmap_merged: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idle_time_ns: Option<i64>,
    pub failed_rd_operations: i64,
    pub failed_wr_operations: i64,
    pub failed_zone_append_operations: i64,
    pub failed_flush_operations: i64,
    pub failed_unmap_operations: i64,
    pub invalid_rd_operations: i64,
    pub invalid_wr_operations: i64,
    pub invalid_zone_append_operations: i64,
    pub invalid_flush_operations: i64,
    pub invalid_unmap_operations: i64,
    pub account_invalid: bool,
    pub account_failed: bool,
    pub timed_stats: Vec<BlockDeviceTimedStats>,
}

/// A counter, as QAPI's `int` has it.
fn int(counter: u64) -> i64 {
    i64::try_from(counter).unwrap_or(i64::MAX)
}

impl BlockDeviceStats {
    /// What is counted at a node: how far it has been written.
    fn of_node(seen: &Statistics) -> Self {
        Self { wr_highest_offset: int(seen.highest_write), ..Self::default() }
    }

    /// What is counted at a back end: what its device has asked for.
    fn of_back_end(seen: &Statistics) -> Self {
        let Count { operations, failed, invalid, bytes, nanoseconds } = seen.reads;
        let (writes, flushes, unmaps) = (seen.writes, seen.flushes, seen.unmaps);
        Self {
            rd_bytes: int(bytes),
            rd_operations: int(operations),
            rd_total_time_ns: int(nanoseconds),
            failed_rd_operations: int(failed),
            invalid_rd_operations: int(invalid),
            wr_bytes: int(writes.bytes),
            wr_operations: int(writes.operations),
            wr_total_time_ns: int(writes.nanoseconds),
            failed_wr_operations: int(writes.failed),
            invalid_wr_operations: int(writes.invalid),
            flush_operations: int(flushes.operations),
            flush_total_time_ns: int(flushes.nanoseconds),
            failed_flush_operations: int(flushes.failed),
            invalid_flush_operations: int(flushes.invalid),
            unmap_bytes: int(unmaps.bytes),
            unmap_operations: int(unmaps.operations),
            unmap_total_time_ns: int(unmaps.nanoseconds),
            failed_unmap_operations: int(unmaps.failed),
            invalid_unmap_operations: int(unmaps.invalid),
            idle_time_ns: seen.idle.map(|idle| i64::try_from(idle.as_nanos()).unwrap_or(i64::MAX)),
            account_invalid: true,
            account_failed: true,
            ..Self::of_node(seen)
        }
    }
}

/// QAPI `BlockStatsSpecific`.
#[derive(Debug, Serialize, schemars::JsonSchema)]
#[serde(tag = "driver", rename_all = "kebab-case", rename_all_fields = "kebab-case")]
pub enum BlockStatsSpecific {
    File { discard_nb_ok: u64, discard_nb_failed: u64, discard_bytes_ok: u64 },
}

impl BlockStatsSpecific {
    fn of(seen: &Statistics) -> Self {
        Self::File {
            discard_nb_ok: seen.discards.operations,
            discard_nb_failed: seen.discards.failed,
            discard_bytes_ok: seen.discards.bytes,
        }
    }
}

/// QAPI `BlockStats`.
#[derive(Debug, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct BlockStats {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub qdev: Option<String>,
    pub node_name: String,
    pub stats: BlockDeviceStats,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub driver_specific: Option<BlockStatsSpecific>,
    /// Those of the file, where this is a format.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parent: Option<FileStats>,
}

/// QAPI `BlockStats` of a node that is over no other.
#[derive(Debug, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct FileStats {
    pub node_name: String,
    pub stats: BlockDeviceStats,
    pub driver_specific: BlockStatsSpecific,
}

impl BlockStats {
    /// Those of a node and of what is below it.
    fn of_node(drive: &DriveLink, level: Level, seen: &Statistics) -> Self {
        let format = drive.nodes.format.as_ref().filter(|_| level == Level::Format);
        Self {
            device: None,
            qdev: None,
            node_name: format.unwrap_or(&drive.nodes.file).clone(),
            stats: BlockDeviceStats::of_node(seen),
            driver_specific: (level == Level::File).then(|| BlockStatsSpecific::of(seen)),
            parent: format.map(|_| FileStats {
                node_name: drive.nodes.file.clone(),
                stats: BlockDeviceStats::of_node(seen),
                driver_specific: BlockStatsSpecific::of(seen),
            }),
        }
    }
}

/// `query-blockstats`.
#[derive(Debug, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct QueryBlockstats {
    /// Of nodes, rather than of back ends.
    pub query_nodes: Option<bool>,
}

impl Command for QueryBlockstats {
    const NAME: &'static str = "query-blockstats";
    type Return = Vec<BlockStats>;

    async fn run(self, services: &Arc<Services>) -> Result<Vec<BlockStats>, QmpError> {
        let reports = reports(services).await?;
        if self.query_nodes.unwrap_or(false) {
            let node = |(drive, level, report): (&DriveLink, Level, &DriveReport)| {
                BlockStats::of_node(drive, level, &report.statistics)
            };
            return Ok(nodes(&reports).into_iter().map(node).collect());
        }
        let back_ends = reports.iter().filter(|(drive, _)| is_back_end(drive));
        let stats = back_ends.map(|(drive, report)| BlockStats {
            device: Some(drive.device.clone()),
            qdev: drive.qdev.clone(),
            stats: BlockDeviceStats::of_back_end(&report.statistics),
            ..BlockStats::of_node(drive, top(drive), &report.statistics)
        });
        Ok(stats.collect())
    }
}
