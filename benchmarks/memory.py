"""Peak memory of the whole command over image size: read, oracle model, merge and write, on sparse scenes.

    python benchmarks/memory.py [--gigapixels 1 4 16]

Each scene holds objects in proportion to its area; the model returns the truth of each tile, so that what is measured is
the pipeline. Every row is one `seggeo segment ... --workers 1 -f gpkg,cog` in a process of its own; peak RSS is the
system's own account of that process. Targets: at most 1 GB, and the largest within 10 % of the smallest.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ORACLE = '''
class Oracle:
    """The input's own values as labels."""

    native = True

    def predict(self, tiles):
        return [tile[:, :, 0].astype("int64") for tile in tiles]
'''
MAKE = "import sys; sys.path.insert(0, sys.argv[1]); from pathlib import Path; import scenes; \
print(scenes.sparse_scene(Path(sys.argv[2]), float(sys.argv[3])).count)"


def measure(image: Path, model: Path, out: Path) -> dict[str, float]:
    """Peak RSS (MB), CPU seconds and objects of one run of the command."""
    code = "import sys; from seggeo.cli.app import main; sys.argv[0] = 'seggeo'; main()"
    command = [
        sys.executable, "-c", code, "segment", str(image), "-o", f"{out}/result.gpkg", "-f", "gpkg,cog", "--model",
        f"{model}:Oracle", "--tile", "1024", "--overlap", "128", "--workers", "1", "--json", "-q",
    ]  # fmt: skip
    began = time.monotonic()
    child = subprocess.Popen(command, stdout=subprocess.PIPE, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert child.stdout is not None
    summary = json.loads(child.stdout.read())
    _, status, usage = os.wait4(child.pid, 0)
    if status:
        sys.exit(f"seggeo ended with {os.waitstatus_to_exitcode(status)}")
    return {
        "rss": usage.ru_maxrss / 1024, "cpu": usage.ru_utime + usage.ru_stime, "wall": time.monotonic() - began,
        "objects": summary["objects"], "tiles": summary["tiles"], "empty": summary["empty_tiles"],
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigapixels", type=float, nargs="+", default=[1, 4, 16])
    asked = parser.parse_args()
    print(f"{'Gpx':>6s}{'tiles':>8s}{'empty':>8s}{'truth':>9s}{'objects':>9s}{'CPU s':>8s}{'wall s':>8s}{'peak RSS MB':>13s}")
    peaks = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = folder / "oracle.py"
        model.write_text(ORACLE)
        for size in asked.gigapixels:
            image = folder / f"scene{size:g}.tif"
            made = subprocess.run(
                [sys.executable, "-c", MAKE, str(Path(__file__).parent), str(image), str(size)],
                check=True, capture_output=True, text=True,
            )  # fmt: skip
            row = measure(image, model, folder / f"out{size:g}")
            image.unlink()
            peaks.append(row["rss"])
            print(
                f"{size:6g}{row['tiles']:8d}{row['empty']:8d}{int(made.stdout):9d}{row['objects']:9d}"
                f"{row['cpu']:8.0f}{row['wall']:8.0f}{row['rss']:13.0f}",
                flush=True,
            )
    ratio, highest = max(peaks) / min(peaks), max(peaks)
    print(f"largest over smallest peak: {ratio:.3f} (target <= 1.10), peak {highest:.0f} MB (target <= 1024)")


if __name__ == "__main__":
    main()
