//! What a process has used: the kernel's accounts of it.
//!
//! User and system time together, because loopback's soft interrupts are charged to who sends.

use std::time::Duration;

use anyhow::Context as _;
use nix::time::{clock_getcpuclockid, clock_gettime};
use nix::unistd::Pid;

/// What a process has used.
#[derive(Debug, Clone, Copy)]
pub(super) struct Usage {
    pub(super) cpu_seconds: f64,
    pub(super) rss_bytes: u64,
}

impl Usage {
    /// CPU time as the kernel's clock of the process has it, which is finer than the ticks of /proc, and resident memory.
    pub(super) fn of(pid: u32) -> anyhow::Result<Self> {
        let context = || format!("process {pid} cannot be read");
        let clock = clock_getcpuclockid(Pid::from_raw(i32::try_from(pid)?)).with_context(context)?;
        let cpu = Duration::from(clock_gettime(clock).with_context(context)?);
        let statm = std::fs::read_to_string(format!("/proc/{pid}/statm")).with_context(context)?;
        let pages: u64 = statm.split_whitespace().nth(1).context("/proc/PID/statm")?.parse()?;
        Ok(Self { cpu_seconds: cpu.as_secs_f64(), rss_bytes: pages * rustix::param::page_size() as u64 })
    }

    /// Number of open descriptors.
    pub(super) fn descriptors(pid: u32) -> anyhow::Result<usize> {
        let list = std::fs::read_dir(format!("/proc/{pid}/fd"));
        Ok(list.with_context(|| format!("the descriptors of process {pid} cannot be read"))?.count())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_can_be_read() {
        let before = Usage::of(std::process::id()).unwrap();
        let after = Usage::of(std::process::id()).unwrap();
        assert!(before.rss_bytes > 100_000, "{before:?}");
        assert!(before.cpu_seconds > 0.0 && after.cpu_seconds > before.cpu_seconds, "{before:?} {after:?}");
        assert!(Usage::descriptors(std::process::id()).unwrap() > 2);
        assert!(Usage::of(u32::MAX).is_err());
    }
}
