//! What a pushed manifest says: the facts that go into the log, extracted once by the node that
//! received it (image-spec "Image Manifest", "Image Index"; Docker image manifest v2 schema 2).
//!
//! The bytes are stored verbatim and unknown fields are kept; nothing is ever re-serialised.

use std::collections::{BTreeMap, HashSet};

use clawhub_state::artifact::{ManifestFacts, Ref, RefKind};
use clawhub_types::{Digest, MediaType};
use serde::Deserialize;
use serde::de::{self, Deserializer, MapAccess, Visitor};

use crate::{Error, Invalid};

/// Largest manifest in bytes; clients read no more either.
pub const MAX_MANIFEST: usize = 4 * 1024 * 1024;
/// Most references in one manifest.
const MAX_REFS: usize = 1000;
/// Annotations beyond this many bytes stay in the manifest and are read from there.
pub(crate) const MAX_ANNOTATIONS: usize = 16 * 1024;

/// A manifest or index, as far as a registry reads it.
#[derive(Deserialize)]
struct Document {
    #[serde(rename = "schemaVersion")]
    schema_version: Option<u64>,
    #[serde(rename = "mediaType")]
    media_type: Option<String>,
    #[serde(rename = "artifactType")]
    artifact_type: Option<String>,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
    manifests: Option<Vec<Descriptor>>,
    subject: Option<Descriptor>,
    annotations: Option<BTreeMap<String, String>>,
    /// Docker schema 1, refused.
    #[serde(rename = "fsLayers")]
    fs_layers: Option<de::IgnoredAny>,
}

#[derive(Deserialize)]
struct Descriptor {
    #[serde(rename = "mediaType")]
    media_type: Option<String>,
    digest: String,
    #[serde(default)]
    size: i64,
    #[serde(default)]
    urls: Vec<String>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Shape {
    Manifest,
    Index,
}

/// Reads a manifest's facts.
///
/// # Errors
/// [`Invalid::Manifest`] with the reason for anything that is not exactly one manifest or index of a known
/// type. A bad digest inside a manifest makes the manifest invalid.
pub(crate) fn facts(content_type: Option<&str>, bytes: &[u8]) -> Result<ManifestFacts, Error> {
    reject_duplicate_keys(bytes)?;
    let document: Document =
        serde_json::from_slice(bytes).map_err(|error| invalid(format!("not a manifest: {error}")))?;
    let shape = shape(&document)?;
    let media_type = media_type(&document, shape, content_type)?;
    let refs = references(&document, shape)?;
    let subject = document.subject.as_ref().map(|subject| digest(subject, "subject")).transpose()?;
    let annotations = subject.as_ref().and_then(|_| annotations(&document));
    let artifact_type = match shape {
        Shape::Manifest => document
            .artifact_type
            .clone()
            .filter(|own| !own.is_empty())
            .or_else(|| document.config.as_ref().and_then(|config| config.media_type.clone())),
        Shape::Index => document.artifact_type.clone().filter(|own| !own.is_empty()),
    };
    if artifact_type.as_ref().is_some_and(|text| text.len() > 255) {
        return Err(invalid("artifactType is longer than 255 bytes"));
    }
    Ok(ManifestFacts { media_type, size: bytes.len() as u64, refs, subject, artifact_type, annotations })
}

/// The annotations of a manifest whose facts left them out, for the referrers API.
pub(crate) fn annotations_of(bytes: &[u8]) -> Vec<(String, String)> {
    let document: Result<Document, _> = serde_json::from_slice(bytes);
    document.ok().and_then(|document| document.annotations).unwrap_or_default().into_iter().collect()
}

fn shape(document: &Document) -> Result<Shape, Error> {
    if document.fs_layers.is_some() || document.schema_version == Some(1) {
        return Err(invalid("schema 1 manifests are not supported"));
    }
    if document.schema_version != Some(2) {
        return Err(invalid("schemaVersion must be 2"));
    }
    // A document of both shapes could mean one thing to the pusher and another to the puller.
    match (document.config.is_some() || document.layers.is_some(), document.manifests.is_some()) {
        (true, true) => Err(invalid("a manifest has config and layers, an index has manifests; not both")),
        (true, false) if document.config.is_none() => Err(invalid("config is missing")),
        (true, false) => Ok(Shape::Manifest),
        (false, true) => Ok(Shape::Index),
        (false, false) => Err(invalid("neither config and layers nor manifests")),
    }
}

fn media_type(document: &Document, shape: Shape, content_type: Option<&str>) -> Result<MediaType, Error> {
    let parse = |text: &str| text.parse::<MediaType>().map_err(|_| invalid("malformed media type"));
    let sent = content_type.filter(|text| !text.trim().is_empty()).map(parse).transpose()?;
    let own = document.media_type.as_deref().filter(|text| !text.is_empty()).map(parse).transpose()?;
    let media_type = match (sent, own) {
        (Some(sent), Some(own)) if sent != own => {
            return Err(invalid(format!("Content-Type {sent} does not match mediaType {own}")));
        }
        (Some(sent), _) => sent,
        (None, Some(own)) => own,
        (None, None) if shape == Shape::Manifest => parse(MediaType::OCI_MANIFEST)?,
        (None, None) => parse(MediaType::OCI_INDEX)?,
    };
    let expected = match media_type.as_str() {
        MediaType::OCI_MANIFEST | MediaType::DOCKER_MANIFEST => Shape::Manifest,
        MediaType::OCI_INDEX | MediaType::DOCKER_LIST => Shape::Index,
        other => return Err(invalid(format!("unsupported manifest type {other}"))),
    };
    if expected == shape {
        Ok(media_type)
    } else {
        Err(invalid("the document's fields do not fit its media type"))
    }
}

fn references(document: &Document, shape: Shape) -> Result<Vec<Ref>, Error> {
    let mut refs = Vec::new();
    let mut seen = HashSet::new();
    let mut add = |descriptor: &Descriptor, what: &str, kind| -> Result<(), Error> {
        let digest = digest(descriptor, what)?;
        if seen.insert(digest.clone()) {
            refs.push(Ref { digest, kind });
        }
        Ok(())
    };
    if let Some(config) = &document.config {
        add(config, "config", RefKind::Blob)?;
    }
    for layer in document.layers.iter().flatten() {
        // A layer with addresses of its own may be fetched from there (image-spec, "urls").
        if layer.urls.is_empty() {
            add(layer, "layer", RefKind::Blob)?;
        } else {
            digest(layer, "layer")?;
        }
    }
    if shape == Shape::Index {
        for child in document.manifests.iter().flatten() {
            add(child, "manifest", RefKind::Child)?;
        }
    }
    if refs.len() > MAX_REFS {
        return Err(invalid(format!("more than {MAX_REFS} references")));
    }
    Ok(refs)
}

fn digest(descriptor: &Descriptor, what: &str) -> Result<Digest, Error> {
    if descriptor.size < 0 {
        return Err(invalid(format!("{what}: negative size")));
    }
    descriptor.digest.parse().map_err(|error| invalid(format!("{what}: {error}")))
}

fn annotations(document: &Document) -> Option<Vec<(String, String)>> {
    let annotations = document.annotations.clone().unwrap_or_default();
    let length: usize = annotations.iter().map(|(key, value)| key.len() + value.len()).sum();
    (length <= MAX_ANNOTATIONS).then(|| annotations.into_iter().collect())
}

fn invalid(reason: impl Into<String>) -> Error {
    Error::invalid(Invalid::Manifest, reason)
}

/// Two readers of a document with a repeated key may disagree on which one counts; serde refuses
/// repeats of the fields it knows, this refuses them at the top level whatever their name.
fn reject_duplicate_keys(bytes: &[u8]) -> Result<(), Error> {
    struct Keys;
    struct KeySet;
    impl<'de> Visitor<'de> for KeySet {
        type Value = Keys;
        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("a JSON object")
        }
        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Keys, A::Error> {
            let mut seen = HashSet::new();
            while let Some(key) = map.next_key::<String>()? {
                map.next_value::<de::IgnoredAny>()?;
                if !seen.insert(key.clone()) {
                    return Err(de::Error::custom(format!("field {key:?} appears twice")));
                }
            }
            Ok(Keys)
        }
    }
    impl<'de> Deserialize<'de> for Keys {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            deserializer.deserialize_map(KeySet)
        }
    }
    let keys: Result<Keys, _> = serde_json::from_slice(bytes);
    keys.map(|_| ()).map_err(|error| invalid(format!("not a manifest: {error}")))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::Kind;

    const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn descriptor() -> serde_json::Value {
        json!({ "mediaType": "application/vnd.oci.image.config.v1+json", "digest": DIGEST, "size": 0 })
    }

    fn read(content_type: Option<&str>, document: serde_json::Value) -> Result<ManifestFacts, Error> {
        facts(content_type, document.to_string().as_bytes())
    }

    fn refused(content_type: Option<&str>, document: serde_json::Value) {
        let error = read(content_type, document.clone()).expect_err(&document.to_string());
        assert!(matches!(error.kind, Kind::Invalid(Invalid::Manifest)), "{document}");
    }

    #[test]
    fn types_are_inferred_from_the_shape() {
        let manifest = json!({ "schemaVersion": 2, "config": descriptor(), "layers": [] });
        assert_eq!(read(None, manifest).unwrap().media_type.as_str(), MediaType::OCI_MANIFEST);
        let index = json!({ "schemaVersion": 2, "manifests": [] });
        assert_eq!(read(None, index).unwrap().media_type.as_str(), MediaType::OCI_INDEX);
    }

    #[test]
    fn content_type_parameters_are_ignored_and_a_mismatch_is_refused() {
        let manifest = json!({ "schemaVersion": 2, "mediaType": MediaType::OCI_MANIFEST, "config": descriptor(), "layers": [] });
        let with_parameter = format!("{}; charset=utf-8", MediaType::OCI_MANIFEST);
        assert!(read(Some(&with_parameter), manifest.clone()).is_ok());
        refused(Some(MediaType::DOCKER_MANIFEST), manifest);
    }

    #[test]
    fn ambiguous_and_unknown_documents_are_refused() {
        refused(None, json!({ "schemaVersion": 2, "config": descriptor(), "layers": [], "manifests": [] }));
        refused(None, json!({ "schemaVersion": 1, "fsLayers": [] }));
        refused(None, json!({ "schemaVersion": 2 }));
        refused(None, json!({ "schemaVersion": 2, "layers": [] }));
        refused(None, json!([]));
        refused(Some("application/json"), json!({ "schemaVersion": 2, "manifests": [] }));
        refused(Some(MediaType::OCI_MANIFEST), json!({ "schemaVersion": 2, "manifests": [] }));
        let twice = br#"{"schemaVersion":2,"manifests":[],"x":1,"x":2}"#;
        assert!(facts(None, twice).is_err());
        let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        assert!(facts(None, deep.as_bytes()).is_err());
    }

    #[test]
    fn references_leave_out_subject_and_foreign_layers() {
        let other = format!("sha256:{}", "1".repeat(64));
        let third = format!("sha256:{}", "2".repeat(64));
        let manifest = json!({
            "schemaVersion": 2, "config": descriptor(), "subject": { "digest": other, "size": 1 },
            "layers": [descriptor(), { "digest": third, "size": 1, "urls": ["https://example.com/layer"] }],
        });
        let facts = read(None, manifest).unwrap();
        assert_eq!(facts.refs, vec![Ref { digest: DIGEST.parse().unwrap(), kind: RefKind::Blob }]);
        assert_eq!(facts.subject, Some(other.parse().unwrap()));
        assert_eq!(facts.annotations, Some(vec![]));
        assert_eq!(facts.artifact_type.as_deref(), Some("application/vnd.oci.image.config.v1+json"));
    }
}
