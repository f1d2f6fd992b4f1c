use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use axum::{
    body::Body,
    http::{Method, Request},
};
use serde_json::{Map, Value};

use super::{operations, schemas};
use crate::testing::{Daemon, SECRET};

/// Where this document deliberately says something else than Goose 1.24's, and why.
const DEVIATIONS: &[(&str, &str)] = &[
    ("POST /recipes/save", "204 is documented, 200 with the id is sent, and clients read the id"),
    ("POST /config/custom-providers", "a text is documented that nobody reads; later clients read the name"),
    ("POST /agent/add_extension", "a text is documented, nothing is sent"),
    ("POST /agent/remove_extension", "a text is documented, nothing is sent"),
    ("POST /agent/stop", "a text is documented, nothing is sent"),
    ("POST /config/check_provider", "no success is documented, 200 is sent"),
    ("POST /config/set_provider", "no success is documented, 200 is sent"),
    ("POST /config/providers/{name}/oauth", "an empty success is documented, a text is sent"),
    ("POST /schedule/{id}/kill", "an empty success is documented, a message is sent"),
    ("GET /mcp-ui-proxy", "an empty success is documented, a page is sent"),
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}

/// Run with `GANDER_OPENAPI_WRITE=1` to write the document instead.
#[test]
#[allow(clippy::disallowed_methods, reason = "a switch for the person who changes the document")]
fn the_committed_document_is_current() {
    let text = serde_json::to_string_pretty(&sorted(super::document())).unwrap() + "\n";
    if std::env::var_os("GANDER_OPENAPI_WRITE").is_some() {
        fs::write(root().join("openapi.json"), &text).unwrap();
        return;
    }
    let told = "crates/gander-goose/openapi.json is old: run the tests with GANDER_OPENAPI_WRITE=1";
    assert!(fs::read_to_string(root().join("openapi.json")).unwrap() == text, "{told}");
}

/// The order of keys must not depend on how JSON maps are built.
fn sorted(value: Value) -> Value {
    match value {
        Value::Object(map) => {
            let sorted_map: BTreeMap<String, Value> = map.into_iter().map(|(k, v)| (k, sorted(v))).collect();
            Value::Object(Map::from_iter(sorted_map))
        }
        Value::Array(list) => list.into_iter().map(sorted).collect(),
        other => other,
    }
}

#[test]
fn every_reference_has_a_schema_and_every_schema_a_reference() {
    let document = super::document().to_string();
    let named: BTreeSet<String> = document
        .split("\"#/components/schemas/")
        .skip(1)
        .filter_map(|rest| rest.split('"').next().map(str::to_owned))
        .collect();
    // What the document says of all failures is used by name as well.
    let defined: BTreeSet<String> = schemas::all().keys().cloned().collect();
    assert_eq!(named, defined);
}

#[test]
fn operations_are_told_once_and_have_ids_of_their_own() {
    let document = super::document();
    let paths = document["paths"].as_object().unwrap();
    let count: usize = paths.values().map(|path| path.as_object().unwrap().len()).sum();
    assert_eq!(count, operations::all().len());
    let ids = paths.values().flat_map(|path| path.as_object().unwrap().values());
    let ids: BTreeSet<&str> = ids.map(|operation| operation["operationId"].as_str().unwrap()).collect();
    assert_eq!(ids.len(), count);
}

/// Whether the router knows an operation: everything but its fallback and a wrong method.
#[tokio::test]
async fn every_operation_is_routed() {
    for operation in operations::all() {
        let path = operation.path.replace(['{', '}'], "");
        let method: Method = operation.method.to_uppercase().parse().unwrap();
        let request = Request::builder()
            .method(method)
            .uri(&path)
            .header("x-secret-key", SECRET)
            .header("content-type", "application/json")
            .body(Body::from("{"))
            .unwrap();
        let reply = Daemon::new().send(request).await;
        let unknown = reply.status == 405 || (reply.status == 404 && reply.body.is_empty());
        assert!(!unknown, "{} {path} is documented, and answers {}", operation.method, reply.status);
    }
}

/// Every path that the sources route is in the document.
#[test]
fn every_route_is_documented() {
    let documented: BTreeSet<&str> = operations::all().iter().map(|operation| operation.path).collect();
    let mut sources = vec![root().join("src/openapi/mod.rs")];
    let mut folders = vec![root().join("src/routes")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                sources.push(path);
            }
        }
    }
    let mut routed = 0;
    for source in sources {
        let text = fs::read_to_string(&source).unwrap();
        for (_, rest) in text.match_indices(".route(").map(|(at, found)| text.split_at(at + found.len())) {
            let path = rest.split('"').nth(1).unwrap();
            assert!(documented.contains(path), "{path} of {} is not documented", source.display());
            routed += 1;
        }
    }
    assert!(routed > 60, "{routed} routes were found");
}

#[tokio::test]
async fn the_document_is_served_to_those_who_know_the_secret() {
    let served = Daemon::new().get("/openapi.json").await.ok();
    assert!(served == super::document(), "the committed document is old");
    let request = Request::get("/openapi.json").body(Body::empty()).unwrap();
    assert_eq!(Daemon::new().send(request).await.status, 401);
}

/// Each operation that Goose's clients use exists here with the success that Goose documents for it.
#[test]
fn every_operation_of_goose_1_24_is_honoured() {
    let stock: BTreeMap<String, Value> = serde_json::from_str(include_str!("stock-1.24.json")).unwrap();
    let document = super::document();
    let mut found = Vec::new();
    for (name, expected) in &stock {
        let (method, path) = name.split_once(' ').unwrap();
        let operation = &document["paths"][path][method.to_lowercase()];
        if operation.is_null() {
            found.push(format!("{name} is missing"));
            continue;
        }
        let deviates = DEVIATIONS.iter().any(|(deviation, _)| deviation == name);
        let mut wrong = Vec::new();
        success(&document, operation, expected, &mut wrong);
        if deviates && wrong.is_empty() {
            wrong.push("is listed as a deviation and is none".to_owned());
        } else if deviates {
            wrong.clear();
        }
        request(&document, operation, expected, &mut wrong);
        found.extend(wrong.into_iter().map(|wrong| format!("{name}: {wrong}")));
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
    for (name, why) in DEVIATIONS {
        assert!(stock.contains_key(*name) && !why.is_empty(), "{name}");
    }
}

fn success(document: &Value, operation: &Value, expected: &Value, wrong: &mut Vec<String>) {
    let Some(status) = expected["status"].as_u64() else {
        wrong.push("documents no success".to_owned());
        return;
    };
    let response = &operation["responses"][status.to_string()];
    if response.is_null() {
        wrong.push(format!("has no {status}"));
        return;
    }
    let ours = response["content"].as_object().and_then(|content| content.iter().next());
    match (expected["content"].as_str(), ours) {
        (None, None) => {}
        // What Goose documents as text is sent as a JSON string.
        (Some("text/plain"), Some((kind, content))) if kind == "application/json" => {
            covers(document, &content["schema"], &expected["shape"], "", wrong);
        }
        (Some(theirs), Some((kind, content))) if theirs == kind => {
            let event = content["schema"].pointer("/properties/data/contentSchema");
            covers(document, event.unwrap_or(&content["schema"]), &expected["shape"], "", wrong);
        }
        (theirs, ours) => wrong.push(format!("answers with {:?} instead of {theirs:?}", ours.map(|o| o.0))),
    }
}

/// We must not demand what Goose does not demand.
fn request(document: &Value, operation: &Value, expected: &Value, wrong: &mut Vec<String>) {
    let names = |value: &Value| -> BTreeSet<String> {
        value.as_array().into_iter().flatten().map(|name| name.as_str().unwrap().to_owned()).collect()
    };
    let schema = resolve(document, &operation["requestBody"]["content"]["application/json"]["schema"]);
    let more: Vec<_> = names(&schema["required"]).difference(&names(&expected["body"])).cloned().collect();
    if !more.is_empty() {
        wrong.push(format!("demands {more:?} in its body"));
    }
    let query = operation["parameters"].as_array().into_iter().flatten();
    for parameter in query.filter(|parameter| parameter["in"] == "query" && parameter["required"] == true) {
        let name = parameter["name"].as_str().unwrap();
        if !names(&expected["query"]).contains(name) {
            wrong.push(format!("demands {name} in its query"));
        }
    }
}

fn resolve<'a>(document: &'a Value, schema: &'a Value) -> &'a Value {
    match schema["$ref"].as_str() {
        Some(reference) => document.pointer(reference.trim_start_matches('#')).unwrap(),
        None => schema,
    }
}

/// Whether everything that our schema allows is what the other side expects.
fn covers(document: &Value, ours: &Value, shape: &Value, at: &str, wrong: &mut Vec<String>) {
    let ours = resolve(document, ours);
    if shape.as_object().is_none_or(Map::is_empty) {
        return;
    }
    if let Some(parts) = ours["allOf"].as_array() {
        // Of an entry made of parts one part must do for each thing that is expected.
        let best = parts.iter().map(|part| {
            let mut missing = Vec::new();
            covers(document, part, shape, at, &mut missing);
            missing
        });
        wrong.extend(best.min_by_key(Vec::len).unwrap_or_default());
        return;
    }
    if let Some(variants) = shape["one_of"].as_array() {
        for (index, variant) in variants.iter().enumerate() {
            variant_covers(document, ours, variant, &format!("{at}|{index}"), wrong);
        }
        return;
    }
    if let Some(variants) = ours["oneOf"].as_array() {
        for variant in variants {
            covers(document, variant, shape, at, wrong);
        }
        return;
    }
    let (ours, null) = not_null(document, ours);
    if null && shape["nullable"] != true {
        wrong.push(format!("{at} may be null"));
    }
    if let Some(words) = shape["enum"].as_array() {
        let sent = ours["enum"].as_array().cloned().unwrap_or_else(|| vec![ours["const"].clone()]);
        let strange: Vec<_> = sent.iter().filter(|word| !words.contains(word)).collect();
        if !strange.is_empty() {
            wrong.push(format!("{at} may be {strange:?}"));
        }
        return;
    }
    let kind = shape["type"].as_str().unwrap_or_default();
    let sent = ours["type"].as_str().or_else(|| ours["type"][0].as_str()).unwrap_or("anything");
    if sent != kind && !(kind == "number" && sent == "integer") {
        wrong.push(format!("{at} is {sent}, not {kind}"));
        return;
    }
    if kind == "array" {
        covers(document, &ours["items"], &shape["items"], &format!("{at}[]"), wrong);
    }
    let required: Vec<&str> =
        ours["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    for (field, shape) in shape["required"].as_object().into_iter().flatten() {
        let at = format!("{at}.{field}");
        if required.contains(&field.as_str()) {
            covers(document, &ours["properties"][field], shape, &at, wrong);
        } else {
            wrong.push(format!("{at} may be missing"));
        }
    }
}

/// The schema without its null, and whether it had one.
fn not_null<'a>(document: &'a Value, schema: &'a Value) -> (&'a Value, bool) {
    if let Some(variants) = schema["anyOf"].as_array() {
        let null = variants.iter().any(|variant| variant["type"] == "null");
        let other = variants.iter().find(|variant| variant["type"] != "null").unwrap();
        return (resolve(document, other), null);
    }
    let null = schema["type"].as_array().is_some_and(|kinds| kinds.iter().any(|kind| kind == "null"));
    (schema, null)
}

/// A variant is found by the word in its `type`; those without one are told apart by nothing and are left alone.
fn variant_covers(document: &Value, ours: &Value, shape: &Value, at: &str, wrong: &mut Vec<String>) {
    let Some(word) = shape["required"]["type"]["enum"][0].as_str() else { return };
    let variants = ours["oneOf"].as_array().into_iter().flatten().map(|variant| resolve(document, variant));
    let mut named = variants.filter(|variant| variant["properties"]["type"]["const"] == word);
    let Some(variant) = named.next() else {
        wrong.push(format!("{at} {word} is not there"));
        return;
    };
    let mut missing = Vec::new();
    covers(document, variant, shape, &format!("{at}({word})"), &mut missing);
    // On the way in nulls and gaps are tolerated where Goose's own documents have them; on the way out they are filled.
    let tolerated = [".description may be", ".args may be"];
    wrong.extend(missing.into_iter().filter(|found| !tolerated.iter().any(|text| found.contains(text))));
}
