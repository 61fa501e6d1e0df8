"""`callbacks=...`: Lightning callbacks beside those of every run."""

import csv

from launched import QUICK


def test_the_learning_rates_are_logged_in_the_rows_of_the_metrics(launch, tmp_path):
    arguments = ["hydra.run.dir=run", "trainer.max_steps=3", "trainer.log_every_n_steps=1"]
    ended = launch(tmp_path, "prompt=a cat", "callbacks=learning_rate", *QUICK, *arguments)
    assert ended.status == 0, ended.text
    with (tmp_path / "run" / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["0", "1", "2", "3"]
    rates = [float(row["lr-Adam/table"]) for row in rows[:3]]
    assert len(set(rates)) == 3  # the schedule's, step by step
    assert all(row["opacity"] for row in rows[:3])
