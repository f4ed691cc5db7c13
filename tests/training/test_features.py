import keras
import numpy as np

from synthesis import compact
from training.features.train import FeaturesTraining, disturbed, train
from training.loop import Schedule
from training.photos import Photos


def test_disturbed_crops_stay_pixels():
    crops = np.random.default_rng(0).uniform(0, 255, (4, 8, 8, 3)).astype(np.float32)
    out = disturbed(crops, np.random.default_rng(1))
    assert out.dtype == np.float32
    assert out.min() >= 0
    assert out.max() <= 255


def test_the_student_has_the_teacher_s_layers_and_channels(data):
    vgg = keras.applications.VGG19(weights=None, include_top=False)
    for name, output in zip(compact.LAYERS, compact.build_untrained().outputs, strict=True):
        assert output.shape[-1] == vgg.get_layer(name).output.shape[-1]


def test_a_run_brings_the_student_closer_to_vgg19(data, tmp_path, monkeypatch):
    monkeypatch.setenv("REVERIE_WEIGHTS_DIR", str(data))
    keras.config.set_dtype_policy("float32")
    config = FeaturesTraining(steps=40, batch_size=2, size=48)
    run = train(config, Photos.of(data / "photos"), tmp_path / "run", Schedule(40))
    assert run.result["relative_error"]["block2_conv1"] < 0.97
    assert (run.path / "compact.npz").stat().st_size < 6e6
