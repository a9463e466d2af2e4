//! What a link does to what passes it, and how people write that. Pure.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// One direction of a link. The default does nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Shape {
    /// How long everything takes.
    pub delay: Duration,
    /// How much longer or shorter it may take, drawn evenly. It reorders nothing by itself.
    pub jitter: Duration,
    /// The share of datagrams, and of pieces of TCP, that are lost: 0 to 1.
    pub loss: f64,
    /// The share of datagrams that are overtaken by those up to [`OVERTAKEN`] behind them: 0 to 1.
    pub reorder: f64,
    /// Bytes a second; `None` for no limit.
    pub rate: Option<u64>,
}

/// How much later a datagram comes that is overtaken.
pub(crate) const OVERTAKEN: Duration = Duration::from_millis(3);
/// Linux sends again no earlier than this after a round trip.
const RESEND: Duration = Duration::from_millis(200);

impl Shape {
    /// How long a kernel waits before it sends a lost piece again, for the first time.
    pub(crate) fn resend(&self) -> Duration {
        2 * self.delay + 2 * self.jitter + RESEND
    }
}

/// A text that describes no link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShapeError(String);

impl fmt::Display for ShapeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "`{}` is neither a round trip (80ms, or 80ms~20ms with jitter), nor a rate (1gbit, 100mbit), nor a loss (1%)",
            self.0
        )
    }
}

impl std::error::Error for ShapeError {}

impl FromStr for Shape {
    type Err = ShapeError;

    /// `ROUND-TRIP[~JITTER][,RATE][,LOSS]`, as in `400ms~80ms,1gbit,1%`. Each direction gets half of the round trip
    /// and of its jitter, and all of the rate and the loss.
    fn from_str(text: &str) -> Result<Shape, ShapeError> {
        let mut parts = text.split(',').map(str::trim);
        let mut shape = parts.next().and_then(round_trip).ok_or_else(|| ShapeError(text.to_owned()))?;
        for part in parts {
            match (rate(part), loss(part)) {
                (Some(rate), _) => shape.rate = Some(rate),
                (_, Some(loss)) => shape.loss = loss,
                _ => return Err(ShapeError(part.to_owned())),
            }
        }
        Ok(shape)
    }
}

fn round_trip(text: &str) -> Option<Shape> {
    let (delay, jitter) = text.split_once('~').unwrap_or((text, "0ms"));
    let delay = half(delay)?;
    let jitter = half(jitter)?;
    (jitter <= delay).then_some(Shape { delay, jitter, ..Shape::default() })
}

fn half(text: &str) -> Option<Duration> {
    let ms: u32 = text.strip_suffix("ms")?.parse().ok()?;
    // Beyond this nothing of ours is meant to work.
    (ms <= 10_000).then_some(Duration::from_millis(ms.into()) / 2)
}

fn rate(text: &str) -> Option<u64> {
    let units = [("gbit", 125_000_000), ("mbit", 125_000), ("kbit", 125)];
    let (number, unit) = units.iter().find_map(|(name, bytes)| Some((text.strip_suffix(name)?, *bytes)))?;
    let number: u64 = number.parse().ok()?;
    number.checked_mul(unit).filter(|rate| *rate > 0)
}

fn loss(text: &str) -> Option<f64> {
    let percent: f64 = text.strip_suffix('%')?.parse().ok()?;
    (0.0..=100.0).contains(&percent).then_some(percent / 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Option<Shape> {
        text.parse().ok()
    }

    #[test]
    fn a_round_trip_is_halved_and_the_rest_is_not() {
        let ms = Duration::from_millis;
        let plain = Shape { delay: ms(40), ..Shape::default() };
        assert_eq!(parsed("80ms"), Some(plain));
        assert_eq!(parsed("80ms,1gbit"), Some(Shape { rate: Some(125_000_000), ..plain }));
        let rough =
            Shape { delay: ms(200), jitter: ms(40), loss: 0.01, rate: Some(12_500_000), reorder: 0.0 };
        assert_eq!(parsed("400ms~80ms, 100mbit, 1%"), Some(rough));
        assert_eq!(parsed("0ms"), Some(Shape::default()));
    }

    #[test]
    fn what_is_no_shape_is_refused() {
        for text in
            ["", "80", "-1ms", "80ms~90ms", "80ms,", "80ms,fast", "80ms,0gbit", "80ms,101%", "99999ms", "1%"]
        {
            assert_eq!(parsed(text), None, "{text}");
        }
    }
}
