"""Watching a shop: what its servers wrote, day by day, against what the bundle was trained on and the days before."""
