//! How fast the guest writes its memory: measured, and limited.

use std::fmt::Write;

use super::command::Call;
use crate::machine::dirty_rate::MeasureMode;
use crate::qmp::command::Command;
use crate::qmp::commands::dirty_rate::{
    CalcDirtyRate, CancelVcpuDirtyLimit, QueryDirtyRate, QueryVcpuDirtyLimit, SetVcpuDirtyLimit,
};
use crate::qmp::error::QmpError;

type Outcome = Result<(), QmpError>;

// Writing to a String cannot fail, so results of `writeln!` below are dropped.

pub(super) async fn calculate(call: &mut Call) -> Outcome {
    let seconds = call.arguments.number("second").unwrap_or(0);
    if seconds == 0 {
        call.out.push_str("Incorrect period length specified!\n");
        return Ok(());
    }
    let (ring, bitmap) = (call.arguments.flag("dirty_ring"), call.arguments.flag("dirty_bitmap"));
    let mode = match (ring, bitmap) {
        (true, true) => {
            call.out.push_str("Either dirty ring or dirty bitmap can be specified!\n");
            return Ok(());
        }
        (true, false) => MeasureMode::DirtyRing,
        (false, true) => MeasureMode::DirtyBitmap,
        (false, false) => MeasureMode::PageSampling,
    };
    let command = CalcDirtyRate {
        calc_time: seconds,
        calc_time_unit: None,
        sample_pages: call.arguments.number("sample_pages_per_GB").filter(|&pages| pages != -1),
        mode: Some(mode),
    };
    command.run(&call.services).await?;
    let _ = writeln!(call.out, "Starting dirty rate measurement with period {seconds} seconds");
    call.out.push_str("[Please use 'info dirty_rate' to check results]\n");
    Ok(())
}

pub(super) async fn info(call: &mut Call) -> Outcome {
    let info = QueryDirtyRate::default().run(&call.services).await?;
    let out = &mut call.out;
    let _ = writeln!(out, "Status: {}", info.status.name());
    let _ = writeln!(out, "Start Time: {} (ms)", info.start_time);
    if info.mode == MeasureMode::PageSampling {
        let _ = writeln!(out, "Sample Pages: {} (per GB)", info.sample_pages);
    }
    let _ = writeln!(out, "Period: {} (sec)", info.calc_time);
    let _ = writeln!(out, "Mode: {}", info.mode.name());
    match info.dirty_rate {
        None => out.push_str("Dirty rate: (not ready)\n"),
        Some(rate) => {
            let _ = writeln!(out, "Dirty rate: {rate} (MB/s)");
        }
    }
    for vcpu in info.vcpu_dirty_rate.into_iter().flatten() {
        let _ = writeln!(out, "vcpu[{}], Dirty rate: {} (MB/s)", vcpu.id, vcpu.dirty_rate);
    }
    Ok(())
}

/// The CPU that is named; -1 stands for all.
fn cpu(call: &Call) -> Option<i64> {
    call.arguments.number("cpu_index").filter(|&index| index != -1)
}

pub(super) async fn set_limit(call: &mut Call) -> Outcome {
    let rate = call.arguments.number("dirty_rate").unwrap_or(0);
    let negative = |_| QmpError::generic(format!("invalid dirty page limit {rate}"));
    let dirty_rate = u64::try_from(rate).map_err(negative)?;
    let command = SetVcpuDirtyLimit { cpu_index: cpu(call), dirty_rate };
    command.run(&call.services).await.map(drop)
}

pub(super) async fn cancel_limit(call: &mut Call) -> Outcome {
    CancelVcpuDirtyLimit { cpu_index: cpu(call) }.run(&call.services).await?;
    call.out
        .push_str("[Please use 'info vcpu_dirty_limit' to query dirty limit for virtual CPU]\n");
    Ok(())
}

pub(super) async fn limits(call: &mut Call) -> Outcome {
    let limits = QueryVcpuDirtyLimit {}.run(&call.services).await?;
    if limits.is_empty() {
        call.out.push_str("Dirty page limit not enabled!\n");
    }
    for limit in limits {
        let _ = writeln!(
            call.out,
            "vcpu[{}], limit rate {} (MB/s), current rate {} (MB/s)",
            limit.cpu_index, limit.limit_rate, limit.current_rate
        );
    }
    Ok(())
}
