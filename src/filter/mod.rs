//! What a client asked to see of a block's logs: the canonical form of a filter, and the plain matcher.
//!
//! Owns the reading of filters with Geth's semantics, and [`Index`], which finds the matching ones among very many.
//! Does not know who subscribed. Pure.

mod canonical;
mod crossed;
mod crowd;
mod index;
mod parse;
mod ranges;
mod table;

pub use canonical::Filter;
pub use index::Index;
pub use parse::{Bounds, Refusal, parse};

/// A log has at most four topics.
const POSITIONS: usize = 4;

#[cfg(test)]
pub(crate) mod tests;
