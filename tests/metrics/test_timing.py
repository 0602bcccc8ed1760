"""TODO."""

import time

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bertds.metrics import device as device_module
from bertds.metrics import timing as clock_module
from bertds.metrics.device import measured_flops, peak_memory_gb
from bertds.metrics.timing import StepTimer

CPU = torch.device("cpu")


def test_parts_add_up_and_begin_anew_without_what_lies_between(monkeypatch):
    now = iter([0.0, *(start + part for start in (7.0, 17.0, 27.0) for part in (0, 1, 3))])
    monkeypatch.setattr(StepTimer, "_now", lambda _: next(now))
    clock = StepTimer(CPU)
    for _ in range(3):
        clock.start()
        clock.mark("forward")
        clock.mark("backward")
    assert clock.seconds() == {"forward": 3.0, "backward": 6.0}
    assert clock.seconds() == {}


class Device:
    """Passes an event for each unit of time; `behind` of them lie before it at most."""

    def __init__(self, behind: int) -> None:
        self.events: list[Event] = []
        self.behind = behind
        self.waits = 0


class Event:
    """What `torch.cuda.Event` does; asked for a distance too early it fails, as CUDA does."""

    def __init__(self, device: Device) -> None:
        self.device, self.place = device, len(device.events)
        self.time = self.place**2
        device.events.append(self)

    def query(self) -> bool:
        return self.place < len(self.device.events) - self.device.behind

    def synchronize(self) -> None:
        self.device.waits += 1
        self.device.behind = 0

    def elapsed_time(self, end: "Event") -> float:
        assert self.query() and end.query()
        return 1000.0 * (end.time - self.time)


@given(num_steps=st.integers(0, 300), most=st.integers(1, 40), behind=st.integers(0, 500))
def test_few_marks_are_kept_and_a_step_never_waits(num_steps: int, most: int, behind: int) -> None:
    """Between two log lines however far apart; the sums are those of all marks."""
    device = Device(behind)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(clock_module, "_MOST_SPANS", most)
        patch.setattr(StepTimer, "_now", lambda _: Event(device))
        clock = StepTimer(torch.device("cuda"))
        for _ in range(num_steps):
            clock.start()
            clock.mark("forward")
            clock.mark("backward")
            assert len(clock._spans) <= max(most, behind)
    assert device.waits == 0
    found = clock.seconds()
    expected = {"forward": 0.0, "backward": 0.0} if num_steps else {}
    for start in device.events[1::3]:
        expected["forward"] += 2 * start.place + 1
        expected["backward"] += 2 * start.place + 3
    assert found == expected
    assert clock.seconds() == {}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_marks_of_a_gpu_are_added_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock_module, "_MOST_SPANS", 4)
    device = torch.device("cuda")
    matrix = torch.ones(2048, 2048, device=device)
    clock = StepTimer(device)
    torch.cuda.synchronize()
    before = time.monotonic()
    for _ in range(100):
        matrix @ matrix
        clock.mark("product")
    found = clock.seconds()["product"]
    assert 0 < found <= time.monotonic() - before + 0.01
    assert len(clock._spans) == 0


def test_memory_and_matrix_rate_are_of_a_real_machine():
    assert 0.05 < peak_memory_gb(CPU) < 1000
    assert 1e8 < measured_flops(CPU, torch.float32) < 1e15


@pytest.mark.parametrize(("device", "largest"), [("cpu", 1024), ("cuda", 8192)])
@pytest.mark.parametrize("rate", [4e8, 1e9, 5e10, 1e15])
def test_no_start_waits_for_the_measured_rate(monkeypatch, device, largest, rate):
    """A CPU that emulates bf16 makes 1e9 operations a second, and one of 1024 takes 2 s there."""
    sides = []

    def product_times(_device, _dtype, side):
        sides.append(side)
        return [2 * side**3 / rate] * 3

    monkeypatch.setattr(device_module, "_product_times", product_times)
    assert measured_flops(torch.device(device), torch.bfloat16) == pytest.approx(rate)
    assert sum(4 * 2 * side**3 / rate for side in sides) < 1.0
    assert sides[-1] == largest or 3 * 2 * (2 * sides[-1]) ** 3 / rate >= 0.5
