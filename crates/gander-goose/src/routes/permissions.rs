//! `/config/permissions`: what a person decided about tools, for all sessions.

use axum::{Router, extract::State, routing::post};
use gander_proto::v1::{PermissionRule, RememberScope, RuleDecision, SetPermissionRulesRequest};
use serde::Deserialize;

use crate::{App, error::ApiError, extract::Json};

pub(crate) fn routes() -> Router<App> {
    Router::new().route("/config/permissions", post(upsert))
}

#[derive(Deserialize)]
struct Upsert {
    tool_permissions: Vec<ToolPermission>,
}

#[derive(Deserialize)]
struct ToolPermission {
    tool_name: String,
    permission: Level,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Level {
    AlwaysAllow,
    AskBefore,
    NeverAllow,
}

impl From<Level> for RuleDecision {
    fn from(level: Level) -> Self {
        match level {
            Level::AlwaysAllow => Self::Allow,
            Level::AskBefore => Self::Ask,
            Level::NeverAllow => Self::Deny,
        }
    }
}

async fn upsert(State(app): State<App>, Json(query): Json<Upsert>) -> Result<Json<&'static str>, ApiError> {
    let rule = |permission: ToolPermission| PermissionRule {
        tool_pattern: permission.tool_name,
        decision: RuleDecision::from(permission.permission) as i32,
        scope: RememberScope::User as i32,
        ..Default::default()
    };
    let rules: Vec<PermissionRule> = query.tool_permissions.into_iter().map(rule).collect();
    if !rules.is_empty() {
        let request = SetPermissionRulesRequest { rules, ..Default::default() };
        app.client().tools().set_permission_rules(request).await?;
    }
    Ok(Json("Permissions updated successfully"))
}

#[cfg(test)]
mod tests {
    use gander_proto::v1 as pb;
    use serde_json::json;

    use crate::testing::Daemon;

    #[tokio::test]
    async fn levels_become_rules_of_the_user() {
        let daemon =
            Daemon::new().on("ToolService/SetPermissionRules", &pb::SetPermissionRulesResponse::default());
        let levels = ["always_allow", "ask_before", "never_allow"];
        let permissions: Vec<_> = levels
            .iter()
            .map(|level| json!({"tool_name": format!("x__{level}"), "permission": level}))
            .collect();
        let reply = daemon.post("/config/permissions", json!({ "tool_permissions": permissions })).await;
        assert_eq!(reply.ok(), json!("Permissions updated successfully"));
        let request: pb::SetPermissionRulesRequest = daemon.request("ToolService/SetPermissionRules");
        let rules: Vec<_> =
            request.rules.iter().map(|r| (r.tool_pattern.as_str(), r.decision(), r.scope())).collect();
        let user = pb::RememberScope::User;
        let expected = [
            ("x__always_allow", pb::RuleDecision::Allow, user),
            ("x__ask_before", pb::RuleDecision::Ask, user),
            ("x__never_allow", pb::RuleDecision::Deny, user),
        ];
        assert_eq!(rules, expected);
    }

    #[tokio::test]
    async fn nothing_to_set_is_done_without_a_call() {
        let daemon = Daemon::new();
        assert_eq!(daemon.post("/config/permissions", json!({"tool_permissions": []})).await.status, 200);
        assert_eq!(daemon.calls(), Vec::<String>::new());
    }
}
