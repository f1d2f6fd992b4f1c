//! Resources and prompts of a session's extensions (the other half of ToolService).

use gander_domain::{ErrorDetail, ErrorReason, Part, PartBody, SessionId};
use gander_engine::{CompletionTarget, PromptArgument, PromptInfo, ResourceInfo, ResourceTemplateInfo};
use gander_proto::v1 as pb;
use prost::Message;
use tonic::Status;

use super::filters;
use crate::{
    Api, MAX_RESPONSE_BYTES,
    convert::{At, Violations, content, int64, non_empty, or_empty},
    error::IntoStatus as _,
    paging::{cut_page, page_size},
};

/// Bytes of a response that are not its payload.
const ENVELOPE_BYTES: usize = 4 * 1024;

macro_rules! lists {
    ($($function:ident: $method:literal, $request:ident => $response:ident.$field:ident, $engine:ident, $encode:ident,
       $key:expr;)*) => {$(
        pub(super) async fn $function(api: &Api, mut request: pb::$request) -> Result<pb::$response, Status> {
            let size = page_size(request.page_size, 50, 200).or_status()?;
            let token = std::mem::take(&mut request.page_token);
            request.page_size = 0;
            let filters = filters($method, &request);
            let id = super::session::session_id(&request.session_id).or_status()?;
            let name = non_empty(request.extension_name);
            let all = api.run(|engine| async move { engine.$engine(&id, name.as_deref()).await }).await?;
            let (page, next_page_token) =
                cut_page(&all, $key, $encode, &filters, &token, size).or_status()?;
            Ok(pb::$response { $field: page, next_page_token })
        }
    )*};
}

lists! {
    list_resources: "ListResources", ListResourcesRequest => ListResourcesResponse.resources, list_resources,
        resource_to_pb, |r: &ResourceInfo| format!("{} {}", r.extension_name, r.uri);
    list_templates: "ListResourceTemplates", ListResourceTemplatesRequest => ListResourceTemplatesResponse.templates,
        list_resource_templates, template_to_pb,
        |t: &ResourceTemplateInfo| format!("{} {}", t.extension_name, t.uri_template);
    list_prompts: "ListPrompts", ListPromptsRequest => ListPromptsResponse.prompts, list_prompts, prompt_to_pb,
        |p: &PromptInfo| format!("{} {}", p.extension_name, p.name);
}

/// Session, extension and URI of a request.
pub(super) fn address(
    session_id: &str,
    extension_name: String,
    uri: String,
) -> Result<(SessionId, String, String), ErrorDetail> {
    let mut v = Violations::default();
    let id = v.id(&At::root("session_id"), session_id, |t| SessionId::new(t));
    let name = v.name(&At::root("extension_name"), extension_name);
    let uri = v.name(&At::root("uri"), uri);
    v.finish(id.map(|id| (id, name, uri)))
}

pub(super) async fn complete_argument(
    api: &Api,
    request: pb::CompleteArgumentRequest,
) -> Result<pb::CompleteArgumentResponse, Status> {
    use pb::complete_argument_request::Target;
    let mut v = Violations::default();
    let id = v.id(&At::root("session_id"), &request.session_id, |t| SessionId::new(t));
    let name = v.name(&At::root("extension_name"), request.extension_name);
    let argument = v.name(&At::root("argument_name"), request.argument_name);
    let target = match request.target {
        Some(Target::PromptName(name)) => Some(CompletionTarget::Prompt(name)),
        Some(Target::UriTemplate(template)) => Some(CompletionTarget::ResourceTemplate(template)),
        None => {
            v.add(&At::root("prompt_name"), "must be set, or uri_template");
            None
        }
    };
    let (id, target) = v.finish(id.zip(target)).or_status()?;
    let (value, context) = (request.argument_value, request.context_arguments.into_iter().collect());
    let result = api
        .run(|engine| async move {
            engine.complete_argument(&id, &name, target, (argument, value), context).await
        })
        .await?;
    Ok(pb::CompleteArgumentResponse {
        values: result.values,
        total_count: result.total.map(|total| i32::try_from(total).unwrap_or(i32::MAX)),
        has_more: result.has_more,
    })
}

pub(super) async fn read_resource(
    api: &Api,
    request: pb::ReadResourceRequest,
) -> Result<pb::ReadResourceResponse, Status> {
    let mut v = Violations::default();
    let id = v.id(&At::root("session_id"), &request.session_id, |t| SessionId::new(t));
    let uri = v.name(&At::root("uri"), request.uri);
    let (id, uri) = v.finish(id.map(|id| (id, uri))).or_status()?;
    let name = non_empty(request.extension_name);
    let parts =
        api.run(|engine| async move { engine.read_resource(&id, name.as_deref(), &uri).await }).await?;
    let contents = parts.iter().filter_map(contents_to_pb).collect();
    fits(pb::ReadResourceResponse { contents }, "the resource").or_status()
}

pub(super) async fn get_prompt(
    api: &Api,
    request: pb::GetPromptRequest,
) -> Result<pb::GetPromptResponse, Status> {
    let mut v = Violations::default();
    let id = v.id(&At::root("session_id"), &request.session_id, |t| SessionId::new(t));
    let extension = v.name(&At::root("extension_name"), request.extension_name);
    let name = v.name(&At::root("name"), request.name);
    let arguments = crate::convert::session::map_from_pb(request.arguments, &At::root("arguments"), &mut v);
    let (id, extension, name) = v.finish(id.map(|id| (id, extension, name))).or_status()?;
    // A map of texts is always JSON.
    let arguments = serde_json::to_string(&arguments).unwrap_or_default();
    let prompt =
        api.run(|engine| async move { engine.get_prompt(&id, &extension, &name, &arguments).await }).await?;
    let messages = prompt
        .messages
        .iter()
        .map(|m| pb::PromptMessage { role: m.role.clone(), parts: vec![content::part_to_pb(&m.part)] })
        .collect();
    fits(pb::GetPromptResponse { description: or_empty(prompt.description.as_ref()), messages }, "the prompt")
        .or_status()
}

/// Refuses what no client could receive.
fn fits<M: Message>(response: M, what: &str) -> Result<M, ErrorDetail> {
    let (bytes, limit) = (response.encoded_len(), MAX_RESPONSE_BYTES - ENVELOPE_BYTES);
    if bytes <= limit {
        return Ok(response);
    }
    let message =
        format!("{what} has {bytes} bytes, which is more than the {limit} that fit into one response");
    Err(ErrorDetail::new(ErrorReason::MessageTooLarge, message).with("bytes", bytes).with("limit", limit))
}

/// Contents of a resource; `_meta` goes inside, where MCP has it.
fn contents_to_pb(part: &Part) -> Option<pb::ResourceContents> {
    if !matches!(part.body, PartBody::Resource { .. }) {
        return None;
    }
    let meta_json = or_empty(part.meta_json.as_ref());
    match content::part_to_pb(part).body {
        Some(pb::part::Body::Resource(contents)) => Some(pb::ResourceContents { meta_json, ..contents }),
        _ => None,
    }
}

fn resource_to_pb(resource: &ResourceInfo) -> pb::ResourceDefinition {
    pb::ResourceDefinition {
        uri: resource.uri.clone(),
        name: resource.name.clone(),
        title: or_empty(resource.title.as_ref()),
        description: or_empty(resource.description.as_ref()),
        mime_type: or_empty(resource.mime_type.as_ref()),
        size_bytes: resource.size_bytes.map(int64),
        annotations: resource.annotations.as_ref().map(content::annotations_to_pb),
        meta_json: or_empty(resource.meta_json.as_ref()),
        extension_name: resource.extension_name.clone(),
        icons_json: String::new(),
    }
}

fn template_to_pb(template: &ResourceTemplateInfo) -> pb::ResourceTemplate {
    pb::ResourceTemplate {
        uri_template: template.uri_template.clone(),
        name: template.name.clone(),
        title: or_empty(template.title.as_ref()),
        description: or_empty(template.description.as_ref()),
        mime_type: or_empty(template.mime_type.as_ref()),
        annotations: None,
        meta_json: or_empty(template.meta_json.as_ref()),
        extension_name: template.extension_name.clone(),
    }
}

fn prompt_to_pb(prompt: &PromptInfo) -> pb::PromptDefinition {
    let argument = |a: &PromptArgument| pb::PromptArgument {
        name: a.name.clone(),
        title: or_empty(a.title.as_ref()),
        description: or_empty(a.description.as_ref()),
        required: a.required,
    };
    pb::PromptDefinition {
        name: prompt.name.clone(),
        title: or_empty(prompt.title.as_ref()),
        description: or_empty(prompt.description.as_ref()),
        arguments: prompt.arguments.iter().map(argument).collect(),
        extension_name: prompt.extension_name.clone(),
        meta_json: or_empty(prompt.meta_json.as_ref()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_client_could_receive_is_refused() {
        let response = |bytes| pb::GetPromptResponse { description: "x".repeat(bytes), ..Default::default() };
        assert!(fits(response(1_000), "the prompt").is_ok());
        let error = fits(response(MAX_RESPONSE_BYTES), "the prompt").unwrap_err();
        assert_eq!(error.reason, ErrorReason::MessageTooLarge);
    }

    #[test]
    fn meta_of_a_resource_goes_inside() {
        let body =
            PartBody::Resource { uri: "u:x".into(), mime_type: None, text: Some("t".into()), data: None };
        let part = Part { meta_json: Some("{\"a\":1}".into()), ..Part::new(body) };
        let contents = contents_to_pb(&part).unwrap();
        assert_eq!((contents.meta_json.as_str(), contents.uri.as_str()), ("{\"a\":1}", "u:x"));
        assert!(contents_to_pb(&Part::text("no resource")).is_none());
    }
}
