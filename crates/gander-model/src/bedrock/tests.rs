use futures::StreamExt as _;
use serde_json::{Value, json};

use super::*;
use crate::{
    Format, ModelProvider as _, Vendor, VendorOptions,
    encode::state,
    testing::{
        FakeOpenAi,
        fixtures::{conversation, done, info, request, user},
    },
};

fn body(request: &crate::ModelRequest) -> Value {
    let options = VendorOptions::for_format(
        info(),
        Format::Bedrock,
        "http://127.0.0.1:1/model/{model}/converse-stream",
    );
    serde_json::from_slice(&encode(&options, request).unwrap()).unwrap()
}

#[test]
fn a_conversation_is_told_with_its_reasoning() {
    let item = json!({ "reasoningContent": { "reasoningText": { "text": "Hm.", "signature": "c2ln" } } });
    let kept = state(ENGINE, "fake", &item);
    let body = body(&request("model-1", conversation(&kept, None)));
    let picture = json!({ "image": { "format": "png", "source": { "bytes": "AQID" } } });
    assert_eq!(
        body["messages"],
        json!([
            { "role": "user", "content": [{ "text": "What is in this picture?" }, picture] },
            { "role": "assistant", "content": [item, { "text": "I look." },
                { "toolUse": { "toolUseId": "call_a", "name": "get_weather", "input": { "city": "Rome" } } },
                { "toolUse": { "toolUseId": "call_b", "name": "get_time", "input": {} } }] },
            { "role": "user", "content": [
                { "toolResult": { "toolUseId": "call_a", "status": "success", "content": [{ "text": "sunny" }, picture] } },
                { "toolResult": { "toolUseId": "call_b", "status": "error", "content": [{ "text": "Error: no clock" }] } },
                { "text": "Go on." }] }
        ])
    );
    assert_eq!(body["toolConfig"]["tools"][0]["toolSpec"]["name"], "get_weather");
    assert_eq!(body["inferenceConfig"]["maxTokens"], 8192);
    assert!(!body.to_string().contains("cachePoint"), "model-1 is not known to cache");
}

#[test]
fn models_that_cache_get_their_points_and_calls_their_tools() {
    let body = body(&request("us.anthropic.claude-sonnet-4-5-20250929-v1:0", vec![user("hi")]));
    assert_eq!(body.to_string().matches("cachePoint").count(), 3);
    let mut asked = request("m", vec![user("hi"), done("m1", "call_a", "get_weather", "sunny")]);
    asked.tools.clear();
    assert_eq!(self::body(&asked)["toolConfig"]["tools"][0]["toolSpec"]["name"], "get_weather");
}

#[tokio::test]
async fn requests_are_signed_and_name_their_model_in_the_path() {
    let fake = FakeOpenAi::start().await.unwrap();
    let url = format!("{}/model/{{model}}/converse-stream", fake.url());
    let mut options = VendorOptions::for_format(info(), Format::Bedrock, url);
    options.aws = Some(Credentials {
        access_key_id: "AKIDEXAMPLE".to_owned(),
        secret_access_key: "very-secret".into(),
        session_token: Some("token-12345678".into()),
        region: "eu-west-1".to_owned(),
    });
    let said: Vec<_> =
        Vendor::new(options).unwrap().stream(request("text@7", vec![user("hi")])).collect().await;
    assert!(said.iter().all(Result::is_ok), "{said:?}");
    let seen = fake.requests().pop().unwrap();
    assert_eq!(seen.path, "/model/text%407/converse-stream");
    let authorization = seen.header("authorization").unwrap();
    assert!(authorization.starts_with("AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/"), "{authorization}");
    assert!(authorization.contains("/eu-west-1/bedrock/aws4_request, SignedHeaders=host;x-amz-date;"));
    assert_eq!(seen.header("x-amz-security-token"), Some("token-12345678"));
    assert_eq!(seen.header("accept"), Some("application/vnd.amazon.eventstream"));
}
