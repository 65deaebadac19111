"""MkDocs hook: files outside ``docs/`` are part of the site, and links lead to where they are there.

Pages are written for a reader of the repository: their links are relative to the file that has them. README,
CONTRIBUTING and others become pages; other files that a page links to (pictures, examples) are copied.
"""

from __future__ import annotations

import os
import re
from pathlib import Path, PurePosixPath

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "SECURITY.md": "security.md",
    "benchmarks/README.md": "benchmarks.md",
}
"""File in the repository -> page of the site."""
LINK = re.compile(r"(?<=\]\()(?!\w+:|#)([^)#\s]+)")
"""The target of a Markdown link or picture in this repository, without its anchor."""

ROLE = re.compile(r":\w+:<code>~?(?:[\w.]+\.)?(\w+)</code>")
"""A Sphinx role in a docstring, ``:func:`name```, as Markdown renders it."""


def _in_repository(page: str) -> str:
    """The file that a page is made from."""
    return {site: source for source, site in PAGES.items()}.get(page, f"docs/{page}")


def _on_site(target: str, page: str) -> str:
    """Where a linked file lies on the site.

    :param target: the link as it is written
    :param page: the page that has it
    """
    path = os.path.normpath(PurePosixPath(_in_repository(page)).parent / target)
    return PAGES.get(path, path.removeprefix("docs/"))


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages from outside ``docs/``, and every file outside that a page links to."""
    root = Path(config.docs_dir).parent
    for source, page in PAGES.items():
        files.append(File.generated(config, page, abs_src_path=str(root / source)))
    for file in list(files.documentation_pages()):
        for target in LINK.findall(file.content_string):
            path = _on_site(target, file.src_uri)
            if (root / path).is_file() and files.get_file_from_path(path) is None:
                files.append(File.generated(config, path, abs_src_path=str(root / path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Point links at the site. All pages lie at its top, so that a path is a link."""
    return LINK.sub(lambda match: _on_site(match[1], page.file.src_uri), markdown)


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Docstrings are written for Sphinx: leave the name that a role marks, and one colon before code."""
    return ROLE.sub(r"<code>\1</code>", html).replace("::</p>", ":</p>")
