"""launch/train.py with something that is otherwise in process 1 alone, as if it had a host of its own.

python tests/helpers/workers/uneven_launch.py WHAT ARGUMENTS OF launch/train.py
"""

import os
import signal
import sys
from typing import Any

from bertds import cli
from bertds.checkpoint import saver
from bertds.engine.engine import Engine
from bertds.errors import ShardError
from bertds.training import host_check
from bertds.training.trainer import Trainer
from launch import train

what, *arguments = [one for one in sys.argv[1:] if not one.startswith("--local_rank")]
is_odd = os.environ["RANK"] == "1"


def signalled_after(*args: Any, **kwargs: Any) -> int:
    code = train_one(*args, **kwargs)
    signal.raise_signal(signal.SIGUSR1)
    return code


def on_a_bad_shard(*_: Any, **__: Any) -> Any:
    raise ShardError("here/000001.tar is cut")


train_one = Trainer.train
if what == "signal" and is_odd:
    Trainer.train = signalled_after  # type: ignore[method-assign]


if what == "shard" and is_odd:
    Engine.train_step = on_a_bad_shard  # type: ignore[method-assign]


if what in ("data", "out") and is_odd:
    arguments[arguments.index(f"--{what}") + 1] += "-of-another-host"


if what == "out":  # do not wait for a file that never becomes visible
    saver.VISIBLE_WITHIN_S = host_check.VISIBLE_WITHIN_S = 1.0


sys.exit(cli.run("launch/train.py", train.main, arguments))
