"""Versions of exported models and what becomes of them: staged, verified, published, labeled, compared, kept in a bucket.

Knows files, manifests and labels, and reaches a running server only through the client; nothing of training or conversion.
"""
