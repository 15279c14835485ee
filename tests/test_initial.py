"""Whether records fit what a run starts from: how their text was normalized."""

import pathlib
import types
import warnings

import pytest

from kbert.formats.google import usage
from kbert.formats.initial import _check_normalization
from tfrecords import InputError, Normalization

UNCASED, CASED = Normalization(cased=False), Normalization(cased=True)
KEPT = Normalization(cased=False, accents="keep")
SPLIT = Normalization(cased=True, long_words="split")


def check(there, here, is_guessed=False):
    _check_normalization(
        types.SimpleNamespace(normalization=there, is_guessed=is_guessed, source="the model"),
        types.SimpleNamespace(normalization=here, directory=pathlib.Path("records")),
    )


@pytest.mark.parametrize(
    ("there", "here", "message"),
    [
        (UNCASED, CASED, "Expected uncased records, .* Received: cased ones .* with --uncased."),
        (
            KEPT,
            UNCASED,
            r"Expected uncased \(accents kept\) records, as the model is. Received: uncased ones "
            r"in records; make them with --uncased --accents keep\.",
        ),
        (UNCASED, KEPT, r"Received: uncased \(accents kept\) ones in .* with --uncased\."),
    ],
)
def test_what_a_model_says_of_itself_counts(there, here, message):
    with pytest.raises(InputError, match=message):
        check(there, here)
    check(there, there)


def test_the_word_of_the_records_counts_more_than_a_guess():
    with pytest.warns(UserWarning) as caught:
        check(CASED, UNCASED, is_guessed=True)
    assert [str(warning.message) for warning in caught] == [
        "the model does not say how its text is normalized. By its vocabulary it is cased; taken "
        "as uncased, as the records are."
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check(CASED, CASED, is_guessed=True)


def test_long_words_may_be_split_for_a_model_that_knew_none():
    check(CASED, SPLIT)


@pytest.mark.parametrize(
    ("normalization", "lower", "notes"),
    [
        (UNCASED, True, ()),
        (CASED, False, ()),
        (KEPT, False, ("This model lowers case and keeps accents, which Google's FullTokenizer",)),
        (
            Normalization(cased=True, accents="strip", long_words="split"),
            False,
            ("This model strips accents and keeps case", "they were split into several words"),
        ),
    ],
)
def test_the_card_for_googles_scripts_says_what_their_tokenizer_cannot(normalization, lower, notes):
    text = usage(types.SimpleNamespace(normalization=normalization))
    assert f"--do_lower_case={lower} " in text
    for note in ("This model", "they were split"):
        assert (note in text) == any(note in one for one in notes)
    assert all(note in text for note in notes)
