"""The books: every request's entry, in a local journal first and as sums in the store after."""

from router.ledger.ledger import Ledger

__all__ = ["Ledger"]
