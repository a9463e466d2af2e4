//! What a pushed manifest says: the facts that go into the log, extracted once by the node that
//! received it (image-spec "Image Manifest", "Image Index"; Docker image manifest v2 schema 2).
//!
//! The bytes are stored verbatim and unknown fields are kept; nothing is ever re-serialised.
//!
//! # Null
//! A JSON null is an absent value, wherever it stands, as Go's `encoding/json` has it: most clients are written
//! in Go, and the lists that they leave empty, they write as null. So every value here is an `Option`, those
//! inside lists and maps too. What an absent value means is said where it is read.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap, HashSet};

use clawhub_state::artifact::{ManifestFacts, PART, Ref, RefKind};
use clawhub_types::{Digest, MediaType};
use serde::Deserialize;
use serde::de::{self, Deserializer, MapAccess, Visitor};

use crate::{Error, Invalid};

/// Largest manifest in bytes; clients read no more either.
pub const MAX_MANIFEST: usize = 4 * 1024 * 1024;
/// Annotations beyond this many bytes stay in the manifest and are read from there.
pub(crate) const MAX_ANNOTATIONS: usize = 16 * 1024;

/// A manifest or index, as far as a registry reads it.
#[derive(Default, Deserialize)]
struct Document {
    #[serde(rename = "schemaVersion")]
    schema_version: Option<u64>,
    #[serde(rename = "mediaType")]
    media_type: Option<String>,
    #[serde(rename = "artifactType")]
    artifact_type: Option<String>,
    config: Option<Descriptor>,
    layers: Option<Vec<Option<Descriptor>>>,
    manifests: Option<Vec<Option<Descriptor>>>,
    subject: Option<Descriptor>,
    annotations: Option<Annotations>,
    /// Docker schema 1, refused.
    #[serde(rename = "fsLayers")]
    fs_layers: Option<de::IgnoredAny>,
}

/// One without a value is an annotation with an empty value: so Go reads it, and so the referrers API shows it.
type Annotations = BTreeMap<String, Option<String>>;

#[derive(Default, Deserialize)]
struct Descriptor {
    #[serde(rename = "mediaType")]
    media_type: Option<String>,
    digest: Option<String>,
    /// For clients to compare what they pull with; it is not compared here. An absent one counts as 0.
    size: Option<i64>,
    urls: Option<Vec<Option<String>>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Shape {
    Manifest,
    Index,
}

/// What a manifest says.
pub(crate) struct Read {
    pub(crate) facts: ManifestFacts,
    /// The references beyond those of the facts, in parts that fit an entry each.
    pub(crate) parts: Vec<Vec<Ref>>,
}

/// Reads a manifest.
///
/// # Errors
/// [`Invalid::Manifest`] with the reason for anything that is not exactly one manifest or index of a known
/// type. A bad digest inside a manifest makes the manifest invalid.
pub(crate) fn read(content_type: Option<&str>, bytes: &[u8]) -> Result<Read, Error> {
    let fields = fields(bytes)?;
    let document: Document =
        serde_json::from_slice(bytes).map_err(|error| invalid(format!("not a manifest: {error}")))?;
    let media_type = media_type(&document, content_type)?;
    let shape = shape(&document, media_type.as_ref(), fields.contains("manifests"))?;
    let media_type = media_type.map_or_else(|| shape.default_type(), Ok)?;
    let mut refs = references(&document, shape)?;
    let others = refs.split_off(refs.len().min(PART));
    let parts: Vec<Vec<Ref>> = others.chunks(PART).map(<[Ref]>::to_vec).collect();
    let parts_of = u32::try_from(parts.len()).map_err(|_| invalid("too many references"))?;
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
    let size = bytes.len() as u64;
    let facts =
        ManifestFacts { media_type, size, refs, parts: parts_of, subject, artifact_type, annotations };
    Ok(Read { facts, parts })
}

/// The annotations of a manifest whose facts left them out, for the referrers API.
pub(crate) fn annotations_of(bytes: &[u8]) -> Vec<(String, String)> {
    let document: Document = serde_json::from_slice(bytes).unwrap_or_default();
    listed(document.annotations)
}

fn listed(annotations: Option<Annotations>) -> Vec<(String, String)> {
    let annotations = annotations.unwrap_or_default().into_iter();
    annotations.map(|(key, value)| (key, value.unwrap_or_default())).collect()
}

/// What a document is. One of both shapes could mean one thing to the pusher and another to the puller. `listed` says
/// whether there is a list of manifests at all: one that is null, as Go writes an empty one, makes an index of what
/// has nothing else.
fn shape(document: &Document, media_type: Option<&MediaType>, listed: bool) -> Result<Shape, Error> {
    if document.fs_layers.is_some() || document.schema_version == Some(1) {
        return Err(invalid("schema 1 manifests are not supported"));
    }
    if document.schema_version != Some(2) {
        return Err(invalid("schemaVersion must be 2"));
    }
    let typed = media_type.map(Shape::of).transpose()?;
    let shape = match (document.config.is_some() || document.layers.is_some(), document.manifests.is_some()) {
        (true, true) => {
            return Err(invalid("a manifest has config and layers, an index has manifests; not both"));
        }
        (true, false) => Shape::Manifest,
        (false, true) => Shape::Index,
        (false, false) if listed => Shape::Index,
        (false, false) => return Err(invalid("neither config and layers nor manifests")),
    };
    if typed.is_some_and(|typed| typed != shape) {
        return Err(invalid("the document's fields do not fit its media type"));
    }
    if shape == Shape::Manifest && document.config.is_none() {
        return Err(invalid("config is missing"));
    }
    Ok(shape)
}

impl Shape {
    /// What a media type stands for.
    fn of(media_type: &MediaType) -> Result<Shape, Error> {
        match media_type.as_str() {
            MediaType::OCI_MANIFEST | MediaType::DOCKER_MANIFEST => Ok(Shape::Manifest),
            MediaType::OCI_INDEX | MediaType::DOCKER_LIST => Ok(Shape::Index),
            other => Err(invalid(format!("unsupported manifest type {other}"))),
        }
    }

    /// The media type of a document that comes without one.
    fn default_type(self) -> Result<MediaType, Error> {
        parsed(match self {
            Shape::Manifest => MediaType::OCI_MANIFEST,
            Shape::Index => MediaType::OCI_INDEX,
        })
    }
}

/// The media type that was sent with the document, or that it has in itself.
fn media_type(document: &Document, content_type: Option<&str>) -> Result<Option<MediaType>, Error> {
    let sent = content_type.filter(|text| !text.trim().is_empty()).map(parsed).transpose()?;
    let own = document.media_type.as_deref().filter(|text| !text.is_empty()).map(parsed).transpose()?;
    match (sent, own) {
        (Some(sent), Some(own)) if sent != own => {
            Err(invalid(format!("Content-Type {sent} does not match mediaType {own}")))
        }
        (sent, own) => Ok(sent.or(own)),
    }
}

fn parsed(media_type: &str) -> Result<MediaType, Error> {
    media_type.parse().map_err(|_| invalid("malformed media type"))
}

fn references(document: &Document, shape: Shape) -> Result<Vec<Ref>, Error> {
    let mut refs = References::default();
    if let Some(config) = &document.config {
        refs.add(config, "config", RefKind::Blob)?;
    }
    for layer in document.layers.iter().flatten() {
        let layer = layer.as_ref().unwrap_or(&NOTHING);
        refs.add(layer, "layer", if layer.is_elsewhere() { RefKind::Optional } else { RefKind::Blob })?;
    }
    if shape == Shape::Index {
        for child in document.manifests.iter().flatten() {
            refs.add(child.as_ref().unwrap_or(&NOTHING), "manifest", RefKind::Child)?;
        }
    }
    Ok(refs.all)
}

/// References in the order of the document, each digest once.
#[derive(Default)]
struct References {
    all: Vec<Ref>,
    places: HashMap<Digest, usize>,
}

impl References {
    fn add(&mut self, descriptor: &Descriptor, what: &str, kind: RefKind) -> Result<(), Error> {
        let digest = digest(descriptor, what)?;
        match self.places.entry(digest.clone()) {
            Entry::Vacant(place) => {
                place.insert(self.all.len());
                self.all.push(Ref { digest, kind });
            }
            // What is needed once is needed.
            Entry::Occupied(place) => {
                let known = &mut self.all[*place.get()];
                if known.kind == RefKind::Optional {
                    known.kind = kind;
                }
            }
        }
        Ok(())
    }
}

/// What a null stands for in a list of descriptors.
const NOTHING: Descriptor = Descriptor { media_type: None, digest: None, size: None, urls: None };

impl Descriptor {
    /// Whether it has addresses of its own, from which the content may be fetched (image-spec, "urls").
    fn is_elsewhere(&self) -> bool {
        self.urls.iter().flatten().flatten().any(|url| !url.is_empty())
    }
}

fn digest(descriptor: &Descriptor, what: &str) -> Result<Digest, Error> {
    if descriptor.size.is_some_and(|size| size < 0) {
        return Err(invalid(format!("{what}: negative size")));
    }
    let digest = descriptor.digest.as_deref().ok_or_else(|| invalid(format!("{what}: no digest")))?;
    digest.parse().map_err(|error| invalid(format!("{what}: {error}")))
}

fn annotations(document: &Document) -> Option<Vec<(String, String)>> {
    let annotations = listed(document.annotations.clone());
    let length: usize = annotations.iter().map(|(key, value)| key.len() + value.len()).sum();
    (length <= MAX_ANNOTATIONS).then_some(annotations)
}

fn invalid(reason: impl Into<String>) -> Error {
    Error::invalid(Invalid::Manifest, reason)
}

/// The names of a document's fields. Two readers of a document with a repeated key may disagree on which one counts;
/// serde refuses repeats of the fields it knows, this refuses them at the top level whatever their name.
fn fields(bytes: &[u8]) -> Result<HashSet<String>, Error> {
    struct Keys(HashSet<String>);
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
            Ok(Keys(seen))
        }
    }
    impl<'de> Deserialize<'de> for Keys {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            deserializer.deserialize_map(KeySet)
        }
    }
    let keys: Result<Keys, _> = serde_json::from_slice(bytes);
    keys.map(|keys| keys.0).map_err(|error| invalid(format!("not a manifest: {error}")))
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

    fn facts(content_type: Option<&str>, bytes: &[u8]) -> Result<ManifestFacts, Error> {
        super::read(content_type, bytes).map(|read| read.facts)
    }

    fn read(content_type: Option<&str>, document: serde_json::Value) -> Result<ManifestFacts, Error> {
        facts(content_type, document.to_string().as_bytes())
    }

    #[test]
    fn references_come_in_parts_that_fit_an_entry() {
        let layer =
            |n: usize| json!({ "digest": format!("sha256:{n:064x}"), "urls": ["https://example.com/"] });
        for (layers, parts) in [(0, vec![]), (1023, vec![]), (1024, vec![1]), (3000, vec![1024, 953])] {
            let layers: Vec<_> = (0..layers).map(layer).collect();
            let document =
                json!({ "schemaVersion": 2, "config": descriptor(), "layers": layers }).to_string();
            let read = super::read(None, document.as_bytes()).unwrap();
            assert_eq!(read.parts.iter().map(Vec::len).collect::<Vec<_>>(), parts);
            assert_eq!(read.facts.parts as usize, parts.len());
            let refs = read.facts.refs.iter().chain(read.parts.iter().flatten());
            assert_eq!(refs.count(), layers.len() + 1);
        }
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
    fn references_leave_out_the_subject_and_need_no_foreign_layers() {
        let other = format!("sha256:{}", "1".repeat(64));
        let third = format!("sha256:{}", "2".repeat(64));
        let foreign =
            |digest: &str| json!({ "digest": digest, "size": 1, "urls": ["https://example.com/layer"] });
        let manifest = json!({
            "schemaVersion": 2, "config": descriptor(), "subject": { "digest": other, "size": 1 },
            "layers": [foreign(DIGEST), descriptor(), foreign(&third), foreign(&third)],
        });
        let facts = read(None, manifest).unwrap();
        let refs = [(DIGEST, RefKind::Blob), (&third, RefKind::Optional)];
        let refs = refs.map(|(digest, kind)| Ref { digest: digest.parse().unwrap(), kind });
        assert_eq!(facts.refs, refs);
        assert_eq!(facts.subject, Some(other.parse().unwrap()));
        assert_eq!(facts.annotations, Some(vec![]));
        assert_eq!(facts.artifact_type.as_deref(), Some("application/vnd.oci.image.config.v1+json"));
        // A layer that is needed once is needed, whatever is said of it later or before.
        for layers in
            [json!([foreign(&third), { "digest": third }]), json!([{ "digest": third }, foreign(&third)])]
        {
            let manifest = json!({ "schemaVersion": 2, "config": descriptor(), "layers": layers });
            assert!(
                read(None, manifest).unwrap().refs.iter().all(|reference| reference.kind == RefKind::Blob)
            );
        }
    }

    /// Everything that may be absent, set to null one by one: the facts are those of a document without it.
    #[test]
    fn null_is_absent() {
        let layer = format!("sha256:{}", "1".repeat(64));
        let subject = format!("sha256:{}", "2".repeat(64));
        let whole = |digest: &str| {
            json!({ "mediaType": "text/plain", "digest": digest, "size": 1, "urls": [],
                    "annotations": {}, "data": "", "platform": {}, "artifactType": "a/b" })
        };
        let image = json!({
            "schemaVersion": 2, "mediaType": MediaType::OCI_MANIFEST, "artifactType": "a/b",
            "config": whole(DIGEST), "layers": [whole(&layer)], "manifests": null, "fsLayers": null,
            "subject": whole(&subject), "annotations": { "key": "value" },
        });
        let index = json!({
            "schemaVersion": 2, "mediaType": MediaType::OCI_INDEX, "artifactType": "a/b", "config": null,
            "layers": null, "manifests": [whole(DIGEST)], "subject": whole(&subject), "annotations": {},
        });
        let parts: [&[&str]; 2] =
            [&["", "/config", "/layers/0", "/subject"], &["", "/manifests/0", "/subject"]];
        let needed = ["schemaVersion", "config", "digest"];
        let mut tried = 0;
        for (document, parts) in [image, index].iter().zip(parts) {
            let media_type = document["mediaType"].as_str();
            for part in parts {
                let fields = document.pointer(part).unwrap().as_object().unwrap().clone();
                for field in fields.keys() {
                    let (mut null, mut without) = (document.clone(), document.clone());
                    null.pointer_mut(part).unwrap()[field] = json!(null);
                    without.pointer_mut(part).unwrap().as_object_mut().unwrap().remove(field);
                    let what = format!("{part}/{field}");
                    if what == "/manifests" && !fields[field].is_null() {
                        assert_eq!(read(media_type, null).unwrap().refs, [], "an empty list");
                        assert!(read(media_type, without).is_err());
                        continue;
                    }
                    let null = read(media_type, null);
                    let without = read(media_type, without);
                    if needed.contains(&field.as_str()) && !fields[field].is_null() {
                        assert!(null.is_err() && without.is_err(), "{what}");
                        continue;
                    }
                    let null = null.unwrap_or_else(|error| panic!("{what}: {error}"));
                    // The bytes differ, and the facts do only in their length.
                    assert_eq!(null, ManifestFacts { size: null.size, ..without.unwrap() }, "{what}");
                    tried += 1;
                }
            }
        }
        assert!(tried > 40, "{tried}");
    }

    #[test]
    fn null_within_lists_and_maps_is_an_empty_value() {
        let image = |field: &str, value: serde_json::Value| {
            let mut image = json!({
                "schemaVersion": 2, "config": descriptor(), "layers": [descriptor()],
                "subject": descriptor(), "annotations": {},
            });
            *image.pointer_mut(field).unwrap() = value;
            image
        };
        let annotated = image("/annotations", json!({ "a": null, "b": "c" }));
        let expected = vec![("a".to_owned(), String::new()), ("b".to_owned(), "c".to_owned())];
        assert_eq!(read(None, annotated.clone()).unwrap().annotations, Some(expected.clone()));
        assert_eq!(annotations_of(annotated.to_string().as_bytes()), expected);
        // No address is none to fetch the layer from.
        for urls in [json!([null]), json!([""]), json!([])] {
            let layer = json!({ "digest": DIGEST, "urls": urls });
            assert_eq!(read(None, image("/layers", json!([layer]))).unwrap().refs[0].kind, RefKind::Blob);
        }
        refused(None, image("/layers", json!([null])));
        refused(None, json!({ "schemaVersion": 2, "manifests": [null] }));
    }

    #[test]
    fn an_empty_list_of_manifests_may_be_null_and_must_be_there() {
        let empty = json!({ "schemaVersion": 2, "manifests": null });
        for media_type in [MediaType::OCI_INDEX, MediaType::DOCKER_LIST] {
            let facts = read(Some(media_type), empty.clone()).unwrap();
            assert_eq!((facts.media_type.as_str(), facts.refs), (media_type, vec![]));
            refused(Some(media_type), json!({ "schemaVersion": 2 }));
        }
        assert_eq!(read(None, empty.clone()).unwrap().media_type.as_str(), MediaType::OCI_INDEX);
        refused(Some(MediaType::OCI_MANIFEST), empty);
        refused(Some(MediaType::OCI_MANIFEST), json!({ "schemaVersion": 2, "layers": null }));
    }
}
