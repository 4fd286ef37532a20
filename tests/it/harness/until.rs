//! Waiting for what nobody announces: a count, a gauge, a state. What is announced is waited for where it arrives.

use std::time::Duration;

use super::client::PATIENCE;

/// Time between two looks.
const LOOK: Duration = Duration::from_millis(10);

/// Looks until `holds`; fails after [`PATIENCE`], saying what did not come about.
pub(crate) async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let looking = async {
        let mut looks = tokio::time::interval(LOOK);
        while !holds().await {
            looks.tick().await;
        }
    };
    tokio::time::timeout(PATIENCE, looking).await.unwrap_or_else(|_| panic!("not in time: {what}"));
}
