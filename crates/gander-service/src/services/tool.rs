//! ToolService: tools of a session, direct calls, permission rules.

use std::time::Duration;

use gander_domain::{
    ErrorDetail, ErrorReason, SessionId,
    extension::extension_key,
    permission::{PermissionRule, RuleDecision},
    tool::ToolDefinition,
};
use gander_engine::{DirectCall, DirectCallStream, RuleChange, ScopedRule};
use gander_proto::v1::{self as pb, tool_service_server::ToolService};
use pb::call_tool_response::Payload;
use tonic::{Request, Response, Status};

use super::{filters, resource};
use crate::{
    Api,
    context::incoming,
    convert::{At, Violations, non_empty, tool},
    error::{IntoStatus as _, status},
    paging::{cut_page, page_size},
    watch::Answers,
};

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl ToolService for Api {
    async fn list_tools(&self, request: Request<pb::ListToolsRequest>) -> Answer<pb::ListToolsResponse> {
        list_tools(self, request.into_inner()).await.map(Response::new)
    }

    type CallToolStream = Answers<pb::CallToolResponse>;

    async fn call_tool(&self, request: Request<pb::CallToolRequest>) -> Answer<Self::CallToolStream> {
        let (context, request) = incoming(request)?;
        let (id, call) = direct_call(request).or_status()?;
        // In a task of its own until it runs; from then on dropping the stream cancels it, as the contract says.
        let running = self.run(|engine| async move { engine.call_tool(&context, &id, call).await }).await?;
        Ok(Response::new(answers(running)))
    }

    async fn list_resources(
        &self,
        request: Request<pb::ListResourcesRequest>,
    ) -> Answer<pb::ListResourcesResponse> {
        resource::list_resources(self, request.into_inner()).await.map(Response::new)
    }

    async fn list_resource_templates(
        &self,
        request: Request<pb::ListResourceTemplatesRequest>,
    ) -> Answer<pb::ListResourceTemplatesResponse> {
        resource::list_templates(self, request.into_inner()).await.map(Response::new)
    }

    async fn read_resource(
        &self,
        request: Request<pb::ReadResourceRequest>,
    ) -> Answer<pb::ReadResourceResponse> {
        resource::read_resource(self, request.into_inner()).await.map(Response::new)
    }

    async fn subscribe_resource(
        &self,
        request: Request<pb::SubscribeResourceRequest>,
    ) -> Answer<pb::SubscribeResourceResponse> {
        let request = request.into_inner();
        let (id, name, uri) =
            resource::address(&request.session_id, request.extension_name, request.uri).or_status()?;
        let subscribed =
            self.run(|engine| async move { engine.subscribe_resource(&id, &name, &uri, true).await });
        Ok(Response::new(pb::SubscribeResourceResponse { sequence: subscribed.await? }))
    }

    async fn unsubscribe_resource(
        &self,
        request: Request<pb::UnsubscribeResourceRequest>,
    ) -> Answer<pb::UnsubscribeResourceResponse> {
        let request = request.into_inner();
        let (id, name, uri) =
            resource::address(&request.session_id, request.extension_name, request.uri).or_status()?;
        self.run(|engine| async move { engine.subscribe_resource(&id, &name, &uri, false).await }).await?;
        Ok(Response::new(pb::UnsubscribeResourceResponse {}))
    }

    async fn list_prompts(
        &self,
        request: Request<pb::ListPromptsRequest>,
    ) -> Answer<pb::ListPromptsResponse> {
        resource::list_prompts(self, request.into_inner()).await.map(Response::new)
    }

    async fn get_prompt(&self, request: Request<pb::GetPromptRequest>) -> Answer<pb::GetPromptResponse> {
        resource::get_prompt(self, request.into_inner()).await.map(Response::new)
    }

    async fn complete_argument(
        &self,
        request: Request<pb::CompleteArgumentRequest>,
    ) -> Answer<pb::CompleteArgumentResponse> {
        resource::complete_argument(self, request.into_inner()).await.map(Response::new)
    }

    async fn list_permission_rules(
        &self,
        request: Request<pb::ListPermissionRulesRequest>,
    ) -> Answer<pb::ListPermissionRulesResponse> {
        let session = &request.get_ref().session_id;
        let id = match session.is_empty() {
            true => None,
            false => Some(super::session::session_id(session).or_status()?),
        };
        let rules = self.engine.permission_rules(id.as_ref()).await.or_status()?;
        Ok(Response::new(pb::ListPermissionRulesResponse { rules: rules_to_pb(&rules) }))
    }

    async fn set_permission_rules(
        &self,
        request: Request<pb::SetPermissionRulesRequest>,
    ) -> Answer<pb::SetPermissionRulesResponse> {
        let edits = rule_edits(request.into_inner()).or_status()?;
        let mut sessions: Vec<_> = edits.iter().filter_map(|e| e.session_id.clone()).collect();
        sessions.sort();
        sessions.dedup();
        let rules = self
            .run(|engine| async move {
                engine.set_permission_rules(edits).await?;
                let mut rules = Vec::new();
                for id in &sessions {
                    let own = engine.permission_rules(Some(id)).await?;
                    rules.extend(own.into_iter().filter(|r| r.session_id.is_some()));
                }
                rules.extend(engine.permission_rules(None).await?);
                Ok(rules)
            })
            .await?;
        Ok(Response::new(pb::SetPermissionRulesResponse { rules: rules_to_pb(&rules) }))
    }
}

async fn list_tools(api: &Api, mut request: pb::ListToolsRequest) -> Result<pb::ListToolsResponse, Status> {
    let size = page_size(request.page_size, 200, 200).or_status()?;
    let token = std::mem::take(&mut request.page_token);
    let mut v = Violations::default();
    let id = v.id(&At::root("session_id"), &request.session_id, |t| SessionId::new(t));
    let wait = v.duration(&At::root("wait_for_extensions"), request.wait_for_extensions.take());
    let id = v.finish(id).or_status()?;
    request.page_size = 0;
    let filters = filters("ListTools", &request);
    let (name, hidden) = (non_empty(request.extension_name), request.include_hidden);
    let session = id.clone();
    let mut tools = run_list(api, id, name, wait.unwrap_or(Duration::ZERO)).await?;
    tools.retain(|t| hidden || (t.visibility.model && !t.quarantined));
    tools.sort_by(|a, b| a.name.cmp(&b.name));
    // A host may bring a tool that an extension has, too; keys of pages must be unique.
    tools.dedup_by(|a, b| a.name == b.name);
    let rules = api.engine.permission_rules(Some(&session)).await.or_status()?;
    let rules: Vec<PermissionRule> = rules.into_iter().map(|r| r.rule).collect();
    let encode = |t: &ToolDefinition| tool::definition_to_pb(t, rule_for(&rules, &t.name));
    let (tools, next_page_token) =
        cut_page(&tools, |t| t.name.clone(), encode, &filters, &token, size).or_status()?;
    Ok(pb::ListToolsResponse { tools, next_page_token })
}

async fn run_list(
    api: &Api,
    id: SessionId,
    name: Option<String>,
    wait: Duration,
) -> Result<Vec<ToolDefinition>, Status> {
    api.run(|engine| async move { engine.list_tools(&id, name.as_deref(), Some(wait)).await }).await
}

fn direct_call(request: pb::CallToolRequest) -> Result<(SessionId, DirectCall), ErrorDetail> {
    let mut v = Violations::default();
    let id = v.id(&At::root("session_id"), &request.session_id, |t| SessionId::new(t));
    let name = v.name(&At::root("name"), request.name);
    let caller = &request.caller_extension_name;
    let timeout = v.duration(&At::root("timeout"), request.timeout);
    if timeout == Some(Duration::ZERO) {
        v.add(&At::root("timeout"), "must be greater than zero; leave it unset for the extension's own");
    }
    let call = DirectCall {
        arguments_json: v
            .json_object(&At::root("arguments_json"), request.arguments_json)
            .unwrap_or_default(),
        timeout,
        meta_json: v.json_object(&At::root("meta_json"), request.meta_json),
        app_of: (!caller.is_empty()).then(|| extension_key(caller)),
        name,
    };
    let id = v.finish(id)?;
    if !caller.is_empty() && !call.name.starts_with(&format!("{}__", extension_key(caller))) {
        let message =
            format!("{caller} may call its own tools only, by their public names; {} is not one", call.name);
        return Err(ErrorDetail::new(ErrorReason::ToolNotAllowed, message).with("name", &call.name));
    }
    Ok((id, call))
}

/// Progress as it comes, then the result. Dropping the stream cancels the call.
fn answers(running: DirectCallStream) -> Answers<pb::CallToolResponse> {
    Box::pin(async_stream::stream! {
        let mut running = running;
        let wrap = |payload| Ok(pb::CallToolResponse { payload: Some(payload) });
        while let Some(progress) = running.progress.recv().await {
            yield wrap(tool::progress_to_pb(progress));
        }
        match (&mut running.result).await {
            Ok(result) => yield wrap(Payload::Result(Box::new(tool::result_to_pb(&result)))),
            Err(_) => {
                let error = ErrorDetail::new(ErrorReason::ShuttingDown, "the daemon stopped while the call ran");
                yield Err(status(&error));
            }
        }
    })
}

fn rules_to_pb(rules: &[ScopedRule]) -> Vec<pb::PermissionRule> {
    rules.iter().map(tool::scoped_rule_to_pb).collect()
}

/// The rule that decides about a tool: a refusal before all others.
fn rule_for(rules: &[PermissionRule], name: &str) -> Option<RuleDecision> {
    let matching = || rules.iter().filter(|r| r.matches(name)).map(|r| r.decision);
    matching().find(|d| *d == RuleDecision::NeverAllow).or_else(|| matching().next())
}

fn rule_edits(request: pb::SetPermissionRulesRequest) -> Result<Vec<RuleChange>, ErrorDetail> {
    let mut v = Violations::default();
    let mut edits = Vec::with_capacity(request.rules.len().min(256));
    for (index, rule) in request.rules.into_iter().enumerate() {
        let at = At::root_element("rules", index);
        edits.extend(tool::rule_edit_from_pb(rule, &at, &mut v));
    }
    v.finish(Some(edits))
}

#[cfg(test)]
mod tests {
    use gander_domain::permission::RememberScope;

    use super::*;

    #[test]
    fn refusals_win() {
        let rule = |pattern: &str, decision| PermissionRule {
            tool_pattern: pattern.into(),
            decision,
            scope: RememberScope::User,
        };
        let rules = [
            rule("a__x", RuleDecision::AlwaysAllow),
            rule("a__*", RuleDecision::NeverAllow),
            rule("b__*", RuleDecision::Ask),
        ];
        assert_eq!(rule_for(&rules, "a__x"), Some(RuleDecision::NeverAllow));
        assert_eq!(rule_for(&rules, "b__y"), Some(RuleDecision::Ask));
        assert_eq!(rule_for(&rules, "c__z"), None);
    }

    #[test]
    fn apps_call_their_own_tools_only() {
        let request = |caller: &str, name: &str| pb::CallToolRequest {
            session_id: "s".into(),
            name: name.into(),
            caller_extension_name: caller.into(),
            ..Default::default()
        };
        assert!(direct_call(request("My App", "myapp__go")).is_ok());
        assert!(direct_call(request("", "other__go")).is_ok());
        for name in ["other__go", "go", "myapp2__go"] {
            let error = direct_call(request("My App", name)).unwrap_err();
            assert_eq!(error.reason, ErrorReason::ToolNotAllowed, "{name}");
        }
    }
}
