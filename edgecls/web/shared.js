const $ = id => document.getElementById(id);
const el = (tag, cls, text) => { const e = document.createElement(tag); if (cls) e.className = cls; if (text !== undefined) e.textContent = text; return e; };
const put = (e, text) => { if (e.textContent !== text) e.textContent = text; };
const some = (n, one = "picture", many = one + "s") => `${n} ${n === 1 ? one : many}`;
const random = () => [...crypto.getRandomValues(new Uint8Array(12))].map(b => b.toString(16).padStart(2, "0")).join("");
const client = sessionStorage.getItem("client") || random();
sessionStorage.setItem("client", client);
// POST an object with the client's name: the answer's own fields, its status (0 without a connection), and an error.
async function send(path, content) {
  let answer;
  try { answer = await fetch(path, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ client, ...content }) }); }
  catch { return { status: 0, error: "no connection to the program" }; }
  const plain = (answer.headers.get("Content-Type") || "").startsWith("text/plain");
  const body = plain ? { error: (await answer.text()).trim() } : await answer.json().catch(() => ({ error: `refused (${answer.status})` }));
  return { status: answer.status, ...body };
}
