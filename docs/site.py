"""
What turns the project's files into its site: hooks of MkDocs, and an extension of Griffe, which reads docstrings.

README, CHANGELOG and CONTRIBUTING are pages too. A link to a file that is no page would lead nowhere there, so the page
names the file instead.
"""

import posixpath
import re
from pathlib import Path, PurePosixPath
from typing import Any

import griffe
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
PAGES = {"README.md": "index.md", "CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md"}
_LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^):#\s]+)(#[^)\s]*)?\)")
_ROLE = re.compile(r":(?:class|func|meth|attr|mod|data):`(?:~[\w.]*?)?([\w.]+?)(?:\(\))?`")
_DOCTEST = re.compile(r"^(>>> .*(?:\n.+)*)\n?", re.MULTILINE)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that lie outside of docs/."""
    for source, page in PAGES.items():
        content = (ROOT / source).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=content))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Let links lead to pages, and take pictures from elsewhere along; name what is neither."""
    origin = next((source for source, made in PAGES.items() if made == page.file.src_uri), None)
    here = "" if origin else posixpath.join("docs", posixpath.dirname(page.file.src_uri))

    def replace(match: re.Match[str]) -> str:
        picture, text, target, anchor = match.groups()
        path = posixpath.normpath(posixpath.join(here, target))
        if not (ROOT / path).exists():
            return match[0]  # MkDocs complains
        if path in PAGES:
            inside = PAGES[path]
        elif path.startswith("docs/"):
            inside = path.removeprefix("docs/")
        elif picture:
            inside = f"files/{path}"
            if files.get_file_from_path(inside) is None:
                files.append(File.generated(config, inside, abs_src_path=str(ROOT / path)))
        else:
            return f"{text} (`{path}`)" if PurePosixPath(path).name not in text else f"`{path}`"
        start = posixpath.dirname(page.file.src_uri) or "."
        return f"{picture}[{text}]({posixpath.relpath(inside, start)}{anchor or ''})"

    return _LINK.sub(replace, markdown)


class Roles(griffe.Extension):
    """Shows what Sphinx would understand in docstrings as Markdown does: roles (``:class:``) as names, and examples."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Rewrite a docstring."""
        if obj.docstring is not None:
            text = _ROLE.sub(r"`\1`", obj.docstring.value)
            obj.docstring.value = _DOCTEST.sub(r"```pycon\n\1\n```\n", text)
