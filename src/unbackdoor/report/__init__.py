"""Records in, pages out: reports of repairs and scans. Reads records only."""

from .bom import cyclonedx
from .card import model_card
from .page import repair_page
from .sarif import sarif
from .scanpage import scan_page

__all__ = ["cyclonedx", "model_card", "repair_page", "sarif", "scan_page"]
