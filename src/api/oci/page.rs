//! Lists in pages: the `n` and `last` parameters and the Link header (distribution-spec, "Listing
//! Tags"). Pure.

use http::{HeaderValue, StatusCode};

use crate::ErrorCode;
use crate::error::ApiError;
use crate::query::{Query, encode};

/// The most items of one page, and the size of a page that does not say.
pub(crate) const MAX_ITEMS: usize = 1000;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Paging {
    /// How many items, at most [`MAX_ITEMS`]; 0 asks for none.
    pub(crate) n: usize,
    /// After this item, which need not exist.
    pub(crate) last: Option<String>,
}

impl Paging {
    /// Reads `n` and `last`. An `n` above the maximum is lowered to it.
    pub(crate) fn parse(query: &Query) -> Result<Paging, ApiError> {
        let n = match query.first("n") {
            None => MAX_ITEMS,
            Some(text) => number(text).ok_or_else(|| {
                let message = "n is not a number of items";
                ApiError::new(StatusCode::BAD_REQUEST, ErrorCode::SizeInvalid, message)
            })?,
        };
        Ok(Paging { n, last: query.first("last").filter(|last| !last.is_empty()).map(str::to_owned) })
    }

    /// What to ask the registry for: it is asked even if no item is wanted, so that an unknown repository
    /// is still a 404.
    pub(crate) fn limit(&self) -> usize {
        self.n.max(1)
    }

    /// Cuts a page that was fetched with [`Paging::limit`] down to `n`. Returns whether more follow, which
    /// nobody is told who asked for no item.
    pub(crate) fn cut<T>(&self, items: &mut Vec<T>, more: bool) -> bool {
        items.truncate(self.n);
        more && self.n > 0
    }
}

/// Decimal digits, however many, lowered to the maximum.
fn number(text: &str) -> Option<usize> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    digits.then(|| text.parse().unwrap_or(MAX_ITEMS).min(MAX_ITEMS))
}

/// The Link to the next page. Relative to the root, as clients refuse another host or scheme; everything
/// in it escaped, as some cut at the first `;`.
pub(crate) fn link(path: &str, parameters: &[(&str, &str)]) -> HeaderValue {
    let query: Vec<String> =
        parameters.iter().map(|(name, value)| format!("{name}={}", encode(value))).collect();
    let text = format!("<{path}?{}>; rel=\"next\"", query.join("&"));
    HeaderValue::try_from(text).expect("names are of a plain grammar and values are percent-encoded")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(text: &str) -> Result<Paging, StatusCode> {
        Paging::parse(&Query::parse(Some(text))).map_err(|error| error.status())
    }

    #[test]
    fn n_is_clamped_and_checked() {
        for (text, n) in [
            ("", MAX_ITEMS),
            ("n=0", 0),
            ("n=1", 1),
            ("n=007", 7),
            ("n=1000", 1000),
            ("n=1001", 1000),
            ("n=18446744073709551615", 1000),
            ("n=18446744073709551616", 1000),
            ("n=5&n=x", 5),
        ] {
            assert_eq!(parse(text).map(|p| p.n), Ok(n), "{text}");
        }
        for text in ["n=", "n", "n=-1", "n=+1", "n=x", "n=1.0", "n=%31%20", "n=\u{0661}"] {
            assert_eq!(parse(text), Err(StatusCode::BAD_REQUEST), "{text}");
        }
    }

    #[test]
    fn last_is_any_text() {
        assert_eq!(parse("last=v1%2B2").unwrap().last.as_deref(), Some("v1+2"));
        assert_eq!(parse("last=").unwrap().last, None);
    }

    #[test]
    fn no_items_means_no_link() {
        let none = Paging { n: 0, last: None };
        let mut items = vec![1];
        assert_eq!(none.limit(), 1);
        assert!(!none.cut(&mut items, true));
        assert!(items.is_empty());
        let two = Paging { n: 2, last: None };
        let mut items = vec![1, 2];
        assert!(two.cut(&mut items, true));
        assert_eq!(items, [1, 2]);
    }

    #[test]
    fn links_are_relative_and_escaped() {
        let value = link("/v2/a/b/tags/list", &[("n", "2"), ("last", "a;b,c>d \u{e9}+")]);
        assert_eq!(value, "</v2/a/b/tags/list?n=2&last=a%3Bb%2Cc%3Ed%20%C3%A9%2B>; rel=\"next\"");
    }

    proptest! {
        #[test]
        fn any_query_pages_or_errs(text in "\\PC*") {
            let _ = parse(&text);
        }

        #[test]
        fn a_link_holds_one_semicolon_and_leads_back(last in "\\PC+") {
            let header = link("/v2/a/tags/list", &[("n", "3"), ("last", &last)]);
            let text = header.to_str().unwrap();
            prop_assert_eq!(text.matches(';').count(), 1);
            let query = text.split_once('?').unwrap().1.split_once('>').unwrap().0;
            prop_assert_eq!(parse(query).unwrap(), Paging { n: 3, last: Some(last) });
        }
    }
}
