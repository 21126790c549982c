"""`bench_replay` measures; how fast it is, is for an idle machine to say."""

import json

from worldmodels.bench.replay import bench_replay


def test_bench_reports_every_number():
    result = bench_replay(batch=2, length=4, shape=(8, 8, 3), rows=400, seconds=0.1)
    for carry in ("zero", "stored"):
        numbers = result[carry]
        assert all(numbers[name] > 0 for name in numbers)
        assert {"batches_per_second", "rows_per_second", "ratio"} < set(numbers)
    json.dumps(result)
