//! Whether what was acknowledged outlives a failure domain in the log, too: copies of a blob are of no use where the
//! entry that names it is gone, or no majority is left that could tell.

use std::collections::BTreeSet;
use std::fmt;

use clawhub_types::{Durability, NodeId};
use serde::{Deserialize, Serialize};

use crate::durability::{DomainRef, domain};
use crate::{Domain, Layout};

/// So many failure domains it takes for none of them to have half of the votes, if the number of votes is odd.
const DOMAINS: usize = 3;

/// Why votes do not outlive every failure domain that a durability is about. It travels in replicated answers, so it is
/// made of facts only; its text is for the client of a 503 and for operators.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub struct Uncovered {
    /// What is asked for.
    pub durability: Durability,
    /// A failure domain whose loss leaves no majority. None where nobody votes yet, or the layout alone was judged.
    pub without: Option<Without>,
    /// The failure domains of the members that may vote, ascending.
    pub found: Vec<Domain>,
}

/// What the loss of a failure domain would leave of the votes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Without {
    /// What would be lost.
    pub domain: Domain,
    /// The votes that would be left.
    pub left: u32,
    /// How many there are.
    pub of: u32,
}

impl Uncovered {
    /// Whether the members there are could be given votes that outlive any one failure domain: then that is under way.
    pub fn is_passing(&self) -> bool {
        self.found.len() >= DOMAINS
    }
}

impl fmt::Display for Uncovered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Uncovered { durability, without, found } = self;
        write!(f, "durability {durability} takes votes that outlive the loss of any one {durability}")?;
        if let Some(Without { domain, left, of }) = without {
            write!(f, ", and without {domain} {left} of {of} would be left")?;
        }
        if self.is_passing() {
            return f.write_str("; they are being spread");
        }
        f.write_str("; nodes that may vote are ")?;
        match found.as_slice() {
            [] => f.write_str("nowhere")?,
            [first, others @ ..] => {
                write!(f, "in {first}")?;
                others.iter().try_for_each(|domain| write!(f, ", {domain}"))?;
                f.write_str(" only")?;
            }
        }
        let more = DOMAINS.saturating_sub(found.len());
        let plural = if more == 1 { "" } else { "s" };
        write!(f, ": add voters in {more} more {durability}{plural}; a node that only votes is enough")
    }
}

/// Whether the votes outlive the loss of any one failure domain that `durability` is about: what is left of them is
/// still a majority, whoever is alive now. `configs` are those who vote, twice while that changes, when either must do
/// alone. A voter that is no member counts as lost. One copy, which the loss of one disk takes, asks for nothing.
///
/// # Errors
/// [`Uncovered`] says what keeps it.
pub fn covered(durability: Durability, configs: &[Vec<NodeId>], layout: &Layout) -> Result<(), Uncovered> {
    if durability == Durability::Local {
        return Ok(());
    }
    let weak = |without: &Option<Without>| without.as_ref().is_none_or(|it| it.left <= it.of / 2);
    let without = match configs.iter().map(|voters| worst(durability, voters, layout)).find(weak) {
        Some(without) => without,
        None if configs.is_empty() => None,
        None => return Ok(()),
    };
    Err(Uncovered { durability, without, found: candidates(durability, layout) })
}

/// Whether votes could outlive the loss of any one failure domain if the members had them where they may.
///
/// # Errors
/// [`Uncovered`] says what is missing.
pub fn coverable(durability: Durability, layout: &Layout) -> Result<(), Uncovered> {
    let found = candidates(durability, layout);
    if durability == Durability::Local || found.len() >= DOMAINS {
        return Ok(());
    }
    Err(Uncovered { durability, without: None, found })
}

/// What is left of these votes without the failure domain that has most of them. None if no voter is a member.
fn worst(durability: Durability, voters: &[NodeId], layout: &Layout) -> Option<Without> {
    let members: Vec<_> = layout.among(voters).map(|node| domain(durability, node)).collect();
    let left = |lost: &DomainRef<'_>| members.iter().filter(|domain| *domain != lost).count();
    let worst = members.iter().min_by_key(|domain| (left(domain), *domain))?;
    let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    Some(Without { domain: worst.into(), left: count(left(worst)), of: count(voters.len()) })
}

/// Where the members are that may vote.
fn candidates(durability: Durability, layout: &Layout) -> Vec<Domain> {
    let domains = layout.nodes.iter().filter(|node| node.voter).map(|node| domain(durability, node));
    domains.collect::<BTreeSet<_>>().iter().map(Domain::from).collect()
}

#[cfg(test)]
#[path = "votes_test.rs"]
mod tests;
