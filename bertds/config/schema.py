"""The `bertds` block of a case file: every key with its type, unit, default and meaning.

A case file is a DeepSpeed configuration plus this block. The docstrings below are the source of the
reference page of the keys. DeepSpeed's own keys are in `deepspeed_schema` and `optimizer_schema`.
Unknown keys are rejected, and no value is converted: `"1e-4"` is not a number.
"""

import json
import re
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PlainValidator, model_validator

from bertds.config.presets import PRESETS, Preset, PresetName

Count = Annotated[int, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Probability = Annotated[float, Field(ge=0, lt=1)]


# Valid in file names and in the keys of metrics.
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.+-]*$")]
_BRANCH_POINT = re.compile(r"(.+)@(\d{1,10})")
NAME_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]*")
_EPOCHS = re.compile(r"\d{1,6}(\.\d{1,6})? epochs?")


def _check_interval(value: object) -> int | str:
    if isinstance(value, int) and not isinstance(value, bool) and value > 0:
        return value
    if isinstance(value, str) and _EPOCHS.fullmatch(value) and float(value.split()[0]) > 0:
        return value
    raise ValueError(
        f"{json.dumps(value)} is not an interval: expected a number of steps, or a string such as "
        '"1 epoch"'
    )


def branch_point(text: str) -> tuple[str, int]:
    """Split `RUN@STEP` into the run directory and the step.

    Raises:
        ValueError: It has another form.
    """
    match = _BRANCH_POINT.fullmatch(text)
    if match is None:
        raise ValueError(
            f"{json.dumps(text)} is not RUN@STEP: expected a run directory and the step of a "
            'checkpoint, such as "runs/case11/main@1000"'
        )
    return match[1], int(match[2])


def _check_branch_point(text: str) -> str:
    branch_point(text)
    return text


BranchPoint = Annotated[str, AfterValidator(_check_branch_point)]
# A number of optimizer steps, or a string such as "1 epoch" or "0.5 epochs".
Interval = Annotated[int | str, PlainValidator(_check_interval)]


class Block(BaseModel):
    """Base of all blocks: frozen and strict; unknown keys are rejected."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
        protected_namespaces=(),
    )


class ModelConfig(Block):
    """The encoder. Keys have the names of Hugging Face's config.json.

    A preset sets the fields that define the architecture of a Hugging Face class: `bert` is
    BertForMaskedLM, `bert-prenorm` is RobertaPreLayerNormForMaskedLM, `modernbert` is
    ModernBertForMaskedLM, and `roberta`, `xlm-roberta`, `camembert` and `distilbert` are the classes of
    these names. A field in the file overrides the preset.
    """

    preset: PresetName = "bert-prenorm"
    """Hugging Face architecture that provides the defaults of the other keys."""
    hidden_size: Count
    """Width of the residual stream (D)."""
    num_hidden_layers: Count
    """Number of encoder layers."""
    num_attention_heads: Count
    """Number of attention heads; must divide hidden_size."""
    intermediate_size: Count
    """Width of the feed-forward layer (F)."""
    max_position_embeddings: Count = 512
    """Longest sequence that the model accepts, in tokens. With `bert-prenorm`, `roberta`, `xlm-roberta`
    and `camembert`, the table of learned positions has pad_id + 1 more rows, as in their Hugging Face
    classes."""
    vocab_size: Count | None = None
    """Number of token ids. Default: read from the shards' index; a given value must equal it."""
    pad_vocab_to_multiple_of: Count = 1
    """Round the rows of the token embedding and the output layer up to a multiple of this, as some
    models on the Hub do; 64 or 128 is faster on a GPU. The added rows are never predicted. Not with Lamb, nor with
    weight decay of biases."""
    type_vocab_size: Annotated[int, Field(ge=0)] = 0
    """Rows of the table of token types (segments), as in Hugging Face's config.json. Every training
    text has type 0; the other rows are kept unchanged for pairs of texts. `init --from` sets it. 0:
    no table; the exported one is 0."""
    norm: Literal["pre", "post"] = "pre"
    """Layer norm before each sublayer (pre) or after each residual sum (post)."""
    positions: Literal["learned", "sinusoidal", "rope"] = "learned"
    """Position encoding: a learned table, a fixed sinusoidal table, or rotary (RoPE)."""
    position_scale: Annotated[float, Field(gt=0)] = 1.0
    """With `sinusoidal`: factor of the table of positions, whose root mean square is 0.71. In a new
    case use initializer_range / 0.71 (0.028): the table then starts as large as the tokens."""
    feed_forward: Literal["mlp", "glu"] = "mlp"
    """Feed-forward type: two matrices (mlp), or a gated linear unit with three (glu)."""
    hidden_act: Literal["relu", "gelu", "silu"] = "gelu"
    """Activation function of the feed-forward layer."""
    bias: bool = True
    """Whether linear layers and norms have biases."""
    hidden_dropout_prob: Probability = 0.1
    """Dropout probability after the embedding and on the output of each sublayer."""
    attention_probs_dropout_prob: Probability = 0.0
    """Dropout probability of the attention weights."""
    layer_norm_eps: Annotated[float, Field(gt=0)] = 1e-12
    """Epsilon of every layer norm."""
    initializer_range: Annotated[float, Field(gt=0)] = 0.02
    """Standard deviation of the initial weights."""
    tie_word_embeddings: bool = True
    """Whether the output layer shares its matrix with the token embedding."""
    rope_theta: Annotated[float, Field(gt=0)] = 10_000.0
    """Base of the rotary angles in layers with global attention."""
    local_rope_theta: Annotated[float, Field(gt=0)] = 10_000.0
    """Base of the rotary angles in layers with local attention."""
    local_attention: Count | None = None
    """Width of the attention window of local layers in tokens, half on each side. Default: all
    layers have global attention."""
    global_attn_every_n_layers: Count = 1
    """With local_attention: every n-th layer, starting with the first, has global attention."""
    gradient_checkpointing: bool = False
    """Recompute the activations of each layer in the backward pass, which saves memory."""

    @model_validator(mode="before")
    @classmethod
    def _fill_preset(cls, values: object) -> object:
        if not isinstance(values, dict):
            return values
        preset = values.get("preset", "bert-prenorm")
        is_known = isinstance(preset, str) and preset in PRESETS
        return {**PRESETS[preset].defaults, **values} if is_known else values

    def padded_vocab_size(self, vocab_size: int) -> int:
        """Rows of the token embedding for a tokenizer with this number of ids."""
        multiple = self.pad_vocab_to_multiple_of
        return -(-vocab_size // multiple) * multiple

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"num_attention_heads is {self.num_attention_heads}, which does not divide "
                f"hidden_size {self.hidden_size}: choose one that does"
            )
        if self.positions == "rope" and self.hidden_size // self.num_attention_heads % 2:
            raise ValueError(
                'positions is "rope", which rotates pairs: hidden_size / num_attention_heads is '
                f"{self.hidden_size // self.num_attention_heads}, expected an even number"
            )
        if self.position_scale != 1 and self.positions != "sinusoidal":
            raise ValueError(
                f'position_scale is {self.position_scale}, which needs positions "sinusoidal": '
                f'positions is "{self.positions}"'
            )
        return self

    @property
    def traits(self) -> Preset:
        """What the preset says beyond the keys."""
        return PRESETS[self.preset]

    @property
    def head_size(self) -> int:
        """Width of an attention head (K)."""
        return self.hidden_size // self.num_attention_heads

    def supports_varlen_attention(self, precision: str) -> bool:
        """Whether `torch.nn.attention.varlen` can compute the model's attention.

        It has no dropout. It needs 16-bit precision and a head size that is a multiple of 8, at
        most 256.
        """
        has_valid_head_size = self.head_size % 8 == 0 and self.head_size <= 256
        has_dropout = self.attention_probs_dropout_prob > 0
        return precision != "fp32" and not has_dropout and has_valid_head_size


class TrainSet(Block):
    """One training dataset."""

    name: str
    """Directory of the shards, relative to `--data`, or a URL."""
    fraction: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Fraction of its N sequences to use: the first floor(fraction * N) in shard order."""
    weight: Count = 1
    """Number of times that each sequence occurs in an epoch, each time with other masks."""


class ValidSet(Block):
    """One validation dataset."""

    name: str
    """Directory of the shards, relative to `--data`, or a URL."""
    fraction: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Fraction of its N sequences to use: the first floor(fraction * N) in shard order."""


class DataConfig(Block):
    """The datasets and the order of their sequences."""

    train: Annotated[tuple[TrainSet, ...], Field(min_length=1, strict=False)]
    """Training datasets; every batch mixes them."""
    valid: dict[Name, ValidSet] = {}
    """Validation datasets, by the name that their metrics are logged under."""
    seq_len: Count = 256
    """Maximum sequence length in tokens; shards with longer sequences are rejected."""
    lanes: Count | None = None
    """Number of shuffle lanes (parallel read streams); must divide train_batch_size and all sizes of
    run.batch_size_warmup. Default: the largest such divisor up to 64. It determines the data order,
    so a resumed run must keep it."""
    window: Count = 16
    """Size of the shuffle window of a lane, in blocks. It determines the data order, so a resumed
    run must keep it."""
    cache_dir: Annotated[str, Field(min_length=1)] | None = None
    """Local directory that caches remote shards. All ranks of a host, and several runs, can share
    it. Default: `bertds` in $XDG_CACHE_HOME, or in ~/.cache."""
    cache_gb: Annotated[float, Field(gt=0)] = 100.0
    """Maximum size of the cache in GB, beyond which the least recently used shards are evicted. All
    datasets of a run should fit, because every step reads from all of them."""


class MaskingConfig(Block):
    """Which tokens are masked and predicted (BERT: 15 %, of which 80/10/10)."""

    mode: Literal["dynamic", "static"] = "dynamic"
    """New masks in each epoch (dynamic), or the same masks in all epochs (static)."""
    copies: Count = 1
    """With `static`: number of different masks of a sequence; epoch e uses copy e mod copies."""
    ratio: Annotated[float, Field(gt=0, lt=1)] = 0.15
    """Fraction of a sequence's tokens that are predicted; at least one token is."""
    valid_ratio: Annotated[float, Field(gt=0, lt=1)] | None = None
    """The same fraction in validation datasets, so that arms with different ratios can be compared.
    Default: ratio."""
    mask_share: Fraction = 0.8
    """Fraction of the predicted tokens that are replaced by [MASK]."""
    random_share: Fraction = 0.1
    """Fraction of the predicted tokens that are replaced by a random token; the rest is unchanged."""
    unit: Literal["token", "word"] = "token"
    """Mask single tokens, or all tokens of a word together."""
    version: Literal[1, 2] = 1
    """How long words are masked with unit `word`. Version 1 masks the first word drawn whole, however
    long it is. Version 2 cuts words that have more tokens than are to be predicted, so that the
    ratio is kept, also in text without blanks. Use 2 in a new case."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Random seed of the masks; independent of run.seed."""
    valid_seed: Annotated[int, Field(ge=0)] | None = None
    """Random seed of the masks of validation datasets. Set it to validate runs with different seeds
    on the same masks. Default: seed."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.mask_share + self.random_share > 1:
            raise ValueError(
                f"mask_share {self.mask_share} + random_share {self.random_share} is above 1: "
                "lower one of them"
            )
        if self.mode == "dynamic" and self.copies != 1:
            raise ValueError(
                f'copies is {self.copies}, which needs static masking: set mode to "static"'
            )
        return self


class MlflowConfig(Block):
    """Logging of the metrics to MLflow, in addition to `metrics.jsonl`."""

    tracking_uri: Annotated[str, Field(min_length=1)] | None = None
    """Tracking server or store. Default: $MLFLOW_TRACKING_URI, or else MLflow's own default."""
    experiment: Annotated[str, Field(min_length=1)] | None = None
    """Name of the MLflow experiment. Default: the name of the case."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if re.match(r"[^/]+://[^/]*@", self.tracking_uri or ""):
            raise ValueError(
                "tracking_uri contains a user name, which the report and TensorBoard would show: "
                "remove it and set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or set "
                "MLFLOW_TRACKING_URI to the whole URI of a database"
            )
        return self


class BatchSizeWarmup(Block):
    """A batch that grows to train_batch_size at the start of a run."""

    from_size: Count
    """Sequences of the first batch."""
    num_steps: Count | None = None
    """Number of steps until train_batch_size is reached."""
    num_tokens: Count | None = None
    """The same in tokens, counted by the mean length of the training sequences. One of num_steps and
    num_tokens must be given."""
    multiple_of: Count | None = None
    """Each batch size is a multiple of this number, which from_size and train_batch_size must be as
    well. The size grows in steps of it. Default: from_size."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.num_steps is None) == (self.num_tokens is None):
            given = "neither num_steps nor" if self.num_steps is None else "both num_steps and"
            raise ValueError(f"{given} num_tokens is given: set one of them")
        if self.from_size % self.step_size:
            raise ValueError(
                f"from_size is {self.from_size}, expected a multiple of multiple_of "
                f"{self.step_size}: change one of them"
            )
        return self

    @property
    def step_size(self) -> int:
        """By how many sequences the batch grows at a time."""
        return self.multiple_of or self.from_size


class RunConfig(Block):
    """Length of the training, and when to log, validate and save."""

    num_epochs: Annotated[float, Field(gt=0)] | None = None
    """Number of epochs. If max_steps is also given, the run ends at whichever comes first."""
    max_steps: Count | None = None
    """Number of optimizer steps. One of num_epochs, max_steps and max_tokens must be given."""
    max_tokens: Count | None = None
    """Number of tokens, counted by the mean length of the training sequences. Another limit that is
    also given may end the run before."""
    max_hours: Annotated[float, Field(gt=0)] | None = None
    """Time limit of one launch in hours, for all its arms together. Then the run saves a checkpoint
    and stops as preempted (exit code 75). Default: no limit."""
    batch_size_warmup: BatchSizeWarmup | None = None
    """Start with smaller batches: the batch size grows linearly to train_batch_size. It determines
    the data order, so a resumed run must keep it. Default: all batches have train_batch_size."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Random seed of the initial weights, the data order and dropout."""
    init_from: Annotated[str, Field(min_length=1)] | None = None
    """Hugging Face directory (safetensors) with the initial weights; its architecture and
    vocabulary must match the case. If `model` lacks one of its four sizes, it follows the
    directory, and the keys that it has override the directory's. A run that resumes loads its
    checkpoint instead. Default: random weights."""
    branch_from: BranchPoint | None = None
    """`RUN@STEP`: begin with weights, moments and place in the data of a checkpoint of another run, such
    as runs/case11/main@1000, and count on from its step. Settings that a resumed run must keep must be
    those of that run. A run that resumes loads its own checkpoint instead. Default: begin at step 0."""
    log_every: Interval = 50
    """Interval between two lines of training metrics, in steps or epochs."""
    eval_every: Interval = "1 epoch"
    """Interval between two validations, in steps or epochs; the last step is always validated."""
    eval_at_start: bool | None = None
    """Whether to validate before the first step, to see what training gains. Default: only with
    init_from."""
    save_every: Interval = "1 epoch"
    """Interval between two checkpoints, in steps or epochs; the last step is always saved."""
    keep_last: Count = 2
    """Number of checkpoints to keep, in addition to the one with the best validation loss and those of
    keep_every."""
    keep_every: Interval | None = None
    """Interval between two checkpoints that are never removed, in steps or epochs. They are written
    also where save_every is not due. Default: none are kept."""
    ema_decay: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Decay of an exponential moving average of the weights, such as 0.999, which is updated after each
    applied step. `export --ema` and `evaluate --ema` use it. A run that resumes may add it, change it or
    leave it out. Default: no average."""
    resume: Literal["auto", "required", "never"] = "auto"
    """Resume from the newest complete checkpoint if one exists (auto), require one (required), or
    reject a run directory that has one (never)."""
    max_micro_batch_size: Count = 256
    """Maximum micro-batch size of a rank, in sequences; gradient accumulation does the rest."""
    no_decay: tuple[Literal["bias", "norm", "embedding"], ...] | None = Field(
        default=None, strict=False
    )
    """Kinds of parameters without weight decay. Default: biases and norms with AdamW; none with
    Adam and coupled L2."""
    mlflow: MlflowConfig | None = None
    """Log to MLflow as well; `{}` takes its defaults. Default: no MLflow."""
    deterministic: bool = False
    """On CUDA: use only deterministic kernels, so that runs are bit-exact."""
    tf32: bool = False
    """On CUDA in fp32: compute matrix products in TF32, with 10 bits of mantissa instead of 23.
    Several times as fast and less exact. No effect in bf16 and fp16."""
    compile: bool = False
    """Compile the layers, the rotary embedding and the loss with `torch.compile`, when they are
    first used. May change when a run resumes. Not with ZeRO stage 3, nor with run.deterministic."""
    attention: Literal["auto", "fa3"] = "auto"
    """Attention kernel of a GPU in bf16 and fp16: that of PyTorch (auto), or FlashAttention 3 (fa3),
    which needs compute capability 9.0 and the package flash_attn_interface."""
    collective_timeout_s: Annotated[float, Field(gt=0)] = 600.0
    """Timeout of a collective operation in seconds, after which the process exits."""
    on_bad_shard: Literal["stop", "skip"] = "stop"
    """On a damaged or missing training shard: stop the run (exit code 3), or replace its sequences
    by those of the next intact block and log it (skip). The number of steps does not change."""
    device: Literal["any", "cuda"] = "any"
    """Device to train on: CUDA if available, otherwise CPU (any); or CUDA only, which rejects a
    machine without a GPU (cuda)."""
    keep_freed_memory: bool = True
    """On a CPU with glibc: keep freed memory in the process instead of returning it to the system.
    Steps are faster, and the peak memory is larger. Variables that set glibc's allocator, such as
    MALLOC_TRIM_THRESHOLD_, take precedence."""
    max_bad_steps: Count = 10
    """Number of consecutive steps with a non-finite loss or gradient (NaN/Inf) after which the run
    stops (exit code 71). Such steps are skipped; bad_steps.jsonl lists their sequences."""
    spike_sigmas: Annotated[float, Field(gt=0)] | None = None
    """Loss spike detection: a training loss this many standard deviations above the mean of the
    preceding steps is a spike. The run then returns to its last checkpoint and skips the batches
    around the spike, which bad_steps.jsonl lists. Default: no detection."""
    spike_window: Annotated[int, Field(ge=2)] = 128
    """Number of preceding steps for this mean and standard deviation; there is no detection before
    that many steps."""
    spike_skip: Annotated[int, Field(ge=0)] = 8
    """Number of batches to skip before and after the spike; at most back to the checkpoint."""
    max_spikes: Count = 10
    """Maximum number of spikes that a run returns for; after one more it stops (exit code 71)."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.num_epochs is None and self.max_steps is None and self.max_tokens is None:
            raise ValueError("neither num_epochs nor max_steps is given: set one of them")
        return self


class BertdsConfig(Block):
    """The whole `bertds` block."""

    title: str = ""
    """One line for reports: what the case compares."""
    model: ModelConfig
    """Architecture of the encoder. May be left out with run.init_from."""
    data: DataConfig
    """Datasets and data order."""
    masking: MaskingConfig = MaskingConfig()
    """Which tokens are masked and predicted."""
    run: RunConfig
    """Length of the training, and when to log, validate and save."""
    stages: Annotated[tuple[dict[str, Any], ...], Field(strict=False)] = ()
    """Stages that one run goes through: patches of the file as in `arms`, each with a `name` and a
    length (`run.max_steps`, `run.num_epochs` or `run.max_tokens`). Default: one stage."""


def interval_steps(interval: int | str, steps_per_epoch: int) -> int:
    """Convert an interval, such as 50 or "1 epoch", to optimizer steps; at least one."""
    if isinstance(interval, int):
        return interval
    return max(1, round(float(interval.split()[0]) * steps_per_epoch))
