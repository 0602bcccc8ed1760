"""Writes run directories like those of training."""

import json
import math


def config(title="depth", layers=3, batch=256):
    return {
        "train_batch_size": batch,
        "optimizer": {"type": "Adam", "params": {"lr": 5e-4, "weight_decay": 1e-4}},
        "gradient_clipping": 0,
        "bertds": {
            "title": title,
            "model": {"hidden_size": 512, "num_hidden_layers": layers},
            "data": {"train": [{"name": "30k/en/train"}], "valid": {"en": "30k/en/valid"}},
        },
    }


CONFIG = config()
BASELINE = {"accuracy": 0.04, "loss": 5.5}


def lines_of(num_steps, *, loss=2.0, log_every=1, eval_every=5, sets=()):
    """Lines of metrics.jsonl; the training loss falls to `loss`, the validation loss is higher."""
    lines = []
    for step in range(log_every, num_steps + 1, log_every):
        progress = {"step": step, "epoch": step / 10, "tokens": step * 400, "seconds": step * 0.5}
        train_loss = loss + 6 * math.exp(-step / 5)
        train = {"loss/train": train_loss, "acc/train": 1 / train_loss}
        lines.append({**progress, "lr": 5e-4, **train, "tokens_per_s": 800.0})
        if step % eval_every == 0:
            valid = {"loss/valid": train_loss + 0.25, "acc/valid": 0.9 / train_loss}
            valid |= {f"loss/valid/{name}": train_loss + 0.5 for name in sets}
            valid |= {f"acc/valid/{name}": 0.25 for name in sets}
            lines.append({**progress, **valid})
    return lines


def write_run(root, case, arm, lines, *, config=None, status=None, baseline=None):
    run = root / case / arm
    run.mkdir(parents=True)
    resolved = {
        "world_size": 2,
        "micro_batch_size": 64,
        "gradient_accumulation_steps": 2,
        "steps_per_epoch": 1126,
        "num_steps": 5630,
        "parameters": 22_900_123,
        "vocab_size": 7458,
        "train": {"sequences": 288_435, "tokens": 4_700_001, "sets": []},
        "valid": {"en": {"sequences": 32_048, "tokens": 519_002}},
        "guess_without_context": baseline or BASELINE,
        "started": "2026-02-01T09:30:00+00:00",
        "device": "NVIDIA H200",
    }
    metadata = {"case": case, "arm": arm, "resolved": resolved, "versions": {"torch": "2.13.0"}}
    (run / "case.json").write_text(json.dumps({**metadata, "config": config or CONFIG}))
    status = status or {"state": "done", "code": 0, "message": "", "step": 20}
    (run / "status.json").write_text(json.dumps(status))
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (run / "metrics.jsonl").write_text(text)
    return run


def write_same(root, case, arm, target):
    run = root / case / arm
    run.mkdir(parents=True)
    (run / "case.json").write_text(json.dumps({"case": case, "arm": arm, "same_as": target}))
