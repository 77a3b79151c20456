"""Predict new texts: `python predict.py checkpoint=PATH file=new.csv output=out.csv`; see `--help`."""

from pathlib import Path

from bertlens.cli.launch import launch
from bertlens.deploy.settings import PredictConfig
from bertlens.run.folder import Run


def predict(config: PredictConfig, run: Run) -> None:
    """Write the rows of a file with their predictions."""
    from bertlens.deploy.predict import load
    from bertlens.deploy.table import predict_file

    predict_file(config, load(config.checkpoint, accelerator=config.accelerator, calibrate=config.calibrate))


if __name__ == "__main__":
    launch("predict", predict, conf=Path(__file__).parent / "conf")
