"""Experiments: who meets which variant, what that did to the business, and whether to ship it.

Import the module you need: `assignment` is light enough for a server, `analysis`, `planning` and `report` are not.
"""
