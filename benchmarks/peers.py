"""What a user would run instead: the notebook's loop, and three ways to use the `transformers` Trainer.

All train the same parameters (the last encoder layer and a linear head on [CLS]) on the same word pieces from the same
published weights, with the same learning rate, batch size and epochs.
"""

import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
import transformers
from torch import Tensor, nn
from torch.nn import functional as F

from bertlens.data.batching import TokenRows
from bertlens.model.classifier import ReviewClassifier


@dataclass
class Measured:
    """One run: seconds of each epoch by the peer's own clock, of the evaluation, and the test accuracy after it."""

    epoch_seconds: list[float]
    evaluation_seconds: float
    accuracy: float
    more: dict[str, Any] = field(default_factory=dict)


def notebook_loop(
    classifier: ReviewClassifier, train: TokenRows, test: TokenRows, *, lr: float, epochs: int, device: torch.device
) -> Measured:
    """Plain PyTorch on this project's encoder: all padded to 256, no mask, every layer computed in every epoch."""
    classifier.to(device)
    optimizer = torch.optim.Adam([p for p in classifier.parameters() if p.requires_grad], lr=lr)
    random = np.random.default_rng(0)
    seconds = []
    for _ in range(epochs):
        classifier.train()
        start = time.perf_counter()
        order = random.permutation(len(train))
        for first in range(0, len(order), 32):
            batch = train[order[first : first + 32].tolist()]
            loss = F.cross_entropy(classifier(batch.inputs.to(device)), batch.labels.to(device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        _wait(device)
        seconds.append(time.perf_counter() - start)
    classifier.eval()
    start, correct = time.perf_counter(), 0
    with torch.no_grad():
        for first in range(0, len(test), 32):
            batch = test[list(range(first, min(first + 32, len(test))))]
            predicted = classifier(batch.inputs.to(device)).argmax(dim=1).cpu()
            correct += int((predicted == batch.labels).sum())
    return Measured(seconds, time.perf_counter() - start, correct / len(test))


class PeerModel(nn.Module):
    """`transformers`' BertModel with a linear head on [CLS], all frozen but the head and the last layer."""

    def __init__(self, folder: Path, *, expert: bool) -> None:
        super().__init__()
        self.bert = transformers.BertModel.from_pretrained(folder, add_pooling_layer=False)
        self.head = nn.Linear(self.bert.config.hidden_size, 2)
        nn.init.normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)
        self.expert = expert
        self.bert.requires_grad_(False)
        self.bert.encoder.layer[-1].requires_grad_(True)

    def train(self, mode: bool = True) -> "PeerModel":
        super().train(mode)
        if self.expert:  # by hand: no dropout where nothing is trained
            self.bert.embeddings.eval()
            for layer in self.bert.encoder.layer[:-1]:
                layer.eval()
        return self

    def forward(self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        if self.expert:
            top = self.bert.encoder.layer
            with torch.no_grad():
                self.bert.encoder.layer = top[:-1]
                hidden = self.bert(input_ids, attention_mask=attention_mask).last_hidden_state
                self.bert.encoder.layer = top
            mask = torch.zeros_like(attention_mask, dtype=hidden.dtype).masked_fill(attention_mask == 0, -torch.inf)
            hidden = top[-1](hidden, attention_mask=mask[:, None, None, :])
            hidden = hidden[0] if isinstance(hidden, tuple) else hidden
        else:
            hidden = self.bert(input_ids, attention_mask=attention_mask).last_hidden_state
        logits = self.head(hidden[:, 0])
        found = {"logits": logits}
        if labels is not None:
            found["loss"] = F.cross_entropy(logits.float(), labels)
        return found


class EpochClock(transformers.TrainerCallback):
    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds: list[float] = []
        self._start = 0.0

    def on_epoch_begin(self, *args: Any, **options: Any) -> None:
        _wait(self.device)
        self._start = time.perf_counter()

    def on_epoch_end(self, *args: Any, **options: Any) -> None:
        _wait(self.device)
        self.seconds.append(time.perf_counter() - self._start)


def trainer(
    folder: Path,
    train: TokenRows,
    test: TokenRows,
    *,
    lr: float,
    epochs: int,
    device: torch.device,
    tuned: bool,
    expert: bool = False,
) -> Measured:
    """The Trainer stock (fp32, random batches), or tuned as its options allow (bf16, batches of similar length)."""
    transformers.set_seed(1234)
    model = PeerModel(folder, expert=expert)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    clock = EpochClock(device)
    with tempfile.TemporaryDirectory() as output:
        arguments = transformers.TrainingArguments(
            output,
            num_train_epochs=epochs,
            per_device_train_batch_size=32,
            per_device_eval_batch_size=32,
            learning_rate=lr,
            lr_scheduler_type="constant",
            max_grad_norm=0.0,
            bf16=tuned,
            bf16_full_eval=tuned,
            train_sampling_strategy="group_by_length" if tuned else "random",
            use_cpu=device.type == "cpu",
            report_to="none",
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
        )
        peer = transformers.Trainer(
            model,
            arguments,
            train_dataset=_dataset(train),
            data_collator=transformers.DataCollatorWithPadding(tokenizer),
            compute_metrics=lambda found: {"accuracy": float((found.predictions.argmax(-1) == found.label_ids).mean())},
            callbacks=[clock],
        )
        if epochs:
            peer.train()
        rows = _dataset(test)
        start = time.perf_counter()
        accuracy = peer.evaluate(rows)["eval_accuracy"]
        evaluation = time.perf_counter() - start
        start = time.perf_counter()
        peer.evaluate(rows.select(np.argsort([-n for n in rows["length"]], kind="stable")))
        in_order = time.perf_counter() - start
    return Measured(clock.seconds, evaluation, accuracy, {"evaluation_seconds_sorted_by_length": in_order})


def _dataset(rows: TokenRows) -> datasets.Dataset:
    starts = rows.pieces.starts
    ids = [rows.pieces.ids[starts[row] : starts[row + 1]] for row in range(len(rows))]
    content = {"input_ids": ids, "labels": rows.labels.tolist(), "length": [len(row) for row in ids]}
    made = datasets.Dataset.from_dict(content)
    return made.add_column("attention_mask", [[1] * len(row) for row in ids])


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
