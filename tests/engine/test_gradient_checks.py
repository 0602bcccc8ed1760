"""The fused gradient checks of ZeRO 1 and 2 give what DeepSpeed's own give, with one wait a step.

That a non-finite step is skipped on all ranks is in `test_nonfinite_steps.py`.
"""

from pathlib import Path
from typing import Any

import deepspeed
import pytest
import torch
from deepspeed.runtime.zero.stage_1_and_2 import DeepSpeedZeroOptimizer
from torch.utils._python_dispatch import TorchDispatchMode

from bertds.engine.gradient_checks import fuse_gradient_checks
from bertds.errors import ConfigError
from tests.engine.test_engine import build, case_of, packs
from tests.helpers.gloo import run
from tests.helpers.workers.gradient_checks import CASES

WORKER = Path(__file__).resolve().parents[1] / "helpers" / "workers" / "gradient_checks.py"


class Operators(TorchDispatchMode):
    """Counts the operators that run inside the context, by name."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: dict[str, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(func.overloadpacket)
        self.counts[name] = self.counts.get(name, 0) + 1
        return func(*args, **(kwargs or {}))


@pytest.mark.dist
def test_losses_norms_and_weights_are_those_of_deepspeeds_checks(tmp_path: Path) -> None:
    """Bit-exact on two ranks: clipped or not, and in fp16 with a skipped step."""
    results = run(WORKER, 2, tmp_path, scratch=tmp_path)
    assert [result["what"] for result in results] == [list(case) for case in CASES] * 2
    for result in results:
        assert result["ours"] == result["theirs"], result
        assert result["is_bit_exact"], result
        _, precision, clip = result["what"]
        skips = [skips for _, _, skips in result["ours"]]
        assert skips == ([2, 0, 0, 0] if precision == "fp16" else [0, 0, 0, 0])
        assert clip == 0 or min(norm for _, norm, _ in result["ours"]) > clip


@pytest.mark.parametrize("stage", [1, 2])
def test_a_step_reads_one_number_of_the_device(
    stage: int, device: torch.device, tmp_path: Path
) -> None:
    """On a GPU each reading waits until all queued kernels are done."""
    changes = {"zero_optimization": {"stage": stage}, "gradient_clipping": 0.1}
    engine, _ = build(case_of(tmp_path, **changes), device)
    engine.train_step(packs(0, 2), 0, stop=False)  # the first step makes the moments
    with Operators() as operators:
        engine.train_step(packs(1, 2), 1, stop=True)
    assert operators.counts["aten._local_scalar_dense"] == 1
    assert operators.counts["aten._foreach_norm"] == 1
    assert operators.counts["aten.linalg_vector_norm"] == 1  # of the groups' norms
    assert "aten.amax" not in operators.counts  # of DeepSpeed's search for NaN in each gradient
    engine.close()


def test_another_deepspeed_is_rejected_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or its step might apply gradients that nobody checked."""
    optimizer = DeepSpeedZeroOptimizer.__new__(DeepSpeedZeroOptimizer)
    message = f"DeepSpeed {deepspeed.__version__} has no averaged_gradients in .* deepspeed==0.19.8"
    with pytest.raises(ConfigError, match=message):
        fuse_gradient_checks(optimizer)
    monkeypatch.setattr(DeepSpeedZeroOptimizer, "step", lambda optimizer: optimizer.has_overflow())
    with pytest.raises(ConfigError, match="has no check_overflow in"):
        fuse_gradient_checks(optimizer)
    fuse_gradient_checks(torch.optim.SGD([torch.nn.Parameter(torch.ones(1))]))
