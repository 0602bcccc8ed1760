"""Parameter groups: which parameters have weight decay."""

from torch import nn

from bertds.config.case import Case


def no_decay(case: Case) -> tuple[str, ...]:
    """Kinds of parameters without decay: as given, else biases and norms under decoupled decay."""
    if case.bertds.run.no_decay is not None:
        return case.bertds.run.no_decay
    optimizer = case.deepspeed["optimizer"]
    coupled = optimizer["type"] == "Adam" and not optimizer["params"]["adam_w_mode"]
    return () if coupled else ("bias", "norm")


def parameter_groups(
    model: nn.Module, no_decay: tuple[str, ...]
) -> list[dict[str, list[nn.Parameter] | float]]:
    """Parameters with and without weight decay, in a fixed order.

    Args:
        model: The model; a shared parameter counts once.
        no_decay: Kinds without decay: `bias`, `norm`, `embedding`.
    """
    decayed: list[nn.Parameter] = []
    spared: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        (spared if kind_of(name) in no_decay else decayed).append(parameter)
    groups: list[dict[str, list[nn.Parameter] | float]] = [{"params": decayed}]
    return [*groups, {"params": spared, "weight_decay": 0.0}] if spared else groups


def kind_of(name: str) -> str:
    """`bias`, `norm`, `embedding` or `weight`, by a parameter's name."""
    if name.endswith(".bias"):
        return "bias"
    if "norm" in name:
        return "norm"
    return "embedding" if ".embeddings." in name else "weight"
