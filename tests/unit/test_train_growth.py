"""Networks that grow: the same fields at first, and new channels that learn."""

import pytest
import torch

from seggeo.errors import ConfigError
from seggeo.models.unet_arch import UNet, UNetShape, folded
from seggeo.train.unet_growth import widened


def lived_in(widths, seed=0):
    """A network whose every weight and statistic is its own."""
    torch.manual_seed(seed)
    network = UNet(UNetShape(widths=widths))
    with torch.no_grad():
        for value in network.state_dict().values():
            if value.dtype.is_floating_point:
                value += 0.1 * torch.rand_like(value)
    return network.eval()


@pytest.mark.parametrize(
    ("old", "new"), [((8, 8, 16), (8, 8, 16)), ((8, 8, 16), (8, 12, 40)), ((8, 12), (16, 24)), ((4, 8, 8, 16), (4, 8, 24, 16))]
)
def test_a_wider_network_begins_as_the_narrower(old, new):
    narrow = lived_in(old)
    shape = UNetShape(widths=new)
    image = torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))

    wide = widened(narrow, shape).eval()

    assert wide.shape == shape
    assert [p.shape for p in wide.parameters()] == [p.shape for p in UNet(shape).parameters()]
    with torch.inference_mode():
        torch.testing.assert_close(wide(image), narrow(image), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(folded(wide)(image), narrow(image), rtol=1e-3, atol=1e-3)


def test_new_channels_learn():
    torch.manual_seed(0)
    wide = widened(lived_in((8, 8)), UNetShape(widths=(8, 24)))
    optimiser = torch.optim.SGD(wide.parameters(), lr=0.05)
    image = torch.rand(2, 3, 32, 32)

    unheard = wide.reduce[0].weight[:, 8:].clone()
    for _ in range(2):
        optimiser.zero_grad()
        wide(image).square().mean().backward()
        optimiser.step()

    assert not unheard.any(), "nothing listens to new channels at first"
    assert bool((wide.reduce[0].weight[:, 8:] != 0).all()), "and every one is heard after a step"
    assert bool(torch.isfinite(wide(image)).all())


@pytest.mark.parametrize("new", [(8, 4), (4, 8), (8, 8, 8), (8,)])
def test_networks_do_not_shrink(new):
    with pytest.raises(ConfigError, match="cannot become"):
        widened(lived_in((8, 8)), UNetShape(widths=new))
