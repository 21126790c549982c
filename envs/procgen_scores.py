"""Constants that normalise a Procgen return: (R - R_min) / (R_max - R_min).

Unit: points per episode. Source: the table of normalisation constants of the Procgen paper (Cobbe
et al. 2020, arXiv 1912.01588), easy and hard. R_min is the return of a policy that sees nothing of
the level, R_max the best possible one (or nearly). The other modes have none.
"""

PROCGEN_SCORES: dict[str, dict[str, tuple[float, float]]] = {
    # game: mode: (R_min, R_max)
    "bigfish": {"easy": (1.0, 40.0), "hard": (0.0, 40.0)},
    "bossfight": {"easy": (0.5, 13.0), "hard": (0.5, 13.0)},
    "caveflyer": {"easy": (3.5, 12.0), "hard": (2.0, 13.4)},
    "chaser": {"easy": (0.5, 13.0), "hard": (0.5, 14.2)},
    "climber": {"easy": (2.0, 12.6), "hard": (1.0, 12.6)},
    "coinrun": {"easy": (5.0, 10.0), "hard": (5.0, 10.0)},
    "dodgeball": {"easy": (1.5, 19.0), "hard": (1.5, 19.0)},
    "fruitbot": {"easy": (-1.5, 32.4), "hard": (-0.5, 27.2)},
    "heist": {"easy": (3.5, 10.0), "hard": (2.0, 10.0)},
    "jumper": {"easy": (3.0, 10.0), "hard": (1.0, 10.0)},
    "leaper": {"easy": (3.0, 10.0), "hard": (1.5, 10.0)},
    "maze": {"easy": (5.0, 10.0), "hard": (4.0, 10.0)},
    "miner": {"easy": (1.5, 13.0), "hard": (1.5, 20.0)},
    "ninja": {"easy": (3.5, 10.0), "hard": (2.0, 10.0)},
    "plunder": {"easy": (4.5, 30.0), "hard": (3.0, 30.0)},
    "starpilot": {"easy": (2.5, 64.0), "hard": (1.5, 35.0)},
}
