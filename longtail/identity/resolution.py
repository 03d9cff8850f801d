"""One person, several devices: which guest events belong to somebody known."""

from __future__ import annotations

from typing import TYPE_CHECKING

from longtail.schema import GUEST_PREFIX

if TYPE_CHECKING:
    import ibis.expr.types as ir


def guest_id(session_pseudonym: str) -> str:
    """The user id of a guest: one user per session."""
    return GUEST_PREFIX + session_pseudonym


def person_of_device(events: ir.Table) -> ir.Table:
    """`device_id, device_user`: devices on which exactly one person ever signed in.

    A device that two people sign in on says nothing about who holds it while nobody is signed in, so its guest events
    stay guests; no similarity is guessed. `events` needs `user_id` and `device_id`, null where unknown.
    """
    seen = events.filter(events.user_id.notnull() & events.device_id.notnull())
    people = seen.group_by("device_id").aggregate(device_user=seen.user_id.min(), people=seen.user_id.nunique())
    return people.filter(people.people == 1).select("device_id", "device_user")


def resolve(events: ir.Table) -> ir.Table:
    """Fill `user_id` of guest events on a device of exactly one person; adds `linked` (boolean)."""
    import ibis  # servers need `guest_id` only, and ibis takes a second to import

    devices = person_of_device(events)
    joined = events.left_join(devices, "device_id").drop("device_id_right")
    linked = joined.user_id.isnull() & joined.device_user.notnull()
    return joined.mutate(user_id=ibis.coalesce(joined.user_id, joined.device_user), linked=linked).drop("device_user")
