"""Cells of CSV files that no spreadsheet program takes for formulas. Pure."""

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")  # also full-width


_CONTROL = {code: "\ufffd" for code in (*range(1, 32), *range(127, 160)) if chr(code) not in "\t\n\r\x85"} | {0: None}
LONGEST_CELL = 32_767  # characters; Excel reads what is beyond them as further rows


def harmless(cell: str | None) -> str:
    """Return a cell that is read as text: a spreadsheet would run one that begins like a formula, and a terminal what
    its control characters ask for."""
    if not cell:
        return ""
    text = cell.translate(_CONTROL)
    return f"'{text}" if _is_formula(text) else text


def for_people(cell: str | None) -> str:
    """Return a harmless cell that is short enough for a spreadsheet; its end names how much was cut off."""
    text = harmless(cell)
    if len(text) <= LONGEST_CELL:
        return text
    kept = LONGEST_CELL - 40
    return f"{text[:kept]}… ({len(text) - kept:,} more characters)"


def without_mark(cell: str) -> str:
    """Return what `harmless` made a cell of: without the quote in front of what begins like a formula."""
    return cell[1:] if cell.startswith("'") and _is_formula(cell[1:]) else cell


def _is_formula(text: str) -> bool:
    return text.lstrip(" \u00a0\ufeff").startswith(_FORMULA)
