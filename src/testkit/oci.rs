//! An OCI client for tests: thin enough that every header and status can be looked at, with the few
//! sequences that every test needs.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use clawhub_types::Digest;
use futures::StreamExt as _;
use reqwest::header::{CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, LOCATION};
use reqwest::{Method, RequestBuilder, Response, StatusCode};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::content::{self, Content};
use crate::manifest::{self, Descriptor};

/// No single answer in a test takes longer, large transfers aside.
const LIMIT: Duration = Duration::from_secs(60);

/// One node's HTTP side.
#[derive(Clone, Debug)]
pub struct Registry {
    address: String,
    http: reqwest::Client,
}

impl Registry {
    /// A client of `host:port` that follows no redirects and retries nothing.
    pub fn new(address: &str) -> Self {
        let http = reqwest::Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .connect_timeout(Duration::from_secs(5))
            .build()
            .expect("a client without TLS can always be built");
        let address = address.trim_start_matches("http://").trim_end_matches('/').to_owned();
        Registry { address, http }
    }

    /// `host:port`.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// A request for a path (from `/`), or for a Location as an answer gave it.
    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let path = path.strip_prefix(&format!("http://{}", self.address)).unwrap_or(path);
        self.http.request(method, format!("http://{}{path}", self.address)).timeout(LIMIT)
    }

    /// GET.
    ///
    /// # Errors
    /// If no answer comes.
    pub async fn get(&self, path: &str) -> Result<Response> {
        Ok(self.request(Method::GET, path).send().await?)
    }

    /// HEAD.
    ///
    /// # Errors
    /// If no answer comes.
    pub async fn head(&self, path: &str) -> Result<Response> {
        Ok(self.request(Method::HEAD, path).send().await?)
    }

    /// DELETE.
    ///
    /// # Errors
    /// If no answer comes.
    pub async fn delete(&self, path: &str) -> Result<Response> {
        Ok(self.request(Method::DELETE, path).send().await?)
    }

    /// Whether `/readyz` says yes.
    pub async fn ready(&self) -> bool {
        let answer = self.request(Method::GET, "/readyz").timeout(Duration::from_secs(5)).send().await;
        answer.is_ok_and(|answer| answer.status().is_success())
    }

    /// A repository on this node.
    pub fn repo(&self, name: &str) -> Repo {
        Repo { registry: self.clone(), name: name.to_owned() }
    }
}

/// One repository, seen through one node.
#[derive(Clone, Debug)]
pub struct Repo {
    /// The node.
    pub registry: Registry,
    /// The name.
    pub name: String,
}

/// An open upload: its Location is good on every node.
#[derive(Clone, Debug)]
pub struct Upload {
    /// As the last answer gave it.
    pub location: String,
}

impl Upload {
    /// The upload that an answer tells of.
    ///
    /// # Errors
    /// If it has no Location.
    pub fn of(answer: &Response) -> Result<Self> {
        Ok(Upload { location: header(answer, LOCATION.as_str()).context("no Location")? })
    }

    /// The Location with `digest` added.
    pub fn closing(&self, digest: &Digest) -> String {
        let separator = if self.location.contains('?') { '&' } else { '?' };
        format!("{}{separator}digest={digest}", self.location)
    }

    /// PATCHes one chunk through `node`; `start` adds a Content-Range.
    ///
    /// # Errors
    /// If no answer comes.
    pub async fn patch(&self, node: &Registry, start: Option<u64>, bytes: Bytes) -> Result<Response> {
        let mut request = node.request(Method::PATCH, &self.location);
        if let Some(start) = start {
            request = request.header(CONTENT_RANGE, chunk_range(start, bytes.len()));
        }
        Ok(request.body(bytes).send().await?)
    }

    /// Closes through `node`, with a last chunk if there is one.
    ///
    /// # Errors
    /// If no answer comes.
    pub async fn put(&self, node: &Registry, digest: &Digest, bytes: Bytes) -> Result<Response> {
        let request = node.request(Method::PUT, &self.closing(digest));
        Ok(request.header(CONTENT_TYPE, OCTETS).body(bytes).send().await?)
    }
}

const OCTETS: &str = "application/octet-stream";

/// `start-end`, both included, as a PATCH tells it.
pub fn chunk_range(start: u64, len: usize) -> String {
    format!("{start}-{}", (start + len as u64).saturating_sub(1))
}

impl Repo {
    /// The same repository through another node.
    pub fn on(&self, registry: &Registry) -> Repo {
        registry.repo(&self.name)
    }

    /// A path below this repository.
    pub fn path(&self, rest: &str) -> String {
        format!("/v2/{}/{rest}", self.name)
    }

    /// Opens an upload.
    ///
    /// # Errors
    /// If the answer is not 202 with a Location.
    pub async fn open(&self) -> Result<Upload> {
        let answer = self.registry.request(Method::POST, &self.path("blobs/uploads/")).send().await?;
        let answer = expect(answer, StatusCode::ACCEPTED).await?;
        Upload::of(&answer)
    }

    /// Pushes a blob as most clients do: POST, then one PUT with everything.
    ///
    /// # Errors
    /// If an answer is not the expected one.
    pub async fn push_blob(&self, bytes: impl Into<Bytes>) -> Result<Digest> {
        let bytes = bytes.into();
        let digest = content::sha256(&bytes);
        let upload = self.open().await?;
        expect(upload.put(&self.registry, &digest, bytes).await?, StatusCode::CREATED).await?;
        Ok(digest)
    }

    /// Pushes a blob that is too large to hold: POST, one streamed PATCH, an empty PUT.
    ///
    /// # Errors
    /// If an answer is not the expected one, or it takes longer than `limit`.
    pub async fn push_large(&self, content: Content, limit: Duration) -> Result<Digest> {
        let digest = content.digest();
        let upload = self.open().await?;
        let patch = self.registry.request(Method::PATCH, &upload.location).timeout(limit);
        let patch = patch.header(CONTENT_LENGTH, content.len);
        let answer = patch.body(reqwest::Body::wrap_stream(content.stream())).send().await?;
        let upload = Upload::of(&expect(answer, StatusCode::ACCEPTED).await?)?;
        let put = self.registry.request(Method::PUT, &upload.closing(&digest)).timeout(limit);
        expect(put.header(CONTENT_LENGTH, 0).send().await?, StatusCode::CREATED).await?;
        Ok(digest)
    }

    /// GETs a blob and hashes it on the way: its length and how long the first byte took.
    ///
    /// # Errors
    /// If the answer is not 200, breaks off, or has another digest.
    pub async fn pull_large(&self, digest: &Digest, limit: Duration) -> Result<Pulled> {
        let start = std::time::Instant::now();
        let request = self.registry.request(Method::GET, &self.path(&format!("blobs/{digest}")));
        let answer = expect(request.timeout(limit).send().await?, StatusCode::OK).await?;
        let mut stream = answer.bytes_stream();
        let (mut hash, mut len, mut first_byte) = (Sha256::new(), 0, None);
        while let Some(piece) = stream.next().await {
            let piece = piece?;
            if !piece.is_empty() {
                first_byte.get_or_insert_with(|| start.elapsed());
            }
            len += piece.len() as u64;
            hash.update(&piece);
        }
        let got = Digest::Sha256(hash.finalize().into());
        ensure!(got == *digest, "asked for {digest}, got {len} bytes of {got}");
        let total = start.elapsed();
        Ok(Pulled { len, first_byte: first_byte.unwrap_or(total), total })
    }

    /// GETs a blob and checks its digest.
    ///
    /// # Errors
    /// If the answer is not 200 with those bytes.
    pub async fn pull_blob(&self, digest: &Digest) -> Result<Bytes> {
        let answer = self.registry.get(&self.path(&format!("blobs/{digest}"))).await?;
        checked(answer, digest).await
    }

    /// PUTs a manifest under a tag or digest.
    ///
    /// # Errors
    /// If no answer comes.
    pub async fn put_manifest(&self, reference: &str, media_type: &str, bytes: &[u8]) -> Result<Response> {
        let request = self.registry.request(Method::PUT, &self.path(&format!("manifests/{reference}")));
        Ok(request.header(CONTENT_TYPE, media_type).body(bytes.to_vec()).send().await?)
    }

    /// Pushes a manifest and returns its descriptor.
    ///
    /// # Errors
    /// If the answer is not 201 with the digest.
    pub async fn push_manifest(&self, reference: &str, media_type: &str, bytes: &[u8]) -> Result<Descriptor> {
        let answer = self.put_manifest(reference, media_type, bytes).await?;
        let answer = expect(answer, StatusCode::CREATED).await?;
        let digest = content::sha256(bytes);
        let told = header(&answer, "docker-content-digest");
        ensure!(told.as_deref() == Some(&digest.to_string()), "pushed {digest}, told {told:?}");
        Ok(Descriptor::new(media_type, &digest, bytes.len()))
    }

    /// Pushes an image of a config and `layers`, tagged.
    ///
    /// # Errors
    /// If an answer is not the expected one.
    pub async fn push_image(&self, tag: &str, layers: &[Bytes]) -> Result<Descriptor> {
        let config = self.push_blob(manifest::CONFIG_BYTES).await?;
        let mut image = manifest::Image::new(&config, manifest::CONFIG_BYTES.len());
        for layer in layers {
            image = image.layer(&self.push_blob(layer.clone()).await?, layer.len());
        }
        self.push_manifest(tag, manifest::OCI_MANIFEST, &image.bytes()).await
    }

    /// GETs a manifest by tag or digest and checks that body, headers and digest agree.
    ///
    /// # Errors
    /// If the answer is not 200, or they do not.
    pub async fn pull_manifest(&self, reference: &str) -> Result<(Digest, Bytes)> {
        let answer = self.registry.get(&self.path(&format!("manifests/{reference}"))).await?;
        let answer = expect(answer, StatusCode::OK).await?;
        let told = header(&answer, "docker-content-digest").context("no Docker-Content-Digest")?;
        let digest: Digest = told.parse()?;
        let bytes = checked(answer, &digest).await?;
        Ok((digest, bytes))
    }

    /// Pulls a whole image: manifest, config, every layer, every digest checked.
    ///
    /// # Errors
    /// If anything is missing or differs.
    pub async fn pull_image(&self, reference: &str) -> Result<Digest> {
        let (digest, bytes) = self.pull_manifest(reference).await?;
        let value: Value = serde_json::from_slice(&bytes)?;
        let layers = value["layers"].as_array().cloned().unwrap_or_default();
        for descriptor in layers.iter().chain([&value["config"]]) {
            let blob: Digest = descriptor["digest"].as_str().context("no digest")?.parse()?;
            self.pull_blob(&blob).await.with_context(|| format!("blob {blob} of {reference}"))?;
        }
        Ok(digest)
    }

    /// HEADs a manifest: its digest, or `None` for 404.
    ///
    /// # Errors
    /// For any other answer.
    pub async fn resolve(&self, reference: &str) -> Result<Option<Digest>> {
        let answer = self.registry.head(&self.path(&format!("manifests/{reference}"))).await?;
        if answer.status() == StatusCode::NOT_FOUND {
            return Ok(None);
        }
        let answer = expect(answer, StatusCode::OK).await?;
        let told = header(&answer, "docker-content-digest").context("no Docker-Content-Digest")?;
        Ok(Some(told.parse()?))
    }

    /// The tags, first page.
    ///
    /// # Errors
    /// If the answer is not 200 with a list.
    pub async fn tags(&self) -> Result<Vec<String>> {
        let answer = self.registry.get(&self.path("tags/list")).await?;
        let value: Value = expect(answer, StatusCode::OK).await?.json().await?;
        serde_json::from_value(value["tags"].clone()).context("tags")
    }

    /// The referrers of a digest, as the index that the node answers.
    ///
    /// # Errors
    /// If the answer is not 200 with an index.
    pub async fn referrers(&self, digest: &Digest, query: &str) -> Result<Value> {
        let answer = self.registry.get(&self.path(&format!("referrers/{digest}{query}"))).await?;
        let answer = expect(answer, StatusCode::OK).await?;
        let media_type = header(&answer, CONTENT_TYPE.as_str());
        ensure!(media_type.as_deref() == Some(manifest::OCI_INDEX), "Content-Type {media_type:?}");
        Ok(answer.json().await?)
    }
}

/// How a large pull went.
#[derive(Clone, Copy, Debug)]
pub struct Pulled {
    /// Bytes.
    pub len: u64,
    /// Until the first byte of the body.
    pub first_byte: Duration,
    /// Until the last.
    pub total: Duration,
}

/// A header as text.
pub fn header(answer: &Response, name: &str) -> Option<String> {
    answer.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned)
}

/// Checks the status.
///
/// # Errors
/// If it is another one, with the body.
pub async fn expect(answer: Response, status: StatusCode) -> Result<Response> {
    if answer.status() == status {
        return Ok(answer);
    }
    let (got, url) = (answer.status(), answer.url().clone());
    let body = answer.text().await.unwrap_or_default();
    anyhow::bail!("{url}: expected {status}, got {got}: {}", body.chars().take(600).collect::<String>())
}

/// Checks status and form of an error answer: JSON, every code a registered one; returns the codes.
///
/// # Errors
/// If anything of this does not hold.
pub async fn expect_error(answer: Response, status: StatusCode) -> Result<Vec<String>> {
    let media_type = header(&answer, CONTENT_TYPE.as_str()).unwrap_or_default();
    let answer = expect(answer, status).await?;
    ensure!(media_type.starts_with("application/json"), "an error of type {media_type:?}");
    let value: Value = answer.json().await?;
    let errors = value["errors"].as_array().filter(|errors| !errors.is_empty());
    let errors = errors.with_context(|| format!("no errors in {value}"))?;
    errors.iter().map(|e| Ok(e["code"].as_str().context("no code")?.to_owned())).collect()
}

async fn checked(answer: Response, digest: &Digest) -> Result<Bytes> {
    let answer = expect(answer, StatusCode::OK).await?;
    let length = answer.content_length();
    let bytes = answer.bytes().await?;
    ensure!(length == Some(bytes.len() as u64), "Content-Length {length:?} for {} bytes", bytes.len());
    let got = match digest {
        Digest::Sha256(_) => content::sha256(&bytes),
        Digest::Sha512(_) => content::sha512(&bytes),
    };
    ensure!(got == *digest, "asked for {digest}, got {got}");
    Ok(bytes)
}
