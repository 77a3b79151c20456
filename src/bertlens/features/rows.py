"""The dataset over a store.

Shapes: B reviews, L word pieces, H hidden size.
"""

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from bertlens.data.batching import Batch, TokenRows
from bertlens.features.shards import Layout


class FeatureRows(Dataset[Batch]):
    """The stored hidden states of a split. One look-up takes the rows of a whole batch and returns a padded `Batch`."""

    def __init__(self, states: Tensor, layout: Layout, tokens: TokenRows, *, depth: int) -> None:
        self.states = states  # [all word pieces, H]
        self.layout = layout
        self.labels = tokens.labels.to(states.device)
        self.mask_padding = tokens.mask_padding
        self.depth = depth

    @property
    def device(self) -> torch.device:
        return self.states.device

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, rows: list[int]) -> Batch:
        starts, lengths = self.layout.starts[rows], self.layout.lengths[rows]
        longest = int(lengths.max())
        columns = np.arange(longest)
        mask = columns < lengths[:, None]
        # a review's padding repeats its last state: where the mask is false, any finite number will do
        places = starts[:, None] + np.minimum(columns, lengths[:, None] - 1)
        inputs = self.states.index_select(0, torch.from_numpy(places.ravel()).to(self.device))
        row_numbers = torch.as_tensor(rows)
        return Batch(
            inputs=inputs.view(len(rows), longest, -1),
            attention_mask=torch.from_numpy(mask).to(self.device) if self.mask_padding and not mask.all() else None,
            labels=self.labels[row_numbers.to(self.device)],
            rows=row_numbers,
            depth=self.depth,
        )
