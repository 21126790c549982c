"""`worldmodels doctor`: what works on this machine, and why."""

import json
from typing import Any

from worldmodels.cli.arguments import Parser
from worldmodels.errors import UserError


def run(argv: list[str]) -> None:
    """The command; fails where training would."""
    parser = Parser("doctor", "Say what works on this machine, and why.")
    parser.add_argument("--json", action="store_true", help="print JSON, for a bug report")
    args = parser.read(argv)

    from worldmodels.doctor import examine  # torch and lightning, only now

    report = examine()
    if args.json:
        print(json.dumps(report, indent=1))
    else:
        print("\n".join(_lines(report)))
    if not report["training"]["works"]:
        raise UserError(f"a training step failed: {report['training']['reason']}")


def _lines(report: dict[str, Any]) -> list[str]:
    machine, disk, training = report["machine"], report["disk"], report["training"]
    packages = ", ".join(f"{name} {found}" for name, found in machine["packages"].items())
    lines = [
        f"worldmodels  {machine['worldmodels']} (commit {machine['commit'] or 'unknown'})",
        f"python       {machine['python']} on {machine['platform']}",
        f"packages     {packages}",
        f"machine      {machine['processor']}, {machine['cores']} cores, GPU {machine['gpu']}",
    ]
    lines += [f"chosen       {reason}" for reason in report["reasons"]]
    lines += [
        f"kernel       {kernel['operator']}: {kernel['implementation']} ({kernel['reason']})"
        for kernel in report["kernels"]
    ]
    lines += [
        f"environment  {env['suite']}: {'works' if env['works'] else 'MISSING'}, {env['reason']}"
        for env in report["environments"]
    ]
    if disk["works"]:
        speed = f"{disk['mebibytes_per_second']:.0f} MiB/s, synced, in {disk['folder']}"
        lines.append(f"disk         {speed}")
    else:
        lines.append(f"disk         {disk['reason']}")
    if training["works"]:
        lines.append(
            f"training     a tiny update takes {1000 * training['seconds_per_update']:.0f} ms"
        )
    return [*lines, f"next         {report['suggested']}"]
