"""The writing of all that `make peers` leaves: places in the README, docs/peers.md, docs/peers.json, docs/speed.png."""

from pathlib import Path

from .figures import dump
from .page import page
from .plot import plot
from .report import caption, summary

ROOT = Path(__file__).parents[2]


def put(text, place, content):
    """A document with what stands between the two comments of a place replaced."""
    begin, end = f"<!-- peers: {place} -->\n", f"<!-- end of peers: {place} -->"
    head, opened, rest = text.partition(begin)
    _, closed, tail = rest.partition(end)
    if not (opened and closed):
        raise ValueError(f"the document has no place {begin.strip()} ... {end}")
    return head + begin + content + end + tail


def write(record, root=ROOT):
    """Write the documents: README's caption and tables, docs/peers.md, docs/peers.json and the picture."""
    (root / "docs" / "peers.json").write_text(dump(record), "utf-8")
    (root / "docs" / "peers.md").write_text(page(record), "utf-8")
    plot(record, root / "docs" / "speed.png")
    readme = root / "README.md"
    text = readme.read_text("utf-8")
    for place, content in (("caption", caption(record)), ("tables", summary(record))):
        text = put(text, place, content)
    readme.write_text(text, "utf-8")
