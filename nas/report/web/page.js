"use strict";
// The page as a whole: what it says, its theme, and its renewal while a run goes on.

const POLL = 3000; // milliseconds between two questions of a live page

function drawWords() {
  const { data } = page;
  const best = baseline();
  fill("name", data.name);
  fill("front-title", `${metricName().charAt(0).toUpperCase()}${metricName().slice(1)} against cost`);
  fill("status", data.texts.status);
  if (best)
    fill(
      "headline",
      el("em", {}, percent(score(best))),
      ` ${metricName()} with ${amount(data.cost, best[data.cost])} ${costText(data.cost).short}`,
    );
  else fill("headline", data.family.length ? "A scaled family" : "No network is trained yet");
  fill(
    "reason",
    best
      ? `The picked baseline, trial ${best.trial}: ${data.texts.why || "picked by its reward"}.`
      : data.texts.scaling,
  );
  const figures = best
    ? [
        [
          metricName(),
          percent(score(best)),
          known(best.mean_error) ? `± ${(100 * best.mean_error).toFixed(1)}, ${best.runs} trainings` : "one training",
        ],
        ...data.costs
          .filter((cost) => cost.main)
          .map((cost) => [cost.short, amount(cost.key, best[cost.key]), ""]),
        ["on the front", String(page.trials.filter((t) => t.front).length), `of ${page.trials.length}`],
      ]
    : [];
  fill(
    "figures",
    ...figures.map(([name, value, more]) =>
      el("div", {}, el("dt", {}, name), el("dd", {}, value, " ", el("small", {}, more))),
    ),
  );
  const [word, ...rest] = data.texts.confirmed.split(/(?=:| by)/);
  fill("confirmed", el("b", {}, word.charAt(0).toUpperCase() + word.slice(1)), rest.join(""), rest.length ? "." : "");
  $("confirmed").hidden = !data.texts.confirmed;
  $("confirmed").classList.toggle("unsure", data.texts.confirmed.startsWith("unconfirmed"));
  fill("basis", best ? data.texts.basis : "");
  $("baseline").hidden = !best;
  if (best) drawTrial("baseline", best, `The baseline, trial ${best.trial}`, false);
  fill(
    "front-notes",
    ...[data.texts.basis, data.texts.bars, data.texts.counted, ...data.texts.notes]
      .filter(Boolean)
      .map((text) => el("p", {}, text)),
  );
  fill(
    "commands",
    ...data.commands.map(({ what, command }) =>
      el(
        "div",
        { class: "command" },
        el("span", {}, what),
        el("pre", { class: "code" }, command),
        copyButton(command, "the command", false),
      ),
    ),
  );
  fill("origin", ...data.origin.flatMap(({ name, value }) => [el("dt", {}, name), el("dd", {}, value)]));
  fill("foot", `${data.name} · made ${data.made} by compound-nas ${data.version}`);
}

function drawNav() {
  const links = [
    ["front", "Front"],
    ["compare", "Side by side"],
    ["search", "Search"],
    ["choices", "Choices"],
    ["scaling", "Family"],
    ["trials", "Table"],
    ["again", "Repeat"],
  ];
  fill("nav", ...links.filter(([id]) => !$(id).hidden).map(([id, text]) => el("a", { href: `#${id}` }, text)));
}

function drawRunning() {
  if (!page.data.live) return;
  const running = page.data.running.map((trial) => trial.trial);
  $("live").classList.remove("lost");
  fill("live", running.length ? `● live, in training: trial ${running.join(", ")}` : "● live");
}

/** All that pins change. */
function drawPins() {
  if (page.trials.length) {
    drawFront();
    drawChips();
    drawDetail();
    drawTable();
  }
  drawCompare();
}

function drawAll() {
  const some = page.trials.length > 0;
  for (const id of ["front", "trials"]) $(id).hidden = !some;
  fill("cost", ...page.data.costs.map((cost) => el("option", { value: cost.key }, cost.label)));
  $("cost").value = page.cost;
  $("again").hidden = !page.data.commands.length && !page.data.origin.length;
  drawPins();
  drawWords();
  drawHistory();
  drawEffects();
  drawFamily();
  drawGrid();
  drawRules();
  drawNav();
  drawRunning();
}

/** Take other data; pins, filter, sorting and scroll are the reader's and stay. */
function take(data) {
  page.data = data;
  page.trials = trialsOf(data.trials);
  page.byNumber = new Map(page.trials.map((trial) => [trial.trial, trial]));
  if (!data.costs.some((cost) => cost.key === page.cost)) page.cost = data.cost;
}

async function poll(seen) {
  let next = seen;
  try {
    const answer = await fetch("data.json", { cache: "no-store", headers: { "If-None-Match": seen } });
    if (answer.ok) {
      next = answer.headers.get("ETag");
      const scroll = window.scrollY;
      take(await answer.json());
      drawAll();
      window.scrollTo({ top: scroll, behavior: "instant" });
    } else if (answer.status !== 304) throw new Error(await answer.text());
    else drawRunning();
  } catch (error) {
    $("live").classList.add("lost");
    fill(
      "live",
      error instanceof TypeError ? "● no longer served: python -m nas.report was ended" : `● ${error.message}`,
    );
  }
  setTimeout(poll, POLL, next);
}

function setTheme(theme, keep = true) {
  document.documentElement.dataset.theme = theme;
  if (keep)
    try {
      localStorage.setItem("theme", theme);
    } catch {
      /* a browser that keeps nothing of files */
    }
}

function bootTheme() {
  const system = window.matchMedia("(prefers-color-scheme: dark)");
  let kept = null;
  try {
    kept = localStorage.getItem("theme");
  } catch {
    /* as above */
  }
  setTheme(["light", "dark"].includes(kept) ? kept : system.matches ? "dark" : "light", false);
  $("theme").addEventListener("click", () => {
    kept = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
    setTheme(kept);
    drawAll();
  });
  system.addEventListener("change", () => {
    if (!kept) {
      setTheme(system.matches ? "dark" : "light", false);
      drawAll();
    }
  });
  let before = null;
  const print = (on) => {
    if (on) before = document.documentElement.dataset.theme;
    setTheme(on ? "light" : before, false);
    document.documentElement.classList.toggle("printing", on);
    drawAll();
  };
  window.addEventListener("beforeprint", () => print(true));
  window.addEventListener("afterprint", () => print(false));
}

function boot() {
  take(JSON.parse($("data").textContent));
  bootTheme();
  bootFront();
  bootGrid();
  bootTable();
  $("unpin").addEventListener("click", () => {
    page.pins = [];
    drawPins();
  });
  $("all-choices").addEventListener("click", () => {
    $("all-choices").setAttribute("aria-expanded", String($("all-choices").getAttribute("aria-expanded") !== "true"));
    drawEffects();
  });
  const best = baseline();
  if (best) {
    page.pins = [best.trial];
    page.shown = best.trial;
  }
  drawAll();
  if (page.data.live) poll(page.data.live);
}

boot();
