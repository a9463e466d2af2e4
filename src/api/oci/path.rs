//! Which endpoint a path means (distribution-spec, "Endpoints"). Pure.
//!
//! Repository names may hold any component that is also a keyword: `blobs/uploads` is a fine name. So a
//! path is matched from the right, where the keywords stand at fixed places, and what is left over is
//! the name.

use std::borrow::Cow;

use clawhub_types::{Digest, DigestError, NameError, Reference, RepoName, UploadId};
use percent_encoding::percent_decode_str;

/// What every path of this API begins with.
pub(crate) const PREFIX: &str = "/v2";

/// An endpoint and what it is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Route {
    /// `/v2/`
    Base,
    /// `/v2/_catalog`
    Catalog,
    /// `/v2/<name>/tags/list`
    Tags(RepoName),
    /// `/v2/<name>/manifests/<reference>`
    Manifest(RepoName, Reference),
    /// `/v2/<name>/blobs/<digest>`
    Blob(RepoName, Digest),
    /// `/v2/<name>/blobs/uploads/`
    Uploads(RepoName),
    /// `/v2/<name>/blobs/uploads/<id>`
    Upload(RepoName, UploadId),
    /// `/v2/<name>/referrers/<digest>`
    Referrers(RepoName, Digest),
}

/// Why a path means nothing here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PathError {
    /// No endpoint has this form.
    NoRoute,
    /// The repository name is invalid.
    Name(NameError),
    /// The reference of a manifest is neither a tag nor looks like a digest. Nothing can be stored
    /// under it, so reading it is a 404 and only writing it a 400.
    Tag,
    /// A digest is malformed or of an unsupported algorithm.
    Digest(DigestError),
    /// Not an upload session that any node could have opened.
    Upload,
}

/// Parses the path of a request, still percent-encoded.
pub(crate) fn parse(path: &str) -> Result<Route, PathError> {
    let rest = path.strip_prefix(PREFIX).ok_or(PathError::NoRoute)?;
    if rest.is_empty() || rest == "/" {
        return Ok(Route::Base);
    }
    let rest = rest.strip_prefix('/').ok_or(PathError::NoRoute)?;
    // One trailing slash, and only where clients are known to send it.
    let (rest, slash) = rest.strip_suffix('/').map_or((rest, false), |rest| (rest, true));
    let decoded = rest.split('/').map(decode).collect::<Result<Vec<_>, _>>()?;
    let parts: Vec<&str> = decoded.iter().map(AsRef::as_ref).collect();
    match parts.as_slice() {
        [name @ .., "blobs", "uploads"] => Ok(Route::Uploads(repo(name)?)),
        [name @ .., "blobs", "uploads", id] => {
            let name = repo(name)?;
            Ok(Route::Upload(name, id.parse().map_err(|_| PathError::Upload)?))
        }
        _ if slash => Err(PathError::NoRoute),
        ["_catalog"] => Ok(Route::Catalog),
        [name @ .., "tags", "list"] => Ok(Route::Tags(repo(name)?)),
        [name @ .., "manifests", reference] => {
            let name = repo(name)?;
            Ok(Route::Manifest(name, reference.parse().map_err(bad_reference)?))
        }
        [name @ .., "blobs", digest] => {
            let name = repo(name)?;
            Ok(Route::Blob(name, digest.parse().map_err(PathError::Digest)?))
        }
        [name @ .., "referrers", digest] => {
            let name = repo(name)?;
            Ok(Route::Referrers(name, digest.parse().map_err(PathError::Digest)?))
        }
        _ => Err(PathError::NoRoute),
    }
}

/// The part of the API that a path is for, as metrics name it. Names may contain any of the words, so the end
/// of the path decides.
pub(crate) fn label(path: &str) -> &'static str {
    let mut parts = path.strip_prefix(PREFIX).unwrap_or(path).trim_start_matches('/').rsplit('/');
    match (parts.next(), parts.next(), parts.next()) {
        (Some(""), None, _) => "base",
        (Some("_catalog"), None, _) => "catalog",
        (Some("list"), Some("tags"), _) => "tags",
        (_, Some("uploads"), Some("blobs")) | (Some("uploads"), Some("blobs"), _) => "uploads",
        (_, Some("manifests"), _) => "manifests",
        (_, Some("blobs"), _) => "blobs",
        (_, Some("referrers"), _) => "referrers",
        _ => "other",
    }
}

/// Decodes one segment. An encoded slash would make one segment two, so it is no path of ours.
fn decode(segment: &str) -> Result<Cow<'_, str>, PathError> {
    let decoded = percent_decode_str(segment).decode_utf8().map_err(|_| PathError::NoRoute)?;
    if decoded.contains('/') { Err(PathError::NoRoute) } else { Ok(decoded) }
}

fn repo(parts: &[&str]) -> Result<RepoName, PathError> {
    if parts.is_empty() {
        return Err(PathError::NoRoute);
    }
    parts.join("/").parse().map_err(PathError::Name)
}

fn bad_reference(error: NameError) -> PathError {
    match error {
        NameError::Digest(error) => PathError::Digest(error),
        NameError::TooLong | NameError::Repository | NameError::Tag => PathError::Tag,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    const ID: &str = "1-07070707070707070707070707070707";

    fn name(s: &str) -> RepoName {
        s.parse().unwrap()
    }

    fn digest() -> Digest {
        format!("sha256:{HEX}").parse().unwrap()
    }

    #[test]
    fn every_endpoint_is_found_behind_every_name() {
        for repo in [
            "a",
            "library/busybox",
            "blobs",
            "uploads",
            "manifests",
            "tags",
            "list",
            "referrers",
            "v2",
            "blobs/uploads",
            "a/blobs/uploads",
            "tags/list",
            "a/manifests/latest",
            "a/referrers/b",
            "blobs/blobs/blobs",
            "manifests/tags/list/manifests",
            "a/uploads",
        ] {
            let tag = |t: &str| Route::Manifest(name(repo), t.parse().unwrap());
            for (tail, route) in [
                ("tags/list".to_owned(), Route::Tags(name(repo))),
                ("manifests/latest".to_owned(), tag("latest")),
                ("manifests/list".to_owned(), tag("list")),
                ("manifests/uploads".to_owned(), tag("uploads")),
                (format!("manifests/sha256-{HEX}"), tag(&format!("sha256-{HEX}"))),
                (format!("manifests/sha256:{HEX}"), Route::Manifest(name(repo), Reference::Digest(digest()))),
                (
                    format!("manifests/sha256%3A{HEX}"),
                    Route::Manifest(name(repo), Reference::Digest(digest())),
                ),
                (format!("blobs/sha256:{HEX}"), Route::Blob(name(repo), digest())),
                (format!("blobs/sha256%3a{HEX}"), Route::Blob(name(repo), digest())),
                (format!("referrers/sha256:{HEX}"), Route::Referrers(name(repo), digest())),
                ("blobs/uploads".to_owned(), Route::Uploads(name(repo))),
                ("blobs/uploads/".to_owned(), Route::Uploads(name(repo))),
                (format!("blobs/uploads/{ID}"), Route::Upload(name(repo), ID.parse().unwrap())),
                (format!("blobs/uploads/{ID}/"), Route::Upload(name(repo), ID.parse().unwrap())),
            ] {
                let path = format!("/v2/{repo}/{tail}");
                assert_eq!(parse(&path), Ok(route), "{path}");
            }
        }
    }

    #[test]
    fn the_end_of_a_path_names_its_class() {
        for (path, class) in [
            ("/v2", "base"),
            ("/v2/", "base"),
            ("/v2/_catalog", "catalog"),
            ("/v2/a/b/manifests/latest", "manifests"),
            ("/v2/blobs/uploads/manifests/x", "manifests"),
            ("/v2/a/blobs/sha256:00", "blobs"),
            ("/v2/a/blobs/uploads/", "uploads"),
            ("/v2/a/blobs/uploads", "uploads"),
            ("/v2/a/blobs/uploads/1-00", "uploads"),
            ("/v2/a/tags/list", "tags"),
            ("/v2/a/referrers/sha256:00", "referrers"),
        ] {
            assert_eq!(label(path), class, "{path}");
        }
    }

    #[test]
    fn the_version_header_is_for_v2_only() {
        for (path, yes) in
            [("/v2", true), ("/v2/", true), ("/v2/a/tags/list", true), ("/v20", false), ("/healthz", false)]
        {
            assert_eq!(crate::PROTOCOL.owns(path), yes, "{path}");
        }
    }

    #[test]
    fn fixed_paths() {
        for path in ["/v2", "/v2/"] {
            assert_eq!(parse(path), Ok(Route::Base), "{path}");
        }
        assert_eq!(parse("/v2/_catalog"), Ok(Route::Catalog));
    }

    #[test]
    fn what_is_no_endpoint_is_said_to_be_none() {
        for path in [
            "",
            "/",
            "/v1/",
            "/v2x",
            "/v2//",
            "/v2/a",
            "/v2/a/",
            "/v2/a/b/c",
            "/v2/_catalog/",
            "/v2/tags/list",
            "/v2/manifests/latest",
            "/v2/blobs/uploads/",
            "/v2/a/tags/list/",
            "/v2/a/tags/",
            "/v2/a/tags",
            "/v2/a/manifests/latest/",
            "/v2/a/manifests",
            "/v2/_oci/ext/discover",
            "/v2/a/_oci/ext/discover",
            "/v2/a%2Fb/tags/list",
            "/v2/a/manifests/x%2Fy",
            "/v2/a/manifests/%FF",
            "/v2/a/blobs/uploads//x/",
        ] {
            assert_eq!(parse(path), Err(PathError::NoRoute), "{path}");
        }
    }

    #[test]
    fn what_is_wrong_in_an_endpoint_is_named() {
        for (path, error) in [
            ("/v2/A/tags/list", PathError::Name(NameError::Repository)),
            ("/v2/a//b/tags/list", PathError::Name(NameError::Repository)),
            ("/v2//a/tags/list", PathError::Name(NameError::Repository)),
            ("/v2/../tags/list", PathError::Name(NameError::Repository)),
            ("/v2/%2e%2e/tags/list", PathError::Name(NameError::Repository)),
            ("/v2/a%00/tags/list", PathError::Name(NameError::Repository)),
            ("/v2/_oci/ext/tags/list", PathError::Name(NameError::Repository)),
            ("/v2/a/manifests/.INVALID", PathError::Tag),
            ("/v2/a/manifests/a+b", PathError::Tag),
            ("/v2/a/manifests/sha256:bad", PathError::Digest(DigestError::Malformed)),
            ("/v2/a/manifests/md5:abc", PathError::Digest(DigestError::Unsupported)),
            ("/v2/a/blobs/latest", PathError::Digest(DigestError::Malformed)),
            ("/v2/a/referrers/latest", PathError::Digest(DigestError::Malformed)),
            ("/v2/a/blobs/uploads/1", PathError::Upload),
            ("/v2/a/blobs/uploads//", PathError::Upload),
        ] {
            assert_eq!(parse(path), Err(error), "{path}");
        }
        let long = format!("/v2/{}/tags/list", "a".repeat(256));
        assert_eq!(parse(&long), Err(PathError::Name(NameError::TooLong)));
    }

    proptest! {
        #[test]
        fn any_text_is_a_route_or_an_error(path in "\\PC*") {
            let _ = parse(&path);
        }

        #[test]
        fn any_mix_of_keywords_is_a_route_or_an_error(
            parts in proptest::collection::vec(
                prop_oneof![
                    Just("blobs"), Just("uploads"), Just("manifests"), Just("tags"), Just("list"),
                    Just("referrers"), Just("_catalog"), Just(""), Just("a"), Just("%2F"), Just("%"), Just(ID),
                ],
                0..9,
            )
        ) {
            if let Ok(Route::Tags(name)) = parse(&format!("/v2/{}", parts.join("/"))) {
                prop_assert_eq!(format!("{name}/tags/list"), parts.join("/"));
            }
        }
    }
}
