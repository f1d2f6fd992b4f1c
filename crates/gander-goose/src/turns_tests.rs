use prost_types::Timestamp;

use super::*;

fn at(seconds: i64) -> Option<Timestamp> {
    (seconds > 0).then_some(Timestamp { seconds, nanos: 0 })
}

fn ended(state: TurnState, end: i64, by: &str) -> Turn {
    Turn {
        state: state as i32,
        start_time: at(1),
        end_time: at(end),
        cancelled_by: Some(Actor { protocol: by.to_owned(), ..Actor::default() }),
        ..Turn::default()
    }
}

#[test]
fn the_same_bytes_are_the_same_turn_of_the_same_session() {
    let id = turn_id("s", b"body", 0);
    assert_eq!(turn_id("s", b"body", 0), id);
    for other in [turn_id("s", b"body ", 0), turn_id("t", b"body", 0), turn_id("s", b"body", 1)] {
        assert_ne!(other, id);
    }
    assert_eq!(Uuid::parse_str(&id).map(|id| id.get_version_num()), Ok(5));
}

#[test]
fn a_repeated_request_is_a_cut_and_not_a_stop() {
    use TurnState as S;
    let rest = crate::PROTOCOL;
    let now = 1_000_000;
    let (soon, late, long_ago) = (now - 50, now - 200, now - 100_000);
    for (turn, wanted) in [
        (ended(S::Running, 0, ""), Again::Attach),
        (ended(S::Queued, 0, ""), Again::Attach),
        (ended(S::AwaitingInput, 0, ""), Again::Attach),
        (ended(S::Completed, soon, ""), Again::Attach),
        (ended(S::Completed, late, ""), Again::Attach),
        (ended(S::Completed, long_ago, ""), Again::Fresh),
        (ended(S::Failed, soon, ""), Again::Attach),
        (ended(S::Failed, late, ""), Again::Continue),
        (ended(S::Interrupted, soon, ""), Again::Attach),
        (ended(S::Interrupted, late, ""), Again::Continue),
        (ended(S::Cancelled, soon, rest), Again::Continue),
        (ended(S::Cancelled, late, rest), Again::Continue),
        (ended(S::Cancelling, 0, rest), Again::Continue),
        (ended(S::Cancelled, soon, "acp"), Again::Attach),
        (ended(S::Cancelled, late, "acp"), Again::Continue),
        (Turn { start_time: None, ..ended(S::Cancelled, soon, rest) }, Again::Fresh),
        (Turn { start_time: None, ..ended(S::Interrupted, soon, "") }, Again::Fresh),
    ] {
        assert_eq!(again(&turn, now), wanted, "{turn:?}");
    }
}
