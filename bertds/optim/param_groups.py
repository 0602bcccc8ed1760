"""Parameter groups: which parameters have weight decay, and which are matrices for Muon."""

from collections.abc import Container

from torch import nn

from bertds.config.case import Case

# Only the row of type 0 has gradients; the other rows must stay as they are.
_NEVER = "embeddings.token_types.weight"


def no_decay(case: Case) -> tuple[str, ...]:
    """Return the kinds of parameters without weight decay.

    Default: biases and norms with decoupled decay (AdamW), none with coupled L2 (Adam).
    """
    if case.bertds.run.no_decay is not None:
        return case.bertds.run.no_decay
    optimizer = case.deepspeed["optimizer"]
    coupled = optimizer["type"] == "Adam" and not optimizer["params"]["adam_w_mode"]
    return () if coupled else ("bias", "norm")


def parameter_groups(
    model: nn.Module, no_decay: tuple[str, ...], matrices: Container[str] = ()
) -> list[dict[str, list[nn.Parameter] | float]]:
    """Split the parameters into groups with and without weight decay, in a fixed order.

    Args:
        model: The model; a shared parameter is listed once.
        no_decay: Kinds without decay: `bias`, `norm`, `embedding`.
        matrices: Names of parameters in a last group of their own, which has `"matrices": True`.
    """
    for_muon: list[nn.Parameter] = []
    with_decay: list[nn.Parameter] = []
    without_decay: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if name in matrices:
            for_muon.append(parameter)
            continue
        is_exempt = kind_of(name) in no_decay or name.endswith(_NEVER)
        (without_decay if is_exempt else with_decay).append(parameter)
    groups: list[dict[str, list[nn.Parameter] | float]] = [{"params": with_decay}]
    if without_decay:
        groups.append({"params": without_decay, "weight_decay": 0.0})
    if for_muon:
        groups.append({"params": for_muon, "matrices": True})
    return groups


def kind_of(name: str) -> str:
    """Classify a parameter by its name: `bias`, `norm`, `embedding` or `weight`."""
    if name.endswith(".bias"):
        return "bias"
    if "norm" in name:
        return "norm"
    return "embedding" if ".embeddings." in name else "weight"
