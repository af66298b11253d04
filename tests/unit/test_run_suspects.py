"""Windows worth a look: the ones that are odd, and nothing where nothing is."""

from dataclasses import replace

import numpy as np
from support_results import ListResult, empty_result, objects_of

from seggeo.geometry import Frame
from seggeo.instances import Instances
from seggeo.run.suspects import notice, suspects

FRAME = Frame(height=1024, width=1280)
ALL = np.ones((64, 80), bool)


def crowded(*, unsure=(1, 2), bare=(2, 3), cut=(3, 1)):
    """A lattice of cells, 16 in each window of 256 px: one window unsure, one without cells, one with cut cells."""
    labels, score, is_cut = np.zeros((FRAME.height, FRAME.width), np.int32), [], []
    for row in range(20, FRAME.height - 20, 64):
        for col in range(20, FRAME.width - 20, 64):
            window = row // 256, col // 256
            if window == bare:
                continue
            labels[row : row + 12, col : col + 12] = len(score) + 1
            score.append(0.55 if window == unsure else 0.9)
            is_cut.append(window == cut)
    plain = Instances.from_labels(labels)
    instances = Instances.from_spans(plain.spans(), score=np.array(score, np.float32), label=np.zeros(len(score), int))
    objects = replace(objects_of(instances, FRAME), cut=np.array(is_cut))
    return ListResult(objects, FRAME, batch=50)


def test_odd_windows_are_found_with_their_reason():
    noticed = notice(crowded())
    found = suspects(noticed, FRAME, ALL)

    places = {(w.row // 256, w.col // 256): why for w, why in found}
    assert places[1, 2].startswith("the least sure cells: mean score 0.55")
    assert places[3, 1] == "16 cells joined from pieces"
    assert places[2, 3] == "tissue without a cell"
    assert len(found) <= 4
    assert all(FRAME.window.contains(window) for window, _ in found)
    assert noticed.median_area == 144
    assert noticed.cells.sum() == crowded().count


def test_windows_off_tissue_are_not_suspect():
    tissue = ALL.copy()
    tissue[32:48, 48:64] = False
    assert "tissue without a cell" not in [why for _, why in suspects(notice(crowded()), FRAME, tissue)]


def test_nothing_is_odd_about_nothing():
    assert suspects(notice(empty_result(FRAME)), FRAME, ALL) == []
    assert np.isnan(notice(empty_result(FRAME)).median_area)
