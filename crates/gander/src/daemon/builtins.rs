//! Builtin extensions as the MCP host starts them.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use futures::future::BoxFuture;
use gander_builtin::{
    AvailableExtension, Body, BuiltinContext, ExtensionManager, HookError, HostFiles, HostTerminals,
    ListedResource, ResourceContent, StateStore, TerminalCommand, TerminalEnd,
};
use gander_domain::{
    ErrorDetail, ErrorReason, ItemId, Part, PartBody,
    content::Data,
    extension::extension_key,
    host::{HostCallKind, HostCallOutcome},
};
use gander_mcp::{
    BuiltinConnection, BuiltinFactory, BuiltinInfo, CallProgress, HostCommand, SessionClient, SessionContext,
    SessionExtensions,
};
use gander_process::{Spawner, ToolProcesses};
use tokio::sync::mpsc;

/// Pieces of a terminal's output that may wait; what comes when it is full is seen in the result only.
const TERMINAL_REPORTS: usize = 256;

/// Makes builtin servers in process; their commands are supervised and registered as tools.
pub(super) struct Builtins {
    spawner: Spawner,
    global_memory_dir: PathBuf,
}

impl Builtins {
    pub(super) fn new(
        supervisor: Option<Vec<String>>,
        processes: ToolProcesses,
        global_memory_dir: PathBuf,
    ) -> Self {
        Self { spawner: Spawner::new(supervisor, processes), global_memory_dir }
    }
}

impl BuiltinFactory for Builtins {
    fn names(&self) -> Vec<String> {
        gander_builtin::catalogue().iter().map(|info| info.name.to_owned()).collect()
    }

    fn catalogue(&self) -> Vec<BuiltinInfo> {
        let info = |info: &gander_builtin::BuiltinInfo| BuiltinInfo {
            name: info.name.to_owned(),
            display_name: info.display_name.to_owned(),
            description: info.description.to_owned(),
        };
        gander_builtin::catalogue().iter().map(info).collect()
    }

    fn connect(
        &self,
        name: &str,
        context: &SessionContext,
        client: &Arc<dyn SessionClient>,
    ) -> Result<BuiltinConnection, ErrorDetail> {
        let session = Arc::new(SessionHooks(client.clone()));
        let builtin = BuiltinContext {
            global_memory_dir: Some(self.global_memory_dir.clone()),
            state: session.clone(),
            manager: Some(session.clone()),
            host_files: Some(session.clone()),
            host_terminals: Some(session),
            additional_directories: context.additional_directories.clone(),
            environment: context.environment.clone(),
            spawner: self.spawner.clone(),
            denied_paths: context.denied_paths.clone(),
            sandbox: context.sandbox.clone(),
            ..BuiltinContext::new(&context.working_directory, &context.data_dir)
        };
        let server = gander_builtin::serve_in_process(name, builtin).ok_or_else(|| {
            let reason = gander_builtin::known_elsewhere(name).map_or_else(
                || {
                    format!(
                        "this gander has no builtin extension {name:?}; it has {}",
                        self.names().join(", ")
                    )
                },
                str::to_owned,
            );
            ErrorDetail::new(ErrorReason::ExtensionTypeUnsupported, reason).with("name", name)
        })?;
        Ok(BuiltinConnection::new(server.sender, server.receiver, server.server))
    }
}

/// The session behind the hooks of builtins.
struct SessionHooks(Arc<dyn SessionClient>);

fn hook_error(error: &ErrorDetail) -> HookError {
    HookError::new(error.message.clone())
}

impl StateStore for SessionHooks {
    fn load<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<String>, HookError>> {
        Box::pin(async move { self.0.load_state(key).await.map_err(|e| hook_error(&e)) })
    }

    fn save<'a>(&'a self, key: &'a str, value: String) -> BoxFuture<'a, Result<(), HookError>> {
        Box::pin(async move { self.0.save_state(key, value).await.map_err(|e| hook_error(&e)) })
    }
}

fn other_outcome(outcome: HostCallOutcome) -> HookError {
    match outcome {
        HostCallOutcome::Failed { message, .. } => HookError::new(message),
        _ => HookError::new("it answered with another kind of result"),
    }
}

/// The protocol has names of UTF-8 only; a file with another cannot be open in a program that is attached.
impl HostFiles for SessionHooks {
    fn read_text<'a>(&'a self, path: &'a Path) -> BoxFuture<'a, Option<Result<String, HookError>>> {
        Box::pin(async move {
            let path = path.to_str()?.to_owned();
            let outcome = self.0.host_call(HostCallKind::FsRead { path, line: None, limit: None }).await?;
            Some(match outcome {
                Ok(HostCallOutcome::FsRead { text }) => Ok(text),
                Ok(other) => Err(other_outcome(other)),
                Err(error) => Err(hook_error(&error)),
            })
        })
    }

    fn write_text<'a>(
        &'a self,
        path: &'a Path,
        text: &'a str,
    ) -> BoxFuture<'a, Option<Result<(), HookError>>> {
        Box::pin(async move {
            let path = path.to_str()?.to_owned();
            let outcome = self.0.host_call(HostCallKind::FsWrite { path, text: text.to_owned() }).await?;
            Some(match outcome {
                Ok(HostCallOutcome::FsWritten) => Ok(()),
                Ok(other) => Err(other_outcome(other)),
                Err(error) => Err(hook_error(&error)),
            })
        })
    }
}

impl HostTerminals for SessionHooks {
    fn run(
        &self,
        command: TerminalCommand,
        output: mpsc::Sender<String>,
    ) -> BoxFuture<'_, Option<TerminalEnd>> {
        Box::pin(async move {
            let item_id = ItemId::new(command.item_id).ok()?;
            let (progress, mut reports) = mpsc::channel(TERMINAL_REPORTS);
            let run = HostCallKind::TerminalRun {
                argv: command.argv,
                cwd: command.working_directory.to_str()?.to_owned(),
                env: command.environment.into_iter().collect(),
                output_limit_bytes: command.output_limit,
            };
            let work = self.0.host_command(HostCommand { item_id, run, timeout: command.timeout, progress });
            let pass_on = async {
                while let Some(report) = reports.recv().await {
                    if let CallProgress::Output { text, .. } = report {
                        // Nobody reads: only what is shown while it runs is less.
                        let _ = output.send(text).await;
                    }
                }
            };
            // The reports end with the work.
            let (end, ()) = futures::join!(work, pass_on);
            Some(terminal_end(end?))
        })
    }
}

fn terminal_end(outcome: Result<HostCallOutcome, ErrorDetail>) -> TerminalEnd {
    match outcome {
        Ok(HostCallOutcome::Terminal { output, truncated, exit_code, signal }) => {
            TerminalEnd::Ended { output, truncated, exit_code, signal }
        }
        Ok(HostCallOutcome::Failed { message, refused: true }) => {
            TerminalEnd::NotStarted(HookError::new(message))
        }
        Ok(other) => TerminalEnd::Lost(other_outcome(other)),
        Err(error) => match error.reason {
            ErrorReason::CapabilityMissing | ErrorReason::Overloaded => {
                TerminalEnd::NotStarted(hook_error(&error))
            }
            _ => TerminalEnd::Lost(hook_error(&error)),
        },
    }
}

impl SessionHooks {
    fn extensions(&self) -> Result<Arc<SessionExtensions>, HookError> {
        self.0.extensions().ok_or_else(|| HookError::new("the session's extensions are not active"))
    }

    /// The keys to ask: the named one, or all but the manager itself.
    fn keys(extensions: &SessionExtensions, name: Option<&str>) -> Vec<String> {
        match name {
            Some(name) => vec![extension_key(name)],
            None => extensions
                .statuses()
                .into_iter()
                .map(|s| s.summary.key)
                .filter(|key| key != "extensionmanager")
                .collect(),
        }
    }
}

impl ExtensionManager for SessionHooks {
    fn search(&self) -> BoxFuture<'_, Result<Vec<AvailableExtension>, HookError>> {
        Box::pin(async move {
            let known = self.0.known_extensions().await.map_err(|e| hook_error(&e))?;
            let available = |k: gander_mcp::KnownExtension| AvailableExtension {
                name: k.key,
                description: k.description,
                enabled: k.enabled,
                active: k.active,
            };
            Ok(known.into_iter().map(available).collect())
        })
    }

    fn enable<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<(), HookError>> {
        Box::pin(async move { self.0.set_extension(name, true).await.map_err(|e| hook_error(&e)) })
    }

    fn disable<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<(), HookError>> {
        Box::pin(async move { self.0.set_extension(name, false).await.map_err(|e| hook_error(&e)) })
    }

    fn list_resources<'a>(
        &'a self,
        extension: Option<&'a str>,
    ) -> BoxFuture<'a, Result<Vec<ListedResource>, HookError>> {
        Box::pin(async move {
            let extensions = self.extensions()?;
            let mut all = Vec::new();
            for key in Self::keys(&extensions, extension) {
                match extensions.list_resources(&key).await {
                    Ok(resources) => all.extend(resources.into_iter().map(|r| ListedResource {
                        extension: key.clone(),
                        uri: r.uri,
                        name: r.name,
                        description: r.description.unwrap_or_default(),
                        mime_type: r.mime_type.unwrap_or_default(),
                    })),
                    Err(error) if extension.is_some() => return Err(hook_error(&error)),
                    // One server that fails must not hide what the others have.
                    Err(_) => {}
                }
            }
            Ok(all)
        })
    }

    fn read_resource<'a>(
        &'a self,
        uri: &'a str,
        extension: Option<&'a str>,
    ) -> BoxFuture<'a, Result<Vec<ResourceContent>, HookError>> {
        Box::pin(async move {
            let extensions = self.extensions()?;
            let mut why = HookError::new(format!("no active extension has the resource {uri}"));
            for key in Self::keys(&extensions, extension) {
                match extensions.read_resource(&key, uri).await {
                    Ok(parts) => return Ok(parts.into_iter().filter_map(resource_content).collect()),
                    Err(error) if extension.is_some() => why = hook_error(&error),
                    Err(_) => {}
                }
            }
            Err(why)
        })
    }
}

fn resource_content(part: Part) -> Option<ResourceContent> {
    match part.body {
        PartBody::Resource { uri, mime_type, text, data } => {
            let body = match (text, data) {
                (Some(text), _) => Body::Text(text),
                (None, Some(Data::Inline(blob))) => Body::Bytes(blob.0),
                _ => return None,
            };
            Some(ResourceContent { uri, mime_type: mime_type.unwrap_or_default(), body })
        }
        _ => None,
    }
}
