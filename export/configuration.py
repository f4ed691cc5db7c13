"""`config.pbtxt` of the ONNX models, written from what was exported.

No `default_timeout_microseconds`: it can starve Triton's batcher (triton-inference-server/server#8870);
a bounded queue and the caller's deadline shed load instead.
"""

from __future__ import annotations

_LANGUAGE_MODEL = """\
# Written by `reverie export`. The log-probability of every token of a text but the first, given those before it;
# at most {positions} tokens are looked at. `generate` and `score` build on this folder's files.
name: "language_model"
backend: "onnxruntime"
max_batch_size: 8
input [ {{ name: "token_ids" data_type: TYPE_INT32 dims: [ -1 ] }} ]
output [ {{ name: "token_logprobs" data_type: TYPE_FP32 dims: [ -1 ] }} ]
dynamic_batching {{ default_queue_policy {{ max_queue_size: 256 }} }}
instance_group [ {{ count: 1 }} ]
# `generate` and `score` pin the version whose tokenizer they loaded; the one before stays until they have moved on.
version_policy {{ latest {{ num_versions: 2 }} }}
"""

_STYLE = """\
# Written by `reverie export`. Pictures in, restyled pictures out; styles: {styles}.
name: "style"
backend: "onnxruntime"
max_batch_size: 8
input [
  {{ name: "image" data_type: TYPE_UINT8 dims: [ -1, -1, 3 ] }},
  {{ name: "style_weights" data_type: TYPE_FP32 dims: [ {count} ] }}
]
output [ {{ name: "stylized" data_type: TYPE_UINT8 dims: [ -1, -1, 3 ] }} ]
dynamic_batching {{ default_queue_policy {{ max_queue_size: 64 }} }}
instance_group [ {{ count: 1 }} ]
# `stylize` pins the version whose list of styles it loaded; the one before stays until it has moved on.
version_policy {{ latest {{ num_versions: 2 }} }}
"""


def language_model(positions: int) -> str:
    """The configuration of model `language_model`, which sees `positions` tokens at once."""
    return _LANGUAGE_MODEL.format(positions=positions)


def style(styles: tuple[str, ...]) -> str:
    """The configuration of model `style`."""
    return _STYLE.format(styles=", ".join(styles), count=len(styles))
