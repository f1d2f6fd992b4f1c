//! InteractionService.

use gander_domain::{ErrorDetail, InteractionId, ItemId, SessionId, TurnId};
use gander_engine::InteractionFilter;
use gander_proto::v1::{self as pb, interaction_service_server::InteractionService};
use tonic::{Request, Response, Status};

use super::filters;
use crate::{
    Api,
    context::incoming,
    convert::{At, Violations, enums, interaction},
    error::IntoStatus as _,
    paging::{cut_page, page_size},
};

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl InteractionService for Api {
    async fn list_interactions(
        &self,
        request: Request<pb::ListInteractionsRequest>,
    ) -> Answer<pb::ListInteractionsResponse> {
        list_interactions(self, request.into_inner()).await.or_status().map(Response::new)
    }

    async fn get_interaction(
        &self,
        request: Request<pb::GetInteractionRequest>,
    ) -> Answer<pb::GetInteractionResponse> {
        let id = interaction_id(&request.into_inner().interaction_id).or_status()?;
        let (session_id, found) = self.engine.get_interaction(None, &id).await.or_status()?;
        let interaction = Some(interaction::interaction_to_pb(&found, &session_id));
        Ok(Response::new(pb::GetInteractionResponse { interaction }))
    }

    async fn respond_to_interaction(
        &self,
        request: Request<pb::RespondToInteractionRequest>,
    ) -> Answer<pb::RespondToInteractionResponse> {
        let (context, request) = incoming(request)?;
        let mut v = Violations::default();
        let id = v.id(&At::root("interaction_id"), &request.interaction_id, |t| InteractionId::new(t));
        let session_id = v.optional_id(&At::root("session_id"), &request.session_id, |t| SessionId::new(t));
        let answer = interaction::answer_from_pb(request.answer, &At::root("answer"), &mut v);
        let (id, answer) = v.finish(id.zip(answer)).or_status()?;
        let done = self
            .run(|engine| async move { engine.respond(&context, session_id.as_ref(), &id, answer).await })
            .await?;
        let (session_id, resolved) = done.value;
        Ok(Response::new(pb::RespondToInteractionResponse {
            interaction: Some(interaction::interaction_to_pb(&resolved, &session_id)),
            sequence: done.sequence,
        }))
    }
}

fn interaction_id(text: &str) -> Result<InteractionId, ErrorDetail> {
    let mut v = Violations::default();
    let id = v.id(&At::root("interaction_id"), text, |t| InteractionId::new(t));
    v.finish(id)
}

async fn list_interactions(
    api: &Api,
    mut request: pb::ListInteractionsRequest,
) -> Result<pb::ListInteractionsResponse, ErrorDetail> {
    let size = page_size(request.page_size, 50, 200)?;
    let token = std::mem::take(&mut request.page_token);
    request.page_size = 0;
    let filters = filters("ListInteractions", &request);
    let mut v = Violations::default();
    let states = request
        .states
        .iter()
        .enumerate()
        .filter_map(|(i, s)| {
            v.required_enum(&At::root_element("states", i), *s, enums::interaction_state_from_pb)
        })
        .collect();
    let filter = InteractionFilter {
        session_id: v.optional_id(&At::root("session_id"), &request.session_id, |t| SessionId::new(t)),
        states,
        item_id: v.optional_id(&At::root("item_id"), &request.item_id, |t| ItemId::new(t)),
        turn_id: v.optional_id(&At::root("turn_id"), &request.turn_id, |t| TurnId::new(t)),
    };
    let filter = v.finish(Some(filter))?;
    let found = api.engine.list_interactions(filter).await?;
    let key = |(_, i): &(SessionId, gander_domain::Interaction)| i.interaction_id.as_str().to_owned();
    let encode = |(s, i): &(SessionId, gander_domain::Interaction)| interaction::interaction_to_pb(i, s);
    let (interactions, next_page_token) = cut_page(&found, key, encode, &filters, &token, size)?;
    Ok(pb::ListInteractionsResponse { interactions, next_page_token })
}
