"""Write the figures of README.md and docs/ from benchmarks/results/: `python benchmarks/readme.py`.

Every section between `<!-- name -->` and `<!-- /name -->` comes from here. `--check` only compares.
"""

import argparse
import functools
import json
import re
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PEERS = {
    "tuned": "Trainer, tuned",
    "expert": "tuned, frozen by hand",
    "stock": "Trainer, stock",
    "notebook": "notebook's loop",
}
JOBS = (
    "one epoch from a warm store",
    "run of 2 epochs, store built in it",
    "run of 10 epochs, store built in it",
    "8 learning rates x 2 epochs, store built in it",
    "evaluation, nothing stored",
    "evaluation, nothing stored, peer sorted by length",
)
SECONDS = {
    JOBS[0]: ("one epoch", "one epoch, warm"),
    JOBS[1]: ("run of 2 epochs", "run of 2 epochs, cold"),
    JOBS[2]: ("run of 10 epochs", "run of 10 epochs, cold"),
    JOBS[3]: ("sweep of 8 learning rates", "sweep, cold"),
    JOBS[4]: ("evaluation", "evaluation, cold"),
    JOBS[5]: ("evaluation, sorted by length", "evaluation, cold"),
}

# what was tried, and the tests of tests/reliability that tried it
TRIED = {
    "`kill -9` while training, resumed until done": ["test_killed_while_training"],
    "`kill -9` while building the store, begun again until done": ["test_killed_while_building"],
    "stopped and resumed at every step, in validations and between epochs": ["test_stopped_anywhere_and_resumed"],
    "SIGTERM and Ctrl-C while fitting, validating, building and saving": ["test_a_signal_ends_a_run_well"],
    "two processes, while building, fitting, validating, testing and saving: SIGTERM to one, Ctrl-C, death of one": [
        "test_two_processes_end_and_go_on_to_the_same_bits"
    ],
    "a sweep under SLURM: one job requeued, one at its time limit, one cancelled": [
        "test_a_sweep_whose_jobs_are_requeued_limited_and_cancelled"
    ],
    "killed at every write, flush, move and folder flush of every writer": [
        "test_a_writer_killed_anywhere_leaves_the_earlier_file_or_the_new_one",
        "test_a_cache_killed_anywhere_is_made_whole_by_the_next_start",
    ],
    "power lost at each of them: all that was not flushed is gone": [
        "test_the_power_lost_anywhere_leaves_the_earlier_file_or_the_new_one",
        "test_a_cache_after_loss_of_power_anywhere_is_right",
    ],
    "8 processes that want one store, with its lock": [
        "test_eight_processes_that_want_one_store_get_it_right[with the lock]"
    ],
    "8 processes that want one store, its lock patched away": [
        "test_eight_processes_that_want_one_store_get_it_right[without]"
    ],
    "files cut at every percent, and with random bits flipped": [
        "test_a_damaged_checkpoint_is_refused",
        "test_a_model_damaged_since_a_checkpoint_was_trained_on_it_is_refused",
        "test_a_damaged_model_that_is_pinned_is_refused",
        "test_damaged_weights_of_the_old_format_are_refused_without_a_pin",
        "test_a_damaged_store_is_built_anew",
        "test_damaged_word_pieces_are_made_anew",
    ],
    "a model's files damaged likewise where nothing says what they should be": [
        "test_damage_that_no_pin_can_tell_ends_in_an_error_of_ours_or_in_a_model"
    ],
    "bad input: reviews, weights, settings, command lines": ["test_each_mistake_is_one_line_that_names_it"],
    "hostile texts, labels, columns and file names in every output": [
        "test_the_report_and_the_table_in_the_terminal",
        "test_the_picture_in_a_notebook",
        "test_errors_and_log_lines",
        "test_results_and_metrics",
        "test_the_table_of_a_sweep",
        "test_figures_show_labels_as_they_are",
        "test_what_tensorboard_reads",
        "test_predictions_come_back_as_they_went",
        "test_a_run_with_hostile_names_everywhere",
    ],
    "runs where all is local, every connection refused": [
        "test_the_demo_as_typed_tries_no_connection_and_needs_none",
        "test_local_paths_and_own_files_try_no_connection",
        "test_the_hubs_cache_at_the_pinned_revisions_is_read_without_a_request",
    ],
}
OPERATIONS = {
    "mkldnn::_linear_pointwise": "matrix products, with bias and GELU",
    "aten::_scaled_dot_product_flash_attention_for_cpu": "attention",
    "aten::copy_": "copies: heads put side by side, padding",
    "aten::native_layer_norm": "LayerNorm",
    "aten::add": "residual sums",
    "aten::cat": "joining what groups of equal length gave",
}
WORDS = {"same": "read as before", "read": "read as a model", "sigterm": "SIGTERM", "interrupts": "Ctrl-C"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="fail if a page is not what the results say")
    arguments = parser.parse_args()
    pages: dict[str, dict[str, Callable[[], str | None]]] = {
        "README.md": {
            "transcript": transcript,
            "demo": demo,
            "imdb": imdb,
            "compare": compare,
            "reasons": reasons,
            "presets": presets,
            "neighbours": neighbours,
            "labels": labels,
            "take_along": take_along,
            "reliability": reliability_totals,
        },
        "docs/reasons.md": {"reasons": reasons_in_full},
        "docs/store.md": {"scale": scale, "prefix_profile": prefix_profile},
        "docs/reliability.md": {"reliability": reliability},
    }
    for name, sections in pages.items():
        before = text = (ROOT / name).read_text(encoding="utf-8")
        for section, write in sections.items():
            if (written := write()) is not None:
                pattern = re.compile(rf"(<!-- {section} -->\n).*?(<!-- /{section} -->)", re.DOTALL)
                text = pattern.sub(lambda found, body=written: f"{found[1]}{body}\n{found[2]}", text)
        if arguments.check and text != before:
            raise SystemExit(f"{name} is not what benchmarks/results/ says: run python benchmarks/readme.py")
        if not arguments.check:
            (ROOT / name).write_text(text, encoding="utf-8")
    if not arguments.check:
        draw_sweep(ROOT / "docs" / "sweep.png")


def read(name: str) -> dict[str, Any] | None:
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def written_from(*names: str) -> Callable[[Callable[..., str | None]], Callable[[], str | None]]:
    """Let a function write a section from these results: None where one of them is missing."""

    def give(write: Callable[..., str | None]) -> Callable[[], str | None]:
        @functools.wraps(write)
        def section() -> str | None:
            found = [read(name) for name in names]
            return None if None in found else write(*found)

        return section

    return give


def measured_on(found: dict[str, Any]) -> str:
    seed = f", seed {found['seed']}" if "seed" in found else ""
    return f"{machine_of(found)}, torch {found['versions']['torch']}{seed}"


def machine_of(found: dict[str, Any]) -> str:
    machine = found["machine"]
    device = machine["processor"] if machine["device"] == "cpu" else machine["device"]
    return f"{device}, {machine['threads']} thread{'s' * (machine['threads'] > 1)}"


@written_from("presets")
def presets(found: dict[str, Any]) -> str:
    lines = ["| | test reviews right | seeds | minutes | measured on |", "|---|---:|---:|---:|---|"]
    for name, of in found.items():
        if not isinstance(of, dict) or "accuracy" not in of:
            continue
        runs, spread = of["runs"], of["standard_deviation"]
        accuracy = f"{of['accuracy']:.2%}" + (f" ± {100 * spread:.2f}" if spread is not None else "")
        minutes = next((f"{each['minutes']:.1f}" for each in runs if each["features"] != "stored"), "–")
        lines.append(table_row(f"`experiment={name}`", [accuracy, f"{len(runs)}", minutes, machine_of(runs[0])]))
    lines += [
        "",
        "MiniLM on all 25,000 + 25,000 reviews. Minutes are those of the first seed, from an empty cache, train.py and "
        "evaluate.py from start to end; ± is the standard deviation over the seeds. "
        "`python benchmarks/presets.py --reviews path/to/imdb --work FOLDER`.",
    ]
    return "\n".join(lines)


@written_from("neighbours")
def neighbours(found: dict[str, Any]) -> str:
    """Every row of the same test reviews, best first, then each seed of our presets against NB-SVM."""
    lines = [
        "| | test reviews right | 95 % interval | p against `balanced` | minutes | MB | measured on |",
        "|---|---:|---:|---:|---:|---:|---|",
    ]
    for row in found["rows"]:
        name = f"`experiment={row['name']}`" if row["name"] == row.get("preset") else row["name"]
        low, high = row["interval"]
        p = p_of(row["against balanced"]) if "against balanced" in row else ""
        cells = [f"{row['accuracy']:.1%}", f"{low:.1%}–{high:.1%}", p, f"{row['minutes']:.1f}"]
        lines.append(table_row(name, [*cells, f"{row['megabytes']:,.0f}", machine_of(row)]))
    lines += [
        "",
        f"All rows are of the same {found['num_test']:,} test reviews; of a preset, the first seed. p: McNemar's test. "
        "Minutes are those of training and test, without starting Python. MB: what has to be kept to classify. "
        "`python benchmarks/neighbours.py --reviews path/to/imdb`.",
    ]
    if seeds := found.get("seeds"):
        numbers = sorted({each["seed"] for runs in seeds.values() for each in runs})
        lines += [
            "",
            *table_head(f"reviews right more than by {found['presets against']}", [f"seed {n}" for n in numbers]),
        ]
        for name, runs in seeds.items():
            more = {each["seed"]: f"{surplus(each):+,} (p {p_of(each)})" for each in runs}
            lines.append(table_row(f"`experiment={name}`", [more.get(n, "–") for n in numbers]))
    return "\n".join([*lines, "", "![Accuracy with its interval, and minutes, of each](docs/neighbours.png)"])


def p_of(compared: dict[str, Any]) -> str:
    return f"{compared['p']:.2g}" if compared["p"] >= 0.001 else "< 0.001"


def surplus(compared: dict[str, Any]) -> int:
    return compared["num_only_one"] - compared["num_only_other"]


@written_from("labels")
def labels(found: dict[str, Any]) -> str:
    """How well doubtful labels are found, how many errors lie on wrong labels, and accuracy by number of reviews."""
    lines = table_head("", ["`data.folds=5`", "NB-SVM, same folds"])
    lines += [table_row(name, cells) for name, cells in doubt_rows(found)]
    if "curve" in found:
        by_size = found["curve"]["found"]["validation accuracy"]
        lines += ["", *table_head("training reviews", [f"{int(size):,}" for size in by_size])]
        lines.append(table_row("validation accuracy", map("{:.1%}".format, by_size.values())))
    if "errors" in found:
        errors = found["errors"]["found"]
        preset, _, seed = found["errors"]["checkpoint"].partition("_")
        wrong, unclear, right = (errors[name] for name in ("wrong", "unclear", "right"))
        lines += [
            "",
            f"`experiment={preset}`, seed {seed}, predicts {errors['errors']:,} test reviews wrong. People looked at "
            f"{wrong + unclear + right} of their labels and call {wrong} wrong ({wrong / errors['errors']:.1%} of the "
            f"errors), {unclear} unclear ({unclear / errors['errors']:.1%}) and {right} right.",
        ]
    what = {
        "real": "checked labels (of the test reviews, trained on)",
        "flips": "flipped labels",
        "curve": "numbers of training reviews",
    }
    how = [f"{said} `{' '.join(found[name]['overrides'])}`" for name, said in what.items() if name in found]
    machines = dict.fromkeys(measured_on(found[name]) for name in (*what, "errors") if name in found)
    lines += ["", f"`benchmarks/labels.py`: {', '.join(how)}; measured on {' and '.join(machines)}."]
    return "\n".join(lines)


def doubt_rows(found: dict[str, Any]) -> Iterator[tuple[str, list[str]]]:
    """Yield what is measured, and its value by our folds and by NB-SVM."""
    both = ("folds", "NB-SVM")
    if "real" in found:
        real, checked = found["real"]["found"], found["real"]["found"]["checked"]
        name = f"average precision, labels checked by people ({checked['wrong']} of {sum(checked.values())} wrong)"
        yield name, [f"{real[method]['average precision, wrong']:.2f}" for method in both]
        for first in (name for name in real["folds"] if name.startswith("first ")):
            counts = [real[method][first] for method in both]
            cells = [f"{each['wrong']} wrong, {each['unclear']} unclear of {each['checked']}" for each in counts]
            yield f"{first} suspects, of those checked", cells
    if "flips" in found:
        flips, number = found["flips"]["found"], found["flips"]["found"]["flipped"]
        name = f"average precision, {number} labels flipped at random"
        yield name, [f"{flips[method]['average precision']:.2f}" for method in both]
        name = f"share of flipped labels in the first {number} suspects"
        yield name, [f"{flips[method][f'precision at {number}']:.0%}" for method in both]


def table_head(name: str, columns: Sequence[str]) -> list[str]:
    """Return the first two lines of a table whose columns are numbers."""
    return [table_row(name, columns), f"|---|{'---:|' * len(columns)}"]


def table_row(name: str, cells: Iterable[str]) -> str:
    return f"| {' | '.join([name, *cells])} |"


@written_from("take_along")
def take_along(found: dict[str, Any]) -> str | None:
    if not {"speed", "memory", "equal", "huggingface", "onnx"} <= found.keys():
        return None
    rates, ratios = found["speed"]["rows_per_second"], found["speed"]["times_as_fast"]
    equal = [entry for name, entry in found["equal"].items() if name in ("last", "top2")]
    few, many = (f"{size / 1e6:,.0f} MB for {int(rows):,}" for rows, size in found["memory"]["bytes"].items())
    there = {name: found[name]["fp32"] for name in ("huggingface", "onnx")}
    peers = ", ".join(f"{ratios[name]:.2f} × the {name}" for name in rates if name != "predict.py")
    return (
        f"On {found['speed']['reviews']:,} real reviews `predict.py` predicts {rates['predict.py']:,.0f} per second: "
        f"{peers} (`transformers`). It takes {few} rows and {many}, of {found['memory']['characters']} "
        f"characters each. Of {equal[0]['reviews']:,} reviews, "
        f"{sum(each['different'] for each in equal)} have another probability than by `evaluate.py`, over two "
        f"checkpoints. On {found['huggingface']['reviews']:,} reviews, without bertlens, `transformers` gives "
        f"{there['huggingface']['other_verdicts']} other verdicts (largest difference of a probability "
        f"{there['huggingface']['largest_difference']:.0e}) and onnxruntime, without torch, "
        f"{there['onnx']['other_verdicts']} ({there['onnx']['largest_difference']:.0e}). Measured on "
        f"{measured_on(found)}; `benchmarks/take_along.py`."
    )


@written_from("scale")
def scale(found: dict[str, Any]) -> str:
    """Return the rows of scale.py with their goals."""
    rows, lines = found["rows"], ["| what | goal | measured |", "|---|---|---|"]

    def add(name: str, what: str, goal: str, write: Callable[[dict[str, Any]], str]) -> None:
        if name in rows:
            lines.append(f"| {what} | {goal} | {write(rows[name])} |")

    add(
        "appended",
        "reviews appended to a full store: computed",
        "100 of 100",
        lambda row: f"{row['computed']} of {row['appended']}, to {row['stored']:,}, in {row['seconds']:.1f} s",
    )
    asked = ("another 80/20 split", "5 folds", "another order", "4,000 of them")
    add("splits", f"{', '.join(asked)}: computed", "0", lambda row: ", ".join(str(row[name]) for name in asked))
    add(
        "sweep",
        "8 learning rates, 2 epochs each, 25,000 + 25,000 reviews, from nothing",
        "13 min",
        lambda row: f"{row['seconds'] / 60:.1f} min",
    )
    add(
        "joblib",
        "8 learning rates on stored features, a process per core: share of the time of one after another",
        "0.75",
        lambda row: f"{row['ratio']:.2f} ({row['seconds']['joblib']:.0f} of {row['seconds']['sequential']:.0f} s)",
    )
    add(
        "prefix",
        "frozen layers, share of the rate of matrix products of their shapes in bf16",
        "75 %",
        lambda row: f"{row['share']:.0%} ({row['layers_tflops']:.2f} of {row['products_tflops']:.2f} TFLOP/s)",
    )
    add(
        "warm_start",
        "start of a run whose features are stored until its first step, imports apart",
        "2 s",
        lambda row: f"{statistics.median(row['seconds']):.2f} s (median of {len(row['seconds'])})",
    )
    add(
        "builders",
        "8 builders at once: reviews computed twice",
        "5 %",
        lambda row: f"{row['computed_twice']:.1%} of {row['reviews']:,}",
    )
    add(
        "kills",
        "one of 4 builders killed: reviews that the next build lacks, wrong states, leftovers",
        "0, 0, 0",
        lambda row: f"{row['damaged']}, {row['wrong']}, {row['leftovers']} after {row['kills']} kills",
    )
    add(
        "index",
        "opening a store of ten million reviews (made-up digests)",
        "10 s, 1 GB",
        lambda row: f"{row['seconds']:.1f} s, {row['more_memory_mb']:,} MB",
    )
    add(
        "company",
        "probabilities that are others at other numbers of rows per batch",
        "0",
        lambda row: (
            f"{', '.join(f'{number} ({name})' for name, number in row['different_probabilities'].items())} of "
            f"{row['reviews']:,} reviews, at {', '.join(map(str, row['rows_per_batch']))} rows"
        ),
    )
    lines += ["", f"MiniLM on real reviews. Measured on {measured_on(found)}; `benchmarks/scale.py`."]
    return "\n".join(lines)


@written_from("prefix_profile")
def prefix_profile(found: dict[str, Any]) -> str:
    """Return where the frozen layers spend their time."""
    lines = ["| operation of the frozen layers | share | seconds | at best |", "|---|---:|---:|---:|"]
    for name, row in found["operations"].items():
        if row["share"] >= 0.01:
            cells = f"{row['share']:.0%} | {row['seconds']:.2f} | {row['at best']:.2f}"
            lines.append(f"| {OPERATIONS.get(name, name)} | {cells} |")
    lines += [
        "",
        f"MiniLM's five frozen layers in bf16 on {found['reviews']:,} real reviews, {found['seconds']:.1f} s. At best: "
        "matrix products of the same shapes alone, of attention also the exponentials, or for what is no product a "
        "copy of the bytes that it reads and writes. "
        f"Measured on {measured_on(found)}; `benchmarks/prefix_profile.py`.",
    ]
    return "\n".join(lines)


def transcript() -> str | None:
    """Return what the demo's run prints, as docs/terminal.md has it, without most of its epochs."""
    page = ROOT / "docs" / "terminal.md"
    if not page.is_file():
        return None
    found = re.search(r"## A run\n.*?Now:\n\n(```text\n.*?\n```)", page.read_text(encoding="utf-8"), re.DOTALL)
    assert found is not None
    return re.sub(r"(epoch 2/12: .*\n)(?:epoch .*\n)+(epoch 12/12: )", r"\1⋮\n\2", found[1])


def reliability_figures(rows: dict[str, Any]) -> dict[str, dict[str, int]]:
    """Return what the tests of tests/reliability counted, by what was tried."""
    figures: dict[str, dict[str, int]] = {}
    for tried, tests in TRIED.items():
        totals = figures.setdefault(tried, {})
        for name, row in rows.items():
            if name in tests or name.split("[")[0] in tests:
                for figure, value in row["figures"].items():
                    if isinstance(value, int):
                        # every output is tried with the same strings
                        totals[figure] = value if figure == "strings" else totals.get(figure, 0) + value
    return figures


@written_from("reliability")
def reliability(found: dict[str, Any]) -> str:
    figures, rows = reliability_figures(found), list(found.values())
    lines = ["| what was tried | what came of it |", "|---|---|"]
    for tried, totals in figures.items():
        counted = (f"{value:,} {WORDS.get(figure, figure.replace('_', ' '))}" for figure, value in totals.items())
        lines.append(f"| {tried} | {', '.join(counted)} |")
    hours = sum(row["seconds"] for row in rows) / 3600
    lines += ["", f"Measured on {rows[0]['processor']}, Python {rows[0]['python']}, in {hours:.1f} hours."]
    return "\n".join(lines)


@written_from("reliability")
def reliability_totals(found: dict[str, Any]) -> str:
    figures = reliability_figures(found)
    # damage that nothing can tell is not counted: the files hold no pin
    told = [Counter(row) for row in figures.values() if "read" not in row]
    kills, losses, damages = (sum(row[name] for row in told) for name in ("kills", "losses", "damages"))
    stops = sum(row[name] for row in told for name in ("stops", "sigterm", "interrupts"))
    bad = sum(row[name] for row in told for name in ("corrupt_files", "different_bits", "damaged", "wrong"))
    return (
        f"{kills:,} kills, {losses:,} losses of power, {stops:,} stops that were resumed and {damages:,} damaged files "
        f"led to {bad} wrong results or broken files. [docs/reliability.md](docs/reliability.md) has the table; "
        "`make reliability` tries it all again."
    )


@written_from("demo", "demo_baseline")
def demo(run: dict[str, Any], baseline: dict[str, Any]) -> str:
    newcomer = read("newcomer")
    others = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(RESULTS.glob("demo_on_*.json"))]
    accuracies = [found["metrics"]["test/accuracy"] for found in (run, *others)]
    sentences = [f"After installation the demo takes {sum(run['seconds'].values()):.0f} s on {measured_on(run)}."]
    if newcomer is not None:
        spent = newcomer["seconds"]
        sentences.append(
            f"From `git clone` to a report with reasons we measured {spent['total'] / 60:.1f} minutes on "
            f"{newcomer['machine']['processor']} at a load of {newcomer['load']:.1f}, {spent['installation']:.0f} s of "
            "them installation (`benchmarks/newcomer.py`)."
        )
    sentences += [
        f"It classifies {min(accuracies):.1%} to {max(accuracies):.1%} of its 600 test reviews correctly, on "
        f"{len(accuracies)} combinations of processor and number of threads with the same seed: each adds up "
        "floating-point numbers in another order, and 12 epochs make the difference larger. One review is 0.17 points.",
        f"A bag of words does not solve the demo: TF-IDF with logistic regression gets "
        f"{baseline['accuracy']['test']:.1%} (`benchmarks/demo_baseline.py`).",
    ]
    return " ".join(sentences)


@written_from("imdb_minilm", "imdb_minilm_cold", "imdb_minilm_seeds")
def imdb(run: dict[str, Any], cold: dict[str, Any], seeds: dict[str, Any]) -> str:
    metrics, seconds, each = run["metrics"], run["seconds"], seeds["test/accuracy"].values()
    return (
        f"MiniLM, all 25,000 + 25,000 reviews, no GPU: **{metrics['test/accuracy']:.1%}** of the test reviews right "
        f"(F1 {metrics['test/f1']:.3f}, AUROC {metrics['test/auroc']:.3f}); over {len(each)} seeds "
        f"{seeds['mean']:.1%}, from {min(each):.1%} to {max(each):.1%}. Both epochs with their validation take "
        f"{seconds['fit']:.0f} s and the test {seconds['test']:.0f} s from the store; "
        "computing it, once for all runs, took "
        f"{cold['seconds']['features'] / 60:.0f} minutes. Measured on "
        f"{measured_on(run)}; `python train.py model=minilm data.path=path/to/imdb`."
    )


@written_from("compare_cpu")
def compare(found: dict[str, Any]) -> str:
    seconds, alone = found["seconds"], read("compare_evaluation")
    peers = [name for name in PEERS if name in seconds]
    head = ["seconds", "bertlens", *(PEERS[name] for name in peers)]
    rows = [head, ["---", *["---:"] * (len(head) - 1)]]
    for job in JOBS:
        theirs, own = SECONDS[job]
        of = alone if alone is not None and job.startswith("evaluation") else found
        row = [job.replace(" x ", " × "), shown(of["seconds"]["bertlens"][own])]
        for name in peers:
            ratio = of["ratios"][name].get(job)
            row.append(f"{shown(of['seconds'][name][theirs])} · **{ratio:.3g} ×**" if ratio else "–")
        rows.append(row)
    startup = ", ".join(
        f"{PEERS.get(name, name)} {seconds[name]['start-up']['median']:.0f} s" for name in ["bertlens", *peers]
    )
    notes = (
        f"Seconds are the median (least–most) of {found['repeats']} interleaved repeats on {found['num_train']:,} "
        f"training and {found['num_test']:,} test reviews of IMDb with MiniLM: same reviews, same trained parameters, "
        "same epochs. *Stock* is the `transformers` Trainer as it comes. *Tuned* adds bf16 and batches of similar "
        "length. *Frozen by hand* also puts the frozen layers in eval mode under `no_grad`. The *notebook's loop* is "
        "plain PyTorch. A peer's 10 epochs and sweep are its measured epochs times their number; ours are run in full. "
        f"Start-up is apart: {startup}. Measured on {measured_on(found)}; "
        "`python benchmarks/compare.py --reviews path/to/imdb --out benchmarks/results/compare_cpu.json`."
    )
    if alone is not None:
        notes += (
            f" The evaluations are from a run of their own (`--evaluation`), {alone['repeats']} repeats on "
            f"{alone['num_test']:,} test reviews, on {measured_on(alone)}."
        )
    accuracy = read("compare_accuracy")
    if accuracy is not None:
        shares = [accuracy["accuracy"].get(name) for name in ["bertlens", *peers]]
        what = f"test accuracy, {accuracy['num_train']:,} + {accuracy['num_test']:,} reviews"
        rows.append([what, *("–" if share is None else f"{share:.1%}" for share in shares)])
        share = shares[0]
        deviation = 100 * (share * (1 - share) / accuracy["num_test"]) ** 0.5
        notes += (
            f" The accuracies are from a run of their own (`--accuracy`), once per method, {accuracy['epochs']} epochs "
            f"at {accuracy['learning_rate']:g}; the draw of the test reviews alone has a standard deviation of "
            f"{deviation:.1f} points."
        )
    table = "\n".join(table_row(name, cells) for name, *cells in rows)
    return f"{table}\n\n{notes}\n\n![Time against the number of learning rates tried](docs/sweep.png)"


TRAINED = {"top2": "top two layers trained", "last": "last layer trained"}
MORE_BY = {"random": 0.5, "attention": 0.35, "integrated_gradients": 0.1, "occlusion": 0.05, "mask_gradient": 0.0}
REASONS_ON = (
    "Seconds: processor time of one thread per review, nothing stored. Measured on {}; `python benchmarks/reasons.py "
    "--reviews path/to/imdb --last RUN --top2 RUN`."
)
DROP, MASK = "comprehensiveness, drop", "comprehensiveness, mask"


@written_from("reasons")
def reasons(found: dict[str, Any]) -> str:
    """Return what deleting words does to predictions, by method, on one model, and the goals that were missed."""
    goals = list(judge(found))
    missed = [f"- {goal}; measured: {measured}" for goal, met, measured in goals if not met]
    return "\n".join(
        [
            *deletion_table(found, "top2"),
            "",
            *by_group(found["top2"]),
            "",
            "Dropped and `[MASK]`: how far the predicted class's probability falls without the leading 1, 5, 10, 20 "
            "and 50 % of the words, the mean over the five (comprehensiveness, DeYoung et al. 2020), ± half a 95 % "
            "interval. Ours more by: the paired difference on the reviews that both were tried on, with its 95 % "
            "interval. Flips at: the median share of words after which another class is predicted; never: of how many "
            f"reviews it is not. {REASONS_ON.format(measured_on(found))}",
            "",
            f"Of {len(goals)} goals that were set beforehand, {len(goals) - len(missed)} were reached; "
            "[docs/reasons.md](docs/reasons.md) has them all, and the tables of both models. Missed:",
            "",
            *missed,
        ]
    )


@written_from("reasons")
def reasons_in_full(found: dict[str, Any]) -> str:
    """Return the tables of both models by class and by right and wrong, and every goal."""
    lines = []
    for model in TRAINED:
        if "findings" in found.get(model, {}):
            lines += [*deletion_table(found, model), "", *by_group(found[model]), ""]
    lines += ["| goal | measured |", "|---|---|"]
    lines += [f"| {goal} | {measured if met else f'missed: {measured}'} |" for goal, met, measured in judge(found)]
    lines += [
        "",
        f"{found['protocols']} ferret 0.4.2 was not tried: it needs numpy below 2. "
        + REASONS_ON.format(measured_on(found)),
    ]
    return "\n".join(lines)


def deletion_table(found: dict[str, Any], model: str) -> list[str]:
    rows = {(row[0], row[1]): row[3:] for row in found[model]["findings"] if row[2] == "all"}
    lead = next(iter(rows))[0]
    lines = [
        f"| {TRAINED[model]}, {found[model]['test accuracy']:.1%} of the test right | reviews | dropped | `[MASK]` "
        "| ours more by | flips at | never | seconds |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for method in dict.fromkeys(name for name, _ in rows):
        count, value, low, high, _ = rows[method, DROP]
        cells = [f"`{method}`", f"{count}", f"{value:.2f} ± {(high - low) / 2:.2f}", f"{rows[method, MASK][1]:.2f}"]
        difference = rows.get((lead, f"{DROP}, minus {method}"))
        cells.append("" if difference is None else "{1:.2f} ({2:.2f}–{3:.2f})".format(*difference))
        flips = rows[method, "flips at"][1]
        cells.append("–" if flips > 1 else f"{flips:.0%}")
        cells.append(f"{rows[method, 'never flips'][1]:.0%}")
        seconds = found[model]["seconds per review, nothing stored, one thread"][method]
        cells.append(f"{seconds:.2f}")
        lines.append(table_row(cells[0], cells[1:]))
    return lines


def by_group(found: dict[str, Any]) -> Iterator[str]:
    """Yield what the default method reaches for each class and for wrong predictions, and how far the test misleads."""
    findings = found["findings"]
    ours = {row[2]: row for row in findings if row[0] == "aumann_shapley" and row[1] == DROP}
    groups = [f"{name} {row[4]:.2f} (of {row[3]})" for name, row in ours.items() if name != "all"]
    yield f"`aumann_shapley`, dropped, by group: {', '.join(groups)}."
    chance = {row[1]: row[4] for row in findings if row[1].startswith("accuracy, ") and row[2] == "all"}
    whole = found["accuracy on the reviews of random"]
    for edit, how in (("drop", "dropped"), ("mask", "`[MASK]`")):
        values = [f"{chance[f'accuracy, {edit}, {share}']:.1%}" for share in ("10%", "20%", "50%")]
        yield f"Accuracy with 10, 20, 50 % of the words {how} at random: {', '.join(values)}; with all: {whole:.1%}."


def judge(found: dict[str, Any]) -> Iterator[tuple[str, bool, str]]:
    """Yield each goal for which something was measured, whether it is met, and what was measured."""
    for model in [name for name in TRAINED if name in found]:
        rows = {(row[0], row[1]): row[3:] for row in found[model].get("findings", ()) if row[2] == "all"}
        ours = {measure: row for (method, measure), row in rows.items() if method == "aumann_shapley"}
        for method, goal in MORE_BY.items():
            row = ours.get(f"{DROP}, minus {method}")
            if row is not None:
                met = row[1] >= goal and row[2] > 0
                yield f"{model}: {goal} more than `{method}`", met, f"{row[1]:.2f} ({row[2]:.2f}–{row[3]:.2f})"
        if model == "top2" and ours:
            drop, mask = ours[DROP][1], ours[MASK][1]
            yield (
                "top2: dropped / `[MASK]` at least .58 / .55",
                drop >= 0.58 and mask >= 0.55,
                f"{drop:.2f} / {mask:.2f}",
            )
        if "above the random band" in ours:
            share = ours["above the random band"]
            yield f"{model}: above ten random orders, 95 %", share[1] >= 0.95, f"{share[1]:.0%} of {share[0]}"
        bounds = found[model].get("bounds")
        if bounds:
            between = bounds["between lowest and highest"]
            place, others = between["aumann_shapley"][0], between.keys() - {"aumann_shapley", "highest", "lowest"}
            beside = "; ".join(f"`{method}` {between[method][0]:.2f}" for method in sorted(others))
            yield (
                f"{model}: between the beam's bounds, .75",
                place >= 0.75,
                f"{place:.2f} on {bounds['reviews']} reviews of {bounds['words, median']:.0f} words (median; {beside})",
            )
        speed = found[model].get("seconds per review of 256 pieces, hidden states ready, one thread, median")
        if speed:
            yield (
                f"{model}: seconds from hidden states, .03",
                speed["aumann_shapley"] <= 0.03,
                f"{speed['aumann_shapley']}",
            )
        report = found[model].get("report")
        if report:
            clock, used = report["seconds"], report["processor seconds"]
            yield f"{model}: report of 64 reviews, 30 s", clock <= 30, f"{clock:.0f} s, {used:.0f} s of processor time"
        if "sanity" in found[model]:
            limit = found[model]["sanity"]["passes below"]
            rows = found[model]["sanity"]["rank correlation, new head, new last layer"]
            [head, *_], [layer, *_] = rows["aumann_shapley"]
            goal = f"{model}: rank correlation with those of a random head, last layer: below {limit}"
            yield goal, max(head, layer) < limit, f"{head:.2f}, {layer:.2f}"
    for kind, planted in found.get("planted", {}).items():
        yield from judge_planted(kind, planted)
    for name in ("spans", "spans, dealt again"):
        if name in found:
            ours, attention = (found[name]["average precision"][each] for each in ("aumann_shapley", "attention"))
            met = ours >= 0.8 and ours >= 2 * attention
            yield f"demo's {name}: .8 and twice attention's", met, f"{ours:.2f}, attention {attention:.2f}"


def judge_planted(kind: str, planted: dict[str, Any]) -> Iterator[tuple[str, bool, str]]:
    """Yield the goals for words that were planted; of two words there is no goal but to be valid."""
    accuracy = planted["accuracy"]
    lost = accuracy["clean model, originals"] - accuracy["planted model, originals"]
    whole, none = (accuracy[f"{model} model, planted test"] for model in ("planted", "clean"))
    valid = lost <= 0.01 and whole >= 0.99 and abs(none - 0.5) <= 0.03
    yield (
        f"planted {kind}, valid: originals lose 1 point at most, planted test ≥ 99 %, without planting 50 ± 3 %",
        valid,
        f"{100 * lost:.1f} points, {whole:.1%}, {none:.1%}",
    )
    (_, ours), *others = ((method, list(score.values())[1:]) for method, score in planted["methods"].items())
    beside = "; ".join(f"`{method}` {precision:.2f}, {rank:.1f}" for method, (precision, rank) in others)
    goal = "first .95, mean rank 1.2" if kind == "one word" else "share of the two found first, mean rank (best 1.5)"
    met = kind != "one word" or (ours[0] >= 0.95 and ours[1] <= 1.2)
    yield f"planted {kind}: {goal}", met, f"{ours[0]:.2f}, {ours[1]:.2f} ({beside})"


def shown(value: dict[str, float]) -> str:
    digits = 2 if value["median"] < 10 else 0
    return f"{value['median']:.{digits}f} ({value['min']:.{digits}f}–{value['max']:.{digits}f})"


def draw_sweep(path: Path) -> None:
    """Time against the number of learning rates: a peer pays every run in full, this project the store once."""
    found = read("compare_cpu")
    if found is None:
        return
    seconds = {name: {job: value["median"] for job, value in jobs.items()} for name, jobs in found["seconds"].items()}
    figure = Figure(figsize=(7, 3.6), layout="constrained")
    axes = figure.add_subplot(xlabel="learning rates tried, 2 epochs each", ylabel="minutes")
    rates = range(1, 9)
    for name, label in PEERS.items():
        if name in seconds:
            axes.plot(rates, [n * seconds[name]["run of 2 epochs"] / 60 for n in rates], marker="o", label=label)
    built, each = seconds["bertlens"]["store, built"], seconds["bertlens"]["sweep, warm"] / 8
    axes.plot(rates, [(built + n * each) / 60 for n in rates], marker="o", color="black", label="bertlens")
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
