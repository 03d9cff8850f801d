// The playground: asks for lists, tells of clicks, and goes on when servers come and go.

import * as api from "./api.js";
import { el, plural } from "./dom.js";
import { compare, render } from "./list.js";
import { $, anchor, controls, head, left, notice, servers, strip, surfaces, told, who } from "./parts.js";
import { openPeople } from "./people.js";
import { learnCategories } from "./picture.js";
import { idsOf, instance, newUser, recall, remember, settleCategory, similar, state } from "./state.js";
import { renderTrace } from "./trace.js";

const FOLLOW_MS = 1200; // how long a click that went to the collector may take to show,
const FOLLOW_TRIES = 5; // and how often it is looked for at least, where lists come slowly
const KEYS = { enter: "click", c: "add_to_cart", b: "purchase" };

const on = {
  act, go, why, trace: toggleTrace,
  choose: () => openPeople($("people"), be, on.fresh),
  fresh: () => be(null),
  region: (name) => { state.region = name; remember(); refresh({ compared: true }); },
  category: (name) => { state.category = name; remember(); refresh(); },
  size: (n) => { state.k = n; controls(on); remember(); refresh(); },
};

// Asks for the list and shows it. `because` is the click that asked, `since` when it was made.
async function refresh({ because = null, since = performance.now(), compared = because !== null } = {}) {
  const turn = ++state.turn, before = compared && state.list ? idsOf(state.list) : null;
  const pause = () => new Promise((done) => setTimeout(done, 60));
  try {
    let answer = await api.recommend(instance()), tries = 1;
    // The collector has the click, but the list may still be an older one: it is asked for again for a moment.
    while (because && because.sent && before && turn === state.turn && !compare(before, idsOf(answer.list)).changed) {
      if (performance.now() - since > FOLLOW_MS && tries >= FOLLOW_TRIES) break;
      await pause();
      tries += 1;
      answer = await api.recommend(instance());
    }
    if (turn === state.turn) show(answer, before, because, since);
  } catch (error) {
    if (turn === state.turn) fault(error);
  }
}

function show({ list, items, ms: wait }, before, because, since) {
  const arrived = performance.now();
  Object.assign(state.items, items);
  Object.assign(state, { list, wait });
  document.body.classList.remove("away");
  state.up.recommender = true;
  if ($("notice").classList.contains("hard")) notice(null);
  const changes = compare(before, idsOf(list));
  if (!idsOf(list).includes(state.picked)) state.picked = idsOf(list)[0] || null;
  render($("list"), list, state.items, changes, on);
  if (!list.items.length) $("list").replaceChildren(el("p", { class: "none" }, "This list is empty."));
  head();
  left(changes);
  anchor();
  trace();
  // A task after the next frame everything stands on the screen.
  requestAnimationFrame(() => setTimeout(() => {
    performance.measure("longtail:paint", { start: arrived, end: performance.now() });
    told(changes, because, performance.now() - since);
    document.body.dataset.lists = String(Number(document.body.dataset.lists || 0) + 1);
  }));
}

async function act(id, type) {
  const since = performance.now(), place = state.list ? idsOf(state.list).indexOf(id) : -1;
  const event = {
    event_id: crypto.randomUUID(), user_id: state.user, item_id: id, event_type: type, surface: state.surface,
    session_id: state.sessionId, timestamp: new Date().toISOString(),
  };
  if (place >= 0) Object.assign(event, { request_id: state.list.request_id, position: place });
  const { price } = state.items[id] || {};
  if (type === "purchase" && typeof price === "number") event.value = price;
  state.session.push(event);
  state.waiting.push(event);
  strip();
  if (state.about.collects) await deliver();
  await refresh({ because: event, since });
}

// What the collector took needs no mention in the next request; what it did not take is kept and told with it.
async function deliver() {
  const batch = state.waiting.filter((event) => event.sent === undefined).slice(0, 50);
  if (!batch.length) return;
  try {
    const { verdict } = await api.send(batch);
    const rejected = Array.isArray(verdict.rejected) ? verdict.rejected : [];
    const refused = new Set(rejected.map((row) => row.event_id));
    for (const event of batch) event.sent = !refused.has(event.event_id);
    state.waiting = state.waiting.filter((event) => !event.sent);
    if (rejected.length) notice(`The collector refused ${plural(rejected.length, "event")}: ${rejected[0].reason}`, "soft");
    else if ($("notice").classList.contains("soft")) notice(null);
  } catch (error) {
    if (error.status === 400) for (const event of batch) event.sent = false; // it would refuse them again
    notice(`${error.message}. Clicks stay in this page meanwhile.`, "soft");
  }
}

function be(person, items = {}) {
  scrollTo(0, 0);
  Object.assign(state.items, items);
  Object.assign(state, {
    person, user: person ? `pseudonym:${person.user_id}` : newUser(), sessionId: crypto.randomUUID(), session: [], waiting: [],
    anchor: null, list: null, picked: null, region: person ? "" : state.region,
  });
  who(on);
  strip();
  settleCategory();
  controls(on);
  remember();
  return refresh();
}

function go(name, item = null) {
  scrollTo(0, 0);
  Object.assign(state, { surface: name, anchor: item });
  settleCategory();
  surfaces(on);
  controls(on);
  remember();
  return refresh();
}

function why(id) {
  state.picked = id;
  toggleTrace(true);
}

function toggleTrace(open = !state.traced) {
  state.traced = open;
  $("trace").hidden = !open;
  document.body.classList.toggle("traced", open);
  const button = $("open-trace");
  if (button) button.setAttribute("aria-pressed", String(open));
  trace();
}

function trace() {
  for (const tile of document.querySelectorAll(".tile")) {
    tile.classList.toggle("picked", state.traced && tile.dataset.item === state.picked);
  }
  if (!state.traced || !state.list) return;
  const close = () => { toggleTrace(false); $("open-trace").focus(); };
  renderTrace($("trace"), state, {
    close, similar: similar() ? (id) => go(similar(), id) : null,
  });
}

function fault(error) {
  const away = Boolean(error.gone || error.status >= 500);
  if (away) state.up.recommender = false;
  document.body.classList.toggle("away", away);
  notice(away ? `${error.message}. This page goes on by itself when it is back.` : error.message);
}

// Looks after the servers every few seconds, every second while one is away; the list comes back by itself.
async function watch() {
  try {
    const found = await api.servers();
    servers(found);
    const back = found.recommender.up && !state.up.recommender;
    if (!found.recommender.up) fault(Object.assign(new Error(found.recommender.says), { status: 503 }));
    else if (back) await refresh({ compared: state.list !== null });
    if (found.collector && found.collector.up && state.waiting.length) await deliver();
  } catch (error) {
    fault(error);
  }
  setTimeout(watch, document.hidden ? 10_000 : state.up.recommender ? 4000 : 1000);
}

async function begin() {
  try {
    state.about = await api.about();
    learnCategories(state.about.categories);
    const wanted = recall();
    const found = wanted ? await api.people(wanted, 1) : { users: [] };
    surfaces(on);
    const known = found.users.find((person) => person.user_id === wanted) || null;
    await be(known, found.items);
    watch();
  } catch (error) {
    notice(`${error.message}. This page tries again by itself.`);
    setTimeout(begin, 1500);
  }
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || $("people").open || !state.about) return;
  if (/^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName)) return;
  const key = event.key.toLowerCase();
  const tile = event.target.classList.contains("tile") ? event.target.dataset.item : null;
  if (tile && KEYS[key]) act(tile, KEYS[key]);
  else if (tile && key === "w") why(tile);
  else if (key === "t") toggleTrace();
  else if (key === "p") on.choose();
  else if (key === "n") on.fresh();
  else if (key === "escape" && state.traced) toggleTrace(false);
  else return;
  event.preventDefault();
});

begin();
