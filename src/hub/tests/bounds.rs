//! The bounds on clients that do not read, and what does not count against them.

use std::time::Duration;

use super::*;

/// A log of so many bytes takes no socket of the tests at once.
const HUGE: usize = 1_000_000;
/// What may be held for one client alone: the piece encoded ahead, and what is begun of the next result.
const OWN_MAX: usize = 70_000;

impl World {
    fn with(options: Options, wants: &[&[Want]]) -> Self {
        let mut world = Self::new(1, options);
        for (at, wants) in wants.iter().enumerate() {
            let client = world.connect();
            world.clients.push(client);
            wants.iter().for_each(|want| world.subscribe_to(at, *want));
        }
        world
    }

    /// Lets the shard do what it can.
    async fn quiet(&self) {
        let mut left = 200;
        for _ in 0..100_000 {
            tokio::task::yield_now().await;
            left -= u32::from(self.shard.state.borrow().seq == self.journal.last());
            if left == 0 {
                return;
            }
        }
        panic!("the shard does not follow");
    }

    /// The clock is stopped; it goes on by seconds, and a little more as timers are precise to the millisecond.
    async fn seconds(&self, count: usize) {
        for _ in 0..count {
            tokio::time::advance(Duration::from_millis(1_002)).await;
            self.quiet().await;
        }
    }

    fn heads(&mut self, count: usize) {
        (0..count).for_each(|_| self.model.head(&mut self.rng, &self.journal));
    }

    fn is_closing(&self, at: usize) -> bool {
        self.shard.is_closing(self.clients[at].key)
    }

    /// Bytes held for clients alone, at most for one, and all bytes that wait, for all.
    fn waiting(&self) -> (usize, usize) {
        let mut state = self.shard.state.borrow_mut();
        let each = self.clients.iter().filter_map(|client| {
            let outbox = state.conn(client.key)?.outbox.as_ref()?;
            Some((outbox.bytes.own(), outbox.bytes.len()))
        });
        each.fold((0, 0), |(most, sum), (own, all)| (most.max(own), sum + all))
    }
}

#[test]
fn a_huge_log_is_not_held_for_each_client() {
    in_a_shard_thread(async {
        let all = Want::Logs(None, None);
        let wants: [&[Want]; 6] =
            [&[all], &[all], &[all], &[all, all, Want::Heads], &[Want::Logs(Some(0), None)], &[all, Want::Heads]];
        let mut world = World::with(options(), &wants);
        let (mut own, mut waiting) = (0, 0);
        for round in 0..4 {
            world.model.huge(&mut world.rng, &world.journal, HUGE);
            world.model.logs(&world.journal);
            if round == 2 {
                world.model.undo(&mut world.rng, &world.journal);
            }
            world.quiet().await;
            // Not all are cut in the same frame.
            for step in 0..300 {
                let client = &mut world.clients[step % 4];
                client.appetite = 9_000;
                client.read(&world.model);
                tokio::task::yield_now().await;
                let now = world.waiting();
                (own, waiting) = (own.max(now.0), waiting.max(now.1));
            }
        }
        assert!(waiting > 5 * HUGE, "they were not behind: {waiting} bytes");
        assert!(own < OWN_MAX, "{own} bytes are held for one alone");
        world.settle().await;
        world.end().await;
    });
}

#[test]
fn what_is_shared_does_not_count_against_answers() {
    in_a_shard_thread(async {
        let options = Options { outbox_max_bytes: 100_000, ..options() };
        let mut world = World::with(options, &[&[Want::Logs(None, None)]]);
        world.model.huge(&mut world.rng, &world.journal, HUGE);
        world.model.logs(&world.journal);
        world.quiet().await;
        assert!(world.waiting().1 > HUGE / 2);
        let key = world.clients[0].key;
        for _ in 0..2 {
            let answer = world.clients[0].answered(40_000);
            world.shard.send(key, answer.as_bytes());
        }
        assert!(!world.is_closing(0));
        world.shard.send(key, &vec![b'x'; 40_000]);
        world.clients[0].closed_by = Some(1013);
        assert!(world.is_closing(0), "three do not fit");
        world.settle().await;
        world.end().await;
    });
}

/// An outage ends, and all of its blocks come at once.
#[test]
fn a_burst_counts_against_nobody_who_reads_within_the_grace() {
    in_a_shard_thread(async {
        tokio::time::pause();
        let options = Options { lag_max_blocks: 64, ..options() };
        let mut world = World::with(options, &[&[Want::Heads], &[Want::Heads]]);
        world.seconds(30).await;
        world.heads(1_000);
        world.quiet().await;
        world.seconds(3).await;
        assert!(!world.is_closing(0) && !world.is_closing(1));
        world.clients[0].hunger();
        while !world.clients[0].has_all(&world.model) {
            world.clients[0].read(&world.model);
            world.quiet().await;
        }
        world.seconds(1).await;
        assert!(!world.is_closing(1));
        world.seconds(2).await;
        assert!(!world.is_closing(0), "it had taken all in time");
        assert!(world.is_closing(1), "it took nothing");
        world.clients[1].closed_by = Some(1013);
        tokio::time::resume();
        world.settle().await;
        world.end().await;
    });
}

#[test]
fn who_does_not_keep_up_is_closed_as_many_blocks_behind_as_are_allowed_and_the_grace() {
    in_a_shard_thread(async {
        tokio::time::pause();
        let options = Options { lag_max_blocks: 8, ..options() };
        let mut world = World::with(options, &[&[Want::Heads]]);
        let mut next = 0;
        while !world.is_closing(0) {
            world.heads(1);
            world.quiet().await;
            next = {
                let mut state = world.shard.state.borrow_mut();
                let outbox = state.conn(world.clients[0].key).and_then(|conn| conn.outbox.as_ref());
                outbox.and_then(|outbox| outbox.place).map_or(0, |place| place.seq)
            };
            world.seconds(1).await;
        }
        assert!(next > 0);
        // A block a second: the one owed, 8 more, and those of 5 seconds.
        assert_eq!(world.journal.last() - next, 8 + 5);
        world.clients[0].closed_by = Some(1013);
        tokio::time::resume();
        world.settle().await;
        world.end().await;
    });
}
