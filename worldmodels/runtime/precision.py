"""Mixed precision that rounds only where autocast computes."""

from typing import Any

from lightning.fabric.plugins import MixedPrecision


class Autocast(MixedPrecision):
    """Fabric's autocast without its casts at the door of a module.

    Fabric rounds every input of `forward` to the low precision; rewards, returns and states would
    lose their bits before a loss is computed (design law 7).
    """

    def convert_input(self, data: Any) -> Any:
        """Inputs as they are."""
        return data

    def convert_output(self, data: Any) -> Any:
        """Outputs as they are; losses are float32 already."""
        return data
