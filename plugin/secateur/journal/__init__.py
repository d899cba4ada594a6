"""What a search has found out, stored as it happens, so that a search that was killed goes on where it ended."""

from secateur.journal.identity import digest_of_batches, identify
from secateur.journal.journal import Journal
from secateur.journal.remembering import Remembering, RememberingRace

__all__ = ["Journal", "Remembering", "RememberingRace", "digest_of_batches", "identify"]
