"""What submitit does not tell about SLURM jobs: that one has left the queue, and why one left no result."""

import subprocess
import time
from pathlib import Path
from typing import Any

from omegaconf import open_dict
from submitit import SlurmJob
from submitit.slurm.slurm import SlurmInfoWatcher

from bertlens.run.folder import Run
from bertlens.system.files import relative

SUBMITTED = ".submitit"  # in a sweep's folder: a folder by SLURM job
BETWEEN_QUESTIONS = 15  # seconds
LIST_QUEUE = ("squeue", "--noheader", "--array", "--format=%i")


class QueueWatcher(SlurmInfoWatcher):
    """Ask the queue for jobs that the accounting does not know.

    There may be no accounting, and it has no record of a job of an array that was cancelled before it began.
    """

    asked_at = 0.0
    ended: frozenset[str] = frozenset()

    def get_state(self, job_id: str, mode: str = "standard") -> str:
        state = super().get_state(job_id, mode)
        if state == "UNKNOWN" and mode != "cache" and time.monotonic() - self.asked_at > BETWEEN_QUESTIONS:
            self.asked_at = time.monotonic()
            queue = subprocess.run(LIST_QUEUE, capture_output=True, text=True, check=False)
            if queue.returncode == 0 and job_id not in queue.stdout.split():
                self.ended |= {job_id}
        return "ENDED" if state == "UNKNOWN" and job_id in self.ended else state


def watch_queue() -> None:
    """Let submitit's jobs be watched by a `QueueWatcher`."""
    SlurmJob.watcher = QueueWatcher()


def submitted_jobs(sweep: Path) -> set[Path]:
    """Return submitit's file of each job that was ever submitted for a sweep."""
    return set((sweep / SUBMITTED).glob("*/*_submitted.pkl"))


def note_cancelled_jobs(sweep: Path, *, earlier: set[Path]) -> None:
    """Wait for the jobs of a sweep but the earlier ones, and write an error for each that left no result."""
    for folder in sorted(path.parent for path in submitted_jobs(sweep) - earlier):
        job: SlurmJob[Any] = SlurmJob(sweep / SUBMITTED / "%j", folder.name)
        job.wait()
        if not job.paths.result_pickle.exists():
            launcher: Any = job.submission().function
            overrides, _, number, *_ = job.submission().args
            composed = launcher.hydra_context.config_loader.load_sweep_config(launcher.config, overrides)
            with open_dict(composed):
                composed.hydra.job.num = number
            cause = f"{job.state.lower()} in SLURM, without a result; {relative(folder)} has its log, if it began"
            Run(sweep / composed.hydra.sweep.subdir).write_error(cause)
