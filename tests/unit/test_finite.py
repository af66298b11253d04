"""Answers of a network that hold a value that is no number are refused, wherever it lies and whatever lies beside it."""

from __future__ import annotations

import pytest
import torch

from seggeo.errors import ModelError
from seggeo.models.finite import require_finite

KINDS = [torch.float32, torch.float64, torch.bfloat16, torch.float16]


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_one_value_among_many_is_found_at_any_place(kind: torch.dtype, value: float):
    for place in (0, 1, 7, 8, 500, 1022, 1023):
        values = torch.linspace(-9, 9, 1024).to(kind)
        values[place] = value
        with pytest.raises(ModelError, match="NaN or infinite"):
            require_finite("head", torch.zeros(3), values.reshape(32, 32))


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_numbers_pass_and_so_does_nothing_at_all(kind: torch.dtype):
    require_finite("head", torch.linspace(-9, 9, 1024).to(kind), torch.zeros(0, 4), torch.zeros(2, 0))
    require_finite("head")
