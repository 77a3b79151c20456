"""NB-SVM (Wang & Manning 2012, "Baselines and Bigrams"), as scikit-learn pipelines; its interpolation is left out."""

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_matrix
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.svm import LinearSVC


class LogCountRatios(TransformerMixin, BaseEstimator):
    """Weight each n-gram by the logarithm of the ratio of its add-one shares in the two classes, 0 and 1."""

    def fit(self, counts: csr_matrix, labels: npt.ArrayLike) -> "LogCountRatios":
        shares = []
        for label in (0, 1):
            count = np.asarray(counts[np.asarray(labels) == label].sum(axis=0))[0] + 1.0
            shares.append(count / count.sum())
        self.ratios_ = np.log(shares[1] / shares[0])
        return self

    def transform(self, counts: csr_matrix) -> Any:
        return counts.multiply(self.ratios_).tocsr()


def nb_svm(longest: int) -> Pipeline:
    """Return NB-SVM on n-grams of up to `longest` words. `decision_function` gives the margin for class 1."""
    counts = CountVectorizer(binary=True, ngram_range=(1, longest), token_pattern=r"\w+|[!?']", min_df=2)
    return make_pipeline(counts, LogCountRatios(), LinearSVC(C=0.01))
