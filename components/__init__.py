"""Thin KFP components, each around one function of `longtail.training`."""
