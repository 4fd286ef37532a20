//! Which core a thread, and what it starts, may run on.

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// A core for the server, and one for the generator and the node.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cores {
    pub(super) server: usize,
    pub(super) generator: usize,
}

impl Cores {
    /// The last and the first core that this process may use.
    pub(super) fn choose() -> anyhow::Result<Self> {
        let allowed = sched_getaffinity(None)?;
        let cores: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|core| allowed.is_set(*core)).collect();
        match cores[..] {
            [generator, .., server] => Ok(Self { server, generator }),
            _ => anyhow::bail!("the comparison needs two cores: one for the server, one for the load"),
        }
    }
}

/// Binds this thread to a core, and with it the threads and processes that it starts from now on.
pub(super) fn stay_on(core: usize) -> anyhow::Result<()> {
    let mut set = CpuSet::new();
    set.set(core);
    Ok(sched_setaffinity(None, &set)?)
}
