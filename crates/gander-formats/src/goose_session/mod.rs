//! Sessions of the API ⇄ Goose's session documents and messages.
//!
//! What a conversation is in Goose's words: items, turns and open questions become messages, and messages become items
//! or the input of a turn. One mapping for every adapter that speaks Goose's formats, so that a session exported by one
//! is imported by the other. Pure: long values that the log keeps beside itself must have been put in place by the
//! caller, who can ask the daemon for them; whatever is still a reference is shown as one.

pub mod blocks;
mod conversation;
pub mod document;
pub mod extension;
mod import;
pub mod items;
pub mod message;
pub mod times;

#[cfg(test)]
mod tests;

use gander_proto::v1::{ExtensionStatus, Interaction, Item, ModelSelection, Session, SessionDocument, Turn};

pub use self::{conversation::conversation, import::import_document};
use crate::{FormatError, session::Document};

/// All of a session that its document tells, as the API gives it.
#[derive(Clone, Copy, Debug)]
pub struct Whole<'a> {
    /// The session.
    pub session: &'a Session,
    /// Its extensions.
    pub extensions: &'a [ExtensionStatus],
    /// Its items in the order of the log.
    pub items: &'a [Item],
    /// Its turns in any order: one that failed says so in the conversation.
    pub turns: &'a [Turn],
    /// Its questions that wait for an answer, oldest first.
    pub questions: &'a [Interaction],
    /// The configured model, which a session without one of its own follows.
    pub default_model: Option<&'a ModelSelection>,
}

impl Whole<'_> {
    /// The document with its conversation.
    #[must_use]
    pub fn document(&self) -> Document {
        let mut document = document::document(self.session, Some(self.extensions));
        document.conversation = Some(conversation(self.items, self.turns, self.questions));
        document::follow_model(&mut document, self.default_model);
        document
    }
}

/// The text that Goose exports a session as.
///
/// # Errors
/// Never for what the daemon gave.
pub fn export(whole: &Whole<'_>) -> Result<String, serde_json::Error> {
    whole.document().to_pretty_json()
}

/// Why a text cannot be imported.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// It is no JSON, or a field has another type than Goose writes.
    #[error("The file is no session of Goose: {0}")]
    Document(#[from] serde_json::Error),
    /// An extension of it cannot be read.
    #[error(transparent)]
    Extension(FormatError),
}

/// Reads what Goose, or [`export`], wrote.
///
/// # Errors
/// See [`ImportError`].
pub fn import(json: &str) -> Result<SessionDocument, ImportError> {
    import_document(&Document::parse(json)?)
}
