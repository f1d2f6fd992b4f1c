//! Sessions by words that occur in them or in their names.

use std::collections::HashSet;

use gander_proto::v1::{ListSessionsRequest, SearchSessionsRequest, Session};

use crate::{agent::Inner, rpc::RpcError};

/// Messages that are looked for; their sessions are shown.
const MESSAGES: i32 = 50;
/// Pages of sessions whose names are looked at.
const PAGES: usize = 20;

impl Inner {
    /// Sessions among those of `request` whose names hold the words, then those whose messages do.
    pub(in crate::agent) async fn search(
        &self,
        words: &str,
        mut request: ListSessionsRequest,
    ) -> Result<Vec<Session>, RpcError> {
        let asked =
            SearchSessionsRequest { query: words.to_owned(), limit_messages: MESSAGES, ..Default::default() };
        let found = self.client.sessions().search_sessions(asked).await.map_err(RpcError::from)?.into_inner();
        let found = found.matches.into_iter().filter_map(|found| Some(found.session?.session_id));
        let mut found: HashSet<String> = found.collect();
        let words = words.to_lowercase();
        let (mut named, mut said) = (Vec::new(), Vec::new());
        request.page_token.clear();
        for _ in 0..PAGES {
            let page = self.client.sessions().list_sessions(request.clone()).await;
            let page = page.map_err(RpcError::from)?.into_inner();
            for session in page.sessions {
                if session.title.to_lowercase().contains(&words) {
                    named.push(session);
                } else if found.remove(&session.session_id) {
                    said.push(session);
                }
            }
            request.page_token = page.next_page_token;
            if request.page_token.is_empty() {
                break;
            }
        }
        named.extend(said);
        Ok(named)
    }
}
