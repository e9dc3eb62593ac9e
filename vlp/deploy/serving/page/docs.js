// The interface as openapi.json describes it, without scripts of another host.
function element(name, text, parent) {
  const made = document.createElement(name);
  made.textContent = text;
  parent.append(made);
  return made;
}

function kind(field) {
  if (field.enum) return field.enum.join(" | ");
  if (field.anyOf) return field.anyOf.map(kind).filter((name) => name !== "null").join(" | ");
  if (field.type === "array") return `list of ${kind(field.items ?? {})}`;
  return field.type ?? "any";
}

function fields(schema) {
  const required = new Set(schema.required ?? []);
  return Object.entries(schema.properties ?? {}).map(([name, field]) => {
    const about = [kind(field), required.has(name) ? "required" : "", field.description ?? ""].filter(Boolean);
    return `${name}: ${about.join("; ")}`;
  });
}

const api = await (await fetch("/openapi.json")).json();
const main = document.getElementById("routes");
main.replaceChildren();
element("p", api.info.description, main);
for (const [path, methods] of Object.entries(api.paths)) {
  for (const [method, route] of Object.entries(methods)) {
    const section = element("section", "", main);
    section.className = "card";
    element("h2", `${method.toUpperCase()} ${path}`, section);
    element("p", route.summary ?? "", section);
    const content = Object.entries(route.requestBody?.content ?? {});
    const lines = content.length ? fields(content[0][1].schema) : (route.parameters ?? []).map(({ name, schema }) => `${name}: ${kind(schema ?? {})}; ${schema?.description ?? ""}`);
    if (content.length) element("p", `Body: ${content.map(([type]) => type).join(" or ")}`, section).className = "quiet";
    const list = element("ul", "", section);
    for (const line of lines) element("li", line, list);
  }
}
