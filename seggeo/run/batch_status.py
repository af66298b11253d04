"""How far a batch is: what is done by its files, who does it and how fast by what the processes tell."""

from __future__ import annotations

import time
from typing import Any

from seggeo.run.batch import NODES, Batch
from seggeo.run.batch_merge import missing_shards
from seggeo.run.emit import ranges, resubmission
from seggeo.run.nodes import read_logs
from seggeo.store import RunStore, read_json

_SPARE = 1.25
"""How much more memory to ask for than was used."""
_SILENT_S = 900.0
"""A process that says nothing for so long is taken for dead."""


def batch_status(batch: Batch) -> dict[str, Any]:
    """Counts, rates and advice, JSON values."""
    stores = [RunStore(batch.folder / name) for name in batch.folders]
    done = [stores[item].part_path(int(part)).exists() for item, part in zip(batch.item, batch.part, strict=True)]
    merged = sum((store.folder / "report.json").exists() for store in stores)
    nodes = [_node(lines) for lines in read_logs(batch.folder / NODES)]
    work, total = float(batch.work[done].sum()) if done else 0.0, float(batch.work.sum())
    rate = sum(node["tiles_per_s"] for node in nodes if node["state"] == "running")
    left = batch.facts["tiles"] * (1 - work / total) if total else 0.0
    failed = sum(_failures(store) for store in stores)
    values = {
        "job": str(batch.folder), "kind": batch.kind, "inputs": len(stores), "inputs_merged": merged,
        "inputs_not_planned": len(batch.failures), "tiles": batch.facts["tiles"], "parts": len(done), "parts_done": sum(done),
        "work_done": round(work / total, 4) if total else 1.0, "failed_tiles": failed, "shards": batch.shards,
        "shards_missing": missing_shards(batch), "tiles_per_s": round(rate, 3),
        "eta_s": round(left / rate) if rate and left else None,
        "peak_memory_bytes": max((node["memory_bytes"] for node in nodes), default=0), "nodes": nodes,
    }  # fmt: skip
    return values | {"advice": _advice(batch, values)}


def _node(lines: list[dict[str, Any]]) -> dict[str, Any]:
    """What one process has told; one that runs a shard again goes on in the same file only if it is the same process."""
    parts = [line for line in lines if line["event"] == "part"]
    ended = lines[-1]["code"] if lines[-1]["event"] == "end" else None
    seconds = max(lines[-1]["time"] - lines[0]["time"], 1e-3)
    state = "running" if time.time() - lines[-1]["time"] < _SILENT_S else "silent"
    tiles = sum(line["tiles"] for line in parts)
    return {
        "host": lines[0]["host"], "pid": lines[0]["pid"], "shard": lines[0]["shard"], "parts": len(parts), "tiles": tiles,
        "failed_tiles": sum(line["failures"] for line in parts), "tiles_per_s": round(tiles / seconds, 3),
        "memory_bytes": max(line["memory_bytes"] for line in lines), "state": state if ended is None else f"ended {ended}",
        "seconds": round(seconds, 1),
    }  # fmt: skip


def _failures(store: RunStore) -> int:
    return int(read_json(store.folder / "report.json").get("failed_tiles", 0))


def _advice(batch: Batch, values: dict[str, Any]) -> list[str]:
    """What to do next, in words."""
    said = []
    missing, running = values["shards_missing"], sum(node["state"] == "running" for node in values["nodes"])
    if missing and not running:
        said.append(f"shards {ranges(missing)} are not done: {resubmission(batch, missing)}")
    if not missing and values["inputs_merged"] < values["inputs"]:
        said.append(f"all parts are done: seggeo merge {batch.folder}")
    killed = [node for node in values["nodes"] if node["state"] == "silent"]
    if killed:
        said.append(f"{len(killed)} processes fell silent, killed perhaps: their finished parts are kept")
    if values["peak_memory_bytes"]:
        peak = values["peak_memory_bytes"] / 1e6
        said.append(f"no process has held more than {peak:.0f} MB: {peak * _SPARE:.0f} MB for each are enough (--mem-per-cpu)")
    if values["failed_tiles"]:
        said.append("some tiles failed: see failures.jsonl in the run folders; the same command tries them again")
    return said
