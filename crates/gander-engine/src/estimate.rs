//! Rough token counts for what no provider has counted yet. Pure.
//!
//! A provider's own count of the last call is the truth; these numbers only bridge the way to the next one, so they err
//! on the side of too many.

use gander_domain::{Item, ItemBody, Part, PartBody, content::Data, item::ToolResult, tool::ToolDefinition};

/// Bytes of text per token. English has more, code and other scripts fewer.
const BYTES_PER_TOKEN: u64 = 4;
/// What an image costs, whatever its size: vendors scale large ones down.
const IMAGE_TOKENS: u64 = 1_600;
/// Role, names and separators of one item.
const ITEM_TOKENS: u64 = 8;

/// Tokens of a text of this many bytes.
fn of_bytes(bytes: usize) -> u64 {
    (bytes as u64).div_ceil(BYTES_PER_TOKEN)
}

/// Tokens of a text.
pub(crate) fn of_text(text: &str) -> u64 {
    of_bytes(text.len())
}

fn of_part(part: &Part) -> u64 {
    match &part.body {
        PartBody::Image { .. } => IMAGE_TOKENS,
        PartBody::Audio { data, .. } => match data {
            Data::Inline(blob) => of_bytes(blob.0.len() / 8).max(IMAGE_TOKENS),
            Data::Content(_) => 4 * IMAGE_TOKENS,
        },
        PartBody::TextContent { size_bytes, .. } => size_bytes.div_ceil(BYTES_PER_TOKEN),
        PartBody::Resource { data: Some(_), text: None, .. } => IMAGE_TOKENS,
        _ => of_bytes(part.size_bytes()),
    }
}

fn of_parts(parts: &[Part]) -> u64 {
    parts.iter().map(of_part).sum()
}

/// Tokens of a tool's answer.
pub(crate) fn of_result(result: &ToolResult) -> u64 {
    ITEM_TOKENS + of_parts(&result.parts)
}

/// Tokens of an item as a model is told it.
pub(crate) fn of_item(item: &Item) -> u64 {
    ITEM_TOKENS
        + match &item.body {
            ItemBody::UserMessage(message) => of_parts(&message.parts),
            ItemBody::AgentMessage(message) => of_parts(&message.parts),
            ItemBody::Compaction(compaction) => of_parts(&compaction.summary_parts),
            // Thoughts go back to the model only with their signatures.
            ItemBody::Thought(thought) => match &thought.signature {
                Some(signature) => of_text(&thought.text) + of_text(signature),
                None => 0,
            },
            ItemBody::ToolCall(call) => {
                of_text(&call.name)
                    + of_text(&call.arguments_json)
                    + call.result.as_ref().map_or(0, of_result)
            }
            ItemBody::Notice(_) => 0,
        }
}

/// What an item adds to a context whose last measure included the model's own output.
pub(crate) fn after_measure(item: &Item) -> u64 {
    match &item.body {
        ItemBody::AgentMessage(_) | ItemBody::Thought(_) => 0,
        ItemBody::ToolCall(call) => call.result.as_ref().map_or(0, of_result),
        _ => of_item(item),
    }
}

/// Tokens of the tools' definitions.
pub(crate) fn of_tools(tools: &[ToolDefinition]) -> u64 {
    tools
        .iter()
        .map(|t| ITEM_TOKENS + of_text(&t.name) + of_text(&t.description) + of_text(&t.input_schema_json))
        .sum()
}

#[cfg(test)]
mod tests {
    use gander_domain::content::Blob;

    use super::*;

    #[test]
    fn images_cost_the_same_and_text_by_length() {
        let image = |bytes| {
            Part::new(PartBody::Image {
                data: Data::Inline(Blob(vec![0; bytes])),
                mime_type: "image/png".into(),
            })
        };
        assert_eq!(of_part(&image(10)), of_part(&image(100_000)));
        assert_eq!(of_text(""), 0);
        assert_eq!(of_text("abcde"), 2);
        assert_eq!(of_parts(&[Part::text("abcd"), image(1)]), 1 + IMAGE_TOKENS);
    }
}
