"""Thin KFP components, each around one function of `longtail.steps`.

A component's body is shipped as text and runs in an image that holds longtail: it imports what it needs itself.
"""

from functools import partial

from kfp import dsl

# kfp's local runner warns about an image whose name does not say that it holds Python.
IMAGE = "longtail-python:0.1.0"

step = partial(dsl.component, base_image=IMAGE, install_kfp_package=False, packages_to_install=[])
