"""The pipeline without weights, for the evaluation of whole files."""

from ..fake_pipeline import fake_pipeline  # noqa: F401
