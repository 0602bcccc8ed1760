"""What the original found, case by case, as comparisons that can be tested.

The record of the original has one sentence a case. Each becomes comparisons of two runs, or of two sides of
one run. Cases 12 to 14 are this project's own, so they have questions and no findings.
"""

from dataclasses import dataclass, replace
from typing import Literal

from benchmarks.reproduction.paired import Measure

ALIKE = 0.05
"""Nats. Arms are alike if their difference is smaller. What the original calls alike differs by 0.005, and
what it tells apart in the same case by 0.075."""
Kind = Literal["better", "alike"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Side:
    """One side of a comparison."""

    run: str
    """`<case>/<arm>`."""
    valid_set: str = ""
    """A validation set; empty for all."""
    checkpoint: str = "last"
    """`last` or `best`."""

    @property
    def name(self) -> str:
        """The arm, with its case if another case trains it, and what part of it is meant."""
        parts = [self.valid_set, "best checkpoint" if self.checkpoint == "best" else ""]
        detail = ", ".join(filter(None, parts))
        return f"`{self.run.partition('/')[2]}`" + (f" ({detail})" if detail else "")


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """`left` is better than `right`, or both are alike."""

    case: str
    left: Side
    right: Side
    measure: Measure = "nats"
    kind: Kind = "better"
    is_original: bool = True
    """Whether the original found it; otherwise it is a question of ours."""

    @property
    def text(self) -> str:
        """The comparison in words."""
        right = self.right.name
        if self.left.run.partition("/")[2] == self.right.run.partition("/")[2]:
            cases = {side.run.partition("/")[0] for side in (self.left, self.right)}
            if len(cases) == 2:
                right += f" of {self.right.run.partition('/')[0]}"
            elif not self.right.valid_set:
                right = "its last checkpoint"
        relation = "like" if self.kind == "alike" else "better than"
        return f"{self.left.name} {relation} {right}"


def _of(
    case: str, left: str, right: str, measure: Measure = "nats", kind: Kind = "better"
) -> Comparison:
    return Comparison(
        case=case, left=_side(case, left), right=_side(case, right), measure=measure, kind=kind
    )


def _asked(case: str, left: str, right: str, measure: Measure = "nats") -> Comparison:
    return replace(_of(case, left, right, measure), is_original=False)


def _side(case: str, name: str) -> Side:
    """`arm`, `case/arm`, either with `:set` or `@best`."""
    name, _, checkpoint = name.partition("@")
    name, _, valid_set = name.partition(":")
    run = name if "/" in name else f"{case}/{name}"
    return Side(run=run, valid_set=valid_set, checkpoint=checkpoint or "last")


FINDINGS = {
    "case1": "Without weight decay the validation loss rises again: both depths overfit.",
    "case2": "A weight decay of 1e-2 is far too high: the model underfits.",
    "case3": "English scores above Korean.",
    "case4": "Fixed masks are slightly better than dynamic ones.",
    "case5": "A weight decay of 1e-4 is better than 1e-3.",
    "case6": "6 layers are the worst; 2 and 3 layers are alike.",
    "case7": "The lowest weight decay, 1e-6, is the best.",
    "case8": "The smaller the vocabulary, the higher the accuracy.",
    "case9": "A rate of 5e-3 underfits, 5e-5 is slow, and a decay of 1e-6 is better than 1e-5.",
    "case10": "A rate of 5e-4 is better than 5e-5.",
    "case11": "Exponential decay seems the worst schedule; batch 64 starts badly and catches up.",
}
"""The original's verdict of each case."""
COMPARISONS = (
    _of("case1", "layers4@best", "layers4"),
    _of("case1", "layers6@best", "layers6"),
    _of("case2", "case1/layers4", "layers4"),
    _of("case2", "case1/layers6", "layers6"),
    _of("case3", "d768_layers3:en", "d768_layers3:ko", "accuracy"),
    _of("case3", "d512_layers6:en", "d512_layers6:ko", "accuracy"),
    _of("case4", "static", "dynamic"),
    _of("case5", "decay1e-4", "decay1e-3"),
    _of("case6", "layers2", "layers6"),
    _of("case6", "layers3", "layers6"),
    _of("case6", "layers2", "layers3", kind="alike"),
    _of("case7", "decay1e-6", "decay1e-4"),
    _of("case7", "decay1e-6", "decay1e-5"),
    _of("case8", "merges10k", "merges20k", "accuracy"),
    _of("case8", "merges20k", "merges30k", "accuracy"),
    _of("case9", "lr5e-4_decay1e-5", "lr5e-3_decay1e-5"),
    _of("case9", "lr5e-4_decay1e-6", "lr5e-5_decay1e-6"),
    _of("case9", "lr5e-4_decay1e-6", "lr5e-4_decay1e-5"),
    _of("case10", "lr5e-4", "lr5e-5"),
    _of("case11", "batch256_cosine", "batch256_warmup_exponential", "accuracy"),
    _of("case11", "batch128_cosine", "batch256_warmup_exponential", "accuracy"),
    _of("case11", "batch64_cosine", "batch256_warmup_exponential", "accuracy"),
    _of("case11", "batch64_cosine", "batch256_cosine", kind="alike"),
    _asked("case3", "d768_layers3", "d512_layers6"),
    _asked("case8", "merges10k", "merges20k", "bits"),
    _asked("case8", "merges20k", "merges30k", "bits"),
    _asked("case11", "batch256_warmup_cosine", "batch256_warmup_exponential"),
    _asked("case12", "prenorm_rope", "prenorm"),
    _asked("case12", "prenorm_gelu", "prenorm"),
    _asked("case12", "modernbert", "prenorm_rope"),
    _asked("case13", "mask30", "mask15"),
    _asked("case13", "mask40", "mask30"),
    _asked("case14", "batch64_lr2.5e-4", "batch256_lr5e-4"),
    _asked("case14", "batch1024_lr1e-3", "batch256_lr5e-4"),
    _asked("case14", "batch64_lr5e-4", "batch64_lr2.5e-4"),
    _asked("case14", "batch256_lr1e-3", "batch256_lr5e-4"),
    _asked("case14", "batch1024_lr1e-3", "batch1024_lr5e-4"),
)
