//! Recipes for clients: the stored ones, links, checks, rendering, drafts.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use gander_domain::{ErrorDetail, ErrorReason, Session, SessionId, usage::UsagePurpose};
use gander_formats::recipe::{self as format, Finding};
use gander_store::ListQuery;
use serde_json::{Value, json};

use super::{
    Engine, ExtensionSelection, NewSession, Recorded, RequestContext, SessionPatch,
    extensions::{StoredSelection, check_config},
    idempotency::{Keyed, Receipt},
};
use crate::{
    compaction::transcript,
    completion::complete,
    recipes::{self, Given, RecipeOrigin, RecipeRequest, Resolved, StoredRecipe, UnreadableRecipe},
    services::{Change, Services},
    turn::CallReport,
};

/// Sessions whose working directories are looked into for a recipe that was not listed before.
const RECENT_SESSIONS: usize = 200;
/// Tokens of a drafted recipe.
const MAX_DRAFT_TOKENS: u64 = 8 * 1024;

/// A recipe with its parameters filled in.
#[derive(Debug, Clone)]
pub struct RenderedRecipe {
    pub document: Value,
    /// Optional parameters without value and default.
    pub missing_optional: Vec<String>,
}

impl Engine {
    /// Runs work on files beside the async tasks.
    pub(super) async fn with_recipes<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Services) -> Result<T, ErrorDetail> + Send + 'static,
    ) -> Result<T, ErrorDetail> {
        let services = Arc::clone(&self.services);
        let done = tokio::task::spawn_blocking(move || work(&services)).await;
        done.unwrap_or_else(|e| Err(ErrorDetail::internal(format!("reading recipes failed: {e}"))))
    }

    /// Where sessions worked lately: their projects may hold recipes.
    async fn projects(&self) -> Vec<PathBuf> {
        let query = ListQuery { limit: RECENT_SESSIONS, ..ListQuery::default() };
        let sessions = self.services.store.list_sessions(query).await.unwrap_or_default();
        let mut directories: Vec<_> =
            sessions.into_iter().map(|s| PathBuf::from(s.working_directory)).collect();
        directories.sort();
        directories.dedup();
        directories
    }

    /// Stored recipes, latest change first, and files that are none.
    pub async fn list_recipes(
        &self,
        working_directory: Option<&str>,
    ) -> Result<(Vec<StoredRecipe>, Vec<UnreadableRecipe>), ErrorDetail> {
        let directory =
            working_directory.map(|d| self.directory("working_directory", d)).transpose()?.map(PathBuf::from);
        let (mut recipes, unreadable) =
            self.with_recipes(move |services| Ok(services.recipes.list(directory.as_deref()))).await?;
        recipes.iter_mut().for_each(|r| self.note_schedule(r));
        Ok((recipes, unreadable))
    }

    fn note_schedule(&self, recipe: &mut StoredRecipe) {
        recipe.schedule_cron = self.services.schedules.cron_of_recipe(&recipe.recipe_id);
    }

    /// A stored recipe.
    pub async fn get_recipe(&self, recipe_id: &str) -> Result<StoredRecipe, ErrorDetail> {
        let (id, projects) = (recipe_id.to_owned(), self.projects().await);
        let mut recipe = self.with_recipes(move |services| services.recipes.get(&id, &projects)).await?;
        self.note_schedule(&mut recipe);
        Ok(recipe)
    }

    /// Stores a recipe; `true`: it is new. With a key, a new recipe that is there already word for word under its own
    /// name counts as stored: a first attempt may have ended between the file and the record of its key.
    pub async fn save_recipe(
        &self,
        context: &RequestContext,
        recipe_json: String,
        replace: Option<String>,
    ) -> Result<(StoredRecipe, bool), ErrorDetail> {
        let recorder = match self.keyed(context).await? {
            Keyed::Replay(receipt) => return Ok((self.get_recipe(&receipt.id).await?, replace.is_none())),
            Keyed::Fresh(recorder) => recorder,
        };
        let projects = if replace.is_some() { self.projects().await } else { Vec::new() };
        let keyed = recorder.is_keyed();
        let saved = self.with_recipes(move |services| {
            let replace = replace.as_deref().map(|id| (id, projects.as_slice()));
            services.recipes.save(&recipe_json, replace, keyed)
        });
        let (mut recipe, created) = saved.await?;
        let receipt = Receipt { sequence: 0, id: recipe.recipe_id.clone() };
        self.note_key(&recorder, &receipt).await?;
        self.services.announce(Change::Recipes);
        self.note_schedule(&mut recipe);
        Ok((recipe, created))
    }

    /// Removes a stored recipe.
    pub async fn delete_recipe(
        &self,
        context: &RequestContext,
        recipe_id: &str,
        allow_missing: bool,
    ) -> Result<(), ErrorDetail> {
        let Keyed::Fresh(recorder) = self.keyed(context).await? else { return Ok(()) };
        let (id, projects) = (recipe_id.to_owned(), self.projects().await);
        match self.with_recipes(move |services| services.recipes.delete(&id, &projects)).await {
            Err(e) if allow_missing && e.reason == ErrorReason::RecipeNotFound => {}
            Err(e) => return Err(e),
            Ok(()) => self.services.announce(Change::Recipes),
        }
        self.note_key(&recorder, &Receipt { sequence: 0, id: recipe_id.to_owned() }).await
    }

    /// Gives a stored recipe a text command, or (`None`) takes it away.
    pub async fn set_recipe_command(
        &self,
        context: &RequestContext,
        recipe_id: &str,
        name: Option<String>,
    ) -> Result<StoredRecipe, ErrorDetail> {
        let recorder = match self.keyed(context).await? {
            Keyed::Replay(receipt) => return self.get_recipe(&receipt.id).await,
            Keyed::Fresh(recorder) => recorder,
        };
        let (id, projects) = (recipe_id.to_owned(), self.projects().await);
        let set =
            self.with_recipes(move |services| services.recipes.set_command(&id, name.as_deref(), &projects));
        let mut recipe = set.await?;
        self.services.announce(Change::Recipes);
        self.note_key(&recorder, &Receipt { sequence: 0, id: recipe_id.to_owned() }).await?;
        self.note_schedule(&mut recipe);
        Ok(recipe)
    }

    /// What is wrong with a recipe. A recipe that cannot be read is a finding; one that is not there is an error.
    pub async fn validate_recipe(&self, origin: RecipeOrigin) -> Result<Vec<Finding>, ErrorDetail> {
        let projects = self.projects_for(&origin).await;
        self.with_recipes(move |services| match services.recipes.template(&origin, &projects) {
            Ok((template, _)) => Ok(format::validate(&template)),
            Err(error) if error.reason == ErrorReason::RecipeInvalid => Ok(vec![Finding {
                severity: format::Severity::Error,
                code: "unreadable",
                field: error.metadata.get("field").cloned().unwrap_or_default(),
                message: error.message,
            }]),
            Err(error) => Err(error),
        })
        .await
    }

    async fn projects_for(&self, origin: &RecipeOrigin) -> Vec<PathBuf> {
        match origin {
            RecipeOrigin::Stored(_) => self.projects().await,
            _ => Vec::new(),
        }
    }

    /// Reads what a request names and fills it in.
    pub(super) async fn resolve_recipe(
        &self,
        request: RecipeRequest,
        working_directory: Option<PathBuf>,
    ) -> Result<Resolved, ErrorDetail> {
        let projects = self.projects_for(&request.origin).await;
        self.with_recipes(move |services| {
            services.recipes.resolve(&request, working_directory.as_deref(), &projects)
        })
        .await
    }

    /// Makes what a new session's recipe says part of the request for it.
    pub(super) async fn apply_recipe(&self, new: &mut NewSession) -> Result<(), ErrorDetail> {
        let Some(request) = new.recipe_request.take() else { return Ok(()) };
        let directory = Some(&new.working_directory).filter(|d| !d.is_empty());
        let directory = directory.map(|d| self.directory("working_directory", d)).transpose()?;
        let resolved = self.resolve_recipe(request, directory.map(PathBuf::from)).await?;
        recipes::apply(new, &resolved);
        Ok(())
    }

    /// Fills in a session's recipe with the values of a patch.
    pub(super) async fn recipe_again(
        &self,
        session_id: &SessionId,
        patch: &mut SessionPatch,
    ) -> Result<Option<Given>, ErrorDetail> {
        let Some(Some(wanted)) = patch.recipe.clone() else { return Ok(None) };
        let session = self.session(session_id).await?;
        let given = self.with_recipes(move |_| Given::again(&session, wanted)).await?;
        patch.recipe = Some(Some(given.recipe.clone()));
        Ok(Some(given))
    }

    /// Other extensions for a session that exists; those that run are started anew at the next use.
    pub(super) async fn replace_selection(
        &self,
        session_id: &SessionId,
        selection: &ExtensionSelection,
    ) -> Result<(), ErrorDetail> {
        for config in &selection.add {
            check_config(config)?;
        }
        self.services.store_selection(session_id, &StoredSelection::of(selection)).await?;
        self.edit(session_id, |core| {
            if core.state.session.active_turn_id.is_none() {
                core.drop_extensions();
            }
            Ok(())
        })
        .await
        .map(|_| ())
    }

    /// Fills in a recipe's parameters.
    pub async fn render_recipe(&self, mut request: RecipeRequest) -> Result<RenderedRecipe, ErrorDetail> {
        request.allow_missing_values = false;
        rendered(&self.resolve_recipe(request, None).await?)
    }

    /// Fills in the recipe of a session, with other values on top of the session's.
    pub async fn render_session_recipe(
        &self,
        session_id: &SessionId,
        values: std::collections::BTreeMap<String, String>,
    ) -> Result<RenderedRecipe, ErrorDetail> {
        let session = self.session(session_id).await?;
        let Some(kept) = session.recipe.clone() else {
            return Err(ErrorDetail::invalid(
                "session_id",
                "names a session that was not made from a recipe",
            ));
        };
        if values.is_empty()
            && let Some(text) = &kept.rendered_json
            && let Ok(document) = serde_json::from_str(text)
        {
            return Ok(RenderedRecipe { document, missing_optional: Vec::new() });
        }
        let resolved = self
            .with_recipes(move |_| {
                let document = serde_json::from_str(&kept.recipe_json).map_err(|_| {
                    ErrorDetail::new(ErrorReason::RecipeInvalid, "the session's recipe is no JSON")
                })?;
                let mut all = kept.values;
                all.extend(values);
                recipes::fill_document(document, all, kept.recipe_id, Path::new(&session.working_directory))
            })
            .await?;
        rendered(&resolved)
    }

    /// Has the session's model write a recipe from the conversation. The call's price is logged; nothing is stored but,
    /// with a key, the draft itself for who asks again.
    pub async fn draft_recipe(
        &self,
        context: &RequestContext,
        session_id: &SessionId,
        author: &str,
    ) -> Result<Recorded<Value>, ErrorDetail> {
        let recorder = match self.keyed(context).await? {
            Keyed::Replay(receipt) => {
                let lost = |_| ErrorDetail::internal("a stored receipt holds no draft");
                let value = serde_json::from_str(&receipt.id).map_err(lost)?;
                return Ok(Recorded { value, sequence: receipt.sequence });
            }
            Keyed::Fresh(recorder) => recorder,
        };
        self.refuse_when_draining()?;
        let session = self.session(session_id).await?;
        let model = self.services.resolve_model(session.model.as_ref(), session.demo_allowed).await?;
        let items = self.edit(session_id, |core| Ok(core.state.model_items())).await?.value;
        if items.is_empty() {
            return Err(ErrorDetail::invalid("session_id", "names a session without a conversation"));
        }
        let prompt = format!("The conversation:\n\n{}", transcript(&items, 0));
        let system = self.services.render_template("recipe.md", &json!({}));
        let source = Arc::clone(&self.services.source);
        let draining = self.services.draining.clone();
        let done = tokio::select! {
            done = complete(&model, &*source, system, prompt, Some(MAX_DRAFT_TOKENS)) => {
                done.map_err(|e| e.to_detail(&model.selection.provider_id))?
            }
            // Nobody waits for a draft at the end of the daemon.
            () = draining.cancelled() => {
                self.refuse_when_draining()?;
                return Err(ErrorDetail::internal("the draft was given up"));
            }
        };
        let report = CallReport::beside(UsagePurpose::Sampling, &done);
        let by = context.actor.clone();
        // What was paid for is logged even if it is of no use.
        let value = drafted(&done.text, &session, author);
        let (document, id) = (value.as_ref().ok().map(Value::to_string), session_id.clone());
        let sequence = self
            .edit(session_id, move |core| {
                core.act_as(by);
                core.report_usage(None, report);
                if let Some(document) = document {
                    let receipt = Receipt { sequence: core.state.last_sequence(), id: document };
                    let now = core.now();
                    core.record(recorder.record(Some(&id), &receipt, now));
                }
                Ok(())
            })
            .await?
            .sequence;
        Ok(Recorded { value: value?, sequence })
    }
}

fn rendered(resolved: &Resolved) -> Result<RenderedRecipe, ErrorDetail> {
    let document = resolved.ready()?.document();
    Ok(RenderedRecipe { document, missing_optional: resolved.missing_optional.clone() })
}

/// The recipe in a model's answer, with what the session knows better.
fn drafted(answer: &str, session: &Session, author: &str) -> Result<Value, ErrorDetail> {
    let unusable = |why: &str| {
        ErrorDetail::new(
            ErrorReason::ProviderBadRequest,
            format!("the model drafted no usable recipe: {why}"),
        )
    };
    let object = match (answer.find('{'), answer.rfind('}')) {
        (Some(start), Some(end)) if start < end => &answer[start..=end],
        _ => return Err(unusable("its answer holds no JSON object")),
    };
    let answer: Value = serde_json::from_str(object).map_err(|_| unusable("its answer is no JSON"))?;
    let text = |key: &str| answer.get(key).and_then(Value::as_str).map(str::trim).filter(|t| !t.is_empty());
    let title =
        text("title").unwrap_or(if session.title.is_empty() { "Untitled recipe" } else { &session.title });
    let mut document = json!({
        "version": "1.0.0",
        "title": title,
        "description": text("description").unwrap_or(title),
    });
    for key in ["instructions", "prompt"] {
        if let Some(text) = text(key) {
            // What stands in braces was said, and is no variable.
            document[key] = Value::String(literal(text));
        }
    }
    let activities: Vec<_> = answer
        .get("activities")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(|a| a.as_str().map(|a| Value::String(literal(a))))
        .collect();
    if !activities.is_empty() {
        document["activities"] = Value::Array(activities);
    }
    if let Some(model) = &session.model {
        let mut settings = json!({});
        for (key, value) in [("goose_provider", &model.provider_id), ("goose_model", &model.model_id)] {
            if !value.is_empty() {
                settings[key] = Value::String(value.clone());
            }
        }
        document["settings"] = settings;
    }
    if !author.is_empty() {
        document["author"] = json!({"contact": author});
    }
    let recipe = format::read(&document)?;
    if recipe.first_message().is_none() {
        return Err(unusable("it has neither instructions nor a prompt"));
    }
    Ok(document)
}

/// Text whose braces are no template tags.
fn literal(text: &str) -> String {
    if text.contains("{{") || text.contains("{%") || text.contains("{#") {
        let text = text.replace("endraw", "end-raw");
        format!("{{% raw %}}{text}{{% endraw %}}")
    } else {
        text.to_owned()
    }
}
