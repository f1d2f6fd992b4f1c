//! Long values that the log keeps beside itself, fetched where Goose has them inline.
//!
//! A value that cannot be fetched stays a reference, which is then shown as such: one lost picture must not lose a
//! conversation.

use std::time::Duration;

use gander_client::{Client, ClientError};
use gander_proto::v1::{
    Item, Part, ReadContentRequest, SessionEvent, ToolCall, item::Body, media_part, part, resource_contents,
    session_event::Payload,
};

/// Most bytes of a value that is put into a frame; a longer one stays a reference, since half of it would be another
/// value. Windows keep the whole conversation in memory.
const MAX_VALUE: i64 = 32 * 1024 * 1024;
/// What reading one value may take. A stream stands still meanwhile.
const READ_DEADLINE: Duration = Duration::from_secs(60);

/// Puts an event's long values in place.
pub(crate) async fn inline_event(client: &Client, session_id: &str, event: &mut SessionEvent) {
    match &mut event.payload {
        Some(Payload::ItemStarted(started)) => {
            if let Some(item) = &mut started.item {
                inline_item(client, session_id, item).await;
            }
        }
        Some(Payload::ItemCompleted(completed)) => {
            if let Some(item) = &mut completed.item {
                inline_item(client, session_id, item).await;
            }
        }
        Some(Payload::ToolCallUpdated(updated)) => {
            if let Some(call) = &mut updated.tool_call {
                inline_call(client, session_id, call).await;
            }
        }
        _ => {}
    }
}

/// Puts an item's long values in place.
pub(crate) async fn inline_item(client: &Client, session_id: &str, item: &mut Item) {
    let parts = match &mut item.body {
        Some(Body::UserMessage(message)) => &mut message.parts,
        Some(Body::AgentMessage(message)) => &mut message.parts,
        Some(Body::Compaction(compaction)) => &mut compaction.summary_parts,
        Some(Body::ToolCall(call)) => return inline_call(client, session_id, call).await,
        Some(Body::Thought(_) | Body::Notice(_)) | None => return,
    };
    inline_parts(client, session_id, parts).await;
}

async fn inline_call(client: &Client, session_id: &str, call: &mut ToolCall) {
    if !call.arguments_content_id.is_empty()
        && let Some(bytes) = fetch(client, session_id, &call.arguments_content_id).await
    {
        call.arguments_json = String::from_utf8_lossy(&bytes).into_owned();
    }
    if let Some(result) = &mut call.result {
        inline_parts(client, session_id, &mut result.parts).await;
    }
}

/// Puts the long values of parts in place.
pub(crate) async fn inline_parts(client: &Client, session_id: &str, parts: &mut [Part]) {
    for part in parts {
        match &mut part.body {
            Some(part::Body::TextContentId(id)) => {
                if let Some(bytes) = fetch(client, session_id, id).await {
                    part.body = Some(part::Body::Text(String::from_utf8_lossy(&bytes).into_owned()));
                }
            }
            Some(part::Body::Image(media) | part::Body::Audio(media)) => {
                if let Some(media_part::Source::ContentId(id)) = &media.source
                    && let Some(bytes) = fetch(client, session_id, id).await
                {
                    media.source = Some(media_part::Source::Data(bytes.into()));
                }
            }
            Some(part::Body::Resource(resource)) => {
                if let Some(resource_contents::Contents::ContentId(id)) = &resource.contents
                    && let Some(bytes) = fetch(client, session_id, id).await
                {
                    resource.contents = Some(match String::from_utf8(bytes) {
                        Ok(text) => resource_contents::Contents::Text(text),
                        Err(error) => resource_contents::Contents::Data(error.into_bytes().into()),
                    });
                }
            }
            _ => {}
        }
    }
}

async fn fetch(client: &Client, session_id: &str, content_id: &str) -> Option<Vec<u8>> {
    match read(client, session_id, content_id).await {
        Ok(bytes) => bytes,
        Err(error) => {
            tracing::warn!(%session_id, %content_id, %error, "a long value could not be read");
            None
        }
    }
}

async fn read(client: &Client, session_id: &str, content_id: &str) -> Result<Option<Vec<u8>>, ClientError> {
    let mut request = tonic::Request::new(ReadContentRequest {
        session_id: session_id.to_owned(),
        content_id: content_id.to_owned(),
        size: MAX_VALUE,
        ..Default::default()
    });
    request.set_timeout(READ_DEADLINE);
    let mut stream = client.sessions().read_content(request).await?.into_inner();
    let mut bytes = Vec::new();
    while let Some(chunk) = stream.message().await? {
        if chunk.total_bytes > MAX_VALUE {
            tracing::warn!(%session_id, %content_id, bytes = chunk.total_bytes, "a value is too long for a window");
            return Ok(None);
        }
        bytes.extend_from_slice(&chunk.data);
    }
    Ok(Some(bytes))
}

#[cfg(test)]
mod tests {
    use gander_proto::v1::{MediaPart, ReadContentResponse};

    use super::*;
    use crate::testing::Daemon;

    async fn shown(chunks: &[ReadContentResponse]) -> Option<media_part::Source> {
        let client = Daemon::new().streams("SessionService/ReadContent", chunks).client().await;
        let source = Some(media_part::Source::ContentId("c".into()));
        let image = MediaPart { source, mime_type: "image/png".into() };
        let mut parts = [Part { body: Some(part::Body::Image(image)), ..Part::default() }];
        inline_parts(&client, "s", &mut parts).await;
        match parts[0].body.take() {
            Some(part::Body::Image(image)) => image.source,
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn a_value_is_shown_whole_or_not_at_all() {
        let chunk = |data: &'static [u8], total_bytes| ReadContentResponse {
            data: data.into(),
            total_bytes,
            ..Default::default()
        };
        let whole = shown(&[chunk(b"half", 8), chunk(b"half", 8)]).await;
        assert_eq!(whole, Some(media_part::Source::Data(b"halfhalf".as_slice().into())));
        let long = shown(&[chunk(b"half", MAX_VALUE + 1)]).await;
        assert_eq!(long, Some(media_part::Source::ContentId("c".into())), "half of it is another picture");
    }
}
