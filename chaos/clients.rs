//! Clients at work on every node while things are done to these, and whether what they were told is true.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Result, ensure};
use clawhub_testkit::fleet::Member;
use clawhub_testkit::history::check::violations;
use clawhub_testkit::history::client::Client;
use clawhub_testkit::history::workload::Target;
use clawhub_testkit::history::{Events, History};
use clawhub_testkit::until;
use tokio::task::JoinSet;

const CLIENTS: usize = 6;
/// So many untrue answers are shown.
const SHOWN: usize = 20;

/// They stop when this is dropped.
pub(crate) struct Clients {
    target: Target,
    told: Arc<AtomicBool>,
    tasks: JoinSet<()>,
}

impl Clients {
    /// Sets them to work, all in this repository and another one.
    pub(crate) fn start(members: &[Member], repo: &str) -> Clients {
        let nodes = members.iter().map(Member::registry).collect();
        let repos = [repo.to_owned(), format!("{repo}-too")];
        let target = Target { nodes, repos, history: Arc::new(History::default()) };
        let told = Arc::new(AtomicBool::new(false));
        let mut tasks = JoinSet::new();
        for id in 0..CLIENTS {
            tasks.spawn(Client::new(target.clone(), id).run(told.clone()));
        }
        Clients { target, told, tasks }
    }

    pub(crate) fn history(&self) -> &History {
        &self.target.history
    }

    /// Becomes true when they are to stop.
    pub(crate) fn told(&self) -> Arc<AtomicBool> {
        self.told.clone()
    }

    /// Lets each finish what it is at.
    pub(crate) async fn stop(&mut self) {
        self.told.store(true, Ordering::Relaxed);
        std::mem::take(&mut self.tasks).join_all().await;
    }

    /// Waits until so many more pushes are acknowledged.
    ///
    /// # Errors
    /// If that takes longer than `limit`.
    pub(crate) async fn pushes(&self, count: usize, limit: Duration) -> Result<()> {
        let goal = self.history().pushes() + count;
        let enough = || async { Ok((self.history().pushes() >= goal).then_some(())) };
        until("pushes to be acknowledged", limit, enough).await
    }

    /// Asks every node about all that was acknowledged; what is answered then must be true as well.
    ///
    /// # Errors
    /// If something is answered neither yes nor no.
    pub(crate) async fn read_back(&self) -> Result<()> {
        let open = self.target.read_back().await;
        ensure!(open.is_empty(), "{} answers are neither yes nor no: {open:#?}", open.len());
        Ok(())
    }

    /// # Errors
    /// If not all answers can be true.
    pub(crate) fn truthful(&self) -> Result<()> {
        let wrong = violations(&self.history().events());
        let shown = wrong.iter().take(SHOWN).cloned().collect::<Vec<_>>().join("\n");
        ensure!(wrong.is_empty(), "{} answers cannot be true:\n{shown}", wrong.len());
        Ok(())
    }
}

/// How many pushes were acknowledged, and how often each kind of answer came.
pub(crate) fn figures(events: &Events) -> String {
    let classes = events.classes();
    let answers: Vec<String> = classes.iter().map(|(class, count)| format!("{class} {count}")).collect();
    format!("{} pushes acknowledged; answers: {}", events.pushes(), answers.join(", "))
}
