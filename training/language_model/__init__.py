"""The language model of section 12.1: reviews in, next-word logits out."""
