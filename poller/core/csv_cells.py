"""Cells of CSV files that no spreadsheet program takes for formulas. Pure."""

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")  # also full-width


def harmless(cell: str | None) -> str:
    """Return a cell that is read as text; a spreadsheet would run one that begins like a formula."""
    if not cell:
        return ""
    text = cell.replace("\0", "")
    return f"'{text}" if text.lstrip(" \u00a0\ufeff").startswith(_FORMULA) else text
