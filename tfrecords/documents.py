"""Files to documents: a document is the list of its sentences, the unit that next sentence prediction needs."""

import os
import pathlib
import re

import nupunkt

from tfrecords.errors import InputError

FORMATS = ("sentences", "text")
ERRORS = ("strict", "replace")

_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ\x00": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
_BYTE_ORDER_MARK = "\ufeff"
# Full stops that nupunkt does not know and that need no white space behind them: CJK, Devanagari, Arabic, Ethiopic, Armenian.
_OTHER_STOPS = re.compile(r"(?<=[。！？｡।॥؟۔።։])(?![。！？｡।॥؟۔።։」』”’）\"'])\s*")


def input_files(inputs):
    """Expands files and directories to a list of files.

    A directory stands for all files below it, sorted by path, but for those whose names begin with a dot.

    Raises:
        InputError: Nothing is there, it is not a regular file, it cannot be read, or a file is there twice.
    """
    files = []
    for path in map(pathlib.Path, inputs):
        if path.is_dir():
            files += _files_below(path)
        elif path.is_file():
            files.append(path)
        elif path.exists():
            raise InputError(f"Expected a text file or a directory. Received: {path}, which is neither.")
        else:
            raise InputError(f"Expected a text file or a directory at {path}. Received: no such file.")
    if not files:
        raise InputError("Expected at least one text file. Received: none.")
    seen = {}
    for file in files:
        other = seen.setdefault(file.resolve(), file)
        if other is not file:
            raise InputError(f"Expected each text file once. Received: {file}, which is {other}; name it once.")
    return files


def _files_below(directory):
    def refuse(error):
        raise InputError(f"Expected a directory that can be read. Received: {error.filename} ({error.strerror}).") from None

    files = []
    for parent, directories, names in os.walk(directory, onerror=refuse):
        directories[:] = [name for name in directories if not name.startswith(".")]
        paths = [pathlib.Path(parent, name) for name in names if not name.startswith(".")]
        links = [pathlib.Path(parent, name) for name in directories if pathlib.Path(parent, name).is_symlink()]
        for path in paths + links:
            if not path.is_file():
                raise InputError(
                    f"Expected text files in {directory}. Received: {path}, which is none; name what it stands for."
                )
        files += paths
    if not files:
        raise InputError(f"Expected text files. Received: {directory}, a directory without files.")
    return sorted(files)


def read_documents(files, format="sentences", errors="strict"):
    """Yields the documents of `files` in order, each a non-empty list of non-empty sentences.

    Args:
        files: Paths of text files in UTF-8.
        format: "sentences": one sentence per line, an empty line ends a document (the format of google-research/bert).
            "text": running text, whose paragraphs end at an empty line and are broken into sentences here; two or more
            empty lines end a document. In both, the end of a file ends a document, and only a line feed ends a line.
        errors: What invalid UTF-8 does: "strict" stops with the file and the byte offset, "replace" puts U+FFFD, which
            tokenization drops.

    Raises:
        InputError: A file cannot be read or is not UTF-8.
    """
    if format not in FORMATS:
        raise InputError(f"Expected a format among {', '.join(FORMATS)}. Received: {format!r}.")
    for path in files:
        lines = _read_lines(path, errors)
        yield from _sentence_documents(lines) if format == "sentences" else _text_documents(lines)


def _read_lines(path, errors):
    offset = 0
    try:
        with open(path, "rb") as file:
            start = file.peek(6)
            for magic, kind in _COMPRESSED.items():
                if start.startswith(magic):
                    raise InputError(
                        f"Expected plain text. Received: {path}, which is compressed ({kind}); decompress it first."
                    )
            for line in file:
                try:
                    text = line.decode("utf-8", errors).removeprefix(_BYTE_ORDER_MARK)
                except UnicodeDecodeError as error:
                    raise InputError(
                        f"{path}: expected UTF-8. Received: an invalid byte at offset {offset + error.start}; "
                        "convert the file or pass --errors replace."
                    ) from None
                yield text.strip()
                offset += len(line)
    except OSError as error:
        raise InputError(f"Expected a readable text file. Received: {path} ({error.strerror}).") from None


def _sentence_documents(lines):
    document = []
    for line in lines:
        if line:
            document.append(line)
        elif document:
            yield document
            document = []
    if document:
        yield document


def _text_documents(lines):
    document, paragraph, empty_lines = [], [], 0
    for line in lines:
        if line:
            if empty_lines >= 2 and document:
                yield document
                document = []
            paragraph.append(line)
            empty_lines = 0
        else:
            document += break_sentences(" ".join(paragraph))
            paragraph = []
            empty_lines += 1
    document += break_sentences(" ".join(paragraph))
    if document:
        yield document


def break_sentences(paragraph):
    """Breaks running text into sentences with nupunkt, and at full stops of scripts that it has no rules for.

    >>> break_sentences("See e.g. Dr. Smith. It is late!")
    ['See e.g. Dr. Smith.', 'It is late!']
    >>> break_sentences("这是一支笔。那是一本书。")
    ['这是一支笔。', '那是一本书。']
    """
    sentences = (part for sentence in nupunkt.sent_tokenize(paragraph) for part in _OTHER_STOPS.split(sentence))
    return [sentence.strip() for sentence in sentences if sentence.strip()]
