//! Characters that a person does not see and a model reads.

use serde_json::Value;

/// A place with hidden characters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hidden {
    /// Dotted path in the document.
    pub field: String,
    pub kind: HiddenKind,
    pub count: usize,
}

/// Why a character is suspicious.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum HiddenKind {
    /// Unicode tags: invisible copies of ASCII.
    Tags,
    /// They change the order in which text is shown.
    Direction,
    /// They have no width.
    Invisible,
}

fn kind(character: char) -> Option<HiddenKind> {
    match character {
        '\u{e0000}'..='\u{e007f}' => Some(HiddenKind::Tags),
        '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => Some(HiddenKind::Direction),
        // Joiners (200C, 200D) and variation selectors belong to scripts and emoji.
        '\u{200b}' | '\u{2060}'..='\u{2064}' | '\u{feff}' => Some(HiddenKind::Invisible),
        _ => None,
    }
}

/// All places with hidden characters, one per field and kind.
pub fn hidden_characters(document: &Value) -> Vec<Hidden> {
    let mut found = Vec::new();
    super::text::each_string(document, "", &mut |field, text| {
        let kinds: Vec<HiddenKind> = text.chars().filter_map(kind).collect();
        for wanted in [HiddenKind::Tags, HiddenKind::Direction, HiddenKind::Invisible] {
            let count = kinds.iter().filter(|k| **k == wanted).count();
            if count > 0 {
                found.push(Hidden { field: field.to_owned(), kind: wanted, count });
            }
        }
    });
    found
}
