//! Clock and ids. The only place where the engine meets time and randomness, so that tests can replace both.

use gander_domain::{HostCallId, InteractionId, ItemId, MessageId, SessionId, Timestamp, TurnId};

/// Where times and ids come from.
pub trait Source: Send + Sync + 'static {
    fn now(&self) -> Timestamp;
    /// A new unique text for ids, `[a-z0-9-]`, at most 40 characters, later ones sorting behind earlier ones.
    fn unique(&self) -> String;
    /// A short random text for session ids.
    fn short(&self) -> String;
}

/// The system clock, UUIDv7 and the operating system's randomness.
#[derive(Debug, Default)]
pub struct SystemSource;

impl Source for SystemSource {
    fn now(&self) -> Timestamp {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        Timestamp(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
    }

    fn unique(&self) -> String {
        uuid::Uuid::now_v7().simple().to_string()
    }

    fn short(&self) -> String {
        const ALPHABET: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";
        rand::random::<[u8; 10]>().iter().map(|b| char::from(ALPHABET[usize::from(b % 32)])).collect()
    }
}

/// Typed ids out of a [`Source`].
pub(crate) trait Mint {
    fn item_id(&self) -> ItemId;
    fn message_id(&self) -> MessageId;
    fn interaction_id(&self) -> InteractionId;
    fn host_call_id(&self) -> HostCallId;
    fn turn_id(&self) -> TurnId;
    fn session_id(&self) -> SessionId;
}

macro_rules! minted {
    ($self:ident, $type:ident) => {
        // Minted texts match the pattern of ids by the contract of `Source::unique`.
        $type::new($self.unique())
            .or_else(|_| $type::new("invalid-source"))
            .unwrap_or_else(|_| unreachable!())
    };
}

impl<S: Source + ?Sized> Mint for S {
    fn item_id(&self) -> ItemId {
        minted!(self, ItemId)
    }
    fn message_id(&self) -> MessageId {
        minted!(self, MessageId)
    }
    fn interaction_id(&self) -> InteractionId {
        minted!(self, InteractionId)
    }
    fn host_call_id(&self) -> HostCallId {
        minted!(self, HostCallId)
    }
    fn turn_id(&self) -> TurnId {
        minted!(self, TurnId)
    }
    /// `YYYYMMDD_` and ten random characters: sorts by day, is short enough to type.
    fn session_id(&self) -> SessionId {
        let (year, month, day) = civil_date(self.now().seconds().div_euclid(86_400));
        let text = format!("{year:04}{month:02}{day:02}_{}", self.short());
        SessionId::new(text).unwrap_or_else(|_| unreachable!())
    }
}

/// Days since 1970-01-01 as a proleptic Gregorian date (Howard Hinnant's algorithm).
pub(crate) fn civil_date(days: i64) -> (i64, u32, u32) {
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let doe = z.rem_euclid(146_097);
    let yoe = (doe - doe / 1_460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let day = (doy - (153 * mp + 2) / 5 + 1) as u32;
    let month = if mp < 10 { mp + 3 } else { mp - 9 } as u32;
    (yoe + era * 400 + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Who knows one session's id must not be able to say the next one's.
    #[test]
    fn session_ids_are_random_text_that_does_not_repeat() {
        let ids: std::collections::HashSet<String> = (0..10_000).map(|_| SystemSource.short()).collect();
        assert_eq!(ids.len(), 10_000);
        for place in 0..10 {
            let letters: std::collections::HashSet<u8> = ids.iter().map(|id| id.as_bytes()[place]).collect();
            assert_eq!(letters.len(), 32, "every letter at place {place}");
        }
    }

    #[test]
    fn dates() {
        for (days, date) in
            [(0, (1970, 1, 1)), (11_016, (2000, 2, 29)), (20_778, (2026, 11, 21)), (-1, (1969, 12, 31))]
        {
            assert_eq!(civil_date(days), date);
        }
    }

    #[test]
    fn ids_are_valid_and_sort() {
        let source = SystemSource;
        let (a, b) = (source.item_id(), source.item_id());
        assert_ne!(a, b);
        assert_eq!(source.session_id().as_str().len(), 19);
    }
}
