"""Pages in a real browser: what a reader sees, what leaves the page, and what no reader can see."""

import re
import shutil

import pytest
from pages import every_page, full_run, models, record

from hostile_words import EVIL
from pytest_multiitem.reports.html.chapters import page_of
from pytest_multiitem.results.records import ServerRecord

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
WIDTHS = (360, 768, 1600)
NAMES = (
    "acceptance", "run", "leaking run", "run with comparison", "final report", "models", "history", "everything",
    "measured_run", "score_matrix", "comparison", "pair", "load", "kill_matrix",
)  # fmt: skip
#: Of these, the ones that are looked at in every run of the tests; `make slow` has all.
FAST = ("leaking run", "everything")
EACH = pytest.mark.parametrize(
    "name", [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in NAMES]
)
#: Pictures with no table behind them that says the same.
NO_TABLE = """() => [...document.querySelectorAll("main svg")].filter(
    svg => !svg.closest("figure")?.querySelector("details table tbody tr")).length"""
#: The texts in pictures that are too faint on what is painted under them, by the rule of WCAG for small text.
FAINT = """() => {
  const rgb = text => (text.match(/[\\d.]+/g) || []).map(Number);
  const light = c => { const f = c.slice(0, 3).map(v => v / 255)
      .map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * f[0] + 0.7152 * f[1] + 0.0722 * f[2]; };
  const over = (top, alpha, below) => top.slice(0, 3).map((v, i) => v * alpha + below[i] * (1 - alpha));
  const found = [];
  for (const text of document.querySelectorAll("main svg text")) {
    const box = text.getBoundingClientRect(), x = box.x + box.width / 2, y = box.y + box.height / 2;
    let below = rgb(getComputedStyle(text.closest("figure")).backgroundColor);
    for (const shape of text.ownerSVGElement.querySelectorAll("rect, circle, polygon")) {
      if (!(shape.compareDocumentPosition(text) & Node.DOCUMENT_POSITION_FOLLOWING)) continue;
      const at = shape.getBoundingClientRect(), style = getComputedStyle(shape);
      if (style.fill === "none" || x < at.left || x > at.right || y < at.top || y > at.bottom) continue;
      below = over(rgb(style.fill), style.fillOpacity * style.opacity, below);
    }
    const style = getComputedStyle(text);
    const [a, b] = [light(rgb(style.fill)), light(below)].sort((m, n) => n - m);
    const ratio = (a + 0.05) / (b + 0.05);
    if (ratio < 4.5) found.push(`${text.textContent}: ${ratio.toFixed(2)}`);
  }
  return found;
}"""
#: Whether two texts of a picture lie over one another, or one leaves it.
COLLIDING = """() => {
  const found = [];
  for (const svg of document.querySelectorAll("main svg")) {
    const frame = svg.getBoundingClientRect();
    for (const text of svg.querySelectorAll("text")) {
      const box = text.getBoundingClientRect();
      if (box.left < frame.left - 1 || box.right > frame.right + 1 || box.bottom > frame.bottom + 1)
        found.push(`${text.textContent} leaves its picture`);
    }
  }
  return found;
}"""


@pytest.fixture(scope="module")
def browser():
    """Chromium without a window."""
    driver = pytest.importorskip("playwright.sync_api", reason="NOT_RUN: playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("NOT_RUN: there is no chromium here; install it with: apt-get install chromium")
    with driver.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Every page as a file, by name."""
    directory = tmp_path_factory.mktemp("pages")
    pages = every_page()
    assert set(pages) == set(NAMES)
    for name, text in pages.items():
        (directory / f"{name}.html").write_text(text)
    return lambda name: directory / f"{name}.html"


class Seen:
    """A page in the browser, with all that it asked for and all that it complained of."""

    def __init__(self, browser, path, fragment="", **options):
        self.requests, self.complaints = [], []
        self._context = browser.new_context(**options)
        self.page = self._context.new_page()
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("dialog", lambda dialog: (self.complaints.append(dialog.message), dialog.dismiss()))
        self.page.goto(path.as_uri() + fragment)

    def close(self):
        self._context.close()

    @property
    def left(self):
        """The requests for anything but the page itself."""
        return [url for url in self.requests[1:] if not url.startswith("data:")]


@pytest.fixture
def see(browser):
    opened = []

    def show(path, fragment="", **options):
        opened.append(Seen(browser, path, fragment, **options))
        return opened[-1]

    yield show
    for each in opened:
        each.close()


@EACH
def test_nothing_leaves_the_page_and_every_picture_has_its_table(see, files, name):
    seen = see(files(name), viewport={"width": 1280, "height": 900})
    assert seen.left == [] and seen.complaints == []
    assert seen.page.evaluate(NO_TABLE) == 0
    assert seen.page.evaluate("document.scripts.length") == 0
    assert seen.page.locator("h1").count() == 1
    assert seen.page.locator("header svg.lights").count() >= 1


#: Lines of the name of a gate that begin within a word of it.
BROKEN = """() => [...document.querySelectorAll(".grid tbody th[scope=row] a")].filter(link => {
  const range = document.createRange(), broken = [];
  for (const node of link.childNodes) {
    if (node.nodeType !== Node.TEXT_NODE) continue;
    range.selectNodeContents(node);
    if (range.getClientRects().length > 1) broken.push(node.data);
  }
  return broken.length;
}).map(link => link.textContent)"""


def test_the_name_of_a_gate_breaks_between_its_words(see, files):
    page = see(files("leaking run"), viewport={"width": 360, "height": 800}).page
    assert page.locator(".grid tbody th[scope=row] a").count() > 1
    assert page.evaluate(BROKEN) == []


@EACH
def test_a_page_is_as_wide_as_its_window(see, files, name):
    for width in WIDTHS:
        page = see(files(name), viewport={"width": width, "height": 800}).page
        assert page.evaluate("document.documentElement.scrollWidth") <= width, f"{name} at {width} px"
        assert page.evaluate(COLLIDING) == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@EACH
def test_everybody_can_read_it(see, files, name, scheme):
    """Landmarks, names, contrast: by axe, and inside pictures, where axe does not look, by the same rule."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="NOT_RUN: axe is not installed").Axe()
    page = see(files(name), viewport={"width": 1280, "height": 900}, color_scheme=scheme).page
    found = axe.run(page).response["violations"]
    assert [f"{each['id']}: {each['nodes'][0]['html'][:120]}" for each in found] == []
    assert page.evaluate(FAINT) == []


def test_without_a_script_it_says_the_same(see, files):
    page = see(files("leaking run"), java_script_enabled=False).page
    assert page.locator("h1").inner_text().startswith("FAIL")
    table = page.locator("figure details table").first
    assert not table.is_visible()
    page.locator("figure summary").first.click()
    assert table.is_visible()


def test_a_verdict_has_a_link_that_opens_it(see, files):
    page = see(files("leaking run"), "#gate-content_isolation-pytorch-dense").page
    facts = page.locator("#gate-content_isolation-pytorch-dense")
    assert facts.is_visible() and "it leaks" in facts.inner_text()
    targets = page.evaluate("""[...document.querySelectorAll('a[href^="#"]')].map(a => a.getAttribute("href").slice(1))
        .filter(name => !document.getElementById(name))""")
    assert targets == []


def test_the_keyboard_reaches_the_content_first(see, files):
    page = see(files("run")).page
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"


def test_it_prints(see, files):
    page = see(files("leaking run"), color_scheme="dark").page
    content = page.pdf(format="A4", prefer_css_page_size=True)
    assert content.startswith(b"%PDF") and 2 <= len(re.findall(rb"/Type\s*/Page\b", content)) <= 40
    page.emulate_media(media="print", color_scheme="dark")
    assert page.locator(".entry dl").first.is_visible(), "on paper nobody can unfold anything"
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"


# -- hostile words -----------------------------------------------------------------------------------

ATTACKS = [
    *EVIL,
    "<script>window.broken = 1; console.log('broken')</script>",
    "\"><img src=http://127.0.0.1:9/x onerror='console.log(1)'>",
    "</title></svg><svg onload=console.log(2)>",
    "'-->]]></style><style>@import 'http://127.0.0.1:9/x.css'</style>",
    "javascript:console.log(3)",
]


def hostile_run(words):
    run = full_run(leak=0.3)
    for gate in run.gates:
        gate.reason, gate.mask_attested, gate.model = words, words, words
    info = {"model_path": words, words: words}
    run.servers = [ServerRecord(label=words, url=words, owned=False, info=info, command=[words])]
    run.machine, run.versions, run.command_line = {words: words}, {words: words}, [words]
    for gate in run.gates:
        found = gate.details
        if hasattr(found, "scored"):
            found.scored[0].case, found.scored[0].texts = words, {"3": words}
        if hasattr(found, "performance"):
            found.ceiling_basis, found.remarks, found.refused = words, [words], {words: words}
    return run


@pytest.mark.parametrize(
    "words",
    ["".join(ATTACKS), *(pytest.param(each, marks=pytest.mark.slow) for each in ATTACKS)],
    ids=range(len(ATTACKS) + 1),
)
def test_words_of_a_server_are_no_part_of_the_page(see, tmp_path, words):
    other, load = models(), record("load")
    other.cells[0].model = other.cells[0].reason = words
    load.url = words
    path = tmp_path / "page.html"
    path.write_text(page_of([hostile_run(words), other, load], title=words))
    seen = see(path)
    assert seen.left == [] and seen.complaints == []
    assert seen.page.evaluate("document.scripts.length") == 0 and not seen.page.evaluate("'broken' in window")
    acting = """[...document.querySelectorAll("*")].filter(each => [...each.attributes].some(
        a => a.name.startsWith("on") || ["src", "srcset", "action"].includes(a.name)
        || (a.name === "href" && !/^(#|data:,$)/.test(a.value)))).map(each => each.outerHTML.slice(0, 200))"""
    assert seen.page.evaluate(acting) == []
    elements = seen.page.evaluate("[...new Set([...document.querySelectorAll('*')].map(e => e.localName))]")
    assert not {"img", "iframe", "b2", "object", "form"} & set(elements)


# -- what is checked can fail ------------------------------------------------------------------------


@pytest.fixture
def spoilt(files, tmp_path):
    """A page with something wrong in it."""

    def make(old, new, name="leaking run"):
        text = files(name).read_text()
        assert old in text
        path = tmp_path / "spoilt.html"
        path.write_text(text.replace(old, new))
        return path

    return make


def test_a_request_and_a_script_are_noticed(see, spoilt):
    seen = see(spoilt("<main", "<img src='http://127.0.0.1:9/x.png'><script>console.log('on')</script><main"))
    assert seen.complaints, "the page's own policy refuses both, and says so"
    open_page = spoilt('<meta http-equiv="Content-Security-Policy"', "<meta name=x")
    open_page.write_text(open_page.read_text().replace("<main", "<img src='http://127.0.0.1:9/x.png'><main"))
    assert see(open_page).left == ["http://127.0.0.1:9/x.png"]


def test_faint_text_in_a_picture_is_noticed(see, spoilt):
    assert see(spoilt("fill:var(--ink)}", "fill:#8a8f96}")).page.evaluate(FAINT)


def test_a_picture_without_its_table_is_noticed(see, spoilt):
    assert see(spoilt("<details><summary>The figures as a table", "<p><summary>")).page.evaluate(NO_TABLE) > 0


def test_a_page_that_is_too_wide_is_noticed(see, spoilt):
    page = see(spoilt(".scroll{overflow-x:auto;", ".scroll{"), viewport={"width": 360, "height": 800}).page
    assert page.evaluate("document.documentElement.scrollWidth") > 360
