//! Whether and when a failed model call is made again.

use std::time::Duration;

use gander_model::{ModelError, ModelErrorClass};

/// Attempts of one model call.
pub(super) const MAX_ATTEMPTS: u32 = 5;
/// Longest pause that is our own choice.
const MAX_PAUSE: Duration = Duration::from_secs(30);
/// Longest pause that a provider may ask for; beyond that the turn fails and says when.
const MAX_HINT: Duration = Duration::from_secs(3600);

/// A failed attempt.
#[derive(Debug, Clone, Copy)]
pub(super) struct Failed<'a> {
    pub error: &'a ModelError,
    /// From 1.
    pub attempt: u32,
    /// The provider had begun to answer.
    pub began: bool,
    /// A tool of this turn has run: a broken answer is not asked for again, since it may rest on what that did.
    pub tools_ran: bool,
}

/// The pause before the next attempt; `None`: there is none. `random` is in 0..1.
pub(super) fn pause(failed: Failed<'_>, base: Duration, random: f64) -> Option<Duration> {
    let error = failed.error;
    if !error.is_transient() || failed.attempt >= MAX_ATTEMPTS {
        return None;
    }
    let broke = matches!(error.class, ModelErrorClass::Network | ModelErrorClass::Truncated);
    if broke && failed.began && failed.tools_ran {
        return None;
    }
    match error.retry_after {
        Some(hint) if hint > MAX_HINT => None,
        // A little more than asked for, so that all who wait do not come back at once.
        Some(hint) => Some(hint.mul_f64(1.0 + random / 10.0)),
        None => Some(base.saturating_mul(1 << failed.attempt.min(16)).min(MAX_PAUSE).mul_f64(random)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(error: &ModelError, attempt: u32) -> Failed<'_> {
        Failed { error, attempt, began: false, tools_ran: false }
    }

    #[test]
    fn pauses_grow_and_are_drawn_from_the_whole_range() {
        let error = ModelError::new(ModelErrorClass::Overloaded, "busy");
        let base = Duration::from_millis(500);
        for (attempt, ceiling) in [(1, 1_000), (2, 2_000), (3, 4_000), (4, 8_000)] {
            let at = |random| pause(failed(&error, attempt), base, random);
            assert_eq!(at(0.0), Some(Duration::ZERO));
            assert_eq!(at(0.5), Some(Duration::from_millis(ceiling / 2)));
        }
        assert_eq!(pause(failed(&error, MAX_ATTEMPTS), base, 0.0), None);
        let long = Duration::from_secs(20);
        assert_eq!(pause(failed(&error, 4), long, 0.999_999).map(|d| d.as_secs()), Some(29));
    }

    #[test]
    fn hints_win() {
        let hint = |secs| ModelError {
            retry_after: Some(Duration::from_secs(secs)),
            ..ModelError::new(ModelErrorClass::RateLimited, "slow down")
        };
        let base = Duration::from_millis(500);
        assert_eq!(pause(failed(&hint(10), 1), base, 0.0), Some(Duration::from_secs(10)));
        assert_eq!(pause(failed(&hint(10), 1), base, 1.0), Some(Duration::from_secs(11)));
        assert_eq!(pause(failed(&hint(3_601), 1), base, 0.0), None);
    }

    #[test]
    fn what_may_have_had_an_effect_is_not_repeated() {
        use ModelErrorClass as C;
        let base = Duration::from_millis(1);
        for (class, began, tools_ran, again) in [
            (C::Truncated, true, false, true),
            (C::Truncated, true, true, false),
            (C::Network, true, true, false),
            (C::Network, false, true, true),
            (C::RateLimited, false, true, true),
            (C::Overloaded, true, true, true),
            (C::Auth, false, false, false),
            (C::InvalidRequest, false, false, false),
            (C::ContextExceeded, false, false, false),
            (C::QuotaExhausted, false, false, false),
        ] {
            let error = ModelError::new(class, "x");
            let failed = Failed { error: &error, attempt: 1, began, tools_ran };
            assert_eq!(pause(failed, base, 0.5).is_some(), again, "{class:?} {began} {tools_ran}");
        }
    }
}
