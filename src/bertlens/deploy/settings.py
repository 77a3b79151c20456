"""What predict.py and export.py are told."""

from collections.abc import Iterator
from dataclasses import dataclass

from bertlens.system.settings import setting

STANDARD = "-"  # standard input or output
CALIBRATE = "divide the logits by the checkpoint's temperature, found on its run's validation reviews"
FORMATS = ("csv", "tsv", "jsonl", "txt", "parquet")


@dataclass(kw_only=True)
class PredictConfig:
    checkpoint: str = setting("???", "what predicts: a checkpoint, a run's folder, or latest")
    file: str = setting("???", "new texts: .csv, .tsv, .jsonl, .parquet, .txt (one per line), or - for standard input")
    output: str = setting("???", "where the rows go with their predictions: the same formats but .txt, or -")
    text_column: str | None = setting(None, "the column with the text; null: the checkpoint's")
    header: bool = setting(True, "whether the first line of a .csv or .tsv names the columns; if not: 0, 1, ...")
    format: str = setting("txt", "the format of standard input", choices=FORMATS)
    calibrate: bool = setting(False, CALIBRATE)
    explain: bool = setting(
        False, "add the strongest words for and against each prediction; takes several times longer"
    )
    resume: bool = setting(False, "go on with an output that a stop has left")
    overwrite: bool = setting(False, "replace the output")
    accelerator: str = setting("auto", "where to compute: cpu, cuda, mps, or auto")

    def conflicts(self, prefix: str = "") -> Iterator[str]:
        if self.resume and (self.overwrite or self.output == STANDARD):
            yield f"{prefix}resume=true: excludes overwrite=true and output=-; leave one out"


@dataclass(kw_only=True)
class ExportSettings:
    checkpoint: str = setting("???", "what to export: a checkpoint, a run's folder, or latest")
    output: str = setting("???", "the folder to write")
    format: str = setting(
        "huggingface", "what opens it: transformers, or ONNX runtimes", choices=("huggingface", "onnx")
    )
    calibrate: bool = setting(False, CALIBRATE)
    quantize: bool = setting(False, "of onnx: also write model_int8.onnx, and measure both on the test reviews")
    reviews: int = setting(200, "on how many test reviews the export is compared with the checkpoint", at_least=1)
    overwrite: bool = setting(False, "replace the folder")

    def conflicts(self, prefix: str = "") -> Iterator[str]:
        if self.quantize and self.format != "onnx":
            yield f"{prefix}quantize=true: needs {prefix}format=onnx"
