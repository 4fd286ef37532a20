//! The one integration binary: end-to-end tests, and the tidy test that holds the house rules.

mod alloy_client;
mod clients;
mod harness;
mod sidebyside;
mod tidy;
