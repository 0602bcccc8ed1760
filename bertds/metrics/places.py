"""What a masked place shows to the model: [MASK], a random token, or the right token.

At a place that shows the right token a model only has to copy. So the accuracy over all places mixes
two abilities, and is also given for each kind of place.
"""

import numpy as np

from bertds.data.packing import Int64s, PackedBatch

KINDS = ("mask", "random", "kept")
"""The names of the kinds, in metrics and in the figures of a baseline."""


def kinds_of(pack: PackedBatch, mask_id: int) -> Int64s:
    """(M,) kind of each masked place, as its index in `KINDS`.

    A random token may be the right one by chance; then the place counts as kept.
    """
    shown = pack.inputs[pack.masked]
    return np.where(shown == mask_id, 0, np.where(shown == pack.labels, 2, 1))
