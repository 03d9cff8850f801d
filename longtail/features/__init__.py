"""Features: daily snapshots, point-in-time joins, the online store, and what is computed at request time."""
