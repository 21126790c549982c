"""Imported as worldmodels.kernels."""

if not __name__.startswith("worldmodels."):
    raise ImportError("import worldmodels.kernels: the folder kernels/ is part of that package")
