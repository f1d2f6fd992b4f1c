//! Goose's methods about the texts that make the system prompt.

use gander_proto::v1::{
    GetPromptTemplateRequest, ListPromptTemplatesRequest, PromptTemplate, ResetPromptTemplateRequest,
    SetPromptTemplateRequest,
};
use serde_json::{Value, json};

use super::text;
use crate::{
    agent::{
        Inner,
        dispatch::{Handled, Outcome},
    },
    rpc::RpcError,
};

fn entry(template: &PromptTemplate) -> Value {
    let mut entry = json!({
        "name": template.name,
        "description": template.description,
        "defaultContent": template.default_content,
        "isCustomized": template.user_content.is_some(),
    });
    if let (Some(own), Some(entry)) = (&template.user_content, entry.as_object_mut()) {
        entry.insert("userContent".to_owned(), json!(own));
    }
    entry
}

impl Inner {
    pub(super) async fn goose_prompts(&self) -> Outcome {
        let listed = self.client.config().list_prompt_templates(ListPromptTemplatesRequest {}).await;
        let listed = listed.map_err(RpcError::from)?.into_inner().templates;
        Ok(Handled::Reply(json!({"prompts": listed.iter().map(entry).collect::<Vec<_>>()})))
    }

    pub(super) async fn goose_prompt(&self, params: &Value) -> Outcome {
        let request = GetPromptTemplateRequest { name: text(params, &["name"])?.to_owned() };
        let found = self.client.config().get_prompt_template(request).await.map_err(RpcError::from)?;
        let template = found.into_inner().template.unwrap_or_default();
        Ok(Handled::Reply(json!({
            "name": template.name,
            "content": template.user_content.as_ref().unwrap_or(&template.default_content),
            "defaultContent": template.default_content,
            "isCustomized": template.user_content.is_some(),
        })))
    }

    pub(super) async fn goose_save_prompt(&self, params: &Value) -> Outcome {
        let request = SetPromptTemplateRequest {
            name: text(params, &["name"])?.to_owned(),
            content: text(params, &["content"])?.to_owned(),
            idempotency_key: String::new(),
        };
        self.client.config().set_prompt_template(request).await.map_err(RpcError::from)?;
        Ok(Handled::Reply(json!({"message": "The prompt is saved."})))
    }

    pub(super) async fn goose_reset_prompt(&self, params: &Value) -> Outcome {
        let name = text(params, &["name"])?.to_owned();
        let request = ResetPromptTemplateRequest { name, idempotency_key: String::new() };
        self.client.config().reset_prompt_template(request).await.map_err(RpcError::from)?;
        Ok(Handled::Reply(json!({"message": "The prompt is the built-in one again."})))
    }
}
