"""The sinusoidal position table."""

import math

import pytest
import torch

from bertds.model.embeddings import Sinusoids


def test_sinusoids_are_those_of_the_paper():
    """Vaswani et al. (2017), section 3.5."""
    table = Sinusoids(40, 6)(torch.arange(40))
    for position in (0, 1, 39):
        for pair in range(3):
            angle = position / 10_000 ** (2 * pair / 6)
            assert table[position, 2 * pair] == pytest.approx(math.sin(angle), abs=1e-5)
            assert table[position, 2 * pair + 1] == pytest.approx(math.cos(angle), abs=1e-5)
    assert Sinusoids(4, 5)(torch.arange(4)).shape == (4, 5)
