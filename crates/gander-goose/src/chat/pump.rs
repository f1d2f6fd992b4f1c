//! Events that are there already, taken together: one step for many, and one frame for adjacent pieces of a text.
//!
//! Nothing waits for more: what is merged had piled up anyway. An event of several frames is never merged, so that the
//! last frame of an event stays recognisable.

use gander_client::{Client, ClientError};
use gander_formats::session::Content;
use gander_proto::v1::SessionEvent;

use super::{
    content::inline_event,
    snapshot::Snapshot,
    translate::{MessageEvent, Out, Shown, translate},
};

/// Most events of one step.
pub(crate) const STEP: usize = 64;

/// One frame and where it comes from.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Sent {
    pub(crate) event: MessageEvent,
    pub(crate) turn_id: String,
    /// Sequence of its event, if this is the event's last frame.
    pub(crate) sequence: Option<i64>,
}

/// What to send for these events; with the error of a snapshot that could not be read, after which nothing more is
/// known.
pub(crate) async fn pump(
    client: &Client,
    session_id: &str,
    events: Vec<SessionEvent>,
    shown: &mut Shown,
) -> (Vec<Sent>, Option<ClientError>) {
    let mut sent: Vec<Sent> = Vec::new();
    let mut mergeable = false;
    for mut event in events {
        inline_event(client, session_id, &mut event).await;
        let outs = translate(&event, shown);
        let count = outs.len();
        for (index, out) in outs.into_iter().enumerate() {
            let message = match out {
                Out::Event(message) => message,
                Out::Snapshot => match Snapshot::read(client, session_id).await {
                    Ok(snapshot) => shown.update(&snapshot),
                    Err(error) => return (sent, Some(error)),
                },
            };
            let alone = count == 1;
            if alone
                && mergeable
                && let Some(last) = sent.last_mut()
                && last.turn_id == event.turn_id
                && merge(&mut last.event, &message)
            {
                last.sequence = Some(event.sequence);
                continue;
            }
            mergeable = alone;
            let sequence = (index + 1 == count).then_some(event.sequence);
            sent.push(Sent { event: message, turn_id: event.turn_id.clone(), sequence });
        }
    }
    (sent, None)
}

/// Appends a piece of the same text. `false`: it is none.
fn merge(last: &mut MessageEvent, next: &MessageEvent) -> bool {
    let (
        MessageEvent::Message { message: last, token_state: tokens },
        MessageEvent::Message { message: next, token_state },
    ) = (last, next)
    else {
        return false;
    };
    let (
        [Content::Text { text, annotations: None, meta: None }],
        [Content::Text { text: more, annotations: None, meta: None }],
    ) = (last.content.as_mut_slice(), next.content.as_slice())
    else {
        return false;
    };
    if last.id.is_none() || last.id != next.id || last.role != next.role || last.metadata != next.metadata {
        return false;
    }
    text.push_str(more);
    *tokens = *token_state;
    true
}
