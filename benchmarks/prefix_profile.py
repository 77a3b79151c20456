"""Where the frozen layers spend their time, by operation, on real reviews: benchmarks/results/prefix_profile.json.

    python benchmarks/prefix_profile.py --reviews path/to/imdb --out benchmarks/results/prefix_profile.json

One thread, MiniLM in bf16. Beside the seconds of each operation stand those of bare matrix products of the same shapes
(of attention also the exponentials), or of a copy of as many bytes as it reads and writes: what the arithmetic or the
memory allows at best.
"""

import argparse
import math
import time
from collections.abc import Callable
from pathlib import Path

import torch
from setting import Setting
from torch.profiler import ProfilerActivity, profile

from bertlens.data.batching import packed_batches
from bertlens.run.folder import environment, write_json
from bertlens.system.memory import keep_freed_memory

ATTENTION = "aten::_scaled_dot_product_flash_attention_for_cpu"
PRODUCTS = ("aten::addmm", "aten::mm", "mkldnn::_linear_pointwise")
TOKENS = 8192


def best_of(function: Callable[[], object], times: int = 5) -> float:
    seconds = []
    for _ in range(times):
        start = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def limit(name: str, shapes: list[list[int]]) -> float:
    """Return the seconds that one call takes at best."""
    if name in PRODUCTS:
        inputs, weights = (shape for shape in shapes if len(shape) > 1)
        size = inputs[-1]
        left = torch.randn(math.prod(inputs) // size, size, dtype=torch.bfloat16)
        right = torch.randn(size, math.prod(weights) // size, dtype=torch.bfloat16)
        return best_of(lambda: left @ right)
    if name == ATTENTION:
        queries = torch.randn(shapes[0], dtype=torch.bfloat16)
        keys, scores = queries.transpose(-1, -2).contiguous(), queries @ queries.transpose(-1, -2)
        exact = torch.randn(scores.shape)
        return sum(best_of(run) for run in (lambda: queries @ keys, exact.exp, lambda: scores @ queries))
    size = sum(math.prod(shape) for shape in shapes if shape)
    source = torch.zeros(size, dtype=torch.bfloat16)
    return best_of(lambda: source.clone())


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reviews", required=True, help="folder with train and test reviews")
    parser.add_argument("--num-reviews", type=int, default=400)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    job = Setting(arguments.reviews, arguments.num_reviews, model="minilm", device=torch.device("cpu"))
    tokens, prefix = job.rows("train"), job.classifier(frozen_dtype=torch.bfloat16).prefix
    assert prefix is not None
    batches = [tokens[rows.tolist()] for rows in packed_batches(tokens.pieces.lengths, num_tokens=TOKENS)]

    def run() -> None:
        for batch in batches:
            prefix(batch.inputs, batch.attention_mask)

    run()
    seconds = best_of(run, 3)
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as profiler:
        run()
    rows: dict[str, dict[str, float]] = {}
    for event in profiler.key_averages(group_by_input_shape=True):
        row = rows.setdefault(event.key, {"calls": 0, "seconds": 0.0, "at best": 0.0})
        row["calls"] += event.count
        row["seconds"] += event.self_cpu_time_total / 1e6
        if event.self_cpu_time_total > 1e3:  # of the others, no limit is asked for
            row["at best"] += event.count * limit(event.key, event.input_shapes)
    total = sum(row["seconds"] for row in rows.values())
    ranked = sorted(rows.items(), key=lambda item: -item[1]["seconds"])[:12]
    found = {name: row | {"share": row["seconds"] / total} for name, row in ranked}
    print(f"{len(tokens)} reviews, {seconds:.2f} s; while it is profiled {total:.2f} s")
    print(f"{'operation':40} {'calls':>7} {'seconds':>8} {'share':>6} {'at best':>8}")
    for name, row in found.items():
        print(f"{name:40} {row['calls']:7.0f} {row['seconds']:8.3f} {row['share']:6.1%} {row['at best']:8.3f}")
    if arguments.out is not None:
        content = {"what": "benchmarks/prefix_profile.py", "reviews": len(tokens), "seconds": seconds}
        write_json(arguments.out, content | {"operations": found, **environment()})


if __name__ == "__main__":
    main()
