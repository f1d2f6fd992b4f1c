//! `/config/prompts`: the templates that prompts are built from.

use axum::{
    Router,
    extract::{Path, State},
    routing::get,
};
use gander_proto::v1::{
    GetPromptTemplateRequest, ListPromptTemplatesRequest, PromptTemplate, ResetPromptTemplateRequest,
    SetPromptTemplateRequest,
};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{App, error::ApiError, extract::Json};

pub(crate) fn routes() -> Router<App> {
    Router::new()
        .route("/config/prompts", get(list))
        .route("/config/prompts/{name}", get(read).put(save).delete(reset))
}

#[derive(Deserialize)]
struct Save {
    content: String,
}

async fn list(State(app): State<App>) -> Result<Json<Value>, ApiError> {
    let listed =
        app.client().config().list_prompt_templates(ListPromptTemplatesRequest {}).await?.into_inner();
    let prompts: Vec<Value> = listed
        .templates
        .into_iter()
        .map(|template| {
            json!({
                "name": template.name,
                "description": template.description,
                "default_content": template.default_content,
                "is_customized": template.user_content.is_some(),
                "user_content": template.user_content,
            })
        })
        .collect();
    Ok(Json(json!({ "prompts": prompts })))
}

async fn read(State(app): State<App>, Path(name): Path<String>) -> Result<Json<Value>, ApiError> {
    let request = GetPromptTemplateRequest { name };
    let found = app.client().config().get_prompt_template(request).await?.into_inner().template;
    let PromptTemplate { name, default_content, user_content, .. } = found.unwrap_or_default();
    Ok(Json(json!({
        "name": name,
        "content": user_content.as_ref().unwrap_or(&default_content),
        "default_content": default_content,
        "is_customized": user_content.is_some(),
    })))
}

async fn save(
    State(app): State<App>,
    Path(name): Path<String>,
    Json(body): Json<Save>,
) -> Result<Json<String>, ApiError> {
    let request =
        SetPromptTemplateRequest { name: name.clone(), content: body.content, ..Default::default() };
    app.client().config().set_prompt_template(request).await?;
    Ok(Json(format!("Saved prompt {name}")))
}

async fn reset(State(app): State<App>, Path(name): Path<String>) -> Result<Json<String>, ApiError> {
    let request = ResetPromptTemplateRequest { name: name.clone(), ..Default::default() };
    app.client().config().reset_prompt_template(request).await?;
    Ok(Json(format!("Reset prompt {name} to its default")))
}

#[cfg(test)]
mod tests {
    use axum::http::Method;
    use gander_proto::v1::{self as pb, ErrorReason};
    use serde_json::json;
    use tonic::Code;

    use crate::testing::Daemon;

    fn template(user_content: Option<&str>) -> pb::PromptTemplate {
        pb::PromptTemplate {
            name: "system.md".to_owned(),
            description: "d".to_owned(),
            default_content: "builtin".to_owned(),
            user_content: user_content.map(str::to_owned),
        }
    }

    #[tokio::test]
    async fn templates_tell_whether_they_are_customized() {
        let templates = vec![template(None), template(Some("mine"))];
        let daemon = Daemon::new()
            .on("ConfigService/ListPromptTemplates", &pb::ListPromptTemplatesResponse { templates });
        let expected = json!({"prompts": [
            {"name": "system.md", "description": "d", "default_content": "builtin", "user_content": null,
                "is_customized": false},
            {"name": "system.md", "description": "d", "default_content": "builtin", "user_content": "mine",
                "is_customized": true},
        ]});
        assert_eq!(daemon.get("/config/prompts").await.ok(), expected);

        for (user, content) in [(None, "builtin"), (Some("mine"), "mine")] {
            let answer = pb::GetPromptTemplateResponse { template: Some(template(user)) };
            let daemon = Daemon::new().on("ConfigService/GetPromptTemplate", &answer);
            let expected = json!({"name": "system.md", "content": content, "default_content": "builtin",
                "is_customized": user.is_some()});
            assert_eq!(daemon.get("/config/prompts/system.md").await.ok(), expected);
        }
    }

    #[tokio::test]
    async fn templates_are_set_and_reset() {
        let daemon = Daemon::new()
            .on("ConfigService/SetPromptTemplate", &pb::SetPromptTemplateResponse::default())
            .on("ConfigService/ResetPromptTemplate", &pb::ResetPromptTemplateResponse::default());
        let body = Some(json!({"content": "mine"}));
        assert!(daemon.ask(Method::PUT, "/config/prompts/system.md", body).await.ok().is_string());
        assert!(daemon.ask(Method::DELETE, "/config/prompts/system.md", None).await.ok().is_string());
        let set: pb::SetPromptTemplateRequest = daemon.request("ConfigService/SetPromptTemplate");
        assert_eq!((set.name.as_str(), set.content.as_str()), ("system.md", "mine"));
        let reset: pb::ResetPromptTemplateRequest = daemon.request("ConfigService/ResetPromptTemplate");
        assert_eq!(reset.name, "system.md");
    }

    #[tokio::test]
    async fn an_unknown_template_is_404() {
        let none = |method| {
            Daemon::new().fails(method, Code::NotFound, ErrorReason::PromptNotFound, "there is no template x")
        };
        let path = "/config/prompts/x";
        let (get, put) = (none("ConfigService/GetPromptTemplate"), none("ConfigService/SetPromptTemplate"));
        assert_eq!(get.get(path).await.status, 404);
        assert_eq!(put.ask(Method::PUT, path, Some(json!({"content": ""}))).await.status, 404);
        let delete = none("ConfigService/ResetPromptTemplate");
        assert_eq!(delete.ask(Method::DELETE, path, None).await.status, 404);
    }
}
