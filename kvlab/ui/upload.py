"""Text from strangers: what is checked on the server, whatever the browser said."""

from __future__ import annotations

import csv
import io
import json
import logging
from dataclasses import dataclass
from typing import Any

import pypdf
from charset_normalizer import from_bytes
from pypdf.errors import PyPdfError

LIMIT = 1_000_000
"""Bytes of one prompt, and of one file of text."""
PDF_LIMIT, PAGES = 5_000_000, 400
"""Bytes and pages of a PDF."""
RECORDS = 2_000
"""Prompts that one file may hold."""
ENDINGS = ("txt", "md", "json", "jsonl", "csv", "pdf")
PROMPT = ("context", "prompt", "text")
"""Names under which a record holds its prompt, the first that is there."""
GUESS = 48
"""Bytes below which an encoding cannot be told from others."""
KNOWN = ("cp1252", "cp1250", "cp1251", "koi8_r", "cp1253", "cp1255", "cp1256", "shift_jis", "euc_jp", "gb18030", "big5", "euc_kr")
"""Encodings that are thought of where a text is not UTF-8 and has no mark of its own."""

logging.getLogger("pypdf").setLevel(logging.ERROR)  # it warns of every small damage that it mends


@dataclass(frozen=True)
class Record:
    """A prompt and its question, "" where there is none."""

    prompt: str
    question: str = ""


@dataclass(frozen=True)
class Upload:
    """What a file holds, at least one record. `note`: how it was read, for the screen. `task`: it is a JSONL of questions with answers."""

    records: tuple[Record, ...]
    note: str = ""
    task: bool = False


def read_upload(data: bytes, name: str) -> Upload:
    """The prompts in a file. Raises ValueError with a sentence: wrong ending, too large, unknown encoding, broken, empty."""
    ending = name.lower().rpartition(".")[2]
    if ending not in ENDINGS or "." not in name:
        raise ValueError(f"Files that end in {', '.join('.' + e for e in ENDINGS[:-1])} or .{ENDINGS[-1]} are read.")
    limit = PDF_LIMIT if ending == "pdf" else LIMIT
    if len(data) > limit:
        raise ValueError(f"The file has {len(data):,} bytes; at most {limit:,} are read. Split it.")
    if ending == "pdf":
        return Upload((Record(check_text(pdf_text(data), "The PDF")),), "Text of the PDF, page by page; pictures are left out.")
    text, note = decoded(data)
    check_text(text, "The file")
    found = {"json": _json, "jsonl": _jsonl, "csv": _csv}.get(ending, lambda text: Upload((Record(text),)))(text)
    for number, record in enumerate(found.records, 1):
        check_text(record.prompt, f"Record {number:,}" if len(found.records) > 1 else "The file")
    return Upload(found.records, " ".join(filter(None, (note, found.note))), found.task)


def decoded(data: bytes) -> tuple[str, str]:
    """The text of some bytes, and a remark where its encoding had to be guessed. Raises ValueError with a sentence."""
    for mark, encoding in ((b"\xef\xbb\xbf", "utf-8-sig"), (b"\xff\xfe\x00\x00", "utf-32"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16")):
        if data.startswith(mark):
            try:
                return data.decode(encoding), "" if encoding == "utf-8-sig" else f"Read as {encoding.upper()}."
            except UnicodeDecodeError:
                raise ValueError(f"The file says it is {encoding.upper().removesuffix('-SIG')} text, but it is not. Save it as UTF-8.") from None
    try:
        return data.decode("utf-8"), ""
    except UnicodeDecodeError as error:
        wrong = f"The file is not UTF-8 text: byte {error.start:,} cannot be read"
    found = list(from_bytes(data, cp_isolation=list(KNOWN))) if len(data) >= GUESS and b"\x00" not in data else []
    if not found:
        raise ValueError(f"{wrong}, and its encoding cannot be told. Save it as UTF-8.")
    best, *others = found
    alike = [other.encoding for other in others if (other.chaos, other.coherence) == (best.chaos, best.coherence) and str(other) != str(best)]
    if alike:  # the same bytes are other letters there, and nothing says which are meant
        raise ValueError(f"{wrong}, and it could be {best.encoding} or {alike[0]} as well. Save it as UTF-8.")
    return str(best), f"Its encoding was guessed: {best.encoding}. If letters look wrong, save it as UTF-8."


def pdf_text(data: bytes) -> str:
    """The text of a PDF. Raises ValueError with a sentence: locked, broken, too many pages, no text in it."""
    try:
        reader = pypdf.PdfReader(io.BytesIO(data))
        locked = reader.is_encrypted and not reader.decrypt("")
        count = 0 if locked else len(reader.pages)
        text = "" if locked or count > PAGES else "\n\n".join(page.extract_text() for page in reader.pages)
    except (PyPdfError, LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError, OSError, NotImplementedError) as error:
        raise ValueError("The file is no PDF that can be read. Save it anew, or copy its text into a .txt file.") from error  # all of what broken files raise
    if locked:
        raise ValueError("The PDF is locked with a password. Save a copy without one.")
    if count > PAGES:
        raise ValueError(f"The PDF has {count:,} pages; at most {PAGES} are read. Split it.")
    if not text.strip():
        raise ValueError("The PDF holds no text: its pages may be pictures. Turn them into text first.")
    return text.replace("\x00", "")


def _record(found: dict[str, Any], where: str) -> Record | None:
    """A record of an object, None where it has no prompt. Raises ValueError where a field is no text."""
    name = next((name for name in PROMPT if name in found), None)
    if name is None:
        return None
    for field in (name, "question"):
        if not isinstance(found.get(field) or "", str):
            raise ValueError(f'{where}: "{field}" is a text, not {json.dumps(found[field])[:40]}.')
    return Record(found[name] or "", found.get("question") or "")


def _json(text: str) -> Upload:
    try:
        said = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        where = f" ({error.msg}, line {error.lineno})" if isinstance(error, json.JSONDecodeError) else ": it is nested too deeply"
        raise ValueError(f"The file is not JSON{where}. Mend it, or name it .txt.") from None
    record = _record(said, "The file") if isinstance(said, dict) else None
    return Upload((record,)) if record else Upload((Record(text),), 'The file has no "prompt", "context" or "text" of its own: it is the prompt as it stands.')


def _jsonl(text: str) -> Upload:
    records, task = [], True
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            said = json.loads(line)
        except (json.JSONDecodeError, RecursionError):
            raise ValueError(f"Line {number:,} is not JSON; each line is one object.") from None
        record = _record(said, f"Line {number:,}") if isinstance(said, dict) else None
        if record is None:
            raise ValueError(f'Line {number:,} has no "context". Each line holds "context", and "question" and "answers" where there are any.')
        records.append(record)
        task = task and bool(record.question.strip()) and "context" in said and bool(said.get("answers"))
    return Upload(_few(records), task=task)


def _csv(text: str) -> Upload:
    try:
        rows = list(csv.DictReader(io.StringIO(text), strict=True))
    except csv.Error as error:
        raise ValueError(f"The file is no CSV: {error}. Export it again, or name it .txt.") from None
    records = [record for row in rows if (record := _record({str(k).strip().lower(): v for k, v in row.items()}, "The file"))]
    if not records:
        return Upload((Record(text),), 'The table has no column "prompt", "context" or "text": it is the prompt as it stands.')
    return Upload(_few(records))


def _few(records: list[Record]) -> tuple[Record, ...]:
    if len(records) > RECORDS:
        raise ValueError(f"The file holds {len(records):,} prompts; at most {RECORDS:,} are read. Split it.")
    return tuple(records)


def check_text(text: str, what: str = "The prompt") -> str:
    """The text itself. Raises ValueError with a sentence for NUL characters, too many bytes, or nothing but blanks."""
    if "\x00" in text:
        raise ValueError(f"{what} holds a NUL character at place {text.index(chr(0)) + 1:,}, so it is not plain text. Remove it.")
    if (count := len(text.encode("utf-8", "surrogatepass"))) > LIMIT:
        raise ValueError(f"{what} has {count:,} bytes; at most {LIMIT:,} are read. Shorten it.")
    if not text.strip():
        raise ValueError(f"{what} is empty. Write one, choose a preset or upload a file.")
    return text
