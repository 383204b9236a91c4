"""Every ``when:`` predicate, one registry. (Shape first; matching is added beside each predicate.)"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class When(BaseModel):
    """Conditions that must all hold."""

    model_config = ConfigDict(extra="forbid", frozen=True)
