"""The picture of the curves is drawn from whatever there is."""

import matplotlib.image
import pytest

from kbert.run.baseline import Baselines
from kbert.run.curves import draw_curves

BASELINES = Baselines(
    unigram_loss=5.7, unigram_accuracy=0.05, majority_loss=0.69, majority_accuracy=0.53
)
TRAIN = {"mlm_loss": 5.0, "mlm_accuracy": 0.2, "nsp_loss": 0.6, "nsp_accuracy": 0.7}
HELD_OUT = {f"val_{key}": value * 1.1 for key, value in TRAIN.items()}


ALONE = {key: value for key, value in TRAIN.items() if key.startswith("mlm")}
BASELINES_ALONE = Baselines(
    unigram_loss=5.7, unigram_accuracy=0.05, majority_loss=None, majority_accuracy=None
)


def rows(*parts, num_rows=3):
    row = {key: value for part in parts for key, value in part.items()}
    return [
        {"step": 7 * (n + 1), **{key: value / (n + 1) for key, value in row.items()}}
        for n in range(num_rows)
    ]


def picture(path, rows, baselines, pairs="nsp"):
    draw_curves(rows, pairs, baselines, path)
    assert path.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    return matplotlib.image.imread(path, format="png")


@pytest.mark.parametrize("baselines", [BASELINES, None], ids=["baselines", "none"])
@pytest.mark.parametrize(
    "history",
    [rows(TRAIN, HELD_OUT), rows(TRAIN), rows(TRAIN, num_rows=1)],
    ids=["both", "train", "one"],
)
def test_draws_what_there_is(tmp_path, history, baselines):
    image = picture(tmp_path / "curves.png", history, baselines)
    height, width, _ = image.shape
    assert height > 500 and width > 800
    for vertical in (slice(0, height // 2), slice(height // 2, None)):
        for horizontal in (slice(0, width // 2), slice(width // 2, None)):
            assert image[vertical, horizontal].std() > 0.05  # every panel has something in it


@pytest.mark.parametrize("baselines", [BASELINES_ALONE, None], ids=["baselines", "none"])
def test_single_segments_have_the_upper_panels_alone(tmp_path, baselines):
    alone = picture(tmp_path / "alone.png", rows(ALONE), baselines, pairs="none")
    both = picture(tmp_path / "both.png", rows(TRAIN), baselines and BASELINES)
    assert alone.shape[1] == both.shape[1]
    assert alone.shape[0] == pytest.approx(both.shape[0] / 2, abs=1)
    assert alone.std() > 0.05


def test_the_titles_say_what_the_pairs_are(tmp_path, monkeypatch):
    titles = []
    monkeypatch.setattr(
        "matplotlib.axes.Axes.set_title", lambda axes, title, **_: titles.append(title)
    )
    masked = ["masked tokens: loss (nats)", "masked tokens: accuracy"]
    for pairs, more in {
        "nsp": ["next sentence: loss (nats)", "next sentence: accuracy"],
        "sop": ["sentence order: loss (nats)", "sentence order: accuracy"],
        "none": [],
    }.items():
        titles.clear()
        picture(tmp_path / "curves.png", rows(ALONE if pairs == "none" else TRAIN), None, pairs)
        assert titles == masked + more


def test_every_curve_and_baseline_shows(tmp_path):
    images = [
        picture(tmp_path / "curves.png", history, baselines)
        for history in (rows(TRAIN), rows(TRAIN, HELD_OUT))
        for baselines in (None, BASELINES)
    ]
    for n, image in enumerate(images):
        for other in images[:n]:
            assert (image != other).any()


def test_rows_may_lack_what_later_ones_have(tmp_path):
    picture(tmp_path / "curves.png", rows(TRAIN)[:1] + rows(TRAIN, HELD_OUT)[1:], BASELINES)


def test_the_name_of_the_file_does_not_matter(tmp_path):
    picture(tmp_path / "curves.png.partial", rows(TRAIN), BASELINES)
