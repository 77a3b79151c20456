"""BERT with a linear head on `[CLS]`, in two parts: a frozen prefix and a trained suffix.

This is the only module that decides where the line between the two lies. `trainable_layers` counts encoder layers from
the top: 0 trains the head alone, N every layer, "all" the embeddings too. The prefix has no gradient and stays in eval
mode whatever its parents are told, so for a given review it always computes the same numbers: they can be stored.

The head reads `[CLS]` only, so the top layer is computed for that one query; see `BertSelfAttention`.

Shapes: B reviews, L word pieces, H hidden size, C classes. Depth is the number of encoder layers already applied.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from bertlens.errors import InputError
from bertlens.model.bert import BertConfig, BertModel


class PartSize(NamedTuple):
    """One line of the table that says what is trained."""

    name: str
    num_parameters: int
    trained: bool


class ReviewClassifier(nn.Module):
    """Word pieces, or stored hidden states, to logits."""

    def __init__(
        self,
        config: BertConfig,
        *,
        num_classes: int,
        trainable_layers: int | str = 1,
        frozen_dropout: bool = False,
        frozen_dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        num_layers = config.num_hidden_layers
        if trainable_layers != "all" and not (
            isinstance(trainable_layers, int) and 0 <= trainable_layers <= num_layers
        ):
            raise InputError(
                f"model.trainable_layers={trainable_layers!r}: this model has {num_layers} layers; "
                f"choose 0 (head only) to {num_layers}, or all (embeddings too)"
            )
        self.bert = BertModel(config, add_pooling_layer=False)
        self.head = nn.Linear(config.hidden_size, num_classes)
        nn.init.normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)
        # depth of the frozen prefix; None: nothing is frozen, not even the embeddings
        self.frozen_depth = None if isinstance(trainable_layers, str) else num_layers - trainable_layers
        self.frozen_dropout = frozen_dropout
        self.prefix_compiled = False
        for module in self.frozen_modules():
            module.requires_grad_(False).to(frozen_dtype)
        self.register_buffer("_cls_position", torch.zeros(1, dtype=torch.long), persistent=False)
        self.train()

    def frozen_modules(self) -> list[nn.Module]:
        if self.frozen_depth is None:
            return []
        return [self.bert.embeddings, *self.bert.encoder.layer[: self.frozen_depth]]

    def compile_prefix(self) -> None:
        """Let torch.compile fuse the frozen layers, one graph for all lengths. Worth its start-up on long jobs."""
        for module in self.frozen_modules():
            module.compile(dynamic=True)
        self.prefix_compiled = True

    @property
    def num_layers(self) -> int:
        return len(self.bert.encoder.layer)

    def train(self, mode: bool = True) -> "ReviewClassifier":
        """As `nn.Module.train`, but the prefix stays in eval mode unless its dropout is wanted, the notebook's way."""
        super().train(mode)
        if not self.frozen_dropout:
            for module in self.frozen_modules():
                module.eval()
        return self

    def forward(self, inputs: Tensor, attention_mask: Tensor | None = None, *, depth: int = 0) -> Tensor:
        """ids [B, L] or hidden states [B, L, H] after `depth` layers -> logits [B, C]."""
        return self.suffix(self.prefix(inputs, attention_mask, depth=depth), attention_mask)

    def prefix(
        self, inputs: Tensor, attention_mask: Tensor | None = None, *, depth: int = 0, stop: int | None = None
    ) -> Tensor:
        """ids [B, L] or hidden states after `depth` layers -> hidden states where training begins, without gradient.

        [B, L, H], or [B, 1, H] if every layer is frozen: then only `[CLS]` is read of the last. `stop` ends earlier.
        """
        if self.frozen_depth is None:
            hidden: Tensor = self.bert.embeddings(inputs)
            return hidden
        with torch.no_grad(), torch.autocast(inputs.device.type, enabled=False):
            hidden = inputs if inputs.is_floating_point() else self.bert.embeddings(inputs)
            return self._layers(hidden, attention_mask, start=depth, stop=self.frozen_depth if stop is None else stop)

    def suffix(self, hidden: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Hidden states where training begins -> logits [B, C]."""
        hidden = hidden.to(self.head.weight.dtype)
        hidden = self._layers(hidden, attention_mask, start=self.frozen_depth or 0, stop=self.num_layers)
        logits: Tensor = self.head(hidden[:, 0])
        return logits

    def _layers(self, hidden: Tensor, attention_mask: Tensor | None, *, start: int, stop: int) -> Tensor:
        for index in range(start, stop):
            top = index == self.num_layers - 1
            hidden, _ = self.bert.encoder.layer[index](
                hidden, attention_mask, query_positions=self._cls_position if top else None
            )
        return hidden

    def attend(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, *, every_layer: bool = False
    ) -> tuple[Tensor, list[Tensor]]:
        """Logits [B, C] and, of the last layer or of every one, what each head's `[CLS]` attends to.

        [B, N, 1, L] of the last layer alone, as training computes it; [B, N, L, L] of each layer, from the bottom up,
        with `every_layer`, as rollout needs them.
        """
        hidden: Tensor = self.bert.embeddings(input_ids)
        attentions = []
        for index, layer in enumerate(self.bert.encoder.layer):
            if index == self.frozen_depth:
                hidden = hidden.to(self.head.weight.dtype)
            only_cls = index == self.num_layers - 1 and not every_layer
            hidden, probs = layer(
                hidden,
                attention_mask,
                query_positions=self._cls_position if only_cls else None,
                return_probs=every_layer,
            )
            if probs is not None:
                attentions.append(probs)
        return self.head(hidden[:, 0].to(self.head.weight.dtype)), attentions

    def parts(self) -> Iterator[PartSize]:
        """The model part by part, for the table at the start of a run."""
        named: list[tuple[str, nn.Module]] = [("embeddings", self.bert.embeddings)]
        named += [(f"layer {index}", layer) for index, layer in enumerate(self.bert.encoder.layer)]
        for name, module in [*named, ("head", self.head)]:
            parameters = list(module.parameters())
            yield PartSize(name, sum(p.numel() for p in parameters), parameters[0].requires_grad)
