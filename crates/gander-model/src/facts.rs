//! What is publicly known of well-known models: sizes, abilities, list prices.
//!
//! The table is small, dated and never a gate: an unknown model works, it merely has no facts. Prices hold for the
//! providers that the table names, since the same model costs something else elsewhere.

use std::{collections::HashMap, sync::OnceLock};

use gander_domain::{
    Usage,
    usage::{Cost, CostSource},
};
use serde::Deserialize;

use crate::ModelInfo;

/// Millionths of USD per million tokens: input, output, cache read, cache write.
pub type Prices = [Option<u64>; 4];

/// What is known of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelFacts {
    /// The id under which the table knows it.
    pub id: String,
    pub display_name: String,
    pub context_window_tokens: Option<u64>,
    pub max_output_tokens: Option<u64>,
    prices: Prices,
    sold_by: Vec<String>,
    pub supports_tools: bool,
    pub supports_images: bool,
    pub supports_reasoning: bool,
    /// Whether its vendor caches prompts where the client asks for it.
    pub supports_cache_control: bool,
}

impl ModelFacts {
    /// The list prices at this provider.
    pub fn prices_at(&self, provider_id: &str) -> Prices {
        if self.sold_by.iter().any(|seller| seller == provider_id) { self.prices } else { [None; 4] }
    }
}

#[derive(Deserialize)]
struct Document {
    models: Vec<Row>,
}

#[derive(Deserialize)]
struct Row {
    id: String,
    name: String,
    context: Option<u64>,
    output: Option<u64>,
    #[serde(default)]
    usd_per_million: Option<[Option<f64>; 4]>,
    #[serde(default)]
    sold_by: Vec<String>,
    #[serde(default)]
    can: String,
}

fn table() -> &'static HashMap<String, ModelFacts> {
    static TABLE: OnceLock<HashMap<String, ModelFacts>> = OnceLock::new();
    TABLE.get_or_init(|| {
        // A test reads it; a broken table is an empty one.
        let document: Result<Document, _> = serde_json::from_str(include_str!("../data/models.json"));
        let rows = document.map(|document| document.models).unwrap_or_default();
        rows.into_iter()
            .map(|row| {
                let facts = ModelFacts {
                    display_name: row.name,
                    context_window_tokens: row.context,
                    max_output_tokens: row.output,
                    prices: row.usd_per_million.unwrap_or_default().map(|usd| usd.and_then(micros)),
                    sold_by: row.sold_by,
                    supports_tools: row.can.contains('t'),
                    supports_images: row.can.contains('i'),
                    supports_reasoning: row.can.contains('r'),
                    supports_cache_control: row.can.contains('c'),
                    id: row.id.clone(),
                };
                (row.id, facts)
            })
            .collect()
    })
}

/// USD as millionths.
fn micros(usd: f64) -> Option<u64> {
    let micros = (usd * 1e6).round();
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "bounded here")]
    (0.0..1e15).contains(&micros).then_some(micros as u64)
}

/// What is known of a model, whatever the provider writes around its name: `anthropic/claude-sonnet-4.5`,
/// `us.anthropic.claude-sonnet-4-5-20250929-v1:0`, `claude-sonnet-4-5-latest` are one model.
pub fn of(model_id: &str) -> Option<&'static ModelFacts> {
    let table = table();
    names(model_id).iter().find_map(|name| table.get(name))
}

/// The names under which a model may stand in the table, the most exact first.
fn names(model_id: &str) -> Vec<String> {
    let lower = model_id.trim().to_ascii_lowercase();
    let last = lower.rsplit('/').next().unwrap_or_default();
    let mut name = last;
    for vendor in ["anthropic.", "amazon.", "meta.", "mistral.", "deepseek.", "openai.", "google."] {
        if let Some((_, rest)) = name.split_once(vendor) {
            name = rest;
        }
    }
    let (mut stem, tag) = name.split_once([':', '@']).unwrap_or((name, ""));
    let mut names = vec![plain(name)];
    if !tag.is_empty() {
        names.push(plain(stem));
    }
    loop {
        let cut = ["-latest", "-preview", "-v1", "-v2", "-it"]
            .iter()
            .find_map(|suffix| stem.strip_suffix(suffix))
            .or_else(|| without_date(stem));
        let Some(shorter) = cut else { break };
        stem = shorter;
        names.push(plain(stem));
    }
    names
}

/// All of the table.
#[cfg(test)]
pub(crate) fn all() -> impl Iterator<Item = &'static ModelFacts> {
    table().values()
}

/// The shortest of these names: without vendor, tag, date and the like.
pub(crate) fn stem(model_id: &str) -> String {
    names(model_id).pop().unwrap_or_default()
}

fn plain(name: &str) -> String {
    name.replace(['.', '_', ' '], "-")
}

/// Without `-20250929`, `-2025-09-29`, `-0613` or `-2411` at the end.
fn without_date(name: &str) -> Option<&str> {
    let digits = |text: &str, count: usize| text.len() == count && text.bytes().all(|b| b.is_ascii_digit());
    let (rest, last) = name.rsplit_once('-')?;
    if digits(last, 8) || digits(last, 4) {
        return Some(rest);
    }
    let (rest, month) = rest.rsplit_once('-')?;
    let (rest, year) = rest.rsplit_once('-')?;
    (digits(last, 2) && digits(month, 2) && digits(year, 4)).then_some(rest)
}

/// Fills what a list of models leaves out.
pub(crate) fn complete(provider_id: &str, model: &mut ModelInfo) {
    let Some(facts) = of(&model.model_id) else { return };
    model.context_window_tokens = model.context_window_tokens.or(facts.context_window_tokens);
    model.max_output_tokens = model.max_output_tokens.or(facts.max_output_tokens);
    for (price, known) in model.price_micros_per_million.iter_mut().zip(facts.prices_at(provider_id)) {
        *price = price.or(known);
    }
    if model.display_name == model.model_id {
        model.display_name.clone_from(&facts.display_name);
    }
}

/// What a call cost by these prices. Without a price for the cache its tokens cost what input costs: never less than the
/// bill. `None` where input or output has no price.
pub fn cost(usage: &Usage, prices: Prices) -> Option<Cost> {
    let [input, output, cache_read, cache_write] = prices;
    let (input, output) = (input?, output?);
    let (read, written) = (usage.cache_read_tokens.unwrap_or(0), usage.cache_write_tokens.unwrap_or(0));
    let fresh = usage.input_tokens?.saturating_sub(read).saturating_sub(written);
    let parts = [
        (fresh, input),
        (usage.output_tokens.unwrap_or(0), output),
        (read, cache_read.unwrap_or(input)),
        (written, cache_write.unwrap_or(input)),
    ];
    let amounts = parts.iter().map(|(tokens, price)| u128::from(*tokens) * u128::from(*price));
    let sum = amounts.fold(0, u128::saturating_add);
    let amount_micros = i64::try_from(sum.div_ceil(1_000_000)).ok()?;
    Some(Cost { amount_micros, currency: "USD".to_owned(), source: CostSource::Table })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_all_kinds_find_their_model() {
        for (name, wanted) in [
            ("claude-sonnet-4-5", "claude-sonnet-4-5"),
            ("anthropic/claude-sonnet-4.5", "claude-sonnet-4-5"),
            ("us.anthropic.claude-sonnet-4-5-20250929-v1:0", "claude-sonnet-4-5"),
            ("claude-3-5-sonnet-latest", "claude-3-5-sonnet"),
            ("claude-sonnet-4-20250514", "claude-sonnet-4"),
            ("openai/gpt-4.1-mini-2025-04-14", "gpt-4-1-mini"),
            ("GPT-4o", "gpt-4o"),
            ("models/gemini-2.5-flash", "gemini-2-5-flash"),
            ("gemini-3-pro-preview", "gemini-3-pro-preview"),
            ("qwen3:8b", "qwen3"),
            ("deepseek/deepseek-chat:free", "deepseek-chat"),
            ("mistral-large-2411", "mistral-large"),
        ] {
            assert_eq!(of(name).map(|facts| facts.id.as_str()), Some(wanted), "{name}");
        }
        for name in ["", "gpt-4", "llama", "claude", "my-own-model"] {
            assert!(of(name).is_none(), "{name}");
        }
    }

    #[test]
    fn prices_hold_where_the_model_is_sold() {
        let sonnet = of("claude-sonnet-4-5").unwrap();
        assert_eq!(
            sonnet.prices_at("anthropic"),
            [Some(3_000_000), Some(15_000_000), Some(300_000), Some(3_750_000)]
        );
        assert_eq!(sonnet.prices_at("openrouter"), [None; 4]);
        assert!(sonnet.supports_tools && sonnet.supports_cache_control);
        assert!(table().len() > 40);
    }

    #[test]
    fn the_table_makes_sense() {
        let known = crate::ProviderRegistry::bundled();
        for facts in table().values() {
            let id = facts.id.as_str();
            assert_eq!(of(id).map(|found| found.id.as_str()), Some(id), "{id} finds itself");
            assert_eq!(facts.prices[0].is_some(), !facts.sold_by.is_empty(), "{id}: a price has a seller");
            assert!(
                facts.sold_by.iter().all(|seller| known.info(seller).is_some()),
                "{id}: {:?}",
                facts.sold_by
            );
            let context = facts.context_window_tokens.unwrap();
            assert!((4_000..=12_000_000).contains(&context), "{id}: {context}");
            assert!(facts.max_output_tokens.is_none_or(|most| most <= context), "{id}");
            let [input, output, read, written] = facts.prices;
            let Some(input) = input else {
                assert_eq!(facts.prices, [None; 4], "{id}");
                continue;
            };
            // Between a cent and 200 USD per million tokens; output costs at least what input costs; reading the cache
            // costs less and writing it at most double.
            assert!((10_000..=200_000_000).contains(&input), "{id}: {input}");
            let output = output.unwrap();
            assert!((input..=input * 20).contains(&output), "{id}: {output}");
            assert!(read.is_none_or(|read| read < input), "{id}: {read:?}");
            assert!(
                written.is_none_or(|written| (input..=2 * input).contains(&written)),
                "{id}: {written:?}"
            );
        }
    }

    #[test]
    fn thinking_is_paid_once_as_output() {
        let usage = Usage {
            input_tokens: Some(1_000_000),
            output_tokens: Some(100_000),
            cache_read_tokens: Some(400_000),
            reasoning_tokens: Some(90_000),
            total_tokens: Some(1_100_000),
            ..Usage::default()
        };
        // GPT-5: 600k·1.25 + 400k·0.125 + 100k·10 USD per million.
        let prices = of("gpt-5").unwrap().prices_at("openai");
        assert_eq!(cost(&usage, prices).unwrap().amount_micros, 750_000 + 50_000 + 1_000_000);
        // More cache than input is nonsense and makes nothing negative.
        let odd = Usage { input_tokens: Some(1), cache_read_tokens: Some(10), ..Usage::default() };
        assert_eq!(cost(&odd, prices).unwrap().amount_micros, 2);
        // Amounts beyond any bill do not overflow into a small one.
        let huge = Usage { input_tokens: Some(u64::MAX), output_tokens: Some(u64::MAX), ..Usage::default() };
        assert_eq!(cost(&huge, [Some(u64::MAX), Some(u64::MAX), None, None]), None);
    }

    #[test]
    fn cached_tokens_cost_what_the_cache_costs() {
        let usage = Usage {
            input_tokens: Some(1_000_000),
            output_tokens: Some(10_000),
            cache_read_tokens: Some(600_000),
            cache_write_tokens: Some(100_000),
            ..Usage::default()
        };
        let prices = [Some(3_000_000), Some(15_000_000), Some(300_000), Some(3_750_000)];
        // 300k·3 + 10k·15 + 600k·0.3 + 100k·3.75 USD per million.
        assert_eq!(cost(&usage, prices).unwrap().amount_micros, 900_000 + 150_000 + 180_000 + 375_000);
        let unknown = [Some(3_000_000), Some(15_000_000), None, None];
        assert_eq!(cost(&usage, unknown).unwrap().amount_micros, 3_000_000 + 150_000);
        assert_eq!(cost(&usage, [None; 4]), None);
        assert_eq!(cost(&Usage::default(), prices), None);
    }
}
