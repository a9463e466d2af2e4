//! Three nodes of the program under test.

use std::path::Path;

use anyhow::{Context as _, Result};
use clawhub_testkit::fleet::{self, Member, Spec};
use clawhub_testkit::manifest::{CONFIG_BYTES, Image, OCI_MANIFEST};
use clawhub_testkit::{Registry, content, process};
use reqwest::header::CONTENT_TYPE;
use reqwest::{Method, StatusCode};

const REPO: &str = "failover/tag";

/// The nodes, and a client of each.
pub(super) struct Nodes {
    members: Vec<Member>,
    clients: Vec<Registry>,
}

impl Nodes {
    pub(super) async fn form(home: &Path) -> Result<Nodes> {
        let members = fleet::form(home, (0..3).map(Spec::zone).collect()).await?;
        let clients: Vec<Registry> = members.iter().map(Member::registry).collect();
        clients[0].repo(REPO).push_blob(CONFIG_BYTES).await?;
        Ok(Nodes { members, clients })
    }
}

impl super::Trio for Nodes {
    async fn leader(&self) -> Result<Option<usize>> {
        let mut seen = self.members.iter().map(Member::leader).collect::<Result<Vec<_>>>()?;
        seen.dedup();
        // Ids are given from 1 in the order in which the nodes joined.
        Ok(match seen[..] {
            [Some(id)] => Some(usize::try_from(id - 1).context("a node's id")?),
            _ => None,
        })
    }

    /// Moves a tag to a manifest that nobody has pushed before.
    async fn write(&self, node: usize, value: u64) -> bool {
        let image = Image::new(&content::sha256(&CONFIG_BYTES), CONFIG_BYTES.len());
        let bytes = image.annotation("value", &format!("{value} through {node}")).bytes();
        let path = format!("/v2/{REPO}/manifests/leader");
        let request = self.clients[node].request(Method::PUT, &path).timeout(super::ATTEMPT);
        let answer = request.header(CONTENT_TYPE, OCI_MANIFEST).body(bytes).send().await;
        answer.is_ok_and(|answer| answer.status() == StatusCode::CREATED)
    }

    fn kill(&self, node: usize) -> Result<()> {
        process::kill(self.members[node].pid()?)
    }

    async fn revive(&mut self, node: usize) -> Result<()> {
        let member = &mut self.members[node];
        // It is dead already; this waits for it.
        member.kill()?;
        member.start().await?;
        member.ready().await
    }
}
