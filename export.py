"""Export a checkpoint: `python export.py checkpoint=PATH format=onnx output=FOLDER`; see `python export.py --help`."""

from pathlib import Path

from bertlens.cli.launch import launch
from bertlens.config import ExportConfig
from bertlens.errors import InputError
from bertlens.run.folder import Run


def export(config: ExportConfig, run: Run) -> None:
    """Write a checkpoint's classifier as `transformers` or an ONNX runtime open it, once it was verified."""
    from bertlens import build
    from bertlens.deploy.export import check_packages, exact, export_model
    from bertlens.model.checkpoint import find_checkpoint, read_checkpoint

    check_packages(config.format)
    checkpoint, split = read_checkpoint(find_checkpoint(config.checkpoint)), None
    loaded = exact(checkpoint, calibrate=config.calibrate)
    data = build.evaluation_data(config, checkpoint.info, loaded.tokenizer)
    is_own_split = config.data == type(config.data)()
    try:
        data.setup("test")
        split = data.reviews["test"]
    except InputError:  # the run's reviews are not here: the demo's texts will do
        if not is_own_split:
            raise
    export_model(config, loaded, split, is_own_split=is_own_split)


if __name__ == "__main__":
    launch("export", export, conf=Path(__file__).parent / "conf")
