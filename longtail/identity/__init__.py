"""Who is behind an event: keyed pseudonyms, guests, and several devices of one person."""

from longtail.identity.pseudonyms import Pseudonymiser, load_key
from longtail.identity.resolution import guest_id, person_of_device

__all__ = ["Pseudonymiser", "guest_id", "load_key", "person_of_device"]
