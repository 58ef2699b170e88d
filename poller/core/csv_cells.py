"""Cells of CSV files: those that no spreadsheet takes for formulas, and those that one damaged. Pure."""

import re

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")  # also full-width


_CONTROL = {code: "\ufffd" for code in (*range(1, 32), *range(127, 160)) if chr(code) not in "\t\n\r\x85"} | {0: None}
# Of Excel in English, German, French, Spanish, Italian, Portuguese and Dutch; `####` is what a narrow column shows.
_ERROR = re.compile(
    r"#(?:N/A|NV|N/D|N/B|¡?REF!|BEZUG!|RIF!|VERW!|NAME\?|NOM\?|¿NOMBRE\?|NOME\?|NAAM\?|VALUE!|WERT!|VALEUR!|¡?VALOR!|VALORE!"
    r"|WAARDE!|¡?DIV/0!|DEEL/0!|NULL!|NUL!|¡?NULO!|NULLO!|LEEG!|¡?NUM!|NÚM!|ZAHL!|NOMBRE!|GETAL!|SPILL!|CALC!|#{3,})"
)
_ROUNDED = re.compile(
    r"[0-9](?:[.,][0-9]+)?E\+[0-9]{2,3}|[0-9][.,][0-9]+E-[0-9]{2,3}"
)  # `2E-10` may be a part's number
_FORMULA_AS_TEXT = re.compile(r'="((?:[^"]|"")*)"')
_FORMULA_CELL = re.compile(r"=\s*(?:[^\W\d][\w.]*\(|\$?[A-Za-z]{1,3}\$?[0-9]|[\w']+!).*", re.DOTALL)
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


def without_formula(cell: str) -> str:
    """Return the text in `="00123"`, which is how programs keep a spreadsheet from changing it; else the cell."""
    found = _FORMULA_AS_TEXT.fullmatch(cell.strip()) if '="' in cell else None
    return cell if found is None else found[1].replace('""', '"')


def is_error(text: str) -> bool:
    """Return whether a cell is an error of a spreadsheet, such as `#REF!`."""
    return text.startswith("#") and _ERROR.fullmatch(text) is not None


def damage(cell: str) -> str | None:
    """Return how a spreadsheet damaged a cell, with the remedy; None where it shows nothing."""
    text = cell.strip()
    if is_error(text):
        return f"is {text}, an error of a spreadsheet: correct the cell"
    if text.startswith("=") and _FORMULA_CELL.fullmatch(text) is not None:
        return "is a formula: copy the column and paste it as values"
    if "E" in text and _ROUNDED.fullmatch(text) is not None:
        return f"is {text}, a number that a spreadsheet rounded: export the column as text"
    return None


def _is_formula(text: str) -> bool:
    return text.lstrip(" \u00a0\ufeff").startswith(_FORMULA)
