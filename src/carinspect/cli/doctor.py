"""`carinspect doctor`: checks whether a training can run on this machine."""

from dataclasses import asdict
from pathlib import Path

from tqdm import tqdm

from carinspect.core.files import write_json
from carinspect.doctor.checkup import examine
from carinspect.doctor.finding import as_table


def report_health(json_file: Path | None) -> int:
    """Print every finding, and write them to `json_file`; 1 when one of them would stop a training, else 0."""
    findings = list(tqdm(examine(), desc="examining", unit="check", leave=False, disable=None))
    print(as_table(findings))
    counts = {verdict: sum(finding.verdict == verdict for finding in findings) for verdict in ("ok", "warn", "bad")}
    fit = not counts["bad"]
    print(f"{'A training can run here' if fit else 'A training would stop here'}: {', '.join(f'{n} {v}' for v, n in counts.items())}.")
    if json_file is not None:
        write_json(json_file, {"fit": fit, "findings": [asdict(finding) for finding in findings]})
    return 0 if fit else 1
