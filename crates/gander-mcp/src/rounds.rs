//! Requests that take several rounds: the server wants something from the user first, gets it with the request made
//! again. Two forms: an `input_required` result (2026-07-28) and the error -32042 (2025-11-25).

use rmcp::model::{ClientRequest, ErrorData, InputResponses};
use serde_json::Value;
use tokio::time::Instant;

use crate::{
    client::ElicitAnswer,
    connection::{Connection, Failure, RequestOptions},
};

/// Rounds of one request; a server that goes on asking gets no further ones.
const MAX_ROUNDS: usize = 10;
/// Pages that one error may ask for.
const MAX_PAGES: usize = 4;
/// The user must open a page first.
const URL_ELICITATION_REQUIRED: i32 = -32042;

/// Makes the request of `make` (from the answers and the state of the round before) until there is a result. The
/// time in which the user is asked does not count against the deadline.
pub(crate) async fn request(
    connection: &Connection,
    mut options: RequestOptions,
    make: impl Fn(Option<InputResponses>, Option<String>) -> ClientRequest,
) -> Result<Value, Failure> {
    let (mut responses, mut state) = (None, None);
    let mut pages_asked = false;
    for _ in 0..MAX_ROUNDS {
        let cancel = options.cancel.clone();
        let asked;
        match connection.request(make(responses.take(), state.take()), options.clone()).await {
            Ok(result) if result.get("resultType").and_then(Value::as_str) == Some("input_required") => {
                asked = Instant::now();
                state = result.get("requestState").and_then(Value::as_str).map(str::to_owned);
                let answers = tokio::select! {
                    biased;
                    () = cancel.cancelled() => return Err(Failure::Cancelled),
                    answers = answer_all(connection, &result, &options) => answers?,
                };
                responses = (!answers.is_empty()).then_some(answers);
            }
            Err(Failure::Rpc(error)) if error.code.0 == URL_ELICITATION_REQUIRED && !pages_asked => {
                asked = Instant::now();
                pages_asked = true;
                tokio::select! {
                    biased;
                    () = cancel.cancelled() => return Err(Failure::Cancelled),
                    done = open_pages(connection, error) => done?,
                }
            }
            other => return other,
        }
        options.deadline += asked.elapsed();
    }
    Err(Failure::Asked(format!("the server asked for more input {MAX_ROUNDS} times; it was given up")))
}

async fn answer_all(
    connection: &Connection,
    result: &Value,
    options: &RequestOptions,
) -> Result<InputResponses, Failure> {
    let mut answers = InputResponses::new();
    let Some(requests) = result.get("inputRequests").and_then(Value::as_object) else { return Ok(answers) };
    for (id, request) in requests {
        let method = request.get("method").and_then(Value::as_str).unwrap_or_default();
        let params = request.get("params").cloned().unwrap_or(Value::Null);
        let answer = connection.asks.answer(method, params, &options.cancel).await;
        let answer = answer.map_err(|error| {
            Failure::Asked(format!("the server needs {method}, which failed: {}", error.message))
        })?;
        answers.insert(id.clone(), answer);
    }
    Ok(answers)
}

async fn open_pages(connection: &Connection, error: ErrorData) -> Result<(), Failure> {
    let pages = error.data.as_ref().and_then(|data| data.get("elicitations")).and_then(Value::as_array);
    let Some(pages) = pages.filter(|pages| !pages.is_empty()).cloned() else {
        return Err(Failure::Rpc(error));
    };
    for page in pages.iter().take(MAX_PAGES) {
        let text = |name: &str| page.get(name).and_then(Value::as_str).unwrap_or_default();
        match connection.asks.page(text("message").to_owned(), text("url")).await {
            Ok(ElicitAnswer::Accept { .. }) => {}
            Ok(_) => {
                let text = format!(
                    "the server needs the user to open a page, which they declined: {}",
                    error.message
                );
                return Err(Failure::Asked(text));
            }
            Err(problem) => {
                let text = format!("the server's page cannot be opened: {}", problem.message);
                return Err(Failure::Asked(text));
            }
        }
    }
    Ok(())
}
