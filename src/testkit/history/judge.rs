//! What each answer claims, or why no registry may give it.
//!
//! An answer may claim something about several keys, each by itself: that a manifest was taken claims that its tag
//! names it now, and that the repository had each of its blobs at that moment.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use clawhub_types::Digest;
use reqwest::StatusCode;
use reqwest::header::{ETAG, HeaderMap, RETRY_AFTER};

use super::register::{Effect, Value};
use super::{Condition, Events, Full, Key, Kill, Op, Outcome, Pushed, Record, Session, Thing};

/// What an operation claims to have done to something, or seen of it.
pub(super) struct Claim {
    pub(super) key: Key,
    pub(super) effect: Effect,
    /// Whether it was done for certain.
    pub(super) sure: bool,
}

/// Everything that clients have ever tried to write, so that what they see can be told from what nobody wrote.
pub(super) struct Known<'a> {
    events: &'a Events,
    /// Each manifest, the tags that it was put under, and when that was asked for first.
    manifests: BTreeMap<Key, (Arc<Pushed>, BTreeSet<&'a str>, Duration)>,
    /// When each tag, blob and name was first asked to be.
    others: BTreeMap<Key, Duration>,
}

impl<'a> Known<'a> {
    pub(super) fn new(events: &'a Events) -> Known<'a> {
        let mut known = Known { events, manifests: BTreeMap::new(), others: BTreeMap::new() };
        for record in &events.records {
            for (key, _) in written(&record.op) {
                let first = known.others.entry(key).or_insert(record.asked);
                *first = record.asked.min(*first);
            }
            let Op::PutManifest { repo, tag, manifest, .. } = &record.op else { continue };
            let key = Key::manifest(repo, &manifest.digest);
            let put = known.manifests.entry(key).or_insert((manifest.clone(), BTreeSet::new(), record.asked));
            put.1.extend(tag.as_deref());
            put.2 = put.2.min(record.asked);
        }
        known
    }

    /// The tags that somebody put this manifest under.
    fn tags_of(&self, manifest: &Key) -> impl Iterator<Item = Key> {
        let tags = self.manifests.get(manifest).into_iter().flat_map(|(_, tags, _)| tags);
        tags.map(|tag| Key::tag(&manifest.repo, tag))
    }

    /// The manifests of a repository that were asked to be by then.
    fn manifests_in(&self, repo: &str, by: Duration) -> impl Iterator<Item = (&Key, &Pushed)> {
        let there =
            self.manifests.iter().filter(move |(key, (_, _, since))| key.repo == repo && *since <= by);
        there.map(|(key, (manifest, ..))| (key, &**manifest))
    }

    /// The tags or the names that were asked to be by then.
    fn others(&self, by: Duration) -> impl Iterator<Item = &Key> {
        self.others.iter().filter(move |(_, since)| **since <= by).map(|(key, _)| key)
    }

    /// Whether somebody asked for it before that.
    fn asked_for(&self, key: &Key, by: Duration) -> bool {
        let manifest = self.manifests.get(key).is_some_and(|(_, _, since)| *since <= by);
        manifest || self.others.get(key).is_some_and(|since| *since <= by)
    }

    /// What a record claims.
    ///
    /// # Errors
    /// If no registry whose nodes die may answer so, whatever happened before.
    pub(super) fn claims(&self, record: &Record) -> Result<Vec<Claim>, String> {
        let sure = |(key, effect)| Claim { key, effect, sure: true };
        let doubtful = |(key, effect)| Claim { key, effect, sure: false };
        let unknown = || self.does(&record.op).into_iter().map(doubtful).collect();
        let Outcome::Answer { status, headers, text, .. } = &record.outcome else { return Ok(unknown()) };
        match *status {
            status if status == record.op.success() => {
                let seen = self.seen(record)?;
                Ok(self.does(&record.op).into_iter().chain(seen).map(sure).collect())
            }
            StatusCode::TOO_MANY_REQUESTS => Ok(unknown()),
            StatusCode::SERVICE_UNAVAILABLE if headers.contains_key(RETRY_AFTER) => Ok(unknown()),
            StatusCode::SERVICE_UNAVAILABLE => Err("503 without Retry-After".into()),
            StatusCode::INSUFFICIENT_STORAGE if had_no_room(record, &self.events.full) => Ok(unknown()),
            StatusCode::NOT_FOUND if gone(record, text, &self.events.kills) => Ok(unknown()),
            status => Ok(self.refused(record, status, headers, text)?.into_iter().map(sure).collect()),
        }
    }

    /// What an operation does if it is done. A manifest takes its tags with it.
    fn does(&self, op: &Op) -> Vec<(Key, Effect)> {
        let mut does = written(op);
        match op {
            Op::DeleteTag { repo, tag, condition } => does.push((
                Key::tag(repo, tag),
                match condition {
                    Condition::Matches(digest) => Effect::Swap { from: Some(digest.clone()), to: None },
                    Condition::Any | Condition::Absent => Effect::Clear,
                },
            )),
            Op::DeleteManifest { repo, digest } => {
                let key = Key::manifest(repo, digest);
                does.extend(self.tags_of(&key).map(|tag| (tag, Effect::Drop(digest.clone()))));
                does.push((key, Effect::Clear));
            }
            Op::DeleteBlob { repo, digest } => does.push((Key::blob(repo, digest), Effect::Clear)),
            _ => {}
        }
        does
    }

    /// What a success has seen besides, and whether it is about what was asked for.
    fn seen(&self, record: &Record) -> Result<Vec<(Key, Effect)>, String> {
        let Outcome::Answer { headers, body, list, .. } = &record.outcome else { return Ok(vec![]) };
        match &record.op {
            Op::Open | Op::Append(_) | Op::DeleteTag { .. } | Op::DeleteManifest { .. } => Ok(vec![]),
            Op::PutBlob { digest, .. } => told(headers, Some(digest)).map(|_| vec![]),
            Op::Mount { from, digest, .. } => {
                told(headers, Some(digest))?;
                Ok(vec![(Key::blob(from, digest), Effect::Holds)])
            }
            Op::PutManifest { repo, manifest, .. } => {
                told(headers, Some(&manifest.digest))?;
                Ok(manifest.blobs.iter().map(|blob| (Key::blob(repo, blob), Effect::Holds)).collect())
            }
            // No manifest of the repository held it.
            Op::DeleteBlob { repo, digest } => {
                let there = self.manifests_in(repo, record.answered);
                let holders = there.filter(|(_, manifest)| manifest.blobs.contains(digest));
                Ok(holders.map(|(key, _)| (key.clone(), Effect::Read(None))).collect())
            }
            Op::Get(key) => {
                let named = told(headers, key.digest())?;
                let body = body.as_ref().ok_or("no bytes")?;
                if *body != named {
                    return Err("other bytes than the answer names".into());
                }
                self.found(record, key, named)
            }
            Op::Head(key) => self.found(record, key, told(headers, key.digest())?),
            Op::Tags(_) | Op::Referrers { .. } | Op::Catalog => self.listed(record, list),
        }
    }

    /// What was found under a key.
    fn found(&self, record: &Record, key: &Key, named: Digest) -> Result<Vec<(Key, Effect)>, String> {
        let content = Key::manifest(&key.repo, &named);
        match (&key.thing, &record.op) {
            (Thing::Tag(_), _) if self.asked_for(&content, record.answered) => {
                Ok(vec![(key.clone(), Effect::Read(Some(named))), (content, Effect::Holds)])
            }
            // What a node has it may serve by digest until it hears of the deletion.
            (Thing::Manifest(_) | Thing::Blob(_), Op::Get(_)) if self.asked_for(key, record.answered) => {
                Ok(vec![])
            }
            (Thing::Manifest(_) | Thing::Blob(_), Op::Head(_)) => Ok(vec![(key.clone(), Effect::Holds)]),
            _ => Err("content that nobody has pushed".into()),
        }
    }

    /// What a list says of everything that can be in it.
    fn listed(&self, record: &Record, list: &[String]) -> Result<Vec<(Key, Effect)>, String> {
        let by = record.answered;
        let own: BTreeMap<String, Key> = match &record.op {
            Op::Tags(repo) => {
                let tag = |key: &Key| match &key.thing {
                    Thing::Tag(tag) if key.repo == *repo => Some((tag.clone(), key.clone())),
                    _ => None,
                };
                self.others(by).filter_map(tag).chain([(String::new(), Key::name(repo))]).collect()
            }
            Op::Catalog => {
                let names = self.others(by).filter(|key| key.thing == Thing::Name);
                names.map(|key| (key.repo.clone(), key.clone())).collect()
            }
            Op::Referrers { repo, subject } => {
                let there = self.manifests_in(repo, by);
                let say = there.filter(|(_, manifest)| manifest.subject.as_ref() == Some(subject));
                say.map(|(key, manifest)| (manifest.digest.to_string(), key.clone())).collect()
            }
            _ => BTreeMap::new(),
        };
        // The catalog has other repositories too.
        let foreign = list.iter().find(|name| !own.contains_key(*name));
        if let Some(name) = foreign.filter(|_| !matches!(record.op, Op::Catalog)) {
            return Err(format!("{name} is listed, and nobody has pushed it"));
        }
        let listed: BTreeSet<&String> = list.iter().collect();
        let says = |(name, key): (String, Key)| {
            // A repository that has a list has a name.
            let there = listed.contains(&name) || name.is_empty();
            (key, if there { Effect::Holds } else { Effect::Read(None) })
        };
        Ok(own.into_iter().map(says).collect())
    }

    /// What a refusal says is not, or is otherwise.
    fn refused(
        &self,
        record: &Record,
        status: StatusCode,
        headers: &HeaderMap,
        text: &str,
    ) -> Result<Vec<(Key, Effect)>, String> {
        let absent = |key: Key| Ok(vec![(key, Effect::Read(None))]);
        match (&record.op, status) {
            (Op::Get(key) | Op::Head(key), StatusCode::NOT_FOUND) => absent(key.clone()),
            (Op::DeleteTag { repo, tag, .. }, StatusCode::NOT_FOUND) => absent(Key::tag(repo, tag)),
            (Op::DeleteBlob { repo, digest }, StatusCode::NOT_FOUND) => absent(Key::blob(repo, digest)),
            (Op::DeleteManifest { repo, digest }, StatusCode::NOT_FOUND) => {
                let key = Key::manifest(repo, digest);
                let tags = self.tags_of(&key).map(|tag| (tag, Effect::Not(digest.clone())));
                Ok(tags.chain([(key.clone(), Effect::Read(None))]).collect())
            }
            (Op::Tags(repo), StatusCode::NOT_FOUND) => {
                let tags = self.others(record.answered).filter(|key| key.repo == *repo);
                let tags = tags.filter(|key| matches!(key.thing, Thing::Tag(_) | Thing::Name));
                Ok(tags.map(|key| (key.clone(), Effect::Read(None))).collect())
            }
            // There was nothing to mount: an upload was opened.
            (Op::Mount { from, digest, .. }, StatusCode::ACCEPTED) => absent(Key::blob(from, digest)),
            (Op::PutManifest { repo, tag, manifest, condition }, StatusCode::BAD_REQUEST) => {
                lacks(repo, tag.as_deref(), manifest, condition, text)
            }
            (Op::DeleteBlob { repo, digest }, StatusCode::METHOD_NOT_ALLOWED) => {
                let mut named = digests(text).into_iter().map(|digest| Key::manifest(repo, &digest));
                let references = |(manifest, ..): &(Arc<Pushed>, _, _)| manifest.blobs.contains(digest);
                let holder = named.find(|key| self.manifests.get(key).is_some_and(references));
                let holder = holder.ok_or("in use by nothing that references it")?;
                Ok(vec![(holder, Effect::Holds), (Key::blob(repo, digest), Effect::Holds)])
            }
            (
                Op::PutManifest { repo, tag: Some(tag), condition, .. }
                | Op::DeleteTag { repo, tag, condition },
                StatusCode::PRECONDITION_FAILED,
            ) => {
                let now = current(headers)?;
                let holds = match condition {
                    Condition::Any => true,
                    Condition::Matches(digest) => now.as_ref() == Some(digest),
                    Condition::Absent => now.is_none(),
                };
                if holds {
                    return Err("412 for a condition that holds".into());
                }
                Ok(vec![(Key::tag(repo, tag), Effect::Read(now))])
            }
            (_, StatusCode::NOT_FOUND) => Err("404 for something acknowledged".into()),
            _ => Err("an answer that nothing explains".into()),
        }
    }
}

/// What an operation brings about.
fn written(op: &Op) -> Vec<(Key, Effect)> {
    match op {
        Op::PutBlob { repo, digest, .. } | Op::Mount { to: repo, digest, .. } => {
            vec![(Key::blob(repo, digest), Effect::Write(digest.clone())), named(repo)]
        }
        Op::PutManifest { repo, tag, manifest, condition } => {
            let to = manifest.digest.clone();
            let tagged = tag.as_ref().map(|tag| {
                let effect = match condition {
                    Condition::Any => Effect::Write(to.clone()),
                    Condition::Matches(digest) => {
                        Effect::Swap { from: Some(digest.clone()), to: Some(to.clone()) }
                    }
                    Condition::Absent => Effect::Swap { from: None, to: Some(to.clone()) },
                };
                (Key::tag(repo, tag), effect)
            });
            let manifest = (Key::manifest(repo, &to), Effect::Write(to));
            tagged.into_iter().chain([manifest, named(repo)]).collect()
        }
        _ => vec![],
    }
}

/// A repository is there with the first thing in it, and never goes. Which value stands for that is all the same.
fn named(repo: &str) -> (Key, Effect) {
    (Key::name(repo), Effect::Write(Digest::Sha256([0; 32])))
}

/// A manifest was refused for blobs that the repository lacks: those that the text names. By then its condition
/// held.
fn lacks(
    repo: &str,
    tag: Option<&str>,
    manifest: &Pushed,
    condition: &Condition,
    text: &str,
) -> Result<Vec<(Key, Effect)>, String> {
    let missing = digests(text);
    if !text.contains("MANIFEST_BLOB_UNKNOWN") || missing.is_empty() {
        return Err("an answer that nothing explains".into());
    }
    if let Some(foreign) = missing.iter().find(|digest| !manifest.blobs.contains(*digest)) {
        return Err(format!("the manifest does not reference {foreign}"));
    }
    let tag = tag.map(|tag| Key::tag(repo, tag));
    let before = tag.and_then(|tag| match condition {
        Condition::Any => None,
        Condition::Matches(digest) => Some((tag, Effect::Read(Some(digest.clone())))),
        Condition::Absent => Some((tag, Effect::Read(None))),
    });
    let missing = missing.iter().map(|digest| (Key::blob(repo, digest), Effect::Read(None)));
    Ok(before.into_iter().chain(missing).collect())
}

/// The digest that an answer names, which must be the one that was asked for, if one was.
fn told(headers: &HeaderMap, asked: Option<&Digest>) -> Result<Digest, String> {
    let told = headers.get("docker-content-digest").and_then(|value| value.to_str().ok()?.parse().ok());
    match (told, asked) {
        (None, _) => Err("no digest in the answer".into()),
        (Some(told), Some(asked)) if told != *asked => Err("other content than was asked for".into()),
        (Some(told), _) => Ok(told),
    }
}

/// What a tag names whose condition did not hold.
fn current(headers: &HeaderMap) -> Result<Value, String> {
    let Some(etag) = headers.get(ETAG) else { return Ok(None) };
    let digest = etag.to_str().ok().and_then(|etag| etag.trim_matches('"').parse().ok());
    digest.map(Some).ok_or_else(|| "an entity tag that is no digest".into())
}

/// Every digest in a text.
fn digests(text: &str) -> BTreeSet<Digest> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == ':'));
    words.filter_map(|word| word.trim_matches(':').parse().ok()).collect()
}

/// Whether it brings bytes to a node that had no room for them at some time while it was under way.
fn had_no_room(record: &Record, full: &[Full]) -> bool {
    let node = match &record.op {
        Op::Append(session) | Op::PutBlob { session: Some(session), .. } => session.owner,
        Op::Open | Op::PutBlob { session: None, .. } | Op::Mount { .. } => record.node,
        Op::PutManifest { manifest, .. } if manifest.large => record.node,
        _ => return false,
    };
    let then = |full: &Full| full.from <= record.answered && full.to.is_none_or(|to| record.asked <= to);
    full.iter().any(|full| full.node == node && then(full))
}

/// Whether it is a step of a session that its owner may have forgotten, since that one died.
fn gone(record: &Record, text: &str, kills: &[Kill]) -> bool {
    let session = match &record.op {
        Op::Append(session) | Op::PutBlob { session: Some(session), .. } => session,
        _ => return false,
    };
    let since = |kill: &Kill| kill.at >= session.opened && kill.at <= record.answered;
    let died = |session: &Session| kills.iter().any(|kill| kill.node == session.owner && since(kill));
    text.contains("BLOB_UPLOAD_UNKNOWN") && died(session)
}
