"""BERT's encoder in execution order (Devlin et al. 2019, "BERT", section 3; Vaswani et al. 2017, section 3).

Parameter names equal the published ones, so published weights load by name. Two things differ from the usual code:

* the fused attention kernel runs unless attention probabilities are asked for;
* a layer can compute its output for chosen query positions only. A classifier that reads `[CLS]` needs only one.

Left out: the pooler, the masked-word and next-sentence heads, second segments, decoding.

Shapes: B reviews, L word pieces, Q chosen query positions, H hidden size, N heads, D head size (H = N * D).
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bertlens.errors import InputError
from bertlens.model.packed import linear, linear_each

# attention_mask [B, L], true at real word pieces; None if all are real; or, of hidden states [1, T, H], the lengths of
# the reviews that lie in them one after the other
Mask = Tensor | list[int] | None


@dataclass(frozen=True, kw_only=True)
class BertConfig:
    """The shape of a BERT encoder, under the names of a published `config.json`."""

    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    layer_norm_eps: float = 1e-12
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    initializer_range: float = 0.02
    pad_token_id: int = 0

    def __post_init__(self) -> None:
        if self.hidden_size % self.num_attention_heads:
            raise InputError(
                f"hidden_size {self.hidden_size} is not a multiple of num_attention_heads "
                f"{self.num_attention_heads}: check the model's config.json"
            )

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def num_parameters(config: BertConfig) -> int:
    """Return the number of parameters of the encoder without its pooler, without building it."""
    hidden, inner = config.hidden_size, config.intermediate_size
    embeddings = (config.vocab_size + config.max_position_embeddings + config.type_vocab_size) * hidden
    layer = 4 * hidden * (hidden + 1) + 2 * hidden * inner + inner + hidden + 4 * hidden
    return embeddings + 2 * hidden + config.num_hidden_layers * layer


def attention_probs(query: Tensor, key: Tensor, attention_mask: Tensor | None, *, scale: float) -> Tensor:
    """Return the weights of scaled dot-product attention (Vaswani et al. 2017, equation 1): [B, N, Q, L] in fp32.

    query [B, N, Q, D]; key [B, N, L, D], or [B, 1, L, D] if all heads share it; attention_mask [B, L], true at real
    word pieces, None if all are real; or, in a float type, a factor from 0 to 1 on each key's weight before the weights
    are normalized. Each row sums to 1 and is exactly 0 where the mask is false or 0.
    """
    scores = query @ key.transpose(-1, -2) * scale
    if attention_mask is not None:
        keys = attention_mask[:, None, None, :]
        scores = scores + keys.log() if keys.is_floating_point() else scores.masked_fill(~keys, -math.inf)
    return scores.softmax(dim=-1, dtype=torch.float32)  # half precision loses small terms of the sum


class Dropout(nn.Dropout):
    """Dropout (Srivastava et al. 2014), its probability rounded to a multiple of 2^-16.

    On CPUs four elements share a random number of 64 bits: PyTorch draws one for each element, in one thread.
    """

    def forward(self, inputs: Tensor) -> Tensor:
        """Map inputs to inputs of the same shape."""
        if not self.training or self.p in (0, 1) or inputs.device.type != "cpu":
            return super().forward(inputs)
        words = torch.empty(-(-inputs.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
        numbers = words.view(torch.int16)[: inputs.numel()].view(inputs.shape)  # uniform, from -2^15
        kept = numbers >= round(self.p * 2**16) - 2**15
        return inputs * (kept.to(inputs.dtype) / (1 - self.p))


class BertEmbeddings(nn.Module):
    """Word piece + position + segment, normalised. A review is one segment, number 0."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size, padding_idx=config.pad_token_id)
        self.position_embeddings = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.token_type_embeddings = nn.Embedding(config.type_vocab_size, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = Dropout(config.hidden_dropout_prob)

    def forward(self, input_ids: Tensor) -> Tensor:
        """Map input_ids [B, L] to hidden states [B, L, H]."""
        _, L = input_ids.shape
        hidden = self.word_embeddings(input_ids) + self.position_embeddings.weight[:L]
        out: Tensor = self.dropout(self.LayerNorm(hidden + self.token_type_embeddings.weight[0]))
        return out


class BertSelfAttention(nn.Module):
    """Multi-head self-attention (Vaswani et al. 2017, section 3.2.2), without the output projection."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.num_heads = config.num_attention_heads
        self.head_size = config.hidden_size // config.num_attention_heads
        self.scale = 1 / math.sqrt(self.head_size)
        self.query = nn.Linear(config.hidden_size, config.hidden_size)
        self.key = nn.Linear(config.hidden_size, config.hidden_size)
        self.value = nn.Linear(config.hidden_size, config.hidden_size)
        self.dropout = Dropout(config.attention_probs_dropout_prob)

    def forward(
        self, hidden: Tensor, attention_mask: Mask, query_positions: Tensor | None, return_probs: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Map hidden [B, L, H] to context [B, L, H] and the probabilities [B, N, L, L], or None.

        With query_positions [Q]: to context [B, Q, H] and the probabilities [B, N, Q, L].
        """
        if query_positions is not None:
            assert not isinstance(attention_mask, list)
            return self._forward_folded(hidden, attention_mask, query_positions)
        B, L, H = hidden.shape
        query, key, value = (
            projected.view(B, L, self.num_heads, self.head_size).transpose(1, 2)  # [B, N, L, D]
            for projected in linear_each((self.query, self.key, self.value), hidden)
        )
        probs = None
        if isinstance(attention_mask, list):
            return self._attend_within(query, key, value, attention_mask), None
        if return_probs:
            probs = attention_probs(query, key, attention_mask, scale=self.scale)
            context = self.dropout(probs).to(value.dtype) @ value
        else:
            mask = None if attention_mask is None else attention_mask[:, None, None, :]
            if mask is not None and mask.is_floating_point():
                mask = mask.log().to(query.dtype)
            dropout = self.dropout.p if self.training else 0.0
            # on CPUs the fused backward pass takes three times as long in bf16
            is_whole = query.device.type == "cpu" and query.requires_grad and not dropout
            if is_whole:
                query, key, value = query.float(), key.float(), value.float()
            with torch.autocast("cpu", enabled=not is_whole and torch.is_autocast_enabled("cpu")):
                context = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout)
        return context.transpose(1, 2).reshape(B, L, H), probs

    def _attend_within(self, query: Tensor, key: Tensor, value: Tensor, lengths: list[int]) -> Tensor:
        """Let each of the reviews that lie in [1, N, T, D] one after the other attend to itself; return [1, T, H]."""
        runs = [(len(list(run)), length) for length, run in itertools.groupby(lengths)]
        sizes = [count * length for count, length in runs]
        contexts = []
        heads = (part.contiguous() for part in (query, key, value))  # a head's rows side by side: the kernel is faster
        for shape, *parts in zip(runs, *(torch.split(part, sizes, dim=2) for part in heads), strict=True):
            folded = (part[0].unflatten(1, shape).transpose(0, 1) for part in parts)  # [reviews, N, length, D]
            contexts.append(F.scaled_dot_product_attention(*folded).transpose(1, 2).flatten(0, 1).flatten(1))
        return torch.cat(contexts)[None]

    def _forward_folded(
        self, hidden: Tensor, attention_mask: Tensor | None, query_positions: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Compute chosen positions, with their queries folded through the key and value projections.

        q . (W_k x + b_k) = (W_k^T q) . x + q . b_k, and sum_i a_i (W_v x_i + b_v) = W_v (sum_i a_i x_i) +
        b_v sum_i a_i, so the L word pieces are never projected. q . b_k is the same for all keys of a query and cancels
        in the softmax: the key bias has no influence and its gradient is 0, here as in the full form. The weights of
        a query sum to 1 before dropout and to another number after it, hence the factor on the value bias.
        """
        B, _, H = hidden.shape
        N, D, Q = self.num_heads, self.head_size, len(query_positions)
        query = self.query(hidden[:, query_positions]).view(B, Q, N, D)
        folded = torch.einsum("bqnd,ndh->bnqh", query, self.key.weight.view(N, D, H))
        # heads and queries in one dimension: one product over the word pieces per review, not one per head
        probs = attention_probs(folded.reshape(B, 1, N * Q, H), hidden[:, None], attention_mask, scale=self.scale)
        kept = self.dropout(probs.view(B, N * Q, -1)).to(hidden.dtype)
        pooled = (kept @ hidden).view(B, N, Q, H)
        context = torch.einsum("bnqh,ndh->bqnd", pooled, self.value.weight.view(N, D, H))
        row_sums = kept.sum(dim=-1).view(B, N, Q).transpose(1, 2)[..., None]  # [B, Q, N, 1]
        # 0 * key bias gives it a gradient of 0: DistributedDataParallel waits for one from every trained parameter
        context = context + row_sums * self.value.bias.view(N, D) + 0 * self.key.bias.view(N, D)
        return context.reshape(B, Q, H), probs.view(B, N, Q, -1)


class BertSelfOutput(nn.Module):
    """Projection, dropout, residual, norm: after attention, and after the feed-forward layer."""

    def __init__(self, config: BertConfig, *, input_size: int) -> None:
        super().__init__()
        self.dense = nn.Linear(input_size, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = Dropout(config.hidden_dropout_prob)

    def forward(self, inner: Tensor, residual: Tensor) -> Tensor:
        out: Tensor = self.LayerNorm(self.dropout(linear(self.dense, inner)) + residual)
        return out


class BertAttention(nn.Module):
    """Self-attention and its output projection. `self` is the published name of the first."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.self = BertSelfAttention(config)
        self.output = BertSelfOutput(config, input_size=config.hidden_size)

    def forward(
        self, hidden: Tensor, attention_mask: Mask, query_positions: Tensor | None, return_probs: bool
    ) -> tuple[Tensor, Tensor | None]:
        context, probs = self.self(hidden, attention_mask, query_positions, return_probs)
        residual = hidden if query_positions is None else hidden[:, query_positions]
        return self.output(context, residual), probs


class BertIntermediate(nn.Module):
    """The widening half of the feed-forward layer, with the exact (erf) GELU of the published weights."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.intermediate_size)

    def forward(self, hidden: Tensor) -> Tensor:
        return linear(self.dense, hidden, gelu=True)


class BertLayer(nn.Module):
    """One encoder layer: attention, then feed-forward, each with its residual and norm."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.attention = BertAttention(config)
        self.intermediate = BertIntermediate(config)
        self.output = BertSelfOutput(config, input_size=config.intermediate_size)

    def forward(
        self,
        hidden: Tensor,
        attention_mask: Mask = None,
        query_positions: Tensor | None = None,
        return_probs: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Map hidden [B, L, H] to [B, L, H], or [B, Q, H] at the chosen positions, and the probabilities or None.

        With query_positions [Q] the probabilities are always returned: they cost nothing.
        """
        attended, probs = self.attention(hidden, attention_mask, query_positions, return_probs)
        return self.output(self.intermediate(attended), attended), probs


def run_layers(
    layers: Sequence[nn.Module] | nn.ModuleList,
    hidden: Tensor,
    attention_mask: Mask = None,
    *,
    cls_only: bool = False,
    return_probs: bool = False,
) -> tuple[Tensor, list[Tensor]]:
    """Apply some encoder layers to hidden [B, L, H]; return the last output and the probabilities of each layer.

    With `cls_only`, the last of the layers is computed for `[CLS]` alone: the output is [B, 1, H]. Probabilities are
    [B, N, L, L] with `return_probs`; without, there are only those of the layer computed for `[CLS]`, [B, N, 1, L].
    """
    attentions = []
    for number, layer in enumerate(layers, start=1):
        query_positions = hidden.new_zeros(1, dtype=torch.long) if cls_only and number == len(layers) else None
        hidden, probs = layer(hidden, attention_mask, query_positions, return_probs)
        if probs is not None:
            attentions.append(probs)
    return hidden, attentions


class BertEncoder(nn.Module):
    """The stack of layers under its published name; `run_layers` applies it, or a part of it."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.layer = nn.ModuleList(BertLayer(config) for _ in range(config.num_hidden_layers))


class BertModel(nn.Module):
    """Embeddings and encoder."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.config = config
        self.embeddings = BertEmbeddings(config)
        self.encoder = BertEncoder(config)
        self.apply(self._init_weights)

    def _init_weights(self, module: nn.Module) -> None:
        """Draw matrices from N(0, initializer_range) and set biases to zero, as the published models began."""
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=self.config.initializer_range)
        if isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)
        if isinstance(module, nn.Embedding) and module.padding_idx is not None:
            nn.init.zeros_(module.weight[module.padding_idx])

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Map input_ids [B, L] to hidden states [B, L, H]. attention_mask [B, L] is true at real word pieces."""
        hidden, _ = run_layers(self.encoder.layer, self.embeddings(input_ids), attention_mask)
        return hidden
