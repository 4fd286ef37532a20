//! What the figures were measured on.

use std::fmt::{self, Display, Formatter};

use serde::Serialize;

/// The machine, as the kernel describes it.
#[derive(Debug, Clone, Serialize)]
pub struct Machine {
    cpu: String,
    cores: usize,
    kernel: String,
    loopback_mtu: String,
    congestion_control: String,
    /// Of the last minute, before anything was measured.
    load_average: String,
}

impl Machine {
    pub(super) fn read() -> Self {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let first = |text: String| text.split_whitespace().next().unwrap_or("?").to_owned();
        Self {
            cpu: cpu_in(&read("/proc/cpuinfo")),
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            kernel: first(read("/proc/sys/kernel/osrelease")),
            loopback_mtu: first(read("/sys/class/net/lo/mtu")),
            congestion_control: first(read("/proc/sys/net/ipv4/tcp_congestion_control")),
            load_average: first(read("/proc/loadavg")),
        }
    }
}

/// The model, with family and number, which are all that some hypervisors say.
fn cpu_in(cpuinfo: &str) -> String {
    let field = |name: &str| {
        let mut fields = cpuinfo.lines().filter_map(|line| line.split_once(':'));
        fields.find(|(key, _)| key.trim() == name).map_or("?", |(_, value)| value.trim())
    };
    format!("{} (family {}, model {})", field("model name"), field("cpu family"), field("model"))
}

impl Display for Machine {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self { cpu, cores, kernel, loopback_mtu, congestion_control, load_average } = self;
        write!(
            f,
            "{cores} cores of {cpu}, Linux {kernel}, loopback MTU {loopback_mtu}, congestion control \
             {congestion_control}, load average {load_average} before"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_model_is_found() {
        let text = "processor\t: 0\ncpu family\t: 6\nmodel\t\t: 167\nmodel name\t: A CPU\n";
        assert_eq!(cpu_in(text), "A CPU (family 6, model 167)");
        assert_eq!(cpu_in(""), "? (family ?, model ?)");
    }
}
