//! Samples of the rotation of keys.

use clawhub_types::NodeId;

use super::{Shape, entry, shape};
use crate::Entry;
use crate::cluster::{ClusterCmd, Envelope, KeysRecord, Rotation, RotationCmd};

fn envelope() -> Envelope {
    Envelope { node: NodeId(2), boot: 3, sealed: b"sealed to a start".to_vec() }
}

pub(super) fn entries() -> Vec<(&'static str, Entry)> {
    let (generation, node) = (5, NodeId(2));
    let begin = RotationCmd::Begin {
        generation,
        ca_cert: b"certificate".to_vec(),
        ca_key_sealed: b"sealed".to_vec(),
        envelopes: vec![envelope()],
    };
    let step = |step| Entry { request: None, ..entry(ClusterCmd::Rotation(step)) };
    vec![
        ("rotation-ask", entry(ClusterCmd::Rotation(RotationCmd::Ask { wait: 600_000 }))),
        ("rotation-begin", step(begin)),
        ("rotation-seal", step(RotationCmd::Seal { generation, envelope: envelope() })),
        ("rotation-confirm", step(RotationCmd::Confirm { generation, node, spki: [6; 32] })),
        ("rotation-switch", step(RotationCmd::Switch { generation })),
        ("rotation-finish", step(RotationCmd::Finish { generation })),
    ]
}

pub(super) fn keys() -> Shape {
    let rotation = Rotation {
        generation: 5,
        ca_cert: b"certificate".to_vec(),
        ca_key_sealed: b"sealed".to_vec(),
        until: 700_000,
        switched: Some(600_000),
        envelopes: vec![envelope()],
    };
    shape(vec![
        ("settled", KeysRecord::default()),
        ("rotated", KeysRecord { generation: 3, last: 5, due: Some(600_000), rotation: Some(rotation) }),
    ])
}
