"""`worldmodels envs`: the environments by suite, and how to install what is missing."""

import json
import textwrap

from worldmodels.cli.arguments import Parser
from worldmodels.envs.registry import listing


def run(argv: list[str]) -> None:
    """The command."""
    parser = Parser("envs", "List the environments that `worldmodels train ENV` takes.")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--installed", action="store_true", help="leave out what is not installed")
    args = parser.read(argv)
    suites = [suite for suite in listing() if suite["installed"] or not args.installed]
    if args.json:
        print(json.dumps(suites, indent=1))
        return
    for suite in suites:
        state = "" if suite["installed"] else f"  (not installed; run: {suite['install']})"
        print(f"{suite['suite']}: {suite['description']}{state}")
        print(
            textwrap.fill(
                " ".join(suite["names"]),
                width=100,
                initial_indent="    ",
                subsequent_indent="    ",
                break_on_hyphens=False,
            )
        )
    print("your own: a class by its path, package.module:MyEnv (docs/environments.md)")
