//! The load: very many clients on one thread, cheap enough that it never is what is measured.
//!
//! A [`Fleet`] is a set of like clients; [`Plan`] says what they are.

mod fleet;
mod frame;
mod link;
mod stream;
mod transport;

pub(super) use fleet::{Arrival, Fleet, Goal, Plan};
pub(super) use transport::any_certificate;
