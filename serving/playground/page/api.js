// The questions that the page asks its server. Every failure is an Error with one line for people.

async function ask(path, options = {}) {
  let reply;
  try {
    reply = await fetch(path, options);
  } catch {
    throw Object.assign(new Error("The playground's own server is gone: run `longtail playground` again"), { gone: true });
  }
  let body = null;
  try {
    body = await reply.json();
  } catch {
    throw new Error(`The playground answered ${reply.status} without JSON`);
  }
  if (!reply.ok) {
    const line = String((body && body.error) || `The playground answered ${reply.status}`);
    throw Object.assign(new Error(line[0].toUpperCase() + line.slice(1)), { status: reply.status });
  }
  return body;
}

const post = (path, body) =>
  ask(path, { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) });

export const about = () => ask("/api/about");
export const servers = () => ask("/api/state");
export const people = (text, limit = 24) => ask(`/api/users?q=${encodeURIComponent(text)}&limit=${limit}`);
export const items = (ids) => ask(`/api/items?ids=${ids.map(encodeURIComponent).join(",")}`);
export const recommend = (instance) => post("/api/recommend", instance);
export const send = (events) => post("/api/events", { events });
