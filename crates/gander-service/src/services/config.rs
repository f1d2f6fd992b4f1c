//! ConfigService: values, secrets (write only) and the files' health.

use gander_domain::{ErrorDetail, ErrorReason};
use gander_engine::types::{ConfigError, Origin, SecretOrigin, SecretStatus, recovery};
use gander_engine::{Engine, PromptTemplate, config_error};
use gander_proto::v1::{self as pb, config_service_server::ConfigService};
use tonic::{Request, Response, Status};

use crate::{
    Api,
    convert::{At, Violations},
    error::IntoStatus as _,
};

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl ConfigService for Api {
    async fn list_config_values(
        &self,
        _request: Request<pb::ListConfigValuesRequest>,
    ) -> Answer<pb::ListConfigValuesResponse> {
        let mut values = self
            .run_blocking(|engine| {
                let listed = engine.config().current().list();
                Ok(listed
                    .into_iter()
                    .filter_map(|l| l.entry.map(|e| value_to_pb(l.key, &e.value, &e.origin)))
                    .collect::<Vec<_>>())
            })
            .await?;
        values.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(Response::new(pb::ListConfigValuesResponse { values }))
    }

    async fn get_config_value(
        &self,
        request: Request<pb::GetConfigValueRequest>,
    ) -> Answer<pb::GetConfigValueResponse> {
        let key = key(request.into_inner().key).or_status()?;
        let value = self.run_blocking(move |engine| Ok(current(engine, &key))).await?;
        Ok(Response::new(pb::GetConfigValueResponse { value }))
    }

    async fn set_config_value(
        &self,
        request: Request<pb::SetConfigValueRequest>,
    ) -> Answer<pb::SetConfigValueResponse> {
        let request = request.into_inner();
        let mut v = Violations::default();
        let key = v.name(&At::root("key"), request.key);
        let parsed = serde_json::from_str::<serde_json::Value>(&request.value_json);
        let value = match parsed {
            Ok(serde_json::Value::Null) => {
                v.add(&At::root("value_json"), "must not be null; UnsetConfigValue removes a value");
                None
            }
            Ok(value) => Some(value),
            Err(e) => {
                v.add(&At::root("value_json"), format!("must be JSON text: {e}"));
                None
            }
        };
        let value = v.finish(value).or_status()?;
        let value = self
            .run_blocking(move |engine| {
                engine.config().set(&key, &value).map_err(|e| config_error(&e))?;
                Ok(current(engine, &key))
            })
            .await?;
        Ok(Response::new(pb::SetConfigValueResponse { value }))
    }

    async fn unset_config_value(
        &self,
        request: Request<pb::UnsetConfigValueRequest>,
    ) -> Answer<pb::UnsetConfigValueResponse> {
        let key = key(request.into_inner().key).or_status()?;
        let value = self
            .run_blocking(move |engine| {
                engine.config().unset(&key).map_err(|e| config_error(&e))?;
                Ok(current(engine, &key))
            })
            .await?;
        Ok(Response::new(pb::UnsetConfigValueResponse { value }))
    }

    async fn list_secret_statuses(
        &self,
        _request: Request<pb::ListSecretStatusesRequest>,
    ) -> Answer<pb::ListSecretStatusesResponse> {
        let secrets = self
            .run_blocking(|engine| {
                let providers = engine.providers();
                let of_providers: Vec<&str> = providers
                    .iter()
                    .flat_map(|(info, _)| &info.config_keys)
                    .filter(|k| k.secret)
                    .map(|k| k.name.as_str())
                    .collect();
                let statuses = engine.config().secret_statuses(&of_providers);
                Ok(statuses.iter().map(secret_to_pb).collect())
            })
            .await?;
        Ok(Response::new(pb::ListSecretStatusesResponse { secrets }))
    }

    async fn get_secret_status(
        &self,
        request: Request<pb::GetSecretStatusRequest>,
    ) -> Answer<pb::GetSecretStatusResponse> {
        let key = key(request.into_inner().key).or_status()?;
        let secret = self
            .run_blocking(move |engine| {
                let status = engine.config().secret_status(&key);
                // Not there, or not to be seen: "not set" would be a guess.
                match engine.config().secret_trouble().filter(|_| !status.set) {
                    Some(trouble) => Err(secret_error(&trouble)),
                    None => Ok(secret_to_pb(&status)),
                }
            })
            .await?;
        Ok(Response::new(pb::GetSecretStatusResponse { secret: Some(secret) }))
    }

    async fn set_secret(&self, request: Request<pb::SetSecretRequest>) -> Answer<pb::SetSecretResponse> {
        let request = request.into_inner();
        let mut v = Violations::default();
        let key = v.name(&At::root("key"), request.key);
        if request.value.is_empty() {
            v.add(&At::root("value"), "must not be empty; DeleteSecret removes a secret");
        }
        let value = v.finish(Some(request.value)).or_status()?;
        let secret = self
            .run_blocking(move |engine| {
                engine.config().set_secret(&key, &value).map_err(|e| secret_error(&e))?;
                Ok(secret_to_pb(&engine.config().secret_status(&key)))
            })
            .await?;
        Ok(Response::new(pb::SetSecretResponse { secret: Some(secret) }))
    }

    async fn delete_secret(
        &self,
        request: Request<pb::DeleteSecretRequest>,
    ) -> Answer<pb::DeleteSecretResponse> {
        let key = key(request.into_inner().key).or_status()?;
        let secret = self
            .run_blocking(move |engine| {
                engine.config().delete_secret(&key).map_err(|e| secret_error(&e))?;
                Ok(secret_to_pb(&engine.config().secret_status(&key)))
            })
            .await?;
        Ok(Response::new(pb::DeleteSecretResponse { secret: Some(secret) }))
    }

    async fn list_prompt_templates(
        &self,
        _request: Request<pb::ListPromptTemplatesRequest>,
    ) -> Answer<pb::ListPromptTemplatesResponse> {
        let templates = self.run_blocking(Engine::prompt_templates).await?;
        let templates = templates.into_iter().map(template_to_pb).collect();
        Ok(Response::new(pb::ListPromptTemplatesResponse { templates }))
    }

    async fn get_prompt_template(
        &self,
        request: Request<pb::GetPromptTemplateRequest>,
    ) -> Answer<pb::GetPromptTemplateResponse> {
        let name = template_name(request.into_inner().name).or_status()?;
        let template = self.run_blocking(move |engine| engine.prompt_template(&name)).await?;
        Ok(Response::new(pb::GetPromptTemplateResponse { template: Some(template_to_pb(template)) }))
    }

    async fn set_prompt_template(
        &self,
        request: Request<pb::SetPromptTemplateRequest>,
    ) -> Answer<pb::SetPromptTemplateResponse> {
        let request = request.into_inner();
        let name = template_name(request.name).or_status()?;
        let template =
            self.run_blocking(move |engine| engine.set_prompt_template(&name, &request.content)).await?;
        Ok(Response::new(pb::SetPromptTemplateResponse { template: Some(template_to_pb(template)) }))
    }

    async fn reset_prompt_template(
        &self,
        request: Request<pb::ResetPromptTemplateRequest>,
    ) -> Answer<pb::ResetPromptTemplateResponse> {
        let name = template_name(request.into_inner().name).or_status()?;
        let template = self.run_blocking(move |engine| engine.reset_prompt_template(&name)).await?;
        Ok(Response::new(pb::ResetPromptTemplateResponse { template: Some(template_to_pb(template)) }))
    }

    async fn validate_config(
        &self,
        _request: Request<pb::ValidateConfigRequest>,
    ) -> Answer<pb::ValidateConfigResponse> {
        let problems = self.run_blocking(|engine| Ok(problems(engine))).await?;
        Ok(Response::new(pb::ValidateConfigResponse { problems }))
    }

    async fn backup_config(
        &self,
        _request: Request<pb::BackupConfigRequest>,
    ) -> Answer<pb::BackupConfigResponse> {
        let copy = self
            .run_blocking(|engine| recovery::backup(engine.config().paths()).map_err(|e| config_error(&e)))
            .await?;
        let file_path = copy.map(|p| p.to_string_lossy().into_owned()).unwrap_or_default();
        Ok(Response::new(pb::BackupConfigResponse { file_path }))
    }

    async fn recover_config(
        &self,
        _request: Request<pb::RecoverConfigRequest>,
    ) -> Answer<pb::RecoverConfigResponse> {
        let response = self
            .run_blocking(|engine| {
                let done = recovery::recover(engine.config().paths()).map_err(|e| config_error(&e))?;
                engine.config().refresh();
                Ok(match done {
                    recovery::Recovery::NotNeeded => pb::RecoverConfigResponse::default(),
                    recovery::Recovery::Restored { malformed } => pb::RecoverConfigResponse {
                        recovered_keys: engine
                            .config()
                            .current()
                            .list()
                            .into_iter()
                            .filter(|l| {
                                l.entry.as_ref().is_some_and(|e| matches!(e.origin, Origin::User { .. }))
                            })
                            .map(|l| l.key)
                            .collect(),
                        malformed_file_path: malformed.to_string_lossy().into_owned(),
                    },
                })
            })
            .await?;
        Ok(Response::new(response))
    }
}

fn key(key: String) -> Result<String, ErrorDetail> {
    let mut v = Violations::default();
    let key = v.name(&At::root("key"), key);
    v.finish(Some(key))
}

fn template_name(name: String) -> Result<String, ErrorDetail> {
    let mut v = Violations::default();
    let name = v.name(&At::root("name"), name);
    v.finish(Some(name))
}

fn template_to_pb(template: PromptTemplate) -> pb::PromptTemplate {
    pb::PromptTemplate {
        name: template.name,
        description: template.description,
        default_content: template.default_content,
        user_content: template.user_content,
    }
}

fn current(engine: &Engine, key: &str) -> Option<pb::ConfigValue> {
    let entry = engine.config().current().get(key)?;
    Some(value_to_pb(key.to_owned(), &entry.value, &entry.origin))
}

fn value_to_pb(key: String, value: &serde_json::Value, origin: &Origin) -> pb::ConfigValue {
    let origin = match origin {
        Origin::BuiltIn => pb::ConfigOrigin::Builtin,
        Origin::Distribution { .. } => pb::ConfigOrigin::Distribution,
        Origin::User { .. } => pb::ConfigOrigin::User,
        Origin::Environment { .. } => pb::ConfigOrigin::Environment,
        Origin::Flag => pb::ConfigOrigin::Flag,
        Origin::Policy { .. } => pb::ConfigOrigin::Policy,
    };
    pb::ConfigValue { key, value_json: value.to_string(), origin: origin as i32 }
}

fn secret_to_pb(secret: &SecretStatus) -> pb::SecretStatus {
    let origin = match &secret.origin {
        None => pb::SecretOrigin::Unspecified,
        Some(SecretOrigin::File { .. }) => pb::SecretOrigin::File,
        Some(SecretOrigin::Keyring { .. }) => pb::SecretOrigin::Keyring,
        Some(SecretOrigin::Command { .. }) => pb::SecretOrigin::Command,
        Some(SecretOrigin::Environment { .. }) => pb::SecretOrigin::Environment,
    };
    pb::SecretStatus {
        key: secret.key.clone(),
        present: secret.set,
        last_four: secret.last_four.clone().unwrap_or_default(),
        origin: origin as i32,
    }
}

/// A secret's file that cannot be used is another matter than a malformed configuration.
fn secret_error(error: &ConfigError) -> ErrorDetail {
    let mut detail = config_error(error);
    if detail.reason == ErrorReason::ConfigMalformed {
        detail.reason = ErrorReason::SecretStoreUnavailable;
    }
    detail
}

fn problems(engine: &Engine) -> Vec<pb::ConfigProblem> {
    let health = engine.config().health();
    let errors = health.problems.into_iter().map(|p| (pb::ConfigSeverity::Error, p));
    let warnings = health.warnings.into_iter().map(|p| (pb::ConfigSeverity::Warning, p));
    let mut problems: Vec<_> = errors
        .chain(warnings)
        .map(|(severity, problem)| pb::ConfigProblem {
            severity: severity as i32,
            key: String::new(),
            file_path: problem.path.to_string_lossy().into_owned(),
            line: None,
            message: problem.message,
        })
        .collect();
    let (_, unreadable) = engine.configured_extensions_with_problems();
    problems.extend(unreadable.into_iter().map(|message| pb::ConfigProblem {
        severity: pb::ConfigSeverity::Error as i32,
        key: "extensions".to_owned(),
        file_path: String::new(),
        line: None,
        message,
    }));
    problems
}
