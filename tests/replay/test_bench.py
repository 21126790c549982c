"""`bench_replay` measures; how fast it is, is for an idle machine to say."""

import json

from worldmodels.bench.replay import CASES, bench_replay


def test_bench_reports_every_number():
    results = bench_replay(batch=2, lengths=(4, 8), shape=(8, 8, 3), rows=8000, seconds=0.05)
    assert len(results) == 2 * len(CASES)
    for numbers in results:
        rates = ("batches_per_second", "numpy_batches_per_second", "ratio", "add_rows_per_second")
        assert all(numbers[name] > 0 for name in rates)
    disk = [case["mebibytes"] for case in results if case["storage"] == "disk"]
    assert max(disk) < min(case["mebibytes"] for case in results if case["storage"] == "ram")
    json.dumps(results)
