//! One operation of the surface, and how the document shows it.

use serde_json::{Map, Value, json};

use super::schema::reference;

/// What a success carries.
#[derive(Clone, Debug)]
pub(crate) enum Success {
    /// Nothing, with `Content-Length: 0`.
    Empty,
    /// JSON of this schema.
    Json(Value),
    /// Text or bytes of this type.
    Other(&'static str),
    /// Server-sent events whose data are JSON of this schema.
    Events(Value),
}

/// One operation.
#[derive(Clone, Debug)]
pub(crate) struct Operation {
    pub(crate) method: &'static str,
    pub(crate) path: &'static str,
    summary: &'static str,
    query: Vec<(&'static str, bool, Value)>,
    body: Option<Value>,
    pub(crate) status: u16,
    pub(crate) success: Success,
    errors: Vec<(u16, &'static str)>,
    open: bool,
}

pub(super) fn get(path: &'static str, summary: &'static str) -> Operation {
    Operation::new("get", path, summary)
}

pub(super) fn post(path: &'static str, summary: &'static str) -> Operation {
    Operation::new("post", path, summary)
}

pub(super) fn put(path: &'static str, summary: &'static str) -> Operation {
    Operation::new("put", path, summary)
}

pub(super) fn delete(path: &'static str, summary: &'static str) -> Operation {
    Operation::new("delete", path, summary)
}

impl Operation {
    fn new(method: &'static str, path: &'static str, summary: &'static str) -> Self {
        Self {
            method,
            path,
            summary,
            query: Vec::new(),
            body: None,
            status: 200,
            success: Success::Empty,
            errors: Vec::new(),
            open: false,
        }
    }

    /// Takes a JSON body.
    pub(super) fn takes(self, body: Value) -> Self {
        Self { body: Some(body), ..self }
    }

    /// Takes a parameter in its query.
    pub(super) fn with(mut self, name: &'static str, required: bool, schema: Value) -> Self {
        self.query.push((name, required, schema));
        self
    }

    /// Answers 200 with JSON.
    pub(super) fn gives(self, schema: Value) -> Self {
        Self { success: Success::Json(schema), ..self }
    }

    /// Answers 200 with something of this type.
    pub(super) fn gives_other(self, content_type: &'static str) -> Self {
        Self { success: Success::Other(content_type), ..self }
    }

    /// Answers 200 with events.
    pub(super) fn streams(self, schema: Value) -> Self {
        Self { success: Success::Events(schema), ..self }
    }

    /// Answers with another success.
    pub(super) fn with_status(self, status: u16) -> Self {
        Self { status, ..self }
    }

    /// May fail in this way, besides those that all operations have.
    pub(super) fn fails(mut self, status: u16, why: &'static str) -> Self {
        self.errors.push((status, why));
        self
    }

    /// Needs no secret in its header.
    pub(super) fn open(self) -> Self {
        Self { open: true, ..self }
    }

    /// Names of the parameters in the path.
    pub(crate) fn parameters(&self) -> impl Iterator<Item = &'static str> {
        self.path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'))
    }

    /// Whether this path is one of the operation's.
    #[cfg(test)]
    pub(crate) fn matches(&self, method: &str, path: &str) -> bool {
        let mut ours = self.path.split('/');
        let mut theirs = path.split('?').next().unwrap_or_default().split('/');
        let same = loop {
            match (ours.next(), theirs.next()) {
                (None, None) => break true,
                (Some(ours), Some(theirs)) if ours == theirs || ours.starts_with('{') => {}
                _ => break false,
            }
        };
        same && self.method.eq_ignore_ascii_case(method)
    }

    /// The operation as the document has it.
    pub(super) fn document(&self) -> Value {
        let in_path = self.parameters().map(
            |name| json!({ "name": name, "in": "path", "required": true, "schema": { "type": "string" } }),
        );
        let in_query = self.query.iter().map(|(name, required, schema)| {
            json!({ "name": name, "in": "query", "required": required, "schema": schema })
        });
        let parameters: Vec<Value> = in_path.chain(in_query).collect();
        let mut document = json!({
            "summary": self.summary,
            "operationId": self.id(),
            "responses": self.responses(),
        });
        if !parameters.is_empty() {
            document["parameters"] = parameters.into();
        }
        if let Some(body) = &self.body {
            document["requestBody"] =
                json!({ "required": true, "content": { "application/json": { "schema": body } } });
        }
        if self.open {
            document["security"] = json!([]);
        }
        document
    }

    /// `get_sessions_session_id_export`.
    fn id(&self) -> String {
        let path = self.path.replace(['{', '}'], "").replace(['/', '-'], "_");
        format!("{}{path}", self.method)
    }

    fn responses(&self) -> Value {
        let mut responses = Map::new();
        let content = |kind: &str, schema: &Value| json!({ kind: { "schema": schema } });
        let success = match &self.success {
            Success::Empty => json!({ "description": "Done" }),
            Success::Json(schema) => {
                json!({ "description": "Done", "content": content("application/json", schema) })
            }
            Success::Other(kind) => {
                json!({ "description": "Done", "content": content(kind, &json!({ "type": "string" })) })
            }
            Success::Events(schema) => {
                let data = json!({ "type": "string", "contentMediaType": "application/json", "contentSchema": schema });
                let event = json!({ "type": "object", "properties": { "data": data } });
                json!({ "description": "Events, each one JSON in one data line",
                    "content": content("text/event-stream", &event) })
            }
        };
        responses.insert(self.status.to_string(), success);
        for (status, why) in &self.errors {
            responses.insert(status.to_string(), json!({ "description": why }));
        }
        if !self.open {
            let text = "The secret is missing or wrong; the body is empty";
            responses.insert("401".to_owned(), json!({ "description": text }));
        }
        let malformed = json!({ "description": "A malformed request; the reason as text or message" });
        if self.body.is_some() {
            for status in ["400", "413", "415", "422"] {
                responses.entry(status).or_insert_with(|| malformed.clone());
            }
        } else if !self.query.is_empty() || self.parameters().next().is_some() {
            responses.entry("400").or_insert_with(|| malformed.clone());
        }
        let failed = json!({ "description": "What the daemon could not do, and why", "content": {
            "application/json": { "schema": reference("ErrorResponse") },
            "text/plain": { "schema": { "type": "string" } },
        } });
        responses.insert("default".to_owned(), failed);
        Value::Object(responses)
    }
}
