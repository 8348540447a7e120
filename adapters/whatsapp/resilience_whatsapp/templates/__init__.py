"""Templates: the list of approved ones, which are set aside, and whether a message fits. `_book.py` has the whole."""

from resilience_whatsapp.templates._list import DEFAULT_TEMPLATES, TemplateList, TemplateSource
from resilience_whatsapp.templates._quarantine import TEMPLATE_QUARANTINE

__all__ = ["DEFAULT_TEMPLATES", "TEMPLATE_QUARANTINE", "TemplateList", "TemplateSource"]
