"""BERT with a linear head on `[CLS]`, in two parts: a frozen prefix and a trained suffix.

This is the only module that decides where one part ends and the other begins. `trainable_layers` counts encoder layers
from the top: 0 trains only the head, N every layer, "all" the embeddings too. The prefix has no gradient and no
dropout, so it always computes the same hidden states for a review, and they can be stored.

The head reads only `[CLS]`, so the top layer is computed for that one query; see `BertSelfAttention`.

Shapes: B reviews, L word pieces, H hidden size, N heads, C classes. Depth is the number of encoder layers applied.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from bertlens.errors import InputError
from bertlens.model.bert import BertConfig, BertModel, run_layers
from bertlens.model.steady import run_for_cls, run_whole_layers


class PartSize(NamedTuple):
    """One line of the table that says what is trained."""

    name: str
    num_parameters: int
    trained: bool


class FrozenPrefix:
    """The embeddings and the frozen layers of a classifier, as a function of word-piece ids.

    Not an `nn.Module`, so a LightningModule that holds it neither saves, moves, averages nor trains it.
    """

    def __init__(self, bert: BertModel, *, depth: int) -> None:
        self.depth = depth
        self.num_layers = bert.config.num_hidden_layers
        self.hidden_size = bert.config.hidden_size
        self._config = bert.config
        self._embeddings = bert.embeddings
        self._layers = list(bert.encoder.layer[:depth])

    def __call__(
        self, inputs: Tensor, attention_mask: Tensor | None = None, *, start: int = 0, stop: int | None = None
    ) -> Tensor:
        """Map ids [B, L], or hidden states after `start` layers, to hidden states after `stop` (or all) layers.

        Returns [B, L, H], or [B, 1, H] after the model's last layer, of which only `[CLS]` is read.
        """
        stop = self.depth if stop is None else stop
        layers, cls_only = self._layers[start:stop], stop == self.num_layers
        return _run_frozen(self._embeddings, layers, inputs, attention_mask, cls_only=cls_only)

    @property
    def dtype(self) -> torch.dtype:
        return self._embeddings.LayerNorm.weight.dtype

    @property
    def device(self) -> torch.device:
        return self._embeddings.LayerNorm.weight.device

    def to(self, device: torch.device) -> "FrozenPrefix":
        """Move the parameters, which the classifier shares, to a device."""
        for module in (self._embeddings, *self._layers):
            module.to(device)
        return self

    def describe(self) -> list[dict[str, str | int]]:
        """Return, for each depth from 0 up, what those hidden states depend on besides the word pieces."""
        found: Mapping[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()  # bfloat16 has kernels for each
        units = [unit for unit in ("amx_bf16", "avx512_bf16") if found.get(unit)]
        devices = {"cpu": " ".join(["cpu", torch.backends.cpu.get_cpu_capability(), *units])}
        if self.device.type == "cuda":
            devices["cuda"] = torch.cuda.get_device_name(self.device)
        same: dict[str, str | int] = {
            "hidden_size": self.hidden_size,
            "dtype": str(self.dtype).removeprefix("torch."),
            "device": devices.get(self.device.type, self.device.type),
            "torch": torch.__version__,
        }
        return [same | {"depth": depth, "weights": digest} for depth, digest in enumerate(self.digests())]

    def digests(self) -> list[str]:
        """Return, for each depth from 0 up, a digest of the parameters and settings that make those hidden states."""
        running = hashlib.sha256(f"{self._config.num_attention_heads} {self._config.layer_norm_eps}".encode())
        digests = []
        for module in (self._embeddings, *self._layers):
            for name, parameter in sorted(module.state_dict().items()):
                running.update(f"{name} {tuple(parameter.shape)} {parameter.dtype}".encode())
                running.update(parameter.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
            digests.append(running.copy().hexdigest())
        return digests

    def __deepcopy__(self, memo: dict[int, Any]) -> "FrozenPrefix":
        """Return this object: callbacks that average weights copy the LightningModule, and the prefix is constant."""
        return self


class TrainedSuffix(nn.Module):
    """The layers above a classifier's prefix and the head; all of it if there is no prefix.

    Shares the classifier's modules, and names their parameters as the classifier does.
    """

    def __init__(self, classifier: "ReviewClassifier") -> None:
        super().__init__()
        bert, prefix = classifier.bert, classifier.prefix
        start = 0 if prefix is None else prefix.depth
        layers = {str(index): layer for index, layer in enumerate(bert.encoder.layer) if index >= start}
        embeddings = {"embeddings": bert.embeddings} if prefix is None else {}
        # dictionaries give the parameters their published names: bert.encoder.layer.5...
        encoder = nn.ModuleDict({"layer": nn.ModuleDict(layers)})
        self.bert = nn.ModuleDict(embeddings | {"encoder": encoder})
        self.head = classifier.head
        # the layers held here that are not trained, but have dropout; None: there are none, not even the embeddings
        self.frozen_depth = classifier.frozen_depth if prefix is None else None

    def forward(self, inputs: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Map the prefix's hidden states [B, L, H], or ids [B, L] if there is no prefix, to logits [B, C]."""
        hidden, layers = inputs, list(self.bert.get_submodule("encoder.layer").children())
        if self.frozen_depth is not None:
            frozen, layers = layers[: self.frozen_depth], layers[self.frozen_depth :]
            cls_only = not layers
            hidden = _run_frozen(self.bert["embeddings"], frozen, inputs, attention_mask, cls_only=cls_only)
        elif "embeddings" in self.bert:
            hidden = self.bert["embeddings"](inputs)
        hidden, _ = _run(layers, hidden, attention_mask, cls_only=True)
        return _read(self.head, hidden)


def _run_frozen(
    embeddings: nn.Module, layers: Sequence[nn.Module], inputs: Tensor, attention_mask: Tensor | None, *, cls_only: bool
) -> Tensor:
    """Return the last hidden states of ids or hidden states, without gradient, in the parameters' own precision."""
    with torch.no_grad(), torch.autocast(inputs.device.type, enabled=False):
        hidden = inputs if inputs.is_floating_point() else embeddings(inputs)
        return _run(layers, hidden, attention_mask, cls_only=cls_only)[0]


def _is_steady(layers: Sequence[nn.Module], hidden: Tensor) -> bool:
    has_dropout = any(layer.training for layer in layers)
    return hidden.device.type == "cpu" and not (torch.is_grad_enabled() or has_dropout)


def _run(
    layers: Sequence[nn.Module],
    hidden: Tensor,
    attention_mask: Tensor | None,
    *,
    cls_only: bool = False,
    return_probs: bool = False,
) -> tuple[Tensor, list[Tensor]]:
    """Apply layers as `run_layers` does, in the first one's number format.

    But without gradient, a review's result does not depend on its batch. Probabilities are then only returned if they
    are asked for, and the result does depend on the batch if they are, or if the mask holds factors.
    """
    dtype = next((parameter.dtype for layer in layers for parameter in layer.parameters()), hidden.dtype)
    has_factors = attention_mask is not None and attention_mask.is_floating_point()
    if return_probs or has_factors or not _is_steady(layers, hidden):
        return run_layers(layers, hidden.to(dtype), attention_mask, cls_only=cls_only, return_probs=return_probs)
    whole, last = (layers[:-1], layers[-1:]) if cls_only else (layers, [])
    if whole:
        hidden = run_whole_layers(
            lambda states, lengths: run_layers(whole, states, lengths)[0], hidden.to(dtype), attention_mask
        )
    if last:  # only a part at a time takes the room of another format
        hidden = run_for_cls(
            lambda states, mask: run_layers(last, states.to(dtype), mask, cls_only=True)[0], hidden, attention_mask
        )
    return hidden, []


def _read(head: nn.Module, hidden: Tensor) -> Tensor:
    """Map hidden states [B, L, H] to the logits [B, C] that the head gives the first of each review."""
    hidden = hidden[:, :1].to(next(head.parameters()).dtype)
    if _is_steady([], hidden):
        return run_for_cls(lambda states, _: head(states[:, 0]), hidden, None)
    logits: Tensor = head(hidden[:, 0])
    return logits


class ReviewClassifier(nn.Module):
    """Map word pieces, or stored hidden states, to logits."""

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
        if isinstance(trainable_layers, int) and trainable_layers > num_layers:
            raise InputError(
                f"model.trainable_layers={trainable_layers!r}: this model has {num_layers} layers; "
                f"choose 0 (head only) to {num_layers}, or all (embeddings too)"
            )
        self.bert = BertModel(config)
        self.head = nn.Linear(config.hidden_size, num_classes)
        nn.init.normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)
        # None: nothing is frozen, not even the embeddings
        self.frozen_depth = None if isinstance(trainable_layers, str) else num_layers - trainable_layers
        self.frozen_dropout = frozen_dropout
        for module in self._frozen_modules():
            module.requires_grad_(False).to(frozen_dtype)
        self.train()

    def _frozen_modules(self) -> list[nn.Module]:
        if self.frozen_depth is None:
            return []
        return [self.bert.embeddings, *self.bert.encoder.layer[: self.frozen_depth]]

    @property
    def num_layers(self) -> int:
        return len(self.bert.encoder.layer)

    @property
    def prefix(self) -> FrozenPrefix | None:
        """What computes the same in every epoch; None if nothing is frozen, or frozen layers have dropout."""
        if self.frozen_depth is None or self.frozen_dropout:
            return None
        return FrozenPrefix(self.bert, depth=self.frozen_depth)

    @property
    def suffix(self) -> TrainedSuffix:
        """What comes after the prefix."""
        return TrainedSuffix(self)

    def train(self, mode: bool = True) -> "ReviewClassifier":
        """Set the mode of the trained part; the prefix stays in eval mode."""
        super().train(mode)
        if not self.frozen_dropout:
            for module in self._frozen_modules():
                module.eval()
        return self

    def forward(self, inputs: Tensor, attention_mask: Tensor | None = None, *, depth: int = 0) -> Tensor:
        """Map ids [B, L], or hidden states [B, L, H] after `depth` layers, to logits [B, C]."""
        prefix = self.prefix
        hidden = inputs if prefix is None else prefix(inputs, attention_mask, start=depth)
        logits: Tensor = self.suffix(hidden, attention_mask)
        return logits

    def states_to_read(
        self, inputs: Tensor, attention_mask: Tensor | None = None, *, depth: int = 0, return_probs: bool = False
    ) -> tuple[Tensor, list[Tensor]]:
        """Map ids [B, L], or hidden states after `depth` layers, to the hidden states [B, L, H] below the top layer.

        Also return the attention probabilities [B, N, L, L] of the layers passed, from the bottom up, if asked for.
        """
        hidden = inputs if inputs.is_floating_point() else self.bert.embeddings(inputs)
        below, frozen = list(self.bert.encoder.layer)[depth:-1], max(0, (self.frozen_depth or 0) - depth)
        attentions = []
        for part in (below[:frozen], below[frozen:]):
            hidden, probs = _run(part, hidden, attention_mask, return_probs=return_probs)
            hidden = hidden.to(self.head.weight.dtype)  # above the frozen part
            attentions += probs
        return hidden, attentions

    def read_states(
        self, hidden: Tensor, attention_mask: Tensor | None = None, *, every_query: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Apply the top layer and the head to the hidden states [B, L, H] below them.

        attention_mask [B, L] may hold factors on the keys, as in `attention_probs`.
        Return the logits [B, C] and the top layer's attention probabilities: [B, N, 1, L] of `[CLS]`, or [B, N, L, L]
        with `every_query`.
        """
        top = self.bert.encoder.layer[-1]
        hidden = hidden.to(next(top.parameters()).dtype)
        states, probs = _run([top], hidden, attention_mask, cls_only=not every_query, return_probs=every_query)
        if not probs:
            _, probs = run_layers([top], hidden, attention_mask, cls_only=True)
        return _read(self.head, states), probs[0]

    def parts(self) -> Iterator[PartSize]:
        """Yield the model part by part, with the layers numbered from 1, as in the report."""
        named: list[tuple[str, nn.Module]] = [("embeddings", self.bert.embeddings)]
        named += [(f"layer {number}", layer) for number, layer in enumerate(self.bert.encoder.layer, start=1)]
        for name, module in [*named, ("head", self.head)]:
            parameters = list(module.parameters())
            yield PartSize(name, sum(p.numel() for p in parameters), parameters[0].requires_grad)
