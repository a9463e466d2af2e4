//! Pushing blobs: each step of an upload is done here if this node owns the session, else sent to the node that
//! does. Mounts need no bytes, only a right to both repositories.

use clawhub_auth::{Permit, Pull, Push};
use clawhub_types::{Algorithm, Digest, UploadId};

use super::Repo;
use crate::upload::{Op, OwnUploads, Uploads, forward};
use crate::{BodyStream, Chunk, Error, UploadView};

impl Repo<Push> {
    /// Opens an upload session, on this node if it stores blobs of the project, else on one that does.
    ///
    /// # Errors
    /// Unavailable while the project's durability policy cannot be met with the nodes that are alive;
    /// [`Kind::NoSpace`](crate::Kind::NoSpace).
    pub async fn begin_upload(&self, hint: Option<Algorithm>) -> Result<UploadView, Error> {
        let owner = self.uploads().owner_of_a_new_one(self.name())?;
        if owner == self.parts.core.me() {
            return self.own().begin(hint).await;
        }
        let op = Op::Begin { sha512: hint == Some(Algorithm::Sha512) };
        position(forward(&self.parts.core, owner, &self.permit, op).await?)
    }

    /// Appends a chunk to an upload.
    ///
    /// # Errors
    /// [`Kind::Range`](crate::Kind::Range) for a chunk out of order; [`Invalid::Length`](crate::Invalid::Length)
    /// or [`Invalid::Body`](crate::Invalid::Body); [`What::Upload`](crate::What::Upload) is unknown;
    /// unavailable; no space.
    pub async fn append(&self, id: UploadId, chunk: Chunk) -> Result<UploadView, Error> {
        if self.owns(id) {
            return self.own().append(id, chunk).await;
        }
        position(self.forward(id, Op::Append(id, chunk)).await?)
    }

    /// Ends an upload: a last chunk, possibly empty, and the digest that all of it must have.
    ///
    /// # Errors
    /// As [`append`](Self::append), and [`Invalid::Digest`](crate::Invalid::Digest); the session then goes on.
    pub async fn finish(&self, id: UploadId, digest: &Digest, chunk: Chunk) -> Result<Digest, Error> {
        if self.owns(id) {
            self.own().finish(id, digest, chunk).await?;
        } else {
            ended(self.forward(id, Op::Finish(id, digest.clone(), chunk)).await?)?;
        }
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
        let upload = self.begin_upload(Some(digest.algorithm())).await?;
        let pushed = self.finish(upload.id, digest, Chunk { range: None, length, body }).await;
        if pushed.is_err() {
            // The client never learns the session's address; without this it would stay until it expires.
            let _ = self.cancel(upload.id).await;
        }
        pushed
    }

    /// Where an upload stands.
    ///
    /// # Errors
    /// [`What::Upload`](crate::What::Upload) is unknown; unavailable if its owner cannot be reached.
    pub async fn status(&self, id: UploadId) -> Result<UploadView, Error> {
        if self.owns(id) {
            return self.own().status(id).await;
        }
        position(self.forward(id, Op::Status(id)).await?)
    }

    /// Forgets an upload.
    ///
    /// # Errors
    /// [`What::Upload`](crate::What::Upload) is unknown; unavailable if its owner cannot be reached.
    pub async fn cancel(&self, id: UploadId) -> Result<(), Error> {
        if self.owns(id) {
            return self.own().cancel(id).await;
        }
        ended(self.forward(id, Op::Cancel(id)).await?)
    }

    /// Links a blob of another repository; `false` if there is none to link and the client must upload.
    ///
    /// # Errors
    /// Unavailable, if copies are missing and cannot be made, too.
    pub async fn mount(&self, from: &Permit<Pull>, digest: &Digest) -> Result<bool, Error> {
        self.parts.copies.mount(&self.permit, from, digest).await
    }

    fn uploads(&self) -> &Uploads {
        &self.parts.uploads
    }

    fn own(&self) -> OwnUploads<'_> {
        self.uploads().own(self.permit.clone())
    }

    fn owns(&self, id: UploadId) -> bool {
        id.node == self.parts.core.me()
    }

    async fn forward(&self, id: UploadId, op: Op) -> Result<Option<UploadView>, Error> {
        forward(&self.parts.core, id.node, &self.permit, op).await
    }
}

fn confused() -> Error {
    Error::internal("the upload's owner gave an answer of another kind")
}

fn position(view: Option<UploadView>) -> Result<UploadView, Error> {
    view.ok_or_else(confused)
}

fn ended(view: Option<UploadView>) -> Result<(), Error> {
    view.map_or(Ok(()), |_| Err(confused()))
}
