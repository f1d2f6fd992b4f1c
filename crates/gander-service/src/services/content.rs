//! Values that are streamed in chunks.

use bytes::Bytes;
use gander_domain::{ContentId, ErrorDetail, SessionId};
use gander_proto::v1 as pb;

use crate::{
    Api, CHUNK_BYTES,
    convert::{At, Violations, int64},
    error::status,
    watch::Answers,
};

/// Bytes in hand as a stream of chunks; the chunks share one allocation.
pub(super) fn chunks<T: Send + 'static>(bytes: Bytes, wrap: fn(Bytes) -> T) -> Answers<T> {
    let starts = (0..bytes.len()).step_by(CHUNK_BYTES);
    Box::pin(futures::stream::iter(
        starts.map(move |start| Ok(wrap(bytes.slice(start..bytes.len().min(start + CHUNK_BYTES))))),
    ))
}

/// A range of a stored value, read chunk by chunk as the client takes it.
pub(super) async fn read_content(
    api: &Api,
    request: pb::ReadContentRequest,
) -> Result<Answers<pb::ReadContentResponse>, ErrorDetail> {
    let mut v = Violations::default();
    let session_id = v.id(&At::root("session_id"), &request.session_id, |t| SessionId::new(t));
    let content_id = v.id(&At::root("content_id"), &request.content_id, |t| ContentId::new(t));
    let offset = v.count(&At::root("offset"), request.offset);
    let size = v.count(&At::root("size"), request.size);
    let (session_id, content_id) = v.finish(session_id.zip(content_id))?;
    let (total, mime_type) = api.engine.content_info(&session_id, &content_id).await?;
    if offset > total {
        return Err(ErrorDetail::invalid(
            "offset",
            format!("must be at most {total}, the size of the value"),
        ));
    }
    let end = if size == 0 { total } else { total.min(offset.saturating_add(size)) };
    let engine = api.engine.clone();
    Ok(Box::pin(async_stream::stream! {
        let mut at = offset;
        while at < end {
            let length = usize::try_from(end - at).unwrap_or(CHUNK_BYTES).min(CHUNK_BYTES);
            match engine.read_content(&session_id, &content_id, at, length).await {
                Ok(data) if data.is_empty() => return,
                Ok(data) => {
                    let answer = pb::ReadContentResponse {
                        offset: int64(at),
                        total_bytes: int64(total),
                        mime_type: mime_type.clone(),
                        data: data.into(),
                    };
                    at += answer.data.len() as u64;
                    yield Ok(answer);
                }
                Err(error) => {
                    yield Err(status(&error));
                    return;
                }
            }
        }
    }))
}

#[cfg(test)]
mod tests {
    use futures::StreamExt as _;

    use super::*;

    #[tokio::test]
    async fn chunks_are_the_value() {
        for size in [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES] {
            let value: Vec<u8> = (0..size).map(|i| (i % 251) as u8).collect();
            let parts: Vec<Bytes> =
                chunks(value.clone().into(), |b| b).map(|part| part.unwrap()).collect().await;
            assert!(parts.iter().all(|p| !p.is_empty() && p.len() <= CHUNK_BYTES));
            assert_eq!(parts.concat(), value);
        }
    }
}
