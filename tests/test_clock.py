import time

import torch

from bertds.clock import StepClock, measured_flops, peak_memory_gb

CPU = torch.device("cpu")


def test_parts_add_up_and_begin_anew():
    clock = StepClock(CPU)
    for _ in range(3):
        clock.start()
        time.sleep(0.01)
        clock.ends("forward")
        time.sleep(0.02)
        clock.ends("backward")
    found = clock.seconds()
    assert list(found) == ["forward", "backward"]
    assert 0.03 <= found["forward"] < found["backward"]
    assert clock.seconds() == {}


def test_what_lies_between_parts_does_not_count():
    clock = StepClock(CPU)
    time.sleep(0.05)
    clock.start()
    clock.ends("forward")
    assert clock.seconds()["forward"] < 0.05


def test_memory_and_matrix_rate_are_of_a_real_machine():
    assert 0.05 < peak_memory_gb(CPU) < 1000
    assert 1e8 < measured_flops(CPU, torch.float32, size=256) < 1e15
