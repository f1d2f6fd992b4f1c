//! Smaller features of MCP, each only where the server declared it: completion, resource subscriptions, log level.
#![allow(deprecated, reason = "deprecated in the newest revision of MCP and alive in all others")]

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use gander_domain::{ErrorDetail, ErrorReason};
use rmcp::model::{
    ArgumentInfo, ClientRequest, CompleteRequest, CompleteRequestParams, CompletionContext, LoggingLevel,
    Reference, SetLevelRequest, SetLevelRequestParams, SubscribeRequest, SubscribeRequestParams,
    UnsubscribeRequest, UnsubscribeRequestParams,
};
use serde_json::Value;

use crate::{
    calls::error_of,
    connection::{Connection, RequestOptions},
};

/// Deadline of one of these requests.
const TIMEOUT: Duration = Duration::from_secs(30);
/// MCP's cap on one answer.
const MAX_VALUES: usize = 100;

/// What an argument belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CompletionTarget {
    /// A prompt, by its name.
    Prompt(String),
    /// A resource template, by its URI template.
    ResourceTemplate(String),
}

/// Proposals for the value of an argument.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CompletionResult {
    /// At most 100, best first.
    pub values: Vec<String>,
    /// How many there are in all, where known.
    pub total: Option<u64>,
    /// Whether there are more than those sent.
    pub has_more: bool,
}

fn missing(key: &str, what: &str) -> ErrorDetail {
    ErrorDetail::new(ErrorReason::CapabilityMissing, format!("extension {key} offers no {what}"))
        .with("extensionName", key)
}

async fn ask(
    connection: &Connection,
    key: &str,
    what: &str,
    request: ClientRequest,
) -> Result<Value, ErrorDetail> {
    let answer = connection.request(request, RequestOptions::within(TIMEOUT)).await;
    answer.map_err(|failure| error_of(key, what, failure))
}

/// Whether single resources can be followed.
pub(crate) fn require_subscriptions(connection: &Connection, key: &str) -> Result<(), ErrorDetail> {
    let resources = connection.info.capabilities.resources.as_ref();
    if resources.is_some_and(|resources| resources.subscribe == Some(true)) {
        Ok(())
    } else {
        Err(missing(key, "subscriptions to resources"))
    }
}

pub(crate) async fn subscribe(connection: &Connection, key: &str, uri: &str) -> Result<(), ErrorDetail> {
    require_subscriptions(connection, key)?;
    let request = SubscribeRequest::new(SubscribeRequestParams::new(uri));
    ask(connection, key, &format!("subscription to {uri}"), request.into()).await.map(drop)
}

pub(crate) async fn unsubscribe(connection: &Connection, key: &str, uri: &str) -> Result<(), ErrorDetail> {
    require_subscriptions(connection, key)?;
    let request = UnsubscribeRequest::new(UnsubscribeRequestParams::new(uri));
    ask(connection, key, &format!("end of the subscription to {uri}"), request.into()).await.map(drop)
}

pub(crate) async fn set_log_level(
    connection: &Connection,
    key: &str,
    level: &str,
) -> Result<(), ErrorDetail> {
    let level: LoggingLevel = serde_json::from_value(Value::String(level.to_owned())).map_err(|_| {
        ErrorDetail::invalid(
            "level",
            "must be one of debug, info, notice, warning, error, critical, alert, emergency",
        )
    })?;
    if connection.info.capabilities.logging.is_none() || connection.is_modern() {
        return Err(missing(key, "choice of the log level"));
    }
    let request = SetLevelRequest::new(SetLevelRequestParams::new(level));
    ask(connection, key, "logging/setLevel", request.into()).await.map(drop)
}

pub(crate) async fn complete(
    connection: &Connection,
    key: &str,
    target: &CompletionTarget,
    argument: &str,
    value: &str,
    context: &BTreeMap<String, String>,
) -> Result<CompletionResult, ErrorDetail> {
    if connection.info.capabilities.completions.is_none() {
        return Err(missing(key, "completion of arguments"));
    }
    let reference = match target {
        CompletionTarget::Prompt(name) => Reference::for_prompt(name.clone()),
        CompletionTarget::ResourceTemplate(uri) => Reference::for_resource(uri.clone()),
    };
    let argument = ArgumentInfo::new(argument, value);
    let mut params = CompleteRequestParams::new(reference, argument);
    if !context.is_empty() {
        let known: HashMap<String, String> = context.clone().into_iter().collect();
        params = params.with_context(CompletionContext::with_arguments(known));
    }
    let result = ask(connection, key, "completion/complete", CompleteRequest::new(params).into()).await?;
    let Some(completion) = result.get("completion") else {
        return Err(ErrorDetail::new(
            ErrorReason::ExtensionUnavailable,
            format!("extension {key}: the answer to completion/complete has no completion"),
        ));
    };
    let values = completion.get("values").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    Ok(CompletionResult {
        values: values.iter().filter_map(Value::as_str).take(MAX_VALUES).map(str::to_owned).collect(),
        total: completion.get("total").and_then(Value::as_u64),
        has_more: completion.get("hasMore").and_then(Value::as_bool).unwrap_or(false)
            || values.len() > MAX_VALUES,
    })
}
