"""Records in, pages out: an HTML report and a model card of a repair. Reads records only."""

from .card import model_card
from .page import repair_page

__all__ = ["model_card", "repair_page"]
