"""What text looks like that is data: JSON, tables, and a token per line."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable
from typing import Any, TypeVar

from tfrecords.text.binary_looks import Look

_T = TypeVar("_T")


def share(things: list[_T], fits: Callable[[_T], object]) -> float:
    """The share of lines, or of other things, that fit."""
    return sum(map(bool, map(fits, things))) / len(things) if things else 0.0


# JSON.

_STRING = r'"(?:[^"\\]|\\.)*"'
_PLAIN = r"(?:-?\d[\d.eE+-]*|null|true|false)"
_OBJECT = re.compile(rf"\s*\{{\s*{_STRING}\s*:")
_ARRAY = re.compile(
    rf'\s*\[\s*(?:{_PLAIN}\s*,\s*)*(\{{\s*["}}]|\[\s*["\[]|{_STRING}\s*(,|\]\s*\Z))'
)
_LOGGED = re.compile(rf"[^{{]*\{{\s*{_STRING}\s*:.*\}}\s*")
_ESCAPE = re.compile(r"\\u[0-9a-fA-F]{4}|\\n")
_PYTHON_DICT = re.compile(r"\s*\{\s*'\w+'\s*:")


def json_look(text: str, lines: list[str]) -> Look | None:
    """JSON of any kind, or Python's dictionaries."""
    if look := _array_look(text, lines):
        return look
    if lines[0].lstrip().startswith('"'):
        # Dialogue has quotation marks as well, but no escapes.
        quoted = share(lines, lambda line: line.strip()[-1:] in '",' and line.strip()[0] == '"')
        escaped = len([line for line in lines if _ESCAPE.search(line)])
        if quoted == 1 and escaped >= min(2, len(lines)):
            return Look("JSON strings", "write their texts without escapes: jq -r .")
    if _PYTHON_DICT.match(text) and share(lines, _PYTHON_DICT.match) >= 0.9:
        return Look("Python's dictionaries", "write them with json.dumps, and pass --format jsonl")
    return _object_look(text, lines)


def _object_look(text: str, lines: list[str]) -> Look | None:
    objects = share(lines, _OBJECT.match) >= 0.9
    if _OBJECT.match(text):
        if objects and (len(lines) > 1 or text.count("\n") <= 1):
            return Look("JSON lines", "pass --format jsonl", "jsonl")
        if _parsed(lines[0]) is None:
            return Look("JSON over several lines", "write an object per line, jq -c ., and pass "
                        "--format jsonl")  # fmt: skip
        return None
    if objects:
        return Look("JSON lines after others", "keep the objects alone, grep '^ *{', and pass "
                    "--format jsonl")  # fmt: skip
    # Logs with plain words in their JSON may stay; escapes would become words.
    logged = share(lines, _LOGGED.fullmatch) >= 0.9 and share(lines, _ESCAPE.search) >= 0.5
    if logged:
        return Look("a log with JSON at the end of its lines", "keep the objects alone, "
                    "sed 's/^[^{]*//', and pass --format jsonl")  # fmt: skip
    return None


def _array_look(text: str, lines: list[str]) -> Look | None:
    # Lines of arrays: the text is most likely in the longest of their strings.
    rows = [row for row in map(_parsed, lines) if isinstance(row, list)]
    if len(lines) > 1 and len(rows) >= 0.9 * len(lines):
        lengths = [len(value) if isinstance(value, str) else 0 for value in rows[0]] or [0]
        index = lengths.index(max(lengths))
        return Look("JSON arrays, one per line", "write objects with the text, for example "
                    f"jq -c '{{text: .[{index}]}}', and pass --format jsonl")  # fmt: skip

    if not _ARRAY.match(text) and not (
        text.lstrip().startswith("[") and isinstance(_parsed(text), list)
    ):
        return None
    first = text.lstrip()[1:].lstrip()[:1]
    if first == "{":
        return Look("a JSON array", "write its elements one per line, jq -c '.[]', and pass "
                    "--format jsonl")  # fmt: skip
    if first == '"':
        return Look(
            "a JSON array of strings",
            "write them as lines, jq -r '.[]', or, if they are documents, as objects, "
            "jq -c '.[] | {text: .}', and pass --format jsonl",
        )
    return Look("a JSON array", "write its texts as lines, jq -r '.. | strings'")


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


# A token per line.

_LABEL = re.compile(r"(O|[BIESLU]-[A-Za-z_-]+)$")
# Of Universal Dependencies and of the Penn Treebank.
_TAG_NAME = re.compile(
    r"ADJ|ADP|ADV|AUX|CCONJ|DET|INTJ|NOUN|NUM|PART|PRON|PROPN|PUNCT|SCONJ|SYM|VERB|X|"
    r"CC|CD|DT|EX|FW|IN|JJ[RS]?|LS|MD|NNP?S?|PDT|POS|PRP\$?|RB[RS]?|RP|TO|UH|VB[DGNPZ]?|WDT|WP\$?|"
    r"WRB|[.,:#$()]|``|''|-[LR]RB-|HYPH|NFP"
)
_TOKENS = Look("CoNLL, a token per line", "write sentences; those of CoNLL-U are in its lines "
               "'# text = ...'")  # fmt: skip


def token_look(text: str, lines: list[str]) -> Look | None:
    """CoNLL and other formats with a token per line, and its tag or label."""
    if text.startswith("-DOCSTART-"):
        return _TOKENS
    lines = [line for line in lines[:100] if line[0] != "#"]
    rows = [line.split("\t" if "\t" in line else None) for line in lines]
    widths = {len(row) for row in rows}
    if len(rows) < 3 or len(widths) > 2:
        return None
    # Ten words are a verse with its number; ten columns with tabs are of CoNLL-U.
    universal = all(line.count("\t") == 9 and line[0].isdigit() for line in lines)
    ends = [row[-1] for row in rows if len(row) > 1]
    labels = len([end for end in ends if _LABEL.match(end)]) >= 0.9 * len(rows)
    # Lists of places may end in IN and MD, of states, but in little else.
    tags = [end for end in ends if _TAG_NAME.fullmatch(end)]
    kinds = {tag for tag in tags if tag[0].isalpha()}
    tagged = max(widths) <= 3 and len(tags) >= 0.95 * len(rows) and len(kinds) >= 3
    return _TOKENS if universal or labels or tagged else None


# Tables.

_TABLE = Look("a table with tabs", "pass --format tsv --text-field NAME if its first row names "
              "the columns, else keep one: cut -f N", "tsv")  # fmt: skip
_CSV = Look("CSV", "pass --format csv --text-field NAME if its first row names the columns", "csv")
_PIPES = Look("CSV with | between the columns", "write tabs for them, tr '|' '\\t', and pass "
              "--format tsv")  # fmt: skip
_ESCAPED = Look("CSV with backslashes before quotation marks", "double the marks instead, "
                "sed 's/\\\\\"/\"\"/g', and pass --format csv")  # fmt: skip
_EXCEL = Look("CSV by Excel, with a first line of the delimiter", "remove that line, sed 1d, and "
              "pass --format csv")  # fmt: skip


def tab_look(text: str, lines: list[str]) -> Look | None:
    """A table with tabs, by the number of them in each line."""
    if "\t" not in text or len(lines) < 3:
        return None
    # Indentation does not count.
    columns = [line.strip().count("\t") for line in lines]
    usual = max(set(columns), key=columns.count)
    if usual and columns.count(usual) >= 0.9 * len(lines) and columns.count(0) <= 0.05 * len(lines):
        return _TABLE
    return None


_NAME = re.compile(r'\s*("[^"]{0,39}[^".!?]"|\w[\w .\-/()]{0,39})')
_NUMBER = re.compile(r"-?\d+(\.\d+)?")
_MARKDOWN_RULE = re.compile(r"[-:| ]+")


def comma_look(text: str, lines: list[str]) -> Look | None:
    """A table with commas, semicolons, pipes, or tabs inside of quotation marks."""
    if re.fullmatch(r"sep=.\s*", lines[0]):
        return _EXCEL
    # Text has commas as well: the first row has names, or fields are quoted.
    delimiter = _header_delimiter(lines[0])
    if delimiter is None or len(lines) < 3:
        return _unnamed_look(text, lines)
    if delimiter == "|" and _MARKDOWN_RULE.fullmatch(lines[1]):
        return None
    escaped = '\\"' in text and not _rows(lines, delimiter, strict=True)
    if escaped and _fitting(_rows(lines, delimiter, escapechar="\\")) >= 0.95:
        return _ESCAPED
    if _is_named_table(lines, delimiter):
        return {"\t": _TABLE, "|": _PIPES}.get(delimiter, _CSV)
    return None


def _header_delimiter(line: str) -> str | None:
    """What parts the names of columns in the first row; None if it is no row of names."""
    for delimiter in ",;|\t":
        # The index that pandas writes has no name.
        first, *others = line.split(delimiter)
        if others and line[-1] != "." and all(map(_NAME.fullmatch, [first or "index", *others])):
            return delimiter
    return None


def _is_named_table(lines: list[str], delimiter: str) -> bool:
    """Whether the rows fit the names in the first."""
    rows = _rows(lines, delimiter)
    fitting = _fitting(rows)
    numbered = len(rows) >= 4 and share(rows[1:], lambda row: _NUMBER.fullmatch(row[0])) >= 0.95
    quoted = _quoted_fields(lines, delimiter) >= 0.5 * len(rows)
    # Spaces after all the commas may be those of a list in a sentence.
    if f"{delimiter} " in lines[0]:
        return fitting >= 0.95 and (numbered or quoted)
    # Rows that are short, or long because a text with commas is not quoted, need more to tell.
    is_short = fitting >= 0.5 and all(len(row) <= len(rows[0]) for row in rows)
    # Verses with a comma each may all be as long as the first.
    is_verse = all(len(line) <= len(lines[0]) for line in lines)
    return numbered or (fitting >= 0.95 and not is_verse) or (quoted and is_short)


def _rows(lines: list[str], delimiter: str, **options: Any) -> list[list[str]]:
    """The rows of lines as CSV, without the last, which may be cut; none if they are no CSV."""
    rows: list[list[str]] = []
    try:
        for row in csv.reader(lines, delimiter=delimiter, **options):
            rows.append(row)
    except csv.Error as error:
        if "unexpected end" not in str(error):  # of a quoted field
            return []
    return rows[: max(3, len(rows) - 1)]


def _fitting(rows: list[list[str]]) -> float:
    """The share of rows with as many columns as the first."""
    if len(rows) < 3 or len(rows[0]) < 2:
        return 0.0
    return share(rows, lambda row: len(row) == len(rows[0]))


def _quoted_fields(lines: list[str], delimiter: str) -> float:
    """How many fields are in quotation marks, by the marks beside delimiters and ends of lines."""
    part = re.escape(delimiter)
    marks = re.compile(rf'(?:^|{part})"(?!")|(?<!")"(?:$|{part})')
    return sum(len(marks.findall(line)) for line in lines) / 2


def _unnamed_look(text: str, lines: list[str]) -> Look | None:
    """A table without a first row of names, where quoted fields leave no doubt."""
    delimiter = max(",;", key=lambda one: text.count(f'{one}"') + text.count(f'"{one}'))
    escapes = {"escapechar": "\\"} if '\\"' in text else {}
    rows = _rows(lines, delimiter, strict=True, **escapes)
    if _fitting(rows) < 0.95 or _quoted_fields(lines, delimiter) < 0.9 * len(rows):
        return None
    # Lines such as [He said,"Go."] have two columns too.
    columns = list(zip(*rows, strict=False))
    numbers = any(all(map(_NUMBER.fullmatch, column)) for column in columns)
    whole = '","' in lines[0] and share(lines, lambda line: line[0] == '"') == 1
    if not (numbers or whole or len(columns) >= 3):
        return None
    lengths = [sum(map(len, column)) for column in columns]
    names = [f"column{number}" for number in range(1, len(columns) + 1)]
    names[lengths.index(max(lengths))] = "text"
    return Look("CSV without a first row that names the columns", "add one, for example "
                f"(echo '{delimiter.join(names)}'; cat FILE), and pass --format csv")  # fmt: skip
