//! The grammars of single values: labels, addresses, sizes, durations, word lists.
//!
//! Each function turns one TOML value into a typed one or says, in a sentence that names what was
//! expected, why it cannot. Where the value stands in the file is the caller's business.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clawhub_types::{Durability, Roles, label};
use toml::de::DeValue;

use crate::CacheSize;

/// A value's verdict: the text completes "`key`: …".
pub(crate) type Parsed<T> = Result<T, String>;

/// What a value is called where another was expected.
fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "an integer",
        DeValue::Float(_) => "a number",
        DeValue::Boolean(_) => "a boolean",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "an array",
        DeValue::Table(_) => "a table",
    }
}

fn expected(what: &str, got: &DeValue<'_>) -> String {
    format!("expected {what}, found {}", kind(got))
}

/// A string, possibly empty.
pub(crate) fn string(value: &DeValue<'_>) -> Parsed<String> {
    match value {
        DeValue::String(text) => Ok(text.to_string()),
        other => Err(expected("a string", other)),
    }
}

pub(crate) fn boolean(value: &DeValue<'_>) -> Parsed<bool> {
    match value {
        DeValue::Boolean(b) => Ok(*b),
        other => Err(expected("true or false", other)),
    }
}

/// A whole number within `min..=max`.
pub(crate) fn integer(min: u64, max: u64) -> impl Fn(&DeValue<'_>) -> Parsed<u64> {
    move |value| {
        let DeValue::Integer(n) = value else { return Err(expected("an integer", value)) };
        match u64::from_str_radix(n.as_str(), n.radix()) {
            Ok(n) if (min..=max).contains(&n) => Ok(n),
            _ => Err(format!("{n} is not within {min} to {max}")),
        }
    }
}

/// A node, region or zone name.
pub(crate) fn name(value: &DeValue<'_>) -> Parsed<String> {
    let text = string(value)?;
    label(&text).map_err(|e| format!("{text:?}: {e}"))
}

/// A path; not empty.
pub(crate) fn path(value: &DeValue<'_>) -> Parsed<PathBuf> {
    let text = string(value)?;
    if text.is_empty() { Err("a path is expected, this is empty".into()) } else { Ok(text.into()) }
}

/// `ip:port`, where to listen. Port 0 asks for any free one.
pub(crate) fn listen(value: &DeValue<'_>) -> Parsed<SocketAddr> {
    let text = string(value)?;
    text.parse().map_err(|_| format!("{text:?} is not an address to listen on, such as \"127.0.0.1:5000\""))
}

/// `host:port`, where others reach this node: a DNS name, an IPv4 address or an IPv6 one in brackets.
pub(crate) fn reachable(value: &DeValue<'_>) -> Parsed<String> {
    let text = string(value)?;
    if is_reachable(&text) {
        Ok(text)
    } else {
        Err(format!("{text:?} is not an address others can reach, such as \"node1.example:7000\""))
    }
}

fn is_reachable(text: &str) -> bool {
    if let Ok(address) = text.parse::<SocketAddr>() {
        return address.port() != 0 && !address.ip().is_unspecified();
    }
    let Some((host, port)) = text.rsplit_once(':') else { return false };
    let port_ok = port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok_and(|p| p != 0);
    let name_ok = host.len() <= 253
        && !host.bytes().all(|b| b.is_ascii_digit() || b == b'.')
        && host.split('.').all(|part| label(&part.to_ascii_lowercase()).is_ok());
    port_ok && name_ok
}

/// Bytes: an integer, or digits and a unit, `"512MiB"`, `"10GiB"`, `"2TB"`.
pub(crate) fn size(value: &DeValue<'_>) -> Parsed<u64> {
    const UNITS: [(&str, u64); 9] = [
        ("B", 1),
        ("kB", 1000),
        ("MB", 1000 * 1000),
        ("GB", 1000 * 1000 * 1000),
        ("TB", 1000 * 1000 * 1000 * 1000),
        ("KiB", 1 << 10),
        ("MiB", 1 << 20),
        ("GiB", 1 << 30),
        ("TiB", 1 << 40),
    ];
    if let DeValue::Integer(_) = value {
        return integer(0, i64::MAX.unsigned_abs())(value);
    }
    let DeValue::String(text) = value else { return Err(expected("a size such as \"10GiB\"", value)) };
    scaled(text, &UNITS).ok_or_else(|| format!("{text:?} is not a size such as \"512MiB\" or \"10GiB\""))
}

/// A size within `min..=max` bytes.
pub(crate) fn size_within(min: u64, max: u64) -> impl Fn(&DeValue<'_>) -> Parsed<u64> {
    move |value| match size(value)? {
        bytes if (min..=max).contains(&bytes) => Ok(bytes),
        bytes => Err(format!("{bytes} bytes is not within {min} to {max}")),
    }
}

/// A time span: digits and a unit, `"500ms"`, `"30s"`, `"5m"`, `"24h"`, `"7d"`; longer than zero.
pub(crate) fn duration(value: &DeValue<'_>) -> Parsed<Duration> {
    const UNITS: [(&str, u64); 5] =
        [("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];
    let DeValue::String(text) = value else { return Err(expected("a duration such as \"30s\"", value)) };
    match scaled(text, &UNITS) {
        Some(0) => Err("a duration longer than zero is expected".into()),
        Some(ms) => Ok(Duration::from_millis(ms)),
        None => Err(format!("{text:?} is not a duration such as \"500ms\", \"30s\" or \"24h\"")),
    }
}

/// A size, or a share of a device in whole percent: `"20GiB"`, `"10%"`.
pub(crate) fn cache_size(value: &DeValue<'_>) -> Parsed<CacheSize> {
    let DeValue::String(text) = value else { return size(value).map(CacheSize::Bytes) };
    let Some(percent) = text.strip_suffix('%') else { return size(value).map(CacheSize::Bytes) };
    let percent = percent.trim_end();
    let digits = percent.bytes().all(|byte| byte.is_ascii_digit());
    let share = percent.parse().ok().filter(|percent| digits && *percent <= 100);
    share.map(CacheSize::Share).ok_or_else(|| format!("{text:?} is not a share such as \"10%\""))
}

/// A time span between these two, both included.
pub(crate) fn duration_within(least: Duration, most: Duration) -> impl Fn(&DeValue<'_>) -> Parsed<Duration> {
    move |value| {
        let time = duration(value)?;
        let within = (least..=most).contains(&time);
        within.then_some(time).ok_or_else(|| format!("a duration from {least:?} to {most:?} is expected"))
    }
}

/// Digits times a unit; `None` for anything else, an unknown unit or an overflow.
fn scaled(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let factor = units.iter().find(|(name, _)| *name == unit.trim_start())?.1;
    number.parse::<u64>().ok()?.checked_mul(factor)
}

/// One of a few words.
pub(crate) fn word<T: Copy>(choices: &'static [(&'static str, T)]) -> impl Fn(&DeValue<'_>) -> Parsed<T> {
    move |value| {
        let text = string(value)?;
        choices.iter().find(|(word, _)| *word == text).map(|(_, choice)| *choice).ok_or_else(|| {
            let words: Vec<_> = choices.iter().map(|(word, _)| format!("{word:?}")).collect();
            format!("{text:?} is not one of {}", words.join(", "))
        })
    }
}

pub(crate) fn durability(value: &DeValue<'_>) -> Parsed<Durability> {
    word(&[("local", Durability::Local), ("zone", Durability::Zone), ("region", Durability::Region)])(value)
}

/// A list of `"voter"` and `"storage"`, at least one, none twice.
pub(crate) fn roles(value: &DeValue<'_>) -> Parsed<Roles> {
    let DeValue::Array(items) = value else { return Err(expected("an array of roles", value)) };
    let mut roles = Roles { voter: false, storage: false };
    for item in items {
        let text = string(item.get_ref())?;
        let role = match text.as_str() {
            "voter" => &mut roles.voter,
            "storage" => &mut roles.storage,
            _ => return Err(format!("{text:?} is not a role: a node is \"voter\", \"storage\" or both")),
        };
        if std::mem::replace(role, true) {
            return Err(format!("{text:?} is listed twice"));
        }
    }
    if roles.voter || roles.storage {
        Ok(roles)
    } else {
        Err("a node needs a role: \"voter\", \"storage\" or both".into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Parses `text` as a TOML value and hands it to `parse`.
    fn of<T>(text: &str, parse: impl Fn(&DeValue<'_>) -> Parsed<T>) -> Parsed<T> {
        parse(DeValue::parse(text).unwrap().get_ref())
    }

    #[test]
    fn sizes_have_units_and_do_not_overflow() {
        assert_eq!(of("4096", size), Ok(4096));
        assert_eq!(of("\"10GiB\"", size), Ok(10 << 30));
        assert_eq!(of("\"2 MB\"", size), Ok(2_000_000));
        for bad in
            ["\"\"", "\"10\"", "\"GiB\"", "\"-1GiB\"", "\"1.5GiB\"", "\"99999999999TiB\"", "-1", "true"]
        {
            assert!(of(bad, size).is_err(), "{bad}");
        }
    }

    #[test]
    fn durations_are_longer_than_zero() {
        assert_eq!(of("\"250ms\"", duration), Ok(Duration::from_millis(250)));
        assert_eq!(of("\"2d\"", duration), Ok(Duration::from_secs(172_800)));
        for bad in ["\"0s\"", "\"1 fortnight\"", "30", "\"s\""] {
            assert!(of(bad, duration).is_err(), "{bad}");
        }
        let within = duration_within(Duration::from_secs(1), Duration::from_secs(600));
        assert_eq!(of("\"10m\"", &within), Ok(Duration::from_secs(600)));
        assert!(of("\"999ms\"", &within).is_err() && of("\"601s\"", &within).is_err());
    }

    #[test]
    fn a_cache_has_bytes_or_a_share() {
        assert_eq!(of("\"20GiB\"", cache_size), Ok(CacheSize::Bytes(20 << 30)));
        for (good, percent) in [("\"10%\"", 10), ("\"0%\"", 0), ("\"100 %\"", 100)] {
            assert_eq!(of(good, cache_size), Ok(CacheSize::Share(percent)), "{good}");
        }
        for bad in ["\"101%\"", "\"%\"", "\"-1%\"", "\"1.5%\"", "\"+5%\"", "true", "\"much\""] {
            assert!(of(bad, cache_size).is_err(), "{bad}");
        }
    }

    #[test]
    fn advertised_addresses_can_be_reached() {
        for good in ["a:1", "node-1.example.org:7000", "10.0.0.1:7000", "[fd00::1]:7000", "Host:80"] {
            assert!(is_reachable(good), "{good}");
        }
        for bad in [
            "a",
            "a:",
            ":1",
            "a:0",
            "a:65536",
            "a:+1",
            "0.0.0.0:7000",
            "[::]:7000",
            "1.2.3:80",
            "a_b:1",
            "::1:5",
            "a b:1",
        ] {
            assert!(!is_reachable(bad), "{bad}");
        }
    }

    #[test]
    fn roles_are_named_once_and_at_least_one() {
        assert_eq!(of("[\"voter\"]", roles), Ok(Roles { voter: true, storage: false }));
        assert_eq!(of("[\"storage\", \"voter\"]", roles), Ok(Roles { voter: true, storage: true }));
        for bad in ["[]", "[\"voter\", \"voter\"]", "[\"leader\"]", "\"voter\"", "[1]"] {
            assert!(of(bad, roles).is_err(), "{bad}");
        }
    }
}
