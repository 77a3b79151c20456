"""The `features` section: whether and how the frozen layers' output is stored."""

from dataclasses import dataclass

from bertlens.system.settings import setting


@dataclass(kw_only=True)
class FeatureSettings:
    cache: str = setting(
        "auto",
        "keep what the frozen layers compute: auto (where it saves time), on or off",
        choices=("auto", "on", "off"),
        affects="nothing",
    )
    dtype: str = setting(
        "bfloat16",
        "number format of the frozen layers and of what is stored; float32 is the exact one",
        choices=("bfloat16", "float32"),
        affects="steps",
    )
    max_trainable_layers: int | None = setting(
        None, "let runs that train up to so many layers share the store; sweeps set it", at_least=0, affects="nothing"
    )
    max_gb: float | None = setting(
        None, "largest store; what no run used for a day is removed first; null: no limit", above=0, affects="nothing"
    )
    device: str = setting(
        "auto",
        "auto: in the GPU's memory where they fit; cpu: always from the file",
        choices=("auto", "cpu"),
        affects="nothing",
    )
    build_only: bool = setting(False, "compute and store the features of all splits and stop", affects="nothing")
    list: bool = setting(False, "show what is stored and stop", affects="nothing")
    clear: bool = setting(False, "remove all that is stored and stop", affects="nothing")
