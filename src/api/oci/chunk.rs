//! A chunk of an upload: where it belongs and how long it is (distribution-spec, "Pushing a blob in
//! chunks").

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use clawhub_registry::{BodyError, BodyStream};
use futures::Stream;
use http::header::CONTENT_RANGE;
use http::{HeaderMap, StatusCode};

use crate::ErrorCode;
use crate::error::ApiError;

/// What a request says about the bytes in its body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Chunk {
    /// First and last byte in the blob, if `Content-Range` says so.
    pub(crate) range: Option<(u64, u64)>,
    /// Length in bytes, unless the body is chunked without a range.
    pub(crate) length: Option<u64>,
}

impl Chunk {
    /// Reads `Content-Range`, whose form here is `start-end` alone, and compares it with the length of
    /// the body where that is known.
    pub(crate) fn parse(headers: &HeaderMap, body_length: Option<u64>) -> Result<Chunk, ApiError> {
        let Some(value) = headers.get(CONTENT_RANGE) else {
            return Ok(Chunk { range: None, length: body_length });
        };
        let (start, end) = value.to_str().ok().and_then(parse_range).ok_or_else(|| {
            let message = "Content-Range is not of the form start-end";
            ApiError::new(StatusCode::BAD_REQUEST, ErrorCode::BlobUploadInvalid, message)
        })?;
        let length = end - start + 1;
        if body_length.is_some_and(|body| body != length) {
            let message = "Content-Length differs from Content-Range";
            return Err(ApiError::code(ErrorCode::SizeInvalid, message));
        }
        Ok(Chunk { range: Some((start, end)), length: Some(length) })
    }

    /// The chunk with its bytes, measured on the way.
    pub(crate) fn of(self, body: BodyStream) -> clawhub_registry::Chunk {
        let body = self.checked(body);
        clawhub_registry::Chunk { range: self.range, length: self.length, body }
    }

    /// The body, failing with [`BodyError::Length`] if it turns out longer or shorter than announced.
    fn checked(&self, body: BodyStream) -> BodyStream {
        match self.length {
            Some(left) => Box::pin(Measured { body, left }),
            None => body,
        }
    }
}

/// `^[0-9]+-[0-9]+$`, in order. Positions stay below 2^63 so that a length cannot overflow.
fn parse_range(text: &str) -> Option<(u64, u64)> {
    let (start, end) = text.split_once('-')?;
    let number = |text: &str| {
        let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        digits.then(|| text.parse().ok()).flatten().filter(|n| *n <= i64::MAX as u64)
    };
    let start = number(start)?;
    let end = number(end)?;
    (start <= end).then_some((start, end))
}

struct Measured {
    body: BodyStream,
    left: u64,
}

impl Stream for Measured {
    type Item = Result<Bytes, BodyError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Poll::Ready(match ready!(self.body.as_mut().poll_next(cx)) {
            Some(Ok(bytes)) if bytes.len() as u64 > self.left => Some(Err(BodyError::Length)),
            Some(Ok(bytes)) => {
                self.left -= bytes.len() as u64;
                Some(Ok(bytes))
            }
            None if self.left > 0 => {
                self.left = 0;
                Some(Err(BodyError::Length))
            }
            other => other,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::{StreamExt, stream};
    use http::HeaderValue;
    use proptest::prelude::*;

    fn headers(range: &str) -> HeaderMap {
        HeaderMap::from_iter([(CONTENT_RANGE, HeaderValue::try_from(range).unwrap())])
    }

    #[test]
    fn content_range_is_start_end_and_nothing_else() {
        for (text, range) in [("0-0", (0, 0)), ("0-99", (0, 99)), ("100-0199", (100, 199))] {
            let chunk = Chunk::parse(&headers(text), None).unwrap();
            assert_eq!((chunk.range, chunk.length), (Some(range), Some(range.1 - range.0 + 1)), "{text}");
        }
        for text in [
            "",
            "-",
            "0-",
            "-0",
            "0--1",
            "1-0",
            "bytes 0-9/10",
            "bytes=0-9",
            "0-9/10",
            "0-9,10-19",
            " 0-9",
            "0 - 9",
            "+0-9",
            "0-9223372036854775808",
            "0-99999999999999999999",
            "a-b",
            "0x0-0x9",
        ] {
            let error = Chunk::parse(&headers(text), None).unwrap_err();
            assert_eq!(error.status(), StatusCode::BAD_REQUEST, "{text}");
        }
        assert_eq!(Chunk::parse(&HeaderMap::new(), Some(4)).unwrap(), Chunk { range: None, length: Some(4) });
        assert_eq!(Chunk::parse(&HeaderMap::new(), None).unwrap(), Chunk { range: None, length: None });
    }

    #[test]
    fn the_length_must_agree_with_the_range() {
        assert!(Chunk::parse(&headers("10-19"), Some(10)).is_ok());
        for length in [0, 9, 11] {
            let error = Chunk::parse(&headers("10-19"), Some(length)).unwrap_err();
            assert_eq!(error.status(), StatusCode::BAD_REQUEST, "{length}");
        }
    }

    #[test]
    fn a_chunked_body_is_measured() {
        let chunk = Chunk { range: Some((0, 3)), length: Some(4) };
        for (sizes, fits) in [
            (vec![4], true),
            (vec![1, 0, 3], true),
            (vec![], false),
            (vec![3], false),
            (vec![5], false),
            (vec![4, 1], false),
        ] {
            let body = stream::iter(sizes.iter().map(|n| Ok(Bytes::from(vec![0; *n]))).collect::<Vec<_>>());
            let got: Vec<_> = futures::executor::block_on(chunk.checked(Box::pin(body)).collect());
            assert_eq!(got.last() != Some(&Err(BodyError::Length)), fits, "{sizes:?}");
        }
    }

    proptest! {
        #[test]
        fn any_header_is_a_chunk_or_an_error(text in "[ -~]{0,60}", length in any::<Option<u64>>()) {
            if let Ok(chunk) = Chunk::parse(&headers(&text), length) {
                let (start, end) = chunk.range.unwrap();
                prop_assert_eq!(chunk.length, Some(end - start + 1));
            }
        }
    }
}
