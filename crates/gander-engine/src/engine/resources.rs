//! Resources and prompts of a session's extensions.

use std::{collections::BTreeMap, sync::Arc};

use gander_domain::{
    ErrorDetail, ErrorReason, Part, Sequence, SessionId,
    extension::{ExtensionState, ExtensionStatus, extension_key},
};
use gander_mcp::{
    CompletionResult, CompletionTarget, LogFollow, PromptInfo, PromptResult, ResourceInfo,
    ResourceTemplateInfo, SessionExtensions,
};

use super::{Engine, Recorded, extensions::WAIT_FOR_TOOLS};

impl Engine {
    /// The session's extensions, and the keys to ask: one, or all that are ready.
    async fn asked(
        &self,
        session_id: &SessionId,
        extension_name: Option<&str>,
    ) -> Result<(Arc<SessionExtensions>, Vec<String>), ErrorDetail> {
        let extensions = self.extensions(session_id).await?;
        let statuses = extensions.wait_ready(WAIT_FOR_TOOLS).await;
        let keys = match extension_name {
            Some(name) => vec![extension_key(name)],
            None => statuses
                .into_iter()
                .filter(|s| matches!(s.state, ExtensionState::Ready | ExtensionState::Degraded))
                .filter(|s| s.summary.kind != "frontend")
                .map(|s| s.summary.key)
                .collect(),
        };
        Ok((extensions, keys))
    }

    /// Resources of one extension, or of all that have any.
    pub async fn list_resources(
        &self,
        session_id: &SessionId,
        extension_name: Option<&str>,
    ) -> Result<Vec<ResourceInfo>, ErrorDetail> {
        let (extensions, keys) = self.asked(session_id, extension_name).await?;
        let mut all = Vec::new();
        for key in keys {
            all.extend(extensions.list_resources(&key).await?);
        }
        Ok(all)
    }

    /// Families of resources of one extension, or of all that have any.
    pub async fn list_resource_templates(
        &self,
        session_id: &SessionId,
        extension_name: Option<&str>,
    ) -> Result<Vec<ResourceTemplateInfo>, ErrorDetail> {
        let (extensions, keys) = self.asked(session_id, extension_name).await?;
        let mut all = Vec::new();
        for key in keys {
            all.extend(extensions.list_resource_templates(&key).await?);
        }
        Ok(all)
    }

    /// Reads a resource. Without an extension's name every one that is ready is asked until one has it.
    pub async fn read_resource(
        &self,
        session_id: &SessionId,
        extension_name: Option<&str>,
        uri: &str,
    ) -> Result<Vec<Part>, ErrorDetail> {
        let (extensions, keys) = self.asked(session_id, extension_name).await?;
        let mut last = None;
        for key in keys {
            match extensions.read_resource(&key, uri).await {
                Ok(contents) => return Ok(contents),
                Err(error) if extension_name.is_some() => return Err(error),
                Err(error) => last = Some(error),
            }
        }
        Err(last.filter(|e| e.reason == ErrorReason::ResourceNotFound).unwrap_or_else(|| {
            ErrorDetail::new(
                ErrorReason::ResourceNotFound,
                format!("no extension of the session has the resource {uri:?}; ListResources shows those that exist"),
            )
            .with("uri", uri)
        }))
    }

    /// Prompts of one extension, or of all that have any.
    pub async fn list_prompts(
        &self,
        session_id: &SessionId,
        extension_name: Option<&str>,
    ) -> Result<Vec<PromptInfo>, ErrorDetail> {
        let (extensions, keys) = self.asked(session_id, extension_name).await?;
        let mut all = Vec::new();
        for key in keys {
            all.extend(extensions.list_prompts(&key).await?);
        }
        Ok(all)
    }

    /// A prompt with its arguments (a JSON object of texts) filled in.
    pub async fn get_prompt(
        &self,
        session_id: &SessionId,
        extension_name: &str,
        name: &str,
        arguments_json: &str,
    ) -> Result<PromptResult, ErrorDetail> {
        let (extensions, _) = self.asked(session_id, Some(extension_name)).await?;
        extensions.get_prompt(&extension_key(extension_name), name, arguments_json).await
    }

    /// The end of what a session's extension wrote to its standard error, secrets left out.
    pub async fn extension_log(
        &self,
        session_id: &SessionId,
        extension_name: &str,
    ) -> Result<String, ErrorDetail> {
        let extensions = self.extensions(session_id).await?;
        extensions
            .stderr(&extension_key(extension_name))
            .ok_or_else(|| super::extensions::extension_not_found(extension_name))
    }

    /// The same, and what follows until the extension or the engine ends.
    pub async fn follow_extension_log(
        &self,
        session_id: &SessionId,
        extension_name: &str,
    ) -> Result<(String, LogFollow), ErrorDetail> {
        let extensions = self.extensions(session_id).await?;
        extensions
            .follow_stderr(&extension_key(extension_name))
            .ok_or_else(|| super::extensions::extension_not_found(extension_name))
    }

    /// Watches a resource for changes, which come as `ResourceUpdated` events.
    pub async fn subscribe_resource(
        &self,
        session_id: &SessionId,
        extension_name: &str,
        uri: &str,
        subscribe: bool,
    ) -> Result<Sequence, ErrorDetail> {
        let (extensions, _) = self.asked(session_id, Some(extension_name)).await?;
        let key = extension_key(extension_name);
        if subscribe {
            extensions.subscribe_resource(&key, uri).await?;
        } else {
            extensions.unsubscribe_resource(&key, uri).await?;
        }
        Ok(self.edit(session_id, |_| Ok(())).await?.sequence)
    }

    /// Proposals for an argument of a prompt or of a resource template.
    pub async fn complete_argument(
        &self,
        session_id: &SessionId,
        extension_name: &str,
        target: CompletionTarget,
        argument: (String, String),
        context: BTreeMap<String, String>,
    ) -> Result<CompletionResult, ErrorDetail> {
        let (extensions, _) = self.asked(session_id, Some(extension_name)).await?;
        let (name, value) = argument;
        extensions.complete(&extension_key(extension_name), &target, &name, &value, &context).await
    }

    /// How much an extension is to report.
    pub async fn set_extension_log_level(
        &self,
        session_id: &SessionId,
        extension_name: &str,
        level: &str,
    ) -> Result<(), ErrorDetail> {
        let (extensions, _) = self.asked(session_id, Some(extension_name)).await?;
        extensions.set_log_level(&extension_key(extension_name), level).await
    }

    /// Approves changed definitions of tools, by the hash that the approver has seen.
    pub async fn approve_tool_definitions(
        &self,
        session_id: &SessionId,
        extension_name: &str,
        approvals: Vec<(String, String)>,
    ) -> Result<Recorded<ExtensionStatus>, ErrorDetail> {
        let (extensions, _) = self.asked(session_id, Some(extension_name)).await?;
        let key = extension_key(extension_name);
        for (tool, hash) in &approvals {
            extensions.approve(&key, tool, hash)?;
        }
        let status = extensions.statuses().into_iter().find(|s| s.summary.key == key);
        let value = status.ok_or_else(|| super::extension_not_found(extension_name))?;
        let sequence = self.edit(session_id, |_| Ok(())).await?.sequence;
        Ok(Recorded { value, sequence })
    }
}
