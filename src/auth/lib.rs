//! Credentials become a [`Principal`]; a decision about it becomes a [`Permit`].
//!
//! A permit is the only key to the registry's use cases and only this crate can make one, so a handler
//! that forgot to ask does not compile. A permit holds the resource it is for, is of a type of its own for each
//! action, and remembers the access revisions it was judged at; they
//! travel in the log entry, and apply refuses the entry if rights shrank in between.
//!
//! Owns no state: decisions are taken on a view of the replicated state, and nothing is cached.

mod act;
mod authorizer;
mod permit;
mod principal;

pub use act::{Act, Catalog, Cluster, Delete, On, Pull, Push, Visit};
pub use authorizer::{Authorizer, Denied};
pub use clawhub_types::Principal;
pub use permit::Permit;
