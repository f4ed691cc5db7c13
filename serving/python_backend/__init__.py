"""What every Python model of Triton is made of: base, requests and responses, admission, fair shares, streams, pinned models."""
