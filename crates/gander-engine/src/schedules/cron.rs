//! When a schedule is due: cron expressions in the machine's local time.
//!
//! Where day of month and weekday are both restricted, both must match, as in Goose, with which the file of schedules is
//! shared; other crons are due on either. When clocks go forward, a time of day that is left out is due right after the
//! gap, and steps (`*/30`) go on after it. When they go back, a time of day is due once, at its first pass, and steps in
//! both passes. A zone's rules count as they are on the day: nothing is an hour late until the daemon restarts.

use chrono::{DateTime, Local, TimeZone};
use croner::{
    Cron,
    parser::{CronParser, Seconds, Year},
};
use gander_domain::{ErrorDetail, ErrorReason, Timestamp};

/// Names of the six fields, and what they take.
const FIELDS: [(&str, &str); 6] = [
    ("second", "0-59"),
    ("minute", "0-59"),
    ("hour", "0-23"),
    ("day of month", "1-31"),
    ("month", "1-12 or JAN-DEC"),
    ("weekday", "0-7 (0 and 7 are Sunday) or SUN-SAT"),
];

/// Reads five fields, or six with seconds first.
pub(super) fn parse(text: &str) -> Result<Cron, ErrorDetail> {
    let invalid = |why: String| {
        let mut error = ErrorDetail::invalid("cron", why).with("cron", text);
        error.reason = ErrorReason::CronInvalid;
        error
    };
    let fields: Vec<&str> = text.split_whitespace().collect();
    if !matches!(fields.len(), 5 | 6) || text.contains('@') {
        let count = fields.len();
        return Err(invalid(format!(
            "has {count} fields; write five (minute hour day month weekday), or six with seconds first, for example \
             `0 9 * * 1-5`"
        )));
    }
    let cron = parser().parse(text).map_err(|error| {
        invalid(wrong_field(&fields).unwrap_or_else(|| format!("is not understood ({error})")))
    })?;
    // A day that never comes is found here, not at night.
    match next(&cron, Timestamp(0)) {
        Some(_) => Ok(cron),
        None => Err(invalid("is never due: there is no such day".to_owned())),
    }
}

fn parser() -> CronParser {
    CronParser::builder().seconds(Seconds::Optional).year(Year::Disallowed).dom_and_dow(true).build()
}

/// Names the first field that is wrong even with nothing beside it.
fn wrong_field(fields: &[&str]) -> Option<String> {
    let names = &FIELDS[FIELDS.len() - fields.len()..];
    let (field, (name, range)) = fields.iter().zip(names).enumerate().find_map(|(at, (field, name))| {
        let mut alone = vec!["*"; fields.len()];
        alone[at] = field;
        parser().parse(&alone.join(" ")).is_err().then_some((field, name))
    })?;
    Some(format!(
        "has the {name} {field:?}, which is not understood; it takes {range}, also as a list (1,2), a range (1-5), \
         a step (*/2) or `*`"
    ))
}

/// The first time after `after` at which it is due.
pub(super) fn next(cron: &Cron, after: Timestamp) -> Option<Timestamp> {
    next_in(cron, after, &Local)
}

fn next_in<Z: TimeZone>(cron: &Cron, after: Timestamp, zone: &Z) -> Option<Timestamp> {
    let after: DateTime<Z> = zone.timestamp_micros(after.0).single()?;
    let next = cron.find_next_occurrence(&after, false).ok()?;
    Some(Timestamp(next.timestamp_micros()))
}

#[cfg(test)]
mod tests {
    use chrono_tz::Tz;

    use super::*;

    #[test]
    fn five_and_six_fields() {
        // In whole minutes, so that the zone of the machine does not matter.
        let at = Timestamp::from_seconds(1_700_000_030);
        for (text, seconds) in [
            ("* * * * *", 1_700_000_040),
            ("*/10 * * * * *", 1_700_000_040),
            ("5 * * * * *", 1_700_000_045),
            ("* * * * * *", 1_700_000_031),
        ] {
            assert_eq!(next(&parse(text).unwrap(), at), Some(Timestamp::from_seconds(seconds)), "{text}");
        }
        let exact = Timestamp::from_seconds(1_700_000_040);
        assert_eq!(next(&parse("* * * * *").unwrap(), exact), Some(Timestamp::from_seconds(1_700_000_100)));
    }

    #[test]
    fn mistakes_are_told() {
        for (text, part) in [
            ("", "has 0 fields; write five"),
            ("* * * *", "has 4 fields"),
            ("* * * * * * *", "has 7 fields"),
            ("@daily", "for example `0 9 * * 1-5`"),
            ("61 * * * *", "minute \"61\", which is not understood; it takes 0-59"),
            ("61 0 * * * *", "second \"61\""),
            ("0 24 * * *", "hour \"24\""),
            ("0 0 0 * *", "day of month \"0\""),
            ("0 0 * 13 *", "month \"13\""),
            ("0 0 * * FOO", "weekday \"FOO\""),
            ("x * * * *", "minute \"x\""),
            ("*/0 * * * *", "minute \"*/0\""),
            ("0 0 31 2 *", "is never due"),
        ] {
            let error = parse(text).unwrap_err();
            assert_eq!(error.reason, ErrorReason::CronInvalid, "{text}");
            assert!(error.message.contains(part), "{text}: {error}");
            assert_eq!(error.violations[0].field, "cron", "{text}");
        }
    }

    /// Due times after each other, as people in the zone read them.
    fn due(text: &str, zone: Tz, after: &str, count: usize) -> Vec<String> {
        let cron = parse(text).unwrap();
        let mut at = Timestamp(DateTime::parse_from_rfc3339(after).unwrap().timestamp_micros());
        let step = |_| {
            at = next_in(&cron, at, &zone).unwrap();
            zone.timestamp_micros(at.0).unwrap().to_rfc3339()
        };
        (0..count).map(step).collect()
    }

    #[test]
    fn zones_and_their_clock_changes() {
        use chrono_tz::{America::New_York, Asia::Kolkata, Australia::Lord_Howe, Europe::Berlin};
        for (text, zone, after, expected) in [
            // Forward on March 29th, 2026: there is no half past two.
            (
                "30 2 * * *",
                Berlin,
                "2026-03-28T02:30:00+01:00",
                ["2026-03-29T03:00:00+02:00", "2026-03-30T02:30:00+02:00"],
            ),
            (
                "*/30 * * * *",
                Berlin,
                "2026-03-29T01:00:00+01:00",
                ["2026-03-29T01:30:00+01:00", "2026-03-29T03:00:00+02:00"],
            ),
            // A morning stays a morning.
            (
                "0 9 * * 1-5",
                Berlin,
                "2026-03-27T08:00:00+01:00",
                ["2026-03-27T09:00:00+01:00", "2026-03-30T09:00:00+02:00"],
            ),
            // Back on October 25th: half past two comes twice.
            (
                "30 2 * * *",
                Berlin,
                "2026-10-25T00:00:00+02:00",
                ["2026-10-25T02:30:00+02:00", "2026-10-26T02:30:00+01:00"],
            ),
            (
                "*/30 2 * * *",
                Berlin,
                "2026-10-25T02:00:00+02:00",
                ["2026-10-25T02:30:00+02:00", "2026-10-25T02:00:00+01:00"],
            ),
            (
                "0 0 * * *",
                Berlin,
                "2026-10-25T00:00:00+02:00",
                ["2026-10-26T00:00:00+01:00", "2026-10-27T00:00:00+01:00"],
            ),
            (
                "15 1 * * *",
                New_York,
                "2026-11-01T00:00:00-04:00",
                ["2026-11-01T01:15:00-04:00", "2026-11-02T01:15:00-05:00"],
            ),
            // Clocks that change by half an hour, and a zone that is half an hour beside the others.
            (
                "15 2 * * *",
                Lord_Howe,
                "2026-10-03T12:00:00+10:30",
                ["2026-10-04T02:30:00+11:00", "2026-10-05T02:15:00+11:00"],
            ),
            (
                "0 0 1 * *",
                Kolkata,
                "2026-01-31T18:29:59Z",
                ["2026-02-01T00:00:00+05:30", "2026-03-01T00:00:00+05:30"],
            ),
        ] {
            assert_eq!(due(text, zone, after, 2), expected, "{text} in {zone} after {after}");
        }
    }

    #[test]
    fn days_of_month_and_week() {
        let utc = Tz::UTC;
        for (text, expected) in [
            // Both must match: Fridays that are a 13th, not every Friday and every 13th.
            ("0 0 13 * 5", ["2026-02-13", "2026-03-13", "2026-11-13"]),
            ("0 0 1-7 * MON", ["2026-01-05", "2026-02-02", "2026-03-02"]),
            // One of them alone.
            ("0 0 13 * *", ["2026-01-13", "2026-02-13", "2026-03-13"]),
            ("0 0 * * 5", ["2026-01-02", "2026-01-09", "2026-01-16"]),
            ("0 0 * * 7", ["2026-01-04", "2026-01-11", "2026-01-18"]),
            ("0 0 * * SUN", ["2026-01-04", "2026-01-11", "2026-01-18"]),
            ("0 0 29 FEB *", ["2028-02-29", "2032-02-29", "2036-02-29"]),
            ("0 0 L * *", ["2026-01-31", "2026-02-28", "2026-03-31"]),
            ("0 0 * * 1#1", ["2026-01-05", "2026-02-02", "2026-03-02"]),
        ] {
            let days: Vec<String> = due(text, utc, "2026-01-01T00:00:00Z", 3);
            let expected = expected.map(|day| format!("{day}T00:00:00+00:00"));
            assert_eq!(days, expected, "{text}");
        }
    }
}
