//! `info`: one handler per aspect of the machine.

use std::fmt::Write;
use std::sync::atomic::Ordering;

use super::command::Call;
use super::page_table::{Mapping, Walk, walk};
use super::registers as render;
use crate::machine::message::RunState;
use crate::qmp::command::Command;
use crate::qmp::commands::chardev::QueryChardev;
use crate::qmp::commands::introspect::VERSION;
use crate::qmp::commands::machine::{QueryCpusFast, QueryKvm, QueryName, QueryUuid};
use crate::qmp::commands::status::QueryStatus;
use crate::qmp::error::QmpError;

type Outcome = Result<(), QmpError>;

// Writing to a String cannot fail, so results of `writeln!` below are dropped.

pub(super) async fn status(call: &mut Call) -> Outcome {
    let status = QueryStatus {}.run(&call.services).await?;
    call.out.push_str("VM status: ");
    call.out.push_str(if status.running { "running" } else { "paused" });
    if !status.running && status.status != RunState::Paused {
        let state = serde_json::to_value(status.status).unwrap_or_default();
        let _ = write!(call.out, " ({})", state.as_str().unwrap_or_default());
    }
    call.out.push('\n');
    Ok(())
}

pub(super) async fn version(call: &mut Call) -> Outcome {
    let _ = writeln!(call.out, "{}{}", VERSION.qemu, VERSION.package);
    Ok(())
}

pub(super) async fn name(call: &mut Call) -> Outcome {
    if let Some(name) = (QueryName {}.run(&call.services).await?).name {
        let _ = writeln!(call.out, "{name}");
    }
    Ok(())
}

pub(super) async fn uuid(call: &mut Call) -> Outcome {
    let _ = writeln!(call.out, "{}", QueryUuid {}.run(&call.services).await?.uuid);
    Ok(())
}

pub(super) async fn kvm(call: &mut Call) -> Outcome {
    let kvm = QueryKvm {}.run(&call.services).await?;
    let support = match (kvm.present, kvm.enabled) {
        (false, _) => "not compiled",
        (true, false) => "disabled",
        (true, true) => "enabled",
    };
    let _ = writeln!(call.out, "kvm support: {support}");
    Ok(())
}

pub(super) async fn cpus(call: &mut Call) -> Outcome {
    for cpu in (QueryCpusFast {}).run(&call.services).await? {
        let mark = if cpu.cpu_index == call.state.cpu { '*' } else { ' ' };
        let _ = writeln!(call.out, "{mark} CPU #{}: thread_id={}", cpu.cpu_index, cpu.thread_id);
    }
    Ok(())
}

pub(super) async fn chardev(call: &mut Call) -> Outcome {
    for device in (QueryChardev {}).run(&call.services).await? {
        let _ = writeln!(call.out, "{}: filename={}", device.label, device.filename);
    }
    Ok(())
}

pub(super) async fn registers(call: &mut Call) -> Outcome {
    let present = QueryCpusFast {}.run(&call.services).await?;
    let wanted = call.arguments.number("vcpu");
    let chosen: Vec<u32> = present
        .iter()
        .map(|cpu| cpu.cpu_index)
        .filter(|&index| {
            call.arguments.flag("all")
                || wanted.map_or(index == call.state.cpu, |wanted| i64::from(index) == wanted)
        })
        .collect();
    if chosen.is_empty() && !call.arguments.flag("all") {
        let _ = match wanted {
            Some(wanted) => writeln!(call.out, "CPU#{wanted} not available"),
            None => writeln!(call.out, "No CPU available"),
        };
    }
    for cpu in chosen {
        let snapshot = call.hart(cpu).await?;
        render::render(&mut call.out, cpu, &snapshot);
    }
    Ok(())
}

pub(super) async fn jit(call: &mut Call) -> Outcome {
    let accelerator = call.services.info.accelerator.first();
    if accelerator.is_none_or(|(_, name)| name != "jit") {
        return Err(QmpError::generic("JIT information is only available with accel=tcg"));
    }
    call.out.push_str("Accelerator settings:\n");
    for (name, value) in &call.services.info.accelerator {
        let _ = writeln!(call.out, "{name}: {value}");
    }
    if let Some(on) = &call.services.info.one_insn_per_tb {
        let state = if on.load(Ordering::Relaxed) { "on" } else { "off" };
        let _ = writeln!(call.out, "one-insn-per-tb: {state}");
    }
    for cpu in (QueryCpusFast {}).run(&call.services).await? {
        let snapshot = call.hart(cpu.cpu_index).await?;
        let _ = writeln!(call.out, "\nCPU#{}", cpu.cpu_index);
        for (name, value) in &snapshot.jit {
            let _ = writeln!(call.out, "{name:<20} {value}");
        }
    }
    Ok(())
}

/// Which the translator does not count.
pub(super) async fn opcount(call: &mut Call) -> Outcome {
    let accelerator = call.services.info.accelerator.first();
    if accelerator.is_none_or(|(_, name)| name != "jit") {
        let sentence = "Opcode count information is only available with accel=tcg";
        return Err(QmpError::generic(sentence));
    }
    call.out.push_str("[TCG profiler not compiled]\n");
    Ok(())
}

pub(super) async fn mem(call: &mut Call) -> Outcome {
    mappings(call, true).await
}

pub(super) async fn tlb(call: &mut Call) -> Outcome {
    mappings(call, false).await
}

async fn mappings(call: &mut Call, merge: bool) -> Outcome {
    if !call.has_cpu().await? {
        call.out.push_str("No CPU available\n");
        return Ok(());
    }
    let hart = call.hart(call.state.cpu).await?;
    let (list, truncated) = match walk(call, &hart, merge).await? {
        Walk::Bare => {
            call.out.push_str("No translation or protection\n");
            return Ok(());
        }
        Walk::Mappings { list, truncated } => (list, truncated),
    };
    call.out.push_str("vaddr            paddr            size             attr\n");
    call.out.push_str("---------------- ---------------- ---------------- -------\n");
    for mapping in list {
        if call.is_full() {
            return Ok(());
        }
        let Mapping { vaddr, paddr, size, .. } = mapping;
        let flags = mapping.flags_text();
        let _ = writeln!(call.out, "{vaddr:016x} {paddr:016x} {size:016x} {flags}");
    }
    if truncated {
        call.out.push_str("(there is more: too many page tables)\n");
    }
    Ok(())
}
