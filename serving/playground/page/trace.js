// The trace of a list: where the time went, who proposed what, and why the picked item stands where it stands.

import { el, icon, ms, plural, words } from "./dom.js";
import { pictureOf, price, titleOf } from "./list.js";

const FAMILIES = [
  ["repeats", /repeat|again/], ["basket", /purchase|basket|bought/], ["sequence", /^next|^before|sequence/],
  ["vectors", /tower|spectral|vector|index/], ["content", /content|similar/], ["trending", /trend/],
  ["popular", /popular|best/], ["taste", /ease|knn|session|collab/],
];
const STAGES = ["people", "retriever", "features", "ranker", "rerank"];
const FEATURES_SHOWN = 8;

export function familyOf(source) {
  const found = FAMILIES.find(([, pattern]) => pattern.test(String(source)));
  return found ? found[0] : "other";
}

const finite = (value) => typeof value === "number" && Number.isFinite(value);
const short = (value) => (!finite(value) ? "—" : Math.abs(value) >= 1000 ? value.toLocaleString(undefined, { maximumFractionDigits: 0 }) : Number(value.toPrecision(3)).toString());
const section = (title, note, ...content) =>
  el("section", {}, el("h3", {}, title, note ? el("small", {}, note) : null), ...content);
const object = (value) => (value && typeof value === "object" && !Array.isArray(value) ? value : {});

export function renderTrace(host, { list, items, picked, features, wait }, on) {
  const trace = object(list.trace);
  const keep = host.scrollTop, open = host.querySelector("details")?.open;
  host.replaceChildren(
    el("header", {}, el("h2", {}, "Trace"), el("code", { title: "request id" }, String(list.request_id || "").slice(0, 12)),
      el("button", { class: "plain", "aria-label": "Close the trace", onclick: on.close }, icon("close"))),
    el("div", { class: "inside" },
      timeOf(object(list.timings_ms), object(trace.hops), wait),
      pickedOf(list, items, picked, trace, features, on),
      sourcesOf(list, trace),
      rawOf(list, open)),
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

function sourcesOf(list, trace) {
  const proposed = object(trace.by_source), shown = {};
  for (const entry of list.items) shown[entry.source] = (shown[entry.source] || 0) + 1;
  const known = Object.keys(proposed).length > 0;
  const counts = known ? proposed : shown;
  const rows = Object.entries(counts).filter(([, n]) => finite(n) && n > 0).sort((a, b) => b[1] - a[1]);
  const most = rows.length ? rows[0][1] : 1;
  const dropped = Object.entries(object(trace.dropped)).filter(([, n]) => n > 0);
  const note = finite(trace.candidates) ? plural(trace.candidates, "candidate") : null;
  return section(known ? "Candidates by source" : "Shown by source", note,
    rows.length ? el("ul", { class: "bars" }, rows.map(([source, n]) =>
      el("li", { data: { family: familyOf(source) } }, el("span", { class: "label" }, source),
        el("span", { class: "bar" }, el("i", { vars: { "--part": `${(100 * n) / most}%` } })),
        el("span", { class: "n" }, String(n)),
        el("span", { class: "hit" }, known && shown[source] ? `${shown[source]} shown` : "")))) : el("p", { class: "none" }, "No source proposed anything."),
    dropped.length ? el("p", { class: "chips" }, el("span", {}, "left out for"), dropped.map(([why, n]) => el("span", { class: "chip" }, words(why), el("b", {}, String(n))))) : null);
}

function pickedOf(list, items, picked, trace, features, on) {
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
    proposersOf(object(mine.sources), entry.source),
    unusualOf(mine, traced, features),
    el("h4", {}, "Rules"),
    rules.length ? el("p", { class: "chips" }, rules.map((rule) => el("span", { class: "chip" }, words(rule).replace(":", ": ")))) : el("p", { class: "none" }, "No rule moved it."));
}

function proposersOf(sources, best) {
  const rows = Object.entries(sources).map(([name, said]) => [name, object(said)]).sort((a, b) => (a[1].rank ?? 1e9) - (b[1].rank ?? 1e9));
  if (!rows.length) return el("p", { class: "none" }, `Proposed by ${best || "an unknown source"}.`);
  // A bar by rank, on a logarithm: first and second differ more than the 80th and the 81st.
  const width = (rank) => (finite(rank) ? Math.max(3, 100 * (1 - Math.log(Math.max(rank, 1)) / Math.log(600))) : 0);
  return el("div", {}, el("h4", {}, `Proposed by ${plural(rows.length, "source")}`),
    el("ul", { class: "bars" }, rows.map(([name, said]) =>
      el("li", { data: { family: familyOf(name) }, class: name === best ? "best" : null }, el("span", { class: "label" }, name),
        el("span", { class: "bar" }, el("i", { vars: { "--part": `${width(said.rank)}%` } })),
        el("span", { class: "n" }, finite(said.rank) ? `#${said.rank}` : "—"), el("span", { class: "hit" }, short(said.score))))));
}

// The features in which this item differs most from the others of the list, in standard deviations of the list.
function unusualOf(mine, traced, meanings) {
  const own = object(mine.features);
  const rows = [];
  for (const [name, value] of Object.entries(own)) {
    if (!finite(value)) continue;
    const all = traced.map((other) => object(other.features)[name]).filter(finite);
    const mean = all.reduce((a, b) => a + b, 0) / all.length;
    const spread = Math.sqrt(all.reduce((a, b) => a + (b - mean) ** 2, 0) / all.length);
    if (spread > 1e-9) rows.push({ name, value, all, z: (value - mean) / spread });
  }
  if (!rows.length) return null;
  rows.sort((a, b) => Math.abs(b.z) - Math.abs(a.z));
  return el("div", {}, el("h4", {}, "Most unusual features", el("small", {}, "each dot an item of this list")),
    el("ul", { class: "features" }, rows.slice(0, FEATURES_SHOWN).map(({ name, value, all }) => {
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
  const details = el("details", {}, el("summary", {}, "The response as JSON", copy), pre);
  // A few hundred kilobytes of text are laid out only for those who look.
  const fill = () => { if (details.open && !pre.textContent) pre.textContent = text; };
  details.addEventListener("toggle", fill);
  details.open = Boolean(open);
  fill();
  return details;
}
