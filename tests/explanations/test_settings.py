"""What visualize.py refuses to be told about methods, contrasts and curves, each in one line."""

import pytest

from bertlens.errors import InputError
from bertlens.explanations.settings import ExplainSettings, ReportSettings
from bertlens.system.settings import check


@pytest.mark.parametrize(
    ("settings", "prefix", "line"),
    [
        (ExplainSettings(contrast=""), "explain.", "explain.contrast=: empty; give it a value or leave it out"),
        (ReportSettings(curves="many"), "report.", "report.curves=many: give a number, or all"),
        (ReportSettings(curves=-1), "report.", "report.curves=-1: must be at least 0"),
    ],
)
def test_a_mistake_is_one_line(settings, prefix, line):
    with pytest.raises(InputError) as caught:
        check(settings, prefix)
    assert str(caught.value) == line


@pytest.mark.parametrize(
    "settings",
    [ExplainSettings(), ExplainSettings(methods=["occlusion"], contrast="good"), ReportSettings(curves="all")],
)
def test_what_can_be_told(settings):
    check(settings, "")
