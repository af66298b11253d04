"""Networks whose numbers stopped being numbers say so, instead of finding nothing."""

from __future__ import annotations

import torch
from torch import Tensor

from seggeo.errors import ModelError


def require_finite(where: str, *values: Tensor) -> None:
    """Refuse answers of a network that are NaN or infinite; comparisons with them are false, and objects would be missing.

    Args:
        where: The part of the network, for the message.
        values: Of any shapes, on one device.

    Raises:
        ModelError: Not all are finite.
    """
    # Both ends are NaN where one value is; to find them takes a tenth of the time of a mask of all values.
    ends = [end.float() for v in values if v.numel() for end in torch.aminmax(v)]
    if ends and not bool(torch.isfinite(torch.stack(ends)).all()):
        raise ModelError(
            what=f"the network gave NaN or infinite values ({where})",
            why="the weights are damaged, or the tile holds values far from those of the training",
            mend="compare the sha256 of the weights, and how bands are scaled; without --autocast if it was on",
        )
