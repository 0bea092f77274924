"""What mkdocs is taught: pages and figures that lie outside of docs/ are part of the site, under the links that also work in the repository.

A page links to `../../experiments/results/<run>/<figure>.png`, seen from its own file. The site then has that file under `results/`, and the link
is rewritten. PAGES are whole pages that lie elsewhere in the repository.
"""

import os
import pathlib
import re

from mkdocs.structure.files import File, Files

ROOT = pathlib.Path(__file__).parents[1]
RESULTS = "experiments/results/"
PAGES = {
    "changelog.md": "CHANGELOG.md",
    "contributing.md": "CONTRIBUTING.md",
    "adding_a_study.md": "experiments/README.md",
    "studies/claims.md": "experiments/results/CLAIMS.md",
}
LEDGER = "studies/claims.md"  # a table of nine wide columns there, a section for each claim here
MATHJAX = re.compile(
    r"<script data-mkdocs-jupyter-mathjax.*?</script>\n?", re.DOTALL
)  # it would load itself from another site
LINK = re.compile(
    r"(\]\()([^)\s#:]+)(?=[)#])"
)  # the target of a Markdown link, without its anchor; one with a colon is no path


def source_of(uri: str) -> str:
    """Where a page of the site lies in the repository."""
    return PAGES.get(uri, f"docs/{uri}")


def in_site(path: str) -> str | None:
    """What a file of the repository is called in the site: None where it is no part of it."""
    for uri, source in PAGES.items():
        if path == source:
            return uri
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    return "results/" + path.removeprefix(RESULTS) if path.startswith(RESULTS) else None


def target(uri: str, link: str) -> str:
    """The path in the repository that a link of a page means."""
    return os.path.normpath(f"{pathlib.PurePosixPath(source_of(uri)).parent}/{link}")


def rewritten(uri: str, markdown: str) -> str:
    """A page with its links as the site needs them."""

    def link(found: re.Match) -> str:
        to = in_site(target(uri, found[2]))
        return found[0] if to is None else found[1] + os.path.relpath(to, pathlib.PurePosixPath(uri).parent)

    return LINK.sub(link, markdown)


def linked(uri: str, markdown: str) -> set[str]:
    """The files of results that a page links to, and that are there."""
    found = {target(uri, link[2]) for link in LINK.finditer(markdown)}
    return {path for path in found - set(PAGES.values()) if path.startswith(RESULTS) and (ROOT / path).is_file()}


def sections(ledger: str) -> str:
    """The ledger with a section for each row of its table: `## S0.1 claim`, and a line for each other cell."""
    text, _, table = ledger.partition("\n| id | claim |")
    names, rows = None, []
    for line in ("| id | claim |" + table).splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split(" | ")]
        if not line.startswith("|"):
            rows.append(line)
        elif names is None:
            names = cells
        elif set(line) - set("|-"):
            rows += [f"## {cells[0]} {cells[1]} {{#{cells[0]}}}", ""]
            rows += [f"- *{name}*: {cell}" for name, cell in zip(names[2:], cells[2:], strict=True)] + [""]
    return "\n".join([text, "", *rows])


def on_files(files: Files, config) -> Files:
    for uri, source in PAGES.items():
        files.append(File.generated(config, uri, abs_src_path=str(ROOT / source)))
    results = {path for file in files.documentation_pages() for path in linked(file.src_uri, file.content_string)}
    for path in sorted(results):
        files.append(File.generated(config, in_site(path), abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, page, **_) -> str:
    markdown = rewritten(page.file.src_uri, markdown)
    return sections(markdown) if page.file.src_uri == LEDGER else markdown


def on_post_page(output: str, **_) -> str:
    return MATHJAX.sub("", output)
