"""`worldmodels dream RUN`: what the agent imagines, drawn below what happened."""

from pathlib import Path

from worldmodels.cli.arguments import Parser, count
from worldmodels.cli.run_folders import find_run


def run(argv: list[str]) -> None:
    """The command."""
    parser = Parser(
        "dream", "Draw episodes (above) and what the agent imagines of them open loop (below)."
    )
    parser.add_argument("run", metavar="RUN", help="run folder")
    parser.add_argument("--context", type=count, default=4, help="rows seen before the dream (4)")
    parser.add_argument("--horizon", type=count, default=12, help="rows imagined (12)")
    parser.add_argument("--episodes", type=count, default=20, help="episodes measured (20)")
    parser.add_argument("--seed", type=int, default=0, help="of environments and policy (0)")
    parser.add_argument("--checkpoint", default="last", help="`last`, or the step of an older one")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps")
    parser.add_argument("--out", default="", metavar="PNG", help="default: RUN/dream.png")
    args = parser.read(argv)
    folder = find_run(args.run)

    from worldmodels.agent import Agent  # torch, only now
    from worldmodels.curves import plot_run
    from worldmodels.dream import dream

    agent = Agent.load(folder, args.checkpoint, args.device)
    told = dream(
        agent,
        Path(args.out) if args.out else folder / "dream.png",
        context=args.context,
        horizon=args.horizon,
        episodes=args.episodes,
        seed=args.seed,
    )
    print(f"dream   {told['path']}")
    print(f"curves  {plot_run(folder)}")
    print(
        f"pixel error {told['error']:.5f} over {told['frames']} imagined rows; "
        f"copying the last seen frame gives {told['copy_error']:.5f}"
    )
