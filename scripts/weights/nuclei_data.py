"""Data of the bundled `nuclei` weights: unpack them and write manifests of what is learnt from, judged by and tested on.

    python scripts/weights/nuclei_data.py DATA WORK

DATA holds `dsb2018_train.zip`, `bbbc039_train.zip`, `nucls_he/` and `he_silver/` (docs/models/nuclei.md names sources and
licences). WORK gets `train.csv` (train and val, for `seggeo train`) and `test.csv`: a second part, by group of images,
that no choice was ever made by. Which group goes where follows from the SHA-256 of its name, so that it never changes.
"""

from __future__ import annotations

import csv
import hashlib
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

SHARES = {
    "fluorescence": 0.36, "histology_colour": 0.32, "brightfield_gray_tissue": 0.05, "bbbc039": 0.10, "nucls": 0.07,
    "silver": 0.10,
}  # fmt: skip
"""How much of the training each kind of image gets."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One image."""

    image: Path
    labels: Path
    kind: str
    group: str
    split: str
    """train, val or test."""


def percent(name: str) -> int:
    """0 to 99 from the SHA-256 of a name."""
    return int(hashlib.sha256(name.encode()).hexdigest()[:8], 16) % 100


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def dsb2018(folder: Path) -> list[Row]:
    """Data Science Bowl 2018: the split its index names; of its training groups a tenth is held back for the test."""
    rows = []
    for entry in table(folder / "index.csv"):
        name = f"{entry['name']}.png"
        is_test = entry["split"] == "train" and percent(entry["group"]) < 10
        split = "test" if is_test else entry["split"]
        rows.append(
            Row(
                image=folder / "images" / name, labels=folder / "labels" / name, kind=entry["kind"], group=entry["group"],
                split=split,
            )
        )  # fmt: skip
    return rows


def bbbc039(folder: Path) -> list[Row]:
    """BBBC039 by well, so that two fields of one well never lie on two sides; fields without a nucleus are left out."""
    rows = []
    for entry in table(folder / "index.csv"):
        image, labels = (next((folder / part).glob(f"{entry['name']}.*")) for part in ("images", "labels"))
        place = percent(entry["well"])
        split = "val" if place < 15 else "test" if place < 30 else "train"
        if int(entry["n_objects"]):
            rows.append(Row(image=image, labels=labels, kind="bbbc039", group=f"bbbc039-{entry['well']}", split=split))
    return rows


def nucls(folder: Path) -> list[Row]:
    """NuCLS: two of the ten fields judge."""
    rows = []
    for i, image in enumerate(sorted((folder / "images").glob("*.png"))):
        labels = folder / "labels" / image.name
        rows.append(Row(image=image, labels=labels, kind="nucls", group=image.stem, split="val" if i % 5 == 0 else "train"))
    return rows


def silver(folder: Path) -> list[Row]:
    """Two larger H&E images whose outlines another model made: learnt from, never judged by."""
    return [
        Row(
            image=image, labels=image.with_name(f"{image.stem}_label.png"), kind="silver", group=image.stem, split="train"
        )
        for image in sorted(folder.glob("he_*mpp.png"))
    ]  # fmt: skip


def write(path: Path, rows: list[Row]) -> None:
    """A manifest; weights make each kind's share what `SHARES` says."""
    count = {kind: sum(r.kind == kind for r in rows if r.split == "train") for kind in SHARES}
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "labels", "split", "group", "kind", "weight"])
        for r in rows:
            weight = 100 * SHARES[r.kind] / count[r.kind] if r.split == "train" else 1.0
            split = "val" if r.split == "test" else r.split
            writer.writerow([r.image.resolve(), r.labels.resolve(), split, r.group, r.kind, f"{weight:.4f}"])


def main(data: Path, work: Path) -> None:
    for name in ("dsb2018_train", "bbbc039_train"):
        if not (work / name).exists():
            with zipfile.ZipFile(data / f"{name}.zip") as archive:
                archive.extractall(work / name)
    rows = [
        *dsb2018(work / "dsb2018_train"), *bbbc039(work / "bbbc039_train"), *nucls(data / "nucls_he"),
        *silver(data / "he_silver"),
    ]  # fmt: skip
    write(work / "train.csv", [r for r in rows if r.split != "test"])
    write(work / "test.csv", [r for r in rows if r.split == "test"])
    for split in ("train", "val", "test"):
        kinds = {kind: sum(r.kind == kind and r.split == split for r in rows) for kind in SHARES}
        print(f"{split}: {sum(kinds.values())} images, {', '.join(f'{n} {kind}' for kind, n in kinds.items() if n)}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
