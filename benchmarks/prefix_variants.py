"""The frozen layers of MiniLM three ways on this processor: bf16 eager, bf16 compiled, int8 dynamically quantised.

python benchmarks/prefix_variants.py --out benchmarks/results/prefix_variants.json
"""

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from setting import MINILM
from torch import nn

from bertlens.model.bert import BertModel
from bertlens.model.classifier import FrozenPrefix
from bertlens.model.pretrained import find_pretrained, load_strictly, read_weights
from bertlens.run.folder import environment, write_json

NUM_PIECES = 198  # the mean length of an IMDb review cut at 256


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    pretrained = find_pretrained(MINILM)
    weights = read_weights(pretrained.weights_path)

    def encoder(dtype: torch.dtype) -> BertModel:
        made = BertModel(pretrained.config).eval()
        load_strictly(made, weights, source="MiniLM")
        return made.to(dtype)

    compiled = encoder(torch.bfloat16)
    for layer in (compiled.embeddings, *compiled.encoder.layer):
        layer.compile(dynamic=True)
    int8 = torch.ao.quantization.quantize_dynamic(encoder(torch.float32), {nn.Linear}, dtype=torch.qint8)
    variants = {
        name: FrozenPrefix(bert, depth=pretrained.config.num_hidden_layers - 1)
        for name, bert in {"bf16": encoder(torch.bfloat16), "bf16 compiled": compiled, "int8": int8}.items()
    }
    random = torch.Generator().manual_seed(0)
    found: dict[str, dict[str, Any]] = {}
    for num_tokens in (2048, 4096, 8192, 16384):
        num_reviews = num_tokens // NUM_PIECES
        ids = torch.randint(1000, 30000, (num_reviews, NUM_PIECES), generator=random)
        seconds: dict[str, list[float]] = {name: [] for name in variants}
        with torch.inference_mode():
            for repeat in range(arguments.repeats + 2):  # two to warm up
                for name, variant in variants.items():
                    start = time.perf_counter()
                    variant(ids)
                    if repeat > 1:
                        seconds[name].append(time.perf_counter() - start)
        found[str(num_tokens)] = {
            name: {
                "reviews_per_second": round(num_reviews / statistics.median(values), 1),
                "min": round(num_reviews / max(values), 1),
                "max": round(num_reviews / min(values), 1),
            }
            for name, values in seconds.items()
        }
        print(num_tokens, found[str(num_tokens)], flush=True)
    content = {"what": "benchmarks/prefix_variants.py", "model": "minilm", "pieces": NUM_PIECES}
    if arguments.out:
        write_json(arguments.out, content | {"by_tokens_per_batch": found, **environment()})


if __name__ == "__main__":
    main()
