//! One answer of each shape.

use clawhub_policy::{Domain, Shortfall, Uncovered, Without};

use super::*;

fn shortfall() -> Shortfall {
    let zone = Domain::Zone { region: "eu".into(), zone: "a".into() };
    Shortfall {
        durability: Durability::Region,
        found: vec![Domain::Node(NodeId(2)), zone, Domain::Region("us".into())],
        needed: 2,
        confined_to: Some(vec!["eu".into()]),
    }
}

fn uncovered(without: Option<Without>) -> Rejected {
    let found = vec![Domain::Region("eu".into()), Domain::Region("us".into())];
    Rejected::Cluster(ClusterRejected::Uncovered(Uncovered {
        durability: Durability::Region,
        without,
        found,
    }))
}

pub(super) fn outcomes() -> Vec<(&'static str, Outcome)> {
    let node = NodeId(2);
    let mark = |term, index| LogMark { term, index };
    let forgetful = ClusterRejected::Forgetful { node, found: mark(4, 500), acknowledged: mark(5, 600) };
    let without = Without { domain: Domain::Region("eu".into()), left: 1, of: 3 };
    vec![
        ("done", Ok(Reply::Done)),
        ("joined", Ok(Reply::Cluster(ClusterReply::Joined(node)))),
        ("session", Ok(Reply::Cluster(ClusterReply::Session(SessionId(600))))),
        ("project", Ok(Reply::Project(ProjectReply::Project(ProjectId(3))))),
        ("linked", Ok(Reply::Blob(BlobReply::Linked { root: root(1), size: 5_000_000_000 }))),
        ("not-mounted", Ok(Reply::Blob(BlobReply::NotMounted))),
        ("stored", Ok(Reply::Artifact(ArtifactReply::Stored { digest: digest(1), tags: vec![tag("t")] }))),
        ("generation", Ok(Reply::Cluster(ClusterReply::Generation(6)))),
        ("count", Ok(Reply::Blob(BlobReply::Count(300)))),
        ("session-gone", Err(Rejected::Request(RequestRejected::SessionGone))),
        ("deadline-passed", Err(Rejected::Request(RequestRejected::DeadlinePassed))),
        ("stale-permit", Err(Rejected::Request(RequestRejected::StalePermit))),
        ("wrong-phase", Err(Rejected::Request(RequestRejected::WrongPhase))),
        ("token-invalid", Err(Rejected::Cluster(ClusterRejected::TokenInvalid))),
        ("node-unknown", Err(Rejected::Cluster(ClusterRejected::NodeUnknown(node)))),
        ("name-taken", Err(Rejected::Cluster(ClusterRejected::NameTaken))),
        ("key-taken", Err(Rejected::Cluster(ClusterRejected::KeyTaken(node)))),
        ("stale-boot", Err(Rejected::Cluster(ClusterRejected::StaleBoot { node, boot: 3, logged: 4 }))),
        ("forgetful", Err(Rejected::Cluster(forgetful))),
        ("last-member", Err(Rejected::Cluster(ClusterRejected::LastMember))),
        ("wrong-step", Err(Rejected::Cluster(ClusterRejected::WrongStep))),
        ("not-confirmed", Err(Rejected::Cluster(ClusterRejected::NotConfirmed(vec![node])))),
        ("keys-change", Err(Rejected::Cluster(ClusterRejected::KeysChange))),
        ("too-few-domains", Err(Rejected::Cluster(ClusterRejected::TooFewDomains(shortfall())))),
        ("votes-uncovered", Err(uncovered(Some(without)))),
        ("votes-uncovered-by-nobody", Err(uncovered(None))),
        ("policy-too-few-domains", Err(Rejected::Project(ProjectRejected::TooFewDomains(shortfall())))),
        ("root-short", Err(Rejected::Blob(BlobRejected::RootShort { root: root(1), node }))),
        ("name-unknown", Err(Rejected::Project(ProjectRejected::NameUnknown))),
        ("need-copies", Err(Rejected::Blob(BlobRejected::NeedCopies(vec![root(1)])))),
        ("bad-receipt", Err(Rejected::Blob(BlobRejected::BadReceipt))),
        ("blob-unknown", Err(Rejected::Blob(BlobRejected::BlobUnknown))),
        ("blob-referenced", Err(Rejected::Blob(BlobRejected::BlobReferenced(digest(1))))),
        (
            "references-unknown",
            Err(Rejected::Artifact(ArtifactRejected::ReferencesUnknown(vec![digest(1), digest512(2)]))),
        ),
        ("manifest-unknown", Err(Rejected::Artifact(ArtifactRejected::ManifestUnknown))),
        (
            "precondition-failed",
            Err(Rejected::Artifact(ArtifactRejected::PreconditionFailed(Some(digest(1))))),
        ),
        ("parts-missing", Err(Rejected::Artifact(ArtifactRejected::PartsMissing))),
    ]
}
