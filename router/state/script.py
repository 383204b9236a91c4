"""Lua scripts, which the store runs whole or not at all."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

from redis.exceptions import NoScriptError


class Script:
    """A Lua script beside this module, called by its hash and sent whole only where it is not known."""

    def __init__(self, client: Any, *names: str) -> None:
        """The script is the text of these files, one after the other."""
        self._client = client
        texts = (files(__package__).joinpath(name).read_text("utf-8") for name in names)
        self._text = "".join(("#!lua\n", *texts))
        self._hash = hashlib.sha1(self._text.encode(), usedforsecurity=False).hexdigest()

    async def run(self, keys: Sequence[str | bytes], arguments: Sequence[Any]) -> Any:
        """The script's answer. Raises what redis-py raises."""
        try:
            return await self._client.evalsha(self._hash, len(keys), *keys, *arguments)
        except NoScriptError:
            return await self._client.eval(self._text, len(keys), *keys, *arguments)
