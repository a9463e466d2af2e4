//! Credentials become a [`Principal`]; a decision about it becomes a [`Permit`].
//!
//! A permit is the only key to the registry's use cases and only this crate can make one, so a handler
//! that forgot to ask does not compile. A permit remembers the access revisions it was judged at; they
//! travel in the log entry, and apply refuses the entry if rights shrank in between.
//!
//! Owns no state: decisions are taken on a view of the replicated state, and nothing is cached.

mod authorizer;
mod permit;
mod principal;

pub use authorizer::{Authorizer, Denied};
pub use clawhub_types::Principal;
pub use permit::Permit;
