"""Text without characters that a format, a spreadsheet or a terminal takes for something else.

Source: OWASP, "CSV Injection", owasp.org/www-community/attacks/CSV_Injection: which cells a spreadsheet computes
"""

import re

import pandas as pd

# What XML 1.0 does not allow, and the carriage return, which its readers turn into a line feed; readers of CSV stumble
# over the same, and terminals obey more. Other formats hold all but halves of surrogate pairs, which no encoding has.
NOT_IN_XML = re.compile("[^\t\n\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
NOT_IN_CSV = re.compile("[^\t\n\x20-\x7e\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
SURROGATE = re.compile("[\ud800-\udfff]")
# also as wide as Chinese characters, which some spreadsheets take for the same
_FORMULA = re.compile("[=+\\-@\t\r\n\uff1d\uff0b\uff0d\uff20]")


class Cleaner:
    """Replaces characters, a control character by its picture (U+2400 and following), and counts them.

    Args:
        forbidden: the characters.
        for_spreadsheets: put an apostrophe before what a spreadsheet would compute.
    """

    def __init__(self, forbidden: re.Pattern[str], *, for_spreadsheets: bool = False) -> None:
        self._forbidden, self._for_spreadsheets = forbidden, for_spreadsheets
        self.n_replaced = 0

    def __call__(self, text: str) -> str:
        out, n = self._forbidden.subn(_picture, text)
        self.n_replaced += n
        return f"'{out}" if self._for_spreadsheets and _FORMULA.match(text) else out


def for_spreadsheets(table: pd.DataFrame) -> pd.DataFrame:
    """The table with text that CSV can hold and no spreadsheet or terminal acts on; numbers stay as they are."""
    clean = Cleaner(NOT_IN_CSV, for_spreadsheets=True)
    texts = [name for name in table if table[name].dtype.kind not in "biuf"]
    return table.assign(**{name: [clean(str(text)) for text in table[name]] for name in texts})


def _picture(found: re.Match[str]) -> str:
    return {"\x7f": "\u2421"}.get(found[0], chr(0x2400 + ord(found[0])) if found[0] < " " else "\ufffd")
