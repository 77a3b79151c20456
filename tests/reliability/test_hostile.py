"""Texts, labels, columns and file names that try to be something else, through every output the project has."""

import csv
import json
import logging
import random
import re
from collections.abc import Iterator, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from matplotlib import cbook
from omegaconf import OmegaConf
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

import bertlens
from bertlens.cli.launch import _quiet
from bertlens.cli.messages import one_line
from bertlens.data.settings import DataSettings
from bertlens.data.tokenizer import ReviewTokenizer
from bertlens.errors import InputError
from bertlens.explanations.explainer import Explainer, ReviewToExplain
from bertlens.explanations.selection import Selection
from bertlens.model.checkpoint import CheckpointInfo
from bertlens.model.classifier import ReviewClassifier
from bertlens.model.settings import ModelSettings
from bertlens.report.figures import figures
from bertlens.report.notebook import Explanation
from bertlens.report.write import MAX_TABLE_ROWS, write_report
from bertlens.run.folder import Run, write_predictions
from bertlens.run.summary import print_result
from bertlens.run.sweep import write_table
from bertlens.run.tensorboard import RunTensorBoard, log_hyperparameters, log_test
from bertlens.system.escape import visible

CONTROLS = "".join(map(chr, [*range(9), 11, 12, *range(14, 32), *range(0x7F, 0xA0)]))
BIDI = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
INVISIBLE = "\u00ad\u034f\u115f\u180e\u200b\u2028\u2029\u2060\u2064\u206f\u3164\ufeff\uffa0\ufffb\U000e0041"
# all that must come out of no output as it went in; written out here so that the project's own list can be wrong
HIDDEN = re.compile(f"[{re.escape(CONTROLS + BIDI + INVISIBLE)}\ud800-\udfff]")
FRAGMENTS = [
    *("\x1b[31m", "\x1b]8;;http://x.test\x1b\\link\x1b]8;;\x1b\\", "\x1b]0;title\x07", "\x1b[2J\x1b[H", "\x9b31m"),
    *("\rover", "back\b\b\b\b", "\x07", "\x00", "line\nbreak", "line\r\nbreak", "\tcell", "\x7f"),
    *("\u202egnp.exe", "\u2066isolated\u2069", "\u200bzero", "a\ufeffb", "\U000e0041tag", "\u2028new", "\u3164"),
    *("\ud83d", "\udc80half", "Z̷͉͗a̶̭͠l̵̰͝", "👩\u200d🚀", "שלום", "漢字"),
    *("<script>alert(1)</script>", "</script>", "<!--", "-->", "]]>", '"><img src=x onerror=alert(1)>'),
    *("<svg/onload=alert(1)>", "&lt;b&gt;", "<a href='javascript:alert(1)'>x</a>", "</title>", "</style>", "</bdi>"),
    *("[click](javascript:alert(1))", "![x](http://x.test/x.png)", "| a | b |", "`code`", "# heading", "**bold**"),
    *("[bold]", "[/]", "[/bold]", "[link=http://x.test]x[/link]", "[red on blue]", "\\[bold]", ":smile:", ":bomb:"),
    *("$x_1$", "$", "$$", "\\$", "\\(x\\)", "$\\frac{1$", "_under", "^", "\\", "\\n", "%s", "%(name)s", "%", "%n"),
    *("{}", "{0}", "{name!r}", "{{ 7 * 7 }}", "{% raw %}", "{# #}", "${oc.env:HOME}", "${", "`id`", "$(id)"),
    *("=cmd|'/C calc'!A0", "+1+1", "-1+1", "@SUM(A1)", " =1+1", "\t=1+1", '"a","b"\n=1', "'", '"', ",", ";"),
    *("\uff1d1+1", "../../etc/passwd", "/etc/passwd", "..", "C:\\x", "a/b", "null", "NaN", "true", "01", "x" * 2000),
]


def hostile_strings(count: int) -> list[str]:
    """Each fragment by itself, then seeded mixtures; all different, none blank."""
    source = random.Random(0)
    found = {f"{fragment} good": None for fragment in FRAGMENTS} | {f"{fragment}x": None for fragment in FRAGMENTS}
    while len(found) < max(count, 2 * len(FRAGMENTS)):
        parts = source.choices(FRAGMENTS[:-1], k=source.randint(1, 4))
        parts += source.choices([*CONTROLS, *BIDI, *INVISIBLE], k=source.randint(0, 3))
        source.shuffle(parts)
        found["".join(parts) + source.choice(["", " bad", " film", "x"])] = None
    chosen = [text for text in found if text.strip()]
    # the short form too draws from all kinds
    return chosen[:count] if count > 2 * len(FRAGMENTS) else source.sample(chosen, count)


def unicode_only(texts: Sequence[str]) -> list[str]:
    """What files can hold: halves of characters replaced, and all still different."""
    whole = [text.encode("utf-8", "replace").decode() for text in texts]
    return [f"{text} {index}" if whole.count(text) > 1 else text for index, text in enumerate(whole)]


def batches(texts: Sequence[str], size: int) -> Iterator[list[str]]:
    for start in range(0, len(texts) - size + 1, size):
        yield list(texts[start : start + size])


@pytest.fixture
def texts(amount) -> list[str]:
    return hostile_strings(amount(50, 1000))


class Page(HTMLParser):
    """The elements of a page with the names of their attributes, and what stands in scripts."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, tuple[str, ...]]] = []
        self.text: list[str] = []
        self.scripts: list[str] = []
        self.inside: str | None = None
        self.comments = 0
        self.feed(source)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, tuple(name for name, _ in attrs)))
        self.inside = tag if tag in ("script", "style") else None
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self.inside = None

    def handle_comment(self, data: str) -> None:
        self.comments += 1

    def handle_data(self, data: str) -> None:
        if self.inside == "script":
            self.scripts[-1] += data
        elif self.inside is None:
            self.text.append(data)


def explainer(tiny_config: Any, tiny_vocabulary: list[str], label_names: list[str]) -> Explainer:
    settings = DataSettings(cleaning="none", max_length=48, lowercase=True)
    info = CheckpointInfo(
        model=ModelSettings(pretrained="tiny"),
        data=settings,
        frozen_dtype="float32",
        sha256={},
        config=tiny_config,
        label_names=label_names,
    )
    classifier = ReviewClassifier(tiny_config, num_classes=len(label_names))
    return Explainer(classifier, ReviewTokenizer(tiny_vocabulary, settings), info)


def assert_inert(shown: str, *, in_a_terminal: bool = False) -> None:
    assert not HIDDEN.search(shown), ascii(HIDDEN.findall(shown)[:5])
    assert not in_a_terminal or "\r" not in shown


def plain(text: str) -> str:
    """A text as one line in a terminal shows it."""
    return " ".join(visible(text).split())


def test_the_strings_are_of_every_kind(texts):
    assert len(set(texts)) == len(texts)
    together = "".join(hostile_strings(1000))
    assert all(fragment in together for fragment in FRAGMENTS)
    assert set(CONTROLS + BIDI + INVISIBLE) <= set(together)


def test_the_report_and_the_table_in_the_terminal(
    texts, tiny_config, tiny_vocabulary, tmp_path, capsys, monkeypatch, record
):
    monkeypatch.setenv("COLUMNS", "30000")  # no cell is wrapped
    size = MAX_TABLE_ROWS
    tame = [f"good film {index}" for index in range(size)]
    pages = {}
    for labels in [tame, *batches(texts, size)]:
        shown = unicode_only(labels)
        reviews = [ReviewToExplain(index=index, text=text, label=index) for index, text in enumerate(shown)]
        facts = {f"{label} {index}": label for index, label in enumerate(labels)}
        capsys.readouterr()
        path = write_report(
            tmp_path,
            explainer(tiny_config, tiny_vocabulary, labels),
            reviews,
            Selection(sentence="texts of your own"),
            facts=facts,
            print_table=True,
        )
        printed = capsys.readouterr().out
        assert_inert(printed, in_a_terminal=True)
        # neither taken for markup nor for an emoji; a column is 16 wide, and some characters take two
        assert all(plain(label)[:7] in printed for label in labels)
        source = path.read_bytes().decode()
        assert_inert(source)
        page = Page(source)
        data = json.loads(page.scripts[0])
        assert [row["text"] for row in data] == shown
        assert not re.search("[<>&]", page.scripts[0] + page.scripts[1])
        assert page.scripts[2] == pages.setdefault("script", page.scripts[2])
        assert not page.comments
        together = "".join(page.text)
        assert all(together.count(visible(label)) >= 4 for label in labels)
        # rows of the words' table come and go with the words; there is no other element, and none with more attributes
        in_tables = ("tr", "td", "th", "button", "bdi")
        structure = [element for element in page.elements if element[0] not in in_tables]
        assert structure == pages.setdefault("structure", structure)
        of_words = {("button", ("type", "class", "data-share", "data-show"))}  # those of a class, where it has any
        assert set(page.elements) - of_words <= pages.setdefault("elements", set(page.elements))
    record("hostile texts, labels and facts: report and terminal table", strings=len(texts), outputs=2, unescaped=0)


def test_the_picture_in_a_notebook(texts, tiny_config, tiny_vocabulary, record):
    allowed = {("div", ("lang", "class", "style")), ("p", ()), ("b", ()), ("br", ()), ("span", ("style",))}
    allowed |= {("details", ()), ("summary", ())}
    for label, text in zip(texts, unicode_only(texts), strict=True):
        asked = explainer(tiny_config, tiny_vocabulary, ["negative", label])
        review = next(asked.explain([ReviewToExplain(index=0, text=text, label=1)]))
        source = Explanation(**vars(review), label_names=asked.label_names)._repr_html_()
        assert_inert(source)
        page = Page(source)
        assert set(page.elements) <= allowed
        assert not page.comments
        assert visible(label) in "".join(page.text)
        assert source.startswith('<div lang="en" class="tex2jax_ignore mathjax_ignore"')  # or $x_1$ is typeset
    record("hostile texts and labels in a notebook", strings=len(texts), outputs=1, unescaped=0)


def test_errors_and_log_lines(texts, capsys, monkeypatch, record):
    for text in texts:
        for error in (InputError(text), KeyError(text), FileNotFoundError(2, "No such file", text)):
            line = one_line(error)
            assert_inert(line, in_a_terminal=True)
            assert len(line.splitlines()) == 1
        assert one_line(InputError(text)) == plain(text)
    monkeypatch.setattr(logging.root, "handlers", [])  # pytest's own
    with _quiet(verbose=False):
        for text in texts:
            logging.getLogger("bertlens.hostile").warning("store %s: 100%%", text)
    logged = capsys.readouterr().err
    assert_inert(logged, in_a_terminal=True)
    assert logged.count("store ") >= len(texts)
    record("hostile names in errors and log lines", strings=len(texts), outputs=2, unescaped=0)


def test_results_and_metrics(texts, tmp_path, capsys, record):
    for text in texts:
        written = Run(tmp_path).write_metrics({"test/accuracy": 0.5}, checkpoint=text)
        content = (tmp_path / "metrics.json").read_bytes()
        assert json.loads(content)["checkpoint"] == text
        assert content.isascii()
        assert_inert(content.decode())
        print_result(written, Path("outputs") / text)
        printed = capsys.readouterr().out
        assert_inert(printed, in_a_terminal=True)
        assert plain(str(Path("outputs") / text)) in printed
    record("hostile paths in a run's result and metrics.json", strings=len(texts), outputs=2, unescaped=0)


def write_jobs(folder: Path, texts: Sequence[str]) -> None:
    for number, text in enumerate(texts):
        job = folder / f"{number:02}"  # the table is in the order of these names
        (job / ".hydra").mkdir(parents=True)
        overrides = [f"data.path={text}", f"{text.partition('=')[0]}=1", "~optimizer.lr"]
        OmegaConf.save(OmegaConf.create(overrides), job / ".hydra" / "overrides.yaml")
        Run(job).error_file.write_text(text, encoding="utf-8")


def test_the_table_of_a_sweep(texts, tmp_path, capsys, monkeypatch, record):
    monkeypatch.setenv("COLUMNS", "1000000")
    starts = re.compile(r"\s*[=+\-@\uff1d\uff0b\uff0d\uff20]")
    for number, some in enumerate(batches(unicode_only(texts), 20)):
        # Hydra resolves interpolations before it writes the overrides, in YAML, where these three are line breaks
        some = [re.sub("[\x85\u2028\u2029]", " ", text.replace("${", "$")) for text in some]
        folder = tmp_path / str(number)
        write_jobs(folder, some)
        capsys.readouterr()
        assert not write_table(folder)
        printed = capsys.readouterr().out
        assert_inert(printed, in_a_terminal=True)
        with (folder / "sweep.csv").open(newline="", encoding="utf-8") as file:
            header, *rows = csv.reader(file)
        cells = [cell for row in [header, *rows] for cell in row]
        assert not [cell for cell in cells if starts.match(cell)]
        assert_inert("".join(cells))
        place = header.index("data.path")
        for text, row in zip(some, rows, strict=True):
            assert plain(text) in printed
            assert row[place].removeprefix("'") == visible(text).removeprefix("'")
    record("hostile values and columns in a sweep's table and CSV", strings=len(texts), outputs=2, unescaped=0)


def random_result(num_classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(3 * num_classes) % num_classes
    return labels, torch.rand(len(labels), num_classes, generator=generator).softmax(dim=1)


@pytest.mark.filterwarnings("ignore:Glyph")  # the figures' font has no Chinese
def test_figures_show_labels_as_they_are(texts, record):
    size = 5
    for names in batches(texts, size):
        drawn = figures(*random_result(size), names)
        for figure in drawn.values():
            figure.canvas.draw()
        axes = drawn["confusion_matrix"].axes[0]
        [legend] = [axes.get_legend() for axes in drawn["roc"].axes]
        for shown in (axes.get_xticklabels(), axes.get_yticklabels(), legend.get_texts()):
            for text, name in zip(shown, names, strict=True):
                assert_inert(text.get_text())
                assert not cbook.is_math_text(text.get_text())
                seen = text.get_text().replace(r"\$", "$")  # which is what matplotlib draws for it
                assert seen == plain(name) if len(plain(name)) <= 40 else seen == plain(name)[:39] + "…"
    record("hostile labels in figures", strings=len(texts), outputs=3, unescaped=0)


@pytest.mark.filterwarnings("ignore:Glyph")
def test_what_tensorboard_reads(texts, tmp_path, record):
    size = 20
    plugins = set()
    for number, names in enumerate(batches(texts, size)):
        logger = RunTensorBoard(str(tmp_path / str(number)))
        # the number keeps two keys apart whose names begin alike
        keys = [f"callbacks.{number}{name.partition('=')[0]}._target_" for number, name in enumerate(names)]
        overrides = [f"+{key}={name}" for key, name in zip(keys, names, strict=True)]
        log_hyperparameters([logger], overrides, {"test/accuracy": 0.5}, step=1)
        log_test([logger], *random_result(size), names, {}, step=1)
        logger.experiment.close()
        seen = []
        for file in Path(logger.log_dir).rglob("events.*"):
            for event in EventFileLoader(str(file)).Load():
                for value in event.summary.value:
                    plugins.add(value.metadata.plugin_data.plugin_name)
                    # the one thing beside the text plugin that TensorBoard renders as Markdown
                    assert not value.metadata.summary_description
                    seen += [value.tag, value.metadata.display_name]
                    settings = HParamsPluginData.FromString(value.metadata.plugin_data.content)
                    if value.tag == "_hparams_/session_start_info":
                        for name, setting in settings.session_start_info.hparams.items():
                            seen += [name, setting.string_value]
        assert_inert("\n".join(seen))
        for key, name in zip(keys, names, strict=True):
            assert {f"test: precision over recall/{plain(name)}", plain(key)} <= set(seen)
            assert plain(name) in seen or is_number(name)
    assert plugins <= {"", "hparams", "pr_curves", "images", "scalars"}  # no text: nothing is taken for Markdown
    record("hostile labels and settings in TensorBoard", strings=len(texts), outputs=2, unescaped=0)


def is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def test_predictions_come_back_as_they_went(texts, tmp_path, record):
    size = 25
    for names in batches(unicode_only(texts), size):
        labels, probabilities = random_result(size)
        said = [names[index] for index in labels]
        write_predictions(tmp_path / "predictions.parquet", said, labels, probabilities, names)
        table = pq.read_table(tmp_path / "predictions.parquet").to_pydict()
        assert table["text"] == table["label"] == said
        for index, name in enumerate(names):
            np.testing.assert_array_equal(table[f"probability of {name}"], probabilities[:, index].double())
    record("hostile texts and labels in predictions.parquet", strings=len(texts), outputs=1, unescaped=0)


def quoted(key: str, value: object) -> str:
    """An override as a careful person writes it for Hydra."""
    return f"{key}='" + str(value).replace("\\'", "\\\\'").replace("'", "\\'") + "'"


def test_a_run_with_hostile_names_everywhere(start, tiny_model, tmp_path, record):
    labels = ["=cmd|calc\x1b[31m[bold]", "</script>$x_1$\u202e", "_under | `x` {{ 7 }}"]
    columns = {"text": "te[bold]\x1b[31mxt\u202e", "label": "<b>=label</b>$"}
    folder = tmp_path / "a [bold]folder:smile: $x$ \u202e\x1b[31m\nwith <b>lines"
    folder.mkdir()
    rows = [
        {columns["text"]: f"a film {number} {label}", columns["label"]: label}
        for number in range(12)
        for label in labels
    ]
    file = folder / "=re:smile:views.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    plainly = ["trainer.accelerator=cpu", "trainer.devices=1", quoted("cache_dir", folder / "cache")]
    run = folder / "run"
    train = start(
        "train",
        "data=files",
        f"model.pretrained={tiny_model}",
        quoted("data.train_file", file),
        quoted("data.test_file", file),
        quoted("data.text_column", columns["text"]),
        quoted("data.label_column", columns["label"]),
        "data.max_length=48",
        "trainer.max_epochs=1",
        "trainer.enable_progress_bar=false",
        "report=true",
        quoted("hydra.run.dir", run),
        *plainly,
    )
    assert train.wait() == 0, train.output
    checkpoint = quoted("checkpoint", run / "checkpoints" / "best.ckpt")
    evaluate = start("evaluate", checkpoint, "report=true", quoted("hydra.run.dir", folder / "evaluate"), *plainly)
    assert evaluate.wait() == 0, evaluate.output
    visualize = start("visualize", checkpoint, quoted("hydra.run.dir", folder / "visualize"), *plainly)
    assert visualize.wait() == 0, visualize.output
    for process in (train, evaluate, visualize):
        assert_inert(process.output, in_a_terminal=True)
        assert "[bold]folder:smile: $x$" in process.output
    for report in (run, folder / "evaluate", folder / "visualize"):
        source = (report / "report.html").read_text(encoding="utf-8")
        assert_inert(source)
        assert len(Page(source).scripts) == 4
    table = pq.read_table(folder / "evaluate" / "predictions.parquet")
    assert set(table["label"].to_pylist()) == set(labels)
    assert set(table.column_names) > {f"probability of {label}" for label in labels}
    shown = bertlens.explain(f"a film {labels[1]}", checkpoint=run / "checkpoints" / "best.ckpt")
    assert shown.label_names == sorted(labels)
    assert_inert(shown._repr_html_())
    failed = start("evaluate", checkpoint, quoted("data.test_file", folder / "nowhere\x1b[31m.tsv"), *plainly)
    assert failed.wait() == 1
    assert_inert(failed.output, in_a_terminal=True)
    assert failed.output.splitlines()[-1].startswith("error: ")
    record("real runs with hostile labels, columns and file names", runs=4, unescaped=0)
