"""The results of a run as artifacts in MLflow."""

from pathlib import Path
from tempfile import TemporaryDirectory

from experiments.profiling import profile_table, trace_events, trace_page
from experiments.reports.report import Results, predictions_csv, report_tables, write_figures
from experiments.tracking.run import TrackedRun


def publish_results(run: TrackedRun, results: Results) -> None:
    """Log figures, tables, predictions, the model and the profile of a run."""
    with TemporaryDirectory() as folder:
        write_figures(results, Path(folder))
        run.log_artifacts(Path(folder), "figures")
    for name, columns in report_tables(results).items():
        run.log_table(columns, f"tables/{name}.json")
    run.log_text(predictions_csv(results), "predictions/test.csv")
    if results.config.tracking.log_model:
        test = results.dataset.test
        run.log_model(results.model, test.inputs[:1], results.test.outputs[:1])
    if results.config.report.profile:
        run.log_text(trace_page(), "profile/trace.html")
        run.log_text(trace_events(), "profile/trace.json")
        run.log_table(profile_table(), "tables/profile.json")
