"""FLOPs of a model, peak FLOP/s of devices, and model FLOPs utilization (MFU)."""

import re

# Dense bf16 peaks (fp16 on V100) in FLOP/s from the vendors' data sheets, by the device name that
# the driver gives. Variants with other peaks (PCIe, NVL, laptop, a MIG slice) are not matched.
PEAK_FLOPS = {
    r"(NVIDIA )?A100[- ](?!.*MIG).*": 312e12,
    r"(NVIDIA )?H100( 80GB HBM3|.*SXM\S*)": 989e12,
    r"NVIDIA H200( 141GB HBM3e|.*SXM\S*)?": 989e12,
    r"NVIDIA L4": 121e12,
    r"(NVIDIA |Tesla )?V100-SXM\S*": 125e12,
    r"NVIDIA GeForce RTX 4090": 165e12,
    r"NVIDIA B200": 2250e12,
}


def model_flops_per_token(
    *,
    hidden_size: int,
    num_layers: int,
    intermediate_size: int,
    glu: bool,
    mean_length: float,
    vocab_size: int,
    masked_share: float,
) -> float:
    """The FLOPs that training needs for one real (not padding) token, forward and backward.

    Two per multiply-add; the backward pass is twice the forward one; recomputed activations do not
    count (Kaplan et al. 2020, arXiv:2001.08361, section 2.1; PaLM, arXiv:2204.02311, appendix B).
    A layer's matrices hold 4·D² (attention) and 2·D·F (3·D·F with a gate) weights, attention over n
    positions takes 2·n·D multiply-adds a token. On masked rows only are the head, D² + D·V, and of the
    last layer what comes after its attention (D² and the feed-forward), since the loss needs no
    other. Embedding look-ups, norms, biases and soft-max are left out.

    Args:
        hidden_size: D.
        num_layers: The encoder's layers, all with global attention.
        intermediate_size: F, the width inside the feed-forward (of each half with a gate).
        glu: Whether the feed-forward is gated.
        mean_length: The positions that a token attends to, on average over *tokens*: Σn² / Σn over
            the sequences' lengths n. The plain mean of n, which an index tells, is never above
            it, and equal to it where all lengths are equal: with that, MFU is a lower bound.
        vocab_size: V.
        masked_share: Masked rows per real token, 0 to 1.
    """
    attention = 4 * hidden_size**2 + 2 * mean_length * hidden_size
    feed_forward = (3 if glu else 2) * hidden_size * intermediate_size
    spared = (1 - masked_share) * (hidden_size**2 + feed_forward)
    head = masked_share * hidden_size * (hidden_size + vocab_size)
    return 6.0 * (num_layers * (attention + feed_forward) - spared + head)


def peak_flops(device_name: str) -> float | None:
    """A device's dense bf16 peak in FLOP/s, or None where we do not know the device."""
    for pattern, peak in PEAK_FLOPS.items():
        if re.fullmatch(pattern, device_name):
            return peak
    return None


def mfu(tokens_per_s: float, flops_per_token: float, peak_flops: float) -> float:
    """Model FLOPs utilisation, 0 to 1: what the model needs over what the devices could do.

    Args:
        tokens_per_s: Real tokens of all devices together.
        flops_per_token: As `model_flops_per_token` gives it.
        peak_flops: The sum over all devices, FLOP/s.
    """
    return tokens_per_s * flops_per_token / peak_flops
