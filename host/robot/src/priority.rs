//! Who goes first when there are more threads than cores: the control loop, and skills last.
//!
//! Linux only; elsewhere the system's scheduler decides alone.

/// Lets the calling thread run before everything else that is not in real time (`SCHED_FIFO`, priority 50 as interrupt
/// threads have). Threads that it makes do not inherit that. Where the system does not permit it, which takes
/// `CAP_SYS_NICE` or `ulimit -r`, the thread goes on as it was and this says why.
///
/// # Errors
/// The system's.
pub fn before_all() -> std::io::Result<()> {
    #[cfg(target_os = "linux")]
    {
        let parameters = libc::sched_param { sched_priority: 50 };
        // SAFETY: 0 is the calling thread, and the parameters live as long as the call.
        match unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO | libc::SCHED_RESET_ON_FORK, &parameters) } {
            0 => {}
            _ => return Err(std::io::Error::last_os_error()),
        }
    }
    Ok(())
}

/// Lets others run before the calling thread (nice 10): a thread that strangers' code computes on.
pub fn after_others() {
    #[cfg(target_os = "linux")]
    // SAFETY: it takes numbers only; 0 is the calling thread, as on Linux each has a nice value of its own. To become less
    // urgent is permitted to everybody, and if it fails all the same the thread goes on as it was.
    unsafe {
        libc::setpriority(libc::PRIO_PROCESS, 0, 10);
    }
}
