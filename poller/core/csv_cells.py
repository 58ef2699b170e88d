"""Cells of CSV files that no spreadsheet program takes for formulas. Pure."""

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")  # also full-width


def harmless(cell: str | None) -> str:
    """Return a cell that is read as text; a spreadsheet would run one that begins like a formula."""
    if not cell:
        return ""
    text = cell.replace("\0", "")
    return f"'{text}" if text.lstrip(" \u00a0\ufeff").startswith(_FORMULA) else text


def without_mark(cell: str) -> str:
    """Return what `harmless` made a cell of: without the quote in front of what begins like a formula."""
    return cell[1:] if cell.startswith("'") and cell[1:].startswith(_FORMULA) else cell
