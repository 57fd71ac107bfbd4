"use strict";

const at = (id) => document.getElementById(id);
const percent = (share) => `${(100 * share).toFixed(1)} %`;

function element(name, text, attributes = {}) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

function list(facts) {
  const made = element("dl");
  for (const [name, value] of Object.entries(facts)) {
    if (value === null || value === undefined) continue;
    const entry = element("div");
    entry.append(element("dt", name), element("dd", value));
    made.append(entry);
  }
  return made;
}

function card(model) {
  const made = element("article", undefined, { class: "card" });
  made.append(element("h3", `${model.name}, version ${model.version}`));
  const facts = model.facts;
  made.append(list({
    backbone: facts.backbone,
    strategy: facts.strategy,
    "test accuracy": facts.accuracy === undefined ? null
      : percent(facts.accuracy) + (facts.interval ? ` (${facts.interval.map(percent).join(" to ")})` : ""),
    labels: model.labels ? String(model.labels) : null,
    precision: facts.precision,
    "licence of the weights": facts.license,
    requests: String(model.requests),
    "half of them within": model.requests ? `${model.p50_ms.toFixed(1)} ms` : null,
    "99 % within": model.requests ? `${model.p99_ms.toFixed(1)} ms` : null,
    "waiting now": String(model.waiting),
    "agrees, as a shadow": model.agreement === null ? null : percent(model.agreement),
    "rows in a call": model.rows_per_call ? model.rows_per_call.toFixed(1) : null,
  }));
  for (const exit of model.exits || []) {
    if (exit.rate !== null) {
      made.append(element("p", `${percent(exit.rate)} stop at ${exit.member} (expected ${percent(exit.expected_rate)})`,
        { class: "quiet" }));
    }
  }
  return made;
}

async function refresh() {
  try {
    const answer = await fetch("/models");
    const models = (await answer.json()).models;
    at("state").textContent = answer.ok ? "ready" : "not ready";
    at("facts").replaceChildren(...models.map(card));
    const able = [...new Set(models.filter((model) => model.takes_images).map((model) => model.name))];
    const chosen = at("model").value;
    at("model").replaceChildren(...able.map((name) => element("option", name, { value: name })));
    if (able.includes(chosen)) at("model").value = chosen;
    at("choice").hidden = able.length < 2;
    at("try").parentElement.hidden = able.length === 0;
  } catch {
    at("state").textContent = "the server does not answer";
  }
}

function show(prediction, milliseconds) {
  const table = element("table");
  table.append(element("caption", "Labels and how sure the model is", { class: "quiet" }));
  const body = element("tbody");
  for (const { label, probability } of prediction.top) {
    const row = element("tr");
    const bar = element("div", undefined, { class: "bar", "aria-hidden": "true" });
    const filled = element("span");
    filled.style.width = percent(probability).replace(" ", "");
    bar.append(filled);
    const middle = element("td");
    middle.append(bar);
    row.append(element("th", label, { scope: "row" }), middle, element("td", percent(probability), { class: "number" }));
    body.append(row);
  }
  table.append(body);
  const exit = prediction.exit ? `; answered by ${prediction.exit}` : "";
  const heads = Object.entries(prediction.heads || {}).map(([name, said]) =>
    element("p", `${name}: ${said.label} (${percent(said.probability)})`));
  at("answer").replaceChildren(table, ...heads, element("p", `${milliseconds.toFixed(1)} ms in the server${exit}`, { class: "quiet" }));
}

async function ask(file) {
  const picture = at("picture");
  URL.revokeObjectURL(picture.src);
  picture.src = URL.createObjectURL(file);
  picture.alt = file.name || "pasted image";
  picture.hidden = false;
  at("answer").replaceChildren(element("p", "asking", { class: "quiet" }));
  try {
    const query = at("model").value ? `?model=${encodeURIComponent(at("model").value)}` : "";
    const headers = { "Content-Type": "application/octet-stream" };
    const answer = await fetch(`/predict${query}`, { method: "POST", body: file, headers });
    const value = await answer.json();
    if (!answer.ok) throw new Error(value.error);
    show(value.predictions[0], value.milliseconds);
  } catch (error) {
    at("answer").replaceChildren(element("p", error.message, { class: "error", role: "alert" }));
  }
  refresh();
}

at("file").addEventListener("change", () => { if (at("file").files[0]) ask(at("file").files[0]); });
for (const kind of ["dragover", "dragenter"]) {
  document.addEventListener(kind, (event) => { event.preventDefault(); at("drop").classList.add("over"); });
}
document.addEventListener("dragleave", () => at("drop").classList.remove("over"));
document.addEventListener("drop", (event) => {
  event.preventDefault();
  at("drop").classList.remove("over");
  if (event.dataTransfer.files[0]) ask(event.dataTransfer.files[0]);
});
document.addEventListener("paste", (event) => {
  const file = [...event.clipboardData.files].find((each) => each.type.startsWith("image/"));
  if (file) ask(file);
});
refresh();
setInterval(refresh, 5000);
