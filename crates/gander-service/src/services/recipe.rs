//! RecipeService. Recipes travel as JSON text; the engine reads the files.

use gander_domain::{ErrorDetail, ErrorReason, SessionId};
use gander_engine::{
    Engine, RecipeOrigin, RecipeRequest, StoredRecipe, UnreadableRecipe,
    types::recipe_format::{self as format, Finding, Severity},
};
use gander_proto::v1::{self as pb, recipe_service_server::RecipeService};
use tonic::{Request, Response, Status};

use crate::{
    Api,
    context::incoming,
    convert::{At, Violations, non_empty, or_empty, session, time_to_pb},
    error::IntoStatus as _,
};

type Answer<T> = Result<Response<T>, Status>;

/// JSON object text that may be absent.
pub(super) fn optional_json(at: &At<'_>, text: String, v: &mut Violations) -> Option<String> {
    if text.is_empty() { None } else { v.json_object(at, text) }
}

/// Where a recipe is, and values for it.
pub(super) fn source_from_pb(
    source: pb::RecipeSource,
    at: &At<'_>,
    v: &mut Violations,
) -> Option<RecipeRequest> {
    use pb::recipe_source::Source;
    let values = session::map_from_pb(source.values, &at.field("values"), v);
    let origin = match source.source {
        None => {
            v.add(at, "must be recipe_json, recipe_id, deeplink or file_path");
            None
        }
        Some(Source::RecipeJson(text)) => {
            v.json_object(&at.field("recipe_json"), text).map(RecipeOrigin::Json)
        }
        Some(Source::RecipeId(id)) => Some(RecipeOrigin::Stored(v.name(&at.field("recipe_id"), id))),
        Some(Source::Deeplink(link)) => Some(RecipeOrigin::Link(v.text(&at.field("deeplink"), link))),
        Some(Source::FilePath(path)) => {
            Some(RecipeOrigin::File(v.absolute_path(&at.field("file_path"), path)))
        }
    };
    let allow_missing_values = source.allow_missing_values;
    origin.map(|origin| RecipeRequest { origin, values, allow_missing_values })
}

pub(super) fn required_source(source: Option<pb::RecipeSource>) -> Result<RecipeRequest, ErrorDetail> {
    let mut v = Violations::default();
    let request = source_from_pb(source.unwrap_or_default(), &At::root("recipe"), &mut v);
    v.finish(request)
}

fn recipe_to_pb(stored: &StoredRecipe) -> pb::Recipe {
    pb::Recipe {
        recipe_id: stored.recipe_id.clone(),
        title: stored.recipe.title.clone(),
        description: stored.recipe.description.clone(),
        recipe_json: stored.recipe.document().to_string(),
        file_path: stored.file_path.to_string_lossy().into_owned(),
        modify_time: Some(time_to_pb(stored.modify_time)),
        schedule_cron: or_empty(stored.schedule_cron.as_ref()),
        command_name: or_empty(stored.command_name.as_ref()),
    }
}

fn finding_to_pb(finding: &Finding) -> pb::RecipeFinding {
    let severity = match finding.severity {
        Severity::Warning => pb::RecipeSeverity::Warning,
        Severity::Error => pb::RecipeSeverity::Error,
        Severity::Security => pb::RecipeSeverity::Security,
    };
    pb::RecipeFinding {
        severity: severity as i32,
        code: finding.code.to_owned(),
        field_path: finding.field.clone(),
        message: finding.message.clone(),
    }
}

fn unreadable_to_pb(file: &UnreadableRecipe) -> pb::RecipeFinding {
    pb::RecipeFinding {
        severity: pb::RecipeSeverity::Error as i32,
        code: "unreadable".to_owned(),
        field_path: file.field.clone(),
        message: format!("{}: {}", file.file_path.display(), file.message),
    }
}

fn recipe_id(text: String) -> Result<String, ErrorDetail> {
    let mut v = Violations::default();
    let id = v.name(&At::root("recipe_id"), text);
    v.finish(Some(id))
}

/// A recipe's document in a request.
fn document(text: &str) -> Result<serde_json::Value, ErrorDetail> {
    let value: serde_json::Value = serde_json::from_str(text).map_err(|error| {
        let message = format!("recipe_json: is no JSON (line {}, column {})", error.line(), error.column());
        ErrorDetail::new(ErrorReason::RecipeInvalid, message).with("field", "recipe_json")
    })?;
    Ok(format::read(&value)?.document())
}

#[tonic::async_trait]
impl RecipeService for Api {
    async fn list_recipes(
        &self,
        request: Request<pb::ListRecipesRequest>,
    ) -> Answer<pb::ListRecipesResponse> {
        let directory = non_empty(request.into_inner().working_directory);
        let (recipes, unreadable) = self.engine.list_recipes(directory.as_deref()).await.or_status()?;
        Ok(Response::new(pb::ListRecipesResponse {
            recipes: recipes.iter().map(recipe_to_pb).collect(),
            findings: unreadable.iter().map(unreadable_to_pb).collect(),
        }))
    }

    async fn get_recipe(&self, request: Request<pb::GetRecipeRequest>) -> Answer<pb::GetRecipeResponse> {
        let id = recipe_id(request.into_inner().recipe_id).or_status()?;
        let found = self.engine.get_recipe(&id).await.or_status()?;
        Ok(Response::new(pb::GetRecipeResponse { recipe: Some(recipe_to_pb(&found)) }))
    }

    async fn save_recipe(&self, request: Request<pb::SaveRecipeRequest>) -> Answer<pb::SaveRecipeResponse> {
        let (context, request) = incoming(request)?;
        let replace = non_empty(request.recipe_id);
        let (saved, created) = self
            .run(|engine| async move { engine.save_recipe(&context, request.recipe_json, replace).await })
            .await?;
        Ok(Response::new(pb::SaveRecipeResponse { recipe: Some(recipe_to_pb(&saved)), created }))
    }

    async fn delete_recipe(
        &self,
        request: Request<pb::DeleteRecipeRequest>,
    ) -> Answer<pb::DeleteRecipeResponse> {
        let (context, request) = incoming(request)?;
        let id = recipe_id(request.recipe_id).or_status()?;
        let allow_missing = request.allow_missing;
        self.run(|engine| async move { engine.delete_recipe(&context, &id, allow_missing).await }).await?;
        Ok(Response::new(pb::DeleteRecipeResponse {}))
    }

    async fn parse_recipe(
        &self,
        request: Request<pb::ParseRecipeRequest>,
    ) -> Answer<pb::ParseRecipeResponse> {
        let text = request.into_inner().text;
        let parse = move |_: &Engine| {
            let template = format::Template::from_text(&text, None)?;
            Ok(template.recipe()?.document().to_string())
        };
        let recipe_json = self.run_blocking(parse).await?;
        Ok(Response::new(pb::ParseRecipeResponse { recipe_json }))
    }

    async fn format_recipe(
        &self,
        request: Request<pb::FormatRecipeRequest>,
    ) -> Answer<pb::FormatRecipeResponse> {
        let document = document(&request.into_inner().recipe_json).or_status()?;
        let yaml = format::to_yaml(&document).map_err(ErrorDetail::from).or_status()?;
        Ok(Response::new(pb::FormatRecipeResponse { yaml }))
    }

    async fn encode_recipe(
        &self,
        request: Request<pb::EncodeRecipeRequest>,
    ) -> Answer<pb::EncodeRecipeResponse> {
        let document = document(&request.into_inner().recipe_json).or_status()?;
        let payload = format::encode_payload(&document).map_err(ErrorDetail::from).or_status()?;
        let link = format::encode_link(&payload, &std::collections::BTreeMap::new());
        Ok(Response::new(pb::EncodeRecipeResponse { payload, link }))
    }

    async fn decode_recipe(
        &self,
        request: Request<pb::DecodeRecipeRequest>,
    ) -> Answer<pb::DecodeRecipeResponse> {
        let link = format::decode_link(&request.into_inner().link).map_err(ErrorDetail::from).or_status()?;
        Ok(Response::new(pb::DecodeRecipeResponse {
            recipe_json: link.document.to_string(),
            values: session::map_to_pb(&link.values),
        }))
    }

    async fn validate_recipe(
        &self,
        request: Request<pb::ValidateRecipeRequest>,
    ) -> Answer<pb::ValidateRecipeResponse> {
        let source = required_source(request.into_inner().recipe).or_status()?;
        let findings = self.engine.validate_recipe(source.origin).await.or_status()?;
        Ok(Response::new(pb::ValidateRecipeResponse {
            findings: findings.iter().map(finding_to_pb).collect(),
        }))
    }

    async fn render_recipe(
        &self,
        request: Request<pb::RenderRecipeRequest>,
    ) -> Answer<pb::RenderRecipeResponse> {
        let request = request.into_inner();
        let named = request.recipe.as_ref().is_some_and(|r| r.source.is_some());
        let rendered = if named || request.session_id.is_empty() {
            let source = required_source(request.recipe).or_status()?;
            self.engine.render_recipe(source).await
        } else {
            let mut v = Violations::default();
            let id = v.id(&At::root("session_id"), &request.session_id, |t| SessionId::new(t));
            let given = request.recipe.unwrap_or_default().values;
            let values = session::map_from_pb(given, &At::root("recipe").field("values"), &mut v);
            let id = v.finish(id).or_status()?;
            self.engine.render_session_recipe(&id, values).await
        };
        let rendered = rendered.or_status()?;
        Ok(Response::new(pb::RenderRecipeResponse {
            recipe_json: rendered.document.to_string(),
            missing_optional_parameters: rendered.missing_optional,
        }))
    }

    async fn draft_recipe(
        &self,
        request: Request<pb::DraftRecipeRequest>,
    ) -> Answer<pb::DraftRecipeResponse> {
        let (context, request) = incoming(request)?;
        let mut v = Violations::default();
        let id = v.id(&At::root("session_id"), &request.session_id, |t| SessionId::new(t));
        let author = v.short(&At::root("author"), request.author);
        let id = v.finish(id).or_status()?;
        let drafted =
            self.run(|engine| async move { engine.draft_recipe(&context, &id, &author).await }).await?;
        Ok(Response::new(pb::DraftRecipeResponse {
            recipe_json: drafted.value.to_string(),
            sequence: drafted.sequence,
        }))
    }

    async fn set_recipe_command(
        &self,
        request: Request<pb::SetRecipeCommandRequest>,
    ) -> Answer<pb::SetRecipeCommandResponse> {
        let (context, request) = incoming(request)?;
        let id = recipe_id(request.recipe_id).or_status()?;
        let name = non_empty(request.command_name);
        let recipe =
            self.run(|engine| async move { engine.set_recipe_command(&context, &id, name).await }).await?;
        Ok(Response::new(pb::SetRecipeCommandResponse { recipe: Some(recipe_to_pb(&recipe)) }))
    }
}
