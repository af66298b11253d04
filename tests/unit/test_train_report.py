"""Pictures of a training: they show what the figures say, in the colours that the legend names."""

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from seggeo.instances import Instances
from seggeo.train.report import RIGHT, TRUE, WRONG, _draw_scores, draw_curves, draw_examples
from seggeo.train.validate import Judgement, Shown


def row(step, kinds=("a", "b"), **more):
    scores = {"pq": 0.5, "ap50": 0.6, "ap": 0.4, "f1": 0.7, "count_error": -0.1}
    return {
        "step": step, "seconds": 60.0 * step, "rate": 0.001, "losses": {"classes": 1.0 / step, "offset": 2.0 / step},
        "judged_in_s": 3.0, **scores, "kinds": dict.fromkeys(kinds, scores), **more,
    }  # fmt: skip


def boxes(*corners, shape=(300, 300)):
    labels = np.zeros(shape, np.int32)
    for i, (r, c) in enumerate(corners, 1):
        labels[r : r + 40, c : c + 40] = i
    return Instances.from_labels(labels)


def judged(*shown):
    return Judgement(metrics={}, kinds={}, shown=shown)


def shown(truth, found, size=(300, 300), name="image.tif"):
    return Shown(name=name, image=np.full((*size, 3), 90, np.uint8), truth=truth, found=found)


def has(image, colour):
    return bool((image == np.array(colour, np.uint8)).all(axis=2).any())


def panel(path):
    """The picture below the legend."""
    return np.asarray(Image.open(path))[60:]


@pytest.mark.parametrize(
    "rows",
    [
        [row(1)],
        [row(1), row(2), row(3)],
        [row(1, ()), row(2, ("new",))],
        [row(1, ("one",)), row(2, ("one",))],
        [row(1, pq=None, ap50=None, ap=None, f1=None, count_error=None)],
        [row(1, pq=None, ap50=None, ap=None, f1=None, count_error=None, is_best=True)],
        [row(1, is_best=True, pq_classes=0.3), row(2, is_best=False, pq_classes=None)],
    ],
)
def test_curves_are_drawn_of_any_history(tmp_path, rows):
    draw_curves(rows, tmp_path / "report.png")
    image = np.asarray(Image.open(tmp_path / "report.png"))

    assert image.shape[0] > 600
    assert image.std() > 10
    assert [p.name for p in tmp_path.iterdir()] == ["report.png"]


def test_curves_say_where_the_weights_are_from_and_how_classes_do():
    figure = Figure()
    axes = figure.subplots()
    rows = [row(4, pq=0.7, pq_classes=0.3, is_best=True), row(8, pq=0.5, pq_classes=0.4, is_best=False)]
    _draw_scores(axes, rows, [4, 8])
    lines = {line.get_label(): line for line in axes.get_lines()}

    assert list(lines["weights: batch 4"].get_xdata()) == [4, 4]
    assert list(lines["PQ within classes, their mean"].get_ydata()) == [0.3, 0.4]
    assert "PQ now 0.500, best 0.700 at batch 4" in axes.get_title()


def test_colours_tell_hits_misses_and_false_alarms(tmp_path):
    cases = {
        "hit": (boxes((20, 20)), boxes((22, 20)), {RIGHT}, {WRONG}),
        "missed": (boxes((20, 20)), boxes(), {TRUE}, {RIGHT, WRONG}),
        "false": (boxes(), boxes((20, 20)), {WRONG}, {RIGHT, TRUE}),
        "beside": (boxes((20, 20)), boxes((50, 20)), {TRUE, WRONG}, {RIGHT}),
    }
    for name, (truth, found, there, absent) in cases.items():
        draw_examples(judged(shown(truth, found)), tmp_path / f"{name}.png")
        image = panel(tmp_path / f"{name}.png")

        assert all(has(image, colour) for colour in there), name
        assert not any(has(image, colour) for colour in absent), name


def test_missed_objects_are_tinted_inside(tmp_path):
    draw_examples(judged(shown(boxes((20, 20)), boxes())), tmp_path / "missed.png")
    draw_examples(judged(shown(boxes((20, 20)), boxes((20, 20)))), tmp_path / "hit.png")
    missed, hit = (panel(tmp_path / f"{name}.png") for name in ("missed", "hit"))

    tinted = (missed[..., 2].astype(int) - missed[..., 0] > 20).sum()
    assert tinted > 38 * 38
    assert (hit[..., 2].astype(int) - hit[..., 0] > 20).sum() == 0


def test_of_a_large_window_the_part_with_objects_is_shown(tmp_path):
    objects = boxes((1200, 1500), (1260, 1560), shape=(1700, 2000))
    draw_examples(judged(shown(objects, objects, (1700, 2000))), tmp_path / "examples.png")

    assert has(panel(tmp_path / "examples.png"), RIGHT)


def test_small_windows_are_enlarged_and_many_fit_on_one_sheet(tmp_path):
    one = boxes((10, 10), shape=(80, 90))
    draw_examples(judged(*[shown(one, one, (80, 90), f"{'long' * 30}{i}.tif") for i in range(5)]), tmp_path / "many.png")
    draw_examples(judged(shown(one, one, (80, 90))), tmp_path / "one.png")
    many, single = (np.asarray(Image.open(tmp_path / f"{name}.png")) for name in ("many", "one"))

    yellow = (many == np.array(RIGHT, np.uint8)).all(axis=2)
    assert yellow.sum() > 5 * 4 * 4 * 36
    assert 1.7 < (many.shape[0] - 40) / (single.shape[0] - 40) < 2.1, "two rows of panels"


def test_nothing_judged_is_no_picture(tmp_path):
    draw_examples(judged(), tmp_path / "examples.png")

    assert not list(tmp_path.iterdir())
