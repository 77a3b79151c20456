"""predict.py: files of new texts in, the same rows with their predictions out."""

import csv
import io
import json
import os
import signal
import sys
from datetime import datetime
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import bertlens
from bertlens.deploy import table
from bertlens.deploy.settings import PredictConfig
from bertlens.deploy.table import predict_file
from bertlens.errors import InputError
from bertlens.model.checkpoint import read_checkpoint
from bertlens.system.stopping import Stopped

TEXTS = ["a dull film.", "", "it was a great and moving story, and the cast was superb.", "weak", "a great, great film"]
ADDED = ["label", "probability of negative", "probability of positive"]


@pytest.fixture(scope="module")
def loaded(checkpoint):
    return bertlens.load(checkpoint)


@pytest.fixture
def run(loaded, tmp_path, monkeypatch):
    """`run("in.csv", "out.csv")` in a folder of the test's own."""
    monkeypatch.chdir(tmp_path)
    return lambda file, output, **more: predict_file(
        PredictConfig(file=file, output=output, checkpoint="", **more), loaded
    )


def rows_of(path):
    if path.suffix == ".parquet":
        return pq.read_table(path).to_pylist()
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text().splitlines()]
    with path.open(newline="") as file:
        dialect = {"delimiter": "\t", "quoting": csv.QUOTE_NONE} if path.suffix == ".tsv" else {}
        return list(csv.DictReader(file, **dialect))


def write(path, texts):
    rows = [{"id": str(number), "text": text} for number, text in enumerate(texts)]
    if path.suffix == ".txt":
        path.write_text("".join(text + "\n" for text in texts))
    elif path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        separator = "\t" if path.suffix == ".tsv" else ","
        quoted = [text if path.suffix == ".tsv" else f'"{text}"' for text in texts]
        lines = [f"{number}{separator}{text}" for number, text in enumerate(quoted)]
        path.write_text("\n".join([f"id{separator}text", *lines]) + "\n")


@pytest.mark.parametrize("output", ["csv", "tsv", "jsonl", "parquet"])
@pytest.mark.parametrize("given", ["csv", "tsv", "jsonl", "parquet", "txt"])
def test_every_row_comes_back_with_its_prediction(run, loaded, tmp_path, given, output):
    write(tmp_path / f"in.{given}", TEXTS)
    run(f"in.{given}", f"out.{output}")
    rows = rows_of(tmp_path / f"out.{output}")
    assert list(rows[0]) == [*(["text"] if given == "txt" else ["id", "text"]), *ADDED]
    assert [row["text"] for row in rows] == TEXTS
    assert not any(rows[1][name] for name in ADDED)
    expected = loaded.predict([text for text in TEXTS if text])
    for row, prediction in zip([row for row in rows if row["text"]], expected, strict=True):
        assert row["label"] == prediction.label
        assert [float(row[name]) for name in ADDED[1:]] == list(prediction.probabilities.values())  # to the last digit


def test_types_of_parquet_and_odd_json_come_back_as_they_went(run, tmp_path):
    columns = {
        "text": pa.array(["great", None]),
        "when": pa.array([datetime(2026, 1, 2), None], pa.timestamp("ns")),
        "price": pa.array([Decimal("1.50"), None], pa.decimal128(9, 2)),
        "tags": pa.array([["a"], []], pa.list_(pa.string())),
        "kind": pa.array(["x", "y"]).dictionary_encode(),
        "raw": pa.array([b"\xff", b""]),
        "label": pa.array([1, 0], pa.int8()),
    }
    given = pa.table(columns).replace_schema_metadata({"by": "hand"})
    pq.write_table(given, tmp_path / "in.parquet")
    run("in.parquet", "out.parquet")
    made = pq.read_table(tmp_path / "out.parquet")
    assert made.select(given.column_names).equals(pq.read_table(tmp_path / "in.parquet"), check_metadata=True)
    assert made.column_names[7:] == ["predicted label", *ADDED[1:]]  # the file's own label stays
    assert made["predicted label"].to_pylist()[1] is None
    lines = [{"text": "great \ud800"[:5], "n": 1}, {"n": "one", "more": [None, {"ü": 1.5}], "text": "weak"}, {"n": 3}]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(line) + "\n\n" for line in lines))
    run("in.jsonl", "out.jsonl")
    rows = rows_of(tmp_path / "out.jsonl")
    assert [{name: row[name] for name in line} for row, line in zip(rows, lines, strict=True)] == lines
    assert rows[2]["label"] is None


def test_standard_input_and_output(run, tmp_path, monkeypatch, capsysbinary):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("\ufeffgreat\r\n\nweak".encode())))
    run("-", "-")
    rows = list(csv.DictReader(io.StringIO(capsysbinary.readouterr().out.decode())))
    assert [row["text"] for row in rows] == ["great", "", "weak"]
    assert rows[1]["label"] == ""


def test_words_for_and_against_are_those_of_the_explanation(run, loaded, tmp_path):
    write(tmp_path / "in.csv", TEXTS)
    run("in.csv", "out.csv", explain=True)
    rows = rows_of(tmp_path / "out.csv")
    assert rows[1]["words for"] == ""
    assert rows[2]["words for"].split(", ") == loaded.explain(TEXTS[2]).leading_words[:5]
    assert not set(rows[2]["words for"].split(", ")) & set(rows[2]["words against"].split(", "))


def test_the_probabilities_are_those_of_evaluate(run, run_task, checkpoint, tiny_reviews, tmp_path):
    write(tmp_path / "in.csv", pq.read_table(tiny_reviews / "test.parquet")["text"].to_pylist())
    pq.write_table(pq.read_table(tiny_reviews / "test.parquet"), tmp_path / "test.parquet")
    options = (f"data.path={tiny_reviews}", f"cache_dir={tmp_path / 'cache'}", "trainer.accelerator=cpu")
    run_task("evaluate", tmp_path / "run", f"checkpoint={checkpoint}", *options)
    measured = pq.read_table(tmp_path / "run" / "predictions.parquet").to_pylist()
    run("in.csv", "out.parquet")
    for row, expected in zip(rows_of(tmp_path / "out.parquet"), measured, strict=True):
        assert [row[name] for name in ADDED] == [expected["verdict"], expected[ADDED[1]], expected[ADDED[2]]]


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_a_stop_leaves_whole_rows_and_the_run_goes_on_from_them(run, loaded, tmp_path, monkeypatch, ending):
    texts = [f"a {word} film" if number % 7 else "" for number, word in enumerate(np.resize(["dull", "great"], 50))]
    write(tmp_path / "in.csv", texts)
    run("in.csv", f"whole.{ending}")
    monkeypatch.setattr(table, "ROWS_AT_A_TIME", 16)
    classify, calls = loaded.classify, []

    def stop(*arguments):
        calls.append(None)
        if len(calls) == 3:
            raise Stopped(signal.SIGTERM)
        return classify(*arguments)

    monkeypatch.setattr(loaded, "classify", stop)
    with pytest.raises(Stopped):
        run("in.csv", f"out.{ending}")
    assert len(rows_of(tmp_path / f"out.{ending}")) == 32
    monkeypatch.setattr(loaded, "classify", classify)
    run("in.csv", f"out.{ending}", resume=True)
    assert rows_of(tmp_path / f"out.{ending}") == rows_of(tmp_path / f"whole.{ending}")
    write(tmp_path / "other.csv", ["another", *texts])
    with pytest.raises(InputError, match="holds other rows' predictions"):
        run("other.csv", f"out.{ending}", resume=True)
    monkeypatch.setattr(loaded, "classify", lambda texts, advance: 1 - classify(texts, advance))
    with pytest.raises(InputError, match="holds another checkpoint's predictions"):
        run("in.csv", f"out.{ending}", resume=True)


def test_a_stop_before_the_first_rows_leaves_nothing(run, loaded, tmp_path, monkeypatch):
    write(tmp_path / "in.csv", TEXTS)

    def stop(*_):
        raise Stopped(signal.SIGINT)

    monkeypatch.setattr(loaded, "classify", stop)
    with pytest.raises(Stopped):
        run("in.csv", "out.csv")
    assert [path.name for path in tmp_path.iterdir()] == ["in.csv"]


@pytest.mark.parametrize(
    ("content", "file", "output", "message"),
    [
        (b"id,txet\n1,a\n", "in.csv", "o.csv", r"'in.csv' has no column text_column='text': did you mean 'txet'\?"),
        (b"id,text\n1,a\n2,\xff\n", "in.csv", "o.csv", "'in.csv', line 3, is not UTF-8"),
        (b"id,text\n1,a\n2\n", "in.csv", "o.csv", "'in.csv', line 3, has 1 columns where the first has 2"),
        (b"text,text\na,b\n", "in.csv", "o.csv", "two columns of one name"),
        (b'{"text": 5}\n', "in.jsonl", "o.csv", "row 1: '5' is not a text"),
        (b'{"text": "\\ud800"}\n', "in.jsonl", "o.csv", "row 1: .* is not a text in UTF-8"),
        (b"", "in.csv", "o.csv", "'in.csv' is empty"),
        (b"no parquet", "in.parquet", "o.csv", "'in.parquet' cannot be read"),
        (b"text\na\n", "in.docx", "o.csv", r"file=in.docx: does not end in one of .csv"),
        (b"text\na\n", "in.csv", "o.txt", "output=o.txt: has no place for columns"),
        (b'text\n"a\nb"\n', "in.csv", "o.tsv", "cannot be written as tsv"),
        (b"text\na\n", "in.csv", "in.csv", "output=in.csv: exists; give another name"),
        (None, "no.csv", "o.csv", "'no.csv' cannot be read: No such file"),
    ],
)
def test_bad_input_is_named_in_one_line_and_nothing_is_written(run, tmp_path, content, file, output, message):
    if content is not None:
        (tmp_path / file).write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        run(file, output)
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ([file] if content is not None else [])


def test_a_row_of_parquet_that_is_not_utf_8_is_named(run, tmp_path):
    bad = pa.array([b"good", b"\xff"]).view(pa.string())
    pq.write_table(pa.table({"text": bad}), tmp_path / "in.parquet")
    with pytest.raises(InputError, match=r"'in.parquet', row 2, is not UTF-8"):
        run("in.parquet", "out.csv")


def test_a_label_is_no_formula_in_a_spreadsheet(run, loaded, tmp_path, monkeypatch):
    write(tmp_path / "in.csv", ["great"])
    monkeypatch.setattr(loaded, "label_names", ["=1+1", "=2+2"])
    run("in.csv", "out.csv")
    assert rows_of(tmp_path / "out.csv")[0]["label"].startswith("'=")


def test_the_predictions_are_in_the_checkpoints_precision(checkpoint, loaded, tmp_path):
    info = read_checkpoint(checkpoint).info
    assert info.precision == "32-true"
    raw = bertlens.deploy.predict.read_checkpoint(checkpoint)
    object.__setattr__(raw.info, "precision", "bf16-mixed")
    found = bertlens.deploy.predict.LoadedClassifier(raw).classify(TEXTS[:1])
    np.testing.assert_allclose(found, loaded.classify(TEXTS[:1]), atol=0.02)
    assert not np.array_equal(found, loaded.classify(TEXTS[:1]))
    with pytest.raises(InputError, match="accelerator=tpux"):
        bertlens.deploy.predict.load(checkpoint, accelerator="tpux")


def test_sigterm_leaves_the_rows_that_are_done_and_prints_the_command_that_goes_on(start, checkpoint, tmp_path):
    write(tmp_path / "in.csv", TEXTS * 20)
    arguments = (f"checkpoint={checkpoint}", "file=in.csv", "output=out.csv", "accelerator=cpu")
    process = start(
        "predict",
        *arguments,
        attributes={"bertlens.deploy.table.ROWS_AT_A_TIME": 10},
        announced={"bertlens.deploy.table:csv_text": 0.001, "bertlens.deploy.table:in_chunks": 0.0},
    )
    assert process.wait_for("@ csv_text", times=60)
    process.send(signal.SIGTERM)
    assert process.wait() == 143
    assert "resume=true" in process.output.splitlines()[-1]
    assert 0 < len(rows_of(tmp_path / "out.csv")) < 100
    assert start("predict", *arguments, "resume=true").wait() == 0
    assert [row["text"] for row in rows_of(tmp_path / "out.csv")] == TEXTS * 20
    assert not [name for name in os.listdir(tmp_path) if name.endswith(".unfinished")]
