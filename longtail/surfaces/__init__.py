"""Surfaces: where lists are shown, and what each of them asks of the engine."""

from longtail.surfaces.bound import BoundSurface, BoundSurfaces
from longtail.surfaces.config import Surface, Surfaces
from longtail.surfaces.watch import SurfacesWatch

__all__ = ["BoundSurface", "BoundSurfaces", "Surface", "Surfaces", "SurfacesWatch"]
