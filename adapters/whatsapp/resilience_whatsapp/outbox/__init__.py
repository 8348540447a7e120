"""The outbox: messages are kept before they are sent, survive crashes and outages, and are not sent twice.

`docs/whatsapp/outbox.md` tells how it is used, `_machine.py` the rules.
"""

from resilience_whatsapp.outbox._drain import Drop, Gate, Hold, Recheck, Sender
from resilience_whatsapp.outbox._options import OutboxOptions
from resilience_whatsapp.outbox._outbox import Outbox, WhenDown
from resilience_whatsapp.outbox._redis_store import RedisStore
from resilience_whatsapp.outbox._row import Codec, IdempotencyKeyError, OutboxRow, OutboxStoreError
from resilience_whatsapp.outbox._sqlite_store import SQLiteStore
from resilience_whatsapp.outbox._store import MemoryStore, OutboxStore

__all__ = [
    "Codec",
    "Drop",
    "Gate",
    "Hold",
    "IdempotencyKeyError",
    "MemoryStore",
    "Outbox",
    "OutboxOptions",
    "OutboxRow",
    "OutboxStore",
    "OutboxStoreError",
    "Recheck",
    "RedisStore",
    "SQLiteStore",
    "Sender",
    "WhenDown",
]
