"""Worker of `gpu.py`: training steps of transformers, in the environment of the peers.

python -m benchmarks.performance.gpu_transformers ARRAYS MODEL CONFIG DEVICE STEPS

ARRAYS is a directory of plain arrays, MODEL the JSON of the model's config.json, CONFIG a JSON object of
`train_step_transformers.Config`. Batches are made before the clock starts. bertds, in contrast, waits for
its data loader.
"""

import itertools
import json
import sys
from pathlib import Path

import torch
import transformers
from transformers import AutoConfig, AutoModelForMaskedLM

from benchmarks.common.harness import Stopwatch, Turn, serve
from benchmarks.performance.train_step_transformers import Config, compute_loss, make_steps


def main() -> tuple[dict[str, str], Turn]:
    """Build model and batches; return the worker's metadata and its turn."""
    arrays, device, num_steps = Path(sys.argv[1]), torch.device(sys.argv[4]), int(sys.argv[5])
    architecture, config = json.loads(sys.argv[2]), Config(**json.loads(sys.argv[3]))
    torch.manual_seed(0)
    settings = AutoConfig.for_model(**architecture, attn_implementation=config.attention)
    model = AutoModelForMaskedLM.from_config(settings).train().to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    steps = itertools.cycle(make_steps(arrays, config))

    def run_turn() -> dict[str, float]:
        watch, tokens, positions = Stopwatch(), 0, 0
        with watch:
            for micro_batches in itertools.islice(steps, num_steps):
                for batch in micro_batches:
                    tokens += int(batch["attention_mask"].sum())
                    positions += batch["attention_mask"].numel()
                    on_device = {key: value.to(device) for key, value in batch.items()}
                    compute_loss(model, on_device, config, len(micro_batches)).backward()
                optimizer.step()
                optimizer.zero_grad()
            if device.type == "cuda":
                torch.cuda.synchronize()
        torch.cuda.empty_cache()  # the other programs need the memory
        return {**watch.answer(tokens), "padding": 1 - tokens / positions}

    return {"transformers": transformers.__version__}, run_turn


if __name__ == "__main__":
    serve(main)
