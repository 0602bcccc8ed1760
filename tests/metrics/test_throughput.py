"""Throughput, FLOPs per token, peak FLOP/s and model FLOPs utilization (MFU)."""

import math

import pytest

from bertds.metrics.flops import mfu, model_flops_per_token, peak_flops
from bertds.metrics.throughput import Throughput, TimeLeft


def test_throughput_excludes_the_time_before_a_restart():
    times = iter([0.0, 2.0, 12.0, 14.0, 14.0])
    throughput = Throughput(tokens=100, clock=lambda: next(times))
    assert throughput.measure(300) == 100.0
    throughput.restart(300)  # after ten seconds of validation
    assert throughput.measure(900) == 300.0
    assert math.isnan(throughput.measure(1000))


def test_time_left_follows_the_recent_speed():
    """From the start of this process, not of the run; and only from the last 20 log points."""
    times = iter([1000.0, 1100.0, *(1100.0 + 10 * number for number in range(1, 21))])
    left = TimeLeft(step=500, num_steps=1000, clock=lambda: next(times))
    assert left.measure(510) == 490 * 10.0
    recent = [left.measure(510 + 10 * number) for number in range(1, 21)]
    assert recent[-1] == 290 * 1.0
    assert recent[0] > 480 * 5.0
    times = iter([0.0, 1.0])
    assert math.isnan(TimeLeft(3, 9, clock=lambda: next(times)).measure(3))


@pytest.mark.parametrize("glu", [False, True])
def test_flops_are_six_per_weight_plus_attention(glu):
    d, layers, f, vocab_size, length = 512, 6, 2048, 32_000, 64.0
    flops = model_flops_per_token(
        hidden_size=d,
        num_layers=layers,
        intermediate_size=f,
        glu=glu,
        mean_length=length,
        vocab_size=vocab_size,
        masked_share=0.15,
    )
    weights = layers * (4 * d * d + (3 if glu else 2) * d * f)
    head = 0.15 * (d * d + d * vocab_size)
    not_computed = 0.85 * (d * d + (3 if glu else 2) * d * f)  # of the last layer
    expected = 6 * (weights - not_computed) + 12 * layers * length * d + 6 * head
    assert flops == pytest.approx(expected)


def test_flops_of_bert_base_are_about_six_per_parameter():
    flops = model_flops_per_token(
        hidden_size=768,
        num_layers=12,
        intermediate_size=3072,
        glu=False,
        mean_length=512,
        vocab_size=30_522,
        masked_share=0.15,
    )
    assert flops == pytest.approx(6 * 85e6, rel=0.2)


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("A100-SXM4-40GB", 312e12),
        ("NVIDIA A100 80GB PCIe", 312e12),
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H200", 989e12),
        ("NVIDIA L4", 121e12),
        ("Tesla V100-SXM2-16GB", 125e12),
        ("NVIDIA GeForce RTX 4090", 165e12),
        ("NVIDIA B200", 2250e12),
        ("NVIDIA H100 PCIe", None),
        ("NVIDIA H200 NVL", None),
        ("NVIDIA L40S", None),
        ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", None),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
        ("cpu", None),
    ],
)
def test_peak_flops_by_device_name(name, peak):
    assert peak_flops(name) == peak


def test_mfu():
    assert mfu(2e6, 6e8, 4 * 989e12) == pytest.approx(0.30334, rel=1e-4)
