//! The one integration binary: end-to-end tests, and the tidy test that holds the house rules.

mod alloy_client;
mod anvil;
mod bad_input;
mod bad_node;
mod bench;
mod chains;
mod clients;
mod compression;
mod economy;
mod fanout;
mod faults;
mod feeds;
mod finality;
mod geth_reorgs;
mod harness;
mod limits;
mod operations;
mod page;
mod sidebyside;
mod subscriptions;
mod thousand;
mod tidy;
mod tls;
mod two_geths;
mod upstreams;
