"""Which process this is, read once from the environment and passed on.

`deepspeed` and `torchrun` set RANK, LOCAL_RANK and WORLD_SIZE; without them there is one process.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class World:
    """The processes of a run."""

    rank: int = 0
    """This process, from 0."""
    local_rank: int = 0
    """This process among those of its machine."""
    local_size: int = 1
    """Processes of this machine."""
    world_size: int = 1
    """All processes."""

    @classmethod
    def detect(cls, environment: Mapping[str, str] = os.environ) -> "World":
        """The world that the launcher's environment describes.

        Raises:
            ValueError: A variable is not a number, or they contradict one another.
        """
        size = _number(environment, "1", "WORLD_SIZE")
        rank = _number(environment, "0", "RANK")
        if rank >= size:
            raise ValueError(
                f"the environment says RANK={rank} of WORLD_SIZE={size}: start with `deepspeed`, "
                "`torchrun`, or neither variable set"
            )
        return cls(
            rank=rank,
            local_rank=_number(environment, "0", "LOCAL_RANK"),
            # deepspeed says LOCAL_SIZE, torchrun LOCAL_WORLD_SIZE
            local_size=_number(environment, str(size), "LOCAL_SIZE", "LOCAL_WORLD_SIZE"),
            world_size=size,
        )

    @property
    def is_main(self) -> bool:
        """Whether this process writes and prints."""
        return self.rank == 0


def _number(environment: Mapping[str, str], default: str, *names: str) -> int:
    """The first of these variables that is set."""
    name = next((name for name in names if name in environment), names[0])
    text = environment.get(name, default)
    if not text.isdecimal():
        raise ValueError(f"the environment variable {name} is {text!r}, wanted a number from 0")
    return int(text)
