"""How well a reason holds: what the classifier says when the words that carry it are gone.

Shapes: C classes.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Check(NamedTuple):
    """What the classifier says of edited copies of one review, by the words that its first row puts first."""

    order: list[int]
    """The n leading words, at most 20: places in `find_words`, largest value first."""
    removed: NDArray[np.float32]
    """[1 + n, C]: the probabilities without the k leading words, k = 0 … n."""
    kept: NDArray[np.float32]
    """[1 + n, C]: with only the k leading words left."""
    alone: NDArray[np.float32]
    """[n, C]: without this word alone."""
    random_counts: list[int]
    """R numbers of words, of 1, 2, 5, 10, 15 and 20, as far as the review has that many."""
    random: NDArray[np.float32]
    """[10, R, C]: without that many words, by ten random orders."""
    agreement: float | None
    """Spearman's rank correlation of the words' values with those of `mask_gradient`; None where undefined."""
