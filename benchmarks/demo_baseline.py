"""What a bag of words makes of the demo: TF-IDF of single words and pairs, then logistic regression."""

import argparse
import json
import platform
from importlib.metadata import version
from pathlib import Path

from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from bertlens.data.reviews import load_reviews
from bertlens.data.settings import DataSettings


def main() -> None:
    """Fit on the demo's train split, score on its test split, and write what came out as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--num-reviews", type=int, default=3000, help="reviews to generate, all splits together")
    parser.add_argument("--seed", type=int, default=1234, help="seed of the reviews and of their split")
    parser.add_argument("--out", type=Path, required=True, help="the JSON file to write")
    arguments = parser.parse_args()

    splits = load_reviews(DataSettings(source="demo", num_demo_reviews=arguments.num_reviews, seed=arguments.seed))
    vectorizer = TfidfVectorizer(ngram_range=(1, 2))
    features = vectorizer.fit_transform(splits["train"]["text"])
    classifier = LogisticRegression().fit(features, splits["train"]["label"])
    accuracy = {
        name: classifier.score(vectorizer.transform(split["text"]), split["label"]) for name, split in splits.items()
    }
    results = {
        "what": "TF-IDF (1-2-grams) + logistic regression on the demo",
        "accuracy": accuracy,
        "num_reviews": {name: len(split) for name, split in splits.items()},
        "num_features": features.shape[1],
        "seed": arguments.seed,
        "versions": {"python": platform.python_version()}
        | {name: version(name) for name in ("bertlens", "datasets", "scikit-learn")},
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
