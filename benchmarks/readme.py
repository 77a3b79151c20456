"""Write the README's figures from benchmarks/results/: `python benchmarks/readme.py`; `--check` only compares.

Every section between `<!-- name -->` and `<!-- /name -->` comes from here.
"""

import argparse
import json
import re
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PEERS = {
    "tuned": "Trainer, tuned (c)",
    "expert": "by hand (e)",
    "stock": "Trainer, stock (b)",
    "notebook": "notebook (a)",
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
    "SIGTERM to one of two processes while fitting, validating and testing": ["test_sigterm_to_any_rank_ends_the_run"],
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
WORDS = {"same": "read as before", "read": "read as a model", "sigterm": "SIGTERM", "interrupts": "Ctrl-C"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="fail if the README is not what the results say")
    arguments = parser.parse_args()
    readme = ROOT / "README.md"
    before = text = readme.read_text(encoding="utf-8")
    for name, section in {"demo": demo, "imdb": imdb, "compare": compare, "reliability": reliability}.items():
        written = section()
        if written is not None:
            pattern = re.compile(rf"<!-- {name} -->\n.*?<!-- /{name} -->", re.DOTALL)
            text = pattern.sub(lambda _, body=written, n=name: f"<!-- {n} -->\n{body}\n<!-- /{n} -->", text)
    if arguments.check:
        if text != before:
            raise SystemExit("README.md is not what benchmarks/results/ says: run python benchmarks/readme.py")
        return
    readme.write_text(text, encoding="utf-8")
    draw_sweep(ROOT / "docs" / "sweep.png")


def read(name: str) -> dict[str, Any] | None:
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def measured_on(found: dict[str, Any]) -> str:
    machine, versions = found["machine"], found["versions"]
    device = machine["processor"] if machine["device"] == "cpu" else machine["device"]
    return f"{device}, {machine['threads']} threads, torch {versions['torch']}, seed {found['seed']}"


def reliability() -> str | None:
    rows = read("reliability")
    if rows is None:
        return None
    lines = ["| what was tried | what came of it |", "|---|---|"]
    for tried, tests in TRIED.items():
        totals: dict[str, int] = {}
        for name, row in rows.items():
            if name in tests or name.split("[")[0] in tests:
                for figure, value in row["figures"].items():
                    if isinstance(value, int):
                        # every output is tried with the same strings
                        totals[figure] = value if figure == "strings" else totals.get(figure, 0) + value
        counted = ", ".join(
            f"{value:,} {WORDS.get(figure, figure.replace('_', ' '))}" for figure, value in totals.items()
        )
        lines.append(f"| {tried} | {counted} |")
    row = next(iter(rows.values()))
    hours = sum(row["seconds"] for row in rows.values()) / 3600
    lines += ["", f"Measured on {row['processor']}, Python {row['python']}, in {hours:.1f} hours."]
    return "\n".join(lines)


def demo() -> str | None:
    run, baseline = read("demo"), read("demo_baseline")
    if run is None or baseline is None:
        return None
    seconds = sum(run["seconds"].values())
    return (
        f"The demo takes {seconds:.0f} s after installation and classifies {run['metrics']['test/accuracy']:.1%} of "
        f"its test reviews correctly. A bag of words does not solve it: TF-IDF with logistic regression gets "
        f"{baseline['accuracy']['test']:.1%} (`benchmarks/demo_baseline.py`). Measured on {measured_on(run)}."
    )


def imdb() -> str | None:
    run, cold, seeds = read("imdb_minilm"), read("imdb_minilm_cold"), read("imdb_minilm_seeds")
    if run is None or cold is None or seeds is None:
        return None
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


def compare() -> str | None:
    found = read("compare_cpu")
    if found is None:
        return None
    seconds = found["seconds"]
    peers = [name for name in PEERS if name in seconds]
    head = ["seconds", "bertlens", *(PEERS[name] for name in peers)]
    rows = [head, ["---", *["---:"] * (len(head) - 1)]]
    for job in JOBS:
        theirs, own = SECONDS[job]
        row = [job.replace(" x ", " × "), shown(seconds["bertlens"][own])]
        for name in peers:
            ratio = found["ratios"][name].get(job)
            row.append(f"{shown(seconds[name][theirs])} · **{ratio:.3g} ×**" if ratio else "–")
        rows.append(row)
    rows.append(["test accuracy after 2 epochs", *(f"{found['accuracy'][name]:.1%}" for name in ["bertlens", *peers])])
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    startup = ", ".join(f"{name} {seconds[name]['start-up']['median']:.0f} s" for name in ["bertlens", *peers])
    return "\n".join(
        [
            table,
            "",
            f"Median (least–most) of {found['repeats']} interleaved repeats on {found['num_train']:,} training and "
            f"{found['num_test']:,} test reviews of IMDb with MiniLM; same reviews, same trained parameters, same "
            "epochs. (a) the notebook's loop in plain PyTorch; (b) the `transformers` Trainer as it comes; (c) with "
            "bf16 and batches of similar length; (e) (c) with the frozen layers put in eval mode under `no_grad` by "
            f"hand. On so few reviews accuracies differ by the draw: a standard deviation of the test sample alone is "
            f"{100 * (0.65 * 0.35 / found['num_test']) ** 0.5:.0f} points. A peer's 10 epochs and sweep are its "
            "measured epochs times their number; ours are run in full. "
            f"Start-up (imports, weights, word pieces) apart: {startup}. Measured on {measured_on(found)}; "
            "`python benchmarks/compare.py --reviews path/to/imdb --out benchmarks/results/compare_cpu.json`.",
            "",
            "![Time against the number of learning rates tried](docs/sweep.png)",
        ]
    )


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
