//! Holds answers of the surface against the document. The harness calls this for every answer that a test gets.

use std::{collections::HashMap, sync::LazyLock};

use axum::http::{StatusCode, header};
use serde_json::{Value, json};

use super::{operation::Operation, operation::Success, operations, schemas};
use crate::testing::Reply;

static OPERATIONS: LazyLock<Vec<Operation>> = LazyLock::new(operations::all);
static SCHEMAS: LazyLock<Value> = LazyLock::new(|| Value::Object(schemas::all()));

/// The operation of a request. Literal paths win over patterns, as in the router.
pub(crate) fn operation(method: &str, path: &str) -> Option<&'static Operation> {
    let mut found: Vec<&Operation> = OPERATIONS.iter().filter(|o| o.matches(method, path)).collect();
    found.sort_by_key(|operation| operation.parameters().count());
    found.first().copied()
}

/// Panics when an answer is not what the document says.
#[track_caller]
pub(crate) fn check(method: &str, path: &str, reply: &Reply) {
    let Some(operation) = operation(method, path) else {
        let known = matches!(reply.status.as_u16(), 401 | 404 | 405) || method == "OPTIONS";
        assert!(known, "{method} {path} answers {} and is in no document", reply.status);
        return;
    };
    if !reply.status.is_success() {
        failure(method, path, reply);
        return;
    }
    assert_eq!(reply.status.as_u16(), operation.status, "{method} {path}");
    let kind = reply.headers.get(header::CONTENT_TYPE).map(|kind| kind.to_str().unwrap()).unwrap_or_default();
    match &operation.success {
        Success::Empty => assert!(reply.body.is_empty(), "{method} {path}: {}", reply.text()),
        Success::Other(expected) => assert!(kind.starts_with(expected), "{method} {path}: {kind}"),
        Success::Json(schema) => {
            assert_eq!(kind, "application/json", "{method} {path}");
            matches(method, path, schema, &serde_json::from_slice(&reply.body).unwrap());
        }
        Success::Events(schema) => {
            assert_eq!(kind, "text/event-stream", "{method} {path}");
            for line in reply.text().lines() {
                if let Some(data) = line.strip_prefix("data:") {
                    matches(method, path, schema, &serde_json::from_str(data).unwrap());
                }
            }
        }
    }
}

/// A failure is empty, a text or a message; the message never is empty.
#[track_caller]
fn failure(method: &str, path: &str, reply: &Reply) {
    if reply.status == StatusCode::UNAUTHORIZED || reply.body.is_empty() {
        return;
    }
    if let Ok(Value::Object(body)) = serde_json::from_slice(&reply.body) {
        let message = body.get("message").and_then(Value::as_str);
        assert!(message.is_some_and(|message| !message.is_empty()), "{method} {path}: {}", reply.text());
    }
}

#[track_caller]
fn matches(method: &str, path: &str, schema: &Value, body: &Value) {
    static VALIDATORS: LazyLock<std::sync::Mutex<HashMap<String, std::sync::Arc<jsonschema::Validator>>>> =
        LazyLock::new(Default::default);
    let validator = VALIDATORS
        .lock()
        .unwrap()
        .entry(schema.to_string())
        .or_insert_with(|| {
            let root = json!({ "allOf": [schema], "components": { "schemas": &*SCHEMAS } });
            std::sync::Arc::new(jsonschema::validator_for(&root).unwrap())
        })
        .clone();
    let errors: Vec<String> =
        validator.iter_errors(body).map(|error| format!("{}: {error}", error.instance_path())).collect();
    assert!(errors.is_empty(), "{method} {path}: {}\n{body:#}", errors.join("\n"));
}
