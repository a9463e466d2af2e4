//! Who leads, and who shall.

use std::time::Duration;

use anyhow::Result;
use clawhub_testkit::fleet::Member;
use clawhub_testkit::until;

/// How long it may take until nodes agree, or one leads that was asked to.
const SOON: Duration = Duration::from_secs(30);

/// The place of the node that all of these follow; `None` while they do not agree.
pub(crate) fn agreed<'a>(asked: impl IntoIterator<Item = &'a Member>) -> Result<Option<usize>> {
    let mut seen = asked.into_iter().map(Member::leader).collect::<Result<Vec<_>>>()?;
    seen.dedup();
    // Ids are given from 1 in the order in which the nodes joined.
    Ok(match seen[..] {
        [Some(id)] => Some(usize::try_from(id)? - 1),
        _ => None,
    })
}

/// Waits until all of these follow the same node; its place.
pub(crate) async fn leader<'a>(asked: impl IntoIterator<Item = &'a Member> + Clone) -> Result<usize> {
    until("one leader", SOON, || {
        let seen = agreed(asked.clone());
        async { seen }
    })
    .await
}

/// Makes the node at this place the leader, and has all know.
pub(crate) async fn lead(members: &[Member], place: usize) -> Result<()> {
    let id = (place + 1).to_string();
    until("leadership where it was asked for", SOON, || async {
        if leader(members).await? == place {
            return Ok(Some(()));
        }
        members[place].admin(&["transfer-leader", &id])?;
        Ok(None)
    })
    .await
}
