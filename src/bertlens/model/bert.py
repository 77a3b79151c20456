"""BERT's encoder by hand, in execution order (Devlin et al. 2019, "BERT", section 3; Vaswani et al. 2017, section 3).

Parameter names equal the published ones, so published weights load by name. Two things differ from the usual code:

* nobody pays for attention maps that nobody reads: the fused kernel runs unless probabilities are asked for;
* a layer can compute its output for a few chosen query positions only. A classifier that reads `[CLS]` needs one.

Left out: masked-word and next-sentence heads, decoding, relative positions, weight tying.

Shapes: B reviews, L word pieces, Q chosen query positions, H hidden size, N heads, D head size (H = N * D).
"""

import math
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bertlens.errors import InputError


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
    """Of the encoder without its pooler, before anything is built."""
    hidden, inner = config.hidden_size, config.intermediate_size
    embeddings = (config.vocab_size + config.max_position_embeddings + config.type_vocab_size) * hidden
    layer = 4 * hidden * (hidden + 1) + 2 * hidden * inner + inner + hidden + 4 * hidden
    return embeddings + 2 * hidden + config.num_hidden_layers * layer


class BertOutput(NamedTuple):
    """What `BertModel` returns. Lists run from the embeddings (hidden states) or the first layer (attentions) up."""

    last_hidden_state: Tensor  # [B, L, H]
    pooler_output: Tensor | None  # [B, H]
    hidden_states: tuple[Tensor, ...] | None  # num_hidden_layers + 1 times [B, L, H]
    attentions: tuple[Tensor, ...] | None  # num_hidden_layers times [B, N, L, L]


def attention_probs(query: Tensor, key: Tensor, attention_mask: Tensor | None, *, scale: float) -> Tensor:
    """The weights of scaled dot-product attention (Vaswani et al. 2017, equation 1), as a pure function.

    query [B, N, Q, D], key [B, N, L, D] (or [B, 1, L, D], shared by all heads), attention_mask [B, L], true at real
    word pieces, None if all are. Returns [B, N, Q, L] in fp32: rows sum to 1, exactly 0 where the mask is false.
    """
    scores = query @ key.transpose(-1, -2) * scale
    if attention_mask is not None:
        scores = scores.masked_fill(~attention_mask[:, None, None, :], -math.inf)
    return scores.softmax(dim=-1, dtype=torch.float32)  # a sum over many small numbers: not in half precision


class BertEmbeddings(nn.Module):
    """Word piece + position + segment, normalised."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size, padding_idx=config.pad_token_id)
        self.position_embeddings = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.token_type_embeddings = nn.Embedding(config.type_vocab_size, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, input_ids: Tensor, token_type_ids: Tensor | None = None) -> Tensor:
        _, L = input_ids.shape
        hidden = self.word_embeddings(input_ids) + self.position_embeddings.weight[:L]
        # reviews are one segment; adding row 0 by hand spares the look-up of B * L equal rows
        hidden = hidden + (
            self.token_type_embeddings.weight[0]
            if token_type_ids is None
            else self.token_type_embeddings(token_type_ids)
        )
        out: Tensor = self.dropout(self.LayerNorm(hidden))
        return out


class BertSelfAttention(nn.Module):
    """Multi-head self-attention (Vaswani et al. 2017, section 3.2.2), without the output projection."""

    def __init__(self, *, hidden_size: int, num_attention_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_attention_heads
        self.head_size = hidden_size // num_attention_heads
        self.scale = 1 / math.sqrt(self.head_size)
        self.query = nn.Linear(hidden_size, hidden_size)
        self.key = nn.Linear(hidden_size, hidden_size)
        self.value = nn.Linear(hidden_size, hidden_size)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        hidden: Tensor,
        attention_mask: Tensor | None = None,
        *,
        query_positions: Tensor | None = None,
        return_probs: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """hidden [B, L, H], query_positions [Q] -> context [B, Q, H] and, if asked for, probabilities [B, N, Q, L]."""
        if query_positions is not None:
            return self._at(query_positions, hidden, attention_mask)
        B, L, H = hidden.shape
        query, key, value = (
            projection(hidden).view(B, L, self.num_heads, self.head_size).transpose(1, 2)  # [B, N, L, D]
            for projection in (self.query, self.key, self.value)
        )
        probs = None
        if return_probs:
            probs = attention_probs(query, key, attention_mask, scale=self.scale)
            context = self.dropout(probs).to(value.dtype) @ value
        else:
            context = F.scaled_dot_product_attention(
                query,
                key,
                value,
                attn_mask=None if attention_mask is None else attention_mask[:, None, None, :],
                dropout_p=self.dropout.p if self.training else 0.0,
            )
        return context.transpose(1, 2).reshape(B, L, H), probs

    def _at(self, positions: Tensor, hidden: Tensor, attention_mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """The same for chosen positions, with the few queries folded through the key and value projections.

        q . (W_k x + b_k) = (W_k^T q) . x + q . b_k, and sum_i a_i (W_v x_i + b_v) = W_v (sum_i a_i x_i) +
        b_v sum_i a_i, so the L word pieces are never projected. q . b_k is the same for all keys of a query and cancels
        in the softmax: the key bias has no influence, and a gradient of 0, here and in the full form. The sum of a
        query's weights is 1 until dropout thins them, hence the factor on the value bias.
        """
        B, _, H = hidden.shape
        N, D, Q = self.num_heads, self.head_size, len(positions)
        query = self.query(hidden[:, positions]).view(B, Q, N, D)
        folded = torch.einsum("bqnd,ndh->bnqh", query, self.key.weight.view(N, D, H))
        # heads and queries side by side: one product over the word pieces per review, not one per head
        probs = attention_probs(folded.reshape(B, 1, N * Q, H), hidden[:, None], attention_mask, scale=self.scale)
        kept = self.dropout(probs.view(B, N * Q, -1)).to(hidden.dtype)
        pooled = (kept @ hidden).view(B, N, Q, H)
        context = torch.einsum("bnqh,ndh->bqnd", pooled, self.value.weight.view(N, D, H))
        row_sums = kept.sum(dim=-1).view(B, N, Q).transpose(1, 2)[..., None]  # [B, Q, N, 1]
        # 0 * key bias: its gradient is 0, and DistributedDataParallel waits for one from every trained parameter
        context = context + row_sums * self.value.bias.view(N, D) + 0 * self.key.bias.view(N, D)
        return context.reshape(B, Q, H), probs.view(B, N, Q, -1)


class BertSelfOutput(nn.Module):
    """Projection, dropout, residual, norm. Serves after attention and after the feed-forward layer alike."""

    def __init__(self, *, input_size: int, hidden_size: int, layer_norm_eps: float, dropout: float) -> None:
        super().__init__()
        self.dense = nn.Linear(input_size, hidden_size)
        self.LayerNorm = nn.LayerNorm(hidden_size, eps=layer_norm_eps)
        self.dropout = nn.Dropout(dropout)

    def forward(self, inner: Tensor, residual: Tensor) -> Tensor:
        out: Tensor = self.LayerNorm(self.dropout(self.dense(inner)) + residual)
        return out


class BertAttention(nn.Module):
    """Self-attention and what follows it. `self` is the published name of the first part."""

    def __init__(
        self,
        *,
        hidden_size: int,
        num_attention_heads: int,
        layer_norm_eps: float,
        hidden_dropout: float,
        attention_dropout: float,
    ) -> None:
        super().__init__()
        self.self = BertSelfAttention(
            hidden_size=hidden_size, num_attention_heads=num_attention_heads, dropout=attention_dropout
        )
        self.output = BertSelfOutput(
            input_size=hidden_size, hidden_size=hidden_size, layer_norm_eps=layer_norm_eps, dropout=hidden_dropout
        )

    def forward(
        self,
        hidden: Tensor,
        attention_mask: Tensor | None = None,
        *,
        query_positions: Tensor | None = None,
        return_probs: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        context, probs = self.self(hidden, attention_mask, query_positions=query_positions, return_probs=return_probs)
        residual = hidden if query_positions is None else hidden[:, query_positions]
        return self.output(context, residual), probs


class BertIntermediate(nn.Module):
    """The widening half of the feed-forward layer, with the exact (erf) GELU of the published weights."""

    def __init__(self, *, hidden_size: int, intermediate_size: int) -> None:
        super().__init__()
        self.dense = nn.Linear(hidden_size, intermediate_size)

    def forward(self, hidden: Tensor) -> Tensor:
        return F.gelu(self.dense(hidden))


class BertLayer(nn.Module):
    """One encoder layer: attention, then feed-forward, each with its residual and norm."""

    def __init__(
        self,
        *,
        hidden_size: int,
        num_attention_heads: int,
        intermediate_size: int,
        layer_norm_eps: float,
        hidden_dropout: float,
        attention_dropout: float,
    ) -> None:
        super().__init__()
        self.attention = BertAttention(
            hidden_size=hidden_size,
            num_attention_heads=num_attention_heads,
            layer_norm_eps=layer_norm_eps,
            hidden_dropout=hidden_dropout,
            attention_dropout=attention_dropout,
        )
        self.intermediate = BertIntermediate(hidden_size=hidden_size, intermediate_size=intermediate_size)
        self.output = BertSelfOutput(
            input_size=intermediate_size,
            hidden_size=hidden_size,
            layer_norm_eps=layer_norm_eps,
            dropout=hidden_dropout,
        )

    def forward(
        self,
        hidden: Tensor,
        attention_mask: Tensor | None = None,
        *,
        query_positions: Tensor | None = None,
        return_probs: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """hidden [B, L, H] -> [B, L, H] (or [B, Q, H] at the chosen positions) and probabilities if asked for."""
        attended, probs = self.attention(
            hidden, attention_mask, query_positions=query_positions, return_probs=return_probs
        )
        return self.output(self.intermediate(attended), attended), probs


class BertEncoder(nn.Module):
    """The stack of layers. The list is public: a caller that wants part of the stack walks that part."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.layer = nn.ModuleList(
            BertLayer(
                hidden_size=config.hidden_size,
                num_attention_heads=config.num_attention_heads,
                intermediate_size=config.intermediate_size,
                layer_norm_eps=config.layer_norm_eps,
                hidden_dropout=config.hidden_dropout_prob,
                attention_dropout=config.attention_probs_dropout_prob,
            )
            for _ in range(config.num_hidden_layers)
        )

    def forward(
        self, hidden: Tensor, attention_mask: Tensor | None = None, *, return_probs: bool = False
    ) -> tuple[list[Tensor], list[Tensor]]:
        """hidden [B, L, H] -> the output of every layer and, if asked for, the probabilities of every layer."""
        hidden_states, attentions = [], []
        for layer in self.layer:
            hidden, probs = layer(hidden, attention_mask, return_probs=return_probs)
            hidden_states.append(hidden)
            if probs is not None:
                attentions.append(probs)
        return hidden_states, attentions


class BertPooler(nn.Module):
    """Dense + tanh on the first token (Devlin et al. 2019, section 4.1; their next-sentence input)."""

    def __init__(self, *, hidden_size: int) -> None:
        super().__init__()
        self.dense = nn.Linear(hidden_size, hidden_size)

    def forward(self, hidden: Tensor) -> Tensor:
        return torch.tanh(self.dense(hidden[:, 0]))


class BertModel(nn.Module):
    """Embeddings, encoder and, unless left out, the pooler."""

    def __init__(self, config: BertConfig, *, add_pooling_layer: bool = True) -> None:
        super().__init__()
        self.config = config
        self.embeddings = BertEmbeddings(config)
        self.encoder = BertEncoder(config)
        self.pooler = BertPooler(hidden_size=config.hidden_size) if add_pooling_layer else None
        self.apply(self._init_weights)

    def _init_weights(self, module: nn.Module) -> None:
        """N(0, initializer_range) for matrices, zero for biases, as the published models began."""
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=self.config.initializer_range)
        if isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)
        if isinstance(module, nn.Embedding) and module.padding_idx is not None:
            with torch.no_grad():
                module.weight[module.padding_idx].zero_()

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        *,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
    ) -> BertOutput:
        """input_ids [B, L] int64, attention_mask [B, L] true (or 1) at real word pieces, token_type_ids [B, L].

        Raises `InputError` if L exceeds the position table.
        """
        _, L = input_ids.shape
        if self.config.max_position_embeddings < L:
            raise InputError(
                f"{L} word pieces, but the model has positions for {self.config.max_position_embeddings}: "
                "lower data.max_length"
            )
        mask = None if attention_mask is None else attention_mask.bool()
        embedded = self.embeddings(input_ids, token_type_ids)
        hidden_states, attentions = self.encoder(embedded, mask, return_probs=output_attentions)
        last = hidden_states[-1] if hidden_states else embedded
        return BertOutput(
            last_hidden_state=last,
            pooler_output=None if self.pooler is None else self.pooler(last),
            hidden_states=(embedded, *hidden_states) if output_hidden_states else None,
            attentions=tuple(attentions) if output_attentions else None,
        )
