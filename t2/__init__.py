"""Transformer-Squared: self-adaptive language models by singular value fine-tuning (arXiv 2501.06252)."""
