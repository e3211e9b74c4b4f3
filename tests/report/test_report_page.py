"""The report's page in a browser: hover, click, sort, filter, keys, themes, a phone, renewal; and no error in it."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from nas.report.contents import contents
from nas.report.page import page
from nas.report.run import read
from tests.helpers import needs
from tests.helpers.reports import add_grid, live_page, made_up_run

selenium = pytest.importorskip("selenium")

from selenium import webdriver  # noqa: E402
from selenium.webdriver import ActionChains, Keys  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.support.ui import WebDriverWait  # noqa: E402

pytestmark = needs.browser
Browser = webdriver.Chrome


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A headless browser; a page that says anything on its console fails the test."""
    options = webdriver.ChromeOptions()
    options.binary_location = str(needs.CHROMIUM)
    for argument in ("headless=new", "no-sandbox", "disable-dev-shm-usage", "enable-unsafe-swiftshader"):
        options.add_argument(f"--{argument}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    made = webdriver.Chrome(options=options, service=webdriver.ChromeService(executable_path=str(needs.CHROMEDRIVER)))
    yield made
    made.quit()


Open = Callable[..., None]


@pytest.fixture
def opened(browser: Browser) -> Iterator[Open]:
    """Open a page at some width."""

    def open_page(address: str, width: int = 1280, scheme: str = "light") -> None:
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        wishes = {"prefers-color-scheme": scheme, "prefers-reduced-motion": "reduce"}
        media = [{"name": name, "value": value} for name, value in wishes.items()]
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": media})
        browser.get(address)
        until(browser, "return document.querySelectorAll('#table tbody tr').length")

    browser.get_log("browser")
    yield open_page
    said = browser.get_log("browser")
    assert [one for one in said if one["source"] != "rendering"] == []  # a driver's remarks on its own speed
    browser.execute_script("if (location.protocol === 'file:') localStorage.clear()")


def until(browser: Browser, script: str) -> Any:
    """Wait until a script returns something true, and give it."""
    return WebDriverWait(browser, 60).until(lambda _: browser.execute_script(script))


def saved(run: Path) -> str:
    (run / "report.html").write_text(page(contents(read(run))))
    return (run / "report.html").as_uri()


def rows(browser: Browser) -> list[int]:
    """The trials in the table, from above."""
    script = "return [...document.querySelectorAll('#table tbody tr')].map((row) => Number(row.dataset.trial))"
    found: list[int] = browser.execute_script(script)
    return found


def spot(browser: Browser, trial: int) -> tuple[int, int]:
    """Where a network's point lies in the window."""
    script = """const plot = document.getElementById('front-chart');
        const trace = plot.data.find((t) => t.customdata && t.customdata.includes(arguments[0]));
        const at = trace.customdata.indexOf(arguments[0]), box = plot.getBoundingClientRect(), full = plot._fullLayout;
        const { l, t } = full._size;
        return [box.x + l + full.xaxis.d2p(trace.x[at]), box.y + t + full.yaxis.d2p(trace.y[at])];"""
    browser.execute_script("document.getElementById('front').scrollIntoView({ behavior: 'instant' })")
    x, y = browser.execute_script(script, trial)
    return round(x), round(y)


def point_at(browser: Browser, x: int, y: int) -> None:
    pointer = ActionChains(browser, duration=50)
    pointer.w3c_actions.pointer_action.move_to_location(x, y)
    pointer.perform()


def test_pointing_clicking_and_comparing(browser: Browser, opened: Open, tmp_path: Path) -> None:
    run = made_up_run(tmp_path / "r")
    opened(saved(run))
    trials = pd.read_csv(run / "trials.csv").set_index("trial")
    chosen = int(next(t for t in trials.index if not (pd.read_csv(run / "pareto.csv")["trial"] == t).any()))
    point_at(browser, *spot(browser, chosen))
    until(browser, f"return document.querySelector('#detail h3').innerText === 'Trial {chosen}'")
    drawing = browser.find_element(By.CSS_SELECTOR, "#detail svg").get_attribute("aria-label")
    stages = [word for word in trials.loc[chosen, "architecture"].split() if "_" in word]
    assert all(stage in drawing for stage in stages)
    pointer = ActionChains(browser, duration=50)
    pointer.w3c_actions.pointer_action.click()
    pointer.perform()
    until(browser, "return document.querySelectorAll('.pairs thead th').length === 2")
    heads = [cell.text for cell in browser.find_elements(By.CSS_SELECTOR, ".pairs thead th .heading")]
    assert f"B · trial {chosen}" in heads[1]
    marked = {mark.text for mark in browser.find_elements(By.CSS_SELECTOR, ".pairs mark")}
    best = next(iter(pd.read_csv(run / "pareto.csv").query("baseline")["architecture"]))
    other = [word for word in best.split() if "_" in word]
    expected = {w for a, b in zip(stages, other, strict=True) for w in set(a.split("_")) - set(b.split("_"))}
    assert marked == expected
    browser.find_element(By.ID, "unpin").send_keys(Keys.ENTER)
    until(browser, "return !document.querySelector('.pairs')")


def test_pointing_at_a_triple_draws_its_network(browser: Browser, opened: Open, tmp_path: Path) -> None:
    run = made_up_run(tmp_path / "r")
    table = add_grid(run)
    opened(saved(run))
    picked = table[table["picked"]].iloc[0]
    assert drawn(browser, "grid-detail") == stages_of(picked["architecture"])
    last = len(table) - 1  # the lowest of the ranking
    place = """const plot = document.getElementById('grid-ranking'), full = plot._fullLayout, { l, t } = full._size;
        plot.scrollIntoView({ behavior: 'instant', block: 'center' });
        const box = plot.getBoundingClientRect(), trace = plot.data.find((one) => one.x.length);
        return [box.x + l + full.xaxis.d2p(trace.x[0]), box.y + t + full.yaxis.d2p(trace.y[0])];"""
    point_at(browser, *map(round, browser.execute_script(place)))
    chosen = table.iloc[last]
    name = f"α {chosen['alpha']:g} · β {chosen['beta']:g} · γ {chosen['gamma']:g}"
    until(browser, f"return document.getElementById('triple').value === '{name}'")
    assert drawn(browser, "grid-detail") == stages_of(chosen["architecture"])
    browser.find_element(By.ID, "triple").send_keys(Keys.HOME)  # the same by the keyboard
    until(browser, f"return document.getElementById('triple').value !== '{name}'")
    assert drawn(browser, "grid-detail") == stages_of(picked["architecture"])


def drawn(browser: Browser, place: str) -> list[str]:
    """The block strings of the network that is drawn somewhere."""
    label = browser.find_element(By.CSS_SELECTOR, f"#{place} svg").get_attribute("aria-label")
    return [word for word in str(label).replace(",", " ").split() if "_" in word]


def stages_of(text: str) -> list[str]:
    return [word for word in text.split() if "_" in word]


def test_zoom_and_hidden_networks_stay_the_readers(browser: Browser, opened: Open, tmp_path: Path) -> None:
    """A click on a name in the legend hides these networks; a pin changes neither that nor the zoom."""
    run = made_up_run(tmp_path / "r")
    trials = pd.read_csv(run / "trials.csv")
    rest = trials.index[~trials["trial"].isin(pd.read_csv(run / "pareto.csv")["trial"])]
    opened(saved(run))
    shown = "return document.getElementById('front-chart')._fullData[0].visible"
    zoom = "return document.getElementById('front-chart')._fullLayout.yaxis.range"
    assert browser.execute_script(shown) is True
    browser.execute_script("document.getElementById('front').scrollIntoView({ behavior: 'instant' })")
    browser.find_element(By.CSS_SELECTOR, "#front-chart .legendtoggle").click()
    until(browser, f"{shown} === 'legendonly'")
    whole = browser.execute_script(f"return String({zoom.removeprefix('return ')})")
    plot = browser.find_element(By.CSS_SELECTOR, "#front-chart .nsewdrag")
    drag = ActionChains(browser, duration=50).move_to_element(plot).click_and_hold()
    drag.move_by_offset(120, 120).release().perform()
    until(browser, f"return String({zoom.removeprefix('return ')}) !== '{whole}'")
    nearer = browser.execute_script(zoom)
    browser.execute_script(f"togglePin({rest[3]})")
    assert browser.execute_script(shown) == "legendonly"
    assert browser.execute_script(zoom) == nearer


def test_the_table_sorts_filters_and_answers_keys(browser: Browser, opened: Open, tmp_path: Path) -> None:
    run = made_up_run(tmp_path / "r")
    opened(saved(run))
    trials = pd.read_csv(run / "trials.csv")
    browser.find_element(By.CSS_SELECTOR, "#table button[data-key='accuracy']").send_keys(Keys.ENTER)
    ranked = trials.sort_values("accuracy", ascending=False)["trial"]
    assert rows(browser) == ranked.tolist()
    assert browser.switch_to.active_element.get_attribute("data-key") == "accuracy"
    field = browser.find_element(By.ID, "filter")
    field.send_keys("k5 se0.25")
    expected = trials[trials["architecture"].str.contains("k5") & trials["architecture"].str.contains("se0.25")][
        "trial"
    ]
    assert set(rows(browser)) == set(expected)
    assert browser.find_element(By.ID, "count").text == f"{len(expected)} of {len(trials)} trials"
    field.send_keys(Keys.CONTROL + "a" + Keys.NULL, Keys.DELETE)
    browser.find_element(By.ID, "only-front").click()
    front = set(pd.read_csv(run / "pareto.csv")["trial"])
    assert set(rows(browser)) == front
    browser.find_element(By.ID, "only-front").click()

    first = browser.find_element(By.CSS_SELECTOR, "#table tbody tr")
    browser.execute_script("arguments[0].focus()", first)
    browser.switch_to.active_element.send_keys(Keys.ARROW_DOWN)
    second = browser.switch_to.active_element
    assert second.get_attribute("data-trial") == str(ranked.iloc[1])
    pinned = second.get_attribute("aria-selected") == "true"
    second.send_keys(Keys.ENTER)
    assert browser.switch_to.active_element.get_attribute("data-trial") == str(ranked.iloc[1])
    assert browser.switch_to.active_element.get_attribute("aria-selected") == str(not pinned).lower()
    browser.execute_script("navigator.clipboard.writeText = async (text) => { window.copied = text; }")
    browser.switch_to.active_element.send_keys("c")
    assert until(browser, "return window.copied") == trials["architecture"][ranked.iloc[1]]


def test_the_first_tab_skips_to_the_networks(browser: Browser, opened: Open, tmp_path: Path) -> None:
    opened(saved(made_up_run(tmp_path / "r")))
    ActionChains(browser).send_keys(Keys.TAB).perform()
    assert browser.switch_to.active_element.get_attribute("class") == "skip"
    chips = browser.find_elements(By.CSS_SELECTOR, ".chip")
    browser.execute_script("arguments[0].focus()", chips[0])
    ActionChains(browser).send_keys(Keys.ARROW_RIGHT).perform()
    assert browser.switch_to.active_element.get_attribute("data-chip") == chips[1].get_attribute("data-chip")
    shown = browser.find_element(By.CSS_SELECTOR, "#detail h3").text
    assert shown.startswith(f"Trial {chips[1].get_attribute('data-chip')}")
    nameless = """return [...document.querySelectorAll('button, input, select, svg[role=img], .chart')].filter((e) =>
        e.offsetParent && !(e.ariaLabel || e.innerText || e.labels?.length)).map((e) => e.outerHTML)"""
    assert browser.execute_script(nameless) == []


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_themes_and_widths(browser: Browser, opened: Open, tmp_path: Path, width: int, scheme: str) -> None:
    opened(saved(made_up_run(tmp_path / "r")), width, scheme)
    lightness = "return Number(getComputedStyle(document.body).backgroundColor.match(/\\d+/)[0])"
    assert (browser.execute_script(lightness) < 128) == (scheme == "dark")
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    browser.find_element(By.ID, "theme").click()
    assert (browser.execute_script(lightness) < 128) == (scheme == "light")
    browser.find_element(By.ID, "theme").click()


def test_many_networks_are_drawn_by_webgl_and_in_pages(browser: Browser, opened: Open, tmp_path: Path) -> None:
    run = made_up_run(tmp_path / "r")
    some = pd.read_csv(run / "trials.csv")
    many = pd.concat([some] * 200, ignore_index=True)
    many.assign(trial=range(len(many))).to_csv(run / "trials.csv", index=False)
    opened(saved(run))
    assert until(browser, "return document.getElementById('front-chart').data[0].type") == "scattergl"
    assert "WebGL is not supported" not in browser.execute_script("return document.body.innerText")
    apart = int(some["madds"].idxmax())
    point_at(browser, *spot(browser, apart))
    until(browser, f"return Number(document.querySelector('#detail h3').innerText.match(/\\d+/)[0]) % 12 === {apart}")
    assert browser.execute_script("return document.querySelectorAll('#table tbody tr').length") == 50
    assert browser.find_element(By.CSS_SELECTOR, "#pages span").text == "page 1 of 48"
    browser.find_element(By.CSS_SELECTOR, "#pages button:last-child").click()
    assert rows(browser)[0] == 50


def test_a_live_page_keeps_what_is_the_readers(browser: Browser, opened: Open, tmp_path: Path) -> None:
    run = made_up_run(tmp_path / "r")
    trials = pd.read_csv(run / "trials.csv")
    trials[:8].to_csv(run / "trials.csv", index=False)
    with live_page(run) as port:
        opened(f"http://127.0.0.1:{port}/")
        browser.find_element(By.ID, "filter").send_keys("ir")
        browser.execute_script("togglePin(3); togglePin(5); window.scrollTo({ top: 700, behavior: 'instant' })")
        before = browser.execute_script("return [page.pins, window.scrollY]")
        trials.to_csv(run / "trials.csv", index=False)
        until(browser, "return document.getElementById('count').innerText === '12 trials'")
        assert browser.execute_script("return [page.pins, window.scrollY]") == before
        assert browser.find_element(By.ID, "filter").get_attribute("value") == "ir"
        browser.get("about:blank")
