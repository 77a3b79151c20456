"""Measure what leaves this project: predict.py and export.py on real reviews, with checkpoints of two IMDb models.

    python benchmarks/take_along.py --reviews path/to/imdb --last RUN --top2 RUN --work FOLDER [--steps speed ...]

--last: `python train.py model=minilm data.path=path/to/imdb`; --top2: the same with `model.trainable_layers=2
data.truncation=head_tail`. Each step writes its entry into --out when it is done; a step that is there is not measured
again. --small tries all of it on a few reviews, for an entry that nobody should read.

speed: rows per second of predict.py's path, of `transformers`' pipeline as its documentation shows it (batched), and of
one sorted by length in bf16, on the same reviews in one run. memory: the largest resident memory of predict.py by the
number of rows, on the reviews' first 200 characters. equal: predict.py's probabilities against evaluate.py's.
huggingface, onnx: the exported folders in processes without bertlens, and without torch. predict_kills, export_kills:
`kill -9` at random moments.
"""

import argparse
import json
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from bertlens.run.folder import environment, write_json

ROOT = Path(__file__).resolve().parents[1]
SEED = 1234
REPEATS = 3
CHARACTERS = 200  # of each review where 200,000 are predicted, which would take an hour otherwise

# run in a process that cannot import bertlens: a folder, a file of reviews, and where the probabilities go
IN_TRANSFORMERS = """
import sys
sys.modules["bertlens"] = None
import json, pyarrow.parquet
from transformers import pipeline
texts = pyarrow.parquet.read_table(sys.argv[2])["text"].to_pylist()
classifier = pipeline("text-classification", model=sys.argv[1], top_k=None, truncation=True)
found = [{each["label"]: each["score"] for each in one} for one in classifier(texts, batch_size=16)]
json.dump(found, open(sys.argv[3], "w"))
"""
IN_ONNXRUNTIME = """
import sys
sys.modules["bertlens"] = sys.modules["torch"] = None
import json, numpy as np, onnxruntime, pyarrow.parquet
from tokenizers import Tokenizer
texts = pyarrow.parquet.read_table(sys.argv[2])["text"].to_pylist()
tokenizer = Tokenizer.from_file(sys.argv[1] + "/tokenizer.json")
tokenizer.enable_padding(pad_id=0)
session = onnxruntime.InferenceSession(sys.argv[1] + "/model.onnx")
found = []
for start in range(0, len(texts), 16):
    encoded = tokenizer.encode_batch(texts[start : start + 16])
    inputs = {"input_ids": [t.ids for t in encoded], "attention_mask": [t.attention_mask for t in encoded]}
    logits = session.run(["logits"], {name: np.array(rows) for name, rows in inputs.items()})[0].astype(np.float64)
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    found += (shares / shares.sum(axis=1, keepdims=True)).tolist()
json.dump([dict(zip(["negative", "positive"], one)) for one in found], open(sys.argv[3], "w"))
"""
# the three ways, taking turns: OURS, BATCHED and SORTED give seconds and probabilities of "positive"
SPEED = """
import json, sys, time
import numpy as np, pyarrow.parquet, torch
from transformers import pipeline
import bertlens
from bertlens.system.memory import keep_freed_memory

keep_freed_memory()
run, folder, file, repeats = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
texts = pyarrow.parquet.read_table(file)["text"].to_pylist()
classifier = bertlens.load(run)
plain = pipeline("text-classification", model=folder, truncation=True, top_k=None)
half = pipeline("text-classification", model=folder, truncation=True, top_k=None, dtype=torch.bfloat16)
order = sorted(range(len(texts)), key=lambda row: -len(plain.tokenizer(texts[row], truncation=True)["input_ids"]))
positive = lambda found: [{each["label"]: each["score"] for each in one}["positive"] for one in found]

def ours():
    chunks = [classifier.classify(texts[start : start + 1024]) for start in range(0, len(texts), 1024)]
    return np.concatenate(chunks)[:, 1].tolist()

ways = {
    "predict.py": ours,
    "pipeline, batched": lambda: positive(plain(texts, batch_size=32)),
    "pipeline, sorted by length, bf16": lambda: positive(half([texts[row] for row in order], batch_size=32)),
}
for way in ways.values():  # warm
    whole, texts, order = (texts, order), texts[:32], list(range(32))
    way()
    texts, order = whole
seconds = {name: [] for name in ways}
for _ in range(repeats):
    for name, way in ways.items():
        start = time.perf_counter()
        way()
        seconds[name].append(time.perf_counter() - start)
        print(name, round(seconds[name][-1], 1), file=sys.stderr, flush=True)
print(json.dumps(seconds))
"""


class Job:
    def __init__(self, arguments: argparse.Namespace) -> None:
        self.reviews, self.work, self.small = arguments.reviews, arguments.work, arguments.small
        self.runs = {"last": arguments.last, "top2": arguments.top2}
        self.work.mkdir(parents=True, exist_ok=True)

    def few(self, number: int, small: int) -> int:
        return small if self.small else number

    def test_file(self, number: int, *, num_characters: int | None = None) -> Path:
        """Return a file of so many test reviews, drawn once; of more than there are, with repetitions."""
        path = self.work / f"test_{number}_{num_characters}.parquet"
        if not path.is_file():
            table = pq.read_table(self.reviews / "test.parquet")
            rows = np.resize(np.random.default_rng(SEED).permutation(len(table)), number)
            texts = pc.utf8_slice_codeunits(table["text"], 0, num_characters)
            table = table.set_column(table.column_names.index("text"), "text", texts)
            pq.write_table(table.take(pa.array(rows)), path, row_group_size=1024)
        return path

    def export(self, which: str, format: str) -> Path:
        folder = self.work / f"{which}_{format}"
        if not folder.is_dir():
            options = [f"format={format}", f"output={folder}", f"reviews={self.few(200, 10)}"]
            self.run("export", f"checkpoint={self.runs[which]}", f"data.path={self.reviews}", *options)
        return folder

    def run(self, name: str, *arguments: str) -> str:
        command = [sys.executable, str(ROOT / f"{name}.py"), *arguments]
        if name != "predict":
            command.append(f"cache_dir={self.work / 'cache'}")
        done = subprocess.run(command, cwd=self.work, check=True, capture_output=True, text=True)
        return done.stdout + done.stderr

    def code(self, code: str, *arguments: Any) -> str:
        done = subprocess.run([sys.executable, "-c", code, *map(str, arguments)], check=True, stdout=subprocess.PIPE)
        return done.stdout.decode()

    def speed(self) -> dict[str, Any]:
        number = self.few(5000, 64)
        folder, file = self.export("last", "huggingface"), self.test_file(number)
        repeats = self.few(REPEATS, 1)
        seconds = json.loads(self.code(SPEED, self.runs["last"], folder, file, repeats).splitlines()[-1])
        rates = {name: number / statistics.median(each) for name, each in seconds.items()}
        ratios = {name: rates["predict.py"] / rate for name, rate in rates.items()}
        return {"reviews": number, "seconds": seconds, "rows_per_second": rates, "times_as_fast": ratios}

    def memory(self) -> dict[str, Any]:
        found = {}
        for number in (self.few(1000, 16), self.few(200_000, 32)):
            output = self.work / f"memory_{number}.parquet"
            output.unlink(missing_ok=True)
            file = self.test_file(number, num_characters=CHARACTERS)
            arguments = [f"checkpoint={self.runs['last']}", f"file={file}", f"output={output}"]
            process = subprocess.Popen([sys.executable, str(ROOT / "predict.py"), *arguments], cwd=self.work)
            _, status, used = os.wait4(process.pid, 0)
            assert status == 0
            assert pq.read_metadata(output).num_rows == number
            found[str(number)] = used.ru_maxrss * 1024
        few, many = found.values()
        return {"bytes": found, "many_over_few": many / few, "characters": CHARACTERS}

    def equal(self) -> dict[str, Any]:
        found = {}
        for which, run in self.runs.items():
            folder, output = self.work / f"evaluate_{which}", self.work / f"equal_{which}.parquet"
            number = self.few(25_000, 40)
            if not (folder / "predictions.parquet").is_file():
                file = self.test_file(number)
                self.run("evaluate", f"checkpoint={run}", f"data.test_file={file}", f"hydra.run.dir={folder}")
            self.run(
                "predict", f"checkpoint={run}", f"file={self.test_file(number)}", f"output={output}", "overwrite=true"
            )
            expected, made = pq.read_table(folder / "predictions.parquet"), pq.read_table(output)
            assert expected["text"].equals(made["text"])
            names = [name for name in expected.column_names if name.startswith("probability")]
            differences = [np.abs(expected[name].to_numpy() - made[name].to_numpy()) for name in names]
            found[which] = {"reviews": len(made), "different": int(np.count_nonzero(np.maximum(*differences)))}
        return found

    def compare(self, code: str, format: str) -> dict[str, Any]:
        """Compare an exported folder, elsewhere, with this project in fp32 and as the checkpoint predicts."""
        number = self.few(2000, 24)
        folder, file, output = self.export("last", format), self.test_file(number), self.work / f"{format}.json"
        self.code(code, folder, file, output)
        there = np.array([[one["negative"], one["positive"]] for one in json.loads(output.read_text())])
        from bertlens import load
        from bertlens.deploy.export import exact
        from bertlens.model.checkpoint import find_checkpoint, read_checkpoint

        texts = pq.read_table(file)["text"].to_pylist()
        exactly = exact(read_checkpoint(find_checkpoint(self.runs["last"]))).classify(texts)
        rounded = load(self.runs["last"]).classify(texts)
        return {
            "reviews": number,
            **{
                name: {
                    "other_verdicts": int((there.argmax(axis=1) != here.argmax(axis=1)).sum()),
                    "largest_difference": float(np.abs(there - here).max()),
                }
                for name, here in {"fp32": exactly, "as the checkpoint predicts": rounded}.items()
            },
        }

    def kills(self, command: list[str], output: Path, whole: Callable[[], bool]) -> dict[str, Any]:
        """Kill a command at random moments of the time that it takes; count what stands under the final name then."""
        draw, started = random.Random(SEED), time.perf_counter()
        subprocess.run(command, cwd=self.work, check=True, capture_output=True)
        seconds, num_kills, num_whole, num_broken = time.perf_counter() - started, 0, 0, 0
        assert whole()
        while num_kills < self.few(50, 2):
            shutil.rmtree(output, ignore_errors=True) if output.is_dir() else output.unlink(missing_ok=True)
            process = subprocess.Popen(
                command, cwd=self.work, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
            )
            try:
                process.wait(draw.uniform(0, seconds))
                continue  # it was done
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            num_kills += 1
            if output.exists():
                num_whole, num_broken = num_whole + whole(), num_broken + (not whole())
        subprocess.run([*command, "overwrite=true"], cwd=self.work, check=True, capture_output=True)
        left = [path.name for path in self.work.iterdir() if path.name.startswith(f".{output.name}.")]
        return {"kills": num_kills, "whole": num_whole, "broken": num_broken, "left_after_the_next": len(left)}

    def predict_kills(self) -> dict[str, Any]:
        number, output = self.few(2048, 20), self.work / "killed.csv"
        arguments = [f"checkpoint={self.runs['last']}", f"file={self.test_file(number)}", f"output={output}"]
        output.unlink(missing_ok=True)

        def whole() -> bool:
            import csv

            with output.open(newline="", encoding="utf-8") as file:
                return sum(bool(row["probability of positive"]) for row in csv.DictReader(file)) == number

        return self.kills([sys.executable, str(ROOT / "predict.py"), *arguments], output, whole)

    def export_kills(self) -> dict[str, Any]:
        output = self.work / "killed"
        shutil.rmtree(output, ignore_errors=True)
        options = [f"output={output}", f"reviews={self.few(50, 4)}", f"cache_dir={self.work / 'cache'}"]
        options += [f"data.test_file={self.test_file(self.few(200, 20))}"]

        def whole() -> bool:
            from safetensors import safe_open

            with safe_open(output / "model.safetensors", "np") as weights:
                is_whole = "classifier.bias" in weights.keys()  # noqa: SIM118
            return is_whole and (output / "README.md").is_file() and (output / "tokenizer.json").is_file()

        command = [sys.executable, str(ROOT / "export.py"), f"checkpoint={self.runs['last']}", *options]
        return self.kills(command, output, whole)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    steps: dict[str, Callable[[Job], dict[str, Any]]] = {
        "speed": Job.speed,
        "memory": Job.memory,
        "equal": Job.equal,
        "huggingface": lambda job: job.compare(IN_TRANSFORMERS, "huggingface"),
        "onnx": lambda job: job.compare(IN_ONNXRUNTIME, "onnx"),
        "predict_kills": Job.predict_kills,
        "export_kills": Job.export_kills,
    }
    for name in ("reviews", "last", "top2", "work"):
        parser.add_argument(f"--{name}", type=lambda path: Path(path).resolve(), required=True)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "take_along.json")
    parser.add_argument("--steps", nargs="+", choices=list(steps), default=list(steps))
    parser.add_argument("--small", action="store_true")
    arguments = parser.parse_args()

    def found() -> dict[str, Any]:
        """What is there, perhaps by another process with a --work of its own."""
        there: dict[str, Any] = json.loads(arguments.out.read_text()) if arguments.out.is_file() else {}
        return there

    job = Job(arguments)
    for name in arguments.steps:
        if name not in found():
            started = time.perf_counter()
            measured = steps[name](job)
            measured |= {"took": round(time.perf_counter() - started, 1), "load": os.getloadavg()[0]}
            written = found() | {"what": "benchmarks/take_along.py", name: measured, **environment(), "seed": SEED}
            write_json(arguments.out, written)
            print(name, json.dumps(measured), flush=True)


if __name__ == "__main__":
    main()
