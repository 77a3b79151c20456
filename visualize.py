"""Show which words predictions rest on: `python visualize.py checkpoint=PATH`; see `python visualize.py --help`."""

from pathlib import Path

from bertlens.cli.launch import launch
from bertlens.config import VisualizeConfig
from bertlens.run.folder import Run


def visualize(config: VisualizeConfig, run: Run) -> Path:
    """Write one HTML page about some reviews; return its path."""
    from bertlens import build
    from bertlens.explanations.explainer import Explainer, ReviewToExplain, reviews_to_explain
    from bertlens.explanations.selection import Selection, own_texts, select
    from bertlens.model.checkpoint import find_checkpoint, read_checkpoint, restore
    from bertlens.report.write import write_report

    path = find_checkpoint(config.checkpoint)
    checkpoint = read_checkpoint(path)
    classifier, tokenizer = restore(checkpoint, calibrate=config.calibrate)
    explainer = Explainer(classifier, tokenizer, checkpoint.info, **vars(config.explain))
    texts = own_texts(config, tokenizer)
    if texts is not None:
        reviews = [ReviewToExplain(index=index, text=text) for index, text in enumerate(texts)]
        selection = Selection(sentence="texts of your own")
    else:
        data = build.evaluation_data(config, checkpoint.info, tokenizer)
        data.read_reviews()
        split = data.reviews["test"]
        selection = select(config, split["label"][:], build.predict_split(config, classifier, checkpoint, data))
        reviews = reviews_to_explain(split, selection.indices)
    run.begin(config)
    return write_report(
        run.folder,
        explainer,
        reviews,
        selection,
        facts=checkpoint.facts(),
        curves=config.report.curves,
        every_layer=config.report.layers == "all",
        print_table=True,
        language=config.report.language,
    )


if __name__ == "__main__":
    launch("visualize", visualize, conf=Path(__file__).parent / "conf")
