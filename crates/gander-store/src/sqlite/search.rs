//! Text search over messages: newest first, in short statements, words compared without case.

use gander_domain::Timestamp;
use rusqlite::{Connection, params};

use super::{fault::Fault, read};
use crate::{SearchHit, SearchMessage, SearchQuery};

/// Messages looked at per statement.
const PAGE: usize = 1000;

/// Sessions by their newest hit; messages of each newest first.
pub(super) fn search(conn: &Connection, query: &SearchQuery) -> Result<Vec<SearchHit>, Fault> {
    let words: Vec<String> = query.words.iter().map(|w| fold(w)).filter(|w| !w.is_empty()).collect();
    if words.is_empty() {
        return Ok(Vec::new());
    }
    let mut found: Vec<(i64, SearchMessage)> = Vec::new();
    let mut before = query.before.map_or((i64::MAX, i64::MAX), |t| (t.0, i64::MIN));
    let after = query.after.map_or(i64::MIN, |t| t.0);
    let mut folded = String::new();
    // No session has a negative key: it stands for all of them.
    let only = match &query.session_id {
        Some(session_id) => read::key(conn, session_id)?,
        None => -1,
    };
    while found.len() < query.limit_messages {
        let mut seen = 0;
        let mut statement = conn.prepare_cached(
            "SELECT time, id, session, hidden, item_id, role, text FROM message
             WHERE (time, id) < (?1, ?2) AND time >= ?3 AND (?5 < 0 OR session = ?5)
             ORDER BY time DESC, id DESC LIMIT ?4",
        )?;
        let mut rows = statement.query(params![before.0, before.1, after, PAGE as i64, only])?;
        while let Some(row) = rows.next()? {
            seen += 1;
            before = (row.get(0)?, row.get(1)?);
            let hidden: bool = row.get(3)?;
            let text = row.get_ref(6)?.as_str().map_err(rusqlite::Error::from)?;
            if hidden || found.len() >= query.limit_messages || !contains_all(text, &words, &mut folded) {
                continue;
            }
            let (item_id, role) = (row.get(4)?, row.get(5)?);
            let message = SearchMessage { item_id, role, time: Timestamp(before.0), text: text.to_owned() };
            found.push((row.get(2)?, message));
        }
        if seen < PAGE {
            break;
        }
    }
    group(conn, found)
}

/// Without case, letter by letter: the same letter folds alike wherever it stands.
pub(super) fn fold(text: &str) -> String {
    text.chars().flat_map(char::to_lowercase).collect()
}

fn contains_all(text: &str, words: &[String], folded: &mut String) -> bool {
    if text.is_empty() {
        return false;
    }
    folded.clear();
    if text.is_ascii() {
        folded.push_str(text);
        folded.make_ascii_lowercase();
    } else {
        folded.extend(text.chars().flat_map(char::to_lowercase));
    }
    words.iter().all(|word| folded.contains(word.as_str()))
}

fn group(conn: &Connection, found: Vec<(i64, SearchMessage)>) -> Result<Vec<SearchHit>, Fault> {
    let mut hits: Vec<(i64, Option<SearchHit>)> = Vec::new();
    for (key, message) in found {
        let index = match hits.iter().position(|(known, _)| *known == key) {
            Some(index) => index,
            None => {
                let session = read::session_by_key(conn, key)?;
                hits.push((key, session.map(|session| SearchHit { session, messages: Vec::new() })));
                hits.len() - 1
            }
        };
        if let Some((_, Some(hit))) = hits.get_mut(index) {
            hit.messages.push(message);
        }
    }
    Ok(hits.into_iter().filter_map(|(_, hit)| hit).collect())
}
