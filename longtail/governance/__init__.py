"""Who changed what: the audit log, and the erasure of a person."""
