//! What the compiler's process gives up before it looks at the first byte.

use super::Bounds;

/// Gives up everything but the three open files, memory and time within bounds. Threads that are there keep it too.
///
/// # Errors
/// The system's, where it knows such bounds.
#[cfg(unix)]
pub(super) fn confine(bounds: &Bounds) -> Result<(), Box<dyn std::error::Error>> {
    use rustix::process::{Resource, Rlimit, setrlimit};
    // After everybody else: a robot is controlled meanwhile. Where it is refused nothing is lost but politeness.
    let _ = rustix::process::nice(19);
    close_others();
    let within = |resource, most| {
        // Nobody raises it again.
        setrlimit(resource, Rlimit { current: Some(most), maximum: Some(most) })
    };
    within(Resource::Core, 0)?;
    within(Resource::Cpu, bounds.cpu_ms.div_ceil(1000) + 1)?;
    within(Resource::Data, bounds.memory_mib << 20)?;
    within(Resource::Fsize, bounds.code_mib << 20)?;
    // No file, socket or pipe more, whatever is closed.
    within(Resource::Nofile, 0)?;
    within(Resource::Nproc, 0)?;
    #[cfg(target_os = "linux")]
    {
        // Who waits for the answer may be killed.
        rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
        system_calls()?;
    }
    Ok(())
}

#[cfg(not(unix))]
pub(super) fn confine(_: &Bounds) -> Result<(), Box<dyn std::error::Error>> {
    Ok(())
}

/// Closes what libraries of the host may have left open for its children.
#[cfg(unix)]
fn close_others() {
    let open = std::fs::read_dir("/proc/self/fd").into_iter().flatten().filter_map(Result::ok);
    let open: Vec<i32> =
        open.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter(|&it| it > 2).collect();
    // SAFETY: nothing in this process has opened a file that it still uses, but the three that stay. One that is closed
    // already, as the folder that was just read is, is refused.
    open.into_iter().for_each(|file| unsafe { rustix::io::close(file) });
}

/// Leaves the system calls that computing, memory and the three files need. Every other one is refused.
#[cfg(target_os = "linux")]
fn system_calls() -> Result<(), Box<dyn std::error::Error>> {
    use seccompiler::{
        BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
        apply_filter_all_threads,
    };
    const NEEDED: [libc::c_long; 31] = [
        libc::SYS_brk,
        libc::SYS_clock_gettime,
        libc::SYS_clock_nanosleep,
        libc::SYS_close,
        libc::SYS_exit,
        libc::SYS_exit_group,
        libc::SYS_fstat,
        libc::SYS_futex,
        libc::SYS_getpid,
        libc::SYS_getrandom,
        libc::SYS_getrusage,
        libc::SYS_gettid,
        libc::SYS_lseek,
        libc::SYS_madvise,
        libc::SYS_membarrier,
        libc::SYS_mmap,
        libc::SYS_mprotect,
        libc::SYS_mremap,
        libc::SYS_munmap,
        libc::SYS_nanosleep,
        libc::SYS_read,
        libc::SYS_restart_syscall,
        libc::SYS_rseq,
        libc::SYS_rt_sigaction,
        libc::SYS_rt_sigprocmask,
        libc::SYS_rt_sigreturn,
        libc::SYS_sched_yield,
        libc::SYS_set_robust_list,
        libc::SYS_sigaltstack,
        libc::SYS_statx,
        libc::SYS_write,
    ];
    let mut rules: std::collections::BTreeMap<_, Vec<SeccompRule>> =
        NEEDED.into_iter().map(|call| (call, Vec::new())).collect();
    // Aborting sends a signal, to nobody else.
    let own = std::process::id().into();
    let to_itself = SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, own)?;
    rules.insert(libc::SYS_tgkill, vec![SeccompRule::new(vec![to_itself])?]);
    let refuse = SeccompAction::Errno(libc::EPERM as u32);
    let filter = SeccompFilter::new(rules, refuse, SeccompAction::Allow, std::env::consts::ARCH.try_into()?)?;
    apply_filter_all_threads(&BpfProgram::try_from(filter)?)?;
    Ok(())
}
