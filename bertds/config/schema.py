"""The `bertds` block of a case file: every key, its unit and its meaning.

A case file is a DeepSpeed configuration plus this block. JSON holds no comments, so this page is
its dictionary; DeepSpeed's own keys are in `deepspeed_schema` and `optimizer_schema`.
Unknown keys are refused, and no value is coerced: `"1e-4"` is not a number.
"""

import json
import re
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, PlainValidator, model_validator

Count = Annotated[int, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Probability = Annotated[float, Field(ge=0, lt=1)]


# A name that may stand in a file name and in a figure's key.
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.+-]*$")]
Preset = Literal["bert", "bert-prenorm", "modernbert"]


def _check_interval(value: object) -> int | str:
    if isinstance(value, int) and not isinstance(value, bool) and value > 0:
        return value
    is_epochs = isinstance(value, str) and re.fullmatch(r"\d{1,6}(\.\d{1,6})? epochs?", value)
    if isinstance(value, str) and is_epochs and float(value.split()[0]) > 0:
        return value
    raise ValueError(f'{json.dumps(value)} is neither a count of steps nor a text like "1 epoch"')


# A count of steps, or a text such as "1 epoch" or "0.5 epochs".
Interval = Annotated[int | str, PlainValidator(_check_interval)]


class Block(BaseModel):
    """What all blocks share: frozen, strict, unknown keys refused."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
        protected_namespaces=(),
    )


class ModelConfig(Block):
    """The encoder. Keys are spelt as in Hugging Face's config.json.

    A preset fills the fields that make the architecture of a Hugging Face class: `bert` is
    BertForMaskedLM, `bert-prenorm` RobertaPreLayerNormForMaskedLM, `modernbert`
    ModernBertForMaskedLM. A field that the file gives wins over the preset.
    """

    preset: Preset = "bert-prenorm"
    """Which Hugging Face class the unset fields follow."""
    hidden_size: Count
    """D, the width of the residual stream."""
    num_hidden_layers: Count
    """Encoder layers."""
    num_attention_heads: Count
    """Heads; must divide hidden_size."""
    intermediate_size: Count
    """F, the width of the feed-forward."""
    max_position_embeddings: Count = 512
    """Longest sequence in tokens that the model takes (with `bert-prenorm` the table of learned
    positions has pad_id + 1 rows more, as in its Hugging Face class)."""
    vocab_size: Count | None = None
    """Comes from the shards' index; if given it must be equal."""
    norm: Literal["pre", "post"] = "pre"
    """Layer norm before each sublayer, or after each residual sum."""
    positions: Literal["learned", "sinusoidal", "rope"] = "learned"
    """How the model knows where a token stands."""
    feed_forward: Literal["mlp", "glu"] = "mlp"
    """Two matrices, or a gated linear unit (three)."""
    hidden_act: Literal["relu", "gelu", "silu"] = "gelu"
    """Activation of the feed-forward."""
    bias: bool = True
    """Biases in linear layers and norms."""
    hidden_dropout_prob: Probability = 0.1
    """Dropout after the embedding and on each sublayer's output."""
    attention_probs_dropout_prob: Probability = 0.0
    """Dropout on attention weights."""
    layer_norm_eps: Annotated[float, Field(gt=0)] = 1e-12
    """Epsilon of every norm."""
    initializer_range: Annotated[float, Field(gt=0)] = 0.02
    """Standard deviation of the weights at the start."""
    tie_word_embeddings: bool = True
    """The decoder's matrix is the token embedding."""
    rope_theta: Annotated[float, Field(gt=0)] = 10_000.0
    """Base of the rotary angles in layers that see the whole sequence."""
    local_rope_theta: Annotated[float, Field(gt=0)] = 10_000.0
    """Base of the rotary angles in local layers."""
    local_attention: Count | None = None
    """Width in tokens of the window of local layers (half on each side); null: none are local."""
    global_attn_every_n_layers: Count = 1
    """With a window: every n-th layer, from the first, sees the whole sequence."""
    gradient_checkpointing: bool = False
    """Recompute each layer in the backward pass instead of keeping its activations."""

    @model_validator(mode="before")
    @classmethod
    def _fill_preset(cls, values: object) -> object:
        if not isinstance(values, dict):
            return values
        preset = values.get("preset", "bert-prenorm")
        return {**PRESETS.get(preset, {}), **values} if isinstance(preset, str) else values

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"num_attention_heads is {self.num_attention_heads}, which does not divide "
                f"hidden_size {self.hidden_size}: choose one that does"
            )
        if self.positions == "rope" and self.hidden_size // self.num_attention_heads % 2:
            raise ValueError(
                "positions is 'rope', which turns pairs: hidden_size / num_attention_heads must "
                f"be even, it is {self.hidden_size // self.num_attention_heads}"
            )
        return self

    @property
    def head_size(self) -> int:
        """K, the width of one attention head."""
        return self.hidden_size // self.num_attention_heads

    def supports_varlen_attention(self, precision: str) -> bool:
        """Whether `torch.nn.attention.varlen` computes the model, on a GPU that has it.

        It has no dropout, 16 bits only, and heads of a multiple of 8 numbers, up to 256.
        """
        has_dropout = self.attention_probs_dropout_prob > 0
        fits = self.head_size % 8 == 0 and self.head_size <= 256
        return precision != "fp32" and not has_dropout and fits


PRESETS: dict[str, dict[str, object]] = {
    "bert": {"norm": "post", "hidden_act": "gelu", "layer_norm_eps": 1e-12},
    "bert-prenorm": {"norm": "pre", "hidden_act": "gelu", "layer_norm_eps": 1e-12},
    "modernbert": {
        "norm": "pre",
        "positions": "rope",
        "feed_forward": "glu",
        "hidden_act": "gelu",
        "bias": False,
        "hidden_dropout_prob": 0.0,
        "layer_norm_eps": 1e-5,
        "rope_theta": 160_000.0,
        "local_rope_theta": 10_000.0,
        "local_attention": 128,
        "global_attn_every_n_layers": 3,
        "max_position_embeddings": 8192,
    },
}


class TrainSet(Block):
    """One shard set to train on."""

    name: str
    """Its directory, relative to `--data`, or its URL."""
    fraction: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Its first floor(fraction * N) sequences in shard order are used."""
    weight: Count = 1
    """How often each of its sequences occurs in an epoch, with other masks each time."""


class ValidSet(Block):
    """One shard set to validate on."""

    name: str
    """Its directory, relative to `--data`, or its URL."""
    fraction: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Its first floor(fraction * N) sequences in shard order are used."""


class DataConfig(Block):
    """Which sequences are read, and in what order."""

    train: Annotated[tuple[TrainSet, ...], Field(min_length=1, strict=False)]
    """Shard sets, mixed in every batch."""
    valid: dict[Name, ValidSet] = {}
    """Validation sets by the name under which their figures are logged."""
    seq_len: Count = 256
    """Longest sequence in tokens that is taken; shards with longer ones are refused."""
    lanes: Count | None = None
    """Parallel readers of the epoch's order; must divide the batch. Default: the largest divisor
    of train_batch_size up to 64. Part of the order: never changes in a run."""
    window: Count = 16
    """Blocks that a lane shuffles together. Part of the order."""
    cache_dir: Annotated[str, Field(min_length=1)] | None = None
    """Directory on a disk of each machine for shards that are behind URLs; all runs and processes
    of the machine may share it. Default: bertds in $XDG_CACHE_HOME or ~/.cache."""
    cache_gb: Annotated[float, Field(gt=0)] = 100.0
    """Most GB of shards there, beyond which those not read for the longest time go. All sets of a
    run should fit, since every step reads from all of them."""


class MaskingConfig(Block):
    """Which tokens are predicted (BERT: 15 %, of them 80/10/10)."""

    mode: Literal["dynamic", "static"] = "dynamic"
    """New masks each epoch, or the same for ever."""
    copies: Count = 1
    """With `static`: masks of epoch e are those of copy e mod copies."""
    ratio: Annotated[float, Field(gt=0, lt=1)] = 0.15
    """Share of a sequence's tokens that are predicted; at least one is."""
    valid_ratio: Annotated[float, Field(gt=0, lt=1)] | None = None
    """That share in validation sets, so that arms of several ratios can be compared there.
    Default: ratio."""
    mask_share: Share = 0.8
    """Of those, the share that becomes [MASK]."""
    random_share: Share = 0.1
    """Of those, the share that becomes a random id; the rest stay."""
    unit: Literal["token", "word"] = "token"
    """Mask single tokens, or all tokens of a word."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of the masks; the run's seed does not touch them."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.mask_share + self.random_share > 1:
            raise ValueError(
                f"mask_share {self.mask_share} + random_share {self.random_share} is above 1: "
                "lower one of them"
            )
        if self.mode == "dynamic" and self.copies != 1:
            raise ValueError(
                f"copies is {self.copies}, which only static masking has: set mode to 'static'"
            )
        return self


class MlflowConfig(Block):
    """Where MLflow keeps a run's figures besides `metrics.jsonl`."""

    tracking_uri: Annotated[str, Field(min_length=1)] | None = None
    """A server or store as MLflow names them. Default: MLFLOW_TRACKING_URI, else MLflow's own."""
    experiment: Annotated[str, Field(min_length=1)] | None = None
    """The experiment that the run is put into. Default: the case's name."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if re.match(r"[^/]+://[^/]*@", self.tracking_uri or ""):
            raise ValueError(
                "tracking_uri holds a user, which the record and TensorBoard would show: leave it "
                "out and set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or for a "
                "database all of MLFLOW_TRACKING_URI"
            )
        return self


class RunConfig(Block):
    """How long to train, and what to write when."""

    num_epochs: Annotated[float, Field(gt=0)] | None = None
    """Passes over the data; the lesser of num_epochs and max_steps ends the run."""
    max_steps: Count | None = None
    """Optimizer updates; one of num_epochs and max_steps must be given."""
    max_hours: Annotated[float, Field(gt=0)] | None = None
    """Wall-clock hours of one start, all its arms together, after which it saves and stops as
    pre-empted (code 75)."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of weights, order and dropout."""
    init_from: Annotated[str, Field(min_length=1)] | None = None
    """Directory in Hugging Face's format (safetensors) whose weights the run begins with, at step
    0; its architecture and vocabulary must be the case's. A resume takes its checkpoint's."""
    log_every: Interval = 50
    """Steps between two training lines in metrics.jsonl."""
    eval_every: Interval = "1 epoch"
    """Steps between two validations; there is always one at the end."""
    save_every: Interval = "1 epoch"
    """Steps between two checkpoints; there is always one at the end."""
    keep_last: Count = 2
    """Checkpoints kept, besides the best one by validation loss."""
    resume: Literal["auto", "required", "never"] = "auto"
    """Go on from the newest complete checkpoint if there is one; insist on one; or refuse to
    start in a directory that has one."""
    max_micro_batch_size: Count = 256
    """Most sequences a process computes at once; the batch beyond is accumulated."""
    no_decay: tuple[Literal["bias", "norm", "embedding"], ...] | None = Field(
        default=None, strict=False
    )
    """Kinds of parameters without weight decay. Default: biases and norms under AdamW, none under
    Adam with coupled L2."""
    mlflow: MlflowConfig | None = None
    """Hands the figures to MLflow as well, with these keys, or with `{}`."""
    deterministic: bool = False
    """On CUDA: only kernels that give the same bits each time."""
    collective_timeout_s: Annotated[float, Field(gt=0)] = 600.0
    """Seconds after which a collective that does not return ends the process."""
    on_bad_shard: Literal["stop", "skip"] = "stop"
    """What a damaged or missing training shard does: end the run (code 3), or have its sequences
    replaced by those of the next whole block, named in the log. The steps stay as many."""
    device: Literal["any", "cuda"] = "any"
    """Where to train: on CUDA where there is one, else on CPU; or on CUDA only, so that a machine
    without is refused."""
    max_bad_steps: Count = 10
    """Steps in a row whose loss or gradient is not finite, after which the run stops (code 71);
    none of them is applied, and bad_steps.jsonl says what was in them."""
    spike_sigmas: Annotated[float, Field(gt=0)] | None = None
    """A training loss this many standard deviations above the mean of the steps before it is a
    spike: the run goes back to its last checkpoint and passes over the batches around it, which
    bad_steps.jsonl names. Default: no guard."""
    spike_window: Annotated[int, Field(ge=2)] = 128
    """Steps that this mean and deviation are taken over; before there are as many, nothing is a
    spike."""
    spike_skip: Annotated[int, Field(ge=0)] = 8
    """Batches passed over before and after that of a spike (before: since the checkpoint)."""
    max_spikes: Count = 10
    """Spikes of a run that are gone back for; at one more the run stops (code 71)."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.num_epochs is None and self.max_steps is None:
            raise ValueError("neither num_epochs nor max_steps is given: give one of them")
        return self


class BertdsConfig(Block):
    """The whole block."""

    title: str = ""
    """What the case compares, in one line, for the record."""
    model: ModelConfig
    data: DataConfig
    masking: MaskingConfig = MaskingConfig()
    run: RunConfig


def interval_steps(interval: int | str, steps_per_epoch: int) -> int:
    """An interval in optimizer steps, at least one.

    Args:
        interval: Steps, or a text such as "1 epoch".
        steps_per_epoch: Optimizer steps of one epoch.
    """
    if isinstance(interval, int):
        return interval
    return max(1, round(float(interval.split()[0]) * steps_per_epoch))


def num_steps(run: RunConfig, steps_per_epoch: int) -> int:
    """Optimizer steps of a run: of its epochs or its steps, whichever are fewer; one at least.

    Args:
        run: The case's block.
        steps_per_epoch: Whole batches of an epoch.
    """
    limits = [] if run.max_steps is None else [run.max_steps]
    if run.num_epochs is not None:
        limits.append(round(run.num_epochs * steps_per_epoch))
    return max(1, min(limits))
