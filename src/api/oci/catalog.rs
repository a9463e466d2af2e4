//! `GET /v2/_catalog`: the repositories of the cluster, bytewise by full name.

use axum::response::Response;
use http::header::LINK;
use serde::Serialize;

use crate::call::Call;
use crate::error::ApiError;
use crate::page::{self, Paging};
use crate::path::PREFIX;
use crate::render;

#[derive(Serialize)]
struct Catalog<'a> {
    repositories: Vec<&'a str>,
}

pub(crate) async fn list(call: &Call) -> Result<Response, ApiError> {
    let paging = Paging::parse(&call.query)?;
    let repositories = call.repositories().await?;
    let mut page = repositories.list(paging.last.as_deref(), paging.limit()).await?;
    let more = paging.cut(&mut page.items, page.more);
    let repositories = page.items.iter().map(|repo| repo.as_str()).collect();
    let mut response = render::json(&Catalog { repositories }, "application/json");
    if let Some(last) = page.items.last().filter(|_| more) {
        let link = page::link(
            &format!("{PREFIX}/_catalog"),
            &[("n", &paging.n.to_string()), ("last", last.as_str())],
        );
        response.headers_mut().insert(LINK, link);
    }
    Ok(response)
}
