//! Compiles `proto/` with a compiler written in Rust, so that building needs no `protoc`.

use std::error::Error;
use std::path::Path;

const FILES: [&str; 4] = [
    "clawhub/peer/v1/raft.proto",
    "clawhub/peer/v1/cluster.proto",
    "clawhub/blob/v1/blob.proto",
    "clawhub/admin/v1/admin.proto",
];

/// Messages that carry a secret. They get a `Debug` by hand that leaves it out.
const SECRET: [&str; 4] = [
    "clawhub.peer.v1.JoinRequest",
    "clawhub.peer.v1.JoinReply",
    "clawhub.admin.v1.JoinRequest",
    "clawhub.admin.v1.TokenCreateReply",
];

fn main() -> Result<(), Box<dyn Error>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../proto");
    println!("cargo::rerun-if-changed={}", root.display());
    let descriptors = protox::compile(FILES, [&root])?;
    tonic_prost_build::configure()
        // Entries, snapshot pieces and certificates are handed on, not copied.
        .bytes(".clawhub.peer.v1")
        .bytes(".clawhub.blob.v1")
        .type_attribute(".clawhub.admin.v1", "#[derive(serde::Serialize)]")
        .skip_debug(SECRET)
        .build_transport(false)
        .compile_fds(descriptors)?;
    Ok(())
}
