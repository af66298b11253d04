"""What the OME-XML of labels says: where they come from and how large their pixels are."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any
from uuid import NAMESPACE_URL, uuid5

from seggeo.output.features import provenance_text
from seggeo.protocols import Result

_MICROMETRES = {"um": 1.0, "mm": 1e3, "m": 1e6}


def labels_metadata(result: Result) -> dict[str, Any]:
    """Name, an identifier that equal results share, and an annotation: transform or placement, and provenance."""
    frame, provenance = result.frame, provenance_text(result)
    about = {"transform": json.dumps(list(frame.transform)[:6]), "provenance": provenance}
    if frame.placement is not None:
        about["placement"] = json.dumps({**frame.placement.to_json(), "header": {}})
    uuid = uuid5(NAMESPACE_URL, f"seggeo:labels:{provenance}")
    return {"UUID": f"urn:uuid:{uuid}", "Name": "instance id", "MapAnnotation": about}


def physical_sizes(steps: Mapping[str, float], unit: str) -> dict[str, Any]:
    """Physical sizes in micrometres.

    Args:
        steps: Length of a step by name of the axis: X, Y, Z.
        unit: Of the steps; sizes are left out where it is px.
    """
    if unit not in _MICROMETRES:
        return {}
    um = "\N{MICRO SIGN}m"
    sizes = {f"PhysicalSize{axis}": step * _MICROMETRES[unit] for axis, step in steps.items()}
    return {**sizes, **{f"PhysicalSize{axis}Unit": um for axis in steps}}
