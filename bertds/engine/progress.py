"""The progress of a live DeepSpeed engine: counters, position in the schedule, loss scale.

Only positions are saved, never settings. On resume the learning rate is computed from the engine's
own schedule, and decay, betas and the limits of the loss scale are its own. So a changed case file
takes effect, and a checkpoint's stale learning rate never does.
"""

from typing import Any

from torch.optim.lr_scheduler import LambdaLR

from bertds.engine.deepspeed_compat import set_step_count

_SCALE = ("cur_scale", "cur_iter", "last_overflow_iter", "cur_hysteresis")
_COUNTERS = ("global_steps", "global_samples", "skipped_steps")


def progress(ds_engine: Any) -> dict[str, Any]:
    """The engine's progress as plain JSON, the same on all ranks."""
    counters = {name: int(getattr(ds_engine, name)) for name in _COUNTERS}
    return {
        "counters": counters,
        "updates": _updates(ds_engine.lr_scheduler, counters),
        "loss_scale": _loss_scale(ds_engine.optimizer),
        "autocast_scale": _autocast_scale(ds_engine),
    }


def restore_progress(ds_engine: Any, saved: dict[str, Any]) -> None:
    """Restore what `progress` returned; the next micro-step starts a step."""
    for name in _COUNTERS:
        setattr(ds_engine, name, saved["counters"][name])
    ds_engine.micro_steps = ds_engine.global_steps * ds_engine.gradient_accumulation_steps()
    if saved["updates"] > 0:
        _move_schedule(ds_engine.lr_scheduler, saved["updates"])
    if saved["loss_scale"]:
        _set_loss_scale(ds_engine.optimizer, saved["loss_scale"])
    scaler = _autocast_scaler(ds_engine)
    if scaler is not None and saved["autocast_scale"]:
        scaler.load_state_dict(scaler.state_dict() | saved["autocast_scale"])


def _updates(scheduler: Any, counters: dict[str, int]) -> int:
    """Updates applied so far: a step skipped for an overflow does not advance the schedule."""
    if scheduler is None:
        return counters["global_steps"] - counters["skipped_steps"]
    if hasattr(scheduler, "last_batch_iteration"):
        return int(scheduler.last_batch_iteration) + 1
    return int(scheduler.last_epoch)


def _move_schedule(scheduler: Any, updates: int) -> None:
    """Set the learning rate (and OneCycle's betas) of the next step."""
    if scheduler is None:
        return
    if hasattr(scheduler, "last_batch_iteration"):
        scheduler.step(updates - 1)
        return
    assert isinstance(scheduler, LambdaLR), "only a schedule in closed form can be resumed"
    scheduler.last_epoch = updates - 1
    set_step_count(scheduler, updates + 1)
    scheduler.step()


def _scale_holder(optimizer: Any) -> Any:
    """The object with the dynamic fp16 loss scale: ZeRO's scaler, or the wrapper's at stage 0."""
    scaler = getattr(optimizer, "loss_scaler", None)
    if scaler is not None and scaler.dynamic:
        return scaler
    config = getattr(optimizer, "loss_scale_config", None)
    return config if config is not None and config.dynamic_loss_scale else None


def _loss_scale(optimizer: Any) -> dict[str, float] | None:
    """The dynamic loss scale and its counters; None if static, or in other precisions."""
    holder = _scale_holder(optimizer)
    if holder is None:
        return None
    return {name: getattr(holder, name) for name in _SCALE if hasattr(holder, name)}


def _set_loss_scale(optimizer: Any, saved: dict[str, float]) -> None:
    """Restore a dynamic loss scale; a static one is left as it is."""
    holder = _scale_holder(optimizer)
    for name, value in saved.items():
        if hasattr(holder, name):
            setattr(holder, name, value)


def _autocast_scaler(ds_engine: Any) -> Any:
    """The scaler of DeepSpeed's ``torch_autocast`` with fp16, else None."""
    at_stage_0 = getattr(ds_engine, "torch_autocast_z0_gradscaler", None)
    return at_stage_0 or getattr(ds_engine.optimizer, "torch_autocast_gradscaler", None)


def _autocast_scale(ds_engine: Any) -> dict[str, float] | None:
    scaler = _autocast_scaler(ds_engine)
    if scaler is None:
        return None
    state = scaler.state_dict()
    return {name: state[name] for name in ("scale", "_growth_tracker") if name in state}
