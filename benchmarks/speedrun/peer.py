"""Worker: masked language modelling with the Trainer of transformers, as its example run_mlm does it.

    python benchmarks/speedrun/peer.py DATA OUT RECIPE SEED

DATA has `train.txt` and the directory `tokenizer`, RECIPE is a JSON object of `PeerRecipe`. Uses nothing
of this project. Writes OUT/marks/STEP (the model) and OUT/marks.json: processor time and tokens up to
each of them, without the time that saving takes.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
import transformers
from datasets import Dataset
from transformers import (
    AutoTokenizer,
    BertConfig,
    BertForMaskedLM,
    DataCollatorForLanguageModeling,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
    set_seed,
)


def main() -> None:
    """Train, and save the model at each mark."""
    data, out = Path(sys.argv[1]), Path(sys.argv[2])
    recipe, seed = json.loads(sys.argv[3]), int(sys.argv[4])
    set_seed(seed)
    tokenizer = AutoTokenizer.from_pretrained(data / "tokenizer")
    dataset = tokenized(data / "train.txt", tokenizer, recipe)
    sizes = recipe["sizes"] | {"max_position_embeddings": recipe["seq_len"]}
    model = BertForMaskedLM(BertConfig(vocab_size=len(tokenizer), pad_token_id=0, **sizes))
    strategy = "group_by_length" if recipe["grouped"] else "random"
    arguments = TrainingArguments(
        output_dir=str(out / "trainer"),
        per_device_train_batch_size=recipe["batch"],
        learning_rate=recipe["rate"],
        warmup_steps=round(recipe["warmup"] * recipe["steps"]),
        max_steps=recipe["steps"],
        train_sampling_strategy=strategy,
        seed=seed,
        use_cpu=True,
        report_to=[],
        logging_steps=500,
        save_strategy="no",
        disable_tqdm=True,
    )
    marks = Marks(out, recipe["steps"] // recipe["marks"], tokenizer)
    trainer = Trainer(
        model=model,
        args=arguments,
        train_dataset=dataset,
        data_collator=CountingCollator(tokenizer, marks),
        callbacks=[marks],
    )
    trainer.train()
    marks.write(sum(parameter.numel() for parameter in model.parameters()))


def tokenized(path: Path, tokenizer: PreTrainedTokenizerBase, recipe: dict[str, Any]) -> Dataset:
    """Lines as sequences, or joined and cut into equal ones as run_mlm does by default."""
    length = recipe["seq_len"]
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line]
    encoded = tokenizer(
        lines,
        truncation=recipe["line_by_line"],
        max_length=length if recipe["line_by_line"] else None,
    )["input_ids"]
    if not recipe["line_by_line"]:
        joined = [number for ids in encoded for number in ids]
        last = len(joined) // length * length
        encoded = [joined[start : start + length] for start in range(0, last, length)]
    return Dataset.from_dict({"input_ids": encoded})


class CountingCollator(DataCollatorForLanguageModeling):
    """The collator of run_mlm; it also counts the tokens that are no padding."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, marks: "Marks") -> None:
        super().__init__(tokenizer=tokenizer, mlm_probability=0.15)
        self.marks = marks

    def torch_call(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        """Mask a batch."""
        batch = super().torch_call(examples)
        self.marks.tokens += sum(len(example["input_ids"]) for example in examples)
        return batch


class Marks(TrainerCallback):
    """Saves the model at equal distances, and stops the clock meanwhile."""

    def __init__(self, out: Path, every: int, tokenizer: PreTrainedTokenizerBase) -> None:
        self.out, self.every, self.tokenizer = out, every, tokenizer
        self.tokens = 0
        self.found: list[dict[str, float]] = []
        self.excluded = 0.0
        self.started = 0.0

    def on_train_begin(
        self, _args: TrainingArguments, _state: TrainerState, _control: TrainerControl, **_: object
    ) -> None:
        """Start the clock."""
        self.started = time.process_time()

    def on_step_end(
        self,
        _args: TrainingArguments,
        state: TrainerState,
        _control: TrainerControl,
        model: PreTrainedModel | None = None,
        **_: object,
    ) -> None:
        """Save at a mark."""
        if model is None or state.global_step % self.every:
            return
        before = time.process_time()
        directory = self.out / "marks" / str(state.global_step)
        model.save_pretrained(directory)
        self.tokenizer.save_pretrained(directory)
        self.found.append(
            {
                "step": state.global_step,
                "core_minutes": (before - self.started - self.excluded) / 60,
                "tokens": self.tokens,
            }
        )
        self.excluded += time.process_time() - before

    def write(self, parameters: int) -> None:
        """Write the marks when all are there."""
        content = {
            "parameters": parameters,
            "marks": self.found,
            "versions": {"transformers": transformers.__version__, "torch": torch.__version__},
        }
        (self.out / "marks.json").write_text(json.dumps(content, indent=1))


if __name__ == "__main__":
    main()
