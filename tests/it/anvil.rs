//! The gateway beside a real Anvil, which announces reorgs but may leave the removed logs out: clients get them whole.

use serde_json::json;

use crate::harness::anvil::Anvil;
use crate::harness::{Gateway, GatewayOptions, Watcher};

#[tokio::test]
async fn anvils_reorgs_are_told_whole() {
    let anvil = Anvil::start().await;
    let contract = anvil.deploy_tick().await;
    let gateway = Gateway::start(GatewayOptions::upstream(anvil.ws_url())).await;
    gateway.ready().await;
    let mut watcher = Watcher::start(&gateway.ws_url()).await;
    let first = 2;
    for logs in [3, 1, 2, 5] {
        anvil.mine_ticks(&contract, logs).await;
    }
    watcher.reach_lists(anvil.chain(first).await).await;
    // Each call of the contract emits one log more than it is asked for.
    assert_eq!(watcher.view.logs(), 15);

    anvil.ask("anvil_reorg", json!([3, []])).await;
    anvil.mine_ticks(&contract, 4).await;
    watcher.reach_lists(anvil.chain(first).await).await;
    assert_eq!((watcher.view.removed, watcher.view.replaced), (11, 3));
    gateway.stop().await;
}
