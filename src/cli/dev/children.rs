//! The node processes: started, watched, started again, stopped.
//!
//! One task per node owns its child. The tasks run on the thread that called [`Children::start`] and
//! must stay on it: the kernel kills a child when the *thread* that started it ends.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, ChildStderr, Command};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::layout::Node;

/// How long a dead node stays dead.
const RESTART_AFTER: Duration = Duration::from_secs(1);
/// How long a node that was told to stop may take. It drains for up to a minute of its own.
const STOP_WITHIN: Duration = Duration::from_secs(75);

/// Bytes of a node's log that are passed on at once.
const RELAYED: usize = 64 * 1024;

/// The exit code of a node that the cluster removed: starting it again is of no use.
const EXIT_REMOVED: i32 = 5;

/// What happened to the child of the node at place `node`.
#[derive(Debug)]
pub(super) enum Event {
    Started {
        node: usize,
        pid: u32,
    },
    /// It ended without having been told to.
    Ended {
        node: usize,
        /// Its exit status, in words.
        how: String,
    },
}

/// The children of all nodes.
pub(super) struct Children {
    pids: Vec<Option<u32>>,
    events: mpsc::Receiver<Event>,
    stop: watch::Sender<bool>,
    tasks: JoinSet<()>,
}

impl Children {
    /// Starts a process for every node.
    ///
    /// # Errors
    /// If one cannot be started; the kernel ends those that were when this process ends.
    pub(super) fn start(nodes: &[Node], restart: bool) -> io::Result<Children> {
        // A node reports twice a second at most, and the receiver does nothing else.
        let (sender, events) = mpsc::channel(64);
        let (stop, stopped) = watch::channel(false);
        let mut children = Children { pids: Vec::new(), events, stop, tasks: JoinSet::new() };
        let program = std::env::current_exe()?;
        for (at, node) in nodes.iter().enumerate() {
            let launch =
                Launch { program: program.clone(), config: node.config.clone(), name: node.name.clone() };
            let child = launch.start()?;
            children.pids.push(child.id());
            let keeper = Keeper { at, launch, restart, events: sender.clone(), stopped: stopped.clone() };
            children.tasks.spawn(keeper.run(child));
        }
        Ok(children)
    }

    /// The processes now, in the order of the nodes.
    pub(super) fn pids(&self) -> Vec<Option<u32>> {
        self.pids.clone()
    }

    /// The next thing that happens to a child.
    pub(super) async fn event(&mut self) -> Event {
        match self.events.recv().await {
            Some(event) => {
                match &event {
                    Event::Started { node, pid } => self.pids[*node] = Some(*pid),
                    Event::Ended { node, .. } => self.pids[*node] = None,
                }
                event
            }
            // Every child ended for good and was reported: nothing will happen any more.
            None => std::future::pending().await,
        }
    }

    /// Tells every child to stop and waits until all are gone.
    pub(super) async fn stop(mut self) {
        self.stop.send_replace(true);
        // Reports that nobody reads must not hold up the tasks.
        self.events.close();
        while self.tasks.join_next().await.is_some() {}
    }
}

/// How to start one node.
struct Launch {
    program: PathBuf,
    config: PathBuf,
    name: String,
}

impl Launch {
    fn start(&self) -> io::Result<Child> {
        let mut child = Command::new(&self.program)
            .arg("serve")
            .arg("--config")
            .arg(&self.config)
            .arg("--with-parent")
            .arg(std::process::id().to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            // Its own group: Ctrl-C reaches this process alone, which then stops the children in order.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()?;
        if let Some(log) = child.stderr.take() {
            tokio::spawn(relay(self.name.clone(), log));
        }
        Ok(child)
    }
}

/// Passes a node's log on in whole lines, as many at once as have come, until the node closes it.
async fn relay(name: String, log: ChildStderr) {
    let mut log = BufReader::with_capacity(RELAYED, log);
    let mut lines = format!("{name} | ").into_bytes();
    let prefix = lines.len();
    // A line that is not UTF-8 is passed on like any other.
    while log.read_until(b'\n', &mut lines).await.is_ok_and(|read| read > 0) {
        if log.buffer().contains(&b'\n') && lines.len() < RELAYED {
            lines.extend_from_within(..prefix);
            continue;
        }
        // Nobody reading is no reason to stop reading.
        let _ = io::stderr().write_all(&lines);
        lines.truncate(prefix);
    }
}

/// Keeps one node running.
struct Keeper {
    at: usize,
    launch: Launch,
    restart: bool,
    events: mpsc::Sender<Event>,
    stopped: watch::Receiver<bool>,
}

impl Keeper {
    async fn run(mut self, mut child: Child) {
        loop {
            let ended = tokio::select! {
                ended = child.wait() => ended,
                () = told(&mut self.stopped) => return stop(child).await,
            };
            let removed = ended.as_ref().is_ok_and(|status| status.code() == Some(EXIT_REMOVED));
            let told = self.events.send(Event::Ended { node: self.at, how: describe(ended) }).await;
            if told.is_err() || removed || !self.restart {
                return;
            }
            match self.start_again().await {
                Some(next) => child = next,
                None => return,
            }
        }
    }

    /// Tries once a second until it works; `None` once there is no point any more.
    async fn start_again(&mut self) -> Option<Child> {
        loop {
            tokio::select! {
                () = tokio::time::sleep(RESTART_AFTER) => (),
                () = told(&mut self.stopped) => return None,
            }
            let event = match self.launch.start() {
                Ok(child) => {
                    let pid = child.id().unwrap_or_default();
                    return self
                        .events
                        .send(Event::Started { node: self.at, pid })
                        .await
                        .is_ok()
                        .then_some(child);
                }
                Err(e) => Event::Ended { node: self.at, how: format!("cannot be started: {e}") },
            };
            self.events.send(event).await.ok()?;
        }
    }
}

/// Returns once everything is to stop.
async fn told(stopped: &mut watch::Receiver<bool>) {
    // An error means that nobody can tell any more, which comes to the same.
    let _ = stopped.wait_for(|stop| *stop).await;
}

/// Asks a child to stop, waits, and insists in the end.
async fn stop(mut child: Child) {
    let pid = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
    // Not reaped yet, so the id is still this child's. It may have ended all the same: no error then.
    if let Some(pid) = pid {
        let _ = kill_process(pid, Signal::TERM);
    }
    if timeout(STOP_WITHIN, child.wait()).await.is_err() {
        let _ = child.kill().await;
    }
}

fn describe(status: io::Result<ExitStatus>) -> String {
    match status {
        Ok(status) => status.to_string(),
        Err(e) => e.to_string(),
    }
}
