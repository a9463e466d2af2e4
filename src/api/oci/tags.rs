//! `GET /v2/<name>/tags/list`: the tags of a repository in bytewise order.

use axum::response::Response;
use clawhub_types::RepoName;
use http::header::LINK;
use serde::Serialize;

use crate::call::Call;
use crate::error::ApiError;
use crate::page::{self, Paging};
use crate::path::PREFIX;
use crate::render;

#[derive(Serialize)]
struct TagList<'a> {
    name: &'a str,
    tags: Vec<&'a str>,
}

pub(crate) async fn list(call: &Call, repo: &RepoName) -> Result<Response, ApiError> {
    let paging = Paging::parse(&call.query)?;
    let reader = call.reader(repo).await?;
    let mut page = reader.tags(paging.last.as_deref(), paging.limit()).await?;
    let more = paging.cut(&mut page.items, page.more);
    let tags = page.items.iter().map(|tag| tag.as_str()).collect();
    let mut response = render::json(&TagList { name: repo.as_str(), tags }, "application/json");
    if let Some(last) = page.items.last().filter(|_| more) {
        let path = format!("{PREFIX}/{repo}/tags/list");
        let link = page::link(&path, &[("n", &paging.n.to_string()), ("last", last.as_str())]);
        response.headers_mut().insert(LINK, link);
    }
    Ok(response)
}
