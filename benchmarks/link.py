"""Linking cross-sections through slices, beside Cellpose's `stitch3D` and the plain rule "best IoU with the slice before".

Phantoms of tests/support_phantoms.py at anisotropies 1, 2, 4 and 6, each as a perfect model would see it, with 10 % of the
cross-sections missed (never more than two in a row), with a tenth of the slices empty, and with outlines a pixel off. All rules
get the same labels, numbered anew in each slice. Splits and over-merges are in % of the true objects; an id is reused if it
stands for two cross-sections of one slice or for pieces that are not above each other within the allowed gap.

Then the linker alone: a million cross-sections, their rate and the memory at a quarter of them and at the end.
With --truth: label volumes of real objects (TIFF, or the array of an OME-Zarr), their slices taken apart and linked again.

Rivals: `pip install "cellpose>=4"` (of which only `cellpose.utils.stitch3D` is used, at its default threshold 0.25).
Run: python benchmarks/link.py [--steps 1 2 4 6] [--seeds 2] [--speed 1000000] [--truth labels.tif picture.zarr/labels/nuclei/0]
"""

from __future__ import annotations

import argparse
import contextlib
import io
import resource
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import seggeo
from seggeo.instances import Instances
from seggeo.merge.link import Linker, LinkRules, number

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from support_phantoms import Found, Labels, balls_apart, balls_packed, errors, find, link, nested, tubes

Ids = list[NDArray[np.int64]]
PHANTOMS: dict[str, Callable[[np.random.Generator, float, int], Labels]] = {
    "balls apart": balls_apart,
    "balls packed": balls_packed,
    "ellipsoids packed, leaning 0.3": lambda rng, step, side: balls_packed(rng, step, side, lean=0.3),
    "tubes": tubes,
    "tubes leaning 0.5": lambda rng, step, side: tubes(rng, step, side, slope=0.5),
    "tubes, helix": lambda rng, step, side: tubes(rng, step, side, slope=0.4, turns=1),
    "nested": nested,
}
SEEN: dict[str, dict[str, float | bool]] = {
    "perfect": {},
    "10 % missed": {"miss": 0.1},
    "empty slices": {"empty": 0.1},
    "1 px off": {"jitter": True},
}


def ours(found: Found) -> Ids:
    return link(found, LinkRules())[0]


def cellpose(found: Found) -> Ids:
    try:
        from cellpose.utils import stitch3D
    except ImportError as error:
        raise SystemExit('the rival is missing: pip install "cellpose>=4", or --rivals plain') from error
    with contextlib.redirect_stderr(io.StringIO()):
        stitched = np.asarray(stitch3D(found.labels.astype(np.uint32)))
    return [read(plane, new, len(true)) for plane, new, true in zip(found.labels, stitched, found.truth, strict=True)]


def read(plane: Labels, new: NDArray[np.uint32], count: int) -> NDArray[np.int64]:
    """New ids of the labels 1 to `count` of a slice."""
    ids = np.zeros(count + 1, np.int64)
    ids[plane] = new
    return ids[1:]


def plain(found: Found, least: float = 0.25) -> Ids:
    """Each cross-section takes the id of the one in the slice before that it has the highest IoU with."""
    ids: Ids = []
    following = 1
    for z, true in enumerate(found.truth):
        mine = np.zeros(len(true), np.int64)
        if z and len(true) and len(found.truth[z - 1]):
            a, b = found.labels[z - 1], found.labels[z]
            shared = np.zeros((len(found.truth[z - 1]) + 1, len(true) + 1))
            np.add.at(shared, (a, b), 1)
            union = shared.sum(1, keepdims=True) + shared.sum(0, keepdims=True) - shared
            iou = (shared / np.maximum(union, 1))[1:, 1:]
            best = iou.argmax(0)
            mine = np.where(iou.max(0) >= least, ids[z - 1][best], 0)
        new = np.flatnonzero(mine == 0)
        mine[new] = following + np.arange(len(new))
        following += len(new)
        ids.append(mine)
    return ids


def phantoms(args: argparse.Namespace, rules: dict[str, Callable[[Found], Ids]]) -> None:
    print(
        "| phantom | seen | objects | "
        + " | ".join(f"{name}: splits, over-merges %, reused, s" for name in rules)
        + " | ours, worst |"
    )
    print("| --- | --- | ---: |" + " --- |" * (len(rules) + 1))
    totals = {name: np.zeros(5) for name in rules}
    for phantom, make in PHANTOMS.items():
        truths = [
            (make(np.random.default_rng(seed), step, side_of(step)), seed) for step in args.steps for seed in range(args.seeds)
        ]
        for seen, damage in SEEN.items():
            sums = {name: np.zeros(5) for name in rules}
            worst = np.zeros(2)
            for truth, seed in truths:
                found = find(np.random.default_rng(100 + seed), truth, **damage)
                for name, rule in rules.items():
                    one = measured(found, rule)
                    sums[name] += one
                    if name == "ours":
                        worst = np.maximum(worst, 100 * one[1:3] / one[0])
            cells = [cell(sums[name]) for name in rules]
            print(
                f"| {phantom} | {seen} | {sums['ours'][0]:.0f} | " + " | ".join(cells) + f" | {worst[0]:.1f}, {worst[1]:.1f} |",
                flush=True,
            )
            totals = {name: totals[name] + sums[name] for name in rules}
    print(f"| all | | {totals['ours'][0]:.0f} | " + " | ".join(cell(totals[name]) for name in rules) + " | |")


def side_of(step: float) -> int:
    """Side of a phantom that holds a few hundred objects of five slices or more."""
    return int(max(160, 13 * 1.6 * 2.6 * step))


def measured(found: Found, rule: Callable[[Found], Ids]) -> NDArray[np.float64]:
    start = time.process_time()
    ids = rule(found)
    seconds = time.process_time() - start
    one = errors(found, ids)
    return np.array([one.objects, one.splits, one.merges, one.reused, seconds], float)


def cell(sums: NDArray[np.float64]) -> str:
    objects, splits, merges, reused, seconds = sums
    return f"{100 * splits / objects:.2f}, {100 * merges / objects:.2f}, {reused:.0f}, {seconds:.1f}"


def speed(count: int) -> None:
    """Rate and memory of the linker alone, the same slices of cells again and again."""
    found = find(np.random.default_rng(1), balls_apart(np.random.default_rng(0), 2, 160, 120), miss=0.05)
    slab = [tiled(found.labels[z], 7) for z in range(len(found.labels))]
    per_slab = sum(map(len, slab))
    rounds = -(-count // per_slab)
    area = np.mean([one.area.mean() for one in slab if len(one)])
    print(f"\n{per_slab * rounds} cross-sections of {area:.0f} px in {len(slab) * rounds} slices")
    linker, linked, quarter = Linker(LinkRules()), [], 0
    start = time.process_time()
    for z, one in enumerate(linker.walk(((i * len(slab) + z, p) for i in range(rounds) for z, p in enumerate(slab)))):
        linked.append(one)
        quarter = peak_mb() if z == len(slab) * rounds // 4 else quarter
    middle = time.process_time()
    total = sum(len(ids) for _, ids in number(linked, linker.breaks, 2))
    end = time.process_time()
    kept = sum(one.chain.nbytes for one in linked) / 1e6
    print(f"linking {total / (middle - start):,.0f} a CPU second, numbering {total / (end - middle):,.0f}")
    print(f"peak RSS {quarter} MB at a quarter, {peak_mb()} MB at the end, {kept:.0f} MB of it chains that a run keeps on disk")


def tiled(plane: Labels, times: int) -> Instances:
    """The labels of a slice side by side, all their own."""
    most = int(plane.max())
    rows = [np.hstack([np.where(plane > 0, plane + most * (i * times + j), 0) for j in range(times)]) for i in range(times)]
    return Instances.from_labels(np.vstack(rows))


def peak_mb() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def real(paths: Sequence[str], rules: dict[str, Callable[[Found], Ids]]) -> None:
    print(
        "\n| truth | seen | objects | "
        + " | ".join(f"{name}: PQ, count error, splits, over-merges, reused" for name in rules)
        + " |"
    )
    print("| --- | --- | ---: |" + " --- |" * len(rules))
    for path in paths:
        truth = opened(path)
        for seen, damage in SEEN.items():
            found = find(np.random.default_rng(0), truth, **damage)
            cells = [real_cell(found, truth, rule(found)) for rule in rules.values()]
            print(f"| {' / '.join(Path(path).parts[-2:])} | {seen} | {len(np.unique(truth)) - 1} | " + " | ".join(cells) + " |")


def real_cell(found: Found, truth: Labels, ids: Ids) -> str:
    volume = np.stack([np.concatenate([[0], of_slice])[plane] for plane, of_slice in zip(found.labels, ids, strict=True)])
    score = seggeo.evaluate(volume, truth)
    one, count = errors(found, ids), len(np.unique(volume[volume > 0])) - len(np.unique(truth[truth > 0]))
    return f"{score.pooled.pq:.3f}, {count:+d}, {one.splits}, {one.merges}, {one.reused}"


def opened(path: str) -> Labels:
    if path.lower().endswith((".tif", ".tiff")):
        import tifffile

        volume = tifffile.imread(path)
    else:
        import zarr

        volume = np.asarray(zarr.open_array(path, mode="r")[:])
    return np.unique(volume, return_inverse=True)[1].reshape(volume.shape).astype(np.int32)


def chosen(names: Sequence[str]) -> Iterator[tuple[str, Callable[[Found], Ids]]]:
    yield "ours", ours
    for name in names:
        yield {"stitch3D": ("stitch3D", cellpose), "plain": ("plain IoU", plain)}[name]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=float, nargs="*", default=[1, 2, 4, 6])
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--rivals", nargs="*", choices=("stitch3D", "plain"), default=["stitch3D", "plain"])
    parser.add_argument("--speed", type=int, default=1_000_000, metavar="CROSS_SECTIONS")
    parser.add_argument("--truth", nargs="*", default=[])
    args = parser.parse_args()
    rules = dict(chosen(args.rivals))
    if args.truth:
        real(args.truth, rules)
    if args.steps:
        phantoms(args, rules)
    if args.speed:
        speed(args.speed)
