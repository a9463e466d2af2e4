//! Manifests and indexes, built field by field so that tests can also build wrong ones.

use std::fmt::Display;

use bytes::Bytes;
use clawhub_types::{Digest, MediaType};
use serde_json::{Map, Value, json};

use crate::content::sha256;

/// OCI image manifest.
pub const OCI_MANIFEST: &str = MediaType::OCI_MANIFEST;
/// OCI image index.
pub const OCI_INDEX: &str = MediaType::OCI_INDEX;
/// Docker image manifest, schema 2.
pub const DOCKER_MANIFEST: &str = MediaType::DOCKER_MANIFEST;
/// Docker manifest list.
pub const DOCKER_LIST: &str = MediaType::DOCKER_LIST;
/// An OCI image config.
pub const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
/// A gzipped OCI layer.
pub const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
/// The empty JSON object, as artifacts use it for a config.
pub const EMPTY: &str = "application/vnd.oci.empty.v1+json";
/// The bytes of [`EMPTY`].
pub const EMPTY_BYTES: Bytes = Bytes::from_static(b"{}");
/// A config that every client accepts.
pub const CONFIG_BYTES: Bytes =
    Bytes::from_static(br#"{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}"#);

/// What names a piece of content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Descriptor {
    /// Its type.
    pub media_type: String,
    /// Its digest.
    pub digest: Digest,
    /// Its length in bytes.
    pub size: usize,
}

impl Descriptor {
    /// A descriptor.
    pub fn new(media_type: &str, digest: &Digest, size: usize) -> Self {
        Descriptor { media_type: media_type.to_owned(), digest: digest.clone(), size }
    }

    /// Its JSON form.
    pub fn json(&self) -> Value {
        json!({"mediaType": self.media_type, "digest": self.digest.to_string(), "size": self.size})
    }
}

/// An image manifest (or artifact) under construction.
#[derive(Clone, Debug)]
pub struct Image {
    fields: Map<String, Value>,
}

impl Image {
    /// An image with this config and no layers.
    pub fn new(config: &Digest, size: usize) -> Self {
        Self::with(&Descriptor::new(OCI_CONFIG, config, size))
    }

    /// An artifact: the empty config (which must have been pushed) and a type.
    pub fn artifact(artifact_type: &str) -> Self {
        let empty = sha256(&EMPTY_BYTES);
        let image = Self::with(&Descriptor::new(EMPTY, &empty, EMPTY_BYTES.len()));
        image.field("artifactType", json!(artifact_type))
    }

    fn with(config: &Descriptor) -> Self {
        let mut fields = Map::new();
        fields.insert("schemaVersion".into(), json!(2));
        fields.insert("mediaType".into(), json!(OCI_MANIFEST));
        fields.insert("config".into(), config.json());
        fields.insert("layers".into(), json!([]));
        Image { fields }
    }

    /// Adds a gzipped layer.
    pub fn layer(self, digest: &Digest, size: usize) -> Self {
        self.descriptor(&Descriptor::new(OCI_LAYER, digest, size))
    }

    /// Adds a layer of any type.
    pub fn descriptor(mut self, layer: &Descriptor) -> Self {
        if let Some(layers) = self.fields.get_mut("layers").and_then(Value::as_array_mut) {
            layers.push(layer.json());
        }
        self
    }

    /// Says what it refers to.
    pub fn subject(self, subject: &Descriptor) -> Self {
        let value = subject.json();
        self.field("subject", value)
    }

    /// Sets an annotation.
    pub fn annotation(mut self, key: &str, value: &str) -> Self {
        let annotations = self.fields.entry("annotations").or_insert_with(|| json!({}));
        annotations[key] = json!(value);
        self
    }

    /// Sets any field; `null` removes it.
    pub fn field(mut self, key: &str, value: Value) -> Self {
        if value.is_null() {
            self.fields.remove(key);
        } else {
            self.fields.insert(key.into(), value);
        }
        self
    }

    /// The bytes to push.
    pub fn bytes(&self) -> Vec<u8> {
        Value::Object(self.fields.clone()).to_string().into_bytes()
    }
}

/// An image without layers, another one for every label. [`CONFIG_BYTES`] must have been pushed.
pub fn version(label: impl Display) -> Vec<u8> {
    let image = Image::new(&sha256(&CONFIG_BYTES), CONFIG_BYTES.len());
    image.annotation("version", &label.to_string()).bytes()
}

/// An index of `children`, each with a platform if it has one (`os/architecture`).
pub fn index(children: &[(Descriptor, Option<&str>)]) -> Vec<u8> {
    let entry = |(child, platform): &(Descriptor, Option<&str>)| {
        let mut value = child.json();
        if let Some((os, architecture)) = platform.and_then(|p| p.split_once('/')) {
            value["platform"] = json!({"os": os, "architecture": architecture});
        }
        value
    };
    let manifests: Vec<Value> = children.iter().map(entry).collect();
    json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": manifests}).to_string().into_bytes()
}
