"""What the service says of itself: metrics, as Prometheus reads them.

`definitions.py` lists every metric; `model_metrics.py` has those of one model's requests, and `exporter.py` serves those of
all processes beside Triton's own. Knows nothing of what the models do.
"""
