"""The pictures of the report (summary, reading, classic, dark, phone, …) and of TensorBoard (curves, scalars, hparams).

python docs/make_screenshots.py                        # of a made-up report
python docs/make_screenshots.py --report report.html   # of a real one
python docs/make_screenshots.py --runs outputs/train --sweep outputs/sweeps/DATE/TIME   # of TensorBoard
"""

import argparse
import random
import re
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

from bertlens.data import demo
from bertlens.explanations.explainer import ExplainedReview
from bertlens.explanations.methods import attention_rows
from bertlens.explanations.selection import Selection
from bertlens.report.render import render_report

FOLDER = Path(__file__).parent
CHROMIUM = "/usr/bin/chromium"
FLAGS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-sync"]
Scheme = Literal["light", "dark"]
NUM_HEADS, MAX_PIECES = 12, 256
# TensorBoard's tabs by the picture's name; %7C is |, %2F is /
OF_RUNS = {"curves": "custom_scalars", "scalars": "scalars&tagFilter=(train%7Cval)%2F(loss%7Caccuracy)%24"}


def sample_reviews(num_reviews: int) -> Iterator[ExplainedReview]:
    """Generated reviews with made-up weights, larger on the words that decide; an eighth of predictions wrong."""
    rng = np.random.default_rng(0)
    for index, review in enumerate(_long_reviews(num_reviews)):
        written = review.text.replace("<br />", "\n" * len("<br />"))
        pieces = [match.span() for match in re.finditer(r"\w{1,7}|[.,]", written)][: MAX_PIECES - 2]
        tokens = ["##" * _is_rest(review.text, start) + review.text[start:end].lower() for start, end in pieces]
        decides = [any(first <= start < last for first, last in review.spans) for start, _ in pieces]
        strength = np.array([-3.0, *(1.2 * bool(yes) for yes in decides), 2.0])
        scores = strength + rng.normal(0, 1.1, size=(NUM_HEADS, len(strength)))
        weights = np.exp(scores) / np.exp(scores).sum(axis=-1, keepdims=True)
        predicted = review.label if random.Random(index).random() > 1 / 8 else 1 - review.label
        confidence = 0.5 + 0.5 * rng.beta(4, 1.2)
        yield ExplainedReview(
            index=index,
            text=review.text,
            label=review.label,
            probabilities=np.array([1 - confidence, confidence][:: 1 if predicted else -1], dtype=np.float32),
            contrast=1 - predicted,
            ids=[0] * (len(tokens) + 2),
            tokens=["[CLS]", *tokens, "[SEP]"],
            offsets=[(0, 0), *pieces, (0, 0)],
            rows=attention_rows(6, weights.astype(np.float32)),
            spans=list(review.spans),
        )


def _long_reviews(num_reviews: int) -> Iterator[demo.DemoReview]:
    """Each of one to six generated reviews of the same label, to be as long as what people write."""
    rng = random.Random(0)
    stock = demo.generate(num_reviews=8 * num_reviews, seed=4)
    piles = [[review for review in stock if review.label == label] for label in (0, 1)]
    for index in range(num_reviews):
        label = rng.randrange(2)
        text, spans = "", []
        for part in (piles[label].pop() for _ in range(6 if index == 0 else rng.randint(1, 6))):
            text += "<br /><br />" if text else ""
            spans += [(len(text) + start, len(text) + end) for start, end in part.spans]
            text += part.text
        yield demo.DemoReview(text, label, tuple(spans))


def _is_rest(text: str, start: int) -> bool:
    return start > 0 and text[start - 1].isalnum() and text[start].isalnum()


def open_page(
    browser: Browser, report: Path, address: str, *, width: int = 1360, height: int = 860, scheme: Scheme = "light"
) -> Page:
    page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
    page.goto(f"{report.resolve().as_uri()}#{address}")
    return page


@contextmanager
def tensorboard(folder: Path) -> Iterator[str]:
    """Yield the address of a TensorBoard that shows a folder."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    options = ["--logdir", str(folder), "--port", port, "--load_fast", "false"]
    process = subprocess.Popen([sys.executable, "-m", "tensorboard.main", *options], stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        next(line for line in process.stderr if "Press CTRL+C" in line)
        yield f"http://localhost:{port}"
    finally:
        process.kill()
        process.wait()


def save(page: Page, path: Path) -> None:
    page.screenshot(path=path)
    with Image.open(path) as picture:  # 256 colours make a third of the file; this method keeps the rare ones
        method = Image.Quantize.MAXCOVERAGE
        picture.convert("RGB").quantize(256, method, kmeans=1, dither=Image.Dither.NONE).save(path, optimize=True)
    print(f"{path}: {path.stat().st_size:,} bytes")


def show_tensorboard(browser: Browser, folder: Path, tabs: dict[str, str], output: Path) -> None:
    with tensorboard(folder) as address:
        for name, tab in tabs.items():
            page = browser.new_page(viewport={"width": 1360, "height": 500 if name == "curves" else 760})
            page.goto(f"{address}/#{tab}")
            page.wait_for_load_state("networkidle")
            page.wait_for_timeout(4000)  # the charts are drawn after their data has come
            save(page, output / f"{name}.png")


def show_report(browser: Browser, report: Path, review: int | None, output: Path) -> None:
    if review is None:
        page = open_page(browser, report, "")
        page.locator("[data-view=reading]").click()
        review = int(page.locator("#review-title").inner_text().split()[-1])
    shots = {
        "summary": open_page(browser, report, "view=summary"),
        "reading": open_page(browser, report, f"review={review}&view=reading"),
        "classic": open_page(browser, report, f"review={review}&view=classic"),
        "dark": open_page(browser, report, f"review={review}&view=reading", scheme="dark"),
        "phone": open_page(browser, report, f"review={review}&view=reading", width=390, height=844),
        "summary_dark": open_page(browser, report, "view=summary", scheme="dark"),
        "summary_phone": open_page(browser, report, "view=summary", width=390, height=844),
    }
    for name, page in shots.items():
        save(page, output / f"{name}.png")


def write_sample_report(path: Path) -> Path:
    render_report(
        sample_reviews(64),
        label_names=["negative", "positive"],
        selection=Selection(
            sentence="64 of 3,000 reviews, drawn at random from the right and wrong ones of each class",
            split_accuracy=0.874,
            num_split_reviews=3000,
        ),
        title="What the predictions rest on",
        facts={"Checkpoint": "outputs/train/example/checkpoints/best.ckpt", "Model": "made-up weights"},
        path=path,
    )
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--report", type=Path, help="a report.html; without any of the three, a made-up one")
    parser.add_argument("--review", type=int, help="the review to show; without it, the report's first")
    parser.add_argument("--runs", type=Path, help="a folder of runs, for CUSTOM SCALARS and SCALARS")
    parser.add_argument("--sweep", type=Path, help="a sweep's folder, for HPARAMS")
    parser.add_argument("--output", type=Path, default=FOLDER, help="the folder for the pictures")
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        if arguments.runs:
            show_tensorboard(browser, arguments.runs, OF_RUNS, arguments.output)
        if arguments.sweep:
            show_tensorboard(browser, arguments.sweep, {"hparams": "hparams"}, arguments.output)
        if arguments.report or not (arguments.runs or arguments.sweep):
            report = arguments.report or write_sample_report(Path(folder) / "report.html")
            show_report(browser, report, arguments.review, arguments.output)
        browser.close()


if __name__ == "__main__":
    main()
