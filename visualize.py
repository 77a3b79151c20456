"""Show which words verdicts rest on: `python visualize.py checkpoint=PATH`; see `python visualize.py --help`."""

from pathlib import Path

from torch import Tensor

from bertlens import build
from bertlens.cli.launch import launch
from bertlens.config import VisualizeConfig, check_visualize
from bertlens.explanations.explainer import Explainer, ReviewToExplain, check_texts, reviews_to_explain, write_report
from bertlens.explanations.selection import own_texts, select
from bertlens.model.checkpoint import read_checkpoint, restore


def visualize(config: VisualizeConfig, run_folder: Path) -> Path:
    """One HTML page about some reviews; returns its path."""
    check_visualize(config)
    checkpoint = read_checkpoint(Path(config.checkpoint))
    classifier, tokenizer = restore(checkpoint)
    explainer = Explainer(classifier, tokenizer, checkpoint.info)
    texts = own_texts(config.text, config.file)
    if texts is not None:
        check_texts(texts, tokenizer)
        chosen = [ReviewToExplain(index=index, text=text) for index, text in enumerate(texts)]
    else:
        data = build.evaluation_data(config, checkpoint.info, tokenizer)
        data.setup("test")

        def predictions() -> tuple[Tensor, Tensor]:
            return build.measured(config, classifier, checkpoint.info, data).test_result[1:]

        rows = select(
            config.reviews,
            count=config.count,
            indices=config.indices,
            num_reviews=len(data.reviews["test"]),
            seed=config.seed,
            predictions=predictions,
        )
        chosen = reviews_to_explain(data.reviews["test"], rows)
    facts = {"checkpoint": config.checkpoint, "reviews": "own" if texts is not None else config.reviews}
    return write_report(
        run_folder, explainer, chosen, facts=facts, every_layer=config.report.layers == "all", print_table=True
    )


if __name__ == "__main__":
    launch("visualize", visualize)
