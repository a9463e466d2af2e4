//! The `Range` header (RFC 9110, section 14). Pure.

use std::ops::Range;

/// The most ranges of one request. Clients that fetch the missing chunks of a layer merge them down to
/// 1024.
const MAX_RANGES: usize = 2048;
/// How many times its own size a blob may be sent for one request. Honest requests do not overlap.
const MAX_OVERLAP: u64 = 2;

/// What of a blob to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Selection {
    /// All of it, as 200.
    Whole,
    /// One range was asked for.
    Single(Range<u64>),
    /// Several were asked for: those that can be satisfied, in the order of the request, not merged,
    /// because clients pair parts with ranges by position. Never empty.
    Several(Vec<Range<u64>>),
}

/// Why a range request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RangeError {
    /// 416: malformed, or nothing of it lies within the blob.
    Unsatisfiable,
    /// 400: too many ranges, or the same bytes over and over. Clients fall back to fewer ranges on a
    /// 400, and give up on a 416.
    Excessive,
}

/// Applies a `Range` header to a blob of `size` bytes. Units other than bytes are ignored.
pub(crate) fn select(header: Option<&str>, size: u64) -> Result<Selection, RangeError> {
    let Some(specs) = header.and_then(byte_specs) else { return Ok(Selection::Whole) };
    let mut asked = 0;
    let mut total: u64 = 0;
    let mut ranges = Vec::new();
    for spec in specs.split(',').map(|spec| spec.trim_matches([' ', '\t'])).filter(|spec| !spec.is_empty()) {
        asked += 1;
        if asked > MAX_RANGES {
            return Err(RangeError::Excessive);
        }
        if let Some(range) = resolve(spec, size).ok_or(RangeError::Unsatisfiable)? {
            total = total.saturating_add(range.end - range.start);
            ranges.push(range);
        }
    }
    if asked > 0 && size == 0 {
        // Some clients always send a range; an empty blob has none to offer and no error to make.
        return Ok(Selection::Whole);
    }
    if ranges.is_empty() {
        return Err(RangeError::Unsatisfiable);
    }
    if total > size.saturating_mul(MAX_OVERLAP) {
        return Err(RangeError::Excessive);
    }
    if asked == 1 { Ok(Selection::Single(ranges.remove(0))) } else { Ok(Selection::Several(ranges)) }
}

fn byte_specs(header: &str) -> Option<&str> {
    let (unit, specs) = header.split_once('=')?;
    unit.trim().eq_ignore_ascii_case("bytes").then_some(specs)
}

/// One range as it lies in the blob: `None` if malformed, `Some(None)` if it lies outside.
fn resolve(spec: &str, size: u64) -> Option<Option<Range<u64>>> {
    let (first, last) = spec.split_once('-')?;
    if first.is_empty() {
        let suffix = number(last)?.min(size);
        return Some((suffix > 0).then(|| size - suffix..size));
    }
    let first = number(first)?;
    let end = match last {
        "" => size,
        last => {
            let last = number(last)?;
            if last < first {
                return None;
            }
            last.saturating_add(1).min(size)
        }
    };
    Some((first < size).then_some(first..end))
}

/// Decimal digits and nothing else. What exceeds 64 bits exceeds every blob, and counts as the greatest
/// number.
fn number(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    digits.then(|| text.parse().unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn one_range() {
        use Selection::Single;
        for (header, selection) in [
            ("bytes=0-0", Single(0..1)),
            ("bytes=500-1499", Single(500..1500)),
            ("bytes=500-", Single(500..2048)),
            ("bytes=-500", Single(1548..2048)),
            ("bytes=-9999", Single(0..2048)),
            ("bytes=2000-5000", Single(2000..2048)),
            ("bytes=0-18446744073709551615", Single(0..2048)),
            ("bytes=0-99999999999999999999999", Single(0..2048)),
            ("bytes=2047-", Single(2047..2048)),
            ("Bytes= 1-2 ,", Single(1..3)),
        ] {
            assert_eq!(select(Some(header), 2048), Ok(selection), "{header}");
        }
    }

    #[test]
    fn several_ranges_stay_in_order_and_apart() {
        let several = |ranges: &[Range<u64>]| Ok(Selection::Several(ranges.to_vec()));
        assert_eq!(select(Some("bytes=5-9,0-4"), 100), several(&[5..10, 0..5]));
        assert_eq!(select(Some("bytes=0-4, 5-9"), 100), several(&[0..5, 5..10]));
        assert_eq!(select(Some("bytes=0-9,5-14,5-14"), 100), several(&[0..10, 5..15, 5..15]));
        assert_eq!(select(Some("bytes=-1,0-0"), 100), several(&[99..100, 0..1]));
        // What lies outside is left out; what was asked as several is answered as several.
        assert_eq!(select(Some("bytes=0-4,200-300"), 100), several(std::slice::from_ref(&(0..5))));
    }

    #[test]
    fn what_is_no_byte_range_is_ignored() {
        for header in [None, Some("items=0-4"), Some("bytes"), Some("")] {
            assert_eq!(select(header, 100), Ok(Selection::Whole), "{header:?}");
        }
        for header in ["bytes=0-", "bytes=-5", "bytes=0-0,1-1"] {
            assert_eq!(select(Some(header), 0), Ok(Selection::Whole), "{header} of nothing");
        }
    }

    #[test]
    fn what_cannot_be_satisfied_is_refused() {
        for header in [
            "bytes=500-0",
            "bytes=100-",
            "bytes=100-200",
            "bytes=-0",
            "bytes=",
            "bytes=,",
            "bytes=-",
            "bytes=a-b",
            "bytes=1",
            "bytes=1-2-3",
            "bytes=+1-2",
            "bytes=0-4,x",
            "bytes=0-4,9-5",
            "bytes=0x1-2",
            "bytes=99999999999999999999999-",
        ] {
            assert_eq!(select(Some(header), 100), Err(RangeError::Unsatisfiable), "{header}");
        }
    }

    #[test]
    fn abuse_is_refused() {
        let many = |n: u64| {
            let ranges: Vec<String> = (0..n).map(|i| format!("{i}-{i}")).collect();
            format!("bytes={}", ranges.join(","))
        };
        let limit = MAX_RANGES as u64;
        assert!(
            matches!(select(Some(&many(limit)), 1 << 30), Ok(Selection::Several(r)) if r.len() == MAX_RANGES)
        );
        assert_eq!(select(Some(&many(limit + 1)), 1 << 30), Err(RangeError::Excessive));
        assert!(select(Some("bytes=0-,0-"), 100).is_ok());
        assert_eq!(select(Some("bytes=0-,0-,0-"), 100), Err(RangeError::Excessive));
    }

    proptest! {
        #[test]
        fn any_header_selects_within_the_blob(
            header in prop_oneof!["\\PC*", "bytes=[-0-9, ]{0,40}", "bytes=([0-9]{0,22}-[0-9]{0,22},){0,6}"],
            size in prop_oneof![Just(0), Just(1), 0..5000u64, any::<u64>()],
        ) {
            let ranges = match select(Some(&header), size) {
                Ok(Selection::Single(range)) => vec![range],
                Ok(Selection::Several(ranges)) => { prop_assert!(!ranges.is_empty()); ranges }
                Ok(Selection::Whole) | Err(_) => vec![],
            };
            for range in ranges {
                prop_assert!(range.start < range.end && range.end <= size, "{:?}", range);
            }
        }
    }
}
