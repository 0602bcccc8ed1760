"""A worker of `gpu.py`: steps of transformers on the card, run by the environment of the peers.

python benchmarks/gpu_peer.py ARRAYS MODEL CONFIG DEVICE STEPS, with the directory of the plain
arrays, the JSON of the model's config.json and of `step_peer.Config`. Batches are made before the
clock starts, which the other side's are not.
"""

import itertools
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
import transformers
from peer_tokenizer import tokenizer_of
from step_peer import Config, batches_of, loss_of, micros
from transformers import AutoConfig, AutoModelForMaskedLM, DataCollatorForLanguageModeling
from turns import Stopwatch, figures, serve


def main() -> tuple[dict[str, str], Callable[[], dict[str, float]]]:
    """What the arguments ask for."""
    directory, device, count = Path(sys.argv[1]), torch.device(sys.argv[4]), int(sys.argv[5])
    content, config = json.loads(sys.argv[2]), Config(**json.loads(sys.argv[3]))
    torch.manual_seed(0)
    settings = AutoConfig.for_model(**content, attn_implementation=config.attention)
    model = AutoModelForMaskedLM.from_config(settings).train().to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    collate = DataCollatorForLanguageModeling(
        tokenizer_of(directory),
        pad_to_multiple_of=config.padded,
    )
    steps = [
        [collate([{"input_ids": row} for row in part]) for part in micros(batch, config.micro)]
        for batch in batches_of(directory, config)
    ]
    rounds = itertools.cycle(steps)
    return {"transformers": transformers.__version__}, lambda: turn(
        model, optimizer, itertools.islice(rounds, count), config
    )


def turn(
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    steps: Iterator[list[dict[str, torch.Tensor]]],
    config: Config,
) -> dict[str, float]:
    """Some steps, to where the card is done with them."""
    device = next(model.parameters()).device
    watch, tokens, slots = Stopwatch(), 0, 0
    with watch:
        for batches in steps:
            for batch in batches:
                tokens += int(batch["attention_mask"].sum())
                slots += batch["attention_mask"].numel()
                there = {key: value.to(device) for key, value in batch.items()}
                loss_of(model, there, config, len(batches)).backward()
            optimizer.step()
            optimizer.zero_grad()
        if device.type == "cuda":
            torch.cuda.synchronize()
    torch.cuda.empty_cache()  # the others need the room
    return {**figures(tokens, watch), "padding": 1 - tokens / slots}


if __name__ == "__main__":
    serve(main)
