"""What a policy would have earned, estimated from the log of another one."""
