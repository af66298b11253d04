"""Make bundled weights of a training: half precision, with names, kinds and tuned settings in the metadata.

    python scripts/weights/pack.py TRAINED.safetensors OUT.safetensors facts.json

`facts.json` holds what is added to the entry `seggeo` of the metadata: title, classes, kinds, licence, credit, settings.
The record of the training (recipe, hash of the data) stays; paths of the machine that trained do not.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

LIMIT_BYTES = 12 * 10**6


def main(trained: Path, out: Path, facts: Path) -> None:
    with safe_open(trained, framework="pt") as file:
        said = json.loads(file.metadata()["seggeo"])
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    added = json.loads(facts.read_text(encoding="utf-8"))
    said = {**said, **added, "settings": {**said.get("settings", {}), **added.get("settings", {})}}
    said.get("trained", {}).get("recipe", {}).get("reading", {}).pop("aoi", None)
    half = {k: (v.to(torch.float16) if v.dtype.is_floating_point else v).contiguous() for k, v in state.items()}
    save_file(half, out, metadata={"seggeo": json.dumps(said, sort_keys=True)})
    out.chmod(0o644)
    size = out.stat().st_size
    print(f"{out}: {size / 1e6:.2f} MB")
    if size > LIMIT_BYTES:
        raise SystemExit(f"over the limit of {LIMIT_BYTES / 1e6:.0f} MB")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:4]))
