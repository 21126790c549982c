"""Imported as worldmodels.backbones."""

if not __name__.startswith("worldmodels."):
    raise ImportError("import worldmodels.backbones: the folder backbones/ is part of that package")
