"""FLOPs of a model, peak FLOP/s of devices, and model FLOPs utilization (MFU)."""

import re

# Dense bf16 peaks (fp16 on V100) in FLOP/s from the vendors' data sheets, by the device name that
# the driver reports. Variants with other peaks (PCIe, NVL, laptop, a MIG slice) do not match.
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

    A multiply-add is two FLOPs, and the backward pass takes twice the forward pass. Recomputed
    activations do not count (Kaplan et al. 2020, arXiv:2001.08361, section 2.1; PaLM,
    arXiv:2204.02311, appendix B). The matrices of a layer hold 4·D² (attention) and 2·D·F (3·D·F
    with a gate) weights; attention over n positions takes 2·n·D multiply-adds per token. Masked
    positions alone need the head, D² + D·V, and the part of the last layer after its attention: D²
    and the feed-forward. Embedding look-ups, norms, biases and softmax are ignored.

    Args:
        hidden_size: D.
        num_layers: Layers of the encoder, all with global attention.
        intermediate_size: F, the width inside the feed-forward (of each half with a gate).
        glu: Whether the feed-forward is gated.
        mean_length: Positions that a token attends to, on average over *tokens*: Σn² / Σn over the
            sequence lengths n. The plain mean of n, which the index of a shard set holds, is never
            larger, and equal if all lengths are equal; with it, MFU is a lower bound.
        vocab_size: V.
        masked_share: Masked positions per real token, 0 to 1.
    """
    attention = 4 * hidden_size**2 + 2 * mean_length * hidden_size
    feed_forward = (3 if glu else 2) * hidden_size * intermediate_size
    spared = (1 - masked_share) * (hidden_size**2 + feed_forward)
    head = masked_share * hidden_size * (hidden_size + vocab_size)
    return 6.0 * (num_layers * (attention + feed_forward) - spared + head)


def peak_flops(device_name: str) -> float | None:
    """A device's dense bf16 peak in FLOP/s, or None if the device is not in `PEAK_FLOPS`."""
    for pattern, peak in PEAK_FLOPS.items():
        if re.fullmatch(pattern, device_name):
            return peak
    return None


def mfu(tokens_per_s: float, flops_per_token: float, peak_flops: float) -> float:
    """Model FLOPs utilization (MFU), 0 to 1: FLOP/s of the model over peak FLOP/s of the devices.

    Args:
        tokens_per_s: Real tokens per second, on all devices together.
        flops_per_token: The result of `model_flops_per_token`.
        peak_flops: Peak FLOP/s of all devices together.
    """
    return tokens_per_s * flops_per_token / peak_flops
