//! Times of the API ⇄ Goose's: whole seconds in messages, RFC 3339 in documents.

use prost_types::Timestamp;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// Whole seconds, as Goose counts.
pub fn seconds(time: Option<&Timestamp>) -> i64 {
    time.map_or(0, |time| time.seconds)
}

/// RFC 3339 in UTC; empty without a time.
pub fn rfc3339(time: Option<&Timestamp>) -> String {
    let time = time.and_then(|time| {
        let nanos = i128::from(time.seconds) * 1_000_000_000 + i128::from(time.nanos);
        OffsetDateTime::from_unix_timestamp_nanos(nanos).ok()
    });
    time.and_then(|time| time.format(&Rfc3339).ok()).unwrap_or_default()
}

/// A time from RFC 3339; `None` for whatever else stands there.
pub(super) fn parsed(text: &str) -> Option<Timestamp> {
    let time = OffsetDateTime::parse(text, &Rfc3339).ok()?;
    Some(Timestamp { seconds: time.unix_timestamp(), nanos: i32::try_from(time.nanosecond()).ok()? })
}

/// A time from whole seconds. Times beyond the year 9999 are no times of the API.
pub(super) fn from_seconds(seconds: i64) -> Option<Timestamp> {
    (0..=253_402_300_799).contains(&seconds).then_some(Timestamp { seconds, nanos: 0 })
}
