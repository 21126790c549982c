"""Sub-package of worldmodels."""
