"""The documentation builds without a warning, its links lead somewhere, and it opens offline on a phone."""

import html.parser
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

ROOT = Path(__file__).parents[2]
PHONE = {"width": 390, "height": 844}  # pixels
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
QUIET = "--no-sandbox --disable-gpu --disable-quic --disable-background-networking --disable-sync".split()

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The built documentation."""
    pytest.importorskip("material", reason="MkDocs is missing: type make docs")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", f"--site-dir={folder}"]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    built = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert built.returncode == 0 and "WARNING" not in built.stderr, built.stderr
    return folder


def pages_of(site):
    """Return the pages; 404.html is for servers and has absolute addresses."""
    return sorted(path for path in site.rglob("*.html") if path.name != "404.html")


class Page(html.parser.HTMLParser):
    """The addresses and the anchors of a page."""

    def __init__(self, path):
        super().__init__()
        self.path, self.links, self.anchors = path, [], set()
        self.feed(path.read_text())

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.anchors |= {found[name] for name in ("id", "name") if found.get(name)}
        loaded = tag not in ("a", "link") or found.get("rel") in ("stylesheet", "icon")
        self.links += [(found[name], loaded) for name in ("href", "src") if found.get(name)]


def test_every_link_leads_to_a_page_and_an_anchor(site):
    pages = {path: Page(path) for path in pages_of(site)}
    broken, foreign = [], []
    for page in pages.values():
        for link, loaded in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                foreign += [link] if loaded and parts.scheme != "data" else []
                continue
            path = (page.path.parent / unquote(parts.path)).resolve() if parts.path else page.path
            path = path / "index.html" if path.is_dir() else path
            wanted = unquote(parts.fragment)
            if not path.exists() or wanted and wanted not in pages[path].anchors:
                broken.append((page.path.name, link))
    assert len(pages) > 5 and not broken
    assert not foreign, "these files come from other hosts"


def test_pictures_are_small():
    files = {path: path.stat().st_size for path in (ROOT / "docs" / "pictures").iterdir()}
    assert files and max(files.values()) < 150_000


@pytest.fixture(scope="module")
def browser(site):
    """Headless Chromium."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is missing: type make docs")
    if CHROMIUM is None:
        pytest.skip("Chromium is missing: type apt-get install chromium (Debian), or install Chrome")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield browser
        browser.close()


def _was_cut_short(request):
    """Return whether the next page has stopped the request of a file that exists, such as an icon."""
    path = Path(unquote(urlsplit(request.url).path))
    return "net::ERR_ABORTED" in request.failure and path.is_file()


def test_pages_open_from_the_disk_on_a_phone(site, browser):
    tab, problems = browser.new_page(viewport=PHONE), []
    tab.on("requestfailed", lambda request: _was_cut_short(request) or problems.append(request.url))
    tab.on(
        "request",
        lambda request: re.match("file:|data:|blob:", request.url) or problems.append(request.url),
    )
    tab.on("pageerror", lambda error: problems.append((tab.url, str(error))))
    tab.on("console", lambda line: line.type == "error" and problems.append((tab.url, line.text)))
    for path in pages_of(site):
        tab.goto(path.as_uri(), wait_until="load")
        width = tab.evaluate("document.documentElement.scrollWidth")
        if width > PHONE["width"]:
            problems.append((path.name, f"{width} pixels wide"))
        broken = tab.evaluate(
            "[...document.images].filter(x => x.complete && !x.naturalWidth).map(x => x.src)"
        )
        problems += broken
    assert not problems


def test_the_search_finds_a_page_without_a_server(site, browser):
    tab = browser.new_page()
    tab.goto((site / "index.html").as_uri(), wait_until="load")
    tab.click(".md-search__input")
    tab.type(".md-search__input", "trivial predictors")
    tab.wait_for_selector(".md-search-result__link", timeout=10_000)
    assert tab.locator(".md-search-result__link").count() > 1
