//! Requests of SessionService → engine, without an engine.

use std::collections::{BTreeMap, HashMap};

use gander_domain::{
    ErrorReason, Timestamp,
    session::{Instruction, Mode, ModelSelection, SessionState, TitleSource},
    usage::SessionUsage,
};

use gander_engine::RecipeOrigin;

use super::*;

fn present() -> Session {
    Session {
        session_id: SessionId::new("s1").unwrap(),
        title: "T".into(),
        title_source: TitleSource::User,
        kind: SessionKind::User,
        state: SessionState::Idle,
        archive_time: None,
        owner: String::new(),
        working_directory: "/w".into(),
        additional_directories: Vec::new(),
        model: None,
        mode: None,
        demo_allowed: false,
        instructions: Vec::new(),
        recipe: None,
        labels: BTreeMap::new(),
        container: None,
        schedule_id: None,
        parent: None,
        extension_state: BTreeMap::new(),
        usage: SessionUsage::default(),
        context_used_tokens: None,
        context_window_tokens: None,
        message_count: 0,
        last_sequence: 1,
        oldest_sequence: 1,
        active_turn_id: None,
        pending_interaction_count: 0,
        create_time: Timestamp(1),
        update_time: Timestamp(2),
    }
}

fn patch_of(wanted: pb::Session, mask: &[&str]) -> Result<SessionPatch, ErrorDetail> {
    let mask: Vec<String> = mask.iter().map(|p| (*p).to_owned()).collect();
    patch(wanted, &mask, &present())
}

fn fields(error: &ErrorDetail) -> Vec<&str> {
    error.violations.iter().map(|v| v.field.as_str()).collect()
}

#[test]
fn the_mask_sets_and_clears() {
    let model = pb::ModelSelection { provider_id: "p".into(), model_id: "m".into(), ..Default::default() };
    let wanted = pb::Session {
        title: "New".into(),
        model: Some(model),
        archive_time: Some(prost_types::Timestamp { seconds: 1, nanos: 0 }),
        labels: HashMap::from([("a".into(), "b".into())]),
        instructions: vec![
            pb::SessionInstruction {
                key: "k".into(),
                text: "t".into(),
                mode: pb::InstructionMode::Replace as i32,
            },
            pb::SessionInstruction { key: "gone".into(), ..Default::default() },
        ],
        container: "not_in_the_mask".into(),
        ..Default::default()
    };
    let mask = ["title", "model", "mode", "archive_time", "labels", "instructions"];
    let set = patch_of(wanted, &mask).unwrap();
    assert_eq!(set.title.as_deref(), Some("New"));
    let model = ModelSelection { provider_id: "p".into(), model_id: "m".into(), ..Default::default() };
    assert_eq!(set.model, Some(Some(model)));
    assert_eq!(set.mode, Some(None), "named and unset: cleared");
    assert_eq!(set.archived, Some(true));
    assert_eq!(set.labels, Some(BTreeMap::from([("a".into(), "b".into())])));
    assert_eq!(
        set.instructions,
        Some(vec![Instruction { key: "k".into(), text: "t".into(), replace: true }])
    );
    assert_eq!((set.container, set.working_directory), (None, None), "not named: left as they are");
    let cleared =
        patch_of(pb::Session::default(), &["model", "archive_time", "container", "labels"]).unwrap();
    assert_eq!((cleared.model, cleared.archived, cleared.container), (Some(None), Some(false), Some(None)));
    assert_eq!(cleared.labels, Some(BTreeMap::new()));
}

#[test]
fn a_bad_mask_names_everything() {
    assert_eq!(fields(&patch_of(pb::Session::default(), &[]).unwrap_err()), ["update_mask"]);
    let wanted = pb::Session { mode: Some(99), ..Default::default() };
    let mask = ["mode", "kind", "working_directory", "recipe.values", "session_id"];
    let error = patch_of(wanted, &mask).unwrap_err();
    assert_eq!(
        fields(&error),
        ["session.mode", "update_mask", "session.working_directory", "session.recipe.values", "update_mask"]
    );
    assert_eq!(error.reason, ErrorReason::InvalidField);
}

#[test]
fn new_sessions_are_validated() {
    let good = pb::CreateSessionRequest {
        working_directory: "/w".into(),
        mode: Some(pb::SessionMode::Approve as i32),
        extensions: Some(pb::ExtensionSelection {
            selection: Some(pb::extension_selection::Selection::Exactly(pb::ExactSelection::default())),
        }),
        ..Default::default()
    };
    let new = new_session(good.clone()).unwrap();
    assert_eq!((new.mode, new.kind), (Some(Mode::Approve), SessionKind::User));
    assert_eq!(new.extensions.exactly, Some(Vec::new()), "an empty list is not no list");
    assert_eq!(new_session(pb::CreateSessionRequest::default()).unwrap().extensions.exactly, None);
    let bad = pb::CreateSessionRequest {
        session_id: "a b".into(),
        kind: 77,
        mode: Some(0),
        additional_directories: vec!["relative".into()],
        parent: Some(pb::SessionParent::default()),
        ..good
    };
    let error = new_session(bad).unwrap_err();
    assert_eq!(
        fields(&error),
        ["kind", "session_id", "additional_directories[0]", "mode", "parent.session_id"]
    );
}

#[test]
fn recipes_come_from_four_places() {
    let source = |source| pb::RecipeSource { source: Some(source), ..Default::default() };
    let create =
        |recipe| new_session(pb::CreateSessionRequest { recipe: Some(recipe), ..Default::default() });
    let text = pb::recipe_source::Source::RecipeJson("{\"title\":\"x\"}".into());
    let origin = |recipe| create(recipe).unwrap().recipe_request.unwrap().origin;
    assert_eq!(origin(source(text)), RecipeOrigin::Json("{\"title\":\"x\"}".into()));
    let stored = pb::recipe_source::Source::RecipeId("r".into());
    assert_eq!(origin(source(stored)), RecipeOrigin::Stored("r".into()));
    let relative = create(source(pb::recipe_source::Source::FilePath("r.yaml".into()))).unwrap_err();
    assert_eq!(fields(&relative), ["recipe.file_path"]);
    let text = create(source(pb::recipe_source::Source::RecipeJson("[]".into()))).unwrap_err();
    assert_eq!(fields(&text), ["recipe.recipe_json"]);
    assert_eq!(create(pb::RecipeSource::default()).unwrap_err().reason, ErrorReason::InvalidField);
}

#[test]
fn lists_leave_out_technical_sessions() {
    let query = |request| list_query(&request).unwrap();
    let kinds = query(pb::ListSessionsRequest::default()).kinds;
    assert!(!kinds.contains(&SessionKind::Hidden) && !kinds.contains(&SessionKind::Subagent));
    let of_parent = pb::ListSessionsRequest { parent_session_id: "p".into(), ..Default::default() };
    assert!(query(of_parent).kinds.contains(&SessionKind::Subagent));
    let hidden =
        pb::ListSessionsRequest { kinds: vec![pb::SessionKind::Hidden as i32], ..Default::default() };
    assert_eq!(query(hidden).kinds, [SessionKind::Hidden]);
    let bad = pb::ListSessionsRequest { kinds: vec![1, 0, 99], order: 77, ..Default::default() };
    assert_eq!(fields(&list_query(&bad).unwrap_err()), ["kinds[1]", "kinds[2]", "order"]);
}
