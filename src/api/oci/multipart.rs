//! `multipart/byteranges` (RFC 9110, section 14.6): several ranges of a blob as one body, streamed, its
//! exact length known before its first byte.

use std::hash::{BuildHasher, RandomState};
use std::ops::Range;

use bytes::Bytes;
use clawhub_registry::{BlobView, Error};
use futures::stream::{self, BoxStream, StreamExt};
use http::HeaderValue;

/// The layout of one such body.
pub(crate) struct Multipart {
    boundary: String,
    ranges: Vec<Range<u64>>,
    size: u64,
}

impl Multipart {
    /// Ranges of a blob of `size` bytes, in the order they are sent. Each must lie within it.
    pub(crate) fn new(ranges: Vec<Range<u64>>, size: u64) -> Multipart {
        // A blob must not be able to hold its own boundary: 128 bits nobody knew when it was pushed.
        let random = || RandomState::new().hash_one(size);
        Multipart { boundary: format!("{:016x}{:016x}", random(), random()), ranges, size }
    }

    /// The Content-Type that announces the boundary.
    pub(crate) fn content_type(&self) -> HeaderValue {
        let text = format!("multipart/byteranges; boundary={}", self.boundary);
        HeaderValue::try_from(text).expect("a boundary is hexadecimal")
    }

    /// The length of the whole body in bytes.
    pub(crate) fn length(&self) -> u64 {
        let part = |range: &Range<u64>| self.head(range).len() as u64 + (range.end - range.start);
        self.ranges.iter().map(part).sum::<u64>() + self.tail().len() as u64
    }

    /// The body. Each range is opened when the one before it has been sent.
    pub(crate) fn stream(self, blob: BlobView) -> BoxStream<'static, Result<Bytes, Error>> {
        let tail = self.tail();
        let ranges = self.ranges.clone();
        let parts = stream::iter(ranges).flat_map(move |range| {
            let head = self.head(&range);
            stream::once(async { Ok(Bytes::from(head)) }).chain(blob.read(range))
        });
        parts.chain(stream::once(async { Ok(Bytes::from(tail)) })).boxed()
    }

    /// What stands before a part. The line break in front belongs to the boundary, not to the part
    /// before it.
    fn head(&self, range: &Range<u64>) -> String {
        format!(
            "\r\n--{}\r\nContent-Type: application/octet-stream\r\nContent-Range: {}\r\n\r\n",
            self.boundary,
            content_range(range, self.size)
        )
    }

    fn tail(&self) -> String {
        format!("\r\n--{}--\r\n", self.boundary)
    }
}

/// The value of a Content-Range header for a non-empty range of a blob.
pub(crate) fn content_range(range: &Range<u64>, size: u64) -> String {
    format!("bytes {}-{}/{size}", range.start, range.end - 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clawhub_registry::Freshness;
    use clawhub_types::Digest;
    use proptest::prelude::*;

    fn blob(bytes: Bytes) -> BlobView {
        let size = bytes.len() as u64;
        BlobView::readable(Digest::Sha256([0; 32]), size, Freshness::Linearizable, move |range| {
            let part = bytes.slice(range.start as usize..range.end as usize);
            stream::iter(part.chunks(7).map(|c| Ok(Bytes::copy_from_slice(c))).collect::<Vec<_>>()).boxed()
        })
    }

    async fn body(multipart: Multipart, blob: BlobView) -> Vec<u8> {
        multipart.stream(blob).map(|chunk| chunk.unwrap().to_vec()).concat().await
    }

    /// Splits a body the way a MIME parser does, and returns (Content-Range, bytes) of each part.
    fn parts(boundary: &str, body: &[u8]) -> Vec<(String, Vec<u8>)> {
        let find = |hay: &[u8], needle: &str| hay.windows(needle.len()).position(|w| w == needle.as_bytes());
        let delimiter = format!("\r\n--{boundary}");
        let mut rest = body;
        let mut out = Vec::new();
        loop {
            let at = find(rest, &delimiter).expect("a delimiter");
            if let Some((_, part)) = out.last_mut() {
                *part = rest[..at].to_vec();
            }
            rest = &rest[at + delimiter.len()..];
            if rest == b"--\r\n" {
                return out;
            }
            let end = find(rest, "\r\n\r\n").expect("the end of the part's head");
            let head = String::from_utf8(rest[..end].to_vec()).unwrap();
            let range = head.lines().find_map(|line| line.strip_prefix("Content-Range: ")).unwrap();
            out.push((range.to_owned(), Vec::new()));
            rest = &rest[end + 4..];
        }
    }

    proptest! {
        #[test]
        fn the_body_is_as_long_as_announced_and_reads_back(
            bytes in proptest::collection::vec(any::<u8>(), 1..300),
            picks in proptest::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>()), 1..9),
        ) {
            let size = bytes.len();
            let ranges: Vec<Range<u64>> = picks.iter().map(|(a, b)| {
                let (a, b) = (a.index(size), b.index(size));
                a.min(b) as u64..a.max(b) as u64 + 1
            }).collect();
            let multipart = Multipart::new(ranges.clone(), size as u64);
            let (length, boundary) = (multipart.length(), multipart.boundary.clone());
            let body = futures::executor::block_on(body(multipart, blob(bytes.clone().into())));
            prop_assert_eq!(body.len() as u64, length);
            let expected: Vec<(String, Vec<u8>)> = ranges.iter().map(|r| {
                (content_range(r, size as u64), bytes[r.start as usize..r.end as usize].to_vec())
            }).collect();
            prop_assert_eq!(parts(&boundary, &body), expected);
        }
    }

    #[test]
    fn boundaries_differ() {
        let boundary = || Multipart::new(vec![], 1).boundary;
        assert_ne!(boundary(), boundary());
    }

    #[test]
    fn an_error_ends_the_body() {
        let broken = BlobView::stat(Digest::Sha256([0; 32]), 9, Freshness::Linearizable);
        let mut stream = Multipart::new(vec![0..3, 3..6], 9).stream(broken);
        futures::executor::block_on(async {
            assert!(stream.next().await.unwrap().is_ok());
            assert!(stream.next().await.unwrap().is_err());
        });
    }
}
