//! A cursor over the fields of a JSON object: takes known ones by type, leaves the unknown ones.
//!
//! Null counts as absent everywhere, as Goose writes absent options as null.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::FormatError;

/// The fields not yet taken.
pub(super) struct Fields(pub(super) Map<String, Value>);

impl Fields {
    pub(super) fn take(&mut self, field: &str) -> Option<Value> {
        self.0.remove(field).filter(|value| !value.is_null())
    }

    pub(super) fn text(&mut self, field: &str) -> Result<Option<String>, FormatError> {
        match self.take(field) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(FormatError::wrong_type(field, &other, "a string", "put it in quotes")),
        }
    }

    /// A string that must be there. `near` is a wrong spelling that people use for it.
    pub(super) fn required_text(
        &mut self,
        field: &str,
        near: Option<&str>,
        meaning: &str,
    ) -> Result<String, FormatError> {
        if let Some(text) = self.text(field)? {
            return Ok(text);
        }
        Err(FormatError::extension(
            field,
            match near.filter(|near| self.0.contains_key(*near)) {
                Some(near) => format!("missing, found `{near}`; use `{field}`: {meaning}"),
                None => format!("missing; add `{field}`: {meaning}"),
            },
        ))
    }

    pub(super) fn flag(&mut self, field: &str) -> Result<bool, FormatError> {
        match self.take(field) {
            None => Ok(false),
            Some(Value::Bool(flag)) => Ok(flag),
            Some(other) => {
                Err(FormatError::wrong_type(field, &other, "true or false", "write it without quotes"))
            }
        }
    }

    /// A whole number; `300.0` counts, as some JSON writers know floats only.
    pub(super) fn whole(&mut self, field: &str, unit: &str) -> Result<Option<u64>, FormatError> {
        let Some(value) = self.take(field) else { return Ok(None) };
        let whole = value.as_u64().or_else(|| value.as_f64().and_then(whole_float));
        if whole.is_none() {
            let expected = format!("a whole number of {unit}, 0 or more");
            return Err(FormatError::wrong_type(
                field,
                &value,
                &expected,
                "write digits only, without quotes, sign or unit",
            ));
        }
        Ok(whole)
    }

    pub(super) fn list(&mut self, field: &str) -> Result<Option<Vec<Value>>, FormatError> {
        match self.take(field) {
            None => Ok(None),
            Some(Value::Array(list)) => Ok(Some(list)),
            Some(other) => Err(FormatError::wrong_type(field, &other, "a list", "write `[first, second]`")),
        }
    }

    pub(super) fn texts(&mut self, field: &str) -> Result<Vec<String>, FormatError> {
        let list = match self.take(field) {
            None => return Ok(Vec::new()),
            Some(Value::Array(list)) => list,
            Some(other) => {
                let remedy = "write one list item per word, `[first, second]`";
                return Err(FormatError::wrong_type(field, &other, "a list of strings", remedy));
            }
        };
        let item = |(index, value)| match value {
            Value::String(text) => Ok(text),
            other => {
                let path = format!("{field}[{index}]");
                Err(FormatError::wrong_type(path, &other, "a string", "put it in quotes"))
            }
        };
        list.into_iter().enumerate().map(item).collect()
    }

    pub(super) fn map(&mut self, field: &str) -> Result<Option<Map<String, Value>>, FormatError> {
        match self.take(field) {
            None => Ok(None),
            Some(Value::Object(map)) => Ok(Some(map)),
            Some(other) => Err(FormatError::wrong_type(field, &other, "a map", "write `{NAME: value}`")),
        }
    }

    pub(super) fn text_map(&mut self, field: &str) -> Result<BTreeMap<String, String>, FormatError> {
        let Some(map) = self.map(field)? else { return Ok(BTreeMap::new()) };
        let pair = |(key, value)| match value {
            Value::String(text) => Ok((key, text)),
            other => {
                let path = format!("{field}.{key}");
                Err(FormatError::wrong_type(path, &other, "a string", "put the value in quotes"))
            }
        };
        map.into_iter().map(pair).collect()
    }
}

fn whole_float(number: f64) -> Option<u64> {
    // Above 2^53 a float no longer names one whole number.
    const LIMIT: f64 = 9_007_199_254_740_992.0;
    let fits = number.fract() == 0.0 && (0.0..=LIMIT).contains(&number);
    fits.then_some(number as u64)
}
