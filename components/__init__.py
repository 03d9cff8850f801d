"""Thin KFP components, each around one function of `longtail.steps`.

A component's body is shipped as text and runs in an image that holds longtail: it imports what it needs itself.
"""
