"""A sweep on Ray: workers measure groups, this process alone writes the store. Ray is optional and imported only here.

Each worker loads the model once. Where the cluster has GPUs each worker takes one, else one CPU core. What comes back are rows and traces,
so workers need no folder in common; they need kvlab installed and, for a model that is a local folder, that folder.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from kvlab.models import load
from kvlab.registry import registry
from kvlab.sweep.drive import Sweep, Work, measure
from kvlab.sweep.measure import Measured
from kvlab.sweep.plan import Group, Plan, Setting


class Worker:
    """Holds a model and measures one group after another. `place`: how to load the model."""

    def __init__(self, plan: Plan, place: str, device: str, share: bool, command: str) -> None:
        self.plan, self.share, self.command = plan, share, command
        registry()  # gives the methods, which came by reference, what their folders say of them
        self.lm = load(place, device, plan.dtype)

    def revision(self) -> str:
        """Of the model this worker found."""
        return self.lm.revision

    def measure(self, work: Work) -> list[Measured]:
        """All items of a group."""
        return list(measure(self.lm, self.plan, work, self.share, self.command, lambda run: False))


def on_ray(job: Sweep, left: dict[Group, tuple[Setting, ...]], address: str | None) -> Iterator[Measured]:
    """Items as they come, each already in the store. Raises ValueError when Ray is not installed or a worker has another model."""
    try:
        import ray
        from ray.util import ActorPool
    except ImportError:
        raise ValueError("--engine ray needs Ray: pip install ray. Without it a sweep runs on this machine.") from None
    started = not ray.is_initialized()
    if started:
        ray.init(address=address, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    try:
        pool = ActorPool(_workers(ray, job, len(left)))
        works = (job.task(group, settings) for group, settings in left.items())
        for found in pool.map_unordered(lambda worker, work: worker.measure.remote(work), works):
            for measured in found:
                yield job.save(measured)
    finally:
        if started:
            ray.shutdown()


def _workers(ray: Any, job: Sweep, groups: int) -> list[Any]:
    have = ray.cluster_resources()
    gpus = int(have.get("GPU", 0)) if job.lm.device.type == "cuda" else 0
    count = max(1, min(groups, gpus or int(have.get("CPU", 1))))
    kind = ray.remote(num_gpus=1 if gpus else 0, num_cpus=0 if gpus else 1)(Worker)
    workers = [kind.remote(job.plan, job.lm.name, job.lm.device.type, job.share, job.command) for _ in range(count)]
    if set(ray.get([worker.revision.remote() for worker in workers])) != {job.lm.revision}:
        raise ValueError(f"A worker's {job.lm.name} is another model than the one here. Give all of them the same files.")
    return workers
