//! What a turn does besides asking the model, because of its session's recipe or its request: tools that the engine
//! itself answers, the structured final answer, checks of the result.
//!
//! The turn's loop calls it at four points: at its start, for the list of tools, for each call, and when the model is
//! done. A final answer counts only if it matches the schema; the model is told what is wrong and asked again, a
//! bounded number of times.

use std::{
    collections::HashSet,
    sync::{Mutex, PoisonError},
};

use gander_domain::{
    ErrorDetail, ErrorReason, Item, ItemBody, ItemId, Part, Payload, SessionId,
    item::{AgentMessage, NoticeLevel, ToolOutcome, ToolResult, UserMessage, Visibility},
    tool::{ToolAnnotations, ToolDefinition, ToolVisibility},
    turn::{StopReason, TurnOutcome},
};
use gander_formats::recipe::{self as format, Recipe};
use serde_json::{Value, json};

use super::{
    Call, Snapshot, TurnResult, TurnTask,
    checks::Checks,
    delegate::{self, Delegation},
};
use crate::recipes;

/// Public name of the tool that takes the structured final answer.
pub(crate) const FINAL_OUTPUT_TOOL: &str = "recipe__final_output";

/// How often a model that ends without the structured answer is asked for it.
const MAX_NUDGES: u32 = 5;

/// What the engine adds to a turn. Empty for most.
#[derive(Default)]
pub(super) struct Own {
    final_output: Option<FinalOutput>,
    checks: Option<Checks>,
    delegation: Option<Delegation>,
    nudges: u32,
}

struct FinalOutput {
    schema: Value,
    /// Whether the tool's one argument `final_output` holds the answer: the schema is not that of an object.
    wrapped: bool,
    answer: Mutex<Option<String>>,
}

impl FinalOutput {
    fn new(schema: Value) -> Self {
        let wrapped = schema.get("type").is_some_and(|t| t != "object");
        Self { schema, wrapped, answer: Mutex::default() }
    }

    fn definition(&self) -> ToolDefinition {
        let schema = if self.wrapped {
            json!({
                "type": "object",
                "properties": {"final_output": self.schema},
                "required": ["final_output"],
            })
        } else {
            let mut schema = self.schema.clone();
            if schema.get("type").is_none() {
                schema["type"] = json!("object");
            }
            schema
        };
        let description = "Gives the final answer to the user. The work is not done before this tool was called \
                           with arguments that match its schema; when they do not, the result says what is wrong.";
        definition("recipe", "final_output", FINAL_OUTPUT_TOOL, description, &schema)
    }

    fn take(&self, arguments_json: &str) -> ToolResult {
        let arguments: Value = match serde_json::from_str(arguments_json) {
            Ok(arguments) => arguments,
            Err(error) => return invalid(format!("the arguments are no JSON: {error}")),
        };
        let value =
            if self.wrapped { arguments.get("final_output").cloned().unwrap_or_default() } else { arguments };
        let problems = format::schema_problems(&self.schema, &value);
        if !problems.is_empty() {
            let list = problems.join("\n- ");
            return invalid(format!(
                "the answer does not match the schema:\n- {list}\nMend it and call again."
            ));
        }
        *self.answer.lock().unwrap_or_else(PoisonError::into_inner) = Some(value.to_string());
        said("The final answer was taken.")
    }

    fn answer(&self) -> Option<String> {
        self.answer.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// A tool of the engine's own.
pub(super) fn definition(
    extension_name: &str,
    tool_name: &str,
    name: &str,
    description: &str,
    schema: &Value,
) -> ToolDefinition {
    ToolDefinition {
        name: name.to_owned(),
        extension_name: extension_name.to_owned(),
        tool_name: tool_name.to_owned(),
        title: None,
        description: description.to_owned(),
        input_schema_json: schema.to_string(),
        output_schema_json: None,
        annotations: ToolAnnotations::default(),
        icons_json: None,
        meta_json: None,
        visibility: ToolVisibility { model: true, app: false },
        definition_hash: String::new(),
        quarantined: false,
        trusted: true,
    }
}

pub(super) fn said(text: impl Into<String>) -> ToolResult {
    ToolResult {
        outcome: ToolOutcome::Ok,
        parts: vec![Part::text(text.into())],
        structured_content_json: None,
        is_error: false,
        meta_json: None,
        error: None,
        truncated: None,
        duration_ms: 0,
    }
}

pub(super) fn invalid(message: impl Into<String>) -> ToolResult {
    ToolResult::failed(ToolOutcome::InvalidArguments, ErrorDetail::new(ErrorReason::InvalidField, message))
}

impl Own {
    /// What the session and the request ask for.
    pub(super) async fn load(task: &TurnTask, snapshot: &Snapshot) -> TurnResult<Self> {
        let recipe = recipes::parsed(&snapshot.session).map_err(TurnOutcome::Failed)?;
        let asked = task.start.response_schema_json.as_deref();
        let schema = asked.and_then(|text| serde_json::from_str(text).ok());
        let schema = schema.or_else(|| recipe.as_ref().and_then(|r| r.response_schema.clone()));
        let kept: HashSet<ItemId> = snapshot.items.iter().map(|i| i.item_id.clone()).collect();
        let retry = recipe.as_ref().and_then(|r| r.retry.clone());
        let subs = recipe.as_ref().map_or(&[][..], |r: &Recipe| &r.sub_recipes);
        Ok(Self {
            final_output: schema.map(FinalOutput::new),
            checks: retry.map(|retry| Checks::new(retry, kept)),
            delegation: Delegation::load(task, &snapshot.session, subs).await?,
            nudges: 0,
        })
    }

    /// Puts the engine's tools among the others, in place of those of the same names.
    pub(super) fn add_tools(&self, tools: &mut Vec<ToolDefinition>) {
        let own = self.final_output.iter().map(FinalOutput::definition);
        for tool in own.chain(self.delegation.iter().map(Delegation::definition)) {
            tools.retain(|t| t.name != tool.name);
            tools.push(tool);
        }
    }

    /// Whether the engine answers calls of this tool.
    pub(super) fn has(&self, name: &str) -> bool {
        (name == FINAL_OUTPUT_TOOL && self.final_output.is_some())
            || (name == delegate::TOOL && self.delegation.is_some())
    }

    /// Whether nobody is asked about calls of this tool: to answer is what the user wants.
    pub(super) fn needs_no_permission(&self, name: &str) -> bool {
        name == FINAL_OUTPUT_TOOL && self.final_output.is_some()
    }

    /// Answers a call. The session is the one that the call's work was given to.
    pub(super) async fn call(&self, task: &TurnTask, item: &Item) -> (ToolResult, Option<SessionId>) {
        let Some(call) = item.tool_call() else { return (invalid("this is no call"), None) };
        match (&self.final_output, &self.delegation) {
            (Some(output), _) if call.name == FINAL_OUTPUT_TOOL => (output.take(&call.arguments_json), None),
            (_, Some(delegation)) if call.name == delegate::TOOL => delegation.call(task, item).await,
            _ => (invalid(format!("there is no tool {:?}", call.name)), None),
        }
    }
}

impl TurnTask {
    /// An agent as the model runs its own loop: it takes no tools of the engine and is not asked again.
    pub(super) async fn note_what_agents_lack(&self) -> TurnResult<()> {
        let session = self.snapshot().await?.session;
        let recipe = recipes::parsed(&session).map_err(TurnOutcome::Failed)?;
        let has =
            |asked: bool, of_recipe: fn(&Recipe) -> bool| asked || recipe.as_ref().is_some_and(of_recipe);
        let wanted = [
            (
                has(self.start.response_schema_json.is_some(), |r| r.response_schema.is_some()),
                "a structured answer",
            ),
            (has(false, |r| r.retry.is_some()), "checks with further attempts"),
            (has(false, |r| !r.sub_recipes.is_empty()), "sub-recipes"),
        ];
        let lacking: Vec<_> = wanted.iter().filter(|(wanted, _)| *wanted).map(|(_, what)| *what).collect();
        if lacking.is_empty() {
            return Ok(());
        }
        let provider_id = &self.start.model.selection.provider_id;
        let text = format!("{provider_id} is an agent of its own and does without: {}", lacking.join(", "));
        Ok(self.emit(vec![self.notice(NoticeLevel::Warning, "agent_lacks", text)]).await?)
    }

    /// After tools ran: whether the turn goes on.
    pub(super) async fn after_tools(&mut self) -> TurnResult<Call> {
        let Some(answer) = self.own.final_output.as_ref().and_then(FinalOutput::answer) else {
            return Ok(Call::Again);
        };
        let body = AgentMessage { parts: vec![Part::text(answer)], demo: false };
        let item = self.item(ItemBody::AgentMessage(body), Visibility::default());
        self.emit(vec![Payload::ItemCompleted { item: Box::new(item) }]).await?;
        self.check_result().await
    }

    /// The model says no more: whether that is the end.
    pub(super) async fn at_end(&mut self) -> TurnResult<Call> {
        let missing = self.own.final_output.as_ref().is_some_and(|f| f.answer().is_none());
        let session = self.snapshot().await?.session;
        if missing && self.mode(&session) != gander_domain::session::Mode::Chat {
            if self.own.nudges >= MAX_NUDGES {
                return Err(TurnOutcome::Failed(ErrorDetail::new(
                    ErrorReason::ProviderBadRequest,
                    format!(
                        "the model ended {MAX_NUDGES} times without giving its final answer with the tool \
                         {FINAL_OUTPUT_TOOL}; try another model, or a simpler schema"
                    ),
                )));
            }
            self.own.nudges += 1;
            let text = format!("Give the final answer now with the tool {FINAL_OUTPUT_TOOL}.");
            self.tell_model(text).await?;
            return Ok(Call::Again);
        }
        self.check_result().await
    }

    /// A message for the model only.
    pub(super) async fn tell_model(&self, text: String) -> TurnResult<()> {
        let body = ItemBody::UserMessage(UserMessage { parts: vec![Part::text(text)], steered: false });
        let item = self.item(body, Visibility { user: false, model: true });
        Ok(self.emit(vec![Payload::ItemCompleted { item: Box::new(item) }]).await?)
    }

    async fn check_result(&mut self) -> TurnResult<Call> {
        let Some(mut checks) = self.own.checks.take() else { return Ok(Call::Done(StopReason::EndTurn)) };
        let again = checks.run(self).await;
        self.own.checks = Some(checks);
        if again? {
            self.own.nudges = 0;
            if let Some(output) = &self.own.final_output {
                *output.answer.lock().unwrap_or_else(PoisonError::into_inner) = None;
            }
            self.forget_measure();
            return Ok(Call::Again);
        }
        Ok(Call::Done(StopReason::EndTurn))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(result: &ToolResult) -> &str {
        result.parts[0].as_text().unwrap()
    }

    #[test]
    fn an_answer_counts_when_it_matches() {
        let output = FinalOutput::new(
            json!({"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}),
        );
        for (arguments, problem) in [("{}", "required"), (r#"{"n":"x"}"#, "/n"), ("[", "no JSON")] {
            let result = output.take(arguments);
            assert!(result.is_error && text(&result).contains(problem), "{arguments}: {result:?}");
            assert_eq!(output.answer(), None);
        }
        assert!(!output.take(r#"{"n": 7}"#).is_error);
        assert_eq!(output.answer().as_deref(), Some(r#"{"n":7}"#));
    }

    #[test]
    fn an_answer_that_is_no_object_is_wrapped() {
        let output = FinalOutput::new(json!({"type": "array", "items": {"type": "string"}}));
        let schema: Value = serde_json::from_str(&output.definition().input_schema_json).unwrap();
        assert_eq!(schema["properties"]["final_output"]["type"], "array");
        assert!(output.take(r#"{"final_output": [1]}"#).is_error);
        assert!(!output.take(r#"{"final_output": ["a"]}"#).is_error);
        assert_eq!(output.answer().as_deref(), Some(r#"["a"]"#));
    }
}
