"""What must hold on a GPU too. Each test also runs on the CPU, so that its lines are tried where there is no GPU."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from bertlens.model.bert import BertConfig, BertModel
from bertlens.model.classifier import FrozenPrefix, ReviewClassifier
from bertlens.training.checkpoint_io import random_state, set_random_state

REPOSITORY = Path(__file__).parents[1]


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> torch.device:
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("torch finds no GPU here")
    return torch.device(request.param)


@pytest.fixture
def settings(tiny_run: list[str], device: torch.device) -> list[str]:
    accelerator = "gpu" if device.type == "cuda" else "cpu"
    return [*tiny_run, f"trainer.accelerator={accelerator}", "trainer.max_epochs=3", "optimizer.lr=3e-3"]


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_run_learns_evaluates_and_goes_on(settings, device, tmp_path, run_task, precision):
    run_task("train", tmp_path / "run", *settings, f"trainer.precision={precision}")
    written = json.loads((tmp_path / "run" / "metrics.json").read_text())
    losses = [row["train/loss"] for row in written["history"]]
    assert losses == sorted(losses, reverse=True)
    accelerator = next(setting for setting in settings[::-1] if setting.startswith("trainer.accelerator="))
    evaluated = run_task("evaluate", tmp_path / "again", f"checkpoint={tmp_path / 'run'}", accelerator)
    assert evaluated["test/accuracy"] == written["metrics"]["test/accuracy"]
    (tmp_path / "run" / "metrics.json").unlink()
    run_task("train", tmp_path / "run", *settings, f"trainer.precision={precision}", "trainer.max_epochs=4")
    assert len(json.loads((tmp_path / "run" / "metrics.json").read_text())["history"]) == 4


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_how_much_a_reviews_states_depend_on_its_company(tiny_config: BertConfig, device, dtype):
    """On a GPU matrix products of other sizes may be added up in another order; here is the bound."""
    prefix = FrozenPrefix(BertModel(tiny_config).eval().to(device, dtype), depth=2)
    ids = torch.randint(5, tiny_config.vocab_size, (64, 48), device=device)
    lengths = torch.arange(64, device=device) % 40 + 9
    mask = torch.arange(48, device=device) < lengths[:, None]
    with torch.inference_mode():
        together = prefix(ids, mask)
        worst = 0.0
        for row in range(0, 64, 7):
            alone = prefix(ids[row : row + 1], mask[row : row + 1])
            difference = (alone - together[row : row + 1])[mask[row : row + 1]]
            worst = max(worst, difference.abs().max().item())
    print(f"company on {device.type}, {dtype}: {worst}")
    assert worst <= (1e-5 if dtype == torch.float32 else 0.1)


def test_a_step_does_not_wait_for_the_device(tiny_config: BertConfig, device):
    """Forward, backward and optimizer step on states that lie on the device."""
    suffix = ReviewClassifier(tiny_config, num_classes=2, trainable_layers=1).suffix.to(device)
    optimizer = torch.optim.Adam(suffix.parameters(), fused=True)
    states, labels = torch.randn(8, 16, tiny_config.hidden_size, device=device), torch.arange(8, device=device) % 2
    mask = torch.arange(16, device=device) < torch.full((8, 1), 12, device=device)
    for repeat in range(3):
        if device.type == "cuda" and repeat == 2:  # the first steps allocate and choose kernels
            torch.cuda.set_sync_debug_mode("error")
        try:
            torch.nn.functional.cross_entropy(suffix(states, mask), labels).backward()
            optimizer.step()
            optimizer.zero_grad()
        finally:
            if device.type == "cuda":
                torch.cuda.set_sync_debug_mode("default")


def test_random_numbers_go_on(device):
    state = random_state()
    drawn = torch.rand(5, device=device)
    set_random_state(state)
    assert torch.equal(torch.rand(5, device=device), drawn)


@pytest.mark.slow
def test_the_command_leaves_one_file(tmp_path):
    """Each step of benchmarks/gpu.sh but `two` and `compare`, without a GPU and with few reviews."""
    out = tmp_path / "gpu.json"
    options = ["--device=cpu", "--model=minilm", "--num-reviews=64", "--steps=tests,prefix,epoch,job", f"--out={out}"]
    done = subprocess.run(
        [sys.executable, str(REPOSITORY / "benchmarks" / "gpu.py"), *options],
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    content = json.loads(out.read_text())
    assert done.returncode == 0, content
    assert content["card"] == "cpu"
    assert content["prefix"]["tflops"]["4096 word pieces"]["all real"] > 0
    assert content["epoch"]["milliseconds_per_step"]["eager"] > 0
    assert content["job"]["metrics"]["test/accuracy"] > 0.4
