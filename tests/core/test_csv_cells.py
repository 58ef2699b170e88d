"""A cell of a CSV file does no harm in a spreadsheet or a terminal, and the poller reads back what it wrote."""

from hypothesis import given
from hypothesis import strategies as st

from poller.core.csv_cells import LONGEST_CELL, for_people, harmless, without_mark


@given(st.text(st.characters(exclude_categories=("Cc", "Cs"))))
def test_what_was_marked_is_read_back(text: str) -> None:
    assert without_mark(harmless(text)) == (text if not text.startswith("'") else without_mark(text))
    assert without_mark(harmless(f" ={text}")) == f" ={text}"


def test_an_apostrophe_that_is_the_person_s_own_stays() -> None:
    assert [without_mark(cell) for cell in ("'tis.png", "'", "''a", "'=1")] == ["'tis.png", "'", "''a", "=1"]


def test_control_characters_do_not_reach_a_terminal() -> None:
    assert harmless("\x1b]0;x\x07\x9b2J\x00a\tb\nc") == "\ufffd]0;x\ufffd\ufffd2Ja\tb\nc"


def test_a_cell_for_people_fits_a_spreadsheet_and_names_what_was_cut() -> None:
    """Excel takes what is beyond 32,767 characters for further rows."""
    assert for_people("x" * LONGEST_CELL) == "x" * LONGEST_CELL
    cut = for_people("=" + "x" * 40_000)
    assert len(cut) <= LONGEST_CELL
    assert cut.startswith("'=xxx")
    assert cut.endswith("x… (7,275 more characters)")
