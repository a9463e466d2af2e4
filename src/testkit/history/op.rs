//! What clients ask, and what they are answered.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use clawhub_types::Digest;
use reqwest::header::{HeaderMap, IF_MATCH, IF_NONE_MATCH};
use reqwest::{RequestBuilder, StatusCode};

/// What an operation is about, in one repository: there or not, and if there, of some content.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// The repository.
    pub repo: String,
    /// What of it.
    pub thing: Thing,
}

/// What a repository has.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Thing {
    /// Its own name in the catalog.
    Name,
    /// A tag, which anybody may write.
    Tag(String),
    /// A manifest by its digest.
    Manifest(Digest),
    /// A blob.
    Blob(Digest),
}

impl Key {
    /// The repository itself.
    pub fn name(repo: &str) -> Key {
        Key { repo: repo.to_owned(), thing: Thing::Name }
    }

    /// A tag.
    pub fn tag(repo: &str, tag: &str) -> Key {
        Key { repo: repo.to_owned(), thing: Thing::Tag(tag.to_owned()) }
    }

    /// A manifest.
    pub fn manifest(repo: &str, digest: &Digest) -> Key {
        Key { repo: repo.to_owned(), thing: Thing::Manifest(digest.clone()) }
    }

    /// A blob.
    pub fn blob(repo: &str, digest: &Digest) -> Key {
        Key { repo: repo.to_owned(), thing: Thing::Blob(digest.clone()) }
    }

    /// Its path.
    pub fn path(&self) -> String {
        let rest = match &self.thing {
            Thing::Name => "tags/list".to_owned(),
            Thing::Tag(tag) => format!("manifests/{tag}"),
            Thing::Manifest(digest) => format!("manifests/{digest}"),
            Thing::Blob(digest) => format!("blobs/{digest}"),
        };
        format!("/v2/{}/{rest}", self.repo)
    }

    /// What its bytes hash to, unless that can change.
    pub fn digest(&self) -> Option<&Digest> {
        match &self.thing {
            Thing::Name | Thing::Tag(_) => None,
            Thing::Manifest(digest) | Thing::Blob(digest) => Some(digest),
        }
    }
}

/// An upload session, which lives on the node that opened it.
#[derive(Clone, Copy, Debug)]
pub struct Session {
    /// That node.
    pub owner: usize,
    /// When it was asked for.
    pub opened: Duration,
}

/// A manifest that somebody pushes. No two writers push the same one.
#[derive(PartialEq, Eq)]
pub struct Pushed {
    /// What its bytes hash to.
    pub digest: Digest,
    /// The blobs that it references.
    pub blobs: Vec<Digest>,
    /// The manifest that it says something about.
    pub subject: Option<Digest>,
    /// Whether its bytes go to the blob stores, since they are too many for the log.
    pub large: bool,
}

impl fmt::Debug for Pushed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.digest)
    }
}

/// On which condition a tag is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// None.
    Any,
    /// `If-Match`: it names this.
    Matches(Digest),
    /// `If-None-Match: *`: there is no such tag.
    Absent,
}

impl Condition {
    /// Sets its header.
    pub(super) fn set(&self, request: RequestBuilder) -> RequestBuilder {
        match self {
            Condition::Any => request,
            Condition::Matches(digest) => request.header(IF_MATCH, format!("\"{digest}\"")),
            Condition::Absent => request.header(IF_NONE_MATCH, "*"),
        }
    }
}

/// What was asked.
#[derive(Clone, Debug)]
pub enum Op {
    /// POST for an upload session.
    Open,
    /// PATCH of a session.
    Append(Session),
    /// PUT that closes a session, or POST of everything at once.
    PutBlob {
        /// Where.
        repo: String,
        /// Of what.
        digest: Digest,
        /// The session, if there is one.
        session: Option<Session>,
    },
    /// POST that links a blob of another repository, and opens an upload session if there is none to link.
    Mount {
        /// Where the blob is.
        from: String,
        /// Where it shall be.
        to: String,
        /// Which.
        digest: Digest,
    },
    /// PUT of a manifest.
    PutManifest {
        /// Where.
        repo: String,
        /// The tag that it is put under; its digest if there is none.
        tag: Option<String>,
        /// What.
        manifest: Arc<Pushed>,
        /// On which condition on the tag.
        condition: Condition,
    },
    /// DELETE of a tag.
    DeleteTag {
        /// Where.
        repo: String,
        /// Which.
        tag: String,
        /// On which condition.
        condition: Condition,
    },
    /// DELETE of a manifest, and so of every tag on it.
    DeleteManifest {
        /// Where.
        repo: String,
        /// Which.
        digest: Digest,
    },
    /// DELETE of a blob.
    DeleteBlob {
        /// Where.
        repo: String,
        /// Which.
        digest: Digest,
    },
    /// GET.
    Get(Key),
    /// HEAD.
    Head(Key),
    /// The tags of a repository.
    Tags(String),
    /// The manifests of a repository that say something about another one.
    Referrers {
        /// Where.
        repo: String,
        /// About which.
        subject: Digest,
    },
    /// The repositories.
    Catalog,
}

impl Op {
    /// The status that says that it was done.
    pub fn success(&self) -> StatusCode {
        match self {
            Op::Open
            | Op::Append(_)
            | Op::DeleteTag { .. }
            | Op::DeleteManifest { .. }
            | Op::DeleteBlob { .. } => StatusCode::ACCEPTED,
            Op::PutBlob { .. } | Op::Mount { .. } | Op::PutManifest { .. } => StatusCode::CREATED,
            Op::Get(_) | Op::Head(_) | Op::Tags(_) | Op::Referrers { .. } | Op::Catalog => StatusCode::OK,
        }
    }

    /// Whether it goes through the log.
    pub fn writes(&self) -> bool {
        match self {
            Op::PutBlob { .. }
            | Op::Mount { .. }
            | Op::PutManifest { .. }
            | Op::DeleteTag { .. }
            | Op::DeleteManifest { .. }
            | Op::DeleteBlob { .. } => true,
            Op::Open
            | Op::Append(_)
            | Op::Get(_)
            | Op::Head(_)
            | Op::Tags(_)
            | Op::Referrers { .. }
            | Op::Catalog => false,
        }
    }

    /// Which list it asks for, if it does: the names in it are under this field, and in each item of it under the
    /// second one.
    pub fn list(&self) -> Option<(&'static str, Option<&'static str>)> {
        match self {
            Op::Tags(_) => Some(("tags", None)),
            Op::Catalog => Some(("repositories", None)),
            Op::Referrers { .. } => Some(("manifests", Some("digest"))),
            _ => None,
        }
    }
}

/// What came back.
#[derive(Clone, Debug)]
#[expect(clippy::large_enum_variant, reason = "nearly every outcome is the large one")]
pub enum Outcome {
    /// An answer, whole.
    Answer {
        /// Its status.
        status: StatusCode,
        /// Its headers.
        headers: HeaderMap,
        /// What the body hashes to, for a GET of content.
        body: Option<Digest>,
        /// The names in it, for a list.
        list: Vec<String>,
        /// The beginning of the body of a refusal.
        text: String,
    },
    /// Nothing within the client's patience.
    TimedOut,
    /// No connection, or one that ended before the answer did.
    Broken,
}

impl Outcome {
    /// The status, if there was an answer.
    pub fn status(&self) -> Option<StatusCode> {
        match self {
            Outcome::Answer { status, .. } => Some(*status),
            Outcome::TimedOut | Outcome::Broken => None,
        }
    }
}

/// One operation with its outcome.
#[derive(Clone, Debug)]
pub struct Record {
    /// Who asked.
    pub client: usize,
    /// Which node.
    pub node: usize,
    /// What.
    pub op: Op,
    /// When the request began, from the start of the history.
    pub asked: Duration,
    /// When the last byte of the answer was there, or none could come any more.
    pub answered: Duration,
    /// What came.
    pub outcome: Outcome,
}

impl Record {
    /// Whether the answer says that it was done.
    pub fn acknowledged(&self) -> bool {
        self.outcome.status() == Some(self.op.success())
    }

    /// The kind of the outcome.
    pub(super) fn class(&self) -> String {
        match &self.outcome {
            Outcome::Answer { status, .. } if *status == self.op.success() => "success".into(),
            Outcome::Answer { status, .. } => status.as_u16().to_string(),
            Outcome::TimedOut => "time-out".into(),
            Outcome::Broken => "no connection".into(),
        }
    }
}

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Record { client, node, op, asked, answered, outcome } = self;
        write!(f, "client {client}, node {node}, {asked:.3?} to {answered:.3?}: {op:?}: ")?;
        match outcome {
            Outcome::Answer { status, body: Some(body), .. } => write!(f, "{status}, {body}"),
            Outcome::Answer { status, list, .. } if !list.is_empty() => {
                write!(f, "{status}, a list of {}", list.len())
            }
            Outcome::Answer { status, headers, text, .. } => {
                let told = headers.get("docker-content-digest").or_else(|| headers.get("etag"));
                let told = told.and_then(|told| told.to_str().ok()).unwrap_or_default();
                write!(f, "{status} {told} {text}")
            }
            Outcome::TimedOut => f.write_str("time-out"),
            Outcome::Broken => f.write_str("no connection"),
        }
    }
}
