"""The decorator of every step.

It is not in the package's `__init__`: while a step runs kfp has no decorator, and the step imports what lies beside it.
"""

from functools import partial

from kfp import dsl

# kfp's local runner warns about an image whose name does not say that it holds Python.
IMAGE = "longtail-python:0.1.0"

step = partial(dsl.component, base_image=IMAGE, install_kfp_package=False, packages_to_install=[])
