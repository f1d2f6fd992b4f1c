//! How much work a schema may cause. Schemas come from servers: a short one can branch and refer to itself so that a
//! check takes years, or nest so deeply that compiling it takes more stack than a thread has. Pure.

use std::collections::HashMap;

use serde_json::{Map, Value};

/// Deepest nesting of a schema, references followed.
const MAX_LEVEL: usize = 192;
/// Most evaluations of subschemas that one check may take.
const MAX_WORK: u64 = 10_000_000;
/// Remembered costs; more would take longer than the check.
const MAX_REMEMBERED: usize = 500_000;

/// Subschemas that look at the same value as the schema that they are in: each multiplies the work.
const IN_PLACE_LISTS: [&str; 3] = ["allOf", "anyOf", "oneOf"];
const IN_PLACE: [&str; 4] = ["not", "if", "then", "else"];
/// Subschemas that look at the value's members.
const MEMBERS: [&str; 8] = [
    "additionalItems",
    "additionalProperties",
    "contains",
    "items",
    "propertyNames",
    "unevaluatedItems",
    "unevaluatedProperties",
    "patternProperties",
];

/// Whether the schema can be compiled on a usual stack.
pub(super) fn is_flat_enough(schema: &Value) -> bool {
    Depths { root: schema, known: HashMap::new() }.of(schema, 0).is_some()
}

struct Depths<'a> {
    root: &'a Value,
    /// Nesting below a value; absent while it is being looked at, so that circles end.
    known: HashMap<*const Value, Option<usize>>,
}

impl<'a> Depths<'a> {
    /// The nesting below `value`; `None` when it goes too deep.
    fn of(&mut self, value: &'a Value, level: usize) -> Option<usize> {
        if level > MAX_LEVEL {
            return None;
        }
        match self.known.get(&std::ptr::from_ref(value)) {
            Some(Some(below)) => return (level + below <= MAX_LEVEL).then_some(*below),
            Some(None) => return Some(0),
            None => {}
        }
        let children: Vec<&Value> = match value {
            Value::Object(fields) => {
                let target = fields.get("$ref").and_then(Value::as_str).and_then(|at| resolve(self.root, at));
                fields.values().chain(target).collect()
            }
            Value::Array(items) => items.iter().collect(),
            _ => return Some(0),
        };
        self.known.insert(std::ptr::from_ref(value), None);
        let mut below = 0;
        for child in children {
            below = below.max(1 + self.of(child, level + 1)?);
        }
        self.known.insert(std::ptr::from_ref(value), Some(below));
        Some(below)
    }
}

/// Whether checking `instance` against `schema` ends soon.
pub(super) fn is_affordable(schema: &Value, instance: &Value) -> bool {
    let (nodes, depth) = size(instance);
    let mut work = Work { root: schema, known: HashMap::new() };
    work.of(schema, depth, 0).saturating_mul(nodes) <= MAX_WORK
}

/// Values in `instance`, and how deep they nest.
fn size(instance: &Value) -> (u64, usize) {
    let members: Vec<&Value> = match instance {
        Value::Object(fields) => fields.values().collect(),
        Value::Array(items) => items.iter().collect(),
        _ => return (1, 0),
    };
    members
        .into_iter()
        .map(size)
        .fold((1, 1), |(nodes, depth), (more, below)| (nodes + more, depth.max(1 + below)))
}

struct Work<'a> {
    root: &'a Value,
    /// By subschema and nesting of the value; absent while it is being looked at.
    known: HashMap<(*const Value, usize), Option<u64>>,
}

impl<'a> Work<'a> {
    /// At most so many evaluations for one path through a value of this nesting.
    fn of(&mut self, schema: &'a Value, depth: usize, level: usize) -> u64 {
        let Value::Object(fields) = schema else { return 1 };
        let place = (std::ptr::from_ref(schema), depth);
        match self.known.get(&place) {
            Some(Some(work)) => return *work,
            // In a circle without going into the value: for ever.
            Some(None) => return u64::MAX,
            None if level > 2 * MAX_LEVEL || self.known.len() >= MAX_REMEMBERED => return u64::MAX,
            None => {}
        }
        self.known.insert(place, None);
        let mut work = self.in_place(fields, depth, level + 1).saturating_add(1);
        if depth > 0 {
            work = work.saturating_add(self.members(fields, depth - 1, level + 1));
        }
        self.known.insert(place, Some(work));
        work
    }

    fn in_place(&mut self, fields: &'a Map<String, Value>, depth: usize, level: usize) -> u64 {
        let lists = IN_PLACE_LISTS.iter().filter_map(|name| fields.get(*name)?.as_array()).flatten();
        let single = IN_PLACE.iter().filter_map(|name| fields.get(*name));
        let dependent = fields.get("dependentSchemas").and_then(Value::as_object);
        let dependent = dependent.into_iter().flat_map(Map::values);
        let subschemas: Vec<&Value> = lists.chain(single).chain(dependent).collect();
        let mut work = 0_u64;
        for subschema in subschemas {
            work = work.saturating_add(self.of(subschema, depth, level));
        }
        match fields.get("$ref") {
            None if fields.contains_key("$dynamicRef") || fields.contains_key("$recursiveRef") => u64::MAX,
            None => work,
            // References by name are not followed here, so nothing is known of what they cost.
            Some(at) => match at.as_str().and_then(|at| resolve(self.root, at)) {
                Some(target) => work.saturating_add(self.of(target, depth, level)),
                None => u64::MAX,
            },
        }
    }

    /// A member is looked at by the one subschema that bears its name, and by all general ones.
    fn members(&mut self, fields: &'a Map<String, Value>, depth: usize, level: usize) -> u64 {
        let mut named = 0_u64;
        if let Some(properties) = fields.get("properties").and_then(Value::as_object) {
            for subschema in properties.values() {
                named = named.max(self.of(subschema, depth, level));
            }
        }
        for name in ["prefixItems", "items"] {
            for subschema in fields.get(name).and_then(Value::as_array).into_iter().flatten() {
                named = named.max(self.of(subschema, depth, level));
            }
        }
        let mut work = named;
        for name in MEMBERS {
            let Some(subschema) = fields.get(name) else { continue };
            match subschema {
                Value::Object(patterns) if name == "patternProperties" => {
                    for subschema in patterns.values() {
                        work = work.saturating_add(self.of(subschema, depth, level));
                    }
                }
                subschema => work = work.saturating_add(self.of(subschema, depth, level)),
            }
        }
        work
    }
}

/// `#` and `#/a/b`; nothing else.
fn resolve<'a>(root: &'a Value, reference: &str) -> Option<&'a Value> {
    root.pointer(reference.strip_prefix('#')?)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Each level refers to the next one twice, in place.
    fn doubling(levels: usize) -> Value {
        let mut defs = Map::new();
        for level in 0..levels {
            let next = json!({"$ref": format!("#/$defs/d{}", level + 1)});
            defs.insert(format!("d{level}"), json!({"anyOf": [next, next]}));
        }
        defs.insert(format!("d{levels}"), json!({"type": "string"}));
        json!({"$ref": "#/$defs/d0", "$defs": defs})
    }

    /// A chain of references.
    pub(crate) fn chain(levels: usize) -> Value {
        let mut defs = Map::new();
        for level in 0..levels {
            defs.insert(format!("d{level}"), json!({"$ref": format!("#/$defs/d{}", level + 1)}));
        }
        defs.insert(format!("d{levels}"), json!({"type": "object"}));
        json!({"$ref": "#/$defs/d0", "$defs": defs})
    }

    fn nested(levels: usize) -> Value {
        (0..levels).fold(json!(1), |inner, _| json!({"a": inner}))
    }

    #[test]
    fn usual_schemas_are_affordable() {
        let tree = json!({"type": "object", "properties": {
            "left": {"$ref": "#"}, "right": {"$ref": "#"}, "label": {"type": "string"}}});
        let any = json!({"$ref": "#/$defs/any", "$defs": {"any": {"anyOf": [
            {"type": "string"}, {"type": "number"}, {"type": "array", "items": {"$ref": "#/$defs/any"}},
            {"type": "object", "additionalProperties": {"$ref": "#/$defs/any"}}]}}});
        let wide = json!({"properties": (0..500).map(|n| (format!("p{n}"), json!({"type": "string"}))).collect::<Map<_, _>>()});
        for schema in [&tree, &any, &wide, &json!(true), &doubling(10)] {
            assert!(is_flat_enough(schema) && is_affordable(schema, &nested(8)), "{schema}");
        }
        let long = Value::Array((0..100_000).map(|n| json!(n)).collect());
        assert!(is_affordable(&any, &long));
        assert!(is_affordable(&tree, &nested(100)), "every value is looked at once");
    }

    #[test]
    fn schemas_that_branch_or_circle_without_end_are_not() {
        let circle = json!({"$ref": "#"});
        let round = json!({"allOf": [{"$ref": "#/$defs/a"}], "$defs": {"a": {"not": {"$ref": "#"}}}});
        let named = json!({"$ref": "#anchor", "$defs": {"a": {"$anchor": "anchor"}}});
        let deeper = json!({"anyOf": [{"additionalProperties": {"$ref": "#"}}, {"additionalProperties": {"$ref": "#"}}]});
        for schema in [&circle, &round, &named, &doubling(60)] {
            assert!(!is_affordable(schema, &json!({})), "{schema}");
        }
        assert!(is_affordable(&deeper, &nested(5)) && !is_affordable(&deeper, &nested(60)));
    }

    #[test]
    fn nesting_is_bounded_with_references_followed() {
        assert!(is_flat_enough(&chain(80)));
        assert!(!is_flat_enough(&chain(5000)));
        assert!(!is_flat_enough(&nested(300)));
        assert!(is_flat_enough(&json!({"properties": {"a": {"$ref": "#"}}})));
    }
}
