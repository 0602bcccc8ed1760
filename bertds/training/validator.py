"""Validation during training: metrics of every set, sample predictions, the best loss."""

import logging
import math

from bertds.data.shards.format import TOKENIZER_NAME
from bertds.data.validation import characters_per_token, valid_packs
from bertds.distributed.failures import translate_step_errors
from bertds.distributed.watchdog import Watchdog
from bertds.engine.engine import Engine
from bertds.metrics.accumulators import validation_metrics
from bertds.tracking.predictions import SamplePredictions
from bertds.training.metric_logger import MetricLogger
from bertds.training.run_setup import RunSetup
from bertds.training.state import TrainState

logger = logging.getLogger("bertds")


class Validator:
    """Evaluates the validation sets of a run."""

    def __init__(
        self,
        run: RunSetup,
        engine: Engine,
        state: TrainState,
        metric_logger: MetricLogger,
        watchdog: Watchdog,
    ) -> None:
        """Read the sequences whose predictions are shown."""
        self._run, self._engine, self._state = run, engine, state
        self._metric_logger, self._watchdog = metric_logger, watchdog
        tokenizer = run.vocabulary.directory / TOKENIZER_NAME
        self._predictions = SamplePredictions(run.valid, run.valid_spec, tokenizer)

    def run(self) -> bool:
        """Validate; whether the loss is the best so far. All ranks must call it."""
        if not self._run.valid:
            return False
        loss = self._validate()
        best_loss = math.inf if self._state.best_loss is None else self._state.best_loss
        is_best = loss < best_loss  # False for NaN
        if is_best:
            self._state.best_loss = loss
        return is_best

    def run_before_first_step(self) -> None:
        """Validate the initial weights if the case asks for it; there is no checkpoint of them."""
        settings = self._run.case.bertds.run
        is_wanted = settings.eval_at_start
        if is_wanted is None:
            is_wanted = settings.init_from is not None
        if is_wanted and self._run.valid and self._state.step == 0:
            self._validate()

    def _validate(self) -> float:
        """Evaluate all sets and log the metrics; the loss."""
        spec = self._run.valid_spec
        with translate_step_errors(self._run.world, spec.micro_batch_size):
            sums = {
                name: self._engine.evaluate(
                    self._watchdog.through(valid_packs(dataset, spec), f"validating on {name}"),
                    self._run.vocabulary.mask_id,
                )
                for name, dataset in self._run.valid.items()
            }
        metrics = validation_metrics(sums, characters_per_token(self._run.valid))
        logits = [self._engine.logits(pack) for pack in self._predictions.packs]
        self._metric_logger.log_validation(metrics, self._predictions.as_markdown(logits))
        loss = metrics["loss/valid"]
        logger.info(
            "step %d: validation loss %.4f, accuracy %.4f",
            *(self._state.step, loss, metrics["acc/valid"]),
        )
        return loss
