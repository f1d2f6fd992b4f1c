//! Recipes: what sessions get from them, structured answers, checks, the library, drafts.

use std::collections::BTreeMap;

use gander_domain::{
    ErrorReason, Event, ItemBody, Payload,
    session::{Mode, TitleSource},
    turn::TurnState,
};
use gander_engine::{
    NewSession, RecipeOrigin, RecipeRequest, SessionPatch, StartTurn, types::recipe_format::Severity,
};
use gander_model::{ModelStop, testing::Script};
use serde_json::{Value, json};

use crate::harness::{Harness, assert_log_rules, context, golden_turn, turn};

fn request(document: &Value, values: &[(&str, &str)]) -> RecipeRequest {
    RecipeRequest {
        origin: RecipeOrigin::Json(document.to_string()),
        values: map(values),
        allow_missing_values: false,
    }
}

fn map(values: &[(&str, &str)]) -> BTreeMap<String, String> {
    values.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

fn greeting() -> Value {
    json!({
        "title": "Greeter", "description": "Greets", "instructions": "Greet {{ who }} warmly.",
        "prompt": "Greet {{ who }}", "parameters": [{"key": "who", "input_type": "string"}],
        "settings": {"goose_provider": "scripted", "goose_model": "big", "temperature": 0.5, "max_turns": 3},
        "extensions": [{"type": "builtin", "name": "developer"}, {"type": "platform", "name": "summon"}],
    })
}

fn texts(events: &[std::sync::Arc<Event>]) -> Vec<String> {
    let completed = events.iter().filter_map(|e| match &e.payload {
        Payload::ItemCompleted { item } if matches!(item.body, ItemBody::AgentMessage(_)) => {
            Some(item.text())
        }
        _ => None,
    });
    completed.collect()
}

#[tokio::test]
async fn a_session_gets_what_its_recipe_says() {
    let harness = Harness::new([Script::reply("hi")]).await;
    let new =
        NewSession { recipe_request: Some(request(&greeting(), &[("who", "Ada")])), ..harness.new_session() };
    let session = harness.engine.create_session(&context("c"), new).await.unwrap().value;
    assert_eq!((session.title.as_str(), session.title_source), ("Greeter", TitleSource::User));
    assert_eq!(session.model.as_ref().map(|m| m.model_id.as_str()), Some("big"));
    let kept = session.recipe.as_ref().unwrap();
    assert!(kept.recipe_json.contains("{{ who }}"), "{}", kept.recipe_json);
    harness.run(&session.session_id, "hello").await;
    let asked = &harness.model.requests()[0];
    assert!(asked.system.contains("Greet Ada warmly."), "{}", asked.system);
    assert_eq!((asked.model_id.as_str(), asked.temperature_millis), ("big", Some(500)));
    assert!(asked.tools.iter().any(|t| t.name == "delegate"), "the recipe lists summon");
    let turns = harness.engine.list_turns(&session.session_id, Vec::new()).await.unwrap();
    assert_eq!(turns[0].limits.max_model_calls, Some(3));
    let rendered = harness.engine.render_session_recipe(&session.session_id, BTreeMap::new()).await.unwrap();
    assert_eq!(rendered.document["prompt"], "Greet Ada");
    harness.finish().await;
}

#[tokio::test]
async fn missing_values_are_an_error_or_come_later() {
    let harness = Harness::new([Script::reply("hi")]).await;
    let new = |request| NewSession { recipe_request: Some(request), ..harness.new_session() };
    let error =
        harness.engine.create_session(&context("c"), new(request(&greeting(), &[]))).await.unwrap_err();
    assert_eq!(error.reason, ErrorReason::RecipeParametersMissing);
    assert_eq!(error.metadata["parameters"], "who");
    assert_eq!(error.violations[0].field, "recipe.values.who");
    let later = RecipeRequest { allow_missing_values: true, ..request(&greeting(), &[]) };
    let session = harness.engine.create_session(&context("c"), new(later)).await.unwrap().value;
    let id = session.session_id.clone();
    let early = harness.engine.start_turn(&context("c"), &id, turn("go")).await.unwrap_err();
    assert_eq!(early.reason, ErrorReason::RecipeParametersMissing);
    let mut wanted = session.recipe.clone().unwrap();
    wanted.values = map(&[("who", "Bob")]);
    let patch = SessionPatch { recipe: Some(Some(wanted)), ..SessionPatch::default() };
    let updated = harness.engine.update_session(&context("c"), &id, patch).await.unwrap().value;
    assert_eq!(updated.instructions[0].text, "Greet Bob warmly.");
    // A client's own list of instructions does not lose the recipe's.
    let patch = SessionPatch { instructions: Some(Vec::new()), ..SessionPatch::default() };
    let updated = harness.engine.update_session(&context("c"), &id, patch).await.unwrap().value;
    assert_eq!(updated.instructions[0].key, "recipe");
    harness.run(&id, "go").await;
    assert!(harness.model.requests()[0].system.contains("Greet Bob warmly."));
    harness.finish().await;
}

#[tokio::test]
async fn the_structured_answer_is_asked_for_until_it_matches() {
    let call = |arguments: &str| Script::one_call("c", "recipe__final_output", arguments);
    let harness =
        Harness::new([Script::reply("it is seven"), call(r#"{"n":"x"}"#), call(r#"{"n":7}"#)]).await;
    let recipe = json!({
        "title": "t", "description": "d", "prompt": "p",
        "response": {"json_schema": {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}},
    });
    // Nobody is asked whether the answer may be given.
    let new = NewSession {
        recipe_request: Some(request(&recipe, &[])),
        mode: Some(Mode::Approve),
        ..harness.new_session()
    };
    let session = harness.engine.create_session(&context("c"), new).await.unwrap().value.session_id;
    let events = harness.run(&session, "count").await;
    let log = golden_turn(&events);
    for line in [
        "item_completed agent it is seven",
        "item_completed user Give the final answer now with the tool recipe__final_output.",
        "item_completed call recipe__final_output Failed InvalidArguments",
        "item_completed call recipe__final_output Completed Ok",
        "turn_ended Completed EndTurn",
    ] {
        assert!(log.contains(line), "{line} in\n{log}");
    }
    assert_eq!(texts(&events).last().map(String::as_str), Some(r#"{"n":7}"#));
    assert_log_rules(&events);
    let system = &harness.model.requests()[0].system;
    assert!(system.contains("recipe__final_output"), "{system}");
    harness.finish().await;
}

#[tokio::test]
async fn a_model_that_never_gives_the_structured_answer_is_given_up() {
    let harness = Harness::new((0..6).map(|_| Script::reply("no"))).await;
    let session = harness.session().await;
    let start = StartTurn {
        response_schema_json: Some(r#"{"type":"object","required":["a"]}"#.into()),
        ..turn("go")
    };
    let started = harness.engine.start_turn(&context("c"), &session, start).await.unwrap();
    let events = harness.until_ended(&session, &started.turn.turn_id).await;
    let log = golden_turn(&events);
    assert!(log.ends_with("turn_ended Failed PROVIDER_BAD_REQUEST"), "{log}");
    let bad = StartTurn { response_schema_json: Some("{\"type\":3}".into()), ..turn("go") };
    let error = harness.engine.start_turn(&context("c"), &session, bad).await.unwrap_err();
    assert_eq!(error.metadata["field"], "response_schema_json");
    harness.finish().await;
}

fn checked(reset: bool, max_retries: u32) -> Value {
    json!({
        "title": "t", "description": "d", "prompt": "p",
        "retry": {
            "max_retries": max_retries, "reset_context": reset,
            "checks": [{"type": "shell", "command": "echo looked; test -f made"}],
            "on_failure": "echo recovered; touch made",
        },
    })
}

#[tokio::test]
async fn failed_checks_begin_another_attempt_without_the_first() {
    let harness = Harness::new([Script::reply("first try"), Script::reply("second try")]).await;
    let new = NewSession { recipe_request: Some(request(&checked(true, 2), &[])), ..harness.new_session() };
    let session = harness.engine.create_session(&context("c"), new).await.unwrap().value.session_id;
    let events = harness.run(&session, "go").await;
    assert_eq!(texts(&events), ["first try", "second try"]);
    let log = golden_turn(&events);
    assert!(
        log.contains("item_completed notice recipe_retry\nhistory_changed Replaced\nmodel_call_started"),
        "{log}"
    );
    let second: Vec<_> = harness.model.requests()[1].items.iter().map(|i| i.text()).collect();
    assert_eq!(second, ["go"], "the failed attempt is hidden from the model");
    assert_log_rules(&events);
    harness.finish().await;
}

#[tokio::test]
async fn attempts_end_and_the_model_may_be_told_why() {
    let mut recipe = checked(false, 1);
    recipe["retry"]["on_failure"] = json!("echo recovered; false");
    let harness = Harness::new([Script::reply("first try"), Script::reply("second try")]).await;
    let new = NewSession { recipe_request: Some(request(&recipe, &[])), ..harness.new_session() };
    let session = harness.engine.create_session(&context("c"), new).await.unwrap().value.session_id;
    let events = harness.run(&session, "go").await;
    let told = harness.model.requests()[1].items.last().unwrap().text();
    assert!(
        told.contains("exited with 1") && told.contains("looked") && told.contains("recovered"),
        "{told}"
    );
    let log = golden_turn(&events);
    assert!(
        log.ends_with("item_completed notice recipe_checks_failed\nturn_ended Completed EndTurn"),
        "{log}"
    );
    harness.finish().await;
}

#[tokio::test]
async fn a_stuck_check_ends_with_its_time_or_with_the_turn() {
    let mut recipe = checked(true, 1);
    recipe["retry"]["checks"][0]["command"] = json!("sleep 600");
    let harness = Harness::new([Script::reply("done")]).await;
    let new = NewSession { recipe_request: Some(request(&recipe, &[])), ..harness.new_session() };
    let session = harness.engine.create_session(&context("c"), new).await.unwrap().value.session_id;
    let turn_id = harness.start(&session, "go").await;
    harness
        .until(&session, |e| matches!(&e.payload, Payload::ItemCompleted { item } if item.text() == "done"))
        .await;
    harness
        .engine
        .cancel_turn(&context("c"), &session, gander_engine::CancelRequest::default())
        .await
        .unwrap();
    let events = harness.until_ended(&session, &turn_id).await;
    assert!(golden_turn(&events).ends_with("turn_ended Cancelled"));
    let turns = harness.engine.list_turns(&session, vec![TurnState::Cancelled]).await.unwrap();
    assert_eq!(turns.len(), 1);
    harness.finish().await;
}

#[tokio::test]
async fn stored_recipes_are_listed_changed_and_removed() {
    let harness = Harness::new([]).await;
    let engine = &harness.engine;
    let (saved, created) = engine.save_recipe(&context("c"), greeting().to_string(), None).await.unwrap();
    assert!(created && saved.file_path.ends_with("config/recipes/greeter.yaml"), "{:?}", saved.file_path);
    assert_eq!(saved.recipe_id.len(), 16);
    let (twin, _) = engine.save_recipe(&context("c"), greeting().to_string(), None).await.unwrap();
    assert!(twin.file_path.ends_with("greeter-1.yaml"));
    let mut other = greeting();
    other["title"] = json!("Other");
    other["x_kept"] = json!(1);
    let (replaced, created) =
        engine.save_recipe(&context("c"), other.to_string(), Some(saved.recipe_id.clone())).await.unwrap();
    assert_eq!(
        (created, &replaced.recipe_id, replaced.recipe.title.as_str()),
        (false, &saved.recipe_id, "Other")
    );
    assert_eq!(engine.get_recipe(&saved.recipe_id).await.unwrap().recipe.document()["x_kept"], 1);
    // A project's recipes are found in its directory, and by id afterwards.
    let project = harness.dir.path().join("work/.goose/recipes");
    std::fs::create_dir_all(&project).unwrap();
    std::fs::write(project.join("mine.json"), r#"{"title":"Mine","description":"d","prompt":"p"}"#).unwrap();
    std::fs::write(project.join("broken.yaml"), "title: x\n").unwrap();
    std::fs::write(project.join("notes.txt"), "no recipe").unwrap();
    let (recipes, unreadable) = engine.list_recipes(Some(&harness.work())).await.unwrap();
    assert_eq!(recipes.len(), 3);
    assert_eq!((unreadable.len(), unreadable[0].field.as_str()), (1, "description"));
    let (own, _) = engine.list_recipes(None).await.unwrap();
    assert_eq!(own.len(), 2);
    let mine = recipes.iter().find(|r| r.recipe.title == "Mine").unwrap();
    let named =
        engine.set_recipe_command(&context("c"), &mine.recipe_id, Some("/Mine".into())).await.unwrap();
    assert_eq!(named.command_name.as_deref(), Some("mine"));
    let taken =
        engine.set_recipe_command(&context("c"), &saved.recipe_id, Some("mine".into())).await.unwrap_err();
    assert_eq!(taken.metadata["field"], "command_name");
    assert!(
        engine.set_recipe_command(&context("c"), &saved.recipe_id, Some("compact".into())).await.is_err()
    );
    let config = std::fs::read_to_string(harness.dir.path().join("config/config.yaml")).unwrap();
    assert!(config.contains("slash_commands:") && config.contains("command: mine"), "{config}");
    engine.delete_recipe(&context("c"), &mine.recipe_id, false).await.unwrap();
    let gone = engine.delete_recipe(&context("c"), &mine.recipe_id, false).await.unwrap_err();
    assert_eq!(gone.reason, ErrorReason::RecipeNotFound);
    engine.delete_recipe(&context("c"), &mine.recipe_id, true).await.unwrap();
    let config = std::fs::read_to_string(harness.dir.path().join("config/config.yaml")).unwrap();
    assert!(!config.contains("slash_commands"), "{config}");
    harness.finish().await;
}

#[tokio::test]
async fn what_might_harm_is_found_and_not_stored() {
    let harness = Harness::new([]).await;
    let mut hidden = greeting();
    hidden["prompt"] = json!("hi {{ who }}\u{e0041}");
    let error = harness.engine.save_recipe(&context("c"), hidden.to_string(), None).await.unwrap_err();
    assert_eq!(
        (error.reason, error.metadata["code"].as_str()),
        (ErrorReason::RecipeInvalid, "hidden_characters")
    );
    let findings = harness.engine.validate_recipe(RecipeOrigin::Json(hidden.to_string())).await.unwrap();
    assert!(findings.iter().any(|f| f.severity == Severity::Security && f.field == "prompt"), "{findings:?}");
    let unreadable = harness.engine.validate_recipe(RecipeOrigin::Json("{}".into())).await.unwrap();
    assert_eq!(unreadable[0].code, "unreadable");
    let missing = harness.engine.validate_recipe(RecipeOrigin::Stored("0".repeat(16))).await.unwrap_err();
    assert_eq!(missing.reason, ErrorReason::RecipeNotFound);
    let relative = harness.engine.validate_recipe(RecipeOrigin::File("a.yaml".into())).await.unwrap_err();
    assert_eq!(relative.reason, ErrorReason::InvalidField);
    harness.finish().await;
}

#[tokio::test]
async fn files_bring_their_directory_their_parts_and_their_values() {
    let harness = Harness::new([]).await;
    let dir = harness.dir.path().join("lib");
    std::fs::create_dir(&dir).unwrap();
    let write = |name: &str, text: &str| std::fs::write(dir.join(name), text).unwrap();
    write("note.txt", "from a file");
    write(
        "base.yaml",
        "title: Base\ndescription: d\nprompt: '{% block p %}{% endblock %}'\nparameters: [{key: note, input_type: file}]\n",
    );
    write(
        "child.yaml",
        "{% extends \"base.yaml\" %}{% block p %}{{ note }} in {{ recipe_dir }}{% endblock %}",
    );
    write("outside.yaml", "title: t\ndescription: d\nprompt: '{% include \"../work/x\" %}'\n");
    let render = |name: &str, values: &[(&str, &str)]| {
        let origin = RecipeOrigin::File(dir.join(name).to_str().unwrap().to_owned());
        harness.engine.render_recipe(RecipeRequest {
            origin,
            values: map(values),
            allow_missing_values: false,
        })
    };
    let rendered = render("child.yaml", &[("note", "note.txt")]).await.unwrap();
    let canonical = dir.canonicalize().unwrap();
    assert_eq!(rendered.document["prompt"], format!("from a file in {}", canonical.display()));
    let missing = render("child.yaml", &[]).await.unwrap_err();
    assert_eq!(missing.reason, ErrorReason::RecipeParametersMissing);
    let absent = render("child.yaml", &[("note", "none.txt")]).await.unwrap_err();
    assert_eq!(absent.metadata["field"], "values.note");
    let outside = render("outside.yaml", &[]).await.unwrap_err();
    assert!(outside.message.contains("must stay within"), "{outside}");
    write("note.txt", &"x".repeat(600_000));
    let large = render("child.yaml", &[("note", "note.txt")]).await.unwrap_err();
    assert_eq!(
        (large.reason, large.metadata["field"].as_str()),
        (ErrorReason::RecipeInvalid, "recipe.values")
    );
    let none = render("none.yaml", &[]).await.unwrap_err();
    assert_eq!(none.reason, ErrorReason::RecipeNotFound);
    harness.finish().await;
}

#[tokio::test]
async fn a_link_cannot_choose_which_files_are_read() {
    let harness = Harness::new([]).await;
    let file = harness.dir.path().join("secret.txt");
    std::fs::write(&file, "hush").unwrap();
    let document = json!({
        "title": "t", "description": "d", "prompt": "{{ f }} {{ s }}",
        "parameters": [{"key": "f", "input_type": "file"}, {"key": "s"}],
    });
    let path = file.to_str().unwrap();
    let payload = gander_engine::types::recipe_format::encode_payload(&document).unwrap();
    let link = gander_engine::types::recipe_format::encode_link(&payload, &map(&[("f", path), ("s", "x")]));
    let render = |values| {
        let origin = RecipeOrigin::Link(link.clone());
        harness.engine.render_recipe(RecipeRequest { origin, values, allow_missing_values: false })
    };
    let error = render(map(&[])).await.unwrap_err();
    assert_eq!(error.metadata["parameters"], "f");
    let rendered = render(map(&[("f", path)])).await.unwrap();
    assert_eq!(rendered.document["prompt"], "hush x");
    harness.finish().await;
}

#[tokio::test]
async fn a_recipe_is_drafted_from_a_conversation() {
    let answer = "```json\n{\"title\": \"Greet people\", \"description\": \"Greets\", \"instructions\": \"Be {{ kind }}\", \
                  \"prompt\": \"Greet\", \"activities\": [\"a\", 3]}\n```";
    let script = Script::new().text(answer).usage(10, 5).finish(ModelStop::EndTurn);
    let harness = Harness::new([Script::reply("hello"), script, Script::reply("no idea")]).await;
    let session = harness.session().await;
    harness.run(&session, "greet me").await;
    let drafted = harness.engine.draft_recipe(&context("c"), &session, "me").await.unwrap();
    assert_eq!(drafted.value["title"], "Greet people");
    assert_eq!(drafted.value["activities"], json!(["a"]));
    assert_eq!(drafted.value["author"]["contact"], "me");
    // What was said in braces is text.
    let origin = RecipeOrigin::Json(drafted.value.to_string());
    let rendered = harness
        .engine
        .render_recipe(RecipeRequest { origin, values: BTreeMap::new(), allow_missing_values: false })
        .await
        .unwrap();
    assert_eq!(rendered.document["instructions"], "Be {{ kind }}");
    let asked = harness.model.requests()[1].items[0].text();
    assert!(asked.contains("greet me") && asked.contains("hello"), "{asked}");
    let log = harness.log(&session).await;
    let last = log.last().unwrap();
    assert_eq!((last.payload.name(), last.sequence), ("usage_reported", drafted.sequence));
    let error = harness.engine.draft_recipe(&context("c"), &session, "").await.unwrap_err();
    assert_eq!(error.reason, ErrorReason::ProviderBadRequest);
    // With a key the model is asked once.
    harness.model.push(Script::reply(answer));
    let first = harness.engine.draft_recipe(&keyed("DraftRecipe"), &session, "me").await.unwrap();
    let again = harness.engine.draft_recipe(&keyed("DraftRecipe"), &session, "me").await.unwrap();
    assert_eq!((&first, &first.value), (&again, &drafted.value));
    assert_eq!(harness.model.requests().len(), 4);
    harness.finish().await;
}

fn keyed(method: &str) -> gander_engine::RequestContext {
    let key = gander_engine::IdempotencyKey {
        method: method.to_owned(),
        key: "k".to_owned(),
        request_hash: "h".to_owned(),
    };
    gander_engine::RequestContext { idempotency: Some(key), ..context("c") }
}

#[tokio::test]
async fn a_repeated_key_changes_no_recipe_again() {
    let harness = Harness::new([]).await;
    let engine = &harness.engine;
    let save = || async { engine.save_recipe(&context("c"), greeting().to_string(), None).await };
    let id = save().await.unwrap().0.recipe_id;
    let command = |context, name: Option<&str>| {
        let (name, id) = (name.map(str::to_owned), id.clone());
        async move { engine.set_recipe_command(&context, &id, name).await.unwrap().command_name }
    };
    assert_eq!(command(keyed("SetRecipeCommand"), Some("greet")).await.as_deref(), Some("greet"));
    assert_eq!(command(context("other"), None).await, None);
    assert_eq!(command(keyed("SetRecipeCommand"), Some("greet")).await, None, "what came in between stays");
    engine.delete_recipe(&keyed("DeleteRecipe"), &id, false).await.unwrap();
    assert_eq!(save().await.unwrap().0.recipe_id, id, "the file has its name again");
    engine.delete_recipe(&keyed("DeleteRecipe"), &id, false).await.unwrap();
    assert_eq!(engine.list_recipes(None).await.unwrap().0.len(), 1);
    harness.finish().await;
}

#[tokio::test]
async fn a_recipe_that_was_written_before_its_key_was_recorded_is_written_once() {
    let harness = Harness::new([]).await;
    let engine = &harness.engine;
    // The state after a crash in between: the file is there, the key is not known.
    let first = engine.save_recipe(&context("c"), greeting().to_string(), None).await.unwrap().0;
    for _ in 0..2 {
        let context = keyed("SaveRecipe");
        let again = engine.save_recipe(&context, greeting().to_string(), None).await;
        let (again, created) = again.unwrap();
        assert_eq!((again.recipe_id.as_str(), created), (&*first.recipe_id, true));
    }
    assert_eq!(engine.list_recipes(None).await.unwrap().0.len(), 1);
    let mut other = greeting();
    other["description"] = json!("something else");
    let mut key = keyed("SaveRecipe");
    if let Some(key) = &mut key.idempotency {
        key.key = "k2".to_owned();
    }
    let (second, _) = engine.save_recipe(&key, other.to_string(), None).await.unwrap();
    assert_ne!(second.recipe_id, first.recipe_id, "another text of that title is another recipe");
    let (third, _) = engine.save_recipe(&context("c"), greeting().to_string(), None).await.unwrap();
    assert_ne!(third.recipe_id, first.recipe_id, "without a key nothing is taken for a repetition");
    assert_eq!(engine.list_recipes(None).await.unwrap().0.len(), 3);
    harness.finish().await;
}

#[tokio::test]
async fn a_text_command_puts_a_recipe_before_the_model() {
    let harness = Harness::new([Script::reply("hi")]).await;
    let mut recipe = greeting();
    recipe["instructions"] = Value::Null;
    let (saved, _) = harness.engine.save_recipe(&context("c"), recipe.to_string(), None).await.unwrap();
    harness.engine.set_recipe_command(&context("c"), &saved.recipe_id, Some("greet".into())).await.unwrap();
    let session = harness.session().await;
    harness.run(&session, "/greet Ada Lovelace").await;
    let seen: Vec<_> = harness.model.requests()[0].items.iter().map(|i| i.text()).collect();
    assert_eq!(seen.last().map(String::as_str), Some("Greet Ada Lovelace"), "{seen:?}");
    harness.finish().await;
}
