"""Checks a built site's links to itself: ``python -m docs.check_links FOLDER``, 1 if one leads nowhere."""

import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit


class Page(HTMLParser):
    """A page's links, pictures and anchors."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Notes what the tag links to, and the anchor that it is."""
        found = {name: value for name, value in attrs if value}
        self.links += [found[name] for name in ("href", "src") if name in found and tag != "link"]
        self.anchors |= {found[name] for name in ("id", "name") if name in found}


def broken(folder: Path) -> list[str]:
    """Returns a line for each link to a file or an anchor that is not there."""
    pages = {path.resolve(): Page(path) for path in folder.rglob("*.html")}
    found = []
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if not target.exists():
                found.append(f"{path.relative_to(folder.resolve())}: {link} leads to no file")
            elif parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].anchors:
                found.append(f"{path.relative_to(folder.resolve())}: {link} leads to no heading")
    return found


def main() -> int:
    """Prints the broken links, and returns whether there are any."""
    if len(sys.argv) != 2 or not Path(sys.argv[1]).is_dir():
        print("usage: python -m docs.check_links FOLDER, the folder of a built site", file=sys.stderr)
        return 2
    lines = broken(Path(sys.argv[1]))
    print("\n".join(lines) or "every local link leads somewhere")
    return int(bool(lines))


if __name__ == "__main__":
    sys.exit(main())
