"""What every Python model of Triton is made of: requests and answers, admission, fair shares, streams, pinned models."""
