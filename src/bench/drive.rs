//! The course of one run: warm-up, measured blocks, and what connecting costs.
//!
//! Owns when the clocks are read. Does not know who makes the blocks.

use std::time::{Duration, Instant};

use super::load::Fleet;
use super::measure::{Latency, Measure, Reading};
use super::process::Usage;

/// Blocks before the measure starts: caches and buffers have then their size.
pub(super) const WARM_UP: usize = 3;
/// How often a process is looked at that is to give back memory.
const LOOK: Duration = Duration::from_millis(250);
/// Memory that has not changed for so long is at rest; allocators give back late.
const REST: Duration = Duration::from_secs(3);
/// How long a server may take to come to rest.
const REST_MAX: Duration = Duration::from_secs(20);

/// Takes the warm-up, the measured blocks and one more, which shows that nothing of the measured ones comes twice. `next`
/// waits until every client has one block more. The error voids the run.
pub(super) fn blocks(
    fleet: &mut Fleet,
    blocks: usize,
    pid: Option<u32>,
    measure: &mut Measure,
    mut next: impl FnMut(&mut Fleet) -> Result<(), String>,
) -> Result<(), String> {
    for _ in 0..WARM_UP {
        next(fleet)?;
    }
    let before = Reading::take(pid, fleet)?;
    fleet.record(true);
    let mut lasts = Vec::with_capacity(blocks);
    for _ in 0..blocks {
        next(fleet)?;
        lasts.extend(fleet.since_asked().map(|since| since.as_secs_f64() * 1000.0));
    }
    let after = Reading::take(pid, fleet)?;
    fleet.record(false);
    measure.blocks = Some(blocks);
    after.deliveries_since(&before, measure);
    let [p50, p99, max] = fleet.latency_ms();
    lasts.sort_by(f64::total_cmp);
    measure.latency_ms = Some(Latency { p50, p99, max, last: lasts.get(lasts.len() / 2).copied() });
    next(fleet)
}

/// Connects so many clients and fills in what that cost.
pub(super) fn connect(
    fleet: &mut Fleet,
    clients: usize,
    pid: Option<u32>,
    measure: &mut Measure,
) -> Result<(), String> {
    connecting(fleet, clients, pid, measure).map(drop)
}

/// The same where nothing else is measured, so that the generator must not be what connects are waiting for.
pub(super) fn storm(fleet: &mut Fleet, clients: usize, pid: Option<u32>, measure: &mut Measure) -> Result<(), String> {
    let (before, after) = connecting(fleet, clients, pid, measure)?;
    after.judge_generator(&before, measure);
    Ok(())
}

/// The readings before the first connection and after the last subscription.
fn connecting(
    fleet: &mut Fleet,
    clients: usize,
    pid: Option<u32>,
    measure: &mut Measure,
) -> Result<(Reading, Reading), String> {
    let before = Reading::take(pid, fleet)?;
    fleet.connect(clients)?;
    let after = Reading::take(pid, fleet)?;
    let (wall, cpu) = after.since(&before);
    measure.clients = clients;
    measure.connects_per_second = Some(clients as f64 / wall);
    measure.connects_per_cpu_second = cpu.filter(|cpu| *cpu > 0.0).map(|cpu| clients as f64 / cpu);
    measure.rss_per_client_bytes = after.growth_each(&before, clients);
    Ok((before, after))
}

/// Connects so many clients, lets all go, and fills in what is left of them in the server's memory.
pub(super) fn idle(mut fleet: Fleet, clients: usize, pid: u32, measure: &mut Measure) -> Result<(), String> {
    let told = |e: anyhow::Error| format!("{e:#}");
    let (before, descriptors) = (Usage::of(pid).map_err(told)?, Usage::descriptors(pid).map_err(told)?);
    connect(&mut fleet, clients, Some(pid), measure)?;
    drop(fleet);
    let left = rest(pid, descriptors)?.rss_bytes.saturating_sub(before.rss_bytes);
    measure.rss_left_per_client_bytes = Some(left as f64 / clients as f64);
    Ok(())
}

/// The memory of a process once it has no more descriptors than `descriptors` and its memory has come to rest.
fn rest(pid: u32, descriptors: usize) -> Result<Usage, String> {
    let look = || Usage::of(pid).map_err(|e| format!("{e:#}"));
    let (started, mut last, mut since) = (Instant::now(), look()?, Instant::now());
    loop {
        let open = Usage::descriptors(pid).map_err(|e| format!("{e:#}"))?;
        let late = started.elapsed() > REST_MAX;
        if open <= descriptors && (late || since.elapsed() >= REST) {
            return Ok(last);
        }
        if late {
            return Err(format!("the server did not come to rest: {open} descriptors are open, {descriptors} before"));
        }
        std::thread::sleep(LOOK);
        let now = look()?;
        if now.rss_bytes != last.rss_bytes {
            (last, since) = (now, Instant::now());
        }
    }
}
