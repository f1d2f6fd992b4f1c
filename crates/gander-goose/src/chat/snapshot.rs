//! The state of a conversation at a sequence, read from the daemon.

use gander_client::{Client, ClientError};
use gander_formats::{goose_session::conversation, session::Message};
use gander_proto::v1::{
    Interaction, Item, ListInteractionsRequest, ListItemsRequest, ListTurnsRequest, Turn,
};

use super::content::inline_item;

/// Most interactions, turns or items per call.
const PAGE: i32 = 200;

/// Everything that a conversation is folded from.
#[derive(Clone, Debug, Default)]
pub(crate) struct Snapshot {
    pub(crate) items: Vec<Item>,
    pub(crate) turns: Vec<Turn>,
    pub(crate) questions: Vec<Interaction>,
    /// The items are as of this sequence.
    pub(crate) through: i64,
}

impl Snapshot {
    /// Reads the whole conversation.
    ///
    /// # Errors
    /// `SESSION_NOT_FOUND`, and a lost connection.
    pub(crate) async fn read(client: &Client, session_id: &str) -> Result<Self, ClientError> {
        let (items, through) = items(client, session_id, "").await?;
        let (turns, questions) = tokio::try_join!(turns(client, session_id), questions(client, session_id))?;
        Ok(Self { items, turns, questions, through })
    }

    /// Whether a turn's end is part of it, so that no event after it tells of the end.
    pub(crate) fn has_ended(&self, turn_id: &str) -> bool {
        let ended = |turn: &Turn| turn.last_sequence > 0 && turn.last_sequence <= self.through;
        self.turns.iter().any(|turn| turn.turn_id == turn_id && ended(turn))
    }

    /// As Goose shows it.
    pub(crate) fn conversation(&self) -> Vec<Message> {
        conversation(&self.items, &self.turns, &self.questions)
    }
}

/// The items of a session, or of one turn of it, and the sequence they are as of.
pub(crate) async fn items(
    client: &Client,
    session_id: &str,
    turn_id: &str,
) -> Result<(Vec<Item>, i64), ClientError> {
    let mut items = Vec::new();
    let mut request = ListItemsRequest {
        session_id: session_id.to_owned(),
        turn_id: turn_id.to_owned(),
        page_size: 1000,
        ..Default::default()
    };
    loop {
        let page = client.sessions().list_items(request.clone()).await?.into_inner();
        items.extend(page.items);
        request.page_token = page.next_page_token;
        if request.page_token.is_empty() {
            for item in &mut items {
                inline_item(client, session_id, item).await;
            }
            return Ok((items, page.through_sequence));
        }
    }
}

/// All turns, newest first.
async fn turns(client: &Client, session_id: &str) -> Result<Vec<Turn>, ClientError> {
    let mut turns = Vec::new();
    let mut request =
        ListTurnsRequest { session_id: session_id.to_owned(), page_size: PAGE, ..Default::default() };
    loop {
        let page = client.turns().list_turns(request.clone()).await?.into_inner();
        turns.extend(page.turns);
        request.page_token = page.next_page_token;
        if request.page_token.is_empty() {
            return Ok(turns);
        }
    }
}

/// The questions that wait for an answer, oldest first.
async fn questions(client: &Client, session_id: &str) -> Result<Vec<Interaction>, ClientError> {
    let mut questions = Vec::new();
    let mut request =
        ListInteractionsRequest { session_id: session_id.to_owned(), page_size: PAGE, ..Default::default() };
    loop {
        let page = client.interactions().list_interactions(request.clone()).await?.into_inner();
        questions.extend(page.interactions);
        request.page_token = page.next_page_token;
        if request.page_token.is_empty() {
            return Ok(questions);
        }
    }
}

/// The id of the last message that people see: of the newest turn if it has any, else of the whole conversation.
pub(crate) async fn last_message_id(
    client: &Client,
    session_id: &str,
) -> Result<Option<String>, ClientError> {
    let request = ListTurnsRequest { session_id: session_id.to_owned(), page_size: 1, ..Default::default() };
    let newest = client.turns().list_turns(request).await?.into_inner().turns;
    let last = |items: &[Item], turns: &[Turn]| {
        let messages = conversation(items, turns, &[]);
        messages.iter().rev().find(|message| message.metadata.user_visible).and_then(|m| m.id.clone())
    };
    if let Some(turn) = newest.first() {
        let (items, _) = items(client, session_id, &turn.turn_id).await?;
        if let Some(id) = last(&items, &newest) {
            return Ok(Some(id));
        }
    }
    let (items, _) = items(client, session_id, "").await?;
    Ok(last(&items, &newest))
}
