//! The query of a request: parameters in order, repeats kept. Pure.
//!
//! `+` stands for itself, as in any URI, and not for a space as in a form: no parameter here may hold a
//! space, media types hold a `+`, and not every client escapes it.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

/// Decoded parameters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Query(Vec<(String, String)>);

impl Query {
    /// Parses what stands after `?`. Never fails: what is not UTF-8 becomes U+FFFD, which no parser of a
    /// value accepts, and unknown parameters such as `ns` are nobody's business.
    pub(crate) fn parse(query: Option<&str>) -> Query {
        let decode = |s: &str| percent_decode_str(s).decode_utf8_lossy().into_owned();
        let pairs = query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()).map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode(name), decode(value))
        });
        Query(pairs.collect())
    }

    /// The first value of a parameter.
    pub(crate) fn first(&self, name: &str) -> Option<&str> {
        self.all(name).next()
    }

    /// The last value of a parameter: clients append theirs to a Location that may hold an older one.
    pub(crate) fn last(&self, name: &str) -> Option<&str> {
        self.all(name).last()
    }

    /// Every value of a parameter, in order.
    pub(crate) fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        self.0.iter().filter(move |(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

/// A value made safe for the query of a URI, and for a Link header, whose delimiters are escaped too.
pub(crate) fn encode(value: &str) -> Cow<'_, str> {
    use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
    const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
    utf8_percent_encode(value, ESCAPED).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn parameters_repeat_and_keep_their_order() {
        let query = Query::parse(Some("tag=a&x=1&tag=b&tag=c%2fd&flag&=z&&tag="));
        assert_eq!(query.all("tag").collect::<Vec<_>>(), ["a", "b", "c/d", ""]);
        assert_eq!(query.first("tag"), Some("a"));
        assert_eq!(query.last("tag"), Some(""));
        assert_eq!(query.first("flag"), Some(""));
        assert_eq!(query.first("absent"), None);
        assert_eq!(Query::parse(None), Query::default());
        assert_eq!(Query::parse(Some("")), Query::default());
    }

    #[test]
    fn a_plus_is_a_plus() {
        for raw in ["artifactType=a/b+json", "artifactType=a%2Fb%2Bjson"] {
            assert_eq!(Query::parse(Some(raw)).first("artifactType"), Some("a/b+json"), "{raw}");
        }
    }

    proptest! {
        #[test]
        fn any_text_parses(text in "\\PC*") {
            let _ = Query::parse(Some(&text)).first("n");
        }

        #[test]
        fn what_is_encoded_comes_back(value in "\\PC*") {
            let text = format!("last={}", encode(&value));
            prop_assert!(!text.contains([';', ',', '>', '<', ' ', '"', '&']), "{}", text);
            let query = Query::parse(Some(&text));
            prop_assert_eq!(query.first("last"), Some(value.as_str()));
        }
    }
}
