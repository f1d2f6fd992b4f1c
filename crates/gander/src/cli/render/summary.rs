//! How a turn ended and what it used, in words.

use std::time::Duration;

use gander_proto::v1::{Cost, StopReason, Turn, TurnState, Usage};

use crate::cli::output::{Tint, clean, human_duration, human_number};

/// What to say about an end that is not plain success.
pub(super) fn ending(turn: &Turn) -> Option<(Tint, String)> {
    match turn.state() {
        TurnState::Cancelled => Some((Tint::Yellow, "cancelled; what was done so far is kept".to_owned())),
        TurnState::Interrupted => {
            Some((Tint::Yellow, "interrupted: the daemon stopped; what was done so far is kept".to_owned()))
        }
        TurnState::Completed => match turn.stop_reason() {
            StopReason::MaxModelCalls => {
                Some((Tint::Yellow, "stopped: the limit of model calls is reached".to_owned()))
            }
            StopReason::Budget => Some((Tint::Yellow, "stopped: the budget is used up".to_owned())),
            StopReason::MaxOutputTokens => {
                Some((Tint::Yellow, "stopped: the model's limit of output tokens is reached".to_owned()))
            }
            StopReason::Refusal => Some((Tint::Yellow, "the model declined to answer".to_owned())),
            StopReason::EndTurn | StopReason::Unspecified => None,
        },
        // A failure is reported as an error by whoever runs the turn.
        _ => None,
    }
}

/// "1,234 tokens in · 56 out · $0.0012 · 3.2 s".
pub(super) fn summary(turn: &Turn, seen: &Usage, cost: Option<&Cost>) -> String {
    // The turn's own sum counts, where there is one: a late watcher has not seen all calls.
    let whole =
        turn.usage.as_ref().filter(|usage| usage.input_tokens.is_some() || usage.output_tokens.is_some());
    let mut words = usage_words(whole.unwrap_or(seen));
    if let Some(cost) = cost.filter(|cost| cost.amount_micros > 0) {
        words.push(money(cost));
    }
    if words.is_empty() {
        return String::new();
    }
    if let (Some(start), Some(end)) = (turn.start_time.or(turn.create_time), turn.end_time) {
        let nanos =
            i128::from(end.seconds - start.seconds) * 1_000_000_000 + i128::from(end.nanos - start.nanos);
        // Clocks can go backwards.
        let nanos = u64::try_from(nanos).unwrap_or(0);
        words.push(human_duration(Duration::from_nanos(nanos)));
    }
    words.join(" · ")
}

pub(super) fn add_usage(sum: &mut Usage, call: &Usage) {
    let add = |sum: &mut Option<i64>, more: Option<i64>| {
        if let Some(more) = more {
            *sum = Some(sum.unwrap_or(0).saturating_add(more));
        }
    };
    add(&mut sum.input_tokens, call.input_tokens);
    add(&mut sum.output_tokens, call.output_tokens);
    add(&mut sum.cache_read_tokens, call.cache_read_tokens);
}

fn usage_words(usage: &Usage) -> Vec<String> {
    [
        (usage.input_tokens, "tokens in"),
        (usage.cache_read_tokens.filter(|n| *n > 0), "of them cached"),
        (usage.output_tokens, "out"),
    ]
    .into_iter()
    .filter_map(|(count, what)| Some(format!("{} {what}", human_number(count?))))
    .collect()
}

fn money(cost: &Cost) -> String {
    let amount = f64::from(u32::try_from(cost.amount_micros).unwrap_or(u32::MAX)) / 1_000_000.0;
    let digits = if amount < 0.1 { 4 } else { 2 };
    match cost.currency.as_str() {
        "USD" | "" => format!("${amount:.digits$}"),
        currency => format!("{amount:.digits$} {}", clean(currency)),
    }
}
