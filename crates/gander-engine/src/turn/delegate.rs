//! Sub-agents: the tool `delegate` gives a task to a session of its own and returns what that session says last.
//!
//! Invariants: a child is a session with its own log, of kind SUBAGENT, that names the call it works for; it ends with
//! the call, whatever ends it; what it asks people is asked in the parent's session; depth and number at once are
//! bounded. What a child uses counts in its own session, in the parent's totals and against the parent's turn, call by
//! call: children that work at once share what is left.

mod following;

use std::collections::BTreeMap;

use gander_domain::{
    Actor, ErrorDetail, ErrorReason, Item, Part, Session, SessionId,
    extension::extension_key,
    item::{ToolOutcome, ToolResult},
    session::{ModelSelection, ParentCall, SessionKind},
    tool::ToolDefinition,
    turn::{TurnLimits, TurnOutcome},
};
use gander_formats::recipe::SubRecipe;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use self::following::{ChildGuard, Following};
use super::{TurnResult, TurnTask, own};
use crate::{
    engine::{Engine, ExtensionSelection, NewSession, RequestContext, StartTurn},
    recipes::{RecipeOrigin, RecipeRequest},
    source::Mint,
};

/// Public name of the tool.
pub(super) const TOOL: &str = "delegate";
/// The extension that it belongs to for people and configuration.
pub(crate) const EXTENSION: &str = "summon";

/// Children of one turn that work at once, where the configuration says nothing.
const MAX_AT_ONCE: usize = 5;
/// Model calls of a child, where neither call nor configuration says otherwise.
const MAX_CALLS: u32 = 25;
/// How deep sessions may delegate: a child of a child of a child is the last.
const MAX_DEPTH: usize = 3;
/// Longest title of a child, in characters.
const MAX_TITLE: usize = 60;

/// What a turn needs to delegate.
pub(super) struct Delegation {
    subs: Vec<SubRecipe>,
    permits: Semaphore,
    /// One at a time, for sub-recipes that want it.
    sequential: Semaphore,
}

/// The tool's arguments, under Goose's names.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Arguments {
    instructions: Option<String>,
    source: Option<String>,
    parameters: BTreeMap<String, Value>,
    extensions: Option<Vec<String>>,
    provider: Option<String>,
    model: Option<String>,
    temperature: Option<f64>,
    max_turns: Option<u32>,
    context: Option<String>,
}

impl Delegation {
    /// `None`: this turn does not delegate.
    pub(super) async fn load(
        task: &TurnTask,
        session: &Session,
        subs: &[SubRecipe],
    ) -> TurnResult<Option<Self>> {
        let services = &task.start.services;
        let Some(engine) = services.engine() else { return Ok(None) };
        let wanted = if subs.is_empty() {
            let asked = services.wants_delegation(&session.session_id).await;
            asked.map_err(TurnOutcome::Failed)?
        } else {
            true
        };
        if !wanted || depth(&engine, session).await >= MAX_DEPTH {
            return Ok(None);
        }
        let configured = services.config.current().get_u64("GOOSE_MAX_BACKGROUND_TASKS").ok().flatten();
        let at_once = configured.and_then(|n| usize::try_from(n).ok()).filter(|n| (1..=64).contains(n));
        Ok(Some(Self {
            subs: subs.to_vec(),
            permits: Semaphore::new(at_once.unwrap_or(MAX_AT_ONCE)),
            sequential: Semaphore::new(1),
        }))
    }

    pub(super) fn definition(&self) -> ToolDefinition {
        let mut description = "Gives a task to another agent, which works in a session of its own with the same \
                               tools and directory, and returns its last answer. It knows nothing of this \
                               conversation: say everything that it must know. Call it several times at once for \
                               tasks that do not depend on each other."
            .to_owned();
        let names: Vec<&str> = self.subs.iter().map(|s| s.name.as_str()).collect();
        if !names.is_empty() {
            description.push_str("\nSources, each with instructions of its own:");
            for sub in &self.subs {
                description.push_str(&format!(
                    "\n- {}: {}",
                    sub.name,
                    sub.description.as_deref().unwrap_or("")
                ));
            }
        }
        let mut schema = json!({
            "type": "object",
            "properties": {
                "instructions": {"type": "string", "description": "The task. Needed unless there is a source."},
                "source": {
                    "type": "string",
                    "description": "Name of a source, or absolute path of a recipe's file.",
                },
                "parameters": {"type": "object", "description": "Values of the source's parameters."},
                "context": {"type": "string", "description": "What the agent should know besides its task."},
                "extensions": {
                    "type": "array",
                    "items": {"type": "string"},
                    "description": "Names of the extensions that it gets. Default: those of this session.",
                },
                "provider": {"type": "string"},
                "model": {"type": "string"},
                "temperature": {"type": "number"},
                "max_turns": {"type": "integer", "description": "Most model calls that it may make."},
            },
        });
        if !names.is_empty() {
            schema["properties"]["source"]["examples"] = json!(names);
        }
        own::definition(EXTENSION, "delegate", TOOL, &description, &schema)
    }

    pub(super) async fn call(&self, task: &TurnTask, item: &Item) -> (ToolResult, Option<SessionId>) {
        let arguments = item.tool_call().map_or("{}", |c| c.arguments_json.as_str());
        let arguments: Arguments = match serde_json::from_str(arguments) {
            Ok(arguments) => arguments,
            Err(error) => return (own::invalid(format!("the arguments do not fit: {error}")), None),
        };
        let sub = arguments.source.as_ref().and_then(|name| self.subs.iter().find(|s| s.name == *name));
        let one_by_one = sub.is_some_and(|s| s.sequential_when_repeated);
        let waited = task.unless_cancelled(async {
            let one = if one_by_one { self.sequential.acquire().await.ok() } else { None };
            (one, self.permits.acquire().await.ok())
        });
        let Ok(_permits) = waited.await else { return (cancelled(), None) };
        if task.budget_spent() {
            return (failed("the turn's budget is spent; no sub-agent was started".to_owned()), None);
        }
        match Box::pin(delegate(task, item, &arguments, sub)).await {
            Ok((result, child)) => (result, Some(child)),
            Err(error) => (ToolResult::failed(ToolOutcome::ToolError, error), None),
        }
    }
}

fn cancelled() -> ToolResult {
    ToolResult::failed(
        ToolOutcome::Cancelled,
        ErrorDetail::new(ErrorReason::TurnNotRunning, "the turn was cancelled; the sub-agent was stopped"),
    )
}

/// How many sessions above this one delegate.
async fn depth(engine: &Engine, session: &Session) -> usize {
    let mut parent = session.parent.clone();
    let mut depth = 0;
    while let Some(call) = parent.filter(|_| depth < MAX_DEPTH) {
        depth += 1;
        parent = engine.get_session(&call.session_id).await.ok().and_then(|s| s.parent);
    }
    depth
}

/// Makes the child, starts its turn and follows it to its end.
async fn delegate(
    task: &TurnTask,
    item: &Item,
    arguments: &Arguments,
    sub: Option<&SubRecipe>,
) -> Result<(ToolResult, SessionId), ErrorDetail> {
    let engine = task.start.services.engine().ok_or_else(|| ErrorDetail::internal("the engine has gone"))?;
    let gone = |_| ErrorDetail::internal("the session has gone");
    let parent = task.snapshot().await.map_err(gone)?.session;
    let new = child_session(task, &engine, item, &parent, arguments, sub).await?;
    let actor = Actor { client_name: "delegate".to_owned(), ..Actor::default() };
    let context = RequestContext { actor, idempotency: None };
    let child = engine.create_session(&context, new).await?.value;
    let recipe = crate::recipes::parsed(&child)?;
    let input = first_message(arguments, recipe.as_ref().and_then(|r| r.first_message()));
    let max_turns = arguments.max_turns.or(recipe.as_ref().and_then(|r| r.settings.max_turns));
    let configured = task.start.services.config.current().get_u64("GOOSE_SUBAGENT_MAX_TURNS").ok().flatten();
    let max_turns = max_turns.or(configured.and_then(|n| u32::try_from(n).ok())).filter(|n| *n > 0);
    let turn_id = task.start.services.source.turn_id();
    let start = StartTurn {
        turn_id: Some(turn_id.clone()),
        input: vec![Part::text(input)],
        limits: limits(task, max_turns.unwrap_or(MAX_CALLS)),
        ..StartTurn::default()
    };
    let guard =
        ChildGuard { engine: engine.clone(), child: Some((child.session_id.clone(), turn_id.clone())) };
    engine.start_turn(&context, &child.session_id, start).await?;
    let mut following = Following::new(task, item, &engine, child.session_id.clone(), turn_id);
    let result = following.run().await?;
    guard.done();
    Ok((result, child.session_id))
}

/// A child may use no more than its parent has left.
fn limits(task: &TurnTask, max_model_calls: u32) -> TurnLimits {
    let own = &task.start.limits;
    TurnLimits {
        max_model_calls: Some(max_model_calls),
        max_duration_ms: own.max_duration_ms,
        ..task.spent.left_of(own)
    }
}

async fn child_session(
    task: &TurnTask,
    engine: &Engine,
    item: &Item,
    parent: &Session,
    arguments: &Arguments,
    sub: Option<&SubRecipe>,
) -> Result<NewSession, ErrorDetail> {
    let recipe_request = source(arguments, sub)?;
    if recipe_request.is_none() && blank(arguments.instructions.as_deref()) {
        return Err(ErrorDetail::invalid("instructions", "must say what to do; or name a source"));
    }
    let mut extensions = engine.chosen_extensions(&parent.session_id).await?;
    if let Some(names) = &arguments.extensions {
        let keys: Vec<String> = names.iter().map(|n| extension_key(n)).collect();
        let known: Vec<String> = extensions.iter().map(|(c, _)| extension_key(&c.name)).collect();
        if let Some(unknown) = keys.iter().find(|key| !known.contains(key)) {
            let message =
                format!("{unknown:?} is no extension of this session; those are: {}", known.join(", "));
            return Err(ErrorDetail::invalid("extensions", message));
        }
        extensions.retain(|(c, _)| keys.contains(&extension_key(&c.name)));
    }
    let task_text = arguments.instructions.as_deref().filter(|t| !t.trim().is_empty());
    let title = task_text.or(arguments.source.as_deref()).unwrap_or("Sub-agent");
    Ok(NewSession {
        working_directory: parent.working_directory.clone(),
        additional_directories: parent.additional_directories.clone(),
        title: shorten(title),
        kind: SessionKind::Subagent,
        model: Some(model(task, arguments, recipe_request.is_some())).flatten(),
        // Where the parent follows the configuration, so does the child.
        mode: task.start.mode.or(parent.mode),
        extensions: ExtensionSelection {
            exactly: Some(extensions.into_iter().map(|(config, _)| config).collect()),
            ..ExtensionSelection::default()
        },
        recipe_request,
        client_environment: engine.environment(&parent.session_id).await?,
        demo_allowed: parent.demo_allowed,
        container: parent.container.clone(),
        parent: Some(ParentCall {
            session_id: parent.session_id.clone(),
            item_id: Some(item.item_id.clone()),
        }),
        ..NewSession::default()
    })
}

/// The recipe that the child follows.
fn source(arguments: &Arguments, sub: Option<&SubRecipe>) -> Result<Option<RecipeRequest>, ErrorDetail> {
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let mut values: BTreeMap<String, String> =
        arguments.parameters.iter().map(|(key, value)| (key.clone(), text(value))).collect();
    let Some(name) = arguments.source.as_deref().filter(|s| !s.trim().is_empty()) else { return Ok(None) };
    let path = match sub {
        Some(sub) => {
            // What the recipe's author fixed, the model cannot change.
            values.extend(sub.values.clone());
            sub.path.clone()
        }
        None if name.starts_with('/') => name.to_owned(),
        None => {
            return Err(ErrorDetail::invalid(
                "source",
                format!("{name:?} is no source of this session and no absolute path of a recipe"),
            ));
        }
    };
    Ok(Some(RecipeRequest { origin: RecipeOrigin::File(path), values, allow_missing_values: false }))
}

/// The model of the child: the call's, else the recipe's (`None`), else the parent's.
fn model(task: &TurnTask, arguments: &Arguments, has_recipe: bool) -> Option<ModelSelection> {
    let own = &task.start.model.selection;
    let millis =
        arguments.temperature.filter(|t| (0.0..=10.0).contains(t)).map(|t| (t * 1000.0).round() as u32);
    match (&arguments.provider, &arguments.model) {
        (None, None) if has_recipe && millis.is_none() => None,
        (None, None) => {
            Some(ModelSelection { temperature_millis: millis.or(own.temperature_millis), ..own.clone() })
        }
        (provider, model) => Some(ModelSelection {
            provider_id: provider.clone().unwrap_or_else(|| own.provider_id.clone()),
            model_id: model.clone().unwrap_or_default(),
            temperature_millis: millis,
            ..ModelSelection::default()
        }),
    }
}

fn first_message(arguments: &Arguments, of_recipe: Option<&str>) -> String {
    let mut parts = Vec::new();
    if let Some(context) = arguments.context.as_deref().filter(|c| !c.trim().is_empty()) {
        parts.push(format!("What you should know:\n{context}"));
    }
    let task = arguments.instructions.as_deref();
    parts.extend([of_recipe, task].into_iter().flatten().filter(|t| !t.trim().is_empty()).map(str::to_owned));
    parts.join("\n\n")
}

fn blank(text: Option<&str>) -> bool {
    text.is_none_or(|t| t.trim().is_empty())
}

fn shorten(text: &str) -> String {
    let line = text.trim().lines().next().unwrap_or_default();
    match line.char_indices().nth(MAX_TITLE) {
        Some((at, _)) => format!("{}…", &line[..at]),
        None => line.to_owned(),
    }
}

fn failed(message: String) -> ToolResult {
    ToolResult::failed(ToolOutcome::ToolError, ErrorDetail::new(ErrorReason::ToolNotAllowed, message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fixed_values_win_and_unknown_sources_are_told() {
        let sub = SubRecipe {
            name: "s".into(),
            path: "/r/s.yaml".into(),
            values: BTreeMap::from([("a".into(), "fixed".into())]),
            sequential_when_repeated: false,
            description: None,
        };
        let arguments = |text: &str| serde_json::from_str::<Arguments>(text).unwrap();
        let asked = arguments(r#"{"source":"s","parameters":{"a":"mine","b":2}}"#);
        let request = source(&asked, Some(&sub)).unwrap().unwrap();
        assert_eq!(request.origin, RecipeOrigin::File("/r/s.yaml".into()));
        assert_eq!(request.values, BTreeMap::from([("a".into(), "fixed".into()), ("b".into(), "2".into())]));
        assert!(source(&arguments(r#"{"source":"other"}"#), None).is_err());
        assert!(source(&arguments(r#"{"source":"/abs.yaml"}"#), None).unwrap().is_some());
        assert_eq!(source(&arguments("{}"), None).unwrap(), None);
    }

    #[test]
    fn the_first_message_holds_everything() {
        let arguments = Arguments {
            instructions: Some("do it".into()),
            context: Some("the repo is big".into()),
            ..Arguments::default()
        };
        let text = first_message(&arguments, Some("recipe"));
        assert_eq!(text, "What you should know:\nthe repo is big\n\nrecipe\n\ndo it");
        assert_eq!(first_message(&Arguments::default(), None), "");
    }
}
