//! Conditional requests (RFC 9110, section 13). Pure.
//!
//! An entity tag here is a digest in quotes, always strong. Clients also send it weak or bare, and are
//! understood.

use clawhub_state::artifact::Condition;
use clawhub_types::Digest;
use http::header::{IF_MATCH, IF_NONE_MATCH, IF_RANGE};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use crate::ErrorCode;
use crate::error::ApiError;

/// The most digests that one `If-Match` may list; they travel in the log.
const MAX_MATCHES: usize = 50;

/// The entity tag of content with this digest.
pub(crate) fn of(digest: &Digest) -> HeaderValue {
    HeaderValue::try_from(format!("\"{digest}\"")).expect("a digest is visible ASCII")
}

/// Whether `If-None-Match` names the content, so that there is nothing to send (304).
pub(crate) fn is_known(headers: &HeaderMap, digest: &Digest) -> bool {
    let text = digest.to_string();
    // Weak comparison: a weak tag of the same content names it as well as a strong one.
    parse(headers, &IF_NONE_MATCH).is_some_and(|tags| tags.iter().any(|tag| tag.any || tag.text == text))
}

/// Whether `If-Match` is absent or names the content strongly; if not, a read is refused (412).
pub(crate) fn is_expected(headers: &HeaderMap, digest: &Digest) -> bool {
    let text = digest.to_string();
    parse(headers, &IF_MATCH)
        .is_none_or(|tags| tags.iter().any(|tag| tag.any || (!tag.weak && tag.text == text)))
}

/// Whether a `Range` holds: `If-Range` is absent or names the content strongly. A date never does, as
/// content here has none.
pub(crate) fn range_applies(headers: &HeaderMap, digest: &Digest) -> bool {
    let text = digest.to_string();
    parse(headers, &IF_RANGE)
        .is_none_or(|tags| matches!(tags.as_slice(), [tag] if !tag.weak && tag.text == text))
}

/// The condition that a write to a tag carries into the log.
pub(crate) fn condition(headers: &HeaderMap) -> Result<Condition, ApiError> {
    match (parse(headers, &IF_MATCH), parse(headers, &IF_NONE_MATCH)) {
        (None, None) => Ok(Condition::Any),
        (Some(tags), None) if tags.iter().any(|tag| tag.any) => Ok(Condition::Exists),
        (Some(tags), None) => {
            // Strong comparison, and only a digest can be the tag of anything here.
            let strong = tags.iter().filter(|tag| !tag.weak);
            let digests: Vec<Digest> = strong.filter_map(|tag| tag.text.parse().ok()).collect();
            if digests.len() > MAX_MATCHES {
                return Err(refused("If-Match lists too many digests"));
            }
            Ok(Condition::Matches(digests))
        }
        (None, Some(tags)) if tags.iter().any(|tag| tag.any) => Ok(Condition::Absent),
        (None, Some(_)) => Err(refused("a write supports If-None-Match only as *")),
        (Some(_), Some(_)) => Err(refused("If-Match and If-None-Match together are not supported")),
    }
}

/// A condition that cannot be checked must not be ignored.
fn refused(message: &'static str) -> ApiError {
    ApiError::new(StatusCode::BAD_REQUEST, ErrorCode::Unsupported, message)
}

#[derive(Debug, PartialEq, Eq)]
struct EntityTag<'a> {
    /// The bare `*`.
    any: bool,
    weak: bool,
    text: &'a str,
}

/// Every entity tag of every such header; `None` without the header. Bytes that are not ASCII name
/// nothing.
fn parse<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<Vec<EntityTag<'a>>> {
    if !headers.contains_key(name) {
        return None;
    }
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    Some(values.flat_map(list).collect())
}

fn list(value: &str) -> Vec<EntityTag<'_>> {
    let mut tags = Vec::new();
    let mut rest = value;
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        if rest.is_empty() {
            return tags;
        }
        let (weak, opaque) = match rest.strip_prefix("W/").or_else(|| rest.strip_prefix("w/")) {
            Some(opaque) => (true, opaque),
            None => (false, rest),
        };
        if let Some(quoted) = opaque.strip_prefix('"') {
            let (text, after) = quoted.split_once('"').unwrap_or((quoted, ""));
            tags.push(EntityTag { any: false, weak, text });
            rest = after;
        } else {
            let (text, after) = opaque.split_once(',').unwrap_or((opaque, ""));
            let text = text.trim_end();
            tags.push(EntityTag { any: text == "*" && !weak, weak, text });
            rest = after;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn digest() -> Digest {
        Digest::Sha256([0xab; 32])
    }

    fn with(name: HeaderName, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(name, HeaderValue::try_from(value).unwrap())])
    }

    #[test]
    fn if_none_match_knows_every_spelling() {
        let (d, other) = (digest(), Digest::Sha256([1; 32]));
        for value in [
            format!("\"{d}\""),
            format!("W/\"{d}\""),
            format!("{d}"),
            "*".to_owned(),
            format!("\"{other}\", \"{d}\""),
            format!("\"{other}\",{d}"),
            format!("\"a,b\" , W/\"{d}\","),
        ] {
            assert!(is_known(&with(IF_NONE_MATCH, &value), &d), "{value}");
        }
        for value in [
            format!("\"{other}\""),
            String::new(),
            "\"*\"".into(),
            "W/*".into(),
            format!("\"{d}")[..20].into(),
        ] {
            assert!(!is_known(&with(IF_NONE_MATCH, &value), &d), "{value}");
        }
        assert!(!is_known(&HeaderMap::new(), &d));
    }

    #[test]
    fn repeated_headers_are_one_list() {
        let mut headers = with(IF_NONE_MATCH, "\"x\"");
        headers.append(IF_NONE_MATCH, of(&digest()));
        assert!(is_known(&headers, &digest()));
    }

    #[test]
    fn if_range_wants_exactly_one_strong_tag() {
        let d = digest();
        assert!(range_applies(&HeaderMap::new(), &d));
        assert!(range_applies(&with(IF_RANGE, &format!("\"{d}\"")), &d));
        for value in ["Wed, 21 Oct 2026 07:28:00 GMT", "\"x\"", "*", &format!("W/\"{d}\"")] {
            assert!(!range_applies(&with(IF_RANGE, value), &d), "{value}");
        }
    }

    #[test]
    fn if_match_compares_strongly() {
        let d = digest();
        for (value, expected) in [
            (format!("\"{d}\""), true),
            (d.to_string(), true),
            ("*".to_owned(), true),
            (format!("W/\"{d}\""), false),
            ("\"other\"".to_owned(), false),
        ] {
            assert_eq!(is_expected(&with(IF_MATCH, &value), &d), expected, "{value}");
        }
        assert!(is_expected(&HeaderMap::new(), &d));
    }

    #[test]
    fn writes_carry_their_condition() {
        let d = digest();
        let ok = |headers: &HeaderMap| condition(headers).unwrap();
        assert_eq!(ok(&HeaderMap::new()), Condition::Any);
        assert_eq!(ok(&with(IF_MATCH, "*")), Condition::Exists);
        assert_eq!(ok(&with(IF_NONE_MATCH, "*")), Condition::Absent);
        assert_eq!(ok(&with(IF_MATCH, &format!("\"{d}\""))), Condition::Matches(vec![d.clone()]));
        assert_eq!(ok(&with(IF_MATCH, &format!("\"x\", {d}"))), Condition::Matches(vec![d.clone()]));
        // Nothing that could match is not the same as no condition.
        for never in ["\"x\"", "W/\"x\"", "", &format!("W/\"{d}\"")] {
            assert_eq!(ok(&with(IF_MATCH, never)), Condition::Matches(vec![]), "{never}");
        }
        let mut both = with(IF_MATCH, "*");
        both.insert(IF_NONE_MATCH, HeaderValue::from_static("*"));
        let many = vec![format!("\"{d}\""); MAX_MATCHES + 1].join(",");
        for bad in [both, with(IF_NONE_MATCH, "\"x\""), with(IF_MATCH, &many)] {
            assert_eq!(condition(&bad).unwrap_err().status(), StatusCode::BAD_REQUEST, "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn any_header_is_understood_or_matches_nothing(text in "[ -~\t]*") {
            let known = is_known(&with(IF_NONE_MATCH, text.trim()), &digest());
            prop_assert!(!known || text.contains('*') || text.contains(&digest().to_string()));
            let _ = condition(&with(IF_MATCH, text.trim()));
            let _ = range_applies(&with(IF_RANGE, text.trim()), &digest());
        }
    }
}
