"""From what monitoring says to a training run: a policy, a decision, one run at a time, and a ledger of all of it."""
