//! How a thought level is told to each dialect and model.
//!
//! Two tables decide, and both are data: `data/thinking.json` says what a family of models takes, and a provider's file
//! says which field its server reads (`thinking`) and where its words differ (`thinking_words`). A model that cannot
//! choose gets nothing; one that nobody knows gets the dialect's usual field, since then the user asked for it. What the
//! caller's extra parameters say is never touched. Pure.

use std::{collections::BTreeMap, sync::OnceLock};

use gander_domain::session::ThoughtLevel;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::{Format, facts};

/// The field in which a server of OpenAI's dialects reads the level.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ThinkingField {
    /// OpenAI's own: `reasoning_effort`, in Responses `reasoning.effort`.
    #[default]
    Effort,
    /// OpenRouter's `reasoning`, which the server translates for each vendor.
    Reasoning,
    /// None: the server takes no such field.
    None,
}

impl ThinkingField {
    /// The field that a provider file's `thinking` names.
    pub fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "effort" => Self::Effort,
            "reasoning" => Self::Reasoning,
            "none" => Self::None,
            _ => return None,
        })
    }
}

/// What a provider says about its field.
#[derive(Debug, Clone, Default)]
pub struct Thinking {
    pub field: ThinkingField,
    /// Words that the server takes, by the beginning of a model's name; those of the empty name are for models whose own
    /// words nobody knows.
    pub words: BTreeMap<String, Vec<String>>,
}

/// What a family of models takes.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Family {
    models: Vec<String>,
    effort: Vec<String>,
    adaptive: Vec<String>,
    level: Vec<String>,
    /// Least and most tokens.
    budget: Option<[u64; 2]>,
    off: bool,
}

impl Family {
    fn can_choose(&self) -> bool {
        self.off
            || self.budget.is_some()
            || [&self.effort, &self.adaptive, &self.level].iter().any(|words| !words.is_empty())
    }

    fn can_be_off(&self) -> bool {
        self.off || self.effort.iter().any(|word| word == "none")
    }
}

#[derive(Default, Deserialize)]
struct Document {
    families: Vec<Family>,
}

fn families() -> &'static [Family] {
    static TABLE: OnceLock<Vec<Family>> = OnceLock::new();
    TABLE.get_or_init(|| {
        // A test reads it; a broken table is an empty one.
        let document: Result<Document, _> = serde_json::from_str(include_str!("../data/thinking.json"));
        document.map(|document| document.families).unwrap_or_default()
    })
}

/// Whether a name is `prefix` or goes on after it with a dash. The empty prefix fits only itself.
fn begins(name: &str, prefix: &str) -> bool {
    name.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
}

/// What is known of the model's thinking.
fn family(model_id: &str) -> Option<&'static Family> {
    let stem = facts::stem(model_id);
    let fits = |family: &'static Family| {
        let prefixes = family.models.iter().filter(|prefix| begins(&stem, prefix));
        prefixes.map(String::len).max().map(|length| (length, family))
    };
    families().iter().filter_map(fits).max_by_key(|(length, _)| *length).map(|(_, family)| family)
}

/// What a model lets choose.
enum Known {
    Family(&'static Family),
    /// It does not think.
    Nothing,
    /// Nobody knows it.
    Unknown,
}

fn known(model_id: &str) -> Known {
    match (family(model_id), facts::of(model_id)) {
        (Some(family), _) if family.can_choose() => Known::Family(family),
        (Some(_), _) => Known::Nothing,
        (None, Some(facts)) if !facts.supports_reasoning => Known::Nothing,
        (None, _) => Known::Unknown,
    }
}

/// Words from the least to the most.
const WORDS: [&str; 8] = ["none", "minimal", "low", "medium", "default", "high", "xhigh", "max"];
const USUAL: [&str; 3] = ["low", "medium", "high"];

/// The word for a level: the least for off, the most for max, else the level itself or the next above that there is.
fn word<W: AsRef<str>>(words: &[W], level: ThoughtLevel) -> Option<&'static str> {
    let rank = |word: &str| WORDS.iter().position(|known| *known == word);
    let mut ranks: Vec<usize> = words.iter().filter_map(|word| rank(word.as_ref())).collect();
    ranks.sort_unstable();
    let (least, most) = (*ranks.first()?, *ranks.last()?);
    let wanted = match level {
        ThoughtLevel::Off => least,
        ThoughtLevel::Max => most,
        level => {
            let from = rank(level.as_str())?;
            ranks.into_iter().find(|rank| *rank >= from).unwrap_or(most)
        }
    };
    WORDS.get(wanted).copied()
}

/// Tokens for a level, where a model takes a number; `None`: it thinks as little as it can.
fn tokens(level: ThoughtLevel, most: u64) -> Option<u64> {
    match level {
        ThoughtLevel::Off => None,
        ThoughtLevel::Low => Some(4_096),
        ThoughtLevel::Medium => Some(10_240),
        ThoughtLevel::High => Some(24_576),
        ThoughtLevel::Max => Some(most),
    }
}

fn list(words: &[String]) -> Vec<&str> {
    words.iter().map(String::as_str).collect()
}

impl Thinking {
    /// The words that the server takes for this model, and whether anybody knows them to be right.
    fn words(&self, model_id: &str) -> Option<(Vec<&str>, bool)> {
        let stem = facts::stem(model_id);
        let named = self.words.iter().filter(|(prefix, _)| !prefix.is_empty() && begins(&stem, prefix));
        let named = named.max_by_key(|(prefix, _)| prefix.len()).map(|(_, words)| words);
        let others = || self.words.get("");
        if let Some(words) = named {
            return Some((list(words), true));
        }
        match known(model_id) {
            Known::Nothing => None,
            Known::Family(family) if !family.effort.is_empty() => Some((list(&family.effort), true)),
            Known::Family(_) => Some((list(others()?), true)),
            Known::Unknown => Some((others().map_or_else(|| USUAL.to_vec(), |words| list(words)), false)),
        }
    }

    /// OpenAI's word for a level.
    pub(crate) fn effort(&self, model_id: &str, level: ThoughtLevel) -> Option<&'static str> {
        match self.field {
            ThinkingField::None => None,
            ThinkingField::Effort => word(&self.words(model_id)?.0, level),
            // The server translates what the vendor does not know, but does not switch off what cannot be.
            ThinkingField::Reasoning => match known(model_id) {
                Known::Nothing => None,
                Known::Family(family) if family.can_be_off() => {
                    word(&["none", "low", "medium", "high", "xhigh"], level)
                }
                Known::Family(_) | Known::Unknown => {
                    word(&["minimal", "low", "medium", "high", "xhigh"], level)
                }
            },
        }
    }

    /// Adds the field of OpenAI's chat dialect, unless the body says something of thinking already.
    pub(crate) fn add_to_chat(
        &self,
        fields: &mut Map<String, Value>,
        model_id: &str,
        level: Option<ThoughtLevel>,
    ) {
        if ["reasoning_effort", "reasoning", "thinking", "think"].iter().any(|key| fields.contains_key(*key))
        {
            return;
        }
        let Some(effort) = level.and_then(|level| self.effort(model_id, level)) else { return };
        match self.field {
            ThinkingField::Effort => fields.insert("reasoning_effort".to_owned(), effort.into()),
            ThinkingField::Reasoning => fields.insert("reasoning".to_owned(), json!({ "effort": effort })),
            ThinkingField::None => None,
        };
    }

    /// Whether the level of this model is known to be a choice, in this dialect.
    pub(crate) fn can_choose(&self, format: Format, model_id: &str) -> bool {
        let family = match known(model_id) {
            Known::Family(family) => family,
            // A server's own words for a model are knowledge as well.
            Known::Nothing | Known::Unknown => &NOTHING,
        };
        match format {
            Format::OpenAiChat | Format::OpenAiResponses => match self.field {
                ThinkingField::None => false,
                ThinkingField::Effort => {
                    self.words(model_id).is_some_and(|(words, sure)| sure && words.len() > 1)
                }
                ThinkingField::Reasoning => family.can_choose(),
            },
            Format::Anthropic => family.budget.is_some() || !family.adaptive.is_empty(),
            Format::Bedrock => {
                is_claude(model_id) && (family.budget.is_some() || !family.adaptive.is_empty())
            }
            Format::Google => family.budget.is_some() || !family.level.is_empty(),
        }
    }
}

static NOTHING: Family = Family {
    models: Vec::new(),
    effort: Vec::new(),
    adaptive: Vec::new(),
    level: Vec::new(),
    budget: None,
    off: false,
};

fn is_claude(model_id: &str) -> bool {
    facts::stem(model_id).starts_with("claude")
}

/// What Anthropic's models are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Claude {
    Off,
    /// Tokens.
    Budget(u64),
    /// The effort.
    Adaptive(&'static str),
}

impl Claude {
    /// Adds the fields where none of the kind is there.
    pub(crate) fn add_to(self, fields: &mut Map<String, Value>) {
        if fields.contains_key("thinking") {
            return;
        }
        let thinking = match self {
            Self::Off => json!({ "type": "disabled" }),
            Self::Budget(tokens) => json!({ "type": "enabled", "budget_tokens": tokens }),
            Self::Adaptive(effort) => {
                match fields.entry("output_config").or_insert_with(|| json!({})) {
                    Value::Object(config) => config.entry("effort").or_insert_with(|| effort.into()),
                    _ => return,
                };
                json!({ "type": "adaptive" })
            }
        };
        fields.insert("thinking".to_owned(), thinking);
    }
}

/// Room for the answer behind the thoughts, in tokens.
const ROOM: u64 = 8_192;
/// Least budget that Anthropic takes.
const LEAST: u64 = 1_024;

/// What to tell a model of Anthropic's dialect, and the output tokens to ask for with it. `asked`: what would be asked for
/// without thoughts; `fixed`: somebody chose that number, so that the thoughts have to fit.
pub(crate) fn claude(model_id: &str, level: ThoughtLevel, asked: u64, fixed: bool) -> Option<(Claude, u64)> {
    let family = match known(model_id) {
        Known::Family(family) => Some(family),
        Known::Nothing => return None,
        Known::Unknown => None,
    };
    if level == ThoughtLevel::Off && family.is_none_or(|family| family.off) {
        return Some((Claude::Off, asked));
    }
    if let Some(family) = family.filter(|family| !family.adaptive.is_empty()) {
        return Some((Claude::Adaptive(word(&family.adaptive, level)?), asked));
    }
    let [least, most] = match family {
        Some(family) => family.budget?,
        None => [LEAST, 32_000],
    };
    let wanted = tokens(level, most.min(32_000)).unwrap_or(least).clamp(least, most);
    let ceiling = match facts::of(model_id).and_then(|facts| facts.max_output_tokens) {
        _ if fixed => asked,
        Some(known) => known,
        None => u64::MAX,
    };
    // Of a number that somebody chose a quarter stays for the answer.
    let room = if fixed { ROOM.min(asked / 4) } else { ROOM };
    let budget = wanted.min(ceiling.saturating_sub(room));
    (budget >= least).then(|| (Claude::Budget(budget), asked.max(budget.saturating_add(room)).min(ceiling)))
}

/// What to tell a model of Anthropic at Bedrock; others take no such fields.
pub(crate) fn claude_at_bedrock(
    model_id: &str,
    level: ThoughtLevel,
    asked: u64,
    fixed: bool,
) -> Option<(Claude, u64)> {
    is_claude(model_id).then(|| claude(model_id, level, asked, fixed)).flatten()
}

/// Google's `thinkingConfig`.
pub(crate) fn google(model_id: &str, level: ThoughtLevel) -> Option<Value> {
    let Known::Family(family) = known(model_id) else { return None };
    if let Some(word) = word(&family.level, level) {
        return Some(json!({ "includeThoughts": true, "thinkingLevel": word }));
    }
    let [least, most] = family.budget?;
    match tokens(level, most) {
        // The API refuses to include thoughts where there are none.
        None if family.off => Some(json!({ "thinkingBudget": 0 })),
        wanted => {
            let budget = wanted.unwrap_or(least).clamp(least, most);
            Some(json!({ "includeThoughts": true, "thinkingBudget": budget }))
        }
    }
}

#[cfg(test)]
mod tests;
