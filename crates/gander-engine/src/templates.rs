//! Prompt templates: the built-in texts under Goose's names, and the user's in their place.
//!
//! Rendering is pure. A user's template that cannot be rendered never stops a turn: the built-in one is used, and who
//! asked is told.

use gander_config::PromptOverrides;
use gander_domain::{ErrorDetail, ErrorReason};
use minijinja::Environment;
use serde::Serialize;

use crate::{configuration::config_error, engine::Engine, services::Services};

/// Largest template that a user may set, in bytes.
const MAX_TEMPLATE: usize = 256 * 1024;

/// A template as it is and as the user has changed it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PromptTemplate {
    /// File name, e.g. `system.md`.
    pub name: String,
    /// What it is for, one line.
    pub description: String,
    /// The built-in text.
    pub default_content: String,
    /// The user's text, if there is one.
    pub user_content: Option<String>,
}

struct Builtin {
    name: &'static str,
    description: &'static str,
    text: &'static str,
}

pub(crate) const SYSTEM: &str = "system.md";
pub(crate) const TINY_SYSTEM: &str = "tiny_model_system.md";
pub(crate) const SUBAGENT: &str = "subagent_system.md";
pub(crate) const COMPACTION: &str = "compaction.md";
pub(crate) const JUDGE: &str = "permission_judge.md";
pub(crate) const TITLE: &str = "session_name.md";

/// All templates, by name.
const BUILTINS: &[Builtin] = &[
    Builtin {
        name: COMPACTION,
        description: "Summarizes a conversation that has become too long.",
        text: include_str!("prompts/compaction.md"),
    },
    Builtin {
        name: JUDGE,
        description: "Decides in mode smart_approve whether a call only reads.",
        text: include_str!("prompts/permission_judge.md"),
    },
    Builtin {
        name: "plan.md",
        description: "Turns a request into a plan.",
        text: include_str!("prompts/plan.md"),
    },
    Builtin {
        name: "recipe.md",
        description: "Drafts a recipe from a conversation.",
        text: include_str!("prompts/recipe.md"),
    },
    Builtin { name: TITLE, description: "Names a session.", text: include_str!("prompts/session_name.md") },
    Builtin {
        name: SUBAGENT,
        description: "System prompt of agents that work for another agent.",
        text: include_str!("prompts/subagent_system.md"),
    },
    Builtin {
        name: SYSTEM,
        description: "System prompt of sessions.",
        text: include_str!("prompts/system.md"),
    },
    Builtin {
        name: TINY_SYSTEM,
        description: "System prompt for models with a small context window.",
        text: include_str!("prompts/tiny_model_system.md"),
    },
];

fn builtin(name: &str) -> Option<&'static Builtin> {
    BUILTINS.iter().find(|b| b.name == name)
}

fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    // Prompts are text for models, whatever the name of the template ends in.
    environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    environment
}

/// What a rendering gave.
pub(crate) struct Rendered {
    pub text: String,
    /// Why the user's template was not used.
    pub problem: Option<String>,
}

/// Renders the user's text if there is one and it can be rendered, else the built-in one.
pub(crate) fn render(name: &str, user_content: Option<&str>, values: &impl Serialize) -> Rendered {
    let values = minijinja::Value::from(minijinja::value::Serde(values));
    let environment = environment();
    let mut problem = None;
    if let Some(text) = user_content {
        match environment.render_named_str(name, text, values.clone()) {
            Ok(text) => return Rendered { text: tidy(&text), problem: None },
            Err(error) => problem = Some(format!("template {name} cannot be used: {error}")),
        }
    }
    let text = builtin(name).map_or("", |b| b.text);
    let text = environment.render_named_str(name, text, values).unwrap_or_else(|error| {
        tracing::error!(%error, name, "a built-in template does not render");
        String::new()
    });
    Rendered { text: tidy(&text), problem }
}

fn tidy(text: &str) -> String {
    text.trim().to_owned()
}

impl Services {
    fn prompt_overrides(&self) -> PromptOverrides {
        PromptOverrides::new(self.config.paths())
    }

    /// The user's text of a template. An unreadable file counts as none, and is told of in the log.
    pub(crate) fn user_template(&self, name: &str) -> Option<String> {
        match self.prompt_overrides().get(name) {
            Ok(text) => text.filter(|t| !t.trim().is_empty()),
            Err(error) => {
                tracing::warn!(%error, name, "a prompt template cannot be read; the built-in one is used");
                None
            }
        }
    }

    /// Renders a template with the user's text where there is one. Reads a small file.
    pub(crate) fn render_template(&self, name: &str, values: &impl Serialize) -> String {
        let rendered = render(name, self.user_template(name).as_deref(), values);
        if let Some(problem) = rendered.problem {
            tracing::warn!(problem, "the built-in template is used");
        }
        rendered.text
    }
}

impl Engine {
    /// All prompt templates, by name.
    ///
    /// # Errors
    /// A file of the user's that cannot be read.
    pub fn prompt_templates(&self) -> Result<Vec<PromptTemplate>, ErrorDetail> {
        BUILTINS.iter().map(|b| self.prompt_template(b.name)).collect()
    }

    /// One prompt template.
    ///
    /// # Errors
    /// `PROMPT_NOT_FOUND`, or a file that cannot be read.
    pub fn prompt_template(&self, name: &str) -> Result<PromptTemplate, ErrorDetail> {
        let builtin = known(name)?;
        let user_content = self.services().prompt_overrides().get(name).map_err(|e| config_error(&e))?;
        Ok(PromptTemplate {
            name: builtin.name.to_owned(),
            description: builtin.description.to_owned(),
            default_content: builtin.text.to_owned(),
            user_content,
        })
    }

    /// Replaces a template's text.
    ///
    /// # Errors
    /// `PROMPT_NOT_FOUND`; `INVALID_FIELD` when the text is no template; a file that cannot be written.
    pub fn set_prompt_template(&self, name: &str, content: &str) -> Result<PromptTemplate, ErrorDetail> {
        known(name)?;
        if content.len() > MAX_TEMPLATE {
            return Err(ErrorDetail::invalid("content", format!("must be at most {MAX_TEMPLATE} bytes")));
        }
        environment()
            .template_from_str(content)
            .map_err(|e| ErrorDetail::invalid("content", format!("is not a template: {e:#}")))?;
        self.services().prompt_overrides().set(name, content).map_err(|e| config_error(&e))?;
        self.prompt_template(name)
    }

    /// Goes back to the built-in text of a template.
    ///
    /// # Errors
    /// `PROMPT_NOT_FOUND`, or a file that cannot be removed.
    pub fn reset_prompt_template(&self, name: &str) -> Result<PromptTemplate, ErrorDetail> {
        known(name)?;
        self.services().prompt_overrides().reset(name).map_err(|e| config_error(&e))?;
        self.prompt_template(name)
    }
}

fn known(name: &str) -> Result<&'static Builtin, ErrorDetail> {
    builtin(name).ok_or_else(|| {
        let names: Vec<_> = BUILTINS.iter().map(|b| b.name).collect();
        ErrorDetail::new(
            ErrorReason::PromptNotFound,
            format!("there is no prompt template {name:?}; there are: {}", names.join(", ")),
        )
        .with("name", name)
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn builtins_render_and_are_sorted() {
        assert!(BUILTINS.is_sorted_by_key(|b| b.name));
        let values = json!({"messages": "## User\nhi <b> & \"q\"", "instructions": "the tests"});
        let text = render(COMPACTION, None, &values).text;
        assert!(text.contains("hi <b> & \"q\"") && text.contains("attention to this: the tests"), "{text}");
        for builtin in BUILTINS {
            assert!(!render(builtin.name, None, &json!({})).text.is_empty(), "{}", builtin.name);
        }
    }

    #[test]
    fn a_users_template_wins_unless_it_is_broken() {
        let values = json!({"name": "x"});
        assert_eq!(render(SYSTEM, Some("I am {{ name }}{{ unknown }}"), &values).text, "I am x");
        let broken = render(SYSTEM, Some("{% if %}"), &values);
        assert!(broken.text.contains("run by gander") && broken.problem.is_some());
    }
}
