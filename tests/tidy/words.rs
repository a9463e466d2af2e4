//! Where some words may stand: each belongs to a room, and elsewhere it is a leak.

use anyhow::Result;

use crate::source::{complain, production, shown, sources};

/// Protobuf and QUIC end in these; everybody else sees plain types.
const WIRE: &[&str] = &[
    "src/wire/",
    "src/peer/",
    "src/api/peer/",
    "src/api/operator/",
    "src/consensus/grpc/",
    "src/replicate/",
    "src/cli/",
    // The heartbeat's message, and nothing else there.
    "src/liveness/exchange.rs",
];

/// gRPC ends in these; everybody else sees plain codes and errors.
const GRPC: &[&str] =
    &["src/wire/", "src/peer/", "src/consensus/grpc/", "src/api/peer/", "src/api/operator/", "src/cli/"];

/// Files that may begin a task of their own, with whom it ends.
const SPAWNS: &[(&str, &str)] = &[
    ("src/api/http/app.rs", "a handler that changes state outlives its client; the drain waits for it"),
    ("src/cli/dev/children.rs", "copies a child's output until the child closes it"),
    (
        "src/durable/task.rs",
        "what must not be cut between two steps: awaited by its caller, and ended by itself",
    ),
    ("src/node/run.rs", "the two listeners; the life of the node awaits both"),
    ("src/node/stack.rs", "the peer listener; the stack stops and awaits it"),
    ("src/node/stop.rs", "hears signals for as long as the process lives"),
    (
        "src/peer/quic.rs",
        "a handshake, an attempt to connect and a connection each; they end with the endpoint or their limit",
    ),
    ("src/peer/tcp.rs", "a handshake each; they end with the listener or their limit"),
    (
        "src/replicate/fetch.rs",
        "a fetch each, whose readers may all leave; it ends with its blob or its last holder",
    ),
    ("src/replicate/relay.rs", "a reader each; it ends when the reader is dropped"),
];

#[test]
fn protobuf_ends_at_the_edges() -> Result<()> {
    let leaks =
        |text: &str| text.contains("clawhub_wire::") || text.contains("quinn::") || text.contains("pb::");
    let wrong: Vec<String> = production()?
        .into_iter()
        .filter(|(path, text)| leaks(text) && !WIRE.iter().any(|room| path.starts_with(room)))
        .map(|(path, _)| path)
        .collect();
    complain("protobuf or QUIC outside of the rooms where they end", &wrong)
}

#[test]
fn grpc_ends_at_the_edges() -> Result<()> {
    let wrong: Vec<String> = production()?
        .into_iter()
        .filter(|(path, text)| text.contains("tonic::") && !GRPC.iter().any(|room| path.starts_with(room)))
        .map(|(path, _)| path)
        .collect();
    complain("gRPC outside of the rooms where it ends", &wrong)
}

#[test]
fn one_room_knows_the_prefix_of_oci() -> Result<()> {
    let mut wrong = Vec::new();
    for (path, text) in sources()? {
        let ships = path.starts_with("src/") && !path.starts_with("src/testkit/") && !path.contains("test");
        let code = text.split("#[cfg(test)]").next().unwrap_or_default();
        let code = code.lines().filter(|line| !line.trim_start().starts_with("//"));
        if ships && !path.starts_with("src/api/oci/") && code.clone().any(|line| line.contains("\"/v2")) {
            wrong.push(path);
        }
    }
    complain("\"/v2\" outside of src/api/oci", &wrong)
}

#[test]
fn tasks_have_an_owner() -> Result<()> {
    let mut wrong = Vec::new();
    let sources = production()?;
    for (path, text) in &sources {
        let known = SPAWNS.iter().any(|(file, _)| file == path);
        match text.contains("tokio::spawn(") {
            true if !known => wrong.push(path.clone()),
            false if known => wrong.push(format!("{path} spawns nothing any more: take it off the list")),
            _ => {}
        }
    }
    complain("tokio::spawn in files that are not listed", &wrong)
}

#[test]
fn nothing_is_decided_by_the_text_of_an_error() -> Result<()> {
    let mut wrong = Vec::new();
    for (path, text) in production()? {
        let text: String = text.split_whitespace().collect();
        for what in [".to_string().contains(", "reason.contains(", "message.contains(", "why.contains("] {
            if text.contains(what) {
                wrong.push(format!("{path}: {what}"));
            }
        }
    }
    complain("decisions by text", &wrong)
}

#[test]
fn lines_are_not_saved_by_tuples() -> Result<()> {
    let mut wrong = Vec::new();
    for (path, text) in production()? {
        for (number, line) in text.lines().enumerate() {
            let Some(rest) = line.trim_start().strip_prefix("let (") else { continue };
            let Some((names, value)) = rest.split_once(") = (") else { continue };
            // `let (a, b) = (x, y);` on one line; a tuple that is returned by a call has no second bracket.
            if names.chars().all(|c| c.is_alphanumeric() || matches!(c, '_' | ',' | ' '))
                && value.ends_with(");")
            {
                wrong.push(format!("{path}:{}", number + 1));
            }
        }
    }
    complain("tuples that only save a line", &wrong)
}

#[test]
fn rooms_exist() -> Result<()> {
    let here = sources()?;
    let spawns = SPAWNS.iter().map(|(file, _)| *file);
    let wrong: Vec<String> = WIRE
        .iter()
        .chain(GRPC)
        .copied()
        .chain(spawns)
        .filter(|room| !here.iter().any(|(path, _)| path.starts_with(room)))
        .map(|room| shown(room.as_ref()))
        .collect();
    complain("listed, and not there", &wrong)
}
