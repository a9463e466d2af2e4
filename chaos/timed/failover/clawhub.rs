//! Three nodes of the program under test.

use std::path::Path;

use anyhow::Result;
use clawhub_testkit::fleet::{self, Member, Spec};
use clawhub_testkit::manifest::{CONFIG_BYTES, OCI_MANIFEST, version};
use clawhub_testkit::{Registry, process};
use reqwest::header::CONTENT_TYPE;
use reqwest::{Method, StatusCode};

use crate::lead::agreed;

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
        agreed(&self.members)
    }

    /// Moves a tag to a manifest that nobody has pushed before.
    async fn write(&self, node: usize, value: u64) -> bool {
        let bytes = version(format!("{value} through {node}"));
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
