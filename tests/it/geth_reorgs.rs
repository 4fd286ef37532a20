//! Reorgs of a real Geth, of every depth from 1 to 32: clients of the gateway hold exactly the chain, which those of Geth
//! itself do not.
//!
//! Owns the tree of blocks, the moves over it, and the control arm. What is true comes from the lab's oracle.

mod control;
mod moves;
mod tree;

use std::sync::Arc;
use std::time::Instant;

use rand::SeedableRng;
use rand::rngs::StdRng;

use crate::harness::asked;
use crate::harness::engine::{Block, EngineNode, Follower, Lab, Reader};
use crate::harness::{Gateway, GatewayOptions};
use control::Control;
use moves::Moves;
use tree::Tree;

/// Clients that are there from the start, and as many that join on the way.
const CLIENTS: usize = 3;
/// Reorgs where nobody asks for more.
const REORGS: u64 = 200;

/// A Geth, a gateway beside it, and clients of both.
struct Scene {
    subject: EngineNode,
    gateway: Gateway,
    readers: Vec<Reader>,
    lab: Lab,
}

impl Scene {
    /// The subject knows these blocks and stands at one of them.
    async fn start(lab: Lab, blocks: &[Arc<Block>], at: &Block) -> Self {
        let subject = EngineNode::start(&[]).await;
        for block in blocks {
            subject.give(block).await;
        }
        subject.set_head(at).await;
        let gateway = Gateway::start(GatewayOptions::upstream(subject.ws_url())).await;
        gateway.ready().await;
        let mut scene = Self { subject, gateway, readers: Vec::new(), lab };
        scene.join().await;
        scene
    }

    async fn join(&mut self) {
        for _ in 0..CLIENTS {
            let follower = Follower::start(&self.gateway.ws_url(), &self.lab.oracle).await;
            self.readers.push(Reader::spawn(follower));
        }
    }

    /// Moves the subject, without waiting for anybody.
    async fn go(&self, way: &[Arc<Block>]) {
        for block in way {
            self.subject.set_head(block).await;
        }
    }

    /// Every client comes to hold the chain to this tip.
    async fn all_reach(&mut self, tip: &Arc<Block>) {
        for (at, reader) in self.readers.iter_mut().enumerate() {
            let reached = reader.reach(tip).await;
            reached.unwrap_or_else(|breach| panic!("client {at} on the way to {} {}: {breach}", tip.number, tip.hash));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_hold_the_chain_through_reorgs_of_a_real_geth() {
    let (wanted, seed) = (asked("CHAINCAST_REORGS", REORGS), asked("CHAINCAST_SEED", 1));
    println!("CHAINCAST_SEED={seed}");
    let (begun, mut rng) = (Instant::now(), StdRng::seed_from_u64(seed));
    let mut lab = Lab::start().await;
    let tree = Tree::grow(&mut lab, &mut rng).await;
    let mut scene = Scene::start(lab, tree.blocks(), tree.top()).await;
    let control = Control::start(&scene.subject.ws_url(), &scene.lab.oracle).await;
    let built = begun.elapsed();

    let mut moves = Moves::new(&tree);
    while scene.reorgs_counted() < wanted {
        let way = moves.next(&mut rng);
        scene.go(&way).await;
        scene.all_reach(way.last().expect("a way has an end")).await;
        if scene.readers.len() == CLIENTS && scene.reorgs_counted() > wanted / 2 {
            scene.join().await;
        }
    }
    let counted = scene.reorgs_counted();
    for reader in scene.readers.drain(..) {
        reader.finish().await.expect("nothing comes that is not owed");
    }
    let found = control.stop().await;
    let (took, blocks) = (begun.elapsed(), tree.blocks().len());
    println!("{counted} reorgs of {} asked of Geth in {took:?}, {built:?} of it for {blocks} blocks", moves.reorgs());
    println!("by depth {:?}, by kind {:?}", moves.depths(), moves.kinds());
    println!("Geth's own socket: {} heads of {}; {found:?}", found.heads, moves.added());
    moves.assert_every_kind();
    assert!(found.missing > 0 && found.heads < moves.added(), "the checker finds nothing on Geth's own socket");
    scene.gateway.stop().await;
}

/// Geth itself announces no shrink. It announces this, where its head is back below the former one a moment later.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_head_below_the_former_one_by_way_of_another_branch_is_followed() {
    let mut lab = Lab::start().await;
    let genesis = lab.genesis().await;
    let mut blocks = lab.branch(&genesis, &[&[1][..]; 12]).await;
    let branch = blocks.clone();
    let mut rivals = Vec::new();
    for fork in &branch[1..10] {
        rivals.push(lab.branch(fork, &[&[2][..]; 2]).await);
    }
    blocks.extend(rivals.iter().flatten().cloned());
    let mut scene = Scene::start(lab, &blocks, &branch[0]).await;
    let tip = branch.last().expect("there are twelve").clone();
    for (below, rival) in branch[2..].iter().zip(&rivals) {
        scene.go(std::slice::from_ref(&tip)).await;
        scene.all_reach(&tip).await;
        scene.go(&[rival[1].clone(), below.clone()]).await;
        scene.all_reach(below).await;
    }
    scene.gateway.stop().await;
}

impl Scene {
    /// What the gateway says of how often it undid anything. Of moves that follow each other at once it may see only the
    /// last.
    fn reorgs_counted(&self) -> u64 {
        let depths = ["1", "2", "3", "4-7", "8-31", "32-127"];
        let count = |depth| self.gateway.metrics.reorgs.with_label_values(&["default", depth]).get();
        depths.into_iter().map(count).sum()
    }
}
