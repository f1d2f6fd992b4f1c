//! pb ⇄ domain, one file per family.
//!
//! Domain → pb is total and takes references, since events are shared. pb → domain is validation: it collects *all*
//! violations of a request, with dotted paths, so that one answer tells a caller everything that is wrong. A value that
//! passed is a valid domain value. No conversion does IO, asks a clock, or knows the engine.

pub(crate) mod content;
pub(crate) mod enums;
pub(crate) mod event;
pub(crate) mod extension;
pub(crate) mod host;
pub(crate) mod interaction;
pub(crate) mod item;
pub(crate) mod session;
pub(crate) mod tool;
pub(crate) mod turn;
pub(crate) mod usage;

#[cfg(test)]
mod samples;
#[cfg(test)]
mod tests;

use std::{fmt, time::Duration};

use gander_domain::{ErrorDetail, ErrorReason, Timestamp, error::FieldViolation, id::InvalidId};
use gander_proto::v1 as pb;

/// Longest name, title or key that a request may carry, in bytes.
pub(crate) const MAX_NAME_BYTES: usize = 1024;
/// Longest JSON document or text field of a request, in bytes.
pub(crate) const MAX_TEXT_BYTES: usize = 16 * 1024 * 1024;
/// Most violations that one error reports; more would not fit into the trailers.
const MAX_VIOLATIONS: usize = 16;
/// Longest wait that a request may ask for.
const MAX_DURATION: Duration = Duration::from_secs(366 * 24 * 3600);

/// A path below a request message. Costs nothing until it is printed.
#[derive(Clone, Copy)]
pub(crate) struct At<'a> {
    parent: Option<&'a At<'a>>,
    name: &'a str,
    index: Option<usize>,
}

impl<'a> At<'a> {
    /// A field of the request itself.
    pub(crate) const fn root(name: &'a str) -> Self {
        Self { parent: None, name, index: None }
    }

    /// A field below this one.
    pub(crate) const fn field(&'a self, name: &'a str) -> At<'a> {
        At { parent: Some(self), name, index: None }
    }

    /// An element of the repeated field `name` below this one.
    pub(crate) const fn element(&'a self, name: &'a str, index: usize) -> At<'a> {
        At { parent: Some(self), name, index: Some(index) }
    }

    /// An element of the repeated field `name` of the request.
    pub(crate) const fn root_element(name: &'a str, index: usize) -> Self {
        Self { parent: None, name, index: Some(index) }
    }
}

impl fmt::Display for At<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(parent) = self.parent {
            write!(f, "{parent}.")?;
        }
        f.write_str(self.name)?;
        match self.index {
            Some(index) => write!(f, "[{index}]"),
            None => Ok(()),
        }
    }
}

/// Everything that is wrong with a request.
#[derive(Debug, Default)]
pub(crate) struct Violations(Vec<FieldViolation>);

impl Violations {
    /// Notes that a field is wrong, and what would be right.
    pub(crate) fn add(&mut self, at: &At<'_>, description: impl Into<String>) {
        self.0.push(FieldViolation { field: at.to_string(), description: description.into() });
    }

    /// The value, if nothing was wrong.
    ///
    /// # Errors
    /// `INVALID_FIELD` with all violations.
    pub(crate) fn finish<T>(mut self, value: Option<T>) -> Result<T, ErrorDetail> {
        if self.0.is_empty()
            && let Some(value) = value
        {
            return Ok(value);
        }
        let count = self.0.len();
        let message = match self.0.first() {
            None => "the request is incomplete".to_owned(),
            Some(first) if count == 1 => format!("{}: {}", first.field, first.description),
            Some(first) => format!("{}: {} (and {} more)", first.field, first.description, count - 1),
        };
        let mut error = ErrorDetail::new(ErrorReason::InvalidField, message);
        if let Some(first) = self.0.first() {
            error = error.with("field", &first.field);
        }
        self.0.truncate(MAX_VIOLATIONS);
        error.violations = self.0;
        Err(error)
    }

    /// A required id.
    pub(crate) fn id<T>(
        &mut self,
        at: &At<'_>,
        text: &str,
        new: fn(&str) -> Result<T, InvalidId>,
    ) -> Option<T> {
        new(text).map_err(|e| self.add(at, e.to_string())).ok()
    }

    /// An id that may be left out.
    pub(crate) fn optional_id<T>(
        &mut self,
        at: &At<'_>,
        text: &str,
        new: fn(&str) -> Result<T, InvalidId>,
    ) -> Option<T> {
        if text.is_empty() { None } else { self.id(at, text, new) }
    }

    /// A required message.
    pub(crate) fn required<T>(&mut self, at: &At<'_>, value: Option<T>) -> Option<T> {
        if value.is_none() {
            self.add(at, "must be set");
        }
        value
    }

    /// A short text that must not be empty.
    pub(crate) fn name(&mut self, at: &At<'_>, text: String) -> String {
        if text.is_empty() {
            self.add(at, "must not be empty");
        }
        self.short(at, text)
    }

    /// A short text that may be empty.
    pub(crate) fn short(&mut self, at: &At<'_>, text: String) -> String {
        if text.len() > MAX_NAME_BYTES {
            self.add(at, format!("must have at most {MAX_NAME_BYTES} bytes, has {}", text.len()));
        }
        text
    }

    /// A long text.
    pub(crate) fn text(&mut self, at: &At<'_>, text: String) -> String {
        if text.len() > MAX_TEXT_BYTES {
            self.add(at, format!("must have at most {MAX_TEXT_BYTES} bytes, has {}", text.len()));
        }
        text
    }

    /// JSON text with an object in it; empty is `None`.
    pub(crate) fn json_object(&mut self, at: &At<'_>, text: String) -> Option<String> {
        if text.is_empty() {
            return None;
        }
        let text = self.text(at, text);
        // Parsed for validation only: the text itself is passed on verbatim.
        match serde_json::from_str::<serde::de::IgnoredAny>(&text) {
            Err(e) => self.add(at, format!("must be JSON text: {e}")),
            Ok(_) if !text.trim_start().starts_with('{') => self.add(at, "must be a JSON object"),
            Ok(_) => {}
        }
        Some(text)
    }

    /// JSON text; empty is `None`.
    pub(crate) fn json(&mut self, at: &At<'_>, text: String) -> Option<String> {
        if text.is_empty() {
            return None;
        }
        let text = self.text(at, text);
        if let Err(e) = serde_json::from_str::<serde::de::IgnoredAny>(&text) {
            self.add(at, format!("must be JSON text: {e}"));
        }
        Some(text)
    }

    /// A point in time.
    pub(crate) fn time(&mut self, at: &At<'_>, time: Option<prost_types::Timestamp>) -> Option<Timestamp> {
        let time = time?;
        // 0001-01-01 to 9999-12-31, as the well-known type says.
        if !(-62_135_596_800..=253_402_300_799).contains(&time.seconds)
            || !(0..1_000_000_000).contains(&time.nanos)
        {
            self.add(at, "must be a time between the years 1 and 9999 with 0 to 999999999 nanos");
            return None;
        }
        Some(Timestamp(time.seconds * 1_000_000 + i64::from(time.nanos / 1_000)))
    }

    /// A span of time, zero or longer.
    pub(crate) fn duration(
        &mut self,
        at: &At<'_>,
        duration: Option<prost_types::Duration>,
    ) -> Option<Duration> {
        let duration = duration?;
        let valid = duration.seconds >= 0 && (0..1_000_000_000).contains(&duration.nanos);
        let value = Duration::new(
            u64::try_from(duration.seconds).unwrap_or(0),
            u32::try_from(duration.nanos).unwrap_or(0).min(999_999_999),
        );
        if !valid || value > MAX_DURATION {
            self.add(at, "must be a duration between 0 and 366 days");
            return None;
        }
        Some(value)
    }

    /// A number that must be at least one.
    pub(crate) fn positive<T: TryFrom<i64>>(&mut self, at: &At<'_>, number: Option<i64>) -> Option<T> {
        let number = number?;
        let value = (number > 0).then(|| T::try_from(number).ok()).flatten();
        if value.is_none() {
            self.add(at, format!("must be greater than zero and within range, is {number}"));
        }
        value
    }

    /// A number that must not be negative.
    pub(crate) fn count(&mut self, at: &At<'_>, number: i64) -> u64 {
        u64::try_from(number).unwrap_or_else(|_| {
            self.add(at, format!("must not be negative, is {number}"));
            0
        })
    }

    /// An absolute path.
    pub(crate) fn absolute_path(&mut self, at: &At<'_>, path: String) -> String {
        if !path.starts_with('/') {
            self.add(at, "must be an absolute path");
        } else if path.contains('\0') {
            self.add(at, "must not contain NUL");
        }
        path
    }

    /// A required value of an enum.
    pub(crate) fn required_enum<T>(
        &mut self,
        at: &At<'_>,
        number: i32,
        convert: fn(i32) -> Option<T>,
    ) -> Option<T> {
        let value = convert(number);
        if value.is_none() {
            let what = if number == 0 { "must be set" } else { "has a value that this daemon does not know" };
            self.add(at, format!("{what} ({number})"));
        }
        value
    }

    /// A value of an enum that may be left unset.
    pub(crate) fn optional_enum<T>(
        &mut self,
        at: &At<'_>,
        number: i32,
        convert: fn(i32) -> Option<T>,
    ) -> Option<T> {
        if number == 0 { None } else { self.required_enum(at, number, convert) }
    }
}

/// A point in time as proto has it.
pub(crate) fn time_to_pb(time: Timestamp) -> prost_types::Timestamp {
    prost_types::Timestamp { seconds: time.seconds(), nanos: time.subsecond_nanos() }
}

/// A span of milliseconds as proto has it.
pub(crate) fn millis_to_pb(millis: u64) -> prost_types::Duration {
    prost_types::Duration {
        seconds: i64::try_from(millis / 1_000).unwrap_or(i64::MAX),
        nanos: i32::try_from(millis % 1_000 * 1_000_000).unwrap_or(0),
    }
}

/// A span of time as proto has it.
pub(crate) fn duration_to_pb(duration: Duration) -> prost_types::Duration {
    prost_types::Duration {
        seconds: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(duration.subsec_nanos()).unwrap_or(0),
    }
}

/// Whole milliseconds of a span.
pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Counts never come near the limits of their types; saturating keeps the conversion total.
pub(crate) fn int32(number: impl TryInto<i32>) -> i32 {
    number.try_into().unwrap_or(i32::MAX)
}

/// See [`int32`].
pub(crate) fn int64(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// A text that may be absent; proto has empty for that.
pub(crate) fn or_empty<T: AsRef<str>>(text: Option<&T>) -> String {
    text.map(|t| t.as_ref().to_owned()).unwrap_or_default()
}

/// The reverse of [`or_empty`].
pub(crate) fn non_empty(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}

/// An error as events and results carry it.
pub(crate) fn error_to_pb(error: &ErrorDetail) -> pb::ErrorDetail {
    pb::ErrorDetail {
        reason: enums::error_reason_to_pb(error.reason) as i32,
        message: error.message.clone(),
        metadata: error.metadata.iter().map(|(k, v)| (k.clone(), v.clone())).collect(),
        retry_after: error.retry_after_ms.map(millis_to_pb),
    }
}

/// The reverse. A reason of a newer version becomes `INTERNAL`, as its meaning is unknown here.
pub(crate) fn error_from_pb(error: pb::ErrorDetail, at: &At<'_>, v: &mut Violations) -> ErrorDetail {
    let mut detail = ErrorDetail::new(
        enums::error_reason_from_pb(error.reason).unwrap_or(ErrorReason::Internal),
        v.text(&at.field("message"), error.message),
    );
    detail.metadata = error.metadata.into_iter().collect();
    detail.retry_after_ms = v.duration(&at.field("retry_after"), error.retry_after).map(millis);
    detail
}

/// Who did something.
pub(crate) fn actor_to_pb(actor: &gander_domain::Actor) -> pb::Actor {
    pb::Actor {
        principal: actor.principal.clone(),
        client_name: actor.client_name.clone(),
        protocol: actor.protocol.clone(),
    }
}
