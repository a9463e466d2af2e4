//! The use cases of the cluster itself: who is a member, who votes, who leads, who leaves.
//!
//! A node becomes a member by [`bootstrap`]: it founds a cluster or joins one. From then on it is
//! [`registered`](Registration) at each start, knows the others through [`MemberDirectory`], takes its part in who votes
//! ([`Membership`]) and who leads ([`Leadership`]), takes its part when the
//! cluster's keys are replaced ([`Rotation`]), and notices when the others have removed it ([`RemovalWatch`]).
//! What an operator may ask of a member is [`Cluster`]; what a stranger may ask is [`JoinService`].
//!
//! Whatever repeats is a type with one function `pass`: it does one round, may be called again at any time, and
//! leaves its pace to the caller. None takes the node; each takes the handles it needs.
//!
//! **State.** None that is durable: members, votes and copies are in the replicated state, and what a new member
//! must keep is handed to the node ([`Credentials`](bootstrap::Credentials)). A crash loses a round, and the next
//! one finds the same work.

mod acknowledgements;
mod agreement;
mod attempts;
mod authority;
pub mod bootstrap;
mod code;
mod decommission;
mod directory;
mod dismissal;
mod error;
mod failure;
mod following;
mod introduction;
mod join_service;
mod leadership;
mod membership;
mod operations;
mod owner;
mod proposal;
mod readiness;
mod registration;
mod removal;
mod request;
mod rotation;

pub use acknowledgements::Acknowledgements;
pub use agreement::Comparison;
pub use clawhub_policy::agreement::Agreement;
pub use decommission::{LostBlob, RemovalImpact};
pub use directory::{MemberDirectory, Seed};
pub use dismissal::{Dismissal, Dismissed};
pub use error::ClusterError;
pub use failure::FailureNotice;
pub use following::Following;
pub use introduction::Introductions;
pub use join_service::{JoinService, Welcome};
pub use leadership::Leadership;
pub use membership::{Membership, uncovered};
pub use operations::{Cluster, KeysOverview, Link, Member, Overview};
pub use owner::Owner;
pub use readiness::not_ready;
pub use registration::{Registration, Start};
pub use removal::RemovalWatch;
pub use request::{Bootstrap, BootstrapRequest, Pending, Requests};
pub use rotation::Rotation;
