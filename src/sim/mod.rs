//! The simulation: the whole daemon over a simulated network and time, with nodes that fail and clients that judge.
//!
//! A seed decides everything: the script ([`script`]), the network's delays ([`net`]) and the runtime's own choices, so a
//! seed that fails can be played again. One thread, one runtime whose clock stands still while anyone has something to
//! do. Only tests have it. Knows the daemon by its composition root and its sockets.
//!
//! `CHAINCAST_SIM_SEED=n cargo test --lib sim` plays one seed and shows it, with `RUST_LOG=chaincast=debug` the daemon's log
//! too; `CHAINCAST_SIM_SEEDS=n` plays that many.

mod client;
mod net;
mod planted;
mod promises;
mod script;
mod stage;
mod trace;
mod view;
mod world;

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use planted::Planted;
use script::Script;
use stage::Outcome;
use trace::Tally;

/// Seeds of `make test`.
const SEEDS: u64 = 300;
/// Seeds within which a planted bug must be found.
const SEEDS_A_BUG: u64 = 30;

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable}={text} is not a number")))
}

/// What is shown of a seed that failed.
fn report(seed: u64, outcome: &Outcome) -> String {
    format!(
        "seed {seed} failed {}\n\n{}\n{}\nplay it again: CHAINCAST_SIM_SEED={seed} cargo test --lib sim\n",
        outcome.failure.as_deref().unwrap_or_default(),
        Script::draw(seed),
        outcome.trace,
    )
}

/// Whether more seeds are played.
#[derive(PartialEq, Eq)]
enum Next {
    More,
    Enough,
}

/// Plays seeds on all cores; each on a thread of its own, so that nothing of a thread outlives a seed.
fn play_all(seeds: std::ops::Range<u64>, bug: Option<Planted>, each: impl Fn(u64, &Outcome) -> Next + Sync) {
    let next = AtomicU64::new(seeds.start);
    let cores = std::thread::available_parallelism().map_or(2, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end {
                        return;
                    }
                    let outcome = std::thread::scope(|one| one.spawn(|| stage::play(&Script::draw(seed), bug)).join());
                    if each(seed, &outcome.unwrap_or_else(|_| Outcome::panicked())) == Next::Enough {
                        next.store(seeds.end, Ordering::Relaxed);
                    }
                }
            });
        }
    });
}

/// Shows the daemon's own log lines at the level of `RUST_LOG`, in simulated time.
fn show_logs() {
    let filter = tracing_subscriber::EnvFilter::from_default_env();
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_timer(trace::Simulated).with_ansi(false);
    // Where another test of this process shows its own, they are all there.
    drop(logs.try_init());
}

#[test]
fn every_client_holds_exactly_the_chain_whatever_fails() {
    let (seeds, alone) = match number("CHAINCAST_SIM_SEED") {
        Some(seed) => (seed..seed + 1, true),
        None => (0..number("CHAINCAST_SIM_SEEDS").unwrap_or(SEEDS), false),
    };
    if alone {
        show_logs();
    }
    let sum = Mutex::new((Vec::new(), Tally::default()));
    play_all(seeds.clone(), None, |seed, outcome| {
        let mut sum = sum.lock().expect("nobody panics with it");
        sum.1.add(outcome.tally);
        if outcome.failure.is_some() {
            sum.0.push((seed, report(seed, outcome)));
        } else if alone {
            println!("{}\nseed {seed} passed, digest {:?}", Script::draw(seed), outcome.digest);
        }
        Next::More
    });
    let (mut failed, tally) = sum.into_inner().expect("nobody panics with it");
    failed.sort_unstable();
    println!("seeds {seeds:?}: {tally:?}");
    let numbers: Vec<u64> = failed.iter().map(|(seed, _)| *seed).collect();
    assert!(failed.is_empty(), "{}\n{} seeds failed: {numbers:?}", failed[0].1, failed.len());
    let enough = [(tally.undos, 5), (tally.undone, 20), (tally.came, 60), (tally.events, 5_000)];
    let seeds = seeds.count();
    assert!(alone || enough.iter().all(|(count, a_seed)| *count > a_seed * seeds), "too little happened: {tally:?}");
}

#[test]
fn a_seed_repeats_its_trace() {
    let digests = Mutex::new(Vec::new());
    for _ in 0..2 {
        play_all(0..8, None, |seed, outcome| {
            digests.lock().expect("nobody panics with it").push((seed, outcome.digest));
            Next::More
        });
    }
    let mut digests = digests.into_inner().expect("nobody panics with it");
    digests.sort_unstable();
    for pair in digests.chunks(2) {
        assert_eq!(pair[0], pair[1], "the second run of a seed was another");
    }
}

#[test]
fn every_planted_bug_is_found() {
    let missed: Vec<_> = planted::ALL.into_iter().filter(|bug| !is_found(*bug)).collect();
    assert!(missed.is_empty(), "not found in {SEEDS_A_BUG} seeds: {missed:?}");
}

fn is_found(bug: Planted) -> bool {
    let found = Mutex::new(None);
    play_all(0..SEEDS_A_BUG, Some(bug), |seed, outcome| {
        let Some(failure) = &outcome.failure else { return Next::More };
        found.lock().expect("nobody panics with it").get_or_insert((seed, failure.clone()));
        Next::Enough
    });
    let found = found.into_inner().expect("nobody panics with it");
    println!("{bug:?}: {found:?}");
    found.is_some()
}
