"""The name under which a model answers: stable, while the artifact behind it may change."""

from __future__ import annotations

from vlp.deploy.serving.errors import ApiError
from vlp.deploy.serving.serving_state import ServingState

DIGITS = 12  # of the fingerprint, after @


def pinned_name(state: ServingState) -> str:
    """Stands for this artifact and no other, such as photos@1f9ab36c07d2."""
    return f"{state.name}@{state.model.engine.fingerprint[:DIGITS]}"


def check_model_name(state: ServingState, asked: str | None) -> None:
    """Raises ApiError for a model that is not served here: another one's embeddings would be compared with wrong ones."""
    if asked is None or asked == state.name or asked == pinned_name(state):
        return
    message = f"there is no model {asked[:100]!r}; this server has {state.name!r}, at the moment {pinned_name(state)!r}"
    raise ApiError(404, message, code="model_not_found", param="model")
