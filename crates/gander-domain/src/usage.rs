//! Token and money counts. Absent is not zero: providers leave out what they do not count.

use serde::{Deserialize, Serialize};

/// Tokens of one model call or a sum of calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Usage {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub input_tokens: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output_tokens: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache_read_tokens: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache_write_tokens: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reasoning_tokens: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub total_tokens: Option<u64>,
}

fn add(a: Option<u64>, b: Option<u64>) -> Option<u64> {
    match (a, b) {
        (None, None) => None,
        (a, b) => Some(a.unwrap_or(0).saturating_add(b.unwrap_or(0))),
    }
}

impl Usage {
    /// The sum of two counts; a field absent in both stays absent.
    #[must_use]
    pub fn plus(self, other: Usage) -> Usage {
        Usage {
            input_tokens: add(self.input_tokens, other.input_tokens),
            output_tokens: add(self.output_tokens, other.output_tokens),
            cache_read_tokens: add(self.cache_read_tokens, other.cache_read_tokens),
            cache_write_tokens: add(self.cache_write_tokens, other.cache_write_tokens),
            reasoning_tokens: add(self.reasoning_tokens, other.reasoning_tokens),
            total_tokens: add(self.total_tokens, other.total_tokens),
        }
    }
}

/// Money in millionths of the currency's unit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cost {
    pub amount_micros: i64,
    /// ISO 4217 code, `USD` as a rule.
    pub currency: String,
    pub source: CostSource,
}

/// Who computed a cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CostSource {
    Provider,
    Table,
}

/// What a model call was made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UsagePurpose {
    Turn,
    Title,
    Compaction,
    Judge,
    Sampling,
    /// A call that a sub-agent of the session made; it is in the sub-agent's own log as well.
    Subagent,
}

/// Running totals of a session.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct SessionUsage {
    pub last_call: Usage,
    pub totals: Usage,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cost_totals: Option<Cost>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absent_is_not_zero() {
        let a = Usage { input_tokens: Some(3), ..Usage::default() };
        let b = Usage { input_tokens: Some(4), output_tokens: Some(1), ..Usage::default() };
        let sum = a.plus(b);
        assert_eq!((sum.input_tokens, sum.output_tokens, sum.total_tokens), (Some(7), Some(1), None));
    }
}
