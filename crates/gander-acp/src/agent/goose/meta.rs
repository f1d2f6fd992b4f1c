//! What clients made for Goose say, and are told, in `_meta` of the protocol's own session requests.

use gander_proto::v1::{
    ExtensionConfig, ModelSelection, RecipeSource, Session, SessionKind, TitleSource, recipe_source::Source,
};
use serde_json::{Map, Value, json};

use super::{extension, parsed};
use crate::{
    agent::Inner,
    rpc::RpcError,
    translate::{content::non_empty, iso},
};

/// Label that holds the id of Goose's project.
pub(super) const PROJECT: &str = "goose.project_id";

/// What a client wants of a new session.
#[derive(Debug, Default, PartialEq)]
pub(in crate::agent) struct Wishes {
    pub(in crate::agent) model: Option<ModelSelection>,
    pub(in crate::agent) project_id: Option<String>,
    pub(in crate::agent) kind: SessionKind,
    /// These extensions instead of the configured ones.
    pub(in crate::agent) extensions: Option<Vec<ExtensionConfig>>,
    pub(in crate::agent) recipe: Option<RecipeSource>,
}

impl Wishes {
    /// Reads the parameters of `session/new`.
    pub(in crate::agent) fn read(params: &Value) -> Result<Self, RpcError> {
        let meta = params.get("_meta").unwrap_or(&Value::Null);
        let text = |key: &str| meta.get(key).and_then(Value::as_str).and_then(non_empty);
        let extensions = match meta.get("enabledExtensions") {
            Some(Value::Array(list)) => Some(list.iter().map(extension::read).collect::<Result<_, _>>()?),
            _ => None,
        };
        let source = text("recipeId").map(Source::RecipeId);
        let source = source.or_else(|| text("recipeDeeplink").map(Source::Deeplink));
        // Values that a recipe asks for are given later; until then its turns say what is missing.
        let recipe = source.map(|source| RecipeSource {
            source: Some(source),
            allow_missing_values: true,
            ..RecipeSource::default()
        });
        let hidden = meta.get("hidden").and_then(Value::as_bool).unwrap_or_default();
        let provider = |provider_id| ModelSelection { provider_id, ..ModelSelection::default() };
        Ok(Self {
            model: text("provider").map(provider),
            project_id: text("projectId"),
            kind: if hidden { SessionKind::Hidden } else { SessionKind::Unspecified },
            extensions,
            recipe,
        })
    }

    /// The labels of the session.
    pub(in crate::agent) fn labels(&self) -> Vec<(String, String)> {
        self.project_id.iter().map(|id| (PROJECT.to_owned(), id.clone())).collect()
    }
}

/// Kinds of sessions that `session/list` is asked for, by Goose's names. Its own name for sessions of editors says
/// nothing here: they are a person's like the others.
pub(in crate::agent) fn kinds(params: &Value) -> Vec<SessionKind> {
    let listed = params.pointer("/_meta/types").and_then(Value::as_array).into_iter().flatten();
    let mut kinds: Vec<_> = listed
        .filter_map(|kind| match kind.as_str()? {
            "user" | "acp" => Some(SessionKind::User),
            "scheduled" => Some(SessionKind::Scheduled),
            "sub_agent" => Some(SessionKind::Subagent),
            "hidden" => Some(SessionKind::Hidden),
            "terminal" => Some(SessionKind::Terminal),
            _ => None,
        })
        .collect();
    kinds.dedup();
    kinds
}

/// Words that `session/list` is asked for.
pub(in crate::agent) fn query(params: &Value) -> Option<&str> {
    let words = params.pointer("/_meta/query").and_then(Value::as_str)?.trim();
    (!words.is_empty()).then_some(words)
}

/// What Goose tells about a session beside the protocol's own facts.
pub(in crate::agent) fn of_session(
    session: &Session,
    default_model: Option<&ModelSelection>,
) -> Map<String, Value> {
    let kind = match session.kind() {
        SessionKind::Scheduled => "scheduled",
        SessionKind::Subagent => "sub_agent",
        SessionKind::Hidden => "hidden",
        SessionKind::Terminal => "terminal",
        SessionKind::User | SessionKind::Unspecified => "user",
    };
    let model = session.model.as_ref().or(default_model);
    let told = [
        ("messageCount", Some(json!(session.message_count))),
        ("createdAt", session.create_time.as_ref().and_then(iso).map(Value::from)),
        ("archivedAt", session.archive_time.as_ref().and_then(iso).map(Value::from)),
        ("userSetName", Some(json!(session.title_source() == TitleSource::User))),
        ("sessionType", Some(json!(kind))),
        ("hasRecipe", Some(json!(session.recipe.is_some()))),
        ("projectId", session.labels.get(PROJECT).map(|id| json!(id))),
        ("providerId", model.and_then(|model| non_empty(&model.provider_id)).map(Value::from)),
        ("modelId", model.and_then(|model| non_empty(&model.model_id)).map(Value::from)),
    ];
    told.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?))).collect()
}

/// What Goose tells with the answer that opens a session. Extensions start when they are needed, so there is nothing to
/// say yet about how that went.
pub(in crate::agent) fn of_opened(session: &Session) -> Map<String, Value> {
    let recipe = session.recipe.as_ref();
    let told = [
        ("workingDir", Some(json!(session.working_directory))),
        ("extensionResults", Some(json!([]))),
        ("recipe", recipe.map(|recipe| parsed(&recipe.recipe_json)).filter(Value::is_object)),
        ("userRecipeValues", recipe.filter(|r| !r.values.is_empty()).map(|recipe| json!(recipe.values))),
    ];
    told.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?))).collect()
}

impl Inner {
    /// The model that a session without one of its own follows. `None` for one that has its own, or if none is set up.
    pub(in crate::agent) async fn default_model_of(&self, session: &Session) -> Option<ModelSelection> {
        if session.model.is_some() {
            return None;
        }
        self.server_info().await.ok()?.default_model
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wishes_for_a_new_session() {
        let wishes = Wishes::read(&json!({"_meta": {
            "client": "goose-desktop", "provider": "openai", "projectId": "p", "hidden": true,
            "enabledExtensions": [{"type": "builtin", "name": "developer"}], "recipeDeeplink": "abc",
        }}))
        .expect("readable");
        assert_eq!(wishes.model.as_ref().map(|model| model.provider_id.as_str()), Some("openai"));
        assert_eq!(wishes.labels(), [("goose.project_id".to_owned(), "p".to_owned())]);
        assert_eq!(wishes.kind, SessionKind::Hidden);
        assert_eq!(wishes.extensions.as_ref().map(Vec::len), Some(1));
        let recipe = wishes.recipe.expect("a recipe");
        assert_eq!(recipe.source, Some(Source::Deeplink("abc".into())));
        assert!(recipe.allow_missing_values);
        for nothing in [json!({}), json!({"_meta": null}), json!({"_meta": {"provider": "", "projectId": 5}})]
        {
            assert_eq!(Wishes::read(&nothing), Ok(Wishes::default()), "{nothing}");
        }
        let none = Wishes::read(&json!({"_meta": {"enabledExtensions": []}})).expect("readable");
        assert_eq!(none.extensions, Some(Vec::new()), "none is not the same as the configured ones");
        assert!(Wishes::read(&json!({"_meta": {"enabledExtensions": [{"type": "odd"}]}})).is_err());
    }

    #[test]
    fn kinds_by_gooses_names() {
        let kinds_of = |types: Value| kinds(&json!({"_meta": {"types": types}}));
        assert_eq!(
            kinds_of(json!(["acp", "user", "scheduled", "?"])),
            [SessionKind::User, SessionKind::Scheduled]
        );
        assert!(kinds_of(json!("user")).is_empty() && kinds(&json!({})).is_empty());
    }

    #[test]
    fn a_session_in_gooses_words() {
        let session = Session {
            message_count: 3,
            title_source: TitleSource::User as i32,
            kind: SessionKind::Scheduled as i32,
            labels: [(PROJECT.to_owned(), "p".to_owned())].into(),
            ..Session::default()
        };
        let default = ModelSelection {
            provider_id: "demo".into(),
            model_id: "demo-1".into(),
            ..ModelSelection::default()
        };
        assert_eq!(
            Value::Object(of_session(&session, Some(&default))),
            json!({"messageCount": 3, "userSetName": true, "sessionType": "scheduled", "hasRecipe": false,
                "projectId": "p", "providerId": "demo", "modelId": "demo-1"})
        );
    }
}
