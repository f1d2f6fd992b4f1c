//! ExtensionService: the extensions of the configuration file and those of a session.

use gander_domain::{
    ErrorDetail, ErrorReason, SessionId,
    extension::{ExtensionConfig, extension_key},
};
use gander_engine::types::ConfiguredEntry;
use gander_engine::types::extension_format as format;
use gander_engine::{AddExtension, Engine, LogFollow, check_config, config_error};
use gander_proto::v1::{self as pb, extension_service_server::ExtensionService};
use tokio::sync::OwnedSemaphorePermit;
use tonic::{Request, Response, Status};

use crate::{
    Api,
    context::incoming,
    convert::{
        At, Violations,
        extension::{Reveal, config_from_pb, config_to_pb, status_to_pb},
    },
    error::IntoStatus as _,
    watch::Answers,
};

type Answer<T> = Result<Response<T>, Status>;

const EXTENSIONS: &str = "extensions";

#[tonic::async_trait]
impl ExtensionService for Api {
    async fn list_extensions(
        &self,
        _request: Request<pb::ListExtensionsRequest>,
    ) -> Answer<pb::ListExtensionsResponse> {
        let (extensions, warnings) = self
            .run_blocking(|engine| {
                let (entries, warnings) = engine.configured_extensions_with_problems();
                let extensions = entries.iter().map(|entry| {
                    let mut extension = configured_to_pb(entry);
                    if entry.enabled && engine.lacks_builtin(&entry.config) {
                        extension.warnings.push(lacking(&entry.config.name));
                    }
                    extension
                });
                Ok((extensions.collect(), warnings))
            })
            .await?;
        Ok(Response::new(pb::ListExtensionsResponse { extensions, warnings }))
    }

    async fn put_extension(
        &self,
        request: Request<pb::PutExtensionRequest>,
    ) -> Answer<pb::PutExtensionResponse> {
        let request = request.into_inner();
        let mut v = Violations::default();
        let config = v.required(&At::root("config"), request.config);
        let config = config.and_then(|c| config_from_pb(c, &At::root("config"), &mut v));
        let config = v.finish(config).or_status()?;
        check_config(&config).or_status()?;
        let put = self.run_blocking(move |engine| {
            engine.check_extension_policy(&config)?;
            put(engine, config, request.enabled)
        });
        let (entry, created) = put.await?;
        Ok(Response::new(pb::PutExtensionResponse { extension: Some(configured_to_pb(&entry)), created }))
    }

    async fn delete_extension(
        &self,
        request: Request<pb::DeleteExtensionRequest>,
    ) -> Answer<pb::DeleteExtensionResponse> {
        let request = request.into_inner();
        let deleted = self
            .run_blocking(move |engine| match find(engine, &request.extension_name) {
                Ok(entry) => {
                    keep_implied(engine)?;
                    let written = engine.config().edit_map_entry(EXTENSIONS, &entry.key, None);
                    written.map(|_| true).map_err(|e| config_error(&e))
                }
                Err(e) if request.allow_missing && e.reason == ErrorReason::ExtensionNotFound => Ok(false),
                Err(e) => Err(e),
            })
            .await?;
        Ok(Response::new(pb::DeleteExtensionResponse { deleted }))
    }

    async fn set_extension_enabled(
        &self,
        request: Request<pb::SetExtensionEnabledRequest>,
    ) -> Answer<pb::SetExtensionEnabledResponse> {
        let request = request.into_inner();
        let entry = self
            .run_blocking(move |engine| {
                let entry =
                    ConfiguredEntry { enabled: request.enabled, ..find(engine, &request.extension_name)? };
                keep_implied(engine)?;
                write(engine, &entry)?;
                Ok(entry)
            })
            .await?;
        Ok(Response::new(pb::SetExtensionEnabledResponse { extension: Some(configured_to_pb(&entry)) }))
    }

    async fn list_available_extensions(
        &self,
        _request: Request<pb::ListAvailableExtensionsRequest>,
    ) -> Answer<pb::ListAvailableExtensionsResponse> {
        let available = self.run_blocking(|engine| Ok(engine.available_extensions())).await?;
        let available = available.iter().map(|(config, configured)| pb::AvailableExtension {
            // What is configured is read with ListExtensions; here nobody needs its values.
            config: Some(config_to_pb(config, Reveal::Keys)),
            configured: *configured,
        });
        Ok(Response::new(pb::ListAvailableExtensionsResponse { extensions: available.collect() }))
    }

    async fn install_extension_link(
        &self,
        request: Request<pb::InstallExtensionLinkRequest>,
    ) -> Answer<pb::InstallExtensionLinkResponse> {
        let link = format::parse_link(&request.into_inner().link).map_err(ErrorDetail::from).or_status()?;
        let installed = self.run_blocking(move |engine| install(engine, link)).await?;
        Ok(Response::new(installed))
    }

    async fn add_session_extension(
        &self,
        request: Request<pb::AddSessionExtensionRequest>,
    ) -> Answer<pb::AddSessionExtensionResponse> {
        let (context, request) = incoming(request)?;
        let wait = request.wait;
        let (id, extension) = addition(request).or_status()?;
        let done = self
            .run(|engine| async move { engine.add_session_extension(&context, &id, extension, wait).await })
            .await?;
        Ok(Response::new(pb::AddSessionExtensionResponse {
            extension: Some(status_to_pb(&done.value)),
            sequence: done.sequence,
        }))
    }

    async fn remove_session_extension(
        &self,
        request: Request<pb::RemoveSessionExtensionRequest>,
    ) -> Answer<pb::RemoveSessionExtensionResponse> {
        let (context, request) = incoming(request)?;
        let (id, name) = session_and_name(&request.session_id, request.extension_name).or_status()?;
        let done = self
            .run(|engine| async move { engine.remove_session_extension(&context, &id, &name).await })
            .await?;
        Ok(Response::new(pb::RemoveSessionExtensionResponse { sequence: done.sequence, removed: done.value }))
    }

    async fn restart_session_extension(
        &self,
        request: Request<pb::RestartSessionExtensionRequest>,
    ) -> Answer<pb::RestartSessionExtensionResponse> {
        let (_, request) = incoming(request)?;
        let wait = request.wait;
        let (id, name) = session_and_name(&request.session_id, request.extension_name).or_status()?;
        let done = self
            .run(|engine| async move { engine.restart_session_extension(&id, &name, wait).await })
            .await?;
        Ok(Response::new(pb::RestartSessionExtensionResponse {
            extension: Some(status_to_pb(&done.value)),
            sequence: done.sequence,
        }))
    }

    async fn list_session_extensions(
        &self,
        request: Request<pb::ListSessionExtensionsRequest>,
    ) -> Answer<pb::ListSessionExtensionsResponse> {
        let id = super::session::session_id(&request.into_inner().session_id).or_status()?;
        let statuses = self.run(|engine| async move { engine.session_extensions(&id).await }).await?;
        let extensions = statuses.iter().map(status_to_pb).collect();
        Ok(Response::new(pb::ListSessionExtensionsResponse { extensions }))
    }

    type ReadExtensionLogStream = Answers<pb::ReadExtensionLogResponse>;

    async fn read_extension_log(
        &self,
        request: Request<pb::ReadExtensionLogRequest>,
    ) -> Answer<Self::ReadExtensionLogStream> {
        let request = request.into_inner();
        let (id, name) = session_and_name(&request.session_id, request.extension_name).or_status()?;
        let tail = usize::try_from(request.tail_bytes)
            .map_err(|_| ErrorDetail::invalid("tail_bytes", "must not be negative"))
            .or_status()?;
        if request.follow {
            let permit = self.open_stream().or_status()?;
            let following =
                self.run(|engine| async move { engine.follow_extension_log(&id, &name).await }).await?;
            return Ok(Response::new(followed(following, tail, permit)));
        }
        let text = self.run(|engine| async move { engine.extension_log(&id, &name).await }).await?;
        let text = last_bytes(text, tail);
        let parts = (!text.is_empty()).then(|| Ok(pb::ReadExtensionLogResponse { text }));
        Ok(Response::new(Box::pin(futures::stream::iter(parts))))
    }

    async fn set_extension_log_level(
        &self,
        request: Request<pb::SetExtensionLogLevelRequest>,
    ) -> Answer<pb::SetExtensionLogLevelResponse> {
        let request = request.into_inner();
        let (id, name) = session_and_name(&request.session_id, request.extension_name).or_status()?;
        let level = match pb::LogLevel::try_from(request.level) {
            Ok(level) if level != pb::LogLevel::Unspecified => level,
            _ => return Err(ErrorDetail::invalid("level", "must be DEBUG to EMERGENCY")).or_status(),
        };
        let level = level.as_str_name().trim_start_matches("LOG_LEVEL_").to_ascii_lowercase();
        self.run(|engine| async move { engine.set_extension_log_level(&id, &name, &level).await }).await?;
        Ok(Response::new(pb::SetExtensionLogLevelResponse {}))
    }

    async fn approve_tool_definitions(
        &self,
        request: Request<pb::ApproveToolDefinitionsRequest>,
    ) -> Answer<pb::ApproveToolDefinitionsResponse> {
        let request = request.into_inner();
        let (id, name) = session_and_name(&request.session_id, request.extension_name).or_status()?;
        if request.approvals.is_empty() {
            return Err(ErrorDetail::invalid("approvals", "must name at least one tool")).or_status();
        }
        let approvals = request.approvals.into_iter().map(|a| (a.tool_name, a.definition_hash)).collect();
        let done = self
            .run(|engine| async move { engine.approve_tool_definitions(&id, &name, approvals).await })
            .await?;
        Ok(Response::new(pb::ApproveToolDefinitionsResponse {
            extension: Some(status_to_pb(&done.value)),
            sequence: done.sequence,
        }))
    }
}

/// What is kept of a log, then what follows, until the extension is gone.
fn followed(
    (kept, mut follow): (String, LogFollow),
    tail: usize,
    permit: OwnedSemaphorePermit,
) -> Answers<pb::ReadExtensionLogResponse> {
    Box::pin(async_stream::stream! {
        let _permit = permit;
        let kept = last_bytes(kept, tail);
        if !kept.is_empty() {
            yield Ok(pb::ReadExtensionLogResponse { text: kept });
        }
        while let Some(text) = follow.next().await {
            yield Ok(pb::ReadExtensionLogResponse { text });
        }
    })
}

/// At most the last `tail` bytes of a text, from a whole character on; 0 is all of it.
fn last_bytes(text: String, tail: usize) -> String {
    if tail == 0 || text.len() <= tail {
        return text;
    }
    let mut start = text.len() - tail;
    while !text.is_char_boundary(start) {
        start += 1;
    }
    text[start..].to_owned()
}

fn session_and_name(session_id: &str, name: String) -> Result<(SessionId, String), ErrorDetail> {
    let mut v = Violations::default();
    let id = v.id(&At::root("session_id"), session_id, |t| SessionId::new(t));
    let name = v.name(&At::root("extension_name"), name);
    v.finish(id.map(|id| (id, name)))
}

fn addition(request: pb::AddSessionExtensionRequest) -> Result<(SessionId, AddExtension), ErrorDetail> {
    use pb::add_session_extension_request::Extension;
    let mut v = Violations::default();
    let id = v.id(&At::root("session_id"), &request.session_id, |t| SessionId::new(t));
    let extension = match request.extension {
        None => {
            v.add(&At::root("extension"), "must be config or configured_name");
            None
        }
        Some(Extension::Config(config)) => config_from_pb(*config, &At::root("config"), &mut v)
            .map(|config| AddExtension::Config(Box::new(config))),
        Some(Extension::ConfiguredName(name)) => {
            Some(AddExtension::Configured(v.name(&At::root("configured_name"), name)))
        }
    };
    v.finish(id.zip(extension))
}

fn configured_to_pb(entry: &ConfiguredEntry) -> pb::ConfiguredExtension {
    pb::ConfiguredExtension {
        config: Some(config_to_pb(&entry.config, Reveal::Values)),
        enabled: entry.enabled,
        config_key: entry.key.clone(),
        warnings: format::validate(&entry.config)
            .into_iter()
            .chain(format::warnings(&entry.config))
            .map(|v| format!("{}: {}", v.field, v.description))
            .collect(),
    }
}

fn lacking(name: &str) -> String {
    format!("name: no extension {name:?} is part of this daemon, so it cannot start; disable or remove it")
}

fn find(engine: &Engine, name: &str) -> Result<ConfiguredEntry, ErrorDetail> {
    let key = extension_key(name);
    let found = engine
        .configured_extensions()
        .into_iter()
        .find(|e| e.key == name || e.key == key || extension_key(&e.config.name) == key);
    found.ok_or_else(|| {
        let message = format!("no extension {name:?} is configured; ListExtensions shows those that are");
        ErrorDetail::new(ErrorReason::ExtensionNotFound, message).with("extensionName", name)
    })
}

/// Without any configured extension the engine implies its default ones. Before the first change they are written down,
/// so that the change does not make them vanish.
fn keep_implied(engine: &Engine) -> Result<(), ErrorDetail> {
    if engine.config().current().extensions().is_empty() {
        for entry in engine.configured_extensions() {
            write(engine, &entry)?;
        }
    }
    Ok(())
}

/// Stores what a link offers, disabled, unless something of that name is there already.
fn install(
    engine: &Engine,
    link: format::ExtensionLink,
) -> Result<pb::InstallExtensionLinkResponse, ErrorDetail> {
    engine.check_extension_policy(&link.config)?;
    let (entry, created) = match find(engine, &link.config.name) {
        Ok(entry) => (entry, false),
        Err(_) => {
            let key = extension_key(&link.config.name);
            (ConfiguredEntry { key, enabled: false, config: link.config }, true)
        }
    };
    let mut warnings = link.warnings;
    if created {
        keep_implied(engine)?;
        write(engine, &entry)?;
    } else {
        warnings.push(format!("{} is configured already and was not changed", entry.config.name));
    }
    let unresolved = link.keys.iter().filter(|key| match key {
        format::LinkKey::Secret(name) => engine.config().secret(name).is_none(),
        format::LinkKey::Header(_) => true,
    });
    Ok(pb::InstallExtensionLinkResponse {
        unresolved_keys: unresolved.map(|key| key.name().to_owned()).collect(),
        extension: Some(configured_to_pb(&entry)),
        warnings,
        installation_notes: link.installation_notes,
        created,
    })
}

fn put(
    engine: &Engine,
    config: ExtensionConfig,
    enabled: bool,
) -> Result<(ConfiguredEntry, bool), ErrorDetail> {
    let (entry, created) = match find(engine, &config.name) {
        // A client that edits what it was shown sends withheld values back empty.
        Ok(stored) => {
            let config = format::restore_withheld(config, &stored.config);
            (ConfiguredEntry { key: stored.key, enabled, config }, false)
        }
        Err(_) => (ConfiguredEntry { key: extension_key(&config.name), enabled, config }, true),
    };
    keep_implied(engine)?;
    write(engine, &entry)?;
    Ok((entry, created))
}

fn write(engine: &Engine, entry: &ConfiguredEntry) -> Result<(), ErrorDetail> {
    let value = format::entry_to_value(entry);
    engine.config().edit_map_entry(EXTENSIONS, &entry.key, Some(&value)).map_err(|e| config_error(&e))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tail_starts_at_a_character() {
        for (tail, expected) in [(0, "aäö"), (2, "ö"), (3, "ö"), (4, "äö"), (99, "aäö")] {
            assert_eq!(last_bytes("aäö".into(), tail), expected, "{tail}");
        }
    }
}
