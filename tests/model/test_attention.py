"""TODO."""

import math

import pytest
import torch

from bertds.config.schema import ModelConfig
from bertds.data.packing import MaskedSequences, pack
from bertds.model.attention import Rotary, segments_of
from bertds.model.embeddings import Sinusoids
from bertds.model.mlm import MaskedLanguageModel
from tests.helpers.tensors import PAD, VOCAB, make_sequences, tensors_of


def test_rotation_keeps_lengths_and_depends_on_distances_alone():
    generator = torch.Generator().manual_seed(0)
    query, key = (torch.randn(1, 2, 8, generator=generator, dtype=torch.float64) for _ in "qk")

    def product(first: int, second: int) -> torch.Tensor:
        at = [Rotary.at(torch.tensor([p]), 8, 10_000.0, torch.float64) for p in (first, second)]
        return (at[0].apply(query) * at[1].apply(key)).sum(-1)

    torch.testing.assert_close(product(5, 2), product(105, 102), rtol=0, atol=1e-4)
    assert not torch.allclose(product(5, 2), product(5, 3), atol=1e-3)
    turned = Rotary.at(torch.tensor([77]), 8, 10_000.0, torch.float64).apply(query)
    torch.testing.assert_close(turned.norm(dim=-1), query.norm(dim=-1), rtol=1e-6, atol=0)
    start = Rotary.at(torch.tensor([0]), 8, 10_000.0, torch.float64)
    assert torch.equal(start.apply(query), query)


def test_sinusoids_are_those_of_the_paper():
    table = Sinusoids(40, 6)(torch.arange(40))
    for position in (0, 1, 39):
        for pair in range(3):
            angle = position / 10_000 ** (2 * pair / 6)
            assert table[position, 2 * pair] == pytest.approx(math.sin(angle), abs=1e-5)
            assert table[position, 2 * pair + 1] == pytest.approx(math.cos(angle), abs=1e-5)
    assert Sinusoids(4, 5)(torch.arange(4)).shape == (4, 5)


def test_rows_see_their_own_segment_and_window():
    numbers = torch.tensor([0, 0, 0, 1, 2, 2, 2, 2])
    found = segments_of(numbers, torch.tensor([0]), 4, ((2, 4),), 2, torch.float64)
    (group,) = found.groups
    own, near = ((mask == 0).int() for mask in (group.mask_RLL, group.local_mask_RLL))
    assert own.shape == near.shape == (2, 1, 4, 4)
    assert own[0, 0].tolist() == [[1, 1, 1, 0]] * 3 + [[0, 0, 0, 1]]
    assert own[1].all()
    assert near[0, 0].tolist() == [[1, 1, 0, 0], [1, 1, 1, 0], [0, 1, 1, 0], [0, 0, 0, 1]]
    assert near[1, 0, 0].tolist() == [1, 1, 0, 0]
    assert (group.mask_RLL[own == 0] == -math.inf).all()
    assert segments_of(numbers, torch.tensor([0]), 4, (), 2, torch.float64).groups == ()


@pytest.mark.parametrize(
    ("heads", "changes", "precision", "fits"),
    [
        (8, {}, "bf16", True),
        (8, {}, "fp16", True),
        (8, {}, "fp32", False),
        (8, {"attention_probs_dropout_prob": 0.1}, "bf16", False),
        (128, {}, "bf16", False),  # heads of 6
        (2, {}, "bf16", False),  # of 384
    ],
)
def test_the_varlen_kernel_is_asked_for_what_it_has(heads, changes, precision, fits):
    block = {"hidden_size": 768, "num_hidden_layers": 1, "intermediate_size": 768}
    block |= {"num_attention_heads": heads, "attention_probs_dropout_prob": 0.0}
    config = ModelConfig.model_validate(block | changes)
    assert config.supports_varlen_attention(precision) == fits


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("preset", ["bert", "bert-prenorm", "modernbert"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_varlen_kernel_equals_rows(preset, dtype):
    """In 16 bits each is as far from 32 bits as the other."""
    fields = {"hidden_size": 128, "num_attention_heads": 2, "intermediate_size": 256}
    local = {"local_attention": 16} if preset == "modernbert" else {}
    config = ModelConfig.model_validate(
        {"preset": preset, "num_hidden_layers": 4, "hidden_dropout_prob": 0.0} | fields | local
    )
    torch.manual_seed(0)
    model = MaskedLanguageModel(config, VOCAB, PAD).cuda()
    parts = make_sequences([5, 64, 33, 1, 60, 20, 47])
    exact, _ = gradients(model, parts, row_length=64)
    model = model.to(dtype)
    rows, rows_loss = gradients(model, parts, row_length=64)
    varlen, varlen_loss = gradients(model, parts, row_length=0)
    torch.testing.assert_close(rows_loss, varlen_loss, rtol=2e-2, atol=0)
    for name, one in exact.items():
        errors = [(other[name] - one).norm() / one.norm() for other in (rows, varlen)]
        assert errors[1] < 1.5 * errors[0] + 0.01, name


def gradients(model, parts, row_length):
    """Gradients in 32 bits by name, and the loss."""
    one = tensors_of(pack(MaskedSequences.concatenate(parts), row_length=row_length, pad_id=PAD))
    moved = type(one)(
        **{
            name: value.cuda() if isinstance(value, torch.Tensor) else value
            for name in one.__slots__
            for value in [getattr(one, name)]
        }
    )
    model.zero_grad()
    loss, _ = model(moved)
    loss.backward()
    return {name: p.grad.float() for name, p in model.named_parameters()}, loss.detach()
