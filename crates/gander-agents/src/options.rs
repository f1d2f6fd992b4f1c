//! The agent's settings: config options, and the older modes and models as options of the same shape.

use gander_domain::{
    ErrorDetail,
    session::{OptionChoice, SessionOption},
};
use serde_json::{Value, json};

/// How an option is set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SetRequest {
    pub(crate) method: &'static str,
    /// Without the session's id.
    pub(crate) params: Value,
}

/// What the agent offers now.
#[derive(Debug, Clone, Default)]
pub(crate) struct Options {
    config: Vec<SessionOption>,
    mode: Option<SessionOption>,
    model: Option<SessionOption>,
}

fn text(value: &Value, key: &str) -> Option<String> {
    value.get(key).and_then(Value::as_str).map(str::to_owned)
}

fn array<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value.get(key).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn choice(value: &Value, id_key: &str) -> Option<OptionChoice> {
    let id = text(value, id_key)?;
    Some(OptionChoice {
        name: text(value, "name").unwrap_or_else(|| id.clone()),
        description: text(value, "description").unwrap_or_default(),
        value: id,
    })
}

fn config_option(option: &Value) -> Option<SessionOption> {
    let option_id = text(option, "id")?;
    let boolean = option.get("type").and_then(Value::as_str) == Some("boolean");
    let mut choices = Vec::new();
    for entry in array(option, "options") {
        match entry.get("options") {
            // A group.
            Some(_) => choices.extend(array(entry, "options").iter().filter_map(|c| choice(c, "value"))),
            None => choices.extend(choice(entry, "value")),
        }
    }
    let value = match option.get("currentValue") {
        Some(Value::Bool(on)) => on.to_string(),
        Some(Value::String(value)) => value.clone(),
        _ => String::new(),
    };
    Some(SessionOption {
        name: text(option, "name").unwrap_or_else(|| option_id.clone()),
        description: text(option, "description").unwrap_or_default(),
        category: text(option, "category").unwrap_or_default(),
        kind: if boolean { "boolean" } else { "select" }.to_owned(),
        value,
        choices,
        option_id,
    })
}

fn legacy(name: &str, current: Option<String>, choices: Vec<OptionChoice>) -> Option<SessionOption> {
    Some(SessionOption {
        option_id: name.to_owned(),
        name: if name == "mode" { "Mode" } else { "Model" }.to_owned(),
        description: String::new(),
        category: name.to_owned(),
        kind: "select".to_owned(),
        value: current?,
        choices,
    })
}

impl Options {
    /// Takes what the answer to `session/new`, `load` or `resume` says.
    pub(crate) fn take_response(&mut self, response: &Value) {
        self.take_config(response.get("configOptions").unwrap_or(&Value::Null));
        if let Some(modes) = response.get("modes").filter(|modes| modes.is_object()) {
            let choices = array(modes, "availableModes").iter().filter_map(|m| choice(m, "id")).collect();
            self.mode = legacy("mode", text(modes, "currentModeId"), choices);
        }
        if let Some(models) = response.get("models").filter(|models| models.is_object()) {
            let choices =
                array(models, "availableModels").iter().filter_map(|m| choice(m, "modelId")).collect();
            self.model = legacy("model", text(models, "currentModelId"), choices);
        }
    }

    /// Takes a complete list of config options; anything else changes nothing.
    pub(crate) fn take_config(&mut self, options: &Value) {
        if let Some(options) = options.as_array() {
            self.config = options.iter().filter_map(config_option).collect();
        }
    }

    /// The agent is in another mode; `false`: it was already.
    pub(crate) fn take_mode(&mut self, mode: &str) -> bool {
        let config = self.config.iter_mut().filter(|option| option.category == "mode");
        let mut changed = false;
        for option in config.chain(&mut self.mode) {
            changed |= option.value != mode;
            mode.clone_into(&mut option.value);
        }
        changed
    }

    /// All settings. Modes and models of the older kind are left out where a config option says the same.
    pub(crate) fn list(&self) -> Vec<SessionOption> {
        let says = |option: &SessionOption, what: &str| option.category == what || option.option_id == what;
        let missing = |what: &str| !self.config.iter().any(|option| says(option, what));
        let mode = self.mode.iter().filter(|_| missing("mode"));
        let model = self.model.iter().filter(|_| missing("model"));
        self.config.iter().chain(mode).chain(model).cloned().collect()
    }

    /// How to set an option.
    ///
    /// # Errors
    /// `INVALID_FIELD` for an unknown option or value.
    pub(crate) fn set(&self, option_id: &str, value: &str) -> Result<SetRequest, ErrorDetail> {
        let all = self.list();
        let Some(option) = all.iter().find(|option| option.option_id == option_id) else {
            let known: Vec<&str> = all.iter().map(|option| option.option_id.as_str()).collect();
            return Err(ErrorDetail::invalid("option_id", format!("must be one of {}", known.join(", "))));
        };
        if option.kind == "boolean" {
            let on = value
                .parse::<bool>()
                .map_err(|_| ErrorDetail::invalid("value", format!("{value:?} must be true or false")))?;
            let params = json!({ "configId": option_id, "type": "boolean", "value": on });
            return Ok(SetRequest { method: "session/set_config_option", params });
        }
        if !option.choices.is_empty() && !option.choices.iter().any(|choice| choice.value == value) {
            let known: Vec<&str> = option.choices.iter().map(|choice| choice.value.as_str()).collect();
            let message = format!("{value:?} must be one of {}", known.join(", "));
            return Err(ErrorDetail::invalid("value.choice", message));
        }
        Ok(if self.config.iter().any(|option| option.option_id == option_id) {
            let params = json!({ "configId": option_id, "value": value });
            SetRequest { method: "session/set_config_option", params }
        } else if option_id == "mode" {
            SetRequest { method: "session/set_mode", params: json!({ "modeId": value }) }
        } else {
            SetRequest { method: "session/set_model", params: json!({ "modelId": value }) }
        })
    }

    /// Takes what setting an option did: the answer's complete list, or the value itself.
    pub(crate) fn take_set(&mut self, option_id: &str, value: &str, response: &Value) {
        match response.get("configOptions") {
            Some(options) if options.is_array() => self.take_config(options),
            _ => {
                let all = self.config.iter_mut().chain(&mut self.mode).chain(&mut self.model);
                for option in all.filter(|option| option.option_id == option_id) {
                    value.clone_into(&mut option.value);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
