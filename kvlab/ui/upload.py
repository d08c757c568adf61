"""Text from strangers: what is checked on the server, whatever the browser said."""

from __future__ import annotations

LIMIT = 1_000_000
"""Bytes of one prompt."""


def read_upload(data: bytes, name: str) -> str:
    """The text of an uploaded file. Raises ValueError with a sentence: wrong ending, too large, not UTF-8, binary, empty."""
    if not name.lower().endswith((".txt", ".md")):
        raise ValueError("Only .txt and .md files are read.")
    if len(data) > LIMIT:
        raise ValueError(f"The file has {len(data):,} bytes; at most {LIMIT:,} are read. Split it.")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"The file is not UTF-8 text: byte {error.start:,} cannot be read. Save it as UTF-8.") from None
    return check_text(text, "The file")


def check_text(text: str, what: str = "The prompt") -> str:
    """The text itself. Raises ValueError with a sentence for NUL characters, too many bytes, or nothing but blanks."""
    if "\x00" in text:
        raise ValueError(f"{what} holds a NUL character at place {text.index(chr(0)) + 1:,}, so it is not plain text. Remove it.")
    if (count := len(text.encode("utf-8", "surrogatepass"))) > LIMIT:
        raise ValueError(f"{what} has {count:,} bytes; at most {LIMIT:,} are read. Shorten it.")
    if not text.strip():
        raise ValueError(f"{what} is empty. Write one, choose a preset or upload a file.")
    return text
