//! `-sandbox`: a filter that keeps system calls from the process which an emulator has no use for.
//! What is refused is QEMU's list; a call of the sets that only an attacker would make ends the
//! process, one that a library may try is an error to it.

use std::collections::BTreeMap;

use libc::c_long;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};

/// What is kept from the process, beyond what always is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sandbox {
    /// Calls that newer ones have replaced.
    pub obsolete: bool,
    /// Becoming another user or group, or a session of its own.
    pub privileges: bool,
    /// Other processes and programs.
    pub spawn: bool,
    /// Priorities and scheduling.
    pub resources: bool,
}

/// The filter cannot be put in place.
#[derive(Debug, thiserror::Error)]
#[error("failed to load seccomp syscall filter in kernel: {0}")]
pub struct SandboxError(#[from] seccompiler::Error);

const ALWAYS: &[c_long] = &[
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_syslog,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_kexec_load,
    libc::SYS_afs_syscall,
    libc::SYS_getpmsg,
    libc::SYS_putpmsg,
    libc::SYS_security,
    libc::SYS_tuxcall,
    libc::SYS_vserver,
];

/// Of Linux 2.4; kernels have kept the numbers free since.
const SYS_CREATE_MODULE: c_long = 174;
const SYS_GET_KERNEL_SYMS: c_long = 177;
const SYS_QUERY_MODULE: c_long = 178;

const OBSOLETE: &[c_long] = &[
    libc::SYS__sysctl,
    SYS_CREATE_MODULE,
    SYS_GET_KERNEL_SYMS,
    SYS_QUERY_MODULE,
    libc::SYS_sysfs,
    libc::SYS_uselib,
    libc::SYS_ustat,
];

const PRIVILEGES: &[c_long] = &[
    libc::SYS_setuid,
    libc::SYS_setgid,
    libc::SYS_setpgid,
    libc::SYS_setsid,
    libc::SYS_setreuid,
    libc::SYS_setregid,
    libc::SYS_setresuid,
    libc::SYS_setresgid,
    libc::SYS_setfsuid,
    libc::SYS_setfsgid,
];

/// Calls that start something, and end the process.
const SPAWN: &[c_long] = &[libc::SYS_execveat, libc::SYS_setns, libc::SYS_unshare];

/// Calls that start something, and fail.
const SPAWN_REFUSED: &[c_long] = &[libc::SYS_fork, libc::SYS_vfork, libc::SYS_execve];

const RESOURCES_REFUSED: &[c_long] =
    &[libc::SYS_setpriority, libc::SYS_sched_setparam, libc::SYS_sched_setaffinity];

/// Flags without which `clone` makes more than a thread.
const OF_A_THREAD: &[libc::c_int] = &[
    libc::CLONE_VM,
    libc::CLONE_FS,
    libc::CLONE_FILES,
    libc::CLONE_SIGHAND,
    libc::CLONE_THREAD,
    libc::CLONE_SYSVSEM,
    libc::CLONE_SETTLS,
    libc::CLONE_PARENT_SETTID,
    libc::CLONE_CHILD_CLEARTID,
];

/// Flags that no new thread has.
const OF_A_PROCESS: &[libc::c_int] = &[
    libc::CLONE_PIDFD,
    libc::CLONE_PTRACE,
    libc::CLONE_VFORK,
    libc::CLONE_PARENT,
    libc::CLONE_NEWNS,
    libc::CLONE_UNTRACED,
    libc::CLONE_NEWCGROUP,
    libc::CLONE_NEWUTS,
    libc::CLONE_NEWIPC,
    libc::CLONE_NEWUSER,
    libc::CLONE_NEWPID,
    libc::CLONE_NEWNET,
    libc::CLONE_IO,
];

type Rules = BTreeMap<c_long, Vec<SeccompRule>>;

fn without_condition(calls: &[c_long]) -> impl Iterator<Item = (c_long, Vec<SeccompRule>)> {
    calls.iter().map(|call| (*call, Vec::new()))
}

/// A rule for calls whose argument has these bits of a mask.
fn bits(argument: u8, mask: u64, value: u64) -> Result<SeccompRule, seccompiler::BackendError> {
    let masked = SeccompCmpOp::MaskedEq(mask);
    let condition = SeccompCondition::new(argument, SeccompCmpArgLen::Qword, masked, value)?;
    SeccompRule::new(vec![condition])
}

impl Sandbox {
    /// Filter this thread from now on, and all that it starts.
    pub fn enter(self) -> Result<(), SandboxError> {
        let filters = [
            (self.fatal(), SeccompAction::KillProcess),
            (self.refused().map_err(seccompiler::Error::from)?, SeccompAction::Errno(EPERM)),
            // A C library that is told so makes its threads with `clone`, whose flags can be seen.
            (self.unknown(), SeccompAction::Errno(libc::ENOSYS as u32)),
        ];
        for (rules, action) in filters {
            if rules.is_empty() {
                continue;
            }
            let filter =
                SeccompFilter::new(rules, SeccompAction::Allow, action, TargetArch::x86_64);
            let filter = filter.map_err(seccompiler::Error::from)?;
            let program = BpfProgram::try_from(filter).map_err(seccompiler::Error::from)?;
            seccompiler::apply_filter(&program)?;
        }
        Ok(())
    }

    fn fatal(self) -> Rules {
        let mut rules: Rules = without_condition(ALWAYS).collect();
        let sets = [(self.obsolete, OBSOLETE), (self.privileges, PRIVILEGES), (self.spawn, SPAWN)];
        for (_, calls) in sets.into_iter().filter(|(wanted, _)| *wanted) {
            rules.extend(without_condition(calls));
        }
        rules
    }

    fn refused(self) -> Result<Rules, seccompiler::BackendError> {
        let mut rules = Rules::new();
        if self.spawn {
            rules.extend(without_condition(SPAWN_REFUSED));
            let mut forms = Vec::new();
            for flag in OF_A_THREAD {
                forms.push(bits(0, *flag as u64, 0)?);
            }
            for flag in OF_A_PROCESS {
                forms.push(bits(0, *flag as u64, *flag as u64)?);
            }
            rules.insert(libc::SYS_clone, forms);
        }
        if self.resources {
            rules.extend(without_condition(RESOURCES_REFUSED));
            // What lowers a thread's own claims is let through.
            let to_idle = SeccompCondition::new(
                1,
                SeccompCmpArgLen::Dword,
                SeccompCmpOp::Ne,
                libc::SCHED_IDLE as u64,
            )?;
            rules.insert(libc::SYS_sched_setscheduler, vec![SeccompRule::new(vec![to_idle])?]);
        }
        Ok(rules)
    }

    fn unknown(self) -> Rules {
        let calls: &[c_long] = if self.spawn { &[libc::SYS_clone3] } else { &[] };
        without_condition(calls).collect()
    }
}

const EPERM: u32 = libc::EPERM as u32;

#[cfg(test)]
mod tests {
    use super::*;

    const ON: Sandbox =
        Sandbox { obsolete: true, privileges: false, spawn: false, resources: false };

    /// What a thread in the sandbox is told; the filter ends with the thread.
    fn told(sandbox: Sandbox, call: impl FnOnce() -> String + Send) -> String {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                sandbox.enter().expect("the filter is taken");
                call()
            });
            thread.join().expect("the thread ends")
        })
    }

    #[test]
    fn programs_and_threads() {
        let program = || match std::process::Command::new("/bin/true").status() {
            Ok(status) => status.to_string(),
            Err(error) => error.kind().to_string(),
        };
        let thread = || match std::thread::Builder::new().spawn(|| "runs") {
            Ok(thread) => thread.join().expect("it ends").to_owned(),
            Err(error) => error.to_string(),
        };
        assert_eq!(told(ON, program), "exit status: 0");
        assert_eq!(told(ON, thread), "runs");
        let alone = Sandbox { spawn: true, ..ON };
        assert_eq!(told(alone, program), "permission denied");
        assert_eq!(told(alone, thread), "runs");
    }

    #[test]
    fn scheduling() {
        let raise = || match rustix::process::setpriority_process(None, 0) {
            Ok(()) => "done".to_owned(),
            Err(error) => error.to_string(),
        };
        assert_eq!(told(ON, raise), "done");
        let content = Sandbox { resources: true, ..ON };
        assert!(told(content, raise).starts_with("Operation not permitted"));
    }
}
