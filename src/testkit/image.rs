//! Real images made on the spot: one layer per Debian package, written as an OCI image layout that
//! every client can copy from.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use clawhub_types::Digest;
use serde_json::{Value, json};

use crate::content::sha256;
use crate::manifest::{self, Descriptor};

/// A layer: what the manifest and what the config say of it.
#[derive(Clone, Debug)]
pub struct Layer {
    /// The compressed blob.
    pub blob: Descriptor,
    /// The digest of the tar inside.
    pub diff_id: Digest,
}

/// An OCI image layout being written.
#[derive(Debug)]
pub struct Layout {
    dir: PathBuf,
    entries: Vec<Value>,
}

impl Layout {
    /// An empty layout in `dir`, which is created.
    ///
    /// # Errors
    /// If the folder cannot be written.
    pub fn create(dir: &Path) -> Result<Self> {
        fs::create_dir_all(dir.join("blobs/sha256"))?;
        fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#)?;
        Ok(Layout { dir: dir.to_owned(), entries: Vec::new() })
    }

    /// Stores a blob.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn blob(&self, media_type: &str, bytes: &[u8]) -> Result<Descriptor> {
        let digest = sha256(bytes);
        fs::write(self.dir.join("blobs/sha256").join(digest.hex()), bytes)?;
        Ok(Descriptor::new(media_type, &digest, bytes.len()))
    }

    /// Turns the files of a Debian package into a gzipped layer.
    ///
    /// # Errors
    /// If `dpkg-deb` or `gzip` fails.
    pub fn layer_of(&self, package: &Path) -> Result<Layer> {
        let tar =
            Command::new("dpkg-deb").arg("--fsys-tarfile").arg(package).stderr(Stdio::inherit()).output()?;
        ensure!(tar.status.success(), "dpkg-deb --fsys-tarfile {}: {}", package.display(), tar.status);
        let diff_id = sha256(&tar.stdout);
        let blob = self.blob(manifest::OCI_LAYER, &gzip(&tar.stdout)?)?;
        Ok(Layer { blob, diff_id })
    }

    /// Stores an image of `layers` for `architecture`.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn image(&self, architecture: &str, layers: &[Layer]) -> Result<Descriptor> {
        let diff_ids: Vec<String> = layers.iter().map(|layer| layer.diff_id.to_string()).collect();
        let history: Vec<Value> =
            layers.iter().map(|_| json!({"created": CREATED, "created_by": "dpkg-deb"})).collect();
        let config = json!({
            "created": CREATED,
            "architecture": architecture,
            "os": "linux",
            "config": {"Cmd": ["/bin/busybox", "sh"], "Env": ["PATH=/usr/bin:/bin"]},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
            "history": history,
        });
        let config = self.blob(manifest::OCI_CONFIG, config.to_string().as_bytes())?;
        let mut image = manifest::Image::new(&config.digest, config.size);
        for layer in layers {
            image = image.descriptor(&layer.blob);
        }
        self.blob(manifest::OCI_MANIFEST, &image.bytes())
    }

    /// Gives a manifest or index a name in this layout.
    pub fn tag(&mut self, name: &str, descriptor: &Descriptor) {
        let mut entry = descriptor.json();
        entry["annotations"] = json!({"org.opencontainers.image.ref.name": name});
        self.entries.push(entry);
    }

    /// Writes the list of names.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn finish(self) -> Result<()> {
        let index = json!({"schemaVersion": 2, "mediaType": manifest::OCI_INDEX, "manifests": self.entries});
        Ok(fs::write(self.dir.join("index.json"), index.to_string())?)
    }
}

/// Images are the same whenever they are built.
const CREATED: &str = "2026-01-01T00:00:00Z";

/// Builds a layout in `dir` with the image `single` and the index `multi` (amd64 and arm64) of these
/// Debian packages, one layer each; returns the two digests.
///
/// # Errors
/// If a package cannot be read or the folder cannot be written.
pub fn from_packages(dir: &Path, packages: &[PathBuf]) -> Result<(Digest, Digest)> {
    ensure!(!packages.is_empty(), "an image needs at least one package");
    let mut layout = Layout::create(dir)?;
    let layers = packages.iter().map(|package| layout.layer_of(package)).collect::<Result<Vec<_>>>()?;
    let amd64 = layout.image("amd64", &layers)?;
    let arm64 = layout.image("arm64", &layers[..layers.len().max(2) - 1])?;
    let children = [(amd64.clone(), Some("linux/amd64")), (arm64, Some("linux/arm64"))];
    let index = layout.blob(manifest::OCI_INDEX, &manifest::index(&children))?;
    layout.tag("single", &amd64);
    layout.tag("multi", &index);
    layout.finish()?;
    Ok((amd64.digest, index.digest))
}

/// Adds to the one image of a layout what makes its zstd layers readable in parts: the annotations with
/// place and checksum of each layer's table of contents, read from the layer's own footer. (Debian 12's
/// skopeo and podman write such layers but leave the annotations out.) Returns the new digest.
///
/// # Errors
/// If a layer is not of this form or the layout cannot be rewritten.
pub fn annotate_chunked(dir: &Path) -> Result<Digest> {
    let blobs = dir.join("blobs/sha256");
    let mut index: Value = serde_json::from_slice(&fs::read(dir.join("index.json"))?)?;
    let entry = &mut index["manifests"][0];
    let named = |value: &Value| -> Result<PathBuf> {
        let digest: Digest = value["digest"].as_str().context("no digest")?.parse()?;
        Ok(blobs.join(digest.hex()))
    };
    let mut image: Value = serde_json::from_slice(&fs::read(named(entry)?)?)?;
    for layer in image["layers"].as_array_mut().context("no layers")? {
        let (place, checksum) = table_of_contents(&fs::read(named(layer)?)?)?;
        layer["annotations"]["io.containers.zstd-chunked.manifest-position"] = json!(place);
        layer["annotations"]["io.containers.zstd-chunked.manifest-checksum"] = json!(checksum.to_string());
    }
    let bytes = image.to_string().into_bytes();
    let digest = sha256(&bytes);
    fs::write(blobs.join(digest.hex()), &bytes)?;
    entry["digest"] = json!(digest.to_string());
    entry["size"] = json!(bytes.len());
    fs::write(dir.join("index.json"), index.to_string())?;
    Ok(digest)
}

/// Where a zstd:chunked layer's table of contents lies (`offset:length:uncompressed length:type`) and its
/// checksum, from the 40 bytes at the layer's end: four little-endian numbers and a magic word.
fn table_of_contents(layer: &[u8]) -> Result<(String, Digest)> {
    let (_, footer) = layer.split_last_chunk::<40>().context("too short for a footer")?;
    let (numbers, magic) = footer.as_chunks::<8>().0.split_at(4);
    ensure!(magic == [*b"GnUlInUx"], "not a zstd:chunked layer");
    let numbers: Vec<u64> = numbers.iter().map(|bytes| u64::from_le_bytes(*bytes)).collect();
    let [offset, length] = [numbers[0], numbers[1]].map(|n| usize::try_from(n).unwrap_or(usize::MAX));
    let table = layer.get(offset..offset.saturating_add(length)).context("the footer points outside")?;
    let place = numbers.iter().map(u64::to_string).collect::<Vec<_>>().join(":");
    Ok((place, sha256(table)))
}

/// Compresses without a name or time in the header, so that the same tar gives the same layer.
fn gzip(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut command = Command::new("gzip");
    let mut child = command.args(["-n", "-6"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let mut stdin = child.stdin.take().context("gzip takes input")?;
    let output = std::thread::scope(|scope| {
        // Written from aside: gzip stops reading while nobody reads what it writes.
        let writer = scope.spawn(move || stdin.write_all(bytes));
        let output = child.wait_with_output();
        writer.join().expect("writing does not panic")?;
        output
    })?;
    ensure!(output.status.success(), "gzip: {}", output.status);
    Ok(output.stdout)
}
