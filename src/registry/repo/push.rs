//! Pushing blobs: each call is one step of an upload, and `upload` knows which node does it. Mounts need no bytes,
//! only a right to both repositories.

use clawhub_auth::{Permit, Pull, Push};
use clawhub_types::{Algorithm, Digest, UploadId};

use super::Repo;
use crate::upload::{UploadOp, confused};
use crate::{BodyStream, Chunk, Error, UploadView};

impl Repo<Push> {
    /// Opens an upload session, on this node if it stores blobs of the project, else on one that does.
    ///
    /// # Errors
    /// Unavailable while the project's durability policy cannot be met with the nodes that are alive;
    /// [`Kind::NoSpace`](crate::Kind::NoSpace).
    pub async fn begin_upload(&self, hint: Option<Algorithm>) -> Result<UploadView, Error> {
        let sha512 = hint == Some(Algorithm::Sha512);
        position(self.step(UploadOp::Begin { sha512 }).await?)
    }

    /// Appends a chunk to an upload.
    ///
    /// # Errors
    /// [`Kind::Range`](crate::Kind::Range) for a chunk out of order; [`Invalid::Length`](crate::Invalid::Length)
    /// or [`Invalid::Body`](crate::Invalid::Body); [`What::Upload`](crate::What::Upload) is unknown;
    /// unavailable; no space.
    pub async fn append(&self, id: UploadId, chunk: Chunk) -> Result<UploadView, Error> {
        position(self.step(UploadOp::Append(id, chunk)).await?)
    }

    /// Ends an upload: a last chunk, possibly empty, and the digest that all of it must have.
    ///
    /// # Errors
    /// As [`append`](Self::append), and [`Invalid::Digest`](crate::Invalid::Digest); the session then goes on.
    pub async fn finish(&self, id: UploadId, digest: &Digest, chunk: Chunk) -> Result<Digest, Error> {
        ended(self.step(UploadOp::Finish(id, digest.clone(), chunk)).await?)?;
        Ok(digest.clone())
    }

    /// A whole blob in one request.
    ///
    /// # Errors
    /// As [`finish`](Self::finish); nothing is left behind.
    pub async fn push_blob(
        &self,
        digest: &Digest,
        length: Option<u64>,
        body: BodyStream,
    ) -> Result<Digest, Error> {
        let chunk = Chunk { range: None, length, body };
        self.use_cases.uploads.store(&self.permit, digest, chunk).await?;
        Ok(digest.clone())
    }

    /// Where an upload stands.
    ///
    /// # Errors
    /// [`What::Upload`](crate::What::Upload) is unknown; unavailable if its owner cannot be reached.
    pub async fn status(&self, id: UploadId) -> Result<UploadView, Error> {
        position(self.step(UploadOp::Status(id)).await?)
    }

    /// Forgets an upload.
    ///
    /// # Errors
    /// [`What::Upload`](crate::What::Upload) is unknown; unavailable if its owner cannot be reached.
    pub async fn cancel(&self, id: UploadId) -> Result<(), Error> {
        ended(self.step(UploadOp::Cancel(id)).await?)
    }

    /// Links a blob of another repository; `false` if there is none to link and the client must upload.
    ///
    /// # Errors
    /// Unavailable, if copies are missing and cannot be made, too.
    pub async fn mount(&self, from: &Permit<Pull>, digest: &Digest) -> Result<bool, Error> {
        self.use_cases.copies.mount(&self.permit, from, digest).await
    }

    async fn step(&self, op: UploadOp) -> Result<Option<UploadView>, Error> {
        self.use_cases.uploads.step(&self.permit, op).await
    }
}

fn position(view: Option<UploadView>) -> Result<UploadView, Error> {
    view.ok_or_else(confused)
}

fn ended(view: Option<UploadView>) -> Result<(), Error> {
    view.map_or(Ok(()), |_| Err(confused()))
}
