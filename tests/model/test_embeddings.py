"""The sinusoidal position table."""

import math

import pytest
import torch

from bertds.config.schema import ModelConfig
from bertds.model.embeddings import Embeddings, Sinusoids


def test_sinusoids_are_those_of_the_paper():
    """Vaswani et al. (2017), section 3.5."""
    table = Sinusoids(40, 6)(torch.arange(40))
    for position in (0, 1, 39):
        for pair in range(3):
            angle = position / 10_000 ** (2 * pair / 6)
            assert table[position, 2 * pair] == pytest.approx(math.sin(angle), abs=1e-5)
            assert table[position, 2 * pair + 1] == pytest.approx(math.cos(angle), abs=1e-5)
    assert Sinusoids(4, 5)(torch.arange(4)).shape == (4, 5)


@pytest.mark.parametrize(("scale", "ratio"), [({}, 35), ({"position_scale": 0.028}, 1)])
def test_the_scale_makes_positions_as_large_as_tokens(scale, ratio):
    fields = {"hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = ModelConfig(**fields, intermediate_size=64, positions="sinusoidal", **scale)
    torch.manual_seed(0)
    embeddings = Embeddings(config, 1000, 0)
    torch.nn.init.normal_(embeddings.tokens.weight, std=config.initializer_range)
    table = embeddings.positions(torch.arange(512))
    found = table.square().mean().sqrt() / embeddings.tokens.weight.square().mean().sqrt()
    assert found.item() == pytest.approx(ratio, rel=0.05)


def test_a_scale_needs_a_fixed_table():
    fields = {"hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    with pytest.raises(ValueError, match='position_scale is 0.5, which needs positions "sinus'):
        ModelConfig(**fields, intermediate_size=64, position_scale=0.5)
