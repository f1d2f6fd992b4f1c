//! Recipes that a text command runs.

use std::collections::BTreeMap;

use gander_domain::ErrorDetail;

use super::{RecipeOrigin, RecipeRequest};
use crate::{commands, services::Services};

impl Services {
    /// What the recipe at `path` tells the model, its parameters filled in from the text behind the command:
    /// `key=value` pairs, or, for a recipe with one parameter that has no default, the text as it is.
    pub(crate) fn recipe_text(&self, path: &str, arguments: &str) -> Result<String, ErrorDetail> {
        let origin = RecipeOrigin::File(path.to_owned());
        let (template, _) = self.recipes.template(&origin, &[])?;
        let parameters = template.recipe()?.parameters;
        let needed: Vec<_> = parameters.iter().filter(|p| p.default.is_none()).collect();
        let only = match (needed.as_slice(), parameters.as_slice()) {
            ([one], _) => Some(*one),
            ([], [one]) => Some(one),
            _ => None,
        };
        let named = commands::pairs(arguments)
            .ok()
            .filter(|pairs| pairs.keys().all(|key| parameters.iter().any(|p| p.key == *key)));
        let values = match (named, only) {
            (Some(pairs), _) => pairs,
            (None, Some(parameter)) if !arguments.is_empty() => {
                BTreeMap::from([(parameter.key.clone(), arguments.to_owned())])
            }
            (None, _) => {
                let names: Vec<_> = parameters.iter().map(|p| p.key.as_str()).collect();
                let message = match names.as_slice() {
                    [] => "the command takes no arguments".to_owned(),
                    names => format!("the command takes key=value pairs; the keys are: {}", names.join(", ")),
                };
                return Err(ErrorDetail::invalid("input.parts", message));
            }
        };
        let request = RecipeRequest { origin, values, allow_missing_values: false };
        let resolved = self.recipes.resolve(&request, None, &[])?;
        let recipe = resolved.ready()?;
        Ok(match (&recipe.prompt, &recipe.instructions) {
            (Some(prompt), Some(instructions)) if !prompt.trim().is_empty() => {
                format!("{instructions}\n\n{prompt}")
            }
            _ => recipe.first_message().unwrap_or_default().to_owned(),
        })
    }
}
