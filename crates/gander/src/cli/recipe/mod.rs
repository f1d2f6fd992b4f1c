//! `gander recipe`, and what `gander run --recipe` needs: recipes by name, id, file or link.
//!
//! The daemon reads files, so paths are made absolute here. A recipe with signs of harm is shown, not run.

pub(super) mod args;

use std::{collections::HashMap, path::Path};

use gander_client::Client;
use gander_proto::v1::{
    DecodeRecipeRequest, DeleteRecipeRequest, EncodeRecipeRequest, ErrorReason, FormatRecipeRequest,
    GetRecipeRequest, ListRecipesRequest, ParseRecipeRequest, Recipe, RecipeFinding, RecipeSeverity,
    RecipeSource, RenderRecipeRequest, SaveRecipeRequest, SetRecipeCommandRequest, ValidateRecipeRequest,
    recipe_source::Source,
};
use serde_json::Value;

use self::args::RecipeCommand;
use super::{
    connect::{Context, Embed},
    error::{CliError, CliResult, exit},
    json,
    output::{clean, table},
    terminal,
};

/// Extensions of recipe files, in the order in which a name is tried with them.
const EXTENSIONS: [&str; 3] = ["yaml", "yml", "json"];

/// A recipe that is ready to run.
pub(super) struct ReadyRecipe {
    pub(super) source: RecipeSource,
    /// Its prompt, else its instructions.
    pub(super) message: String,
}

pub(super) async fn recipe(context: &Context, command: RecipeCommand) -> CliResult<u8> {
    let connected = context.connect(Embed::Allowed).await?;
    let result = Box::pin(run(context, &connected.client, command)).await;
    connected.close().await;
    result
}

async fn run(context: &Context, client: &Client, command: RecipeCommand) -> CliResult<u8> {
    let mut recipes = client.recipes();
    match command {
        RecipeCommand::List { json } => list(context, client, json.json).await?,
        RecipeCommand::Show { recipe, json } => {
            let document = document(context, client, &recipe).await?;
            if json.json {
                context.out.line(&json::pretty(&document))?;
            } else {
                let request = FormatRecipeRequest { recipe_json: document.to_string() };
                context.out.print(&recipes.format_recipe(request).await?.into_inner().yaml)?;
            }
        }
        RecipeCommand::Validate { recipe } => return validate(context, client, &recipe).await,
        RecipeCommand::Link { recipe, params } => {
            let document = document(context, client, &recipe).await?;
            let request = EncodeRecipeRequest { recipe_json: document.to_string() };
            let encoded = recipes.encode_recipe(request).await?.into_inner();
            let mut link = url::Url::parse(&encoded.link)
                .map_err(|e| CliError::new(format!("the daemon answered with no link: {e}")))?;
            for (key, value) in pairs(&params)? {
                link.query_pairs_mut().append_pair(&key, &value);
            }
            context.out.line(link.as_str())?;
        }
        RecipeCommand::Save { recipe } => {
            let document = document(context, client, &recipe).await?;
            let request = SaveRecipeRequest {
                recipe_json: document.to_string(),
                recipe_id: String::new(),
                idempotency_key: uuid::Uuid::now_v7().to_string(),
            };
            let saved = recipes.save_recipe(request).await?.into_inner().recipe.unwrap_or_default();
            context.out.line(&format!("{} {}", saved.recipe_id, clean(&saved.file_path)))?;
        }
        RecipeCommand::Delete { recipe } => {
            let recipe_id = stored_id(context, client, &recipe).await?;
            recipes.delete_recipe(DeleteRecipeRequest { recipe_id, ..Default::default() }).await?;
        }
        RecipeCommand::Command { recipe, name } => {
            let recipe_id = stored_id(context, client, &recipe).await?;
            let command_name = name.unwrap_or_default();
            let request = SetRecipeCommandRequest { recipe_id, command_name, ..Default::default() };
            let changed = recipes.set_recipe_command(request).await?.into_inner().recipe.unwrap_or_default();
            let told = match changed.command_name.as_str() {
                "" => format!("{} has no command", clean(&changed.title)),
                name => format!("/{name} runs {}", clean(&changed.title)),
            };
            context.out.line(&told)?;
        }
    }
    Ok(exit::OK)
}

async fn list(context: &Context, client: &Client, as_json: bool) -> CliResult<()> {
    let (all, findings) = listed(context, client).await?;
    if as_json {
        return context.out.line(&json::array(&all)?);
    }
    for finding in &findings {
        context.out.note(&format!("left out: {}", clean(&finding.message)));
    }
    if all.is_empty() {
        context.out.note("there are no recipes; `gander recipe save FILE` stores one");
        return Ok(());
    }
    let mut rows = vec![["ID", "TITLE", "COMMAND", "WHEN", "FILE"].map(str::to_owned).to_vec()];
    let dash = |text: String| if text.is_empty() { "-".to_owned() } else { clean(&text) };
    rows.extend(all.into_iter().map(|r| {
        let command = if r.command_name.is_empty() { String::new() } else { format!("/{}", r.command_name) };
        vec![r.recipe_id, clean(&r.title), dash(command), dash(r.schedule_cron), clean(&r.file_path)]
    }));
    context.out.print(&table(&rows, context.out.width, context.out.color))
}

async fn listed(context: &Context, client: &Client) -> CliResult<(Vec<Recipe>, Vec<RecipeFinding>)> {
    let working_directory = context.cwd.to_str().unwrap_or_default().to_owned();
    let request = ListRecipesRequest { working_directory };
    let answer = client.recipes().list_recipes(request).await?.into_inner();
    Ok((answer.recipes, answer.findings))
}

/// Where the recipe is that a person names.
pub(super) async fn source(context: &Context, client: &Client, text: &str) -> CliResult<Source> {
    if text.starts_with("goose://") {
        return Ok(Source::Deeplink(text.to_owned()));
    }
    if let Some(path) = file(context, text) {
        let path = path.to_str().map(str::to_owned);
        let path = path.ok_or_else(|| CliError::usage("the recipe's path is not UTF-8"))?;
        return Ok(Source::FilePath(path));
    }
    let (all, _) = listed(context, client).await?;
    match all.iter().find(|recipe| is_called(recipe, text)) {
        Some(found) => Ok(Source::RecipeId(found.recipe_id.clone())),
        // Ids of other projects are not listed here.
        None if text.len() == 16 && text.bytes().all(|b| b.is_ascii_hexdigit()) => {
            Ok(Source::RecipeId(text.to_owned()))
        }
        None => Err(CliError::usage(format!("there is no recipe {text:?}, neither a file nor a stored one"))
            .remedy("`gander recipe list` shows the stored ones")),
    }
}

/// Whether a text is the id, the file's name or the title of a stored recipe.
fn is_called(recipe: &Recipe, text: &str) -> bool {
    let stem = Path::new(&recipe.file_path).file_stem().and_then(|stem| stem.to_str());
    recipe.recipe_id == text || stem == Some(text) || recipe.title == text
}

/// The file that a text names, with or without its extension.
fn file(context: &Context, text: &str) -> Option<std::path::PathBuf> {
    let path = context.absolute(Path::new(text));
    if path.is_file() {
        return Some(path);
    }
    let with = |extension: &&str| context.absolute(Path::new(&format!("{text}.{extension}")));
    EXTENSIONS.iter().map(with).find(|p| p.is_file())
}

async fn stored_id(context: &Context, client: &Client, text: &str) -> CliResult<String> {
    // A name means the stored one, also beside the file that it was made of.
    let (all, _) = listed(context, client).await?;
    if let Some(found) = all.into_iter().find(|recipe| is_called(recipe, text)) {
        return Ok(found.recipe_id);
    }
    match source(context, client, text).await? {
        Source::RecipeId(id) => Ok(id),
        Source::FilePath(path) => {
            let (all, _) = listed(context, client).await?;
            let found = all.into_iter().find(|r| r.file_path == path).map(|r| r.recipe_id);
            found.ok_or_else(|| {
                CliError::usage(format!("{path} is not among the stored recipes"))
                    .remedy("`gander recipe save` stores it; `gander recipe list` shows the stored ones")
            })
        }
        _ => Err(CliError::usage("a link is no stored recipe")),
    }
}

/// The recipe's document, its variables as they are.
async fn document(context: &Context, client: &Client, text: &str) -> CliResult<Value> {
    let recipe_json = match source(context, client, text).await? {
        Source::RecipeId(recipe_id) => {
            let request = GetRecipeRequest { recipe_id };
            client.recipes().get_recipe(request).await?.into_inner().recipe.unwrap_or_default().recipe_json
        }
        Source::Deeplink(link) => {
            client.recipes().decode_recipe(DecodeRecipeRequest { link }).await?.into_inner().recipe_json
        }
        Source::FilePath(path) => {
            let text = std::fs::read_to_string(&path)
                .map_err(|error| CliError::new(format!("cannot read {path}: {error}")))?;
            client.recipes().parse_recipe(ParseRecipeRequest { text }).await?.into_inner().recipe_json
        }
        Source::RecipeJson(text) => text,
    };
    serde_json::from_str(&recipe_json)
        .map_err(|error| CliError::new(format!("the daemon answered with no recipe: {error}")))
}

async fn findings(client: &Client, source: Source) -> CliResult<Vec<RecipeFinding>> {
    let recipe = Some(RecipeSource { source: Some(source), ..RecipeSource::default() });
    Ok(client.recipes().validate_recipe(ValidateRecipeRequest { recipe }).await?.into_inner().findings)
}

async fn validate(context: &Context, client: &Client, text: &str) -> CliResult<u8> {
    let found = findings(client, source(context, client, text).await?).await?;
    for finding in &found {
        let what = match finding.severity() {
            RecipeSeverity::Error => "error",
            RecipeSeverity::Security => "security",
            _ => "warning",
        };
        let place = if finding.field_path.is_empty() { "recipe" } else { &finding.field_path };
        context.out.line(&format!("{what}: {}: {}", clean(place), clean(&finding.message)))?;
    }
    let bad = found.iter().any(|f| matches!(f.severity(), RecipeSeverity::Error | RecipeSeverity::Security));
    if found.is_empty() {
        context.out.line("the recipe is in order")?;
    }
    Ok(if bad { exit::ERROR } else { exit::OK })
}

/// `KEY=VALUE` texts.
pub(super) fn pairs(texts: &[String]) -> CliResult<HashMap<String, String>> {
    let pair = |text: &String| match text.split_once('=') {
        Some((key, value)) if !key.trim().is_empty() => Ok((key.trim().to_owned(), value.to_owned())),
        _ => {
            Err(CliError::usage(format!("{text:?} is not KEY=VALUE")).remedy("write for example -p repo=a/b"))
        }
    };
    texts.iter().map(pair).collect()
}

/// Makes a recipe ready: checks it, asks for what is missing where there is a person to ask.
pub(super) async fn ready(
    context: &Context,
    client: &Client,
    name: &str,
    params: &[String],
    trust: bool,
    interactive: bool,
) -> CliResult<ReadyRecipe> {
    let values = pairs(params)?;
    let source = source(context, client, name).await?;
    if !trust {
        refuse_harm(findings(client, source.clone()).await?)?;
    }
    let mut wanted = RecipeSource { source: Some(source), values, ..RecipeSource::default() };
    let rendered = loop {
        let request = RenderRecipeRequest { recipe: Some(wanted.clone()), session_id: String::new() };
        match client.recipes().render_recipe(request).await {
            Ok(answer) => break answer.into_inner(),
            Err(status) => {
                let error = gander_client::ClientError::from(status);
                let missing = error.metadata.get("parameters").cloned().unwrap_or_default();
                if !error.is(ErrorReason::RecipeParametersMissing) || missing.is_empty() || !interactive {
                    let remedy = "give values with -p KEY=VALUE";
                    let is_missing = error.is(ErrorReason::RecipeParametersMissing);
                    let error = CliError::from(error);
                    return Err(if is_missing { error.remedy(remedy) } else { error });
                }
                for key in missing.split(", ") {
                    context.out.chrome(&format!("{}: ", clean(key)));
                    let line = terminal::read_line()?;
                    if line.is_empty() {
                        return Err(CliError::usage(format!("there is no value for {key}")));
                    }
                    wanted.values.insert(key.to_owned(), line.trim_end_matches(['\n', '\r']).to_owned());
                }
            }
        }
    };
    let document: Value = serde_json::from_str(&rendered.recipe_json)
        .map_err(|error| CliError::new(format!("the daemon answered with no recipe: {error}")))?;
    check_keys(&document, &wanted.values)?;
    let text = |key: &str| document.get(key).and_then(Value::as_str).filter(|t| !t.trim().is_empty());
    let message = text("prompt").or_else(|| text("instructions")).unwrap_or_default().to_owned();
    Ok(ReadyRecipe { source: wanted, message })
}

fn refuse_harm(findings: Vec<RecipeFinding>) -> CliResult<()> {
    let harmful: Vec<_> = findings
        .into_iter()
        .filter(|f| f.severity() == RecipeSeverity::Security)
        .map(|f| format!("  {}: {}", clean(&f.field_path), clean(&f.message)))
        .collect();
    if harmful.is_empty() {
        return Ok(());
    }
    Err(CliError::new(format!("the recipe might be meant to harm:\n{}", harmful.join("\n")))
        .remedy("look at it with `gander recipe show`; --trust runs it all the same"))
}

/// A misspelt parameter would silently change nothing.
fn check_keys(document: &Value, values: &HashMap<String, String>) -> CliResult<()> {
    let list = document.get("parameters").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let known: Vec<&str> = list.iter().filter_map(|p| p.get("key").and_then(Value::as_str)).collect();
    let mut unknown: Vec<&String> = values.keys().filter(|key| !known.contains(&key.as_str())).collect();
    unknown.sort();
    match unknown.first() {
        None => Ok(()),
        Some(key) => {
            let names = if known.is_empty() { "it has none".to_owned() } else { known.join(", ") };
            Err(CliError::usage(format!("the recipe has no parameter {key:?}; its parameters: {names}")))
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn values_are_pairs_and_keys_are_known() {
        let texts = |list: &[&str]| list.iter().map(|t| (*t).to_owned()).collect::<Vec<_>>();
        let read = pairs(&texts(&["a=1", "b=x=y", "c="])).unwrap();
        assert_eq!((read["a"].as_str(), read["b"].as_str(), read["c"].as_str()), ("1", "x=y", ""));
        for wrong in ["a", "=1", ""] {
            assert_eq!(pairs(&texts(&[wrong])).unwrap_err().exit, exit::USAGE, "{wrong:?}");
        }
        let document = json!({"parameters": [{"key": "a"}]});
        assert!(check_keys(&document, &HashMap::from([("a".into(), "1".into())])).is_ok());
        let error = check_keys(&document, &HashMap::from([("A".into(), "1".into())])).unwrap_err();
        assert!(error.message.contains("its parameters: a"), "{error}");
    }

    #[test]
    fn harm_is_shown_and_not_run() {
        let finding = |severity: RecipeSeverity| RecipeFinding {
            severity: severity as i32,
            field_path: "prompt".into(),
            message: "hidden".into(),
            ..RecipeFinding::default()
        };
        assert!(refuse_harm(vec![finding(RecipeSeverity::Error)]).is_ok());
        let error = refuse_harm(vec![finding(RecipeSeverity::Security)]).unwrap_err();
        assert!(error.message.contains("prompt: hidden"), "{error}");
    }
}
