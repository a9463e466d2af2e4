//! The configuration file: TOML as an operator wrote it in, settings that cannot be wrong out.
//!
//! A node and the command line read the same file with the same code, so that they cannot disagree about it.
//! Reading a file binds, opens and creates nothing, and nobody outside this crate sees an unchecked value. An
//! unknown key is a mistake: a misspelt `insecure` must not pass for an absent one. There is no state that a
//! crash could lose.

mod read;
mod value;

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clawhub_types::{Durability, Location, Roles};

pub use read::Mistake;
use read::{Document, Section};

/// Below this, a single large entry would not fit with anything else.
const MIN_PROPOSALS: u64 = 1 << 20;
/// Above this, a slow disk is hidden rather than told of.
const MAX_PROPOSALS: u64 = 1 << 30;

/// Below this, everything would be hashed at every reading.
const MIN_RECHECK: Duration = Duration::from_secs(1);
/// Nothing is served longer than this after it rotted.
const MAX_RECHECK: Duration = Duration::from_secs(600);

/// Everything a node is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// `[node]`: who and where it is.
    pub node: NodeConfig,
    /// `[http]`: where clients reach it.
    pub http: HttpConfig,
    /// `[peer]`: where the other nodes reach it.
    pub peer: PeerConfig,
    /// `[raft]`: how patient it is with the network.
    pub raft: RaftConfig,
    /// `[storage]`: how bytes are kept.
    pub storage: StorageConfig,
    /// `[limits]`: what it takes on at once.
    pub limits: Limits,
    /// `[log]`: what it says.
    pub log: LogConfig,
}

/// `[node]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeConfig {
    /// Unique in the cluster; a label.
    pub name: String,
    /// Failure domains.
    pub location: Location,
    /// The data directory. A relative path in the file counts from the file's folder.
    pub data: PathBuf,
    /// What it takes part in; both unless said otherwise.
    pub roles: Roles,
}

/// `[http]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpConfig {
    /// Where to listen; `127.0.0.1:5000` unless said otherwise.
    pub listen: SocketAddr,
    /// Whether to listen beyond loopback although no client is authenticated.
    pub insecure: bool,
    /// Where clients reach it, `host:port`, shown to operators; the listening address by default.
    pub advertise: Option<String>,
}

/// `[peer]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerConfig {
    /// Where to listen, TCP and UDP; `0.0.0.0:7000` unless said otherwise.
    pub listen: SocketAddr,
    /// Where peers reach it, `host:port`; required if it listens on every address.
    pub advertise: Option<String>,
}

/// How long consensus waits for the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RaftProfile {
    /// Round trips up to 50 ms between nodes: election after 350–700 ms.
    Lan,
    /// Round trips up to 400 ms: election after 1.5–3 s.
    Wan,
}

/// `[raft]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RaftConfig {
    /// `wan` unless said otherwise.
    pub profile: RaftProfile,
    /// Log entries between two snapshots of the state; 20,000. A node that lacks more than the log still
    /// has gets a snapshot.
    pub snapshot_entries: u64,
    /// Bytes a second that a snapshot is sent with, at most; 64 MiB.
    pub snapshot_rate: u64,
    /// Room on the device of `raft/` that is kept for metadata and given up when the device runs full, bytes;
    /// 64 MiB.
    pub ballast: u64,
}

/// `[storage]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StorageConfig {
    /// What `cluster init` makes the cluster's default where the command does not name one.
    pub durability: Option<Durability>,
    /// Bytes to keep free on the data directory's device: uploads are refused below it. 1 GiB.
    pub min_free: u64,
    /// How many bytes of blobs that were only read here may stay; a tenth of the data directory's device.
    pub cache: CacheSize,
    /// How long bytes of a blob that were read and found right may be sent without being read anew; 10 minutes, and
    /// no longer.
    pub recheck: Duration,
}

/// A number of bytes, or a share of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CacheSize {
    /// Bytes.
    Bytes(u64),
    /// Percent of the device.
    Share(u8),
}

/// `[limits]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Client connections at once; for a further one the quietest gives way, or it waits. 1024.
    pub connections: usize,
    /// Memory for proposals under way; beyond it writes are refused. 32 MiB.
    pub proposals: u64,
    /// The period that `min_rate` is an average over; 60 s.
    pub idle: Duration,
    /// Bytes a second that a client's body must move, in either direction; 1 KiB.
    pub min_rate: u64,
    /// How long requests under way may take to finish when the node is told to stop; 60 s.
    pub drain: Duration,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// `[log]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogConfig {
    /// A level, or directives such as `info,clawhub_consensus=debug`.
    pub level: String,
    /// Text unless said otherwise.
    pub format: LogFormat,
}

/// Why a configuration cannot be used.
#[derive(Debug)]
pub enum ConfigError {
    /// The file cannot be read.
    Unreadable(PathBuf, std::io::Error),
    /// The file says these wrong things, in file order.
    Mistakes(PathBuf, Vec<Mistake>),
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ConfigError::Unreadable(path, error) => write!(f, "{}: {error}", path.display()),
            ConfigError::Mistakes(path, mistakes) => {
                let plural = if mistakes.len() == 1 { "mistake" } else { "mistakes" };
                write!(f, "{}: {} {plural}", path.display(), mistakes.len())?;
                mistakes.iter().try_for_each(|mistake| write!(f, "\n  {mistake}"))
            }
        }
    }
}

impl std::error::Error for ConfigError {}

impl Config {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// [`ConfigError`] with every mistake in the file.
    pub fn load(path: &Path) -> Result<Config, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|e| ConfigError::Unreadable(path.into(), e))?;
        let mut config =
            Config::parse(&text).map_err(|mistakes| ConfigError::Mistakes(path.into(), mistakes))?;
        let folder = path.parent().unwrap_or(Path::new("."));
        config.node.data = folder.join(&config.node.data);
        Ok(config)
    }

    /// Checks the text of a file. Relative paths stay as they are.
    ///
    /// # Errors
    /// Every mistake in the text, in file order.
    pub fn parse(text: &str) -> Result<Config, Vec<Mistake>> {
        let document = Document::parse(text);
        let parts = (
            node(document.section("node")),
            http(document.section("http")),
            peer(document.section("peer")),
            raft(document.section("raft")),
            storage(document.section("storage")),
            limits(document.section("limits")),
            log(document.section("log")),
        );
        let mistakes = document.finish(&["node", "http", "peer", "raft", "storage", "limits", "log"]);
        match parts {
            (Some(node), Some(http), Some(peer), Some(raft), Some(storage), Some(limits), Some(log))
                if mistakes.is_empty() =>
            {
                Ok(Config { node, http, peer, raft, storage, limits, log })
            }
            _ => Err(mistakes),
        }
    }
}

fn node(mut section: Section<'_, '_>) -> Option<NodeConfig> {
    let name = section.required("name", value::name);
    let region = section.required("region", value::name);
    let zone = section.required("zone", value::name);
    let data = section.required("data", value::path);
    let roles = section.defaulted("roles", Roles { voter: true, storage: true }, value::roles);
    section.finish();
    let location = Location { region: region?, zone: zone? };
    Some(NodeConfig { name: name?, location, data: data?, roles: roles? })
}

fn http(mut section: Section<'_, '_>) -> Option<HttpConfig> {
    let listen = section.defaulted("listen", SocketAddr::from(([127, 0, 0, 1], 5000)), value::listen);
    let insecure = section.defaulted("insecure", false, value::boolean);
    let advertise = section.optional("advertise", value::reachable);
    if listen.is_some_and(|address| !address.ip().is_loopback()) && insecure == Some(false) {
        section.mistake(
            "listen",
            "is not a loopback address, and clients are not authenticated: listen on loopback, or set \
             insecure = true to let anyone who can reach the port push and delete",
        );
    }
    section.finish();
    Some(HttpConfig { listen: listen?, insecure: insecure?, advertise: advertise? })
}

fn peer(mut section: Section<'_, '_>) -> Option<PeerConfig> {
    let listen = section.defaulted("listen", SocketAddr::from(([0, 0, 0, 0], 7000)), value::listen);
    let advertise = section.optional("advertise", value::reachable);
    if listen.is_some_and(|address| address.ip().is_unspecified()) && advertise == Some(None) {
        section.mistake(
            "advertise",
            "is missing: the node listens on every address, so say at which host:port its peers reach it",
        );
    }
    section.finish();
    Some(PeerConfig { listen: listen?, advertise: advertise? })
}

fn raft(mut section: Section<'_, '_>) -> Option<RaftConfig> {
    let profiles = value::word(&[("lan", RaftProfile::Lan), ("wan", RaftProfile::Wan)]);
    let profile = section.defaulted("profile", RaftProfile::Wan, profiles);
    let entries = section.defaulted("snapshot_entries", 20_000, value::integer(100, 10_000_000));
    let rate = section.defaulted("snapshot_rate", 64 << 20, value::size_within(64 << 10, 64 << 30));
    let ballast = section.defaulted("ballast", 64 << 20, value::size_within(32 << 20, 64 << 30));
    section.finish();
    Some(RaftConfig {
        profile: profile?,
        snapshot_entries: entries?,
        snapshot_rate: rate?,
        ballast: ballast?,
    })
}

fn storage(mut section: Section<'_, '_>) -> Option<StorageConfig> {
    let durability = section.optional("durability", value::durability);
    let min_free = section.defaulted("min_free", 1 << 30, value::size);
    let recheck = section.defaulted("recheck", MAX_RECHECK, value::duration_within(MIN_RECHECK, MAX_RECHECK));
    let cache = section.defaulted("cache", CacheSize::Share(10), value::cache_size);
    section.finish();
    Some(StorageConfig { durability: durability?, min_free: min_free?, cache: cache?, recheck: recheck? })
}

fn limits(mut section: Section<'_, '_>) -> Option<Limits> {
    let connections = section.defaulted("connections", 1024, value::integer(1, 65_536));
    let proposals =
        section.defaulted("proposals", 32 << 20, value::size_within(MIN_PROPOSALS, MAX_PROPOSALS));
    let idle = section.defaulted("idle", Duration::from_secs(60), value::duration);
    let min_rate = section.defaulted("min_rate", 1 << 10, value::size_within(0, 1 << 20));
    let drain = section.defaulted("drain", Duration::from_secs(60), value::duration);
    section.finish();
    Some(Limits {
        connections: usize::try_from(connections?).ok()?,
        proposals: proposals?,
        idle: idle?,
        min_rate: min_rate?,
        drain: drain?,
    })
}

fn log(mut section: Section<'_, '_>) -> Option<LogConfig> {
    let level = section.defaulted("level", "info".into(), |value| {
        let text = value::string(value)?;
        if is_level(&text) {
            Ok(text)
        } else {
            Err(format!(
                "{text:?} is not a level: error, warn, info, debug or trace, or directives such as \
                         \"info,clawhub_consensus=debug\""
            ))
        }
    });
    let formats = value::word(&[("text", LogFormat::Text), ("json", LogFormat::Json)]);
    let format = section.defaulted("format", LogFormat::Text, formats);
    section.finish();
    Some(LogConfig { level: level?, format: format? })
}

/// Whether this is a level, or directives. A bare word that is no level would be taken for a part of the program of which
/// everything is logged, and of the rest nothing: a misspelt level is rather that.
fn is_level(text: &str) -> bool {
    let is_word =
        |directive: &str| directive.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    let is_misspelt = |directive: &str| {
        // Nothing at all would be read as `error`.
        let is_level = || directive.parse::<tracing_subscriber::filter::LevelFilter>().is_ok();
        directive.is_empty() || is_word(directive) && !is_level()
    };
    tracing_subscriber::EnvFilter::try_new(text).is_ok() && !text.split(',').map(str::trim).any(is_misspelt)
}

#[cfg(test)]
#[path = "config_test.rs"]
mod tests;
