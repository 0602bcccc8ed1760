"""Times of the phases of a step, on a fake device; memory and FLOP/s of this machine."""

import time

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from bertds.metrics import device as device_module
from bertds.metrics import timing
from bertds.metrics.device import allow_tf32, measured_flops, peak_memory_gb
from bertds.metrics.timing import StepTimer

CPU = torch.device("cpu")


def test_phases_add_up_without_the_time_before_start(monkeypatch):
    now = iter([0.0, *(start + offset for start in (7.0, 17.0, 27.0) for offset in (0, 1, 3))])
    monkeypatch.setattr(StepTimer, "_now", lambda _: next(now))
    timer = StepTimer(CPU)
    for _ in range(3):
        timer.start()
        timer.mark("forward")
        timer.mark("backward")
    assert timer.seconds() == {"forward": 3.0, "backward": 6.0}
    assert timer.seconds() == {}


class Device:
    """A device that lags at most `lag` events behind the host."""

    def __init__(self, lag: int) -> None:
        self.events: list[Event] = []
        self.lag = lag
        self.waits = 0


class Event:
    """Like `torch.cuda.Event`: asking for the elapsed time too early is an error."""

    def __init__(self, device: Device) -> None:
        self.device, self.index = device, len(device.events)
        self.time = self.index**2
        device.events.append(self)

    def query(self) -> bool:
        return self.index < len(self.device.events) - self.device.lag

    def synchronize(self) -> None:
        self.device.waits += 1
        self.device.lag = 0

    def elapsed_time(self, end: "Event") -> float:
        assert self.query() and end.query()
        return 1000.0 * (end.time - self.time)


@given(num_steps=st.integers(0, 300), limit=st.integers(1, 40), lag=st.integers(0, 500))
def test_pending_marks_are_bounded_and_a_step_never_waits(
    num_steps: int, limit: int, lag: int
) -> None:
    """Also if log lines are far apart; the sums include all marks."""
    device = Device(lag)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(timing, "_MAX_PENDING", limit)
        patch.setattr(StepTimer, "_now", lambda _: Event(device))
        timer = StepTimer(torch.device("cuda"))
        for _ in range(num_steps):
            timer.start()
            timer.mark("forward")
            timer.mark("backward")
            assert len(timer._pending) <= max(limit, lag)
    assert device.waits == 0
    seconds = timer.seconds()
    expected = {"forward": 0.0, "backward": 0.0} if num_steps else {}
    for start in device.events[1::3]:
        expected["forward"] += 2 * start.index + 1
        expected["backward"] += 2 * start.index + 3
    assert seconds == expected
    assert timer.seconds() == {}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_gpu_marks_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "_MAX_PENDING", 4)
    device = torch.device("cuda")
    matrix = torch.ones(2048, 2048, device=device)
    timer = StepTimer(device)
    torch.cuda.synchronize()
    before = time.monotonic()
    for _ in range(100):
        matrix @ matrix
        timer.mark("product")
    seconds = timer.seconds()["product"]
    assert 0 < seconds <= time.monotonic() - before + 0.01
    assert len(timer._pending) == 0


def test_peak_memory_and_measured_flops_are_plausible():
    assert 0.05 < peak_memory_gb(CPU) < 1000
    assert 1e8 < measured_flops(CPU, torch.float32) < 1e15


@pytest.mark.parametrize(("device", "largest"), [("cpu", 1024), ("cuda", 8192)])
@pytest.mark.parametrize("rate", [4e8, 1e9, 5e10, 1e15])
def test_measuring_flops_takes_less_than_a_second(monkeypatch, device, largest, rate):
    """A CPU that emulates bf16 has 1e9 FLOP/s, so a product of size 1024 takes 2 s."""
    sides = []

    def product_times(_device, _dtype, side):
        sides.append(side)
        return [2 * side**3 / rate] * 3

    monkeypatch.setattr(device_module, "_product_times", product_times)
    assert measured_flops(torch.device(device), torch.bfloat16) == pytest.approx(rate)
    assert sum(4 * 2 * side**3 / rate for side in sides) < 1.0
    assert sides[-1] == largest or 3 * 2 * (2 * sides[-1]) ** 3 / rate >= 0.5


class Operands(TorchDispatchMode):
    """Keeps the spread of the matrices that are multiplied."""

    def __init__(self):
        super().__init__()
        self.spreads = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten.mm.default:
            self.spreads += [float(matrix.float().std()) for matrix in args]
        return func(*args, **(kwargs or {}))


def test_flops_are_measured_with_random_numbers_that_leave_the_run_as_it_is():
    before = torch.get_rng_state()
    with Operands() as operands:
        measured_flops(CPU, torch.float32)
    assert operands.spreads and min(operands.spreads) > 0.9
    assert torch.get_rng_state().equal(before)


@pytest.mark.parametrize("allowed", [True, False])
def test_tf32_is_set_on_a_gpu_only(allowed):
    other, expected = ("highest", "high") if allowed else ("high", "highest")
    default = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision(other)
        allow_tf32(CPU, allowed=allowed)
        assert torch.get_float32_matmul_precision() == other
        allow_tf32(torch.device("cuda"), allowed=allowed)
        assert torch.get_float32_matmul_precision() == expected
    finally:
        torch.set_float32_matmul_precision(default)
