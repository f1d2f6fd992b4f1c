//! Tokens and money.

use gander_domain::{
    Usage,
    usage::{Cost, SessionUsage},
};
use gander_proto::v1 as pb;

use super::{enums, int64};

pub(crate) fn usage_to_pb(usage: &Usage) -> pb::Usage {
    pb::Usage {
        input_tokens: usage.input_tokens.map(int64),
        output_tokens: usage.output_tokens.map(int64),
        cache_read_tokens: usage.cache_read_tokens.map(int64),
        cache_write_tokens: usage.cache_write_tokens.map(int64),
        reasoning_tokens: usage.reasoning_tokens.map(int64),
        total_tokens: usage.total_tokens.map(int64),
    }
}

pub(crate) fn cost_to_pb(cost: &Cost) -> pb::Cost {
    pb::Cost {
        amount_micros: cost.amount_micros,
        currency: cost.currency.clone(),
        source: enums::cost_source_to_pb(cost.source),
    }
}

pub(crate) fn session_usage_to_pb(usage: &SessionUsage) -> pb::SessionUsage {
    pb::SessionUsage {
        last_call: Some(usage_to_pb(&usage.last_call)),
        totals: Some(usage_to_pb(&usage.totals)),
        cost_totals: usage.cost_totals.as_ref().map(cost_to_pb),
    }
}

/// Negative numbers, which nobody has counted, are unknown ones.
pub(crate) fn usage_from_pb(usage: &pb::Usage) -> Usage {
    let count = |tokens: Option<i64>| tokens.and_then(|tokens| u64::try_from(tokens).ok());
    Usage {
        input_tokens: count(usage.input_tokens),
        output_tokens: count(usage.output_tokens),
        cache_read_tokens: count(usage.cache_read_tokens),
        cache_write_tokens: count(usage.cache_write_tokens),
        reasoning_tokens: count(usage.reasoning_tokens),
        total_tokens: count(usage.total_tokens),
    }
}
