"""Training on several devices or machines with `tf.distribute`: every replica takes its part of each batch.

A step takes the gradient of the whole batch, so a run ends with the weights it would have on one device, but
for rounding. Keras 3's own `train_on_batch` cannot be used for this: under a strategy it gives every replica
the whole batch, and clips before it sums. TensorFlow backend only.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
from reverie_client import hosts, proxies

from training.runs import Run

STRATEGIES = ("none", "mirrored", "multiworker")


@dataclass(frozen=True)
class Distribution:
    """Where a run's replicas are.

    Attributes:
        strategy: the `tf.distribute` strategy; None for one device and no strategy.
        is_chief: whether this process writes the run's files.
    """

    strategy: Any = None
    is_chief: bool = True

    @classmethod
    def of(cls, name: str) -> Distribution:
        """Return the distribution called `name`.

        Args:
            name: "none"; "mirrored" for all devices of this machine; "multiworker" for the processes that
                the environment variable TF_CONFIG lists, each started with the same command.

        Raises:
            ValueError: `name` is none of these; TF_CONFIG is missing; the backend is not TensorFlow.
        """
        if name == "none":
            return cls()
        if name not in STRATEGIES:
            raise ValueError(f"strategy is {name!r}; accepted: {', '.join(STRATEGIES)}")
        if keras.backend.backend() != "tensorflow":
            raise ValueError(f"strategy is {name!r}, which needs the TensorFlow backend, not {keras.backend.backend()}")
        import tensorflow as tf

        if name == "mirrored":
            return cls(tf.distribute.MirroredStrategy())
        if "TF_CONFIG" not in os.environ:
            raise ValueError(
                "strategy is 'multiworker', but TF_CONFIG is not set; give every worker "
                """'{"cluster": {"worker": ["host:port", ...]}, "task": {"type": "worker", "index": 0}}'"""
            )
        cluster = json.loads(os.environ["TF_CONFIG"])
        _reach_this_machine_directly(cluster)
        index = cluster.get("task", {}).get("index", 0)
        return cls(tf.distribute.MultiWorkerMirroredStrategy(), is_chief=index == 0)

    @property
    def replicas(self) -> int:
        return 1 if self.strategy is None else self.strategy.num_replicas_in_sync

    def check(self, batch_size: int, jit_compile: bool) -> None:
        """Raise ValueError for a batch that does not split evenly, or for XLA beside a strategy."""
        if batch_size % self.replicas:
            raise ValueError(f"batch_size is {batch_size}; accepted: a multiple of the {self.replicas} replicas")
        if jit_compile and self.strategy is not None:
            raise ValueError("jit_compile cannot be combined with a strategy; leave out one of them")

    def check_path(self, path: Path | None) -> None:
        """Raise ValueError for several workers and no `path` of the run that they share."""
        if path is None and (not self.is_chief or "TF_CONFIG" in os.environ):
            raise ValueError("several workers train one run: give its folder to all of them with --run")

    @contextmanager
    def open_run(self, kind: str, config: dict[str, Any], path: Path | None) -> Iterator[Run]:
        """The run at `path` (see `Run.create`); a worker that is not the chief gets a passing copy of its state.

        Raises:
            ValueError: several workers, and no `path` that they share.
        """
        self.check_path(path)
        if self.is_chief:
            yield Run.create(kind, config, path)
            return
        assert path is not None
        with tempfile.TemporaryDirectory() as folder:
            if path.exists():
                shutil.copytree(path, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.tmp", "samples"))
            yield Run.create(kind, config, Path(folder))

    def finished_run(self, run: Run, path: Path | None) -> Run:
        """Return what `open_run` had opened, once it is closed. A worker's copy is gone then; the run is the chief's, at `path`."""
        if self.is_chief:
            return run
        assert path is not None
        return Run(path)

    def scope(self) -> AbstractContextManager:
        """Return the scope inside which models and optimizers are made."""
        return nullcontext() if self.strategy is None else self.strategy.scope()

    def train_step(
        self, model: keras.Model, token_losses: Callable
    ) -> Callable[[np.ndarray, np.ndarray], float] | None:
        """Return a function from a batch to its loss that takes one step; None where Keras's own serves.

        Args:
            model: compiled inside `scope`.
            token_losses: `(targets, logits)` to the loss of each target, 0 where it does not count.
        """
        if self.strategy is None:
            return None
        import tensorflow as tf

        strategy, replicas = self.strategy, self.replicas
        optimizer, weights = model.optimizer, model.trainable_weights

        def replica_step(inputs, targets, counted):
            with tf.GradientTape() as tape:
                loss = tf.reduce_sum(token_losses(targets, model(inputs, training=True))) / counted
            gradients = [tf.convert_to_tensor(g) for g in tape.gradient(loss, [w.value for w in weights])]
            context = tf.distribute.get_replica_context()
            loss, gradients = context.all_reduce(tf.distribute.ReduceOp.SUM, [loss, gradients])
            if optimizer.global_clipnorm:
                gradients, _ = tf.clip_by_global_norm(gradients, optimizer.global_clipnorm)
            # Keras sums over the replicas once more.
            optimizer.apply([g / replicas for g in gradients], weights)
            return loss

        @tf.function
        def step(inputs, targets, counted):
            return strategy.run(replica_step, args=(inputs, targets, counted))

        def parts(values: np.ndarray):
            return strategy.experimental_distribute_values_from_function(
                lambda context: tf.convert_to_tensor(np.array_split(values, replicas)[context.replica_id_in_sync_group])
            )

        def train_step(inputs: np.ndarray, targets: np.ndarray) -> float:
            counted = tf.constant(max((targets >= 0).sum(), 1), tf.float32)
            losses = step(parts(inputs), parts(targets), counted)
            return float(strategy.experimental_local_results(losses)[0])

        return train_step


def _reach_this_machine_directly(cluster: dict[str, Any]) -> None:
    """Keep the workers that are on this machine from the environment's proxies, through which they would wait for ever."""
    workers = [address for addresses in cluster.get("cluster", {}).values() for address in addresses]
    targets = [hosts.split_target(address) for address in workers if hosts.is_this_machine(address)]
    proxies.bypass([target[0] for target in targets if target], os.environ)
