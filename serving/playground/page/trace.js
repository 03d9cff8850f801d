// The trace of a list: where the time went, who proposed what, and why the picked item stands where it stands.

import { el, icon, ms, plural, words } from "./dom.js";
import { pictureOf, price, titleOf } from "./list.js";

const FAMILIES = [
  ["repeats", /repeat|again/], ["basket", /purchase|basket|bought/], ["sequence", /^next|^before|sequence/],
  ["vectors", /tower|spectral|vector|index/], ["content", /content|similar/], ["trending", /trend/],
  ["popular", /popular|best/], ["taste", /ease|knn|session|collab/],
];
const STAGES = ["people", "retriever", "features", "ranker", "rerank"];
const FEATURES_SHOWN = 6;
const ALIKE = 0.9; // correlation over the items of the list
const SOURCES_SHOWN = 6;

export function familyOf(source) {
  const found = FAMILIES.find(([, pattern]) => pattern.test(String(source)));
  return found ? found[0] : "other";
}

const finite = (value) => typeof value === "number" && Number.isFinite(value);
const short = (value) => (!finite(value) ? "—" : Math.abs(value) >= 1000 ? value.toLocaleString(undefined, { maximumFractionDigits: 0 }) : Number(value.toPrecision(3)).toString());
const section = (title, note, ...content) =>
  el("section", {}, el("h3", {}, title, note ? el("small", {}, note) : null), ...content);
const object = (value) => (value && typeof value === "object" && !Array.isArray(value) ? value : {});

export function renderTrace(host, { list, items, picked, about, wait }, on) {
  const trace = object(list.trace);
  const keep = host.scrollTop, open = new Set([...host.querySelectorAll("details[open]")].map((details) => details.className));
  host.replaceChildren(
    el("header", {}, el("h2", {}, "Trace"), el("code", { title: "request id" }, String(list.request_id || "").slice(0, 12)),
      el("button", { class: "plain", "aria-label": "Close the trace", onclick: on.close }, icon("close"))),
    el("div", { class: "inside" },
      timeOf(object(list.timings_ms), object(trace.hops), wait),
      pickedOf(list, items, picked, trace, about, open, on),
      sourcesOf(list, trace, about, open),
      rawOf(list, open.has("raw"))),
  );
  host.scrollTop = keep;
}

function timeOf(timings, hops, wait) {
  const stages = [...STAGES, ...Object.keys(timings).filter((name) => !STAGES.includes(name) && name !== "total")].filter((name) => finite(timings[name]));
  const sum = stages.reduce((all, name) => all + timings[name], 0);
  const total = finite(timings.total) ? timings.total : sum;
  if (!stages.length) return section("Time", null, el("p", { class: "none" }, "This answer carries no timings."));
  const whole = Math.max(total, sum) || 1;
  const broken = Object.entries(hops).filter(([, state]) => state !== "ok");
  return section("Time", `${ms(total)} ms in the recommender${finite(wait) ? `, ${ms(wait)} ms with the way there` : ""}`,
    el("div", { class: "stack", role: "img", "aria-label": stages.map((name) => `${name} ${ms(timings[name])} ms`).join(", ") },
      stages.map((name, n) => el("span", { class: `stage${n % 6}`, title: `${name}: ${ms(timings[name])} ms`, vars: { "--part": `${(100 * timings[name]) / whole}%` } }))),
    el("dl", { class: "legend" }, stages.map((name, n) =>
      el("div", {}, el("dt", {}, el("i", { class: `stage${n % 6}` }), words(name)), el("dd", {}, ms(timings[name]))))),
    broken.map(([hop, state]) => el("p", { class: "broken" }, icon("warn"), `${hop}: ${state}`)));
}

// Rules that put other items elsewhere move this one, too.
function untouched(place, before) {
  const moved = finite(before) && before !== place;
  return moved ? `None named it; what they did to others moved it from place ${before} to ${place}.` : "No rule moved it.";
}

// Bars of sources, the first few at once and the others for those who ask: there may be thirty.
function sourceBars(rows, about, key, open) {
  const bar = ({ name, part, n, note, best }) =>
    el("li", { data: { family: familyOf(name) }, class: best ? "best" : null, title: object(about.sources)[name] || null },
      el("span", { class: "label" }, name), el("span", { class: "bar" }, el("i", { vars: { "--part": `${part}%` } })),
      el("span", { class: "n" }, n), el("span", { class: "hit" }, note));
  const bars = rows.map(bar), more = bars.splice(bars.length > SOURCES_SHOWN + 2 ? SOURCES_SHOWN : bars.length);
  return [el("ul", { class: "bars" }, bars), more.length
    ? el("details", { class: `more ${key}`, open: open.has(`more ${key}`) }, el("summary", {}, el("span", {}, `and ${plural(more.length, "other")}`)), el("ul", { class: "bars" }, more)) : null];
}

function sourcesOf(list, trace, about, open) {
  const proposed = object(trace.by_source), shown = {};
  for (const entry of list.items) shown[entry.source] = (shown[entry.source] || 0) + 1;
  const known = Object.keys(proposed).length > 0;
  const counts = known ? proposed : shown;
  // First those whose items are in the list.
  const rows = Object.entries(counts).filter(([, n]) => finite(n) && n > 0).sort((a, b) => (shown[b[0]] || 0) - (shown[a[0]] || 0) || b[1] - a[1]);
  const most = Math.max(1, ...rows.map(([, n]) => n));
  const dropped = Object.entries(object(trace.dropped)).filter(([, n]) => n > 0);
  const note = finite(trace.candidates) ? `${plural(trace.candidates, "candidate")}, and how many each scored` : null;
  return section(known ? "Candidates by source" : "Shown by source", note,
    ...(rows.length ? sourceBars(rows.map(([name, n]) => ({
      name, part: (100 * n) / most, n: String(n), note: known && shown[name] ? `${shown[name]} shown` : "",
    })), about, "all", open) : [el("p", { class: "none" }, "No source proposed anything.")]),
    dropped.length ? el("p", { class: "chips" }, el("span", {}, "left out for"), dropped.map(([why, n]) => el("span", { class: "chip" }, words(why), el("b", {}, String(n))))) : null);
}

function pickedOf(list, items, picked, trace, about, open, on) {
  const at = list.items.findIndex((entry) => entry.item_id === picked);
  if (at < 0) return section("The item", null, el("p", { class: "none" }, "Pick “why” on an item to see what put it there."));
  const entry = list.items[at], item = items[picked] || {};
  const traced = (Array.isArray(trace.items) ? trace.items : []).map(object);
  const mine = traced.find((other) => other.item_id === picked) || {};
  const facts = [
    ["place", String(at + 1)],
    ["before rules", finite(mine.rank_before_rules) ? String(mine.rank_before_rules) : null],
    [list.level === "full" ? "ranker score" : "score", short(finite(mine.score) ? mine.score : entry.score)],
    ["blend", finite(mine.blend) ? short(mine.blend) : null],
    ["chance to be here", finite(entry.propensity) && entry.propensity < 1 ? short(entry.propensity) : null],
  ].filter(([, value]) => value !== null);
  const rules = Array.isArray(mine.rules) ? mine.rules : object(trace.rules)[picked] || [];
  return section("The item", null,
    el("div", { class: "subject" }, el("span", { class: "thumb" }, pictureOf(item, picked)),
      el("div", {}, el("b", {}, titleOf(item, picked)), el("small", {}, [price(item.price), item.brand, entry.reason].filter(Boolean).join(" · ")),
        on.similar ? el("button", { class: "link", onclick: () => on.similar(picked) }, "Show similar items", icon("why")) : null)),
    el("dl", { class: "facts" }, facts.map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, value)))),
    proposersOf(object(mine.sources), entry.source, about, open),
    unusualOf(mine, traced, about.features),
    el("h4", {}, "Rules"),
    rules.length ? el("p", { class: "chips" }, rules.map((rule) => el("span", { class: "chip" }, words(rule).replace(":", ": ")))) : el("p", { class: "none" }, untouched(at + 1, mine.rank_before_rules)));
}

function proposersOf(sources, best, about, open) {
  // The source that gave the reason comes first, then by the rank that each gave the item.
  const rank = ([name, said]) => (name === best ? 0 : said.rank ?? 1e9);
  const rows = Object.entries(sources).map(([name, said]) => [name, object(said)]).sort((a, b) => rank(a) - rank(b));
  if (!rows.length) return el("p", { class: "none" }, `Brought by ${best || "an unknown source"}.`);
  // A bar by rank, on a logarithm: first and second differ more than the 80th and the 81st.
  const width = (rank) => (finite(rank) ? Math.max(3, 100 * (1 - Math.log(Math.max(rank, 1)) / Math.log(600))) : 0);
  return el("div", {}, el("h4", {}, `Scored by ${plural(rows.length, "source")}`, el("small", {}, "its place and score with each")),
    ...sourceBars(rows.map(([name, said]) => ({
      name, best: name === best, part: width(said.rank), n: finite(said.rank) ? `#${said.rank}` : "—", note: short(said.score),
    })), about, "own", open).filter(Boolean));
}

// The features in which this item differs most from the others of the list, in standard deviations of the list.
// One of several that say the same of every item is enough: popularity alone has a dozen.
function unusualOf(mine, traced, meanings) {
  const own = object(mine.features);
  const rows = [];
  for (const [name, value] of Object.entries(own)) {
    if (!finite(value)) continue;
    const all = traced.map((other) => object(other.features)[name]).filter(finite);
    const mean = all.reduce((a, b) => a + b, 0) / all.length;
    const spread = Math.sqrt(all.reduce((a, b) => a + (b - mean) ** 2, 0) / all.length);
    if (spread > 1e-9) rows.push({ name, value, all, z: (value - mean) / spread, shape: all.map((other) => (other - mean) / spread) });
  }
  if (!rows.length) return null;
  rows.sort((a, b) => Math.abs(b.z) - Math.abs(a.z));
  const alike = (a, b) => a.length === b.length && Math.abs(a.reduce((sum, value, n) => sum + value * b[n], 0)) > ALIKE * a.length;
  const told = [];
  for (const row of rows) {
    if (told.length === FEATURES_SHOWN) break;
    if (!told.some((other) => alike(row.shape, other.shape))) told.push(row);
  }
  return el("div", {}, el("h4", {}, "Most unusual features", el("small", {}, "each dot an item of this list")),
    el("ul", { class: "features" }, told.map(({ name, value, all }) => {
      const low = Math.min(...all), reach = Math.max(...all) - low || 1;
      const dot = (v, own) => el("i", { class: own ? "own" : null, vars: { "--at": `${(100 * (v - low)) / reach}%` } });
      return el("li", {}, el("span", { class: "label", title: name }, meanings[name] || words(name), el("code", {}, name)),
        el("span", { class: "dots" }, all.map((v) => dot(v, false)), dot(value, true)), el("span", { class: "n" }, short(value)));
    })));
}

function rawOf(list, open) {
  const text = JSON.stringify(list, null, 2);
  const copy = el("button", { class: "plain", "aria-label": "Copy the JSON" }, icon("copy"));
  copy.addEventListener("click", async (event) => {
    event.preventDefault();
    await navigator.clipboard?.writeText(text).catch(() => null);
    copy.classList.add("done");
  });
  const pre = el("pre", { tabindex: "0" });
  const details = el("details", { class: "raw" }, el("summary", {}, "The response as JSON", copy), pre);
  // A few hundred kilobytes of text are laid out only for those who look.
  const fill = () => { if (details.open && !pre.textContent) pre.textContent = text; };
  details.addEventListener("toggle", fill);
  details.open = Boolean(open);
  fill();
  return details;
}
