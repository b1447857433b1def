"""Make text safe to look at: what would move the cursor, hide or reorder text is shown as an escape."""

from __future__ import annotations

import re

# C0 and C1 controls but tab and newline, soft hyphen, zero-width and bidi marks, line separators, tags, surrogates.
_UNSAFE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u115f\u1160\u180e\u200b-\u200f\u2028-\u202f\u205f-\u206f\u3164\ufeff"
    "\uffa0\ufff0-\ufffb\U000e0000-\U000e0fff\ud800-\udfff]"
)


def visible(text: str) -> str:
    """The text with every control and invisible character escaped; line ends become newlines."""
    return _UNSAFE.sub(_escaped, text.replace("\r\n", "\n"))


def one_line(text: str) -> str:
    """The text on one line, nothing left out: line ends and tabs are escaped too."""
    return visible(text.replace("\n", "\\n").replace("\t", "\\t").replace("\r", "\\r"))


def _escaped(match: re.Match[str]) -> str:
    code = ord(match[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"  # noqa: PLR2004 - widths of escapes
