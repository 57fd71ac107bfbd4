"""The event loop of servers and of what loads them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

new_event_loop: Callable[[], asyncio.AbstractEventLoop]
"""uvloop's, where it exists: it takes less time of each request."""
try:
    from uvloop import new_event_loop
except ImportError:  # Windows
    new_event_loop = asyncio.new_event_loop
