"""Processes of tiny trainings, for the tests of strategies: `python -m tests.training.replica '[[STRATEGY, SOURCE, RUN, TF_CONFIG], ...]'`.

"mirrored" makes two devices of this machine's processor; TF_CONFIG may be left out.
"""

import json
import multiprocessing
import os
import sys
from pathlib import Path

import tensorflow as tf

from training.distribution import Distribution
from training.language_model.pre_norm import PreNormConfig
from training.language_model.train import LanguageModelTraining, train
from training.loop import Schedule

CONFIG = LanguageModelTraining(
    PreNormConfig(vocabulary_size=300, positions=16, embed_dim=16, latent_dim=32, layers=1, num_heads=2),
    architecture="pre_norm",
    optimizer="adamw",
    learning_rate=1e-2,
    batch_size=4,
    steps=6,
    sample_words=2,
)


def distribution_of(name: str) -> Distribution:
    if name != "mirrored":
        return Distribution.of(name)
    processor = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(processor, [tf.config.LogicalDeviceConfiguration()] * 2)
    return Distribution(tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]))


def train_on(distribution: Distribution, source: Path, run: Path) -> Distribution:
    """Train for six steps, beside a cache of the run's own."""
    train(CONFIG, source, run.parent / "cache", run, Schedule(6, 2, 6, 3, 3), distribution)
    return distribution


def train_as(strategy: str, source: str, run: str, tf_config: str = "") -> None:
    """A forked process's whole work; says how many replicas there were."""
    if tf_config:
        os.environ["TF_CONFIG"] = tf_config
    print("replicas:", train_on(distribution_of(strategy), Path(source), Path(run)).replicas)


if __name__ == "__main__":
    # TensorFlow, which takes seconds to import, has started nothing yet that a fork would lose.
    fork = multiprocessing.get_context("fork")
    processes = [fork.Process(target=train_as, args=arguments) for arguments in json.loads(sys.argv[1])]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    sys.exit(any(process.exitcode for process in processes))
