"""What happened to each message: every step with its time, its errors, and where it stands."""

from resilience_whatsapp.history._history import History
from resilience_whatsapp.history._stories import HistoryPage, MessageStory, Step, Trouble

__all__ = ["History", "HistoryPage", "MessageStory", "Step", "Trouble"]
