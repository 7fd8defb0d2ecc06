"use strict";
// The OpenAPI description as a page. What it says is only ever put in as text.

const METHODS = ["get", "post", "put", "patch", "delete"];
const REFERENCE = "#/components/schemas/";
const LONGEST = 200_000;

function make(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

const code = (text) => make("code", {}, String(text));

function joined(parts, between) {
  return parts.flatMap((part, at) => (at ? [between, ...part] : part));
}

// A schema's type, as nodes and texts; those that have a name of their own are links.
function typeOf(schema) {
  if (schema === undefined || schema === true) return ["anything"];
  if (schema.$ref) {
    const name = schema.$ref.replace(REFERENCE, "");
    return [make("a", { href: `#schema-${name}` }, name)];
  }
  const either = schema.anyOf ?? schema.oneOf ?? schema.allOf;
  if (either) return joined(either.map(typeOf), schema.allOf ? " and " : " or ");
  if (schema.enum) return joined(schema.enum.map((value) => [code(JSON.stringify(value))]), " or ");
  if (schema.const !== undefined) return [code(JSON.stringify(schema.const))];
  if (schema.type === "array") return ["list of ", ...typeOf(schema.items)];
  if (schema.type === "object" && typeof schema.additionalProperties === "object") {
    return ["object of ", ...typeOf(schema.additionalProperties)];
  }
  return [[schema.type ?? "anything"].flat().join(" or ") + limits(schema)];
}

function limits(schema) {
  const said = [
    ["minimum", "from "], ["exclusiveMinimum", "above "], ["maximum", "to "], ["exclusiveMaximum", "below "],
    ["minLength", "at least "], ["maxLength", "at most "], ["pattern", "as "], ["format", "format "],
  ].filter(([name]) => schema[name] !== undefined).map(([name, word]) => word + schema[name]);
  return said.length ? ` (${said.join(", ")})` : "";
}

function table(heads, rows) {
  const head = make("tr", {}, ...heads.map((text) => make("th", {}, text)));
  const body = rows.map((row) => make("tr", {}, ...row.map((cell) => make("td", {}, ...[cell].flat()))));
  return make("table", {}, make("thead", {}, head), make("tbody", {}, ...body));
}

function toldOf(schema, is_required) {
  const standard = schema?.default;
  const told = [is_required ? "required" : "", standard === undefined || standard === null ? "" : `default ${JSON.stringify(standard)}`];
  return told.filter(Boolean).join(", ");
}

function parametersOf(parameters) {
  if (!parameters.length) return [];
  const rows = parameters.map((one) => [
    code(one.name), one.in, typeOf(one.schema), toldOf(one.schema, one.required), one.description ?? "",
  ]);
  return [table(["Parameter", "In", "Type", "", ""], rows)];
}

function contentOf(content) {
  return joined(Object.entries(content ?? {}).map(([type, { schema }]) => [...typeOf(schema), ` (${type})`]), ", ");
}

function propertiesOf(schema) {
  const rows = Object.entries(schema.properties ?? {}).map(([name, one]) => [
    code(name), typeOf(one), toldOf(one, schema.required?.includes(name)), one.description ?? "",
  ]);
  return rows.length ? table(["Property", "Type", "", ""], rows) : make("p", {}, ...typeOf(schema));
}

// trying it out

function tryOf(base, method, path, operation, parameters) {
  const content = operation.requestBody?.content;
  const answer = make("pre", { hidden: true });
  const shown = parameters.filter((one) => one.in === "path" || one.in === "query" || one.in === "header");
  const inputs = shown.map((one) => [one, make("input", { required: one.in === "path", autocomplete: "off" })]);
  const body = content?.["application/json"] ? make("textarea", { spellcheck: false, value: "{}" }) : null;
  const form = make(
    "form",
    {},
    ...inputs.map(([one, input]) => make("label", {}, `${one.name} (${one.in})`, input)),
    ...(body ? [make("label", {}, "body", body)] : []),
    make("button", {}, "Send"),
    answer,
  );
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    answer.hidden = false;
    answer.textContent = "…";
    try {
      answer.textContent = await asked(base, method, path, inputs, body?.value);
    } catch (error) {
      answer.textContent = String(error);
    }
  });
  return make("details", {}, make("summary", {}, "Try it"), form);
}

async function asked(base, method, path, inputs, body) {
  const query = new URLSearchParams();
  const headers = body === undefined ? {} : { "Content-Type": "application/json" };
  let filled = path;
  for (const [one, { value }] of inputs) {
    if (one.in === "path") filled = filled.replace(`{${one.name}}`, encodeURIComponent(value));
    else if (value && one.in === "query") query.append(one.name, value);
    else if (value) headers[one.name] = value;
  }
  const address = base + filled + (query.size ? `?${query}` : "");
  const response = await fetch(address, { method: method.toUpperCase(), headers, body });
  const type = response.headers.get("content-type") ?? "";
  const head = `${response.status} ${response.statusText}\n${type}\n\n`;
  if (!/json|text/.test(type)) return `${head}${(await response.blob()).size} bytes`;
  const text = await response.text();
  const told = type.includes("json") && text.length < LONGEST ? JSON.stringify(JSON.parse(text), null, 2) : text;
  return head + told.slice(0, LONGEST);
}

// the page

function operationOf(base, method, path, operation, shared) {
  const parameters = [...shared, ...(operation.parameters ?? [])];
  const answers = Object.entries(operation.responses ?? {}).map(([status, one]) => [status, contentOf(one.content), one.description ?? ""]);
  const body = operation.requestBody;
  return make(
    "details",
    { className: "operation" },
    make("summary", {}, make("span", { className: "method" }, method), " ", code(path), " ", make("span", { className: "quiet" }, operation.summary ?? "")),
    make("p", {}, operation.description ?? ""),
    ...parametersOf(parameters),
    ...(body ? [make("p", {}, "Body: ", ...contentOf(body.content))] : []),
    table(["Answer", "Holds", ""], answers),
    tryOf(base, method, path, operation, parameters),
  );
}

function show(api, base) {
  const groups = new Map();
  for (const [path, item] of Object.entries(api.paths)) {
    for (const method of METHODS.filter((name) => item[name])) {
      const tag = item[method].tags?.[0] ?? "other";
      const made = operationOf(base, method, path, item[method], item.parameters ?? []);
      groups.set(tag, [...(groups.get(tag) ?? []), made]);
    }
  }
  const operations = document.getElementById("operations");
  operations.replaceChildren(...[...groups].map(([tag, made]) => make("section", {}, make("h3", {}, tag), ...made)));
  operations.ariaBusy = "false";
  const schemas = Object.entries(api.components?.schemas ?? {}).map(([name, schema]) =>
    make("details", { id: `schema-${name}` }, make("summary", {}, code(name)), make("p", {}, schema.description ?? ""), propertiesOf(schema)));
  document.getElementById("schemas").replaceChildren(...schemas);
}

function openLinked() {
  const linked = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (linked instanceof HTMLDetailsElement) linked.open = true;
}

async function start() {
  try {
    const response = await fetch("openapi.json");
    if (!response.ok) throw new Error(`openapi.json answered ${response.status}`);
    show(await response.json(), location.pathname.replace(/\/v1\/docs\/?$/, ""));
    openLinked();
    addEventListener("hashchange", openLinked);
  } catch (error) {
    document.getElementById("operations").textContent = String(error);
  }
}

start();
