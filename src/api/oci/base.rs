//! `GET /v2/`: whether this is a registry, and whether the client may talk to it.

use axum::response::Response;
use clawhub_auth::{Cluster, Visit};

use crate::call::Call;
use crate::error::ApiError;
use crate::render;

/// 200 for whoever may pull anything at all.
pub(crate) fn get(call: &Call) -> Result<Response, ApiError> {
    call.permit::<Visit>(&Cluster)?;
    Ok(render::json(&serde_json::json!({}), "application/json"))
}
