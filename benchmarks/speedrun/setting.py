"""What the speedrun compares. Fixed before its runs; only the pilots named in README.md came earlier."""

from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CASE = ROOT / "ds_configs" / "speedrun.json"
RUNS = Path(__file__).resolve().parent / "runs"
"""The committed figures: one file a run."""

VOCABULARY_MERGES = 8_000
SEQ_LEN = 128
SEEDS = (0, 1, 2)
MARKS = 8
"""How often a run is scored: after each eighth of its steps."""
VALID_SEQUENCES = 2_000
"""Both programs are scored on the same sequences with the same masks, 15 % of the tokens."""

# BERT-mini (Turc et al., 2019), as large as ours within 5 %.
PEER_SIZES = {
    "hidden_size": 256,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 1024,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class PeerRecipe:
    """How transformers' run_mlm is called."""

    line_by_line: bool
    """A sequence is a line, padded to the longest of its batch; otherwise lines are joined and cut."""
    grouped: bool
    """Batches of similar lengths."""
    batch: int
    rate: float
    warmup: float
    """Part of the steps."""
    steps: int


# The defaults of run_mlm: a batch of 8, 5e-5, no warm-up.
PEER_DEFAULT = PeerRecipe(
    line_by_line=False, grouped=False, batch=8, rate=5e-5, warmup=0.0, steps=20_000
)
# The best of what the Trainer offers on a CPU: no padding that grouping can avoid, and the rate that
# won among TUNED_RATES.
PEER_TUNED = PeerRecipe(
    line_by_line=True, grouped=True, batch=64, rate=1e-3, warmup=0.06, steps=5_000
)
TUNED_RATES = (2e-4, 5e-4, 1e-3, 2e-3)
"""Tried by both programs, in runs of a quarter of the steps."""

FINETUNING = (
    "--text_column=sentence",
    "--rates=3e-4,1e-3",
    "--seeds=0,1",
    "--epochs=2",
    "--limit=4000",
)
"""Of the downstream task, for every model of both programs."""

# Reached by the tuned peer at the end of its pilot, rounded so that it is a little easier. Fixed before the
# runs that are published; see README.md.
LOSS_THRESHOLD: float | None = None
ACCURACY_THRESHOLD: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """One training of one program."""

    program: str
    """`ours` or `peer`."""
    arm: str
    """An arm of ds_configs/speedrun.json, or `default` or `tuned` of the peer."""
    seed: int
    rate: float | None = None
    """Of a tuning trial, which has a quarter of the steps; None for a full run."""

    @property
    def name(self) -> str:
        """Its name in files."""
        trial = "" if self.rate is None else f"-rate{self.rate:g}"
        return f"{self.program}-{self.arm}{trial}-seed{self.seed}"


COMPARISON = (Run(program="ours", arm="best", seed=0), Run(program="peer", arm="tuned", seed=0))
"""What `make speedrun` runs."""


def all_runs(ablations: list[str]) -> list[Run]:
    """Everything, the most important first: tuning, both programs, three seeds, ablations."""
    trials = [
        Run(program=program, arm=arm, seed=0, rate=rate)
        for program, arm in (("peer", "tuned"), ("ours", "best"))
        for rate in TUNED_RATES
    ]
    main = [("ours", "best"), ("peer", "tuned"), ("peer", "default")]
    full = [Run(program=program, arm=arm, seed=seed) for seed in SEEDS for program, arm in main]
    without = [Run(program="ours", arm=arm, seed=seed) for seed in SEEDS for arm in ablations]
    return [*trials, *full, *without]
