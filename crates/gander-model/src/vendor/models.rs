//! Lists of models as servers give them.

use serde_json::Value;

use crate::ModelInfo;

/// Reads `{"data": [{"id": …}]}`, `{"models": […]}` or a bare list.
pub(crate) fn parse_models(body: &[u8]) -> Option<Vec<ModelInfo>> {
    let document: Value = serde_json::from_slice(body).ok()?;
    let list = document
        .as_array()
        .or_else(|| document.get("data").and_then(Value::as_array))
        .or_else(|| document.get("models").and_then(Value::as_array))?;
    let number = |model: &Value, paths: &[&str]| paths.iter().find_map(|path| model.pointer(path)?.as_u64());
    let models = list.iter().filter_map(|model| {
        let id = ["id", "model", "name"].iter().find_map(|key| model.get(*key)?.as_str())?;
        // Google's list names resources, and holds models that only embed.
        let id = id.strip_prefix("models/").unwrap_or(id);
        let methods = model.get("supportedGenerationMethods").and_then(Value::as_array);
        if methods.is_some_and(|methods| !methods.iter().any(|method| method == "generateContent")) {
            return None;
        }
        let name = ["display_name", "displayName", "name"].iter().find_map(|key| model.get(*key)?.as_str());
        Some(ModelInfo {
            model_id: id.to_owned(),
            display_name: name.unwrap_or(id).to_owned(),
            context_window_tokens: number(
                model,
                &[
                    "/context_length",
                    "/context_window",
                    "/max_context_length",
                    "/max_model_len",
                    "/meta/n_ctx_train",
                    "/inputTokenLimit",
                ],
            ),
            max_output_tokens: number(
                model,
                &[
                    "/max_completion_tokens",
                    "/max_output_tokens",
                    "/outputTokenLimit",
                    "/top_provider/max_completion_tokens",
                ],
            ),
            price_micros_per_million: prices(model.get("pricing")),
        })
    });
    Some(models.collect())
}

/// OpenRouter's prices: USD per token, as decimal strings.
fn prices(pricing: Option<&Value>) -> [Option<u64>; 4] {
    ["prompt", "completion", "input_cache_read", "input_cache_write"].map(|key| {
        let usd: f64 = pricing?.get(key)?.as_str()?.parse().ok()?;
        // USD per token → micro-USD per million tokens.
        let micros = (usd * 1e12).round();
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "bounded here")]
        (0.0..1e15).contains(&micros).then_some(micros as u64)
    })
}

/// What the server lists, completed by what the provider file knows.
pub(super) fn merge_models(mut found: Vec<ModelInfo>, listed: &[ModelInfo]) -> Vec<ModelInfo> {
    for model in &mut found {
        let Some(known) = listed.iter().find(|known| known.model_id == model.model_id) else { continue };
        model.context_window_tokens = model.context_window_tokens.or(known.context_window_tokens);
        model.max_output_tokens = model.max_output_tokens.or(known.max_output_tokens);
        for (price, known) in model.price_micros_per_million.iter_mut().zip(known.price_micros_per_million) {
            *price = price.or(known);
        }
        if model.display_name == model.model_id {
            model.display_name.clone_from(&known.display_name);
        }
    }
    found
}
