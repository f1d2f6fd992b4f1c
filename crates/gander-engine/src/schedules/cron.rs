//! When a schedule is due: cron expressions in the machine's local time.

use chrono::{DateTime, Local, TimeZone as _};
use croner::{
    Cron,
    parser::{CronParser, Seconds, Year},
};
use gander_domain::{ErrorDetail, ErrorReason, Timestamp};

/// Reads five fields, or six with seconds first. Day of month and day of week must both match, as in Goose.
pub(super) fn parse(text: &str) -> Result<Cron, ErrorDetail> {
    let invalid = |why: String| {
        let mut error = ErrorDetail::invalid("cron", why);
        error.reason = ErrorReason::CronInvalid;
        error
    };
    let fields = text.split_whitespace().count();
    if !matches!(fields, 5 | 6) || text.contains('@') {
        return Err(invalid(format!(
            "has {fields} fields; write five (minute hour day month weekday), or six with seconds first, for example \
             `0 9 * * 1-5`"
        )));
    }
    let parser =
        CronParser::builder().seconds(Seconds::Optional).year(Year::Disallowed).dom_and_dow(true).build();
    let cron = parser.parse(text).map_err(|e| invalid(e.to_string()))?;
    // A day that never comes is found here, not at night.
    match next(&cron, Timestamp(0)) {
        Some(_) => Ok(cron),
        None => Err(invalid("is never due".to_owned())),
    }
}

/// The first time after `after` at which it is due.
pub(super) fn next(cron: &Cron, after: Timestamp) -> Option<Timestamp> {
    let after: DateTime<Local> = Local.timestamp_micros(after.0).single()?;
    let next = cron.find_next_occurrence(&after, false).ok()?;
    Some(Timestamp(next.timestamp_micros()))
}

#[cfg(test)]
mod tests {
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
        for text in ["", "* * * *", "* * * * * * *", "61 * * * *", "@daily", "x * * * *", "0 0 31 2 *"] {
            let error = parse(text).unwrap_err();
            assert_eq!(error.reason, ErrorReason::CronInvalid, "{text}");
        }
    }
}
