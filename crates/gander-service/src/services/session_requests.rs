//! Requests of SessionService as the engine takes them.

use gander_domain::{
    ErrorDetail, Session, SessionId,
    session::{SessionKind, SessionRecipe},
};
use gander_engine::types::{ArchivedFilter, ListOrder, ListQuery};
use gander_engine::{ExtensionSelection, LoadRequest, NewSession, SessionPatch};
use gander_proto::v1 as pb;

use crate::convert::{At, Violations, enums, extension, non_empty, session};

pub(super) fn new_session(request: pb::CreateSessionRequest) -> Result<NewSession, ErrorDetail> {
    let mut v = Violations::default();
    let kind =
        v.optional_enum(&At::root("kind"), request.kind, enums::session_kind_from_pb).unwrap_or_default();
    let recipe_request =
        request.recipe.and_then(|r| super::recipe::source_from_pb(r, &At::root("recipe"), &mut v));
    let extensions = extension::selection_from_pb(request.extensions, &At::root("extensions"), &mut v);
    let extensions = match extensions {
        extension::Selection::Configured { add } => {
            ExtensionSelection { exactly: None, add, add_origin: None }
        }
        extension::Selection::Exactly(list) => {
            ExtensionSelection { exactly: Some(list), add: Vec::new(), add_origin: None }
        }
    };
    let directories = &At::root("additional_directories");
    let new = NewSession {
        session_id: v.optional_id(&At::root("session_id"), &request.session_id, |t| SessionId::new(t)),
        working_directory: request.working_directory,
        additional_directories: session::directories_from_pb(
            request.additional_directories,
            directories,
            &mut v,
        ),
        title: v.short(&At::root("title"), request.title),
        kind,
        model: request.model.map(|m| session::model_from_pb(m, &At::root("model"), &mut v)),
        mode: mode(request.mode, &At::root("mode"), &mut v),
        extensions,
        recipe: None,
        recipe_request,
        labels: session::map_from_pb(request.labels, &At::root("labels"), &mut v),
        client_environment: session::map_from_pb(
            request.client_environment,
            &At::root("client_environment"),
            &mut v,
        ),
        demo_allowed: request.demo_allowed,
        instructions: session::instructions_from_pb(request.instructions, &At::root("instructions"), &mut v),
        container: container(&At::root("container"), request.container, &mut v),
        parent: request.parent.and_then(|p| session::parent_from_pb(&p, &At::root("parent"), &mut v)),
        schedule_id: None,
    };
    v.finish(Some(new))
}

/// An id or name as container engines make them. It becomes a word of a command line, where a dash would begin an option.
fn container(at: &At<'_>, text: String, v: &mut Violations) -> Option<String> {
    let text = v.short(at, text);
    let first = text.bytes().next();
    let fits = first.is_none_or(|b| b.is_ascii_alphanumeric())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-/".contains(&b));
    if !fits {
        v.add(at, "must be the id or name of a container: letters, digits, `_`, `.`, `-` and `/`");
    }
    non_empty(text)
}

fn mode(mode: Option<i32>, at: &At<'_>, v: &mut Violations) -> Option<gander_domain::session::Mode> {
    v.required_enum(at, mode?, enums::mode_from_pb)
}

/// What `update_mask` names, as a patch; fields that it names and that are unset are cleared.
pub(super) fn patch(
    wanted: pb::Session,
    mask: &[String],
    present: &Session,
) -> Result<SessionPatch, ErrorDetail> {
    let mut v = Violations::default();
    let mut patch = SessionPatch::default();
    let root = At::root("session");
    if mask.is_empty() {
        v.add(&At::root("update_mask"), "must name at least one field");
    }
    let mut wanted = wanted;
    for path in mask {
        let at = root.field(path);
        match path.as_str() {
            "title" => patch.title = Some(v.short(&at, std::mem::take(&mut wanted.title))),
            "working_directory" => {
                patch.working_directory = Some(v.name(&at, std::mem::take(&mut wanted.working_directory)));
            }
            "additional_directories" => {
                let directories = std::mem::take(&mut wanted.additional_directories);
                patch.additional_directories = Some(session::directories_from_pb(directories, &at, &mut v));
            }
            "model" => {
                patch.model = Some(wanted.model.take().map(|m| session::model_from_pb(m, &at, &mut v)));
            }
            "mode" => patch.mode = Some(mode(wanted.mode, &at, &mut v)),
            "archive_time" => {
                patch.archived = Some(v.time(&at, wanted.archive_time).is_some());
            }
            "instructions" => {
                let list = std::mem::take(&mut wanted.instructions);
                let mut list = session::instructions_from_pb(list, &at, &mut v);
                list.retain(|i| !i.text.is_empty());
                patch.instructions = Some(list);
            }
            "recipe.values" => match &present.recipe {
                None => v.add(&at, "cannot be set: the session was not made from a recipe"),
                Some(recipe) => {
                    let values = wanted.recipe.take().unwrap_or_default().values;
                    let values = session::map_from_pb(values, &at, &mut v);
                    patch.recipe = Some(Some(SessionRecipe { values, ..recipe.clone() }));
                }
            },
            "labels" => {
                let labels = std::mem::take(&mut wanted.labels);
                patch.labels = Some(session::map_from_pb(labels, &at, &mut v));
            }
            "container" => {
                patch.container = Some(container(&at, std::mem::take(&mut wanted.container), &mut v));
            }
            other => {
                let known = "title, working_directory, additional_directories, model, mode, archive_time, \
                             instructions, recipe.values, labels, container";
                v.add(&At::root("update_mask"), format!("{other:?} cannot be set; these can: {known}"));
            }
        }
    }
    v.finish(Some(patch))
}

pub(super) fn load_request(request: pb::LoadSessionRequest) -> Result<(SessionId, LoadRequest), ErrorDetail> {
    let mut v = Violations::default();
    let id = v.id(&At::root("session_id"), &request.session_id, |t| SessionId::new(t));
    let environment = &At::root("client_environment");
    let load = LoadRequest {
        wait_for_extensions: v
            .duration(&At::root("wait_for_extensions"), request.wait_for_extensions)
            .unwrap_or_default(),
        restart: request.restart,
        client_environment: session::map_from_pb(request.client_environment, environment, &mut v),
        client_extensions: request.client_extensions.map(|c| {
            extension::configs_from_pb(c.extensions, &At::root("client_extensions"), "extensions", &mut v)
        }),
        working_directory: non_empty(request.working_directory),
        additional_directories: request.additional_directories.map(|d| {
            let at = At::root("additional_directories");
            session::directories_from_pb(d.directories, &at.field("directories"), &mut v)
        }),
    };
    let id = v.finish(id)?;
    Ok((id, load))
}

pub(super) fn list_query(request: &pb::ListSessionsRequest) -> Result<ListQuery, ErrorDetail> {
    let mut v = Violations::default();
    let kinds = request
        .kinds
        .iter()
        .enumerate()
        .filter_map(|(i, k)| v.required_enum(&At::root_element("kinds", i), *k, enums::session_kind_from_pb))
        .collect::<Vec<_>>();
    let order = match pb::SessionOrder::try_from(request.order) {
        Ok(pb::SessionOrder::Unspecified | pb::SessionOrder::UpdateTimeDesc) => ListOrder::UpdateTimeDesc,
        Ok(pb::SessionOrder::CreateTimeDesc) => ListOrder::CreateTimeDesc,
        Ok(pb::SessionOrder::CreateTimeAsc) => ListOrder::CreateTimeAsc,
        Err(_) => {
            v.add(&At::root("order"), "must be UPDATE_TIME_DESC, CREATE_TIME_DESC or CREATE_TIME_ASC");
            ListOrder::UpdateTimeDesc
        }
    };
    let parent = &request.parent_session_id;
    let mut all_but_technical = vec![SessionKind::User, SessionKind::Scheduled, SessionKind::Terminal];
    if !parent.is_empty() {
        // Those that work for another session are subagents.
        all_but_technical.push(SessionKind::Subagent);
    }
    let query = ListQuery {
        kinds: if kinds.is_empty() { all_but_technical } else { kinds },
        archived: if request.include_archived { ArchivedFilter::With } else { ArchivedFilter::Without },
        with_messages_only: request.with_messages_only,
        working_directory: non_empty(request.working_directory.clone()),
        schedule_id: non_empty(request.schedule_id.clone()),
        parent_session_id: v.optional_id(&At::root("parent_session_id"), parent, |t| SessionId::new(t)),
        order,
        ..ListQuery::default()
    };
    v.finish(Some(query))
}

#[cfg(test)]
#[path = "session_tests.rs"]
mod tests;
