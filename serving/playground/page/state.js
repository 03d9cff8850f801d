// What the page knows: who asks, which list, what was clicked; and the question that follows from it.

export const SIZES = [10, 20, 40];

export const state = {
  about: null, person: null, user: null, sessionId: null, surface: "homepage", region: "", k: 20, category: "", anchor: null,
  session: [], waiting: [], list: null, items: {}, picked: null, traced: false, wait: 0, turn: 0, up: { recommender: true },
};

export const idsOf = (list) => list.items.map((entry) => entry.item_id);
export const surfaceOf = (name) => state.about.surfaces.find((surface) => surface.name === name) || { name };
export const similar = () => (state.about.surfaces.find(({ name }) => /similar/.test(name)) || {}).name;
const isCart = () => /cart/.test(state.surface);

export const newUser = () =>
  `new-${[...crypto.getRandomValues(new Uint8Array(5))].map((byte) => byte.toString(16).padStart(2, "0")).join("")}`;

// What the recommender is asked. Events that the collector has are not told again.
export function instance() {
  const context = { events: state.waiting.map(({ item_id, event_type }) => ({ item_id, event_type })) };
  const surface = surfaceOf(state.surface), anchors = anchorsOf();
  if (state.region) context.region = state.region;
  if (anchors.length && surface.anchor === "items") context.items = anchors;
  if (state.category && surface.within === "category") context.category = state.category;
  return { user_id: state.user, surface: state.surface, k: state.k, trace: true, context };
}

// The items that the list is for: the cart, the item that one came from, or what was looked at last.
export function anchorsOf() {
  if (!["items", "last_viewed"].includes(surfaceOf(state.surface).anchor)) return [];
  if (isCart()) return cart().length ? cart() : lastOnes(1);
  return state.anchor ? [state.anchor] : lastOnes(1);
}

export const forCart = () => isCart() && cart().length > 0;
const cart = () => [...new Set(state.session.filter((e) => e.event_type === "add_to_cart").map((e) => e.item_id))].slice(-20);

export function lastOnes(n) {
  const before = state.person ? state.person.last : [];
  const shown = state.list ? idsOf(state.list) : [];
  return [...new Set([...state.session.map((event) => event.item_id).reverse(), ...before, ...shown])].slice(0, n);
}

// A category page needs a category: that of what was looked at last, else the first.
export function settleCategory() {
  if (surfaceOf(state.surface).within !== "category" || state.category) return;
  const last = lastOnes(1).map((id) => (state.items[id] || {}).category).find(Boolean);
  state.category = last || state.about.categories[0] || "";
}

// The address of the page remembers what is asked, so that it can be reloaded and shared.
export function remember() {
  const words = new URLSearchParams();
  if (state.person) words.set("user", state.person.user_id);
  if (state.surface !== state.about.surfaces[0].name) words.set("surface", state.surface);
  if (state.category && surfaceOf(state.surface).within === "category") words.set("category", state.category);
  if (state.region) words.set("region", state.region);
  if (state.k !== 20) words.set("k", String(state.k));
  history.replaceState(null, "", words.size ? `?${words}` : location.pathname);
}

export function recall() {
  const words = new URLSearchParams(location.search), { surfaces, regions, categories } = state.about;
  state.surface = surfaces.some(({ name }) => name === words.get("surface")) ? words.get("surface") : surfaces[0].name;
  state.region = regions.includes(words.get("region")) ? words.get("region") : "";
  state.category = categories.includes(words.get("category")) ? words.get("category") : "";
  state.k = SIZES.includes(Number(words.get("k"))) ? Number(words.get("k")) : 20;
  return words.get("user");
}
