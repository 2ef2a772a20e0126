"""A report as JUnit XML: one test suite per job, one test case per gate and for the surgery check."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any
from xml.etree import ElementTree

from onnxprune.report.documents.tables import parts, shortened
from onnxprune.report.limits import gate_words
from onnxprune.report.tasks import task_sentence

LONGEST = 500


def render(report: Mapping[str, Any]) -> str:
    """Return a report as JUnit XML; a missed gate is a failure, a run that could not be done an error."""
    root = ElementTree.Element("testsuites", name="onnxprune")
    for name, part in parts(report):
        root.append(_suite(name or str(part["command"]), part))
    for key in ("tests", "failures", "errors"):
        root.set(key, str(sum(int(suite.get(key, "0")) for suite in root)))
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def _suite(name: str, report: Mapping[str, Any]) -> ElementTree.Element:
    cases = list(_cases(report))
    kinds = [kind for _, kind, _ in cases]
    seconds = sum((report.get("seconds") or {}).values())
    counts = {"tests": len(cases), "failures": kinds.count("failure"), "errors": kinds.count("error")}
    label = shortened(name, LONGEST)
    suite = ElementTree.Element("testsuite", name=label, time=f"{seconds:.3f}")
    for key, count in counts.items():
        suite.set(key, str(count))
    task = task_sentence(report)
    if task:
        held = ElementTree.SubElement(suite, "properties")
        ElementTree.SubElement(held, "property", name="task", value=shortened(task, LONGEST))
    for case, kind, text in cases:
        element = ElementTree.SubElement(
            suite, "testcase", classname=f"onnxprune.{label}", name=shortened(case, LONGEST)
        )
        if kind:
            ElementTree.SubElement(element, kind, message=shortened(text, LONGEST))
    return suite


def _cases(report: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Yield (name, failure, error or nothing, message)."""
    yield "run", "error" if report.get("error") else "", report.get("error") or ""
    surgery = report.get("surgery")
    if surgery:
        yield (
            "surgery is exact",
            "" if surgery.get("proven", surgery["exact"]) else "failure",
            f"largest error {surgery['max_abs_error']}",
        )
    for gate in report.get("gates", ()):
        value, limit = gate_words(gate)
        yield gate["name"], "" if gate["passed"] else "failure", f"value {value}, limit {limit}"
