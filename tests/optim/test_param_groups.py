"""Parameter groups: every parameter is in one group, and only weights have decay."""

import pytest

from bertds.config.presets import PRESETS
from bertds.optim.param_groups import kind_of, parameter_groups
from tests.helpers.tensors import make_model


@pytest.mark.parametrize("preset", PRESETS)
def test_every_parameter_is_in_one_group(preset):
    model = make_model(preset=preset)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    for no_decay, kinds in [
        ((), {"weight", "norm", "bias", "embedding"}),
        (("bias", "norm"), {"weight", "embedding"}),
        (("bias", "norm", "embedding"), {"weight"}),
    ]:
        groups = parameter_groups(model, no_decay)
        assert len(groups) == 1 + bool(no_decay)
        grouped = [names[id(parameter)] for group in groups for parameter in group["params"]]
        assert sorted(grouped) == sorted(names.values())
        with_decay = {kind_of(names[id(parameter)]) for parameter in groups[0]["params"]}
        assert with_decay == kinds - ({"bias"} - {kind_of(name) for name in grouped})
        if no_decay:
            assert groups[1]["weight_decay"] == 0.0
            without_decay = {kind_of(names[id(parameter)]) for parameter in groups[1]["params"]}
            assert without_decay == set(no_decay)


def test_kinds_of_parameters():
    assert kind_of("encoder.embeddings.tokens.weight") == "embedding"
    assert kind_of("encoder.embeddings.positions.weight") == "embedding"
    assert kind_of("encoder.embeddings.norm.weight") == "norm"
    assert kind_of("encoder.layers.0.attention_norm.weight") == "norm"
    assert kind_of("encoder.layers.0.attention_norm.bias") == "bias"
    assert kind_of("encoder.layers.0.attention.qkv.weight") == "weight"
    assert kind_of("encoder.norm.weight") == "norm"
    assert kind_of("head.decoder.bias") == "bias"
