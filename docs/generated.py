"""Generate pages of the site: chapters of the lecture, keys, gallery and Python reference.

mkdocs runs this file as a hook: it calls the functions `on_...`. Formulas are converted to MathML,
so the site needs no script.
"""

from __future__ import annotations

import inspect
import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
REPOSITORY = "https://github.com/kanrun/kanrun/blob/main/"


def pages() -> dict[str, str]:
    """Return the generated pages by their path on the site."""
    return {
        **lecture(),
        "keys.md": keys(),
        "gallery.md": gallery(),
        "reference.md": reference(),
    }


def lecture() -> dict[str, str]:
    """Return the chapters of the lecture by their path on the site.

    docs/lecture.md is split at its second-level headings, and its links are adapted.
    """
    parts = re.split(
        r"^## ", (ROOT / "docs" / "lecture.md").read_text(encoding="utf-8"), flags=re.MULTILINE
    )
    names = {}
    for part in parts[1:]:
        names[slug(part.partition("\n")[0])] = f"lecture/{slug(part.partition(chr(10))[0])}.md"
    place = {
        anchor: page
        for part, page in zip(parts[1:], names.values(), strict=True)
        for anchor in map(slug, re.findall(r"^#+ (.*)$", "## " + part, flags=re.MULTILINE))
    }

    def linked(text: str) -> str:
        text = re.sub(
            r"\]\(#([^)]+)\)", lambda m: f"]({Path(place[m[1]]).name}#{ascii_slug(m[1])})", text
        )
        return re.sub(
            r"\]\((?!https?:|\.\./|[^)/#]*#|#)([^)]*\.(?:png|md)(?:#[^)]*)?)\)", r"](../\1)", text
        )

    chapters = {names[slug(part.partition("\n")[0])]: linked(f"# {part}") for part in parts[1:]}
    return {"lecture/index.md": linked(parts[0]), **chapters}


def lesson() -> str:
    """Return the HTML page that `kanrun lesson` writes, made in build/lesson.

    Runs that already exist there are reused; missing ones are made.
    """
    from kanrun.cli.app import main

    page = ROOT / "build" / "lesson" / "lesson.html"
    page.parent.mkdir(parents=True, exist_ok=True)
    if main(["lesson", "-q", "--force", "-o", str(page), "--outputs", str(page.parent)]):
        raise RuntimeError("kanrun lesson failed")
    return page.read_text(encoding="utf-8")


def keys() -> str:
    """Return the page of all configuration keys, as `kanrun keys` shows them."""
    from kanrun.config import keys_of

    lines = [
        "# Configuration keys",
        "",
        "Every key that a command takes as `key=value`: `kanrun keys` shows the same, "
        "`kanrun fit --cfg job` the values that a call has. "
        "Lists are written `[1,2]`, nothing is `null`.",
    ]
    heading = ""
    for key in sorted(keys_of(), key=lambda key: "." in key.path):
        first = key.path.partition(".")[0] if "." in key.path else "All and single commands"
        if first != heading:
            heading = first
            lines += [
                "",
                f"## {first}",
                "",
                "| key | where | rule | default | what it is |",
                "|---|---|---|---|---|",
            ]
        cells = [
            f"`{key.path}`",
            ", ".join(key.where),
            ", ".join(key.choices) if key.rule == "group" else key.rule,
            f"`{key.default}`" if key.default else "",
            key.about,
        ]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def commands() -> str:
    """Return the page of all commands, with the groups, choices and examples of the experiments."""
    import typer.main

    from kanrun.cli.app import add_experiments
    from kanrun.cli.commands import kanrun_commands
    from kanrun.config import EXPERIMENTS, groups_of

    add_experiments()
    lines = [
        "# Commands",
        "",
        "This page is generated: `python docs/generated.py`. `--help` shows the options of a "
        "command, `kanrun keys` all settings, and `--cfg job` the settings of a call with their "
        "values.",
        "",
        "| command | purpose |",
        "|---|---|",
    ]
    tree = typer.main.get_command(kanrun_commands).commands
    found = {name: one for name, one in tree.items() if not hasattr(one, "commands")}
    for group, one in tree.items():
        found |= {f"{group} {name}": inner for name, inner in getattr(one, "commands", {}).items()}
    lines += [f"| `kanrun {name}` | {_summary(one)} |" for name, one in found.items()]
    for experiment in EXPERIMENTS.values():
        lines += ["", f"## kanrun {experiment.name}", "", experiment.summary, "", "```sh"]
        lines += [*experiment.examples, "```", "", "| group | choices |", "|---|---|"]
        for group, choices in groups_of(experiment.name):
            lines.append(f"| `{group}` | {', '.join(f'`{choice}`' for choice in choices)} |")
    return "\n".join(lines) + "\n"


def _summary(command: Any) -> str:
    """Return the first sentence of a command's help."""
    return " ".join((command.help or "").partition("\n\n")[0].split())


def gallery() -> str:
    """Return the page of the lecture's figures, each with the command that drew it."""
    lines = ["# Gallery", "", "Every figure is drawn by the command above it."]
    for name, text in lecture().items():
        title = text.partition("\n")[0].removeprefix("# ")
        for command, label, figure in figures_of(text):
            lines += [
                "",
                f"## {label}",
                "",
                f"[{title}]({name})",
                "",
                f"```sh\n{command}\n```",
                "",
                f"![{label}]({figure})",
            ]
    return "\n".join(lines) + "\n"


def figures_of(text: str) -> Iterator[tuple[str, str, str]]:
    """Yield command, label and path of each figure.

    The command is the last block of shell code before the figure.
    """
    command = ""
    for block, label, figure in re.findall(
        r"```sh\n(.*?)```|!\[([^\]]+)\]\(\.\./([^)]+)\)", text, flags=re.DOTALL
    ):
        command = block.strip() or command
        if figure and command:
            yield command, label, figure


def reference() -> str:
    """Return the page of the public names of the package."""
    import kanrun

    lines = ["# Python", ""]
    for name in sorted(kanrun.__all__, key=str.lower):
        thing = getattr(kanrun, name)
        if thing.__module__.startswith(
            "kanrun.experiments."
        ):  # griffe does not find these files, which lie outside the package folder
            # Remove the quotes of annotations, which `inspect` shows because they are strings.
            signature = re.sub(r"(: |-> )'([^']*)'", r"\1\2", str(inspect.signature(thing)))
            called = f"kanrun.{name}{signature}"
            text = re.sub(
                r"^Examples:\n((?: .*\n)+)",
                lambda m: f"```pycon\n{inspect.cleandoc(m[1])}\n```\n",
                f"{inspect.getdoc(thing)}\n",
                flags=re.MULTILINE,
            )
            lines += [f"## {name}", "", "```text", called, "```", "", text, ""]
        else:
            lines += [f"::: {thing.__module__}.{thing.__qualname__}", "    options:"]
            lines += [f"      heading: {name}", ""]
    return "\n".join(lines)


def slug(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def ascii_slug(anchor: str) -> str:
    """Convert an anchor of a GitHub page to the site's form, without accents: é becomes e."""
    return unicodedata.normalize("NFKD", anchor).encode("ascii", "ignore").decode()


def on_config(config: Any) -> Any:
    """Add the lecture's chapters to the navigation."""
    for entry in config["nav"]:
        if "Lecture" in entry:
            entry["Lecture"] = list(lecture())
    return config


def on_files(files: Any, config: Any) -> Any:
    """Add the generated pages to the files in docs/."""
    from mkdocs.structure.files import File

    for path, content in {**pages(), "lesson.html": lesson()}.items():
        files.append(File.generated(config, path, content=content))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Convert formulas to MathML, and links to those of the site.

    Links to the lecture lead to its chapters, and links to files outside docs/ to the repository.
    """
    from latex2mathml.converter import convert

    up = "../" * page.file.src_uri.count("/")
    if page.file.src_uri == "lecture/index.md":
        markdown += "\n\n[The lecture as one page whose parts move](../lesson.html)\n"
    markdown = re.sub(
        r"\]\((?:\.\./)*lecture\.md(#[^)]*)?\)", lambda m: f"]({up}{_chapter(m[1])})", markdown
    )
    markdown = re.sub(
        r"\]\(((?:\.\./)+)([\w/.-]+)(#[^)]*)?\)", lambda m: _outside(m, page), markdown
    )
    parts = re.split(r"(```.*?```|`[^`\n]*`)", markdown, flags=re.DOTALL)
    for number in range(0, len(parts), 2):
        parts[number] = re.sub(
            r"\$\$(.+?)\$\$",
            lambda m: convert(" ".join(m[1].split()), display="block"),
            parts[number],
            flags=re.DOTALL,
        )
        parts[number] = re.sub(
            r"(?<![\\$\w])\$([^$\n]+?)\$(?!\d)", lambda m: convert(m[1]), parts[number]
        )
    return "".join(parts)


def _chapter(anchor: str | None) -> str:
    if anchor is None:
        return "lecture/index.md"
    for name, text in lecture().items():
        if anchor[1:] in map(slug, re.findall(r"^#+ (.*)$", text, flags=re.MULTILINE)):
            return f"{name}{anchor}"
    raise ValueError(f"the lecture has no heading {anchor}")


def _outside(found: re.Match[str], page: Any) -> str:
    """Return the link unchanged, or a link to the repository if its target is outside docs/."""
    depth = page.file.src_uri.count("/")
    if found[1].count("../") <= depth:
        return found[0]
    return f"]({REPOSITORY}{found[2]}{found[3] or ''})"


if __name__ == "__main__":
    (ROOT / "docs" / "commands.md").write_text(commands(), encoding="utf-8")
