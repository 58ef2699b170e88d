"""When "unknown id" is an outcome, and when it is the account's: by what HubSpot shows of the account's other ids."""

from msgspec.structs import replace

from poller.core.model import Answer, Missing, Refused, Running, Task
from poller.engine.known_ids import ALL_UNKNOWN, DOUBTFUL, FORGOTTEN_AFTER_S, KnownIds
from tests.support.makers import make_task

UNKNOWN = Answer(outcome=Missing(code=404))
KNOWN = Answer(outcome=Running(status="PROCESSING"))
BLANK = Answer(outcome=Running(status=None))
AGAIN_S = 30.0


def task(key: int, missing_at: float | None = None) -> Task:
    return replace(make_task(), key=key, missing_at=missing_at)


def checked(ids: KnownIds, asked: Task, answer: Answer, now: float, *, of_witness: bool = False) -> Answer:
    """Check the answer to a poll that took no time."""
    return ids.check(asked, answer, asked_at=now, now=now, of_witness=of_witness)


def unknown(ids: KnownIds, keys: range, now: float) -> list[Answer]:
    return [checked(ids, task(key), UNKNOWN, now) for key in keys]


def test_an_unknown_id_is_held_while_others_are_new_and_none_is_known() -> None:
    ids = KnownIds()
    checked(ids, task(1), UNKNOWN, 0.0)
    assert ids.holds(task(1, missing_at=0.0), 14.0, AGAIN_S)
    assert not ids.holds(task(1, missing_at=0.0), 30.0, AGAIN_S)
    checked(ids, task(2), UNKNOWN, 20.0)
    assert ids.holds(task(1, missing_at=0.0), 30.0, AGAIN_S)


def test_a_status_since_it_was_unknown_ends_that_and_an_earlier_one_does_not() -> None:
    ids = KnownIds()
    checked(ids, task(9), KNOWN, 5.0)
    checked(ids, task(1), UNKNOWN, 10.0)
    assert ids.holds(task(1, missing_at=10.0), 12.0, AGAIN_S)
    checked(ids, task(9), BLANK, 11.0)  # names no status
    assert ids.holds(task(1, missing_at=10.0), 12.0, AGAIN_S)
    checked(ids, task(9), KNOWN, 11.0)
    assert not ids.holds(task(1, missing_at=10.0), 12.0, AGAIN_S)


def test_a_status_of_a_poll_that_left_before_is_no_sign_since() -> None:
    ids = KnownIds()
    ids.check(task(1), UNKNOWN, asked_at=9.9, now=10.0)  # by a token that was just written
    ids.check(task(9), KNOWN, asked_at=9.0, now=12.0)  # by the one before
    assert ids.needs_proof(task(1, missing_at=10.0))
    ids.check(task(9), KNOWN, asked_at=10.5, now=12.5)
    assert not ids.needs_proof(task(1, missing_at=10.0))


def test_the_witness_is_asked_for_a_second_poll_and_for_many_in_a_row_until_it_is_unknown_too() -> None:
    ids = KnownIds()
    assert ids.needs_proof(task(1, missing_at=0.0))
    assert not ids.needs_proof(task(2))
    unknown(ids, range(DOUBTFUL), 1.0)
    assert ids.doubts_all()
    checked(ids, task(0), UNKNOWN, 2.0, of_witness=True)
    assert not ids.doubts_all()
    checked(ids, task(0), KNOWN, 3.0)
    assert not ids.needs_proof(task(1, missing_at=0.0))
    unknown(ids, range(DOUBTFUL), 4.0)
    assert ids.doubts_all()


def test_so_many_unknown_ids_in_a_row_are_the_accounts_until_one_is_known() -> None:
    ids = KnownIds()
    answers = unknown(ids, range(ALL_UNKNOWN), 0.0)
    assert [isinstance(answer.outcome, Refused) for answer in answers] == [False] * (ALL_UNKNOWN - 1) + [True]
    assert checked(ids, task(0), KNOWN, 1.0) is KNOWN
    assert unknown(ids, range(ALL_UNKNOWN - 1), 2.0) == [UNKNOWN] * (ALL_UNKNOWN - 1)


def test_a_witness_that_is_unknown_within_an_hour_of_its_status_holds_unknown_ids_until_the_hour_is_over() -> None:
    ids = KnownIds()
    checked(ids, task(0), KNOWN, 0.0)
    assert isinstance(checked(ids, task(0), UNKNOWN, 10.0, of_witness=True).outcome, Refused)
    assert isinstance(checked(ids, task(1), UNKNOWN, FORGOTTEN_AFTER_S - 1).outcome, Refused)
    assert checked(ids, task(1), UNKNOWN, FORGOTTEN_AFTER_S) is UNKNOWN
    assert checked(ids, task(2), KNOWN, FORGOTTEN_AFTER_S) is KNOWN
    assert checked(ids, task(3), UNKNOWN, FORGOTTEN_AFTER_S + 1) is UNKNOWN


def test_by_other_credentials_no_unknown_id_is_believed_before_they_show_a_known_one() -> None:
    ids, known, unknown = (
        KnownIds(b"first"),
        replace(KNOWN, credentials=b"other"),
        replace(UNKNOWN, credentials=b"other"),
    )
    assert checked(ids, task(1), unknown, 0.0) is unknown, "that decides nothing yet"
    assert isinstance(checked(ids, task(1, missing_at=0.0), unknown, FORGOTTEN_AFTER_S).outcome, Refused)
    assert isinstance(checked(ids, task(2), unknown, FORGOTTEN_AFTER_S).outcome, Refused)
    assert checked(ids, task(3), known, FORGOTTEN_AFTER_S) is known
    assert checked(ids, task(1, missing_at=0.0), unknown, FORGOTTEN_AFTER_S + 1) is unknown
    assert ids.shown_by == b"other"


def test_a_status_of_a_poll_that_left_before_is_none_by_the_credentials_of_now() -> None:
    ids = KnownIds()
    ids.check(task(1), replace(KNOWN, credentials=b"second"), asked_at=5.0, now=6.0)
    ids.check(task(2), replace(KNOWN, credentials=b"first"), asked_at=4.0, now=7.0)
    assert ids.shown_by == b"second"


def test_the_refusal_has_hubspots_words_for_they_may_name_another_reason() -> None:
    ids, closed = KnownIds(), Answer(outcome=Missing(code=400, message="This account is being deactivated"))
    checked(ids, task(0), KNOWN, 0.0)
    refused = checked(ids, task(0), closed, 1.0, of_witness=True).outcome
    assert isinstance(refused, Refused)
    assert refused.detail.endswith('(HubSpot: "This account is being deactivated")')
