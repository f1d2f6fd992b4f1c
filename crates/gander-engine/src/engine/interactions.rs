//! Questions to people, over all sessions.

use gander_domain::{
    ErrorDetail, Interaction, InteractionId, ItemId, Sequence, SessionId, TurnId,
    interaction::{Answer, InteractionState},
};

use super::{Engine, Recorded, RequestContext};
use crate::session::interaction_not_found;

/// Which questions to list.
#[derive(Debug, Clone, Default)]
pub struct InteractionFilter {
    /// `None`: pending ones of all sessions.
    pub session_id: Option<SessionId>,
    /// Empty = pending.
    pub states: Vec<InteractionState>,
    pub item_id: Option<ItemId>,
    pub turn_id: Option<TurnId>,
}

impl Engine {
    /// Questions with their sessions, oldest first.
    pub async fn list_interactions(
        &self,
        filter: InteractionFilter,
    ) -> Result<Vec<(SessionId, Interaction)>, ErrorDetail> {
        let states =
            if filter.states.is_empty() { vec![InteractionState::Pending] } else { filter.states.clone() };
        let mut found = match &filter.session_id {
            // Pending questions are those of live sessions, and only those are indexed.
            None => self.services.pending_interactions(),
            Some(session_id) => {
                let read = self
                    .edit(session_id, |core| {
                        Ok(core.state.interactions.values().cloned().collect::<Vec<_>>())
                    })
                    .await?;
                read.value.into_iter().map(|i| (session_id.clone(), i)).collect()
            }
        };
        found.retain(|(_, i)| {
            states.contains(&i.state)
                && filter.item_id.as_ref().is_none_or(|id| i.item_id.as_ref() == Some(id))
                && filter.turn_id.as_ref().is_none_or(|id| i.turn_id.as_ref() == Some(id))
        });
        found.sort_by(|a, b| {
            (a.1.create_time, &a.1.interaction_id).cmp(&(b.1.create_time, &b.1.interaction_id))
        });
        Ok(found)
    }

    /// One question. `session_id` helps to find those of sessions that are not loaded.
    pub async fn get_interaction(
        &self,
        session_id: Option<&SessionId>,
        interaction_id: &InteractionId,
    ) -> Result<(SessionId, Interaction), ErrorDetail> {
        let session_id = self.session_that_asked(session_id, interaction_id)?;
        let id = interaction_id.clone();
        let read = self
            .edit(&session_id, move |core| {
                core.state.interactions.get(&id).cloned().ok_or_else(|| interaction_not_found(&id))
            })
            .await?;
        Ok((session_id, read.value))
    }

    fn session_that_asked(
        &self,
        session_id: Option<&SessionId>,
        interaction_id: &InteractionId,
    ) -> Result<SessionId, ErrorDetail> {
        session_id
            .cloned()
            .or_else(|| self.services.session_of_interaction(interaction_id))
            .ok_or_else(|| interaction_not_found(interaction_id))
    }

    /// Answers a question. The first valid answer wins; the same answer again is fine.
    pub async fn respond(
        &self,
        context: &RequestContext,
        session_id: Option<&SessionId>,
        interaction_id: &InteractionId,
        answer: Answer,
    ) -> Result<Recorded<(SessionId, Interaction)>, ErrorDetail> {
        let session_id = self.session_that_asked(session_id, interaction_id)?;
        let (id, by) = (interaction_id.clone(), context.actor.clone());
        let done = self.edit(&session_id, move |core| core.respond(&id, &answer, by)).await?;
        let sequence: Sequence = done.sequence;
        Ok(Recorded { value: (session_id, done.value), sequence })
    }
}
