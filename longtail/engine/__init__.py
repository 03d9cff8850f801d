"""What answers a request: the bundle on disk, the stages in order, and the ladder when a stage is missing."""
