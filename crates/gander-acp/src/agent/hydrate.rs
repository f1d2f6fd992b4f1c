//! Values that are stored beside the log, put back into what refers to them, so that translation need not wait.

use gander_proto::v1::{
    Item, MediaPart, Part, ReadContentRequest, ResourceContents, SessionEvent, ToolCall, item, media_part,
    part, resource_contents, session_event::Payload,
};

use super::Inner;

/// Larger values stay references: no editor shows them in a message.
const MAX_VALUE: usize = 8 * 1024 * 1024;

impl Inner {
    pub(super) async fn hydrate_event(&self, session_id: &str, event: &mut SessionEvent) {
        match &mut event.payload {
            Some(Payload::ItemStarted(started)) => {
                if let Some(item) = &mut started.item {
                    self.hydrate(session_id, item).await;
                }
            }
            Some(Payload::ItemCompleted(completed)) => {
                if let Some(item) = &mut completed.item {
                    self.hydrate(session_id, item).await;
                }
            }
            Some(Payload::ToolCallUpdated(updated)) => {
                if let Some(call) = &mut updated.tool_call {
                    self.hydrate_call(session_id, call).await;
                }
            }
            _ => {}
        }
    }

    pub(super) async fn hydrate(&self, session_id: &str, item: &mut Item) {
        match &mut item.body {
            Some(item::Body::UserMessage(message)) => self.parts(session_id, &mut message.parts).await,
            Some(item::Body::AgentMessage(message)) => self.parts(session_id, &mut message.parts).await,
            Some(item::Body::Compaction(compaction)) => {
                self.parts(session_id, &mut compaction.summary_parts).await;
            }
            Some(item::Body::ToolCall(call)) => self.hydrate_call(session_id, call).await,
            _ => {}
        }
    }

    pub(super) async fn hydrate_call(&self, session_id: &str, call: &mut ToolCall) {
        if !call.arguments_content_id.is_empty()
            && let Some(bytes) = self.value(session_id, &call.arguments_content_id).await
        {
            call.arguments_json = String::from_utf8_lossy(&bytes).into_owned();
        }
        self.parts(session_id, &mut call.content).await;
        if let Some(result) = &mut call.result {
            self.parts(session_id, &mut result.parts).await;
        }
    }

    async fn parts(&self, session_id: &str, parts: &mut [Part]) {
        for part in parts {
            let Some(id) = content_id(part).map(str::to_owned) else { continue };
            if part.size_bytes > i64::try_from(MAX_VALUE).unwrap_or(i64::MAX) {
                continue;
            }
            if let Some(bytes) = self.value(session_id, &id).await {
                put(part, bytes);
            }
        }
    }

    async fn value(&self, session_id: &str, content_id: &str) -> Option<Vec<u8>> {
        let request = ReadContentRequest {
            session_id: session_id.to_owned(),
            content_id: content_id.to_owned(),
            ..ReadContentRequest::default()
        };
        let mut stream = self.client.sessions().read_content(request).await.ok()?.into_inner();
        let mut value = Vec::new();
        while let Some(chunk) = stream.message().await.ok()? {
            value.extend_from_slice(&chunk.data);
            if value.len() > MAX_VALUE {
                return None;
            }
        }
        Some(value)
    }
}

fn content_id(part: &Part) -> Option<&str> {
    match part.body.as_ref()? {
        part::Body::TextContentId(id) => Some(id),
        part::Body::Image(MediaPart { source: Some(media_part::Source::ContentId(id)), .. })
        | part::Body::Audio(MediaPart { source: Some(media_part::Source::ContentId(id)), .. }) => Some(id),
        part::Body::Resource(ResourceContents {
            contents: Some(resource_contents::Contents::ContentId(id)),
            ..
        }) => Some(id),
        _ => None,
    }
}

fn put(part: &mut Part, bytes: Vec<u8>) {
    match &mut part.body {
        Some(part::Body::TextContentId(_)) => {
            part.body = Some(part::Body::Text(String::from_utf8_lossy(&bytes).into_owned()));
        }
        Some(part::Body::Image(media) | part::Body::Audio(media)) => {
            media.source = Some(media_part::Source::Data(bytes.into()));
        }
        Some(part::Body::Resource(resource)) => {
            resource.contents = Some(match String::from_utf8(bytes) {
                Ok(text) => resource_contents::Contents::Text(text),
                Err(error) => resource_contents::Contents::Data(error.into_bytes().into()),
            });
        }
        _ => {}
    }
}
