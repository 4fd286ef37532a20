//! What one client of a crowd holds, by the same rules as [`View`](super::super::view::View), and the count of breaches.
//!
//! A breach is counted and not taken in, so that one mistake does not hide the next. Its own tests show that each kind is
//! counted as what it is.

use std::fmt;

use alloy_primitives::B256;
use chaincast::devnode::{BlockRef, SharedChain};

use super::Plan;
use super::known::{Event, Filter, LogKey};

/// What was wrong, and how much was right.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) missing: usize,
    pub(crate) doubled: usize,
    pub(crate) disordered: usize,
    pub(crate) wrong: usize,
    /// Clients whose connection ended.
    pub(crate) ended: usize,
    pub(crate) heads: usize,
    pub(crate) logs: usize,
    pub(crate) removed: usize,
    /// The first breaches, in words.
    words: Vec<String>,
}

/// Breaches told in words.
const WORDS: usize = 5;

impl Tally {
    pub(crate) fn is_clean(&self) -> bool {
        (self.missing, self.doubled, self.disordered, self.wrong, self.ended) == (0, 0, 0, 0, 0)
    }

    pub(crate) fn words(&self) -> String {
        self.words.join("\n")
    }

    pub(super) fn add(&mut self, other: Self) {
        self.missing += other.missing;
        self.doubled += other.doubled;
        self.disordered += other.disordered;
        self.wrong += other.wrong;
        self.ended += other.ended;
        self.heads += other.heads;
        self.logs += other.logs;
        self.removed += other.removed;
        let room = WORDS.saturating_sub(self.words.len());
        self.words.extend(other.words.into_iter().take(room));
    }

    fn say(&mut self, words: impl FnOnce() -> String) {
        if self.words.len() < WORDS {
            self.words.push(words());
        }
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { missing, doubled, disordered, wrong, ended, heads, logs, removed, .. } = self;
        write!(f, "{heads} heads, {logs} logs, {removed} logs removed: {missing} missing, {doubled} doubled, ")?;
        write!(f, "{disordered} disordered, {wrong} wrong, {ended} ended")
    }
}

/// What the chain holds above a base.
pub(super) struct Goal {
    heads: Vec<B256>,
    /// By filter.
    logs: Vec<Vec<LogKey>>,
}

impl Goal {
    pub(super) fn of(chain: &SharedChain, base: BlockRef, filters: &[Filter]) -> Self {
        let blocks = chain.canonical_blocks();
        let blocks: Vec<_> = blocks.iter().filter(|block| block.number() > base.number).collect();
        let mut logs = vec![Vec::new(); filters.len()];
        for block in &blocks {
            for at in block.logs() {
                let (address, topics) = (at.transfer.address(block.economy()), at.transfer.topics(block.economy()));
                let key = LogKey { number: block.number(), index: at.log_index, block: block.hash() };
                let takers = filters.iter().zip(&mut logs).filter(|(filter, _)| filter.takes(&address, &topics));
                takers.for_each(|(_, logs)| logs.push(key));
            }
        }
        Self { heads: blocks.iter().map(|block| block.hash()).collect(), logs }
    }
}

/// What one client holds.
#[derive(Debug)]
pub(super) struct Sight {
    plan: Plan,
    base: BlockRef,
    /// Whether something above the base has come: what is below it then has no business any more.
    begun: bool,
    heads: Vec<B256>,
    logs: Vec<LogKey>,
    tally: Tally,
}

impl Sight {
    pub(super) fn new(plan: Plan, base: BlockRef) -> Self {
        Self { plan, base, begun: false, heads: Vec::new(), logs: Vec::new(), tally: Tally::default() }
    }

    pub(super) fn take(&mut self, event: &Event, filters: &[Filter]) {
        let number = match event {
            Event::Head { number, .. } => *number,
            Event::Log { key, .. } => key.number,
            Event::Wrong(why) => return self.wrong(why.clone()),
        };
        if number <= self.base.number && !self.begun {
            return;
        }
        self.begun = true;
        if number <= self.base.number {
            return self.wrong(format!("{event:?} is below the base"));
        }
        match event {
            Event::Head { number, hash, parent } => self.head(*number, *hash, *parent),
            Event::Log { key, removed, address, topics } => {
                let filter = self.plan.filter.map(|filter| &filters[filter]);
                if !filter.is_some_and(|filter| filter.takes(address, topics)) {
                    return self.wrong(format!("{key:?} was not asked for"));
                }
                if *removed { self.remove(*key) } else { self.log(*key) }
            }
            Event::Wrong(_) => {}
        }
    }

    fn head(&mut self, number: u64, hash: B256, parent: B256) {
        self.tally.heads += 1;
        let at = self.place(number);
        if at > self.heads.len() {
            self.tally.missing += at - self.heads.len();
            self.tally.say(|| format!("head {number} {hash} leaves a hole"));
        } else if at + 1 == self.heads.len() && self.heads[at] == hash {
            self.tally.doubled += 1;
            self.tally.say(|| format!("head {number} {hash} comes twice"));
        } else if at.checked_sub(1).map_or(self.base.hash, |below| self.heads[below]) != parent {
            self.disordered(format!("head {number} {hash} does not stand on the head below it"));
        } else {
            if self.logs.last().is_some_and(|log| log.number >= number) {
                self.disordered(format!("head {number} {hash} replaces one whose logs were not removed"));
            }
            self.heads.truncate(at);
            self.heads.push(hash);
        }
    }

    fn log(&mut self, key: LogKey) {
        self.tally.logs += 1;
        if self.plan.heads && self.heads.get(self.place(key.number)) != Some(&key.block) {
            self.disordered(format!("{key:?} is of no head that stands"));
        } else if self.logs.last().is_some_and(|last| (last.number, last.index) >= (key.number, key.index)) {
            if self.logs.contains(&key) {
                self.tally.doubled += 1;
                self.tally.say(|| format!("{key:?} comes twice"));
            } else {
                self.disordered(format!("{key:?} does not follow"));
            }
        } else {
            self.logs.push(key);
        }
    }

    fn remove(&mut self, key: LogKey) {
        self.tally.removed += 1;
        if self.logs.last() == Some(&key) {
            self.logs.pop();
        } else if self.logs.contains(&key) {
            self.disordered(format!("{key:?} is removed and is not the newest"));
        } else {
            self.wrong(format!("{key:?} is removed and is not there"));
        }
    }

    /// The place of a height above the base among the heads.
    fn place(&self, number: u64) -> usize {
        usize::try_from(number - self.base.number - 1).expect("tests have short chains")
    }

    /// A message that nothing asked for.
    pub(super) fn stray(&mut self, text: &str) {
        self.wrong(format!("nothing asked for this: {text}"));
    }

    /// The connection has ended.
    pub(super) fn ended(&mut self, why: String) {
        self.tally.ended += 1;
        self.tally.say(|| why);
    }

    fn wrong(&mut self, words: String) {
        self.tally.wrong += 1;
        self.tally.say(|| words);
    }

    fn disordered(&mut self, words: String) {
        self.tally.disordered += 1;
        self.tally.say(|| words);
    }

    fn owed<'a>(&self, goal: &'a Goal) -> (&'a [B256], &'a [LogKey]) {
        let heads: &[B256] = if self.plan.heads { &goal.heads } else { &[] };
        (heads, self.plan.filter.map_or(&[], |filter| &goal.logs[filter]))
    }

    /// Whether it holds just what the chain holds.
    pub(super) fn holds(&self, goal: &Goal) -> bool {
        let (heads, logs) = self.owed(goal);
        // By their ends first, as this is asked with each event.
        self.heads.last() == heads.last()
            && self.logs.last() == logs.last()
            && self.heads.len() == heads.len()
            && self.logs.len() == logs.len()
    }

    /// What was wrong, with what it lacks of the chain and holds beside it.
    pub(super) fn judge(mut self, goal: &Goal) -> Tally {
        let (heads, logs) = self.owed(goal);
        let (heads_lost, heads_more) = differ(heads, &self.heads);
        let (logs_lost, logs_more) = differ(logs, &self.logs);
        let (missing, wrong) = (heads_lost + logs_lost, heads_more + logs_more);
        self.tally.missing += missing;
        self.tally.wrong += wrong;
        if missing + wrong > 0 {
            let plan = self.plan;
            self.tally.say(|| format!("in the end a client of {plan:?} lacks {missing} and has {wrong} too many"));
        }
        self.tally
    }
}

/// How many of `all` are not in `held`, and the other way round.
fn differ<T: PartialEq>(all: &[T], held: &[T]) -> (usize, usize) {
    let common = all.iter().zip(held).take_while(|(one, other)| one == other).count();
    let (all, held) = (&all[common..], &held[common..]);
    let lost = all.iter().filter(|one| !held.contains(one)).count();
    (lost, held.iter().filter(|one| !all.contains(one)).count())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::harness::crowd::known::{Known, filters};
    use chaincast::devnode::DevOptions;

    /// What comes: a block's head, all of its logs, or one of them, added or removed.
    enum Come {
        Head(BlockRef),
        Log(BlockRef, usize),
        Removed(BlockRef, usize),
        Text(&'static str),
    }
    use Come::{Head, Log, Removed, Text};

    /// A chain of three blocks with two logs each above the base, and what a client of everything makes of what comes.
    struct Table {
        chain: SharedChain,
        base: BlockRef,
        blocks: Vec<BlockRef>,
    }

    impl Table {
        fn new() -> Self {
            let chain = SharedChain::new(DevOptions::default());
            let base = chain.mine(2);
            let blocks = chain.extend(&[2, 2, 2]);
            Self { chain, base, blocks }
        }

        fn whole(&self) -> Vec<Come> {
            self.blocks.iter().flat_map(|block| [Head(*block), Log(*block, 0), Log(*block, 1)]).collect()
        }

        fn tally(&self, come: Vec<Come>) -> Tally {
            let (filters, known) = (filters(&self.chain.economy()), Known::new(self.chain.clone()));
            let mut sight = Sight::new(Plan { heads: true, filter: Some(0) }, self.base);
            let block = |block: BlockRef| self.chain.block(block.hash).expect("it is known");
            for come in come {
                let (text, heads) = match come {
                    Head(head) => (block(head).header_json(), true),
                    Log(of, index) => (block(of).logs_json(false)[index].clone(), false),
                    Removed(of, index) => (block(of).logs_json(true)[index].clone(), false),
                    Text(text) => (text.to_owned(), true),
                };
                sight.take(&known.event(&text, heads), &filters);
            }
            sight.judge(&Goal::of(&self.chain, self.base, &filters))
        }

        /// The whole with a change, and the counts of missing, doubled, disordered and wrong.
        fn counts(&self, change: impl FnOnce(&mut Vec<Come>)) -> [usize; 4] {
            let mut come = self.whole();
            change(&mut come);
            let tally = self.tally(come);
            [tally.missing, tally.doubled, tally.disordered, tally.wrong]
        }
    }

    #[test]
    fn what_is_right_is_clean_and_what_is_below_the_base_may_come_first() {
        let table = Table::new();
        assert!(table.tally(table.whole()).is_clean());
        let early = [Head(table.base), Log(table.base, 0)].into_iter().chain(table.whole());
        assert!(table.tally(early.collect()).is_clean());
        let old = table.blocks.clone();
        table.chain.replace(2, &[1]);
        let new = table.chain.head();
        let back = [Removed(old[2], 1), Removed(old[2], 0), Removed(old[1], 1), Removed(old[1], 0)];
        let come: Vec<_> = table.whole().into_iter().chain(back).chain([Head(new), Log(new, 0)]).collect();
        let tally = table.tally(come);
        assert!(tally.is_clean() && tally.removed == 4, "{tally}: {}", tally.words());
    }

    #[test]
    fn each_breach_is_counted_as_what_it_is() {
        let table = Table::new();
        let tip = table.blocks[2];
        assert_eq!(table.counts(|come| come.truncate(8)), [1, 0, 0, 0], "the last log is missing");
        assert_eq!(
            table.counts(|come| come.retain(|one| !matches!(one, Log(of, 0) if *of == table.blocks[1]))),
            [1, 0, 0, 0],
            "a log is missing"
        );
        assert_eq!(table.counts(|come| come.push(Log(tip, 1))), [0, 1, 0, 0], "a log is doubled");
        assert_eq!(table.counts(|come| come.insert(1, Head(table.blocks[0]))), [0, 1, 0, 0], "a head is doubled");
        assert_eq!(table.counts(|come| come.push(Head(table.base))), [0, 0, 0, 1], "the base comes again");
        assert_eq!(table.counts(|come| come.push(Text("{}"))), [0, 0, 0, 1], "nonsense");
        assert_eq!(table.counts(|come| come.push(Removed(tip, 0)))[2], 1, "the older log is removed");
        assert_eq!(table.counts(|come| come.swap(6, 7))[2], 1, "a log before its head");
        let hole =
            table.counts(|come| come.retain(|one| !matches!(one, Head(of) | Log(of, _) if *of == table.blocks[1])));
        assert!(hole[0] > 0, "a block is missing: {hole:?}");
        let rival = table.chain.branch(table.blocks[1].hash, &[1])[0];
        assert_eq!(table.counts(|come| come.push(Log(rival, 0)))[2], 1, "a log of a block that does not stand");
        assert_eq!(table.counts(|come| come.push(Head(rival)))[2], 1, "a head replaces one whose logs stand");
    }
}
