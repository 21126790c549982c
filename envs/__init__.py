"""Imported as worldmodels.envs."""

if not __name__.startswith("worldmodels."):
    raise ImportError("import worldmodels.envs: the folder envs/ is part of that package")
