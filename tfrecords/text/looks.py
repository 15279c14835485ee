"""What text looks like that is data or markup and not prose, by its first lines."""

from __future__ import annotations

import html.entities
import re

from tfrecords.text.binary_looks import HEAD_BYTES, Look
from tfrecords.text.data_looks import comma_look, json_look, share, tab_look, token_look

_LINES = 300


def text_look(head: bytes) -> Look | None:
    """What text with these first HEAD_BYTES looks like if it is data or markup; None for prose, and
    for everything that is not clearly something else."""
    text = head.decode(errors="replace").removeprefix("\ufeff")
    if "\n" not in text.strip() and text.strip().count("\r") >= 2:
        return Look(
            "text whose lines end with carriage returns alone", "convert it: tr '\\r' '\\n'"
        )
    lines = text.split("\n", 2 * _LINES)
    if len(lines) > 1 and (len(head) >= HEAD_BYTES or len(lines) > 2 * _LINES):
        del lines[-1]  # it may be cut, or is all the rest
    lines = [line.rstrip("\r") for line in lines if not line.isspace() and line][:_LINES]
    if not lines:
        return None
    return next((look for looks in _TEXT if (look := looks(text, lines))), None)


def _vocabulary(text: str, lines: list[str]) -> Look | None:
    if {"[UNK]", "[CLS]", "[SEP]", "[MASK]"} <= set(lines):
        return Look("a WordPiece vocabulary", "leave it out")
    return None


_WIKI = re.compile(r"\s*<doc\s+id=")
_WIKI_DOCUMENT = re.compile(r"^<doc id=[^<>]*>\n[^<>]*\n</doc>$", re.MULTILINE)
_MARKUP = re.compile(
    r"\s*<(\?xml|!doctype|html|mediawiki|tei(corpus)?|tmx|xliff|rss|svg)\b", re.IGNORECASE
)
_TAG = re.compile(r"\s*</?[A-Za-z!][^<>]*>")
_HTML_TAG = re.compile(r"</(p|div|span|td|tr|li|ul|a|table|script|body|head)>", re.IGNORECASE)


def _markup(text: str, lines: list[str]) -> Look | None:
    if _WIKI.match(text):
        return Look("wikiextractor's output", "pass --format wikiextractor", "wikiextractor")
    if len(_WIKI_DOCUMENT.findall(text)) >= 3:
        return Look("wikiextractor's output with other lines", "keep the documents alone, sed -n "
                    "'/^<doc id=/,/^<.doc>/p', and pass --format wikiextractor")  # fmt: skip
    if text.startswith("WARC/"):
        return Look("a web archive", "extract the text, for example with trafilatura")
    # Speakers of a chat are in such brackets too, but nothing ends with </...> there; and Markdown
    # has tables in HTML.
    shown = "\n".join(lines)
    closing = shown.count("</")
    least = 0.5 if lines[0].lstrip().startswith("<") else 0.8
    marked = closing > 0.2 * len(lines) and share(lines, _TAG.match) >= least
    html = closing >= 0.8 * len(lines) and len(_HTML_TAG.findall(shown)) >= 0.5 * closing
    if marked or html or _MARKUP.match(text):
        if "<mediawiki" in text[:1000]:
            return Look("a dump of MediaWiki", "extract the text with wikiextractor")
        return Look("HTML or XML", "extract the text, for example with trafilatura or html2text")
    return None


_WIKI_LINK = re.compile(r"\[\[[^\s\[\]][^\[\]]*\]\]")
_WIKI_OTHERS = re.compile(r"\{\{[A-Za-z#][^{}]*\||'''[^']+'''|<ref[ >/]|\[\[(File|Category):")


def _wiki_markup(text: str, lines: list[str]) -> Look | None:
    # Notes in Markdown have such links, templates such braces, but hardly both.
    others = sum(len(_WIKI_OTHERS.findall(line)) for line in lines)
    if others >= max(3, 0.1 * len(lines)) and share(lines, _WIKI_LINK.search) >= 0.1:
        return Look("MediaWiki's markup", "extract the text, for example with mwparserfromhell or "
                    "pandoc -f mediawiki -t plain")  # fmt: skip
    return None


_LATEX = re.compile(r"\s*(%.*\n\s*)*\\document(class|style)\b")
_GETTEXT = re.compile(r'#|msg(id|str|ctxt|id_plural|str\[\d\])\s+"|"')
_TREE = re.compile(r"\s*\(\s*\(?(ROOT|TOP|S1?|SBARQ?|SINV|SQ|NP|VP|FRAG|INTJ|X)[\s(-]")
_LEAF = re.compile(r"\([A-Z.,:$#`'-]+ [^\s()]+\)")


def _source(text: str, lines: list[str]) -> Look | None:
    """LaTeX, translations of a program, and syntax trees."""
    if _LATEX.match(text):
        return Look("LaTeX", "convert it: pandoc -f latex -t plain")
    ids, texts = (sum(line.startswith(name) for line in lines) for name in ("msgid ", "msgstr"))
    if min(ids, texts) >= 1 and share(lines, _GETTEXT.match) >= 0.95:
        return Look("gettext's translations", "extract the texts, for example with polib")
    if _TREE.match(text) and share(lines, _LEAF.search) >= 0.5:
        return Look("syntax trees in brackets", "keep the words, for example with nltk's "
                    "Tree.leaves")  # fmt: skip
    return None


_CLOCK = r"\d{1,2}:\d\d[.,:]\d{1,3}"
_ARROW_TIME = re.compile(rf"\s*(\d+:)?{_CLOCK}\s+-->\s")
_COMMA_TIME = re.compile(rf"\d+:{_CLOCK},\d+:{_CLOCK}\s*$")
_BRACKET_TIME = re.compile(r"\s*\[\d{1,3}:\d\d[.:]\d{2,3}\]")
_FRAMES = re.compile(r"\{\d+\}\{\d*\}")


def _subtitles(text: str, lines: list[str]) -> Look | None:
    if text.startswith("[Script Info]"):
        mend = "grep '^Dialogue:' | cut -d, -f 10-"
    elif text.startswith("WEBVTT") or ("-->" in text and share(lines, _ARROW_TIME.match) >= 0.1):
        mend = "sed -E '/^[0-9]+.?$|-->|WEBVTT/d'"
    elif share(lines, _COMMA_TIME.match) >= 0.1:
        mend = "sed -E '/^[0-9:.,]+.?$/d'"
    elif share(lines, _BRACKET_TIME.match) >= 0.5:
        mend = r"sed -E 's/\[[^]]*\]//g'"
    elif share(lines, _FRAMES.match) >= 0.5:
        mend = r"sed -E 's/\{[^}]*\}//g'"
    else:
        return None
    return Look("subtitles", f"keep their text alone, for example {mend}")


_MBOX = re.compile(r"From \S.*\b(Mon|Tue|Wed|Thu|Fri|Sat|Sun) [A-Z][a-z]{2} +\d+ \d\d:\d\d")
_FIELD = re.compile(r"([A-Za-z][A-Za-z-]*):(\s|$)|[ \t]+\S")
_FIELDS = {"from", "to", "cc", "subject", "date", "reply-to", "sender", "newsgroups", "path"}
# A letter in a novel may have the others.
_TECHNICAL_FIELDS = {
    *("mime-version", "message-id", "received", "return-path", "delivered-to", "content-type"),
    *("content-transfer-encoding", "references", "lines", "organization", "nntp-posting-host"),
}


def _mail(text: str, lines: list[str]) -> Look | None:
    header = text.replace("\r\n", "\n").partition("\n\n")[0].split("\n")
    fields = [_FIELD.match(line) for line in header]
    if _MBOX.match(header[0]) and fields[1:2] != [None]:
        return Look("a mailbox", "extract the bodies, for example with Python's mailbox module")
    names = {field[1].lower() for field in fields if field and field[1]}
    if None not in fields and len(names & _FIELDS) >= 2 and names & _TECHNICAL_FIELDS:
        return Look("mail", "extract the body, for example with Python's email module")
    return None


_ENTITY = re.compile(r"&(#\d{2,7}|#[xX][0-9a-fA-F]{2,6}|[A-Za-z]{2,8}[1-4]?);")


def _entities(text: str, lines: list[str]) -> Look | None:
    def has_entity(line: str) -> bool:
        names = (match[1] for match in _ENTITY.finditer(line))
        return any(name[0] == "#" or f"{name};" in html.entities.html5 for name in names)

    # Articles about HTML show some.
    found = share(lines, has_entity)
    if found >= 0.2 and found * len(lines) >= 3:
        return Look("text with entities of HTML", "write their characters: python -c 'import html, "
                    "sys; sys.stdout.writelines(map(html.unescape, sys.stdin))'")  # fmt: skip
    return None


_TEXT = (
    *(_vocabulary, json_look, _markup, _wiki_markup, _source, _subtitles, _mail),
    *(token_look, tab_look, comma_look, _entities),
)
