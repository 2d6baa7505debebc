"""Model cards and pushing to the Hub."""

from .card import build_card, evaluation_results, training_sources
from .push import push_pipeline, write_root_config

__all__ = ["build_card", "evaluation_results", "push_pipeline", "training_sources", "write_root_config"]
