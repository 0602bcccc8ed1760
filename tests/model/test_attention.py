"""Attention: rotary embedding, the masks of rows, and the varlen kernel."""

import math

import pytest
import torch

from bertds.config.schema import ModelConfig
from bertds.data.packing import MaskedSequences, pack
from bertds.model.attention import Attention, Rotary, segments_of
from bertds.model.batch import to_device
from bertds.model.mlm import MaskedLanguageModel
from tests.helpers.tensors import PAD, VOCAB, loss_and_gradients, make_sequences


def test_rotation_keeps_norms_and_depends_on_distances_only():
    generator = torch.Generator().manual_seed(0)
    query, key = (torch.randn(1, 2, 8, generator=generator, dtype=torch.float64) for _ in "qk")

    def rotary(position: int) -> Rotary:
        return Rotary.at(torch.tensor([position]), 8, 10_000.0, torch.float64)

    def product(first: int, second: int) -> torch.Tensor:
        return (rotary(first).apply(query) * rotary(second).apply(key)).sum(-1)

    torch.testing.assert_close(product(5, 2), product(105, 102), rtol=0, atol=1e-4)
    assert not torch.allclose(product(5, 2), product(5, 3), atol=1e-3)
    rotated = rotary(77).apply(query)
    torch.testing.assert_close(rotated.norm(dim=-1), query.norm(dim=-1), rtol=1e-6, atol=0)
    assert torch.equal(rotary(0).apply(query), query)


def test_a_token_of_a_row_sees_its_segment_and_window():
    numbers = torch.tensor([0, 0, 0, 1, 2, 2, 2, 2])
    (group,) = segments_of(numbers, torch.tensor([0]), 4, ((2, 4),), 2, torch.float64).groups
    visible, near = ((mask == 0).int() for mask in (group.mask_RLL, group.local_mask_RLL))
    assert visible.shape == near.shape == (2, 1, 4, 4)
    assert visible[0, 0].tolist() == [[1, 1, 1, 0]] * 3 + [[0, 0, 0, 1]]
    assert visible[1].all()
    assert near[0, 0].tolist() == [[1, 1, 0, 0], [1, 1, 1, 0], [0, 1, 1, 0], [0, 0, 0, 1]]
    assert near[1, 0, 0].tolist() == [1, 1, 0, 0]
    assert (group.mask_RLL[visible == 0] == -math.inf).all()
    assert segments_of(numbers, torch.tensor([0]), 4, (), 2, torch.float64).groups == ()


def test_queries_and_keys_are_kept_once(monkeypatch):
    """After rotation only, for the backward pass; the gradients are those without the copy."""
    config = ModelConfig.model_validate(
        {"preset": "modernbert", "hidden_size": 16, "num_attention_heads": 2}
        | {"num_hidden_layers": 1, "intermediate_size": 16, "max_position_embeddings": 32}
    )
    torch.manual_seed(0)
    attention = Attention(config, local=False)
    hidden = torch.randn(32, 16)
    rotary = Rotary.at(torch.arange(32), 8, 10_000.0, torch.float32)
    segments = segments_of(
        torch.zeros(32), torch.tensor([0, 32]), 32, ((1, 32),), None, torch.float32
    )
    kept: list[torch.Tensor] = []

    def gradients() -> list[torch.Tensor]:
        attention.zero_grad()
        kept.clear()
        with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):
            out = attention(hidden, segments, rotary, None)
        out.square().sum().backward()
        return [parameter.grad for parameter in attention.parameters()]

    def keeps_the_projection() -> bool:
        return any(tensor.untyped_storage().nbytes() == 32 * 3 * 16 * 4 for tensor in kept)

    ours = gradients()
    assert not keeps_the_projection()
    monkeypatch.setattr(torch.Tensor, "contiguous", lambda tensor: tensor)
    theirs = gradients()
    assert keeps_the_projection()
    assert all(map(torch.equal, ours, theirs))


@pytest.mark.parametrize(
    ("heads", "changes", "precision", "is_supported"),
    [
        (8, {}, "bf16", True),
        (8, {}, "fp16", True),
        (8, {}, "fp32", False),
        (8, {"attention_probs_dropout_prob": 0.1}, "bf16", False),
        (128, {}, "bf16", False),  # head size 6
        (2, {}, "bf16", False),  # head size 384
    ],
)
def test_the_varlen_kernel_is_used_where_it_is_supported(heads, changes, precision, is_supported):
    block = {"hidden_size": 768, "num_hidden_layers": 1, "intermediate_size": 768}
    block |= {"num_attention_heads": heads, "attention_probs_dropout_prob": 0.0}
    config = ModelConfig.model_validate(block | changes)
    assert config.supports_varlen_attention(precision) == is_supported


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("preset", ["bert", "bert-prenorm", "modernbert", "roberta"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_varlen_kernel_equals_rows(preset, dtype):
    """In 16 bits, both deviate equally from 32 bits."""
    fields = {"hidden_size": 128, "num_attention_heads": 2, "intermediate_size": 256}
    local = {"local_attention": 16} if preset == "modernbert" else {}
    config = ModelConfig.model_validate(
        {"preset": preset, "num_hidden_layers": 4, "hidden_dropout_prob": 0.0} | fields | local
    )
    torch.manual_seed(0)
    model = MaskedLanguageModel(config, VOCAB, PAD).cuda()
    sequences = MaskedSequences.concatenate(make_sequences([5, 64, 33, 1, 60, 20, 47]))
    rows, varlen = (
        to_device(torch.device("cuda"), pack(sequences, row_length=length, pad_id=PAD))
        for length in (64, 0)
    )
    exact = loss_and_gradients(model, [rows])
    model = model.to(dtype)
    by_rows, by_varlen = (loss_and_gradients(model, [batch]) for batch in (rows, varlen))
    torch.testing.assert_close(by_rows.pop("loss"), by_varlen.pop("loss"), rtol=2e-2, atol=0)
    for name in exact.keys() - {"loss", "correct"}:
        expected = exact[name]
        errors = [
            (found[name].float() - expected).norm() / expected.norm()
            for found in (by_rows, by_varlen)
        ]
        assert errors[1] < 1.5 * errors[0] + 0.01, name
