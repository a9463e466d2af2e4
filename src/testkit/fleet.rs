//! Nodes of the test's own making: each with a place, a folder, addresses and a way to start it that the
//! test chooses. `clawhub dev` makes clusters for most tests; this makes those whose nodes live on devices
//! or in networks of their own, are wiped, replaced, or never come back.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use clawhub_relay::{Place, Shape};
use serde_json::Value;

use crate::Registry;
use crate::cluster::{self, admin};
use crate::ports::free_port;
use crate::process::{self, Process};
use crate::wan::{self, Wan};

/// Where a node is and how it runs.
#[derive(Clone, Debug)]
pub struct Spec {
    /// Its name; also the name of its folder.
    pub name: String,
    /// Its region.
    pub region: String,
    /// Its zone.
    pub zone: String,
    /// The address that it listens at, for clients and peers.
    pub ip: IpAddr,
    /// Whether it votes and stores nothing.
    pub witness: bool,
    /// Where it listens for peers instead, if they reach it at `ip` through a relay.
    pub behind: Option<IpAddr>,
    /// What goes before the program on its command line: `ip netns exec NAME`, for example.
    pub prefix: Vec<String>,
    /// More of its environment.
    pub env: Vec<(String, String)>,
    /// Whole sections of the configuration file, after `[node]`, `[http]`, `[peer]` and `[raft]`.
    pub sections: String,
}

impl Spec {
    /// A node on loopback, in a zone of its own: `a`, `b`, … of region `home`.
    pub fn zone(number: usize) -> Spec {
        let zone = char::from(b'a' + u8::try_from(number % 26).unwrap_or(0)).to_string();
        Spec {
            name: format!("node{}", number + 1),
            region: "home".into(),
            zone,
            ip: IpAddr::from([127, 0, 0, 1]),
            witness: false,
            behind: None,
            prefix: Vec::new(),
            env: Vec::new(),
            sections: "[storage]\nmin_free = \"16MiB\"\n".into(),
        }
    }

    /// A node on loopback in this zone, which may be another node's too. Its number is for its name.
    pub fn at(number: usize, region: &str, zone: &str) -> Spec {
        Spec { region: region.into(), zone: zone.into(), ..Spec::zone(number) }
    }

    /// A node that can be a cluster by itself: one copy of everything is enough for it.
    pub fn alone(name: &str) -> Spec {
        let sections = "[storage]\nmin_free = \"16MiB\"\ndurability = \"local\"\n";
        Spec { name: name.into(), sections: sections.into(), ..Spec::zone(0) }
    }
}

/// A node. It stops when it is dropped; its folder stays.
pub struct Member {
    /// Where it is and how it runs.
    pub spec: Spec,
    dir: PathBuf,
    http: String,
    peer: String,
    process: Option<Process>,
    starts: usize,
    /// Last, so that it outlives the process.
    wan: Option<Arc<Wan>>,
}

impl Member {
    /// A node whose folder is `home/NAME`, not started yet. The data goes to `data` below it, which may be
    /// the mount point of a device of its own.
    ///
    /// # Errors
    /// If its folder or file cannot be made.
    pub fn new(home: &Path, spec: Spec) -> Result<Member> {
        let dir = home.join(&spec.name);
        fs::create_dir_all(dir.join("data"))?;
        let (http, peer) = (format!("{}:{}", spec.ip, free_port()?), format!("{}:{}", spec.ip, free_port()?));
        let member = Member { spec, dir, http, peer, process: None, starts: 0, wan: None };
        member.configure()?;
        Ok(member)
    }

    /// Writes the configuration file, anew after a change of [`Member::spec`].
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn configure(&self) -> Result<()> {
        let Spec { name, region, zone, sections, behind, .. } = &self.spec;
        let insecure = if self.spec.ip.is_loopback() { "" } else { "insecure = true\n" };
        let roles = if self.spec.witness { "roles = [\"voter\"]\n" } else { "" };
        let listen = self.listen()?;
        let advertise = behind.map_or(String::new(), |_| format!("advertise = \"{}\"\n", self.peer));
        let profile = if behind.is_some() { "wan" } else { "lan" };
        let text = format!(
            "[node]\nname = \"{name}\"\nregion = \"{region}\"\nzone = \"{zone}\"\ndata = \"data\"\n{roles}\n\
             [http]\nlisten = \"{}\"\n{insecure}\n[peer]\nlisten = \"{listen}\"\n{advertise}\n\
             [raft]\nprofile = \"{profile}\"\n\n{sections}",
            self.http
        );
        Ok(fs::write(self.config(), text)?)
    }

    /// Where it listens for other nodes.
    fn listen(&self) -> Result<SocketAddr> {
        let advertised: SocketAddr = self.peer.parse()?;
        Ok(self.spec.behind.map_or(advertised, |ip| (ip, advertised.port()).into()))
    }

    /// The network that it is in, if it is far from the others.
    pub fn wan(&self) -> Option<&Wan> {
        self.wan.as_deref()
    }

    /// The configuration file.
    pub fn config(&self) -> PathBuf {
        self.dir.join("config.toml")
    }

    /// The data folder.
    pub fn data(&self) -> PathBuf {
        self.dir.join("data")
    }

    /// `host:port` for clients.
    pub fn http(&self) -> &str {
        &self.http
    }

    /// `host:port` for other nodes.
    pub fn peer(&self) -> &str {
        &self.peer
    }

    /// A client of it.
    pub fn registry(&self) -> Registry {
        Registry::new(&self.http)
    }

    /// What its last process has printed.
    pub fn log(&self) -> PathBuf {
        self.dir.join(format!("node-{}.log", self.starts))
    }

    /// Its process.
    ///
    /// # Errors
    /// If it does not run.
    pub fn pid(&self) -> Result<u32> {
        let pid = self.process.as_ref().map(Process::pid);
        pid.with_context(|| format!("{} does not run", self.spec.name))
    }

    /// Starts its process and waits until its administration socket answers.
    ///
    /// # Errors
    /// If it ends or does not answer within a minute; with the end of its log.
    pub async fn start(&mut self) -> Result<()> {
        self.launch()?;
        self.answers().await
    }

    async fn answers(&mut self) -> Result<()> {
        let data = self.data();
        cluster::answering(self.process.as_mut().context("it does not run")?, &data).await
    }

    /// Starts its process and waits for nothing: it may be one that must end by itself.
    ///
    /// # Errors
    /// If it runs already or cannot be started.
    pub fn launch(&mut self) -> Result<()> {
        ensure!(self.process.is_none(), "{} runs already", self.spec.name);
        let program = process::clawhub()?;
        let mut words = self.spec.prefix.iter().map(PathBuf::from).chain([program]);
        let mut command = Command::new(words.next().context("a program")?);
        command.args(words).arg("serve").arg("--config").arg(self.config());
        command.envs(self.spec.env.iter().map(|(name, value)| (name, value)));
        self.starts += 1;
        self.process = Some(Process::spawn(&mut command, &self.log())?);
        Ok(())
    }

    /// Waits for the process to end by itself, and answers what it printed.
    ///
    /// # Errors
    /// If it does not within `limit`.
    pub fn ended(&mut self, limit: Duration) -> Result<String> {
        let mut process = self.process.take().context("it does not run")?;
        process.wait(limit)?;
        Ok(String::from_utf8_lossy(&fs::read(self.log())?).into_owned())
    }

    /// Waits until it is ready.
    ///
    /// # Errors
    /// If it is not within a minute; with the end of its log.
    pub async fn ready(&self) -> Result<()> {
        cluster::ready(&self.registry(), &self.log()).await
    }

    /// Stops it as an operator does.
    pub fn stop(&mut self) {
        self.process = None;
    }

    /// `kill -9`, and waits until it is gone.
    ///
    /// # Errors
    /// If it does not run.
    pub fn kill(&mut self) -> Result<()> {
        process::kill(self.pid()?)?;
        if let Some(mut process) = self.process.take() {
            process.wait(Duration::from_secs(10))?;
        }
        Ok(())
    }

    /// Deletes everything that it kept. It must not run.
    ///
    /// # Errors
    /// If it runs, or something cannot be deleted.
    pub fn wipe(&self) -> Result<()> {
        ensure!(self.process.is_none(), "{} still runs", self.spec.name);
        for entry in fs::read_dir(self.data())? {
            let path = entry?.path();
            let gone = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            gone.with_context(|| path.display().to_string())?;
        }
        Ok(())
    }

    /// `clawhub cluster VERB … --json` on this node.
    ///
    /// # Errors
    /// If the command fails, with what it printed.
    pub fn admin(&self, args: &[&str]) -> Result<Value> {
        admin(&self.data(), args)
    }

    /// Makes it the first node of a cluster and waits until it is ready.
    ///
    /// # Errors
    /// If that is refused or takes too long.
    pub async fn init(&self) -> Result<()> {
        self.admin(&["init"])?;
        self.ready().await
    }

    /// Makes it a member of `member`'s cluster and waits until it is ready. Answers its id.
    ///
    /// # Errors
    /// If that is refused or takes too long.
    pub async fn join(&self, member: &Member) -> Result<u64> {
        self.enter(&member.data(), member.peer()).await
    }

    /// The same, where that member has this data folder and listens for peers at `peer`.
    ///
    /// # Errors
    /// See [`Member::join`].
    pub async fn enter(&self, member: &Path, peer: &str) -> Result<u64> {
        let id = cluster::join(&self.data(), &cluster::token(member)?, peer)?;
        self.ready().await?;
        Ok(id)
    }

    /// The id of the node that leads, as this node sees it.
    ///
    /// # Errors
    /// If it cannot be asked.
    pub fn leader(&self) -> Result<Option<u64>> {
        Ok(self.admin(&["status"])?["leader"].as_u64().filter(|id| *id != 0))
    }
}

/// Starts nodes and makes them one cluster; the first one founds it. Their ids are 1, 2, … in this order. With
/// [`wan::ASKED`] in the environment those on loopback are that far from each other.
///
/// # Errors
/// If one does not start, join, or become ready.
pub async fn form(home: &Path, specs: Vec<Spec>) -> Result<Vec<Member>> {
    match wan::asked_for() {
        Some(shape) if specs.iter().all(|spec| spec.ip.is_loopback()) => form_far(home, specs, shape).await,
        _ => form_near(home, specs).await,
    }
}

/// The same with every two of them this far from each other, whatever the environment says.
///
/// # Errors
/// See [`form`].
pub async fn form_far(home: &Path, specs: Vec<Spec>, shape: Shape) -> Result<Vec<Member>> {
    let mut members = Vec::new();
    for (spec, number) in specs.into_iter().zip(1..) {
        let behind = Some(IpAddr::from([127, 1, 0, number]));
        members.push(Member::new(home, Spec { behind, ..spec })?);
    }
    let place = |member: &Member| Ok(Place { advertised: member.peer.parse()?, node: member.listen()? });
    let places = members.iter().map(place).collect::<Result<Vec<_>>>()?;
    let wan = Arc::new(Wan::start(&places, shape)?);
    for member in &mut members {
        member.wan = Some(wan.clone());
    }
    gather(&mut members).await?;
    Ok(members)
}

async fn form_near(home: &Path, specs: Vec<Spec>) -> Result<Vec<Member>> {
    let mut members = Vec::new();
    for spec in specs {
        members.push(Member::new(home, spec)?);
    }
    gather(&mut members).await?;
    Ok(members)
}

/// The same with nodes that exist and do not run yet.
///
/// # Errors
/// See [`form`].
pub async fn gather(members: &mut [Member]) -> Result<()> {
    for member in members.iter_mut() {
        member.launch()?;
    }
    for member in members.iter_mut() {
        member.answers().await?;
    }
    let (first, others) = members.split_first().context("at least one node")?;
    first.init().await?;
    for other in others {
        other.join(first).await?;
    }
    for member in members.iter() {
        member.ready().await?;
    }
    let votes = match members.len() {
        0..=2 => 1,
        3 | 4 => 3,
        _ => 5,
    };
    voters(&members[0], votes).await
}

/// Waits until so many nodes vote.
///
/// # Errors
/// If that takes more than a minute.
pub async fn voters(member: &Member, count: usize) -> Result<()> {
    cluster::voters(&member.data(), count).await
}

/// Runs `clawhub serve` with a configuration that it must refuse. Answers its exit code and what it printed.
///
/// # Errors
/// If it does not end within 20 s, or ends well.
pub fn refused(config: &Path) -> Result<(Option<i32>, String)> {
    let log = config.with_extension("refused.log");
    let status = process::serve(config, &log)?.wait(Duration::from_secs(20))?;
    let said = fs::read_to_string(&log)?;
    ensure!(!status.success(), "it started: {said}");
    Ok((status.code(), said))
}
