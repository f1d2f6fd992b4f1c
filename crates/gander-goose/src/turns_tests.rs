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
    for state in [S::Queued, S::Running, S::AwaitingInput] {
        assert_eq!(again(&ended(state, 0, ""), now), Again::Attach, "{state:?}");
    }
    assert_eq!(again(&ended(S::Cancelling, 0, rest), now), Again::Continue);
    assert_eq!(again(&ended(S::Cancelling, 0, "acp"), now), Again::Attach);
    for (state, by, soon) in [
        (S::Completed, "", Again::Attach),
        (S::Failed, "", Again::Attach),
        (S::Interrupted, "", Again::Attach),
        (S::Cancelled, "acp", Again::Attach),
        (S::Cancelled, rest, Again::Continue),
    ] {
        for (age, wanted) in [(-5, soon), (0, soon), (120, soon), (121, Again::Fresh), (86_400, Again::Fresh)]
        {
            assert_eq!(again(&ended(state, now - age, by), now), wanted, "{state:?} {age} s ago, by {by:?}");
        }
    }
    for state in [S::Cancelled, S::Interrupted] {
        let never_started = Turn { start_time: None, ..ended(state, now - 1, rest) };
        assert_eq!(again(&never_started, now), Again::Fresh, "nothing of it is in the history");
    }
}
